package buyer

import (
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
)

// overcount ends the purchase when the agent claims uploads that were not sent.
func (x *session) overcount(now time.Time) error {
	switch {
	case !x.purse.overcounted(uint64(max(x.under.Load(), 0))):
		x.over = time.Time{}
	case x.over.IsZero():
		x.over = now
	case now.Sub(x.over) > overTime:
		return &overError{fmt.Errorf("%w: %d bytes up, %d were sent", errOvercount, x.purse.agent.Received(), x.purse.counted.Up())}
	}
	return nil
}

// share bounds what may be signed by what relays have come to.
func (x *session) share() {
	b, p := x.b, &x.purse
	if !p.known {
		return
	}
	owed, err := p.tally.Owed()
	if err != nil {
		return // pay says so
	}
	start := b.most - b.cfg.Budget
	came := max(owed, p.signed)
	p.most = min(b.most, start+b.reach.fares.budget.share(b.id, came-min(came, start)))
}

// pay signs and sends what is due, and sends again what was not answered.
func (x *session) pay(now time.Time, all bool) error {
	p := &x.purse
	amount, err := p.pay(all, x.client.Flows() > 0)
	if err != nil {
		return &overError{err}
	}
	if amount == 0 {
		if p.agent.Paid < p.signed && !x.paidAt.IsZero() && now.Sub(x.paidAt) > resendPay {
			return x.sendVoucher(now)
		}
		return nil
	}
	b := x.b
	start := b.most - b.cfg.Budget
	if amount = start + b.reach.fares.budget.grant(b.id, amount-min(amount, start)); amount <= p.signed {
		return nil // relays have come to the rest of the budget
	}
	note, err := b.note(x.memory())
	if err != nil {
		return &overError{err}
	}
	if _, err := b.payer.Sign(b.cfg.Key, b.id, amount, note); err != nil {
		// Nothing was signed: a full disk, say. It is tried again; the agent waits.
		b.log.Warn("sign a voucher", "amount", amount, "err", err)
		b.status.set(func(s *Status) { s.Notice = err.Error() })
		x.paidAt = now
		return nil
	}
	p.signed = amount
	return x.sendVoucher(now)
}

// sendVoucher sends the counts that the voucher pays for, then the voucher.
func (x *session) sendVoucher(now time.Time) error {
	x.paidAt = now
	if err := x.sendReading(now); err != nil {
		return err
	}
	state, _ := x.b.payer.Get(x.b.id)
	v, ok := state.Voucher()
	if !ok {
		return nil
	}
	return x.ctl.Send(agent.CapsuleVoucher, agent.AppendVoucher(nil, v))
}

// read tells the agent the counts, once a second while they change, and when
// they are final at once.
func (x *session) read(now time.Time) error {
	final := !x.leaveBy.IsZero() && x.ended()
	if x.purse.counted == x.said || now.Sub(x.saidAt) < payEvery && !final {
		return nil
	}
	return x.sendReading(now)
}

func (x *session) sendReading(now time.Time) error {
	c := x.purse.counted
	x.said, x.saidAt = c, now
	return x.ctl.Send(agent.CapsuleReading, agent.AppendReading(nil, agent.Reading{
		ReceivedTCP: c.DownTCP, ReceivedUDP: c.DownUDP, ReceivedPackets: c.DownPackets,
		SentTCP: c.UpTCP, SentUDP: c.UpUDP, SentPackets: c.UpPackets,
	}))
}
