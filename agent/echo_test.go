package agent_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/modem/modemtest"
)

// TestRotateByEcho: an agent without relays proves a rotation by an echo, in
// whatever form that answers, and leaves the address alone without one.
func TestRotateByEcho(t *testing.T) {
	t.Parallel()
	var address, asked atomic.Int64
	var form atomic.Pointer[string]
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		f := *form.Load()
		if f == "" {
			http.Error(w, "203.0.113.99 is not served", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, strings.ReplaceAll(f, "ADDRESS", fmt.Sprintf("203.0.113.%d", address.Load())))
	}))
	t.Cleanup(echo.Close)
	m, _ := withModem(t, modemtest.Config{Sticky: 300 * time.Millisecond, Leased: func() { address.Add(1) }}, func(c *seller.Config) {
		c.Rotate = seller.RotatePolicy{Echo: echo.URL, Tries: 1}
	})
	control := seller.DialControl(m.cfg.ControlPath())
	until(t, "for the SIM", func() bool {
		st, err := tell[seller.Status](t, control, "status")
		return err == nil && st.Refusing == ""
	})
	for _, f := range []string{"ADDRESS", `{"address":"ADDRESS"}` + "\n", `<p>You are at ADDRESS.</p>`} {
		form.Store(&f)
		before := asked.Load()
		r, err := control.Rotate(t.Context(), 300*time.Millisecond)
		if err != nil || !r.Changed || r.Error != "" || r.New != r.Old.Next() || r.Tries != 1 {
			t.Errorf("%q: %+v %v", f, r, err)
		}
		if n := asked.Load() - before; n > 3 {
			t.Errorf("%q: asked %d times", f, n)
		}
	}
	// The carrier gives the same one again.
	r, err := control.Rotate(t.Context(), time.Millisecond)
	if err != nil || r.Changed || r.Old != r.New || !strings.Contains(r.Error, "the same address again") {
		t.Errorf("%+v %v", r, err)
	}
	// Nobody says where it is: the modem is left alone.
	at := address.Load()
	for f, want := range map[string]string{"": "rotate.echo: status 503", "no idea: 1.2.3": "rotate.echo: there is no address in its answer"} {
		form.Store(&f)
		if r, err := control.Rotate(t.Context(), 0); err != nil || r.Tries != 0 || r.Error != want {
			t.Errorf("%q: %+v %v", f, r, err)
		}
	}
	if address.Load() != at {
		t.Error("the address was given up blindly")
	}
}
