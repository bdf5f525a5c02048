package market

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/tunnel/relay"
)

// play is a relay that answers as told, and its client.
func play(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	name, err := relay.ParseName(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	name.Pin, name.Pinned = sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo), true
	c := New(Config{Name: name})
	t.Cleanup(c.Close)
	if c.Name() != name {
		t.Errorf("name %s", c.Name())
	}
	return c
}

func TestOffers(t *testing.T) {
	var asked url.Values
	c := play(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		if r.Method != http.MethodGet || r.URL.Path != OffersPath {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		fmt.Fprint(w, `{"offers":[{"offer":{"a":1},"seen":7,"country":"DE","evidence":"claimed","network":{"as":64500,"name":"Net","country":"FR"},"reason":"other-country","later":1}],"next":"n","later":{}}`)
	})
	p, err := c.Offers(t.Context(), Query{Country: "DE", Carrier: "O₂ & co", Technology: "5g", MaxPrice: "0.80", Network: "eip155:1", Agent: "0x0", Evidence: "carrier", Limit: 9, Cursor: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Page{Offers: []Listing{{[]byte(`{"a":1}`), 7, "DE", "claimed", Network{64500, "Net", "FR"}, "other-country"}}, Next: "n"}, p); diff != "" {
		t.Error(diff)
	}
	want := url.Values{"country": {"DE"}, "carrier": {"O₂ & co"}, "tech": {"5g"}, "max-price": {"0.80"}, "network": {"eip155:1"}, "agent": {"0x0"}, "evidence": {"carrier"}, "limit": {"9"}, "cursor": {"c"}}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Offers(t.Context(), Query{}); err != nil || len(asked) != 0 {
		t.Errorf("asked %v, %v", asked, err)
	}
}

const session = `{"id":"0100000000000000","token":"0200000000000000000000000000000000000000000000000000000000000000","address":"192.0.2.1:7","expires":60}`

func TestSession(t *testing.T) {
	c := play(t, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1000)
		n, _ := r.Body.Read(b)
		if r.Method != http.MethodPost || r.URL.Path != SessionsPath ||
			string(b[:n]) != `{"agent":"0x0300000000000000000000000000000000000000","direct":true}` {
			t.Errorf("%s %s %s", r.Method, r.URL, b[:n])
		}
		fmt.Fprint(w, session)
	})
	a, err := c.Session(t.Context(), Request{Agent: relay.Address{3}, Direct: true})
	if err != nil || a.ID != (relay.SessionID{1}) || a.Token != (relay.Token{2}) || a.Address.String() != "192.0.2.1:7" || a.Expires != 60 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestBadAnswers: whatever a relay answers is bounded and an error.
func TestBadAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"no JSON":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "answer: invalid"},
		"nothing":     {func(http.ResponseWriter, *http.Request) {}, "answer: unexpected end"},
		"endless":     {func(w http.ResponseWriter, r *http.Request) { endless(w, r) }, "longer than"},
		"a long head": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "headers"},
		"goes away":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"a redirection": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
		}, "(302)"},
		"many offers": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"offers":[{}`+strings.Repeat(",{}", maxListed)+`]}`)
		}, "1001 offers"},
	} {
		c := play(t, tt.h)
		if _, err := c.Offers(t.Context(), Query{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for name, body := range map[string]string{
		"no token": strings.Replace(session, `"token"`, `"tok"`, 1),
		"nowhere":  strings.Replace(session, "192.0.2.1:7", "0.0.0.0:7", 1),
		"short id": strings.Replace(session, "0100000000000000", "01", 1),
		"long":     session + strings.Repeat(" ", maxSession),
	} {
		c := play(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		if a, err := c.Session(t.Context(), Request{}); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

func TestRefused(t *testing.T) {
	c := play(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "5")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `{"error":"full\u001b[2J%s"}`, strings.Repeat("x", 1000))
	})
	_, err := c.Session(t.Context(), Request{})
	e, ok := errors.AsType[*RefusedError](err)
	if !ok || e.Status != 503 || e.RetryAfter != 5*time.Second || e.Relay != c.Name().Address() || len(e.Text) > 2*maxText || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%+v", err)
	}
	c = play(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "plain", http.StatusNotFound) })
	_, err = c.Session(t.Context(), Request{})
	if e, ok = errors.AsType[*RefusedError](err); !ok || e.Text != "Not Found" || e.RetryAfter != 0 {
		t.Errorf("%+v", err)
	}
}

// TestUnreached: another key, nobody there, and one who says nothing.
func TestUnreached(t *testing.T) {
	c := play(t, func(http.ResponseWriter, *http.Request) { t.Error("asked a relay of another key") })
	other := c.Name()
	other.Pin[0] ^= 1
	thief := New(Config{Name: other})
	if _, err := thief.Offers(t.Context(), Query{}); !errors.Is(err, relay.ErrWrongKey) || strings.Contains(err.Error(), "https://") {
		t.Errorf("another key: %v", err)
	}
	refused := errors.New("refused")
	nobody := New(Config{Name: other, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused }})
	if _, err := nobody.Offers(t.Context(), Query{}); !errors.Is(err, refused) {
		t.Errorf("nobody: %v", err)
	}
	near, far := net.Pipe()
	defer far.Close()
	silent := New(Config{Name: other, Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil }})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := silent.Offers(ctx, Query{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent: %v", err)
	}
}
