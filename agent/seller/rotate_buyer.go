package seller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// A buyer asks for another address by a capsule, after a voucher for its price.
// The price is part of the session's base once the change was proven, and not
// before: a rotation in vain costs nothing, and what was paid for it is credit.

// rotateBetween is the least time between two rotations that are not the owner's,
// unless he says another.
const rotateBetween = 10 * time.Minute

func (s *Seller) rotateBetween() time.Duration {
	return cmp.Or(s.cfg.Rotate.Between, rotateBetween)
}

// claimRotation takes the one that others than the owner may have now, or says
// why there is none.
func (s *Seller) claimRotation(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.rotateFrom.Sub(now); left > 0 {
		return fmt.Errorf("the address was asked for a moment ago: again in %v", left.Round(time.Second))
	}
	s.rotateFrom = now.Add(s.rotateBetween())
	return nil
}

// rotateFor begins a rotation that the buyer asked for; run takes what comes of
// it from x.rotated.
func (x *session) rotateFor(ctx context.Context, wg *sync.WaitGroup, b []byte) error {
	r, err := agent.ParseRotateRequest(b)
	if err != nil {
		return x.protocol(err)
	}
	price, err := x.admitRotation(r.Price)
	if err != nil {
		return x.sayRotated(agent.Rotated{Error: err.Error()})
	}
	x.rotating = true
	wg.Go(func() {
		x.rotated <- rotatedFor{x.s.rotateNow(ctx, 0, "buyer"), price}
	})
	return nil
}

// rotatedFor is a rotation and its price.
type rotatedFor struct {
	Rotation
	price channel.Amount
}

// admitRotation says what a rotation costs, or why there is none.
func (x *session) admitRotation(most channel.Amount) (channel.Amount, error) {
	price := x.s.cfg.Rotate.Price
	switch {
	case price == nil || x.prepaid:
		return 0, fmt.Errorf("this agent changes its address for its owner only")
	case x.rotating:
		return 0, fmt.Errorf("the address is changing already")
	case *price > most:
		return 0, fmt.Errorf("another address costs %s USD", price.USD())
	}
	x.account.update(x.meter.Reading())
	owed, err := x.account.tally.Owed()
	if err != nil {
		return 0, err
	}
	if due := owed.Plus(*price); due > x.account.paid.Plus(x.account.credit()) || due > x.account.balance {
		return 0, fmt.Errorf("another address costs %s USD, which is to be paid first: by a voucher for %s USD", price.USD(), due.USD())
	}
	return *price, x.s.claimRotation(time.Now())
}

// endRotation charges for a rotation that changed the address, and tells. What is
// owed for it is on disk before the buyer hears of it.
func (x *session) endRotation(r rotatedFor) error {
	x.rotating = false
	said := agent.Rotated{Changed: r.Changed, Old: r.Old, New: r.New, Error: r.Error}
	if r.Changed && r.price > 0 {
		base, err := x.account.tally.Base.Add(r.price)
		if err != nil {
			return x.protocol(err)
		}
		x.account.update(x.meter.Reading())
		x.account.tally.Base = base
		note, err := x.note()
		if err == nil {
			_, err = x.s.payee.Note(x.id, note)
		}
		if err != nil {
			x.account.tally.Base -= r.price
			x.log.Error("store the price of a rotation; it is not charged", "err", err)
			r.price = 0
		}
		said.Price = r.price
	}
	return x.sayRotated(said)
}

func (x *session) sayRotated(r agent.Rotated) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return x.ctl.Send(agent.CapsuleRotated, b)
}
