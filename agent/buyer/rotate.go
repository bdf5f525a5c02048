package buyer

import (
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
)

// Another address is asked for by a capsule, behind a voucher that covers its
// price. It is owed when the agent says that the address changed; what was paid
// for one that did not is credit for traffic. Until the answer has come the price
// may be owed, and is on disk as such.

const (
	rotateAnswer = 10 * time.Minute // after it the agent is asked again
	rotateAgain  = time.Minute      // after a refusal
)

// rotateIfDue asks for another address when it is time.
func (x *session) rotateIfDue(now time.Time) error {
	b := x.b
	if b.cfg.RotateEvery == 0 || !x.purse.known || !x.leaveBy.IsZero() || now.Before(b.rotateAt) {
		return nil
	}
	price := x.rotate
	if b.rotateAt.IsZero() { // the first is not at once
		b.rotateAt = now.Add(b.cfg.RotateEvery)
		return nil
	}
	b.rotateAt = now.Add(max(b.cfg.RotateEvery, rotateAgain))
	switch {
	case price == nil:
		return x.notRotated("the agent does not change its address for buyers")
	case *price > b.cfg.RotatePrice:
		return x.notRotated(fmt.Sprintf("the agent asks %s USD for another address, at most %s are allowed", price.USD(), b.cfg.RotatePrice.USD()))
	}
	x.purse.pending = *price
	if err := b.remember(x.memory()); err != nil {
		return &overError{err}
	}
	if err := x.pay(now, true); err != nil {
		return err
	}
	b.rotateAt = now.Add(rotateAnswer)
	return x.ctl.Send(agent.CapsuleRotate, encode(agent.RotateRequest{Price: *price}))
}

func (x *session) notRotated(why string) error {
	x.b.log.Warn("the address was not changed", "why", why)
	x.b.status.set(func(s *Status) { s.Notice = why })
	return nil
}

// rotatedNow takes in what came of it.
func (x *session) rotatedNow(r agent.Rotated) error {
	b, p := x.b, &x.purse
	if r.Price > p.pending {
		return &overError{fmt.Errorf("%w: it asks %s USD for another address, %s were agreed", errOvercount, r.Price.USD(), p.pending.USD())}
	}
	p.pending = 0
	b.rotateAt = time.Now().Add(b.cfg.RotateEvery)
	if !r.Changed {
		b.rotateAt = time.Now().Add(max(b.cfg.RotateEvery, rotateAgain))
		return x.notRotated(r.Error)
	}
	p.tally.Base = satSum(p.tally.Base, r.Price)
	b.log.Info("the agent has another address", "old", r.Old, "new", r.New, "amount", r.Price)
	if err := b.remember(x.memory()); err != nil {
		return &overError{err}
	}
	return nil
}
