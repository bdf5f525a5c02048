package buyer

import (
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
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
	return x.askRotation(now, *price)
}

// askRotation asks for another address at a price, which is owed from now on
// until the agent says what came of it.
func (x *session) askRotation(now time.Time, price channel.Amount) error {
	b := x.b
	x.purse.pending = price
	if err := b.remember(x.memory()); err != nil {
		return &overError{err}
	}
	if err := x.pay(now, true); err != nil {
		return err
	}
	b.rotateAt = now.Add(rotateAnswer)
	return x.ctl.Send(agent.CapsuleRotate, encode(agent.RotateRequest{Price: price}))
}

// obey carries out an order for another address, or says why not.
func (x *session) obey(now time.Time, o RotationOrder) error {
	p := &x.purse
	report := RotationReport{Asks: x.rotate}
	owed, err := p.tally.Owed()
	switch {
	case !p.known || !x.leaveBy.IsZero():
		report.Error = "there is no session with the agent now: try again in a moment"
	case x.rotate == nil:
		report.Error = "the agent does not change its address for buyers"
	case o.Most == nil:
	case x.ordered != nil || p.pending > 0:
		report.Error = "the address is changing already"
	case *x.rotate > *o.Most:
		report.Error = fmt.Sprintf("the agent asks %s USD for another address, at most %s are allowed", x.rotate.USD(), o.Most.USD())
	case err != nil || max(owed, p.signed).Plus(*x.rotate) > p.most:
		report.Error = fmt.Sprintf("the budget has less than %s USD left, which the agent asks for another address", x.rotate.USD())
	default:
		x.ordered = o.Done
		return x.askRotation(now, *x.rotate)
	}
	o.Done <- report
	return nil
}

// answerOrder tells who gave the order what came of it.
func (x *session) answerOrder(r agent.Rotated) {
	if x.ordered != nil {
		x.ordered <- RotationReport{Rotated: r, Asks: x.rotate}
		x.ordered = nil
	}
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
	x.answerOrder(r)
	b.rotateAt = time.Now().Add(b.cfg.RotateEvery)
	if !r.Changed {
		b.rotateAt = time.Now().Add(max(b.cfg.RotateEvery, rotateAgain))
		return x.notRotated(r.Error)
	}
	p.tally.Base = p.tally.Base.Plus(r.Price)
	b.log.Info("the agent has another address", "old", r.Old, "new", r.New, "amount", r.Price)
	if err := b.remember(x.memory()); err != nil {
		return &overError{err}
	}
	return nil
}
