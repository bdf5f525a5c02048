package proxy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"net/netip"
)

// A RefusedError is the no of a Config.Login or of a Tunnel that knows how a
// program is to be told.
type RefusedError struct {
	Status int    // of the HTTP answer
	Advice string // what the user can do: a sentence
	Err    error
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// refusal puts it into the words of both protocols.
func (e *RefusedError) refusal() refusal {
	r := refusal{"proxy_internal_error", e.Status, replyFailure, e.Advice}
	if e.Status < http.StatusInternalServerError {
		r.kind, r.reply = "http_request_denied", replyNotAllowed
	}
	return r
}

var errWrongLogin = errors.New("wrong user or password")

// enter returns the tunnel of a program that shows a user and a password.
func (c Config) enter(ctx context.Context, from net.Addr, user, password string) (Tunnel, error) {
	if c.Login != nil {
		a, _ := netip.ParseAddrPort(from.String()) // of a unix socket: the zero address
		return c.Login(ctx, a.Addr().Unmap(), user, password)
	}
	if !c.allows(user, password) {
		return nil, errWrongLogin
	}
	return c.Tunnel, nil
}

// allows compares in constant time; hashing hides the lengths too.
func (c Config) allows(user, password string) bool {
	if !c.wantsPassword() {
		return true
	}
	got, want := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(c.User))
	ok := subtle.ConstantTimeCompare(got[:], want[:])
	got, want = sha256.Sum256([]byte(password)), sha256.Sum256([]byte(c.Password))
	return ok&subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// text is an address as net/http names it.
type text string

func (text) Network() string  { return "tcp" }
func (t text) String() string { return string(t) }

// tunnelKey is the context's key of the tunnel that an HTTP request goes by.
type tunnelKey struct{}

func withTunnel(ctx context.Context, t Tunnel) context.Context {
	return context.WithValue(ctx, tunnelKey{}, t)
}

func tunnelOf(ctx context.Context) Tunnel {
	t, _ := ctx.Value(tunnelKey{}).(Tunnel)
	return t
}

// login finds whose tunnel a request goes by, or answers it with what is wrong.
func (h *httpProxy) login(w http.ResponseWriter, r *http.Request) (Tunnel, bool) {
	user, password, shown := "", "", !h.gate.cfg.wantsPassword()
	if !shown {
		// The field has the form that BasicAuth reads from Authorization.
		basic := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		user, password, shown = basic.BasicAuth()
	}
	if shown {
		t, err := h.gate.cfg.enter(r.Context(), text(r.RemoteAddr), user, password)
		if err == nil {
			return t, true
		}
		if told, ok := errors.AsType[*RefusedError](err); ok {
			page(w, told.Status, told.Error()+".\n\n"+told.Advice)
			return nil, false
		}
	}
	w.Header().Set("Proxy-Authenticate", `Basic realm="x402"`)
	page(w, http.StatusProxyAuthRequired, h.gate.cfg.askForLogin())
	return nil, false
}

func (c Config) askForLogin() string {
	if c.Login != nil {
		return "This proxy wants a user and a password: those of the credit that was bought."
	}
	return "This proxy wants the user and the password that x402 connect was given."
}
