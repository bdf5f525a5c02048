package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem/modemtest"
)

// TestOrderedRotation: who runs a purchase orders another address over its
// socket. It is charged once and only when it came, within the budget, and the
// session goes on.
func TestOrderedRotation(t *testing.T) {
	t.Parallel()
	var address atomic.Int64
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "203.0.113.%d", address.Load())
	}))
	t.Cleanup(echo.Close)
	price := channel.Amount(20_000)
	m, _ := withModem(t, modemtest.Config{Leased: func() { address.Add(1) }}, func(c *seller.Config) {
		c.Rotate = seller.RotatePolicy{Echo: echo.URL, Tries: 1, Hold: time.Millisecond, Price: &price, Between: time.Millisecond}
	})
	control := seller.DialControl(m.cfg.ControlPath())
	until(t, "for the SIM", func() bool {
		st, err := tell[seller.Status](t, control, "status")
		return err == nil && st.Refusing == ""
	})
	path := filepath.Join(m.dir, "buyer.sock")
	ln := must(agent.ListenPrivate(path))
	orders := make(chan buyer.RotationOrder)
	served := start(func(ctx context.Context) error { return buyer.ServeControl(ctx, ln, orders, nil) })
	t.Cleanup(func() { served.stop(t) })
	p := m.buy(func(c *buyer.Config) { c.Rotations, c.Budget = orders, 50_000 })
	site := web(t)
	fetch(t, p.through(), site.URL+"/1000", 1000)
	order := func(most *channel.Amount) buyer.RotationReport {
		t.Helper()
		r, err := buyer.OrderRotation(t.Context(), path, most)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	owed := func() channel.Amount {
		x, _ := m.session(p.id)
		return x.Owed
	}
	if r := order(nil); r.Error != "" || r.Asks == nil || *r.Asks != price || r.Changed {
		t.Errorf("what it costs: %+v", r)
	}
	less := price - 1
	if r := order(&less); r.Changed || !strings.Contains(r.Error, "asks 0.02 USD for another address, at most 0.019999 are") {
		t.Errorf("for less: %+v", r)
	}
	var before seller.SessionStatus
	until(t, "for the session", func() bool { before, _ = m.session(p.id); return before.Session != 0 })
	first := owed()
	for range 2 {
		if r := order(&price); !r.Changed || r.Price != price || r.New != r.Old.Next() || r.Error != "" {
			t.Errorf("%+v", r)
		}
	}
	until(t, "for both to be owed", func() bool { return owed() >= first+2*price })
	if r := order(&price); r.Changed || !strings.Contains(r.Error, "the budget has less than 0.02 USD left") {
		t.Errorf("over the budget: %+v", r)
	}
	if x, _ := m.session(p.id); x.Session != before.Session || x.Owed > first+2*price+1000 {
		t.Errorf("%+v", x)
	}
	p.cancel()
	m.settled(p)
	if _, err := buyer.OrderRotation(t.Context(), path+"x", nil); err == nil || !strings.Contains(err.Error(), buyer.ErrNotRunning.Error()) {
		t.Error(err)
	}
}
