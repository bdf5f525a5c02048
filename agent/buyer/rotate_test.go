package buyer

import (
	"errors"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// TestRotatedPrice: what the agent says it came to is owed as far as it was agreed
// to, once; more than that ends the purchase.
func TestRotatedPrice(t *testing.T) {
	tests := map[string]struct {
		pending channel.Amount
		r       agent.Rotated
		base    channel.Amount // afterwards; it was 100
		bad     bool
	}{
		"changed":       {20, agent.Rotated{Changed: true, Price: 20}, 120, false},
		"for less":      {20, agent.Rotated{Changed: true, Price: 5}, 105, false},
		"in vain":       {20, agent.Rotated{Error: "the same"}, 100, false},
		"for more":      {20, agent.Rotated{Changed: true, Price: 21}, 100, true},
		"not asked for": {0, agent.Rotated{Changed: true, Price: 1}, 100, true},
		"by the owner":  {0, agent.Rotated{Changed: true}, 100, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			x := &session{b: newDepositor(t, new(shelf), &bank{}), meter: meter.New(meter.Config{})}
			x.purse = purse{known: true, tally: agent.Tally{Session: 1, Base: 100}, pending: tt.pending}
			if m := x.purse.memory(false); m.tally.Base != 100+tt.pending {
				t.Errorf("before the answer the disk has %d", m.tally.Base)
			}
			err := x.rotatedNow(tt.r)
			if tt.bad != overcounts(err) || !tt.bad && err != nil {
				t.Errorf("%v", err)
			}
			if x.purse.tally.Base != tt.base || !tt.bad && x.purse.pending != 0 {
				t.Errorf("%+v", x.purse)
			}
			again := tt.r
			if tt.r.Price > 0 && !tt.bad && !overcounts(x.rotatedNow(again)) {
				t.Error("charged twice")
			}
		})
	}
}

// TestPendingIsPaid: what was asked for is paid in advance, within the budget.
func TestPendingIsPaid(t *testing.T) {
	p := purse{known: true, tally: agent.Tally{Base: 100}, pending: 20, most: 1_000, balance: 1_000}
	if got, err := p.pay(true, false); got != 120 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	p.most = 110
	if got, err := p.pay(true, false); got != 110 || err != nil {
		t.Errorf("over the budget: %d, %v", got, err)
	}
}

func overcounts(err error) bool {
	over, ok := errors.AsType[*overError](err)
	return ok && errors.Is(over.err, errOvercount)
}
