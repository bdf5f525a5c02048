package buyer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel"
)

// A Result is what a run came to.
type Result struct {
	Channel  channel.ID     `json:"channel"`
	Up       uint64         `json:"bytesUp"` // of the channel, billed
	Down     uint64         `json:"bytesDown"`
	Owed     channel.Amount `json:"owed"`
	Signed   channel.Amount `json:"signed"`
	Claimed  channel.Amount `json:"claimed"`  // as the agent said, or the ledger; zero when the channel stays open
	Refunded channel.Amount `json:"refunded"` // likewise
	// WithdrawAt is when a withdrawal can be finished that was begun because
	// the agent could not be reached; Unix seconds, zero for none.
	WithdrawAt uint64 `json:"withdrawAt,omitempty"`
	// Relays are those that were paid beside the agent.
	Relays []RelayResult `json:"relays,omitempty"`
}

// left reports whether the session of an agent that stops is over: all flows
// have ended and the agent has taken the voucher for all that was counted, or
// it has had the time for it.
func (x *session) left(now time.Time) bool {
	if x.leaveBy.IsZero() {
		return false
	}
	if now.After(x.leaveBy) {
		return true
	}
	if !x.ended() || x.purse.agent.Paid < x.purse.signed {
		return false
	}
	return x.askReceipt() != nil || x.receipted() // one that cannot be asked has gone
}

// ended reports whether all flows have ended and their counts are final, also
// of a write that has returned and is still to be counted.
func (x *session) ended() bool {
	return x.drained && x.client.Flows() == 0 && x.under.Load() <= 0
}

// A lostError says that the connection was lost while the purchase was ended.
type lostError struct {
	why error // it was ended for; nil: on demand
	err error
}

func (e *lostError) Error() string { return e.err.Error() }

// finish ends the purchase in order: no new flows, all counts final on both
// sides, the last voucher, then claim and refund. The error is an *overError or,
// when it has to be done again on another connection, a *lostError.
func (x *session) finish(ctx context.Context, received <-chan error, why error) error {
	b := x.b
	b.status.set(func(s *Status) { s.State = "finishing" })
	ctx, cancel := context.WithTimeout(ctx, drainTime+closeTime)
	defer cancel()
	// An agent that reads nothing could hold every capsule up for ever.
	defer time.AfterFunc(drainTime+closeTime, func() { _ = x.conn.Close(tunnel.ReasonProtocol, "the control stream is not read") }).Stop()
	steps := []step{
		{func() error { return nil }, func() bool { return x.purse.known }, termsTime, "to name its terms"},
		{func() error { return x.ctl.Send(agent.CapsuleDrain, nil) }, x.ended, drainTime, "to end its flows"},
		{x.payRest, func() bool { return x.purse.agent.Paid >= x.purse.signed }, 15 * time.Second, "to take the last voucher"},
		{func() error { return nil }, func() bool { return b.topping == nil }, lastCall + time.Second, "and the facilitator to end a deposit"},
		{x.askReceipt, x.receipted, 2 * receiptWait, "to give a receipt"},
		{x.askClose, func() bool { return x.closed != nil }, closeTime, "to claim and refund"},
	}
	if b.cfg.Keep {
		steps = steps[:len(steps)-1]
	}
	for _, s := range steps {
		err := s.begin()
		if err == nil {
			err = x.await(ctx, received, s)
		}
		if over, ok := errors.AsType[*overError](err); ok { // the agent is not to be trusted
			return &overError{errors.Join(why, b.endWithoutAgent(over.err))}
		}
		if err != nil {
			return &lostError{why, fmt.Errorf("waiting for the agent %s: %w", s.what, err)}
		}
	}
	return &overError{errors.Join(why, x.conclude(ctx))}
}

// A step of finish.
type step struct {
	begin func() error
	done  func() bool
	limit time.Duration
	what  string // is waited for
}

// conclude holds what the agent says that it has claimed and refunded against
// the ledger.
func (x *session) conclude(ctx context.Context) error {
	b := x.b
	switch {
	case x.closed == nil:
		return nil
	case x.closed.Error != "":
		return fmt.Errorf("the agent could not close the channel: %s; your deposit is safe: run x402 wallet refund later", x.closed.Error)
	}
	b.outcome.Claimed, b.outcome.Refunded = x.closed.Claimed, x.closed.Refunded
	state, err := b.observe(ctx)
	if err != nil {
		b.log.Warn("read the channel from the ledger", "err", err)
	} else if left := (Holding{State: state}).Left(); left > 0 { // it said otherwise, or a deposit came late
		return fmt.Errorf("the agent closed the channel, but the ledger says that %s USD of the deposit are still in it: run x402 wallet refund", left.USD())
	}
	return nil
}

// payRest signs the final amount: all counts are final now.
func (x *session) payRest() error {
	x.purse.update(x.meter.Reading())
	if err := x.pay(time.Now(), true); err != nil {
		return err
	}
	return x.sendReading(time.Now())
}

// askClose freezes the channel, so that a run that does not hear what came of it
// is known by the next one.
func (x *session) askClose() error {
	if _, err := x.b.payer.Freeze(x.b.id); err != nil {
		return err
	}
	return x.ctl.Send(agent.CapsuleClose, encode(agent.Closing{Refund: true}))
}

// errSilent is that of an agent whose connection stands and who does not answer.
var errSilent = errors.New("no answer in time")

// await goes on with the session until the step is done.
func (x *session) await(ctx context.Context, received <-chan error, s step) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.done() {
		select {
		case c := <-x.inbox:
			if err := x.handle(c); err != nil {
				return err
			}
		case err := <-x.b.topping:
			if err := x.toppedUp(err); err != nil {
				return err
			}
		case <-tick.C:
			x.purse.update(x.meter.Reading())
			if err := x.pay(time.Now(), true); err != nil {
				return err
			}
			// Also unchanged counts, so that an agent that was started again says
			// that it does not know the session.
			if now := time.Now(); now.Sub(x.saidAt) >= payEvery {
				if err := x.sendReading(now); err != nil {
					return err
				}
			}
			x.show()
		case err := <-received:
			return err
		case <-ctx.Done():
			return errSilent
		}
	}
	return nil
}

const (
	// againTime is how long an agent that was lost is looked for, before the
	// withdrawal is begun that locks the channel for a day or more.
	againTime = 30 * time.Second
	againMax  = 5 * time.Second
	// againMost is how often it may be lost again after it was found.
	againMost = 3
)

// lastSession ends the purchase when ctx was cancelled while there was no
// session.
func (b *Buyer) lastSession(ctx context.Context, cause error) error {
	owed, err := b.mem.tally.Owed()
	state, _ := b.payer.Get(b.id)
	paid := b.cfg.Keep && err == nil && owed <= state.Max
	if b.cfg.CloseOnly || paid && !errors.Is(cause, errUpgrade) { // after which it is there, in another way
		return b.endWithoutAgent(cause) // it was looked for all the time, or need not be
	}
	return b.endAgain(ctx, cause)
}

// endAgain ends the purchase, in order, with an agent that was lost and may be
// back in a moment: it is looked for, and without it the channel's timed
// withdrawal is begun.
func (b *Buyer) endAgain(ctx context.Context, cause error) error {
	b.cfg.CloseOnly = true
	b.leave(net.ErrClosed)
	ctx, cancel := b.cfg.ending(ctx)
	defer cancel()
	until, lost := time.Now().Add(againTime), 0
	for wait := redialMin; ; wait = min(2*wait, againMax) {
		rest := time.Until(until)
		if rest <= 0 || lost == againMost || ctx.Err() != nil || b.cfg.abandoned() {
			return b.endWithoutAgent(cause)
		}
		b.log.Warn("the agent was lost before the end; looking for it, to end in order", "err", cause, "for", rest.Round(time.Second))
		b.status.set(func(s *Status) {
			s.State = "reconnecting"
			s.Error = fmt.Sprintf("looking for the agent for another %v, to end in order: %v", rest.Round(time.Second), cause)
		})
		b.report(b.status.get())
		select { // at most a few seconds, and the second signal kills
		case <-time.After(min(wait+rand.N(wait/2), rest)):
		case <-ctx.Done():
			continue
		}
		err := b.session(ctx, func() {})
		if over, ok := errors.AsType[*overError](err); ok {
			return over.err
		}
		if n, ok := errors.AsType[agent.Notice](err); ok {
			if err := b.answer(ctx, n); err != nil {
				return b.endWithoutAgent(err)
			}
		}
		if _, ok := errors.AsType[*lostError](err); ok {
			lost++
		}
		cause = err
	}
}

// endWithoutAgent ends the purchase while the agent cannot be reached: what it
// holds it may claim, the rest can be withdrawn after the channel's delay.
func (b *Buyer) endWithoutAgent(cause error) error {
	if b.cfg.Keep || b.cfg.abandoned() {
		return fmt.Errorf("ended without the agent (%w); the deposit stays in the channel", cause)
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	at, err := b.withdraw(ctx)
	if err != nil {
		return fmt.Errorf("the agent cannot be reached (%w), and the withdrawal of the deposit could not be begun: %w; run x402 wallet refund later", cause, err)
	}
	if at == 0 { // nothing to withdraw: the agent may have closed the channel and not got to say so
		before, _ := b.payer.Get(b.id)
		if state, err := b.observe(ctx); err == nil {
			b.outcome.Claimed, b.outcome.Refunded = state.Claimed, before.Balance-min(before.Balance, state.Balance)
		}
		return nil
	}
	b.outcome.WithdrawAt = at
	return fmt.Errorf("the agent cannot be reached (%w): a withdrawal of the deposit was begun; finish it with x402 wallet withdraw after %s",
		cause, time.Unix(int64(at), 0).Format(time.RFC3339))
}

// withdraw begins the timed withdrawal of all that is not signed away. It
// returns when it can be finished, or zero when there is nothing to withdraw.
func (b *fund) withdraw(ctx context.Context) (uint64, error) {
	network := b.cfg.Offer.Payment.Network
	info, err := b.fac.Channel(ctx, network, b.id)
	if err != nil {
		return 0, err
	}
	if info.FinalizeAfter != 0 {
		return info.FinalizeAfter, nil
	}
	state, _ := b.payer.Get(b.id)
	keep := info.TotalClaimed
	if b.cfg.Salt == (channel.Hash{}) { // what was paid for a token is owed once it was used, which the agent knows
		keep = max(state.Max, keep)
	}
	if info.Balance <= keep {
		return 0, nil
	}
	w := x402.Withdraw{
		Network: network, Step: x402.WithdrawInitiate, Channel: b.id,
		Amount: info.Balance - keep, Nonce: info.WithdrawNonce,
	}
	if _, err := b.fac.Withdraw(ctx, w.Sign(b.cfg.Key, b.domain)); err != nil {
		return 0, err
	}
	state, err = b.observe(ctx)
	return state.WithdrawAt, err
}

// result is what the run came to.
func (b *Buyer) result() Result {
	r := b.outcome
	r.Channel = b.id
	r.Up, r.Down = b.mem.tally.Up, b.mem.tally.Down
	r.Owed, _ = b.mem.tally.Owed() // an overflow ended the session
	if state, ok := b.payer.Get(b.id); ok {
		r.Signed = state.Max
	}
	return r
}
