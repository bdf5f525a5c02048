package agent_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel"
)

// intrude opens a session on the wallet's own channel, whose present one the
// agent drops for it: to the buyer its connection is lost, which lost reports.
func (m *market) intrude(lost func() bool) {
	m.t.Helper()
	c := &cheat{t: m.t, m: m, key: m.wallet, offer: m.offer()}
	c.connect(nil)
	until(m.t, "the buyer has lost its connection", lost)
	c.conn.Close(tunnel.ReasonDone, "")
}

// TestLostWhileClosing: the connection is lost before the agent says what came
// of the closing. The buyer comes back and ends in order, without a withdrawal;
// what has been refunded in the meantime the ledger knows.
func TestLostWhileClosing(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"refunded":     func(http.ResponseWriter, *http.Request) bool { return false },
		"not refunded": broken,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t)
			f := m.newFront()
			site := web(t)
			var n notices
			p := m.buy(func(c *buyer.Config) { c.OnStatus = n.hear })
			fetch(t, p.through(), site.URL+"/300000", 300_000)
			held, release := make(chan struct{}), make(chan struct{})
			f.set(only("refund", 1, func(w http.ResponseWriter, r *http.Request) bool {
				close(held)
				<-release
				return then(w, r)
			}))
			p.cancel()
			<-held
			m.intrude(func() bool { return n.has("looking for the agent") }) // while the agent closes the channel
			close(release)
			<-p.done
			if p.err != nil || p.result.WithdrawAt != 0 {
				t.Errorf("ended with %v, a withdrawal at %d", p.err, p.result.WithdrawAt)
			}
			if r := p.result; r.Refunded != 250_000-r.Claimed {
				t.Errorf("claimed %d, refunded %d of 250,000", r.Claimed, r.Refunded)
			}
			m.settled(p)
		})
	}
}

// TestAgentStops in the middle of a download: it is finished and paid for before
// the buyer leaves, and the purchase goes on when the agent is back.
func TestAgentStops(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	more, end := make(chan struct{}), make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []chan struct{}{more, end} {
			io.CopyN(w, page(), 300_000)
			http.NewResponseController(w).Flush()
			select {
			case <-part:
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(site.Close)
	var n notices
	p := m.buy(func(c *buyer.Config) { c.OnStatus = n.hear })
	res, err := p.through().Get(site.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 300_000); err != nil {
		t.Fatal(err)
	}
	m.agent.cancel()
	until(t, "the buyer hears that the agent stops", func() bool { return n.has("the agent stops; finish and pay") })
	close(more)
	if _, err := io.CopyN(io.Discard, res.Body, 300_000); err != nil {
		t.Fatal(err)
	}
	until(t, "the rest is paid", func() bool { s := n.status(); return s.Owed > 2_400 && s.Accepted == s.Owed })
	if s := n.status(); s.State != "connected" {
		t.Errorf("it has left: %+v", s)
	}
	close(end)
	if got, err := io.Copy(io.Discard, res.Body); got != 0 || err != nil {
		t.Errorf("%d bytes more: %v", got, err)
	}
	m.agent.stop(t)
	until(t, "the buyer has left", func() bool { return n.status().State == "reconnecting" })
	m.startAgent()
	m.offer()
	var all seller.Earnings
	if err := seller.DialControl(m.cfg.ControlPath()).Get(t.Context(), "earnings", &all); err != nil {
		t.Fatal(err)
	}
	if e := all.Channels[0]; e.Owed < 2_400 || e.Paid != e.Owed {
		t.Errorf("the agent was owed %d and paid %d", e.Owed, e.Paid)
	}
	fetch(t, p.through(), web(t).URL+"/100000", 100_000)
	p.stop(t)
	m.settled(p)
}

// TestTopUpOverReconnect: a deposit that hangs does not keep the buyer from
// another session.
func TestTopUpOverReconnect(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, nil)
	f := m.newFront()
	site := web(t)
	var n notices
	p := m.buy(func(c *buyer.Config) { c.Deposit, c.OnStatus = 100_000, n.hear })
	fetch(t, p.through(), site.URL+"/1000", 1_000)
	held, release := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(held) })
	f.set(only("deposit", 100, func(http.ResponseWriter, *http.Request) bool {
		hold()
		<-release
		return false
	}))
	fetch(t, p.through(), site.URL+"/14000000", 14_000_000) // 56,000 of 100,000
	<-held
	until(t, "the session is open", func() bool { return n.status().State == "connected" })
	before := n.status().Session
	m.intrude(func() bool { return n.status().State != "connected" })
	until(t, "another session is open", func() bool { s := n.status(); return s.State == "connected" && s.Session > before })
	fetch(t, p.through(), site.URL+"/1000", 1_000)
	close(release)
	until(t, "the deposit is there", func() bool { return n.status().Balance == 200_000 })
	p.stop(t)
	m.settledBut(p, 60_000) // who was cut off pays in advance
}

// A stuck facilitator tells the buyer nothing about channels until it is
// released.
type stuck struct {
	buyer.Facilitator
	asked, release chan struct{}
}

func (s *stuck) Channel(ctx context.Context, network string, id channel.ID) (x402.ChannelInfo, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	select {
	case <-s.release:
		return s.Facilitator.Channel(ctx, network, id)
	case <-ctx.Done():
		return x402.ChannelInfo{}, facilitator.ErrUnavailable
	}
}

// TestKeptDepositIsUsedAtOnce: one who has a deposit from before does not wait
// for the ledger to say so.
func TestKeptDepositIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), site.URL+"/1000", 1_000)
	p.stop(t)
	s := &stuck{Facilitator: m.fac, asked: make(chan struct{}, 1), release: make(chan struct{})}
	p = m.buy(func(c *buyer.Config) { c.Facilitator = s })
	<-s.asked
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	close(s.release)
	p.stop(t)
	m.settled(p)
}

// TestKeptDepositIsBeingTakenBack: the purchase ends when the ledger says so.
func TestKeptDepositIsBeingTakenBack(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), web(t).URL+"/1000", 1_000)
	p.stop(t)
	w := x402.Withdraw{Network: m.params.Network(), Step: x402.WithdrawInitiate, Channel: p.id, Amount: 200_000}
	if _, err := m.fac.Withdraw(t.Context(), w.Sign(m.wallet, must(m.offer().Payment.Domain()))); err != nil {
		t.Fatal(err)
	}
	p = m.buy(nil)
	<-p.done
	if p.err == nil || !strings.Contains(p.err.Error(), "finish it with x402 wallet withdraw") {
		t.Errorf("ended with %v", p.err)
	}
}
