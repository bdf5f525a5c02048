package buyer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// A Result is what a run came to.
type Result struct {
	Channel  channel.ID     `json:"channel"`
	Up       uint64         `json:"bytesUp"` // of the channel, billed
	Down     uint64         `json:"bytesDown"`
	Owed     channel.Amount `json:"owed"`
	Signed   channel.Amount `json:"signed"`
	Claimed  channel.Amount `json:"claimed"`  // as the agent said; zero when the channel stays open
	Refunded channel.Amount `json:"refunded"` // likewise
	// WithdrawAt is when a withdrawal can be finished that was begun because
	// the agent could not be reached; Unix seconds, zero for none.
	WithdrawAt uint64 `json:"withdrawAt,omitempty"`
}

// finish ends the purchase in order: no new flows, all counts final on both
// sides, the last voucher, then claim and refund.
func (x *session) finish(ctx context.Context, received <-chan error) error {
	b := x.b
	b.status.set(func(s *Status) { s.State = "finishing" })
	ctx, cancel := context.WithTimeout(ctx, drainTime+closeTime)
	defer cancel()
	if !x.purse.known {
		return x.b.endWithoutAgent(errors.New("the agent had not yet named its terms"))
	}
	steps := []struct {
		begin func() error
		done  func() bool
		limit time.Duration
		what  string
	}{
		{func() error { return x.ctl.Send(agent.CapsuleDrain, nil) }, func() bool { return x.drained && x.client.Flows() == 0 }, drainTime, "to end its flows"},
		{x.payRest, func() bool { return x.purse.agent.Paid >= x.purse.signed }, 15 * time.Second, "to take the last voucher"},
		{x.askClose, func() bool { return x.closed != nil }, closeTime, "to claim and refund"},
	}
	if b.cfg.Keep {
		steps = steps[:2]
	}
	for _, s := range steps {
		if err := s.begin(); err != nil {
			return b.endWithoutAgent(err)
		}
		if err := x.await(ctx, received, s.limit, s.done); err != nil {
			return b.endWithoutAgent(fmt.Errorf("waiting for the agent %s: %w", s.what, err))
		}
	}
	if x.closed != nil && x.closed.Error != "" {
		return fmt.Errorf("the agent could not close the channel: %s; your deposit is safe: run x402 wallet refund later", x.closed.Error)
	}
	if x.closed != nil {
		b.outcome.Claimed, b.outcome.Refunded = x.closed.Claimed, x.closed.Refunded
		state, err := b.observe(ctx)
		if err != nil {
			b.log.Warn("read the channel from the ledger", "err", err)
		} else if left := (Holding{State: state}).Left(); left > 0 { // it said otherwise, or a deposit came late
			return fmt.Errorf("the agent closed the channel, but the ledger says that %s USD of the deposit are still in it: run x402 wallet refund", left.USD())
		}
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

func (x *session) askClose() error {
	return x.ctl.Send(agent.CapsuleClose, encode(agent.Closing{Refund: true}))
}

// await goes on with the session until done holds.
func (x *session) await(ctx context.Context, received <-chan error, limit time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case c := <-x.inbox:
			if err := x.handle(c); err != nil {
				if n, ok := errors.AsType[agent.Notice](err); ok && n.Code == agent.NoticeDraining {
					continue // so are we
				}
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
			return context.Cause(ctx)
		}
	}
	return nil
}

// endWithoutAgent ends the purchase while the agent cannot be reached: what it
// holds it may claim, the rest can be withdrawn after the channel's delay.
func (b *Buyer) endWithoutAgent(cause error) error {
	if b.cfg.Keep {
		return fmt.Errorf("ended without the agent (%w); the deposit stays in the channel", cause)
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	at, err := b.withdraw(ctx)
	if err != nil {
		return fmt.Errorf("the agent cannot be reached (%w), and the withdrawal of the deposit could not be begun: %w; run x402 wallet refund later", cause, err)
	}
	if at == 0 {
		return nil // nothing to withdraw
	}
	b.outcome.WithdrawAt = at
	return fmt.Errorf("the agent cannot be reached (%w): a withdrawal of the deposit was begun; finish it with x402 wallet withdraw after %s",
		cause, time.Unix(int64(at), 0).Format(time.RFC3339))
}

// withdraw begins the timed withdrawal of all that is not signed away. It
// returns when it can be finished, or zero when there is nothing to withdraw.
func (b *Buyer) withdraw(ctx context.Context) (uint64, error) {
	network := b.cfg.Offer.Payment.Network
	info, err := b.fac.Channel(ctx, network, b.id)
	if err != nil {
		return 0, err
	}
	if info.FinalizeAfter != 0 {
		return info.FinalizeAfter, nil
	}
	state, _ := b.payer.Get(b.id)
	keep := max(state.Max, info.TotalClaimed)
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
	info, err = b.fac.Channel(ctx, network, b.id)
	return info.FinalizeAfter, err
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
