package gateway_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// TestRestart: credit and sessions' exits are there after a restart, and so are
// the deposits with agents.
func TestRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c := r.give(nil)
	if out, complaint, code := r.curl(c.Proxies[0], r.page("1000000")); len(out) != 1_000_000 || code != 0 {
		t.Fatalf("%d bytes: %s", len(out), complaint)
	}
	before, _ := r.api(http.MethodGet, c, "")
	has := r.balance(r.wallet)
	r.restart()
	after, status := r.api(http.MethodGet, c, "")
	if status != 200 || after.Up != before.Up || after.Down != before.Down || after.Left != before.Left {
		t.Errorf("%d %+v, before %+v", status, after, before)
	}
	r.until("for the agent to come back", func() bool { return r.offers(false) == 1 })
	if out, complaint, code := r.curl(c.Proxies[0], r.page("1000000")); len(out) != 1_000_000 || code != 0 {
		t.Fatalf("%d bytes: %s", len(out), complaint)
	}
	if now := r.balance(r.wallet); now != has {
		t.Errorf("another deposit was made: the wallet had %d and has %d", has, now)
	}
}

// TestExpiry gives back what has expired.
func TestExpiry(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gateway.Config) { c.Life = time.Second })
	r.sell("one", "", agentPrice)
	s := r.shopper(x402.SchemeExact)
	before := r.balance(r.buyer)
	c, status := s.buy(`{"bytes":100000000}`, nil)
	if status != 200 || before-r.balance(r.buyer) != c.Paid {
		t.Fatalf("%d %+v", status, c)
	}
	r.until("for the credit to expire", func() bool {
		out, _, _ := r.curl(c.Proxies[0], "-w", "%{http_code}", "-o", "/dev/null", r.page("10"))
		return out == "403"
	})
	if _, status := s.buy(`{"bytes":100000000}`, &c); status != 403 {
		t.Errorf("more of what has expired: %d", status)
	}
	used, _ := r.api(http.MethodGet, c, "")
	r.restart() // which looks at once
	r.until("for the rest to come back", func() bool {
		now, _ := r.api(http.MethodGet, c, "")
		return now.Closed && now.Refunded == used.Left
	})
	if has := r.balance(r.buyer); has != before-c.Paid+used.Left {
		t.Errorf("the buyer has %d, of %d before he paid %d and used all but %d", has, before, c.Paid, used.Left)
	}
}

// TestRefundFaults: a facilitator that does not answer delays a refund, and a
// lost answer doubles none.
func TestRefundFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]int32{"down": down, "mute": mute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.sell("one", "", agentPrice)
			s := r.shopper(x402.SchemeExact)
			c, _ := s.buy(`{"bytes":100000000}`, nil)
			before := r.balance(r.buyer)
			r.fault.Store(fault)
			got, status := r.api(http.MethodDelete, c, "")
			if status != 202 || got.Refunding != c.Paid || got.Left != 0 || got.Refunded != 0 || !got.Closed {
				t.Errorf("%d %+v", status, got)
			}
			if again, status := r.api(http.MethodDelete, c, ""); status != 202 || again.Refunding != c.Paid {
				t.Errorf("asked again: %d %+v", status, again)
			}
			r.fault.Store(0)
			r.restart()
			r.until("for the refund", func() bool {
				now, _ := r.api(http.MethodGet, c, "")
				return now.Refunded == c.Paid && now.Refunding == 0
			})
			if back := r.balance(r.buyer) - before; back != c.Paid {
				t.Errorf("%d units came back, want %d", back, c.Paid)
			}
		})
	}
}

// TestUnpaid: a sale whose payment is no good leaves nothing, and one whose payment
// fails no credit, but a line for the operator.
func TestUnpaid(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	list := func() []gateway.Credit {
		return must(gateway.NewOperator(r.cfg.Gateway.Gateway.StateDir).List(t.Context()))
	}
	buyer := r.buyer
	r.buyer = must(channel.GenerateKey()) // who has nothing
	if c, status := r.shopper(x402.SchemeExact).buy(`{"bytes":100000000}`, nil); status != 402 || c.User != "" || len(list()) != 0 {
		t.Errorf("%d %+v, %+v", status, c, list())
	}
	r.buyer = buyer
	r.fault.Store(noSettle)
	if c, status := r.shopper(x402.SchemeExact).buy(`{"bytes":100000000}`, nil); status != 503 || c.User != "" {
		t.Errorf("%d %+v", status, c)
	}
	if l := list(); len(l) != 1 || !l[0].Pending || l[0].Payer != buyer.Address().String() {
		t.Errorf("%+v", l)
	}
	r.fault.Store(0)
	r.restart() // pays nothing back that was not paid
	if has := r.balance(buyer); has != wealth {
		t.Errorf("the buyer has %d", has)
	}
}

// TestIdle closes an exit that nobody uses: its deposit comes back but for what
// the agent earned, and it is opened again when it is needed.
func TestIdle(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gateway.Config) { c.Idle = 500 * time.Millisecond })
	r.sell("one", "", agentPrice)
	c := r.give(nil)
	for round := range 2 {
		if out, complaint, code := r.curl(c.Proxies[0], r.page("1000000")); len(out) != 1_000_000 || code != 0 {
			t.Fatalf("round %d: %d bytes: %s", round, len(out), complaint)
		}
		var owed channel.Amount
		r.until("for the deposit", func() bool {
			used, _ := r.api(http.MethodGet, c, "")
			owed = channel.Amount((used.Up+used.Down)*agentPrice/1_000_000_000 + 1)
			return r.balance(r.wallet) > wealth-owed-2
		})
		if now := r.balance(r.wallet); now > wealth-owed+2 {
			t.Errorf("round %d: the wallet has %d, and owed are %d", round, now, owed)
		}
	}
}
