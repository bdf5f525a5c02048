package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestRefusalTravels(t *testing.T) {
	for _, text := range []string{"dial tcp: refused", "a; b; error=c", `quoted "text" and \`, "bücher\x1b[2J", strings.Repeat("x", 300), ""} {
		got := refusal(502, Fields{"proxy-status": {proxyStatus("dns_error", text)}})
		if got.Status != 502 || got.Kind != "dns_error" || got.ErrorKind() != got.Kind {
			t.Errorf("%q: %+v", text, got)
		}
		if want := printable(text); got.Text != want || len(want) > maxRefusalText {
			t.Errorf("%q: %q, want %q", text, got.Text, want)
		}
	}
	for field, want := range map[string]RefusedError{
		"":                          {Status: 502},
		"proxy; error=x":            {Status: 502, Kind: "x"},
		`p; details="a;b"; error=x`: {Status: 502, Kind: "x", Text: "a;b"},
		`p; details="never ends`:    {Status: 502, Text: "never ends"},
	} {
		if got := refusal(502, Fields{"proxy-status": {field}}); *got != want {
			t.Errorf("%q: %+v, want %+v", field, *got, want)
		}
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add(proxyStatus("dns_error", "no such host"))
	f.Add(`;;";";`)
	f.Fuzz(func(t *testing.T, s string) {
		e := refusal(502, Fields{"proxy-status": {s}})
		for _, text := range []string{e.Kind, e.Text, e.Error()} {
			if len(text) > maxRefusalText+100 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q", text)
			}
		}
	})
}

func TestRefusedErrorText(t *testing.T) {
	for want, e := range map[string]RefusedError{
		"agent refused: why (403)":             {Status: 403, Kind: "kind", Text: "why"},
		"agent refused: dns_error (502)":       {Status: 502, Kind: "dns_error"},
		"agent refused: 429 Too Many Requests": {Status: 429},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

type forbidden struct{}

func (forbidden) Error() string   { return "policy" }
func (forbidden) Blocked() string { return "10.0.0.1 is private" }

// A refusingCall keeps how it was refused.
type refusingCall struct {
	status int
	fields Fields
}

func (c *refusingCall) Accept(Fields) (Stream, error) { return nil, errors.New("not accepted") }
func (c *refusingCall) Refuse(status int, fields Fields, _ string) error {
	c.status, c.fields = status, fields
	return nil
}

func TestRefuseDial(t *testing.T) {
	s := &Session{cfg: Config{}.withDefaults()}
	for _, row := range []struct {
		err    error
		status int
		kind   string
	}{
		{fmt.Errorf("dial: %w", forbidden{}), 403, "destination_ip_prohibited"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, 502, "connection_refused"},
		{syscall.EHOSTUNREACH, 502, "destination_ip_unroutable"},
		{syscall.ENETUNREACH, 502, "destination_ip_unroutable"},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, 502, "dns_error"},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, 502, "destination_unavailable"},
		{context.DeadlineExceeded, 504, "connection_timeout"},
		{syscall.ETIMEDOUT, 504, "connection_timeout"},
		{errors.New("else"), 502, "destination_unavailable"},
	} {
		var c refusingCall
		s.refuseDial(&c, row.err)
		got := refusal(c.status, c.fields)
		if got.Status != row.status || got.Kind != row.kind {
			t.Errorf("%v: %+v, want %d %s", row.err, got, row.status, row.kind)
		}
	}
}

func TestCloseError(t *testing.T) {
	for want, e := range map[string]*CloseError{
		"closed: done":                         {Reason: ReasonDone},
		"closed by peer: unpaid: nothing came": {Reason: ReasonUnpaid, Text: "nothing came", Remote: true},
		"connection lost: timeout":             {Err: errors.New("timeout")},
		"closed by peer: reason 0x999":         {Reason: 0x999, Remote: true},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if !errors.Is(e, net.ErrClosed) || errors.Unwrap(e) != e.Err {
			t.Errorf("%v is not closed", e)
		}
	}
}
