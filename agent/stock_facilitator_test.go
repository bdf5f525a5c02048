package agent_test

import (
	"errors"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/interop/peertest"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/x402"
)

// TestStockFacilitator: an agent is paid through the facilitator of the packages on
// npm, which has /verify and /settle and nothing else. The buyer's is ours, on the
// same chain: it is no one's affair which.
func TestStockFacilitator(t *testing.T) {
	t.Parallel()
	p := peertest.Start(t)
	chain := evmtest.Anvil(t, evmtest.Config{})
	url := p.Facilitate(t, chain)
	m := newMarketOn(t, facilitatortest.OnChain(t, chain, nil), func(c *seller.Config) { c.Payment.Facilitator = url })
	chain.Mint(m.wallet.Address(), wealth)
	ours := func(c *buyer.Config) { c.Facilitator = m.fac }
	stockDeposit(t, m, url)

	site := web(t)
	b := m.buy(func(c *buyer.Config) { ours(c); c.Keep = true })
	fetch(t, b.through(), site.URL+"/300000", 300_000)
	b.stop(t)
	control := seller.DialControl(m.cfg.ControlPath())
	r, err := control.Settle(t.Context())
	if err != nil || r.Claimed == 0 || chain.Channel(b.id).Claimed != r.Claimed || chain.Balance(m.payTo) != r.Claimed {
		t.Errorf("%+v, %v; paid are %s", r, err, chain.Balance(m.payTo))
	}

	// Again on the channel that all is claimed of, and to the end: a claim, and the
	// refund of what is left.
	b = m.buy(ours)
	fetch(t, b.through(), site.URL+"/300000", 300_000)
	b.cancel()
	<-b.done
	owed := b.result.Owed
	if b.err != nil || owed <= r.Claimed || b.result.Claimed != owed {
		t.Fatalf("%+v, %v", b.result, b.err)
	}
	if ch := chain.Channel(b.id); ch.Claimed != owed || ch.Balance != owed || chain.Balance(m.wallet.Address()) != wealth-owed {
		t.Errorf("owed are %s: the channel has %+v, the buyer %s of %d", owed, ch, chain.Balance(m.wallet.Address()), wealth)
	}
	if _, err := control.Settle(t.Context()); err != nil || chain.Balance(m.payTo) != owed {
		t.Errorf("%v; paid are %s", err, chain.Balance(m.payTo))
	}
}

// stockDeposit opens the channel of a market's wallet through their facilitator. It
// takes no voucher that pays nothing, which ours come with and the specification
// allows.
func stockDeposit(t *testing.T, m *market, url string) {
	t.Helper()
	stock := must(nethttp.New(nethttp.Config{URL: url}))
	offer := m.offer()
	d := x402.DepositRequest{
		Domain: m.params.Domain(), Token: m.params.Asset(), Config: offer.Channel(m.wallet.Address()), Amount: 300_000,
		ValidBefore: 1 << 40, Salt: channel.Hash{1},
	}
	for _, top := range []channel.Amount{0, 1} {
		d.Voucher = d.Domain.SignVoucher(m.wallet, d.Domain.ID(d.Config), top)
		_, err := stock.Deposit(t.Context(), m.params.Network(), d.Token, d.Sign(m.wallet))
		if top > 0 {
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		if refused, ok := errors.AsType[*facilitator.RefusedError](err); !ok || refused.Code != x402.ErrBelowClaimed {
			t.Errorf("a deposit whose voucher pays nothing: %v", err)
		}
	}
}
