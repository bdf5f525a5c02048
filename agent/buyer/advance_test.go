package buyer

import (
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// TestAdvance: an agent that gives no credit is paid in advance by a buyer whose
// flows wait, within what the buyer may have to trust it with.
func TestAdvance(t *testing.T) {
	price := agent.Price{Up: 4_000_000, Down: 4_000_000}
	const first = 525 // 128 KiB worth at this price
	with := func(change func(*purse)) purse {
		p := purse{
			tally: agent.Tally{Session: 2, Price: price, Base: 1_000}, signed: 1_000,
			balance: 1_000_000, most: 1_000_000, known: true,
		}
		change(&p)
		return p
	}
	for name, tt := range map[string]struct {
		purse   purse
		wanting bool
		want    channel.Amount
	}{
		"nobody waits":         {with(func(p *purse) {}), false, 0},
		"credit":               {with(func(p *purse) { p.credit = 1 }), true, 0},
		"as much as was paid":  {with(func(p *purse) {}), true, 2_000},
		"a stranger":           {with(func(p *purse) { p.tally.Base, p.signed = 0, 0 }), true, first},
		"the cap":              {with(func(p *purse) { p.tally.Base, p.signed = 400_000, 400_000 }), true, 450_000},
		"enough is paid ahead": {with(func(p *purse) { p.signed = 1_800 }), true, 0},
		"the budget":           {with(func(p *purse) { p.most = 1_500 }), true, 1_500},
		"the deposit":          {with(func(p *purse) { p.balance = 1_400 }), true, 1_400},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.purse.pay(false, tt.wanting)
			if name == "the budget" || name == "the deposit" {
				got, err = tt.purse.pay(true, tt.wanting)
			}
			if err != nil || got != tt.want {
				t.Errorf("pays %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}
