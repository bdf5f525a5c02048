package agent_test

import (
	"log/slog"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/ledger/evm"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
)

// onChain returns a market whose facilitator settles on a chain, where the chain's
// coin costs so much.
func onChain(t *testing.T, coin channel.Amount) (*market, *evmtest.Chain, *evm.Home) {
	t.Helper()
	chain := evmtest.Simulated(t, evmtest.Config{})
	home := facilitatortest.OnChain(t, chain, func(c *evm.Config) {
		c.NativePrice, c.Logger = coin, slog.New(slog.NewTextHandler(testWriter{t}, nil))
	})
	m := newMarketOn(t, home, nil)
	chain.Mint(m.wallet.Address(), wealth)
	return m, chain, home
}

// TestSoldOnChain: bytes are sold for a token on a chain. What the agent earned is
// not worth its gas while nothing else happens: it is claimed with the refund when
// the buyer leaves, and settled when the facilitator's owner says so.
func TestSoldOnChain(t *testing.T) {
	t.Parallel()
	m, chain, home := onChain(t, 3_000_000_000)
	site := web(t)
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	p.stop(t)
	control := seller.DialControl(m.cfg.ControlPath())
	if r, err := control.Settle(t.Context()); err != nil || r.Claimed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if chain.Channel(p.id).Claimed != 0 {
		t.Error("a claim of a tenth of a cent was sent")
	}

	p = m.buy(nil)
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	p.cancel()
	<-p.done
	owed := p.result.Owed
	if p.err != nil || owed == 0 || p.result.Claimed != owed {
		t.Fatalf("%+v, %v", p.result, p.err)
	}
	ch := chain.Channel(p.id)
	if ch.Claimed != owed || ch.Balance != owed || chain.Balance(m.wallet.Address()) != wealth-owed {
		t.Errorf("owed are %s: channel has %s, claimed are %s, the buyer has %s of %d", owed, ch.Balance, ch.Claimed, chain.Balance(m.wallet.Address()), wealth)
	}
	if _, err := control.Settle(t.Context()); err != nil { // now the settlement waits
		t.Error(err)
	}
	if n := must(home.Flush(t.Context())); n != 1 {
		t.Errorf("%d operations wait", n)
	}
	until(t, "the agent is paid", func() bool { return chain.Balance(m.payTo) == owed })
}

// TestClaimedOnChain: what is worth its gas is claimed and settled at once.
func TestClaimedOnChain(t *testing.T) {
	t.Parallel()
	m, chain, _ := onChain(t, 1)
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), web(t).URL+"/300000", 300_000)
	p.stop(t)
	control := seller.DialControl(m.cfg.ControlPath())
	r, err := control.Settle(t.Context())
	if err != nil || r.Claimed == 0 || chain.Balance(m.payTo) != r.Claimed {
		t.Errorf("%+v, %v; paid are %s", r, err, chain.Balance(m.payTo))
	}
}
