package directory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

const (
	settleTime   = 60 * time.Second
	closeTime    = 45 * time.Second
	lastTime     = 10 * time.Second
	settleMin    = 5 * time.Second // after a failure, growing
	settleMax    = 10 * time.Minute
	watchEvery   = time.Hour // for withdrawals that payers begin
	watchAtFirst = time.Minute
)

// settleLoop claims and settles every SettleEvery, at SettleAt, and when a payer
// withdraws; a failure is tried again, later and later.
func (t *Toll) settleLoop(ctx context.Context) error {
	t.finishFrozen(ctx)
	next, retry := t.cfg.SettleEvery, settleMin
	timer := time.NewTimer(min(next, watchAtFirst))
	defer timer.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.due:
			if next < t.cfg.SettleEvery && time.Since(last) < next {
				continue // the last one failed: the timer says when to try again
			}
		case <-timer.C:
			if time.Since(last) < next && !t.withdrawing(ctx) {
				timer.Reset(min(next, watchEvery))
				continue
			}
		}
		err := t.settle(ctx)
		last, next = time.Now(), t.cfg.SettleEvery
		if err != nil {
			t.log.Warn("settlement will be tried again", "err", err, "after", retry)
			next = retry + rand.N(retry/2)
			retry = min(2*retry, settleMax)
		} else {
			retry = settleMin
		}
		timer.Reset(min(next, watchEvery))
	}
}

// withdrawing asks the ledger about all channels with something to lose, and
// reports whether a payer of one takes his deposit back.
func (t *Toll) withdrawing(ctx context.Context) bool {
	found := false
	for _, state := range t.payee.All() {
		if c, err := charged(state); err != nil || c == state.Claimed {
			continue
		}
		fresh, err := t.observe(ctx, state.ID)
		if err != nil {
			return found
		}
		if fresh.WithdrawAt != 0 {
			t.log.Warn("a payer withdraws: claiming now", "channel", state.ID.String()[:10])
			found = true
		}
	}
	return found
}

// settle claims what all channels are due and moves it to the payout address.
func (t *Toll) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var states []channel.State
	for _, state := range t.payee.All() {
		switch c, err := charged(state); {
		case err != nil: // of one channel: the others are claimed
			t.log.Error("what is due cannot be told", "err", err)
		case c > state.Claimed:
			states = append(states, state)
		}
	}
	var errs error
	for len(states) > 0 {
		n := min(len(states), x402.MaxClaims)
		err := t.claim(ctx, states[:n])
		if _, refused := errors.AsType[*facilitator.RefusedError](err); refused {
			err = t.claimEach(ctx, states[:n])
		}
		if errs = errors.Join(errs, err); errors.Is(err, facilitator.ErrUnavailable) {
			return errs
		}
		states = states[n:]
	}
	return errors.Join(errs, t.payOut(ctx))
}

// claim claims what states are due and takes over what the ledger says then.
func (t *Toll) claim(ctx context.Context, states []channel.State) error {
	rows := make([]x402.VoucherClaim, 0, len(states))
	var sum channel.Amount
	for _, state := range states {
		c, err := charged(state)
		if err != nil {
			return err
		}
		rows = append(rows, x402.ClaimOf(state, c))
		sum += c - state.Claimed
	}
	_, err := t.fac.Claim(ctx, t.cfg.Payment.Network, x402.SignClaim(t.key, t.domain, rows))
	if facilitator.Pending(err) {
		t.log.Info("the facilitator keeps a claim until it is worth its gas", "amount", sum, "channels", len(states))
		return nil
	}
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	t.counts.claimed.Add(uint64(sum))
	t.log.Info("claimed", "amount", sum, "channels", len(states))
	for _, state := range states {
		if _, err := t.observe(ctx, state.ID); err != nil {
			return err
		}
	}
	return nil
}

// claimEach claims what a batch of states was refused for, each by itself and as
// the ledger sees it now: a payer who took his deposit back costs no other's.
func (t *Toll) claimEach(ctx context.Context, states []channel.State) (errs error) {
	for _, state := range states {
		fresh, err := t.observe(ctx, state.ID)
		if err == nil {
			var c channel.Amount
			if c, err = charged(fresh); err == nil && c > fresh.Claimed {
				err = t.claim(ctx, []channel.State{fresh})
			}
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// payOut moves all that was claimed to the payout address.
func (t *Toll) payOut(ctx context.Context) error {
	p := t.cfg.Payment
	res, err := t.fac.SettleReceiver(ctx, p.Network, p.PayTo, p.Asset)
	if refused, ok := errors.AsType[*facilitator.RefusedError](err); ok && refused.Code == x402.ErrNothingToSettle || facilitator.Pending(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if res.Amount != nil && *res.Amount > 0 {
		t.log.Info("settled", "amount", *res.Amount, "to", p.PayTo)
	}
	return nil
}

// endLoop closes the channels that buyers ask for.
func (t *Toll) endLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-t.ending:
			t.conclude(ctx, s)
		}
	}
}

// conclude closes one channel and says what came of it.
func (t *Toll) conclude(ctx context.Context, s *stay) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	s.turn.Lock() // the account's end is stored then
	job := s.closing
	s.turn.Unlock()
	defer close(job.done)
	if !t.begin(s.id) {
		job.result.Error = "the channel is used again"
		return
	}
	defer t.done(s.id)
	t.mu.Lock()
	again := t.present[s.id] != nil
	t.mu.Unlock()
	if again {
		job.result.Error = "the channel is used again"
		return
	}
	state, refunded, err := t.closeOut(ctx, s.id, job.refund)
	if err != nil {
		t.log.Warn("close a channel", "channel", s.id.String()[:10], "err", err)
		job.result.Error = err.Error()
	}
	job.result.Claimed, job.result.Refunded = state.Claimed, refunded
}

// closeOut claims what a channel owes and, if it is to, refunds the rest: freeze,
// claim, wait for the receipt, then sign the refund.
func (t *Toll) closeOut(ctx context.Context, id channel.ID, refund bool) (state channel.State, refunded channel.Amount, err error) {
	if state, err = t.payee.Freeze(id); err != nil {
		return state, 0, err
	}
	refunding := false
	defer func() {
		if refunding && err != nil {
			return // how much is left is not known until the ledger is read again: see admit
		}
		thawed, terr := t.payee.Thaw(id)
		if err = errors.Join(err, terr); terr == nil {
			state = thawed
		}
	}()
	due, err := charged(state)
	if err == nil && due > state.Claimed {
		err = t.claim(ctx, []channel.State{state})
	}
	if err != nil {
		return state, 0, err
	}
	if state, err = t.observe(ctx, id); err != nil || !refund || state.Balance <= due {
		return state, 0, err
	}
	refunding = true
	refunded, err = t.refund(ctx, state, due)
	if err == nil {
		err = t.forgive(id)
	}
	return state, refunded, err
}

// refund gives back all of the deposit that is not charged. A claim that the
// facilitator keeps goes along: both happen or neither.
func (t *Toll) refund(ctx context.Context, state channel.State, due channel.Amount) (channel.Amount, error) {
	left := state.Balance - due
	voucher, ok := state.Voucher()
	if !ok {
		voucher = channel.Voucher{Channel: state.ID}
	}
	req := x402.RefundRequest{Domain: t.domain, Config: state.Config, Voucher: voucher, Amount: left, Nonce: state.RefundNonce}
	if due > state.Claimed {
		req.Claims = []x402.VoucherClaim{x402.ClaimOf(state, due)}
	}
	_, err := t.fac.Refund(ctx, t.cfg.Payment.Network, req.Sign(t.key))
	if err != nil {
		return 0, fmt.Errorf("refund: %w", err)
	}
	t.log.Info("refunded", "channel", state.ID.String()[:10], "amount", left)
	_, err = t.observe(ctx, state.ID)
	return left, err
}

// forgive forgets what a channel lost, once its deposit is gone: a new channel
// would have lost nothing either.
func (t *Toll) forgive(id channel.ID) error {
	state, _ := t.payee.Get(id)
	var tally agent.Tally
	err := tally.UnmarshalBinary(state.Note)
	if err == nil && tally.Lost > 0 {
		tally.Lost = 0
		var note []byte
		if note, err = tally.MarshalBinary(); err == nil {
			_, err = t.payee.Note(id, note)
		}
	}
	return err
}

// finishFrozen takes up closings that a crash cut off: what is due is claimed by
// the next settlement, and the channel is open again for its buyer, who asks for
// the refund anew.
func (t *Toll) finishFrozen(ctx context.Context) {
	for _, state := range t.payee.All() {
		if state.Phase == channel.Open || !t.begin(state.ID) {
			continue
		}
		_, err := t.observe(ctx, state.ID)
		if err == nil {
			_, err = t.payee.Thaw(state.ID)
		}
		if err != nil {
			t.log.Warn("open a channel that was being closed", "channel", state.ID.String()[:10], "err", err)
		}
		t.done(state.ID)
	}
}

// lastSettle settles on the way out; what it cannot is left for the next start.
func (t *Toll) lastSettle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastTime)
	defer cancel()
	if err := t.settle(ctx); err != nil {
		t.log.Warn("not settled; vouchers are kept and claimed after the next start", "err", err)
	}
}
