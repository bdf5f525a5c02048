package agent

import (
	"fmt"
	"math/bits"

	"github.com/depinsim/x402/channel"
)

// A CreditPolicy says how much may be owed on trust.
type CreditPolicy struct {
	// Cap bounds one channel's credit. Default 50,000 (0.05 USD).
	Cap channel.Amount
	// LossPercent is how much of what was sent and not counted by the buyer is
	// forgiven, in percent of what was billed. Default 10.
	LossPercent uint64
}

const (
	// firstBytes and firstAmount are what a stranger is trusted with: the
	// larger of the two.
	firstBytes  = 128 << 10
	firstAmount = 100
)

// WithDefaults fills zero fields.
func (c CreditPolicy) WithDefaults() CreditPolicy {
	if c.Cap == 0 {
		c.Cap = 50_000
	}
	if c.LossPercent == 0 {
		c.LossPercent = 10
	}
	return c
}

// leastBytes is what any credit must be worth: the largest packets of a few
// flows.
const leastBytes = 64 << 10

// Check refuses a cap that is worth less than a few packets at price p: nothing
// could be sold on it.
func (c CreditPolicy) Check(p Price) error {
	if least := worth(p, leastBytes); max(c.Cap, firstAmount) < least {
		return fmt.Errorf("credit cap of %s USD is too small for the price: want at least %s, the price of %d bytes", c.Cap.USD(), least.USD(), leastBytes)
	}
	return nil
}

// Credit is how much may be owed by one who has paid so far and takes rate
// bytes a second: what a stranger may, growing with what was paid, up to two
// seconds of the rate, which is more than two round trips of any usable path.
func (c CreditPolicy) Credit(p Price, paid channel.Amount, rate uint64) channel.Amount {
	first := max(worth(p, firstBytes), firstAmount)
	grown := min(paid, worth(p, 2*min(rate, 1<<62)))
	return min(max(first, grown), max(c.Cap, firstAmount))
}

// MostCredit is what one side may at most be trusted with at a price by one who
// has signed so much, whatever he takes.
func MostCredit(p Price, signed channel.Amount) channel.Amount {
	return CreditPolicy{}.WithDefaults().Credit(p, signed, ^uint64(0))
}

// Trust is what is left of a credit at a price beside held bytes, which count
// against it: 0, at which a buyer is served what he pays for in advance, if that
// is worth too little. It would hold flows up for good, unsaid.
func (p Price) Trust(credit channel.Amount, held uint64) channel.Amount {
	price, err := p.cost(0, held)
	if err != nil || price > credit || credit-price < worth(p, leastBytes) {
		return 0
	}
	return credit - price
}

// Overdrawn says whether even what a buyer pays in advance to one who gives no
// credit (docs/PROTOCOL.md, section 5) leaves nothing of use beside held bytes,
// which count against the session.
func (t Tally) Overdrawn(credit, paid channel.Amount, held uint64) (bool, error) {
	owed, err := t.Owed()
	if err != nil {
		return false, err
	}
	price, err := t.Price.cost(0, held)
	if err != nil {
		return false, err
	}
	most := max(paid, owed.Plus(MostCredit(t.Price, owed))).Plus(credit)
	return t.Base.Plus(price).Plus(worth(t.Price, leastBytes)) > most, nil
}

// worth is the cost of n bytes in the dearer direction; too much is capped by
// the caller.
func worth(p Price, n uint64) channel.Amount {
	cost, err := Price{Up: p.Max()}.cost(n, 0)
	if err != nil {
		return channel.Amount(^uint64(0))
	}
	return cost
}

// Forgiven is how many of the gap bytes, sent and never counted by the buyer,
// are held against nobody when billed bytes were counted.
func (c CreditPolicy) Forgiven(gap, billed uint64) uint64 {
	hi, lo := bits.Mul64(billed, c.LossPercent)
	if hi >= 100 {
		return gap
	}
	q, _ := bits.Div64(hi, lo, 100)
	return min(gap, q)
}
