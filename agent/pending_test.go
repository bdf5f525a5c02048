package agent_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel/x402"
)

// waits answers a claim as a facilitator does that waits until it is worth its
// gas.
func waits(w http.ResponseWriter, _ *http.Request) bool {
	_, _ = io.WriteString(w, `{"success":false,"errorReason":"`+x402.ErrPending+`","transaction":"","network":"eip155:5"}`)
	return true
}

// TestClaimKept: a claim that the facilitator keeps is no failure, and when the
// buyer wants his deposit back it goes along with the refund.
func TestClaimKept(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	f := m.newFront()
	f.set(only("claim", 100, waits))
	site := web(t)
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	p.stop(t)
	control := seller.DialControl(m.cfg.ControlPath())
	if r, err := control.Settle(t.Context()); err != nil || r.Claimed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if f.hit() == 0 {
		t.Fatal("nothing was claimed")
	}
	p = m.buy(func(c *buyer.Config) { c.CloseOnly = true })
	<-p.done
	m.settled(p)
}
