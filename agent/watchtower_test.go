package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/agent/watch"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
)

// A betrayal is a payer who takes his deposit back while the agent that he owes is
// off.
type betrayal struct {
	m        *market
	config   channel.Config
	withdraw func(step string, amount channel.Amount)
	wait     func()                               // as long as the withdraw delay
	has      func(channel.Address) channel.Amount // on its account
}

// ledger is what the ledger says of the channel.
func (b *betrayal) ledger(t *testing.T) x402.ChannelInfo {
	t.Helper()
	info, err := b.m.fac.Channel(t.Context(), b.m.params.Network(), b.m.params.Domain().ID(b.config))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// happens buys, kills the agent once what it earned is watched, and has the payer
// withdraw. It returns what was owed, all of which was claimed in time.
func (b *betrayal) happens(t *testing.T, front *front) {
	t.Helper()
	m := b.m
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	b.config = m.offer().Channel(m.wallet.Address())
	fetch(t, p.through(), web(t).URL+"/5000000", 5_000_000)
	p.stop(t)
	owed := p.result.Signed
	until(t, "all that is owed is watched", func() bool { return m.earnings(t).Watched == owed })
	snapshot := filepath.Join(m.dir, "killed")
	copyFiles(t, snapshot, m.cfg.StateDir) // what a power cut leaves
	front.set(down)
	m.agent.stop(t)
	info := b.ledger(t)
	if info.TotalClaimed != 0 {
		t.Fatal("claimed before there was need")
	}

	b.withdraw(x402.WithdrawInitiate, info.Balance)
	until(t, "the watchtower claims", func() bool { return b.ledger(t).TotalClaimed == owed })
	b.wait()
	before := b.has(m.wallet.Address())
	b.withdraw(x402.WithdrawFinalize, 0)
	if got := b.has(m.wallet.Address()); got <= before || got != wealth-owed {
		t.Errorf("the payer has %d, owed were %d of %d", got, owed, wealth)
	}

	m.cfg.StateDir = snapshot
	front.set(nil)
	m.startAgent()
	m.offer()
	control := seller.DialControl(m.cfg.ControlPath())
	for range 2 {
		if _, err := control.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if e := m.earnings(t); e.Claimed != owed || e.Owed != owed || e.Watched != 0 {
		t.Errorf("the agent's books say %+v, owed are %d", e, owed)
	}
	if got := b.ledger(t).TotalClaimed; got != owed {
		t.Errorf("claimed are %d of %d", got, owed)
	}
}

func (m *market) earnings(t *testing.T) (e seller.Earnings) {
	t.Helper()
	if err := seller.DialControl(m.cfg.ControlPath()).Get(t.Context(), "earnings", &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// copyFiles copies the files of a folder; its sockets stay behind.
func copyFiles(t *testing.T, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(from, name)
		switch {
		case err != nil:
			return err
		case rerr != nil:
			return rerr
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case !e.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// watchtower starts a relay that keeps claims, by a facilitator.
func watchtower(t *testing.T, facilitator string) *meeting {
	t.Helper()
	return startRelayOf(t, func(c *directory.Config) {
		c.Watch = watch.Config{Facilitators: []string{facilitator}, StateDir: t.TempDir(), Every: 100 * time.Millisecond}
	})
}

// TestWatchtower: a payer takes his deposit back while the agent is off, and a
// watchtower claims in time what the agent handed over: a relay, on a ledger of ours
// and on a chain, or the facilitator, which keeps claims on a chain. He gets only
// the rest, and the agent finds its books in order.
func TestWatchtower(t *testing.T) {
	t.Parallel()
	t.Run("relay", func(t *testing.T) {
		t.Parallel()
		m := newMarket(t)
		l := m.newLate()
		m.cfg.Relays = []relay.Name{watchtower(t, m.url).name}
		f := m.newFront()
		f.set(only("claim", 1_000_000, down)) // else it is claimed as soon as it is handed over
		b := &betrayal{m: m, has: m.balance, wait: func() { l.by.Store(2 * 24 * 60 * 60) }}
		b.withdraw = func(step string, amount channel.Amount) {
			t.Helper()
			w := x402.Withdraw{Step: step, Channel: m.params.Domain().ID(b.config), Amount: amount, Nonce: b.ledger(t).WithdrawNonce}
			if _, err := m.fac.Withdraw(t.Context(), w.Sign(m.wallet, m.params.Domain())); err != nil {
				t.Fatal(err)
			}
		}
		b.happens(t, f)
		if claimed := b.ledger(t).TotalClaimed; m.balance(m.payTo) != claimed-claimed/100_000 {
			t.Errorf("the receiver has %d of %d", m.balance(m.payTo), claimed)
		}
	})
	for name, by := range map[string]bool{"relay, on a chain": true, "facilitator, on a chain": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, chain, _ := onChain(t, 3_000_000_000)
			if by {
				m.cfg.Relays = []relay.Name{watchtower(t, m.url).name}
			}
			f := m.newFront()
			if by {
				f.set(only("claim", 1_000_000, down)) // the facilitator is handed nothing
			}
			chain.Fund(m.wallet.Address())
			b := &betrayal{m: m, has: chain.Balance, wait: func() { chain.Advance(25 * time.Hour) }}
			b.withdraw = func(step string, amount channel.Amount) {
				t.Helper()
				op := ledger.Op(ledger.InitiateWithdraw{Config: b.config, Amount: amount})
				if step == x402.WithdrawFinalize {
					op = ledger.FinalizeWithdraw{Config: b.config}
				}
				if r := chain.Send(m.wallet, evmtest.CallOf(t, op)); r.Status != 1 {
					t.Fatalf("%s was reverted", step)
				}
			}
			b.happens(t, f)
		})
	}
}
