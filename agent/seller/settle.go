package seller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// A settleRequest asks the settle loop for a settlement now.
type settleRequest struct{ done chan<- settleResult }

type settleResult struct {
	Claimed channel.Amount // by this settlement, over all channels
	Rows    int
	err     error
}

const (
	settleTimeout = 60 * time.Second
	closeTimeout  = 45 * time.Second
	ledgerTime    = 8 * time.Second // for one look at a channel; a buyer waits for it
	retryMin      = 5 * time.Second
	retryMax      = 10 * time.Minute
)

// charged is how much of a channel may be claimed: what is owed, as far as
// vouchers cover it.
func charged(s channel.State) (channel.Amount, error) {
	var t agent.Tally
	if err := t.UnmarshalBinary(s.Note); err != nil {
		return 0, fmt.Errorf("channel %.10s: %w", s.ID, err)
	}
	owed, err := t.Owed()
	if err != nil {
		return 0, fmt.Errorf("channel %.10s: %w", s.ID, err)
	}
	return max(min(owed, s.Max, s.Balance), s.Claimed), nil
}

// settleLoop claims and settles every SettleEvery, at SettleAt, on request,
// and when a payer withdraws; a failure is tried again, later and later. What is
// to be handed over is claimed and not settled.
func (s *Seller) settleLoop(ctx context.Context) error {
	s.finishFrozen(ctx)
	next, retry := s.cfg.SettleEvery, retryMin
	timer := time.NewTimer(min(next, watchFirst))
	defer timer.Stop()
	last, pay := time.Now(), true
	for ; ; pay = true {
		var request settleRequest
		select {
		case <-ctx.Done():
			return nil
		case request = <-s.settle:
		case id := <-s.alarm:
			if yes, _ := s.withdraws(ctx, id); !yes { // a relay that is right says it again
				continue
			}
		case pay = <-s.due:
			if next < s.cfg.SettleEvery && time.Since(last) < next {
				continue // the last one failed: the timer says when to try again
			}
		case <-timer.C:
			if time.Since(last) < next && !s.withdrawing(ctx) {
				timer.Reset(min(next, watchEvery))
				continue
			}
		}
		r := s.settleAll(ctx, pay)
		if request.done != nil {
			request.done <- r
		}
		if !pay && r.err == nil {
			continue
		}
		last, next = time.Now(), s.cfg.SettleEvery
		s.mu.Lock()
		s.unsettled = r.err
		s.mu.Unlock()
		if r.err != nil {
			s.log.Warn("settlement will be tried again", "err", r.err, "after", retry)
			next = retry + rand.N(retry/2)
			retry = min(2*retry, retryMax)
		} else {
			retry = retryMin
		}
		timer.Reset(min(next, watchEvery))
	}
}

// settleAll claims what all channels are due and settles it to the payout
// address: claim, wait for the receipt, then settle. If it is not to be paid out,
// only what the facilitator does not keep already is claimed.
func (s *Seller) settleAll(ctx context.Context, pay bool) settleResult {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var r settleResult
	states := s.unclaimed(func(state channel.State, due channel.Amount) bool { return pay || due > s.kept(state.ID) })
	for len(states) > 0 {
		n := min(len(states), x402.MaxClaims)
		claimed, err := s.claim(ctx, states[:n])
		if _, refused := errors.AsType[*facilitator.RefusedError](err); refused {
			claimed, err = s.claimEach(ctx, states[:n])
		}
		r.Claimed += claimed
		r.Rows += n
		r.err = errors.Join(r.err, err)
		if errors.Is(err, facilitator.ErrUnavailable) {
			return r
		}
		states = states[n:]
	}
	if pay {
		r.err = errors.Join(r.err, s.payOut(ctx))
	}
	return r
}

// unclaimed are the channels of which something is due and not claimed: those that
// are wanted, or with nil all.
func (s *Seller) unclaimed(wanted func(channel.State, channel.Amount) bool) (states []channel.State) {
	for _, state := range s.payee.All() {
		due, err := charged(state)
		if err != nil { // of one channel: the others are claimed
			s.log.Error("what is due cannot be told", "err", err)
			continue
		}
		if due > state.Claimed && (wanted == nil || wanted(state, due)) {
			states = append(states, state)
		}
	}
	return states
}

// claim claims what states are due and takes over what the ledger says then.
func (s *Seller) claim(ctx context.Context, states []channel.State) (channel.Amount, error) {
	rows := make([]x402.VoucherClaim, 0, len(states))
	var sum channel.Amount
	for _, state := range states {
		c, err := charged(state)
		if err != nil {
			return 0, err
		}
		rows = append(rows, x402.ClaimOf(state, c))
		sum += c - state.Claimed
	}
	_, err := s.fac.Claim(ctx, s.cfg.Payment.Network, x402.SignClaim(s.key, s.domain, rows))
	if facilitator.Pending(err) {
		s.log.Info("the facilitator keeps a claim until it is worth its gas", "amount", sum, "channels", len(states))
		s.keeps(rows)
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("claim: %w", err)
	}
	for _, state := range states {
		if _, err := s.observe(ctx, state.ID); err != nil {
			return sum, err
		}
	}
	s.log.Info("claimed", "amount", sum, "channels", len(states))
	return sum, nil
}

// claimEach claims what a batch of states was refused for, each by itself and as
// the ledger sees it now, so that one payer who took his deposit back costs the
// agent no other's.
func (s *Seller) claimEach(ctx context.Context, states []channel.State) (sum channel.Amount, err error) {
	for _, state := range states {
		fresh, oerr := s.observe(ctx, state.ID)
		if oerr != nil {
			err = errors.Join(err, oerr)
			continue
		}
		c, cerr := charged(fresh)
		if cerr == nil && c > fresh.Claimed {
			var claimed channel.Amount
			claimed, cerr = s.claim(ctx, []channel.State{fresh})
			sum += claimed
		}
		err = errors.Join(err, cerr)
	}
	return sum, err
}

// payOut moves all that was claimed to the payout address.
func (s *Seller) payOut(ctx context.Context) error {
	res, err := s.fac.SettleReceiver(ctx, s.cfg.Payment.Network, s.cfg.Payment.PayTo, s.cfg.Payment.Asset)
	if refused, ok := errors.AsType[*facilitator.RefusedError](err); ok && refused.Code == x402.ErrNothingToSettle || facilitator.Pending(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	// A settlement without anything new is answered by the last one.
	if news := res.Transaction != s.settled; news && res.Amount != nil && *res.Amount > 0 {
		s.settled = res.Transaction
		s.log.Info("settled", "amount", *res.Amount, "to", s.cfg.Payment.PayTo)
	}
	return nil
}

// looks are at the ledger, one at a time for each channel: the answer to one must
// not replace that to another which was begun later, since a deposit may lie
// between them.
type looks struct {
	mu   sync.Mutex
	busy map[channel.ID]chan struct{} // closed when the look has ended
}

// begin waits for the look before it and returns the end of this one.
func (l *looks) begin(ctx context.Context, id channel.ID) (end func(), err error) {
	for {
		l.mu.Lock()
		before := l.busy[id]
		if before == nil {
			mine := make(chan struct{})
			if l.busy == nil {
				l.busy = make(map[channel.ID]chan struct{})
			}
			l.busy[id] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.busy, id)
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// observe reads a channel from the ledger into its state.
func (s *Seller) observe(ctx context.Context, id channel.ID) (channel.State, error) {
	return s.observeBy(ctx, channel.Voucher{Channel: id})
}

// observeBy is observe with a voucher of the channel to show to the facilitator, in
// case that there is no payment yet.
func (s *Seller) observeBy(ctx context.Context, v channel.Voucher) (channel.State, error) {
	id := v.Channel
	ctx, cancel := context.WithTimeout(ctx, ledgerTime)
	defer cancel()
	end, err := s.looks.begin(ctx, id)
	if err != nil {
		return channel.State{}, err
	}
	defer end()
	state, _ := s.payee.Get(id)
	if paid, ok := state.Voucher(); ok {
		v = paid
	}
	info, err := s.fac.Look(ctx, s.cfg.Payment.Network, x402.VoucherPayment{Config: state.Config, Voucher: v})
	if err != nil {
		return channel.State{}, err
	}
	withdrawAt := info.FinalizeAfter
	if withdrawAt == 0 {
		withdrawAt = info.WithdrawRequestedAt
	}
	return s.payee.Observe(id, info.Balance, info.TotalClaimed, uint64(info.RefundNonce), withdrawAt)
}

// settleFor ends the session's channel as the buyer asked: freeze, claim, wait
// for the receipt, then refund what is left. The channel itself stays, empty,
// for the next deposit.
func (x *session) settleFor(ctx context.Context, c agent.Closing) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	answer := agent.Closed{}
	refunded, err := x.closeChannel(ctx, c)
	if err != nil {
		x.log.Warn("close the channel", "err", err)
		answer.Error = err.Error()
	}
	answer.Claimed, answer.Refunded = x.state.Claimed, refunded
	x.account.balance = x.state.Balance
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return x.ctl.Send(agent.CapsuleClosed, b)
}

func (x *session) closeChannel(ctx context.Context, c agent.Closing) (refunded channel.Amount, err error) {
	x.account.update(x.meter.Reading())
	note, err := x.note()
	if x.prepaid && c.Refund {
		note, err = x.s.voidNote(x.id)
	}
	if err != nil {
		return 0, err
	}
	if x.state, err = x.s.payee.Note(x.id, note); err != nil {
		return 0, err
	}
	x.state, refunded, err = x.s.closeOut(ctx, x.state, c.Refund)
	return refunded, err
}

// closeOut claims what a channel owes and, if it is to, refunds the rest. It
// returns how the channel is then, also with an error.
func (s *Seller) closeOut(ctx context.Context, was channel.State, refund bool) (state channel.State, refunded channel.Amount, err error) {
	if state, err = s.payee.Freeze(was.ID); err != nil {
		return was, 0, err
	}
	refunding := false
	defer func() {
		if refunding && err != nil {
			return // how much is left is not known until the ledger is read again: see admit
		}
		thawed, terr := s.payee.Thaw(was.ID)
		if terr != nil {
			err = errors.Join(err, terr)
			return
		}
		state = thawed
	}()
	due, err := charged(state)
	if err != nil {
		return state, 0, err
	}
	if due > state.Claimed {
		if _, err := s.claim(ctx, []channel.State{state}); err != nil {
			return state, 0, err
		}
	}
	fresh, err := s.observe(ctx, was.ID)
	if err != nil {
		return state, 0, err
	}
	if state = fresh; !refund || state.Balance <= due {
		return state, 0, nil
	}
	refunding = true
	refunded, err = s.refund(ctx, state, due)
	return state, refunded, err
}

// refund gives back all of the deposit that is not charged. A claim that the
// facilitator keeps goes along: both happen or neither.
func (s *Seller) refund(ctx context.Context, state channel.State, due channel.Amount) (channel.Amount, error) {
	left := state.Balance - due
	voucher, ok := state.Voucher()
	if !ok {
		voucher = channel.Voucher{Channel: state.ID}
	}
	req := x402.RefundRequest{
		Domain: s.domain, Config: state.Config, Voucher: voucher,
		Amount: left, Nonce: state.RefundNonce,
	}
	if due > state.Claimed {
		req.Claims = []x402.VoucherClaim{x402.ClaimOf(state, due)}
	}
	res, err := s.fac.Refund(ctx, s.cfg.Payment.Network, req.Sign(s.key))
	if err != nil {
		return 0, fmt.Errorf("refund: %w", err)
	}
	// What is left is in the answer; a voucher may be of more, by which the channel
	// could not be looked at.
	if res.Extra != nil && res.Extra.ChannelState != nil && res.Extra.ChannelState.Channel == state.ID {
		m := res.Extra.ChannelState
		_, err = s.payee.Observe(state.ID, m.Balance, m.TotalClaimed, uint64(m.RefundNonce), m.WithdrawRequestedAt)
	} else {
		_, err = s.observe(ctx, state.ID)
	}
	if err != nil {
		return left, err
	}
	s.log.Info("refunded", "channel", state.ID, "amount", left)
	return left, nil
}

// finishFrozen takes up closings that a crash cut off: what is due is claimed
// by the next settlement, and the channel is open again for its buyer, who
// asks for the refund anew. One whose deposit may be gone already stays frozen
// until the ledger can be read, here or when its buyer comes back.
func (s *Seller) finishFrozen(ctx context.Context) {
	for _, state := range s.payee.All() {
		if state.Phase == channel.Open {
			continue
		}
		if _, err := s.observe(ctx, state.ID); err != nil {
			s.log.Warn("read the channel from the ledger", "channel", state.ID, "err", err)
			continue
		}
		if _, err := s.payee.Thaw(state.ID); err != nil {
			s.log.Error("open a channel that was being closed", "channel", state.ID, "err", err)
		}
	}
}

// lastSettle settles on the way out; what it cannot is left for the next start.
func (s *Seller) lastSettle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if r := s.settleAll(ctx, true); r.err != nil {
		s.log.Warn("not settled; vouchers are kept and claimed after the next start", "err", r.err)
	}
}

// exposedToOthers is what the agent may lose by all channels but x's: what they
// owe without vouchers for it, and deny or may deny. What channels without a
// session left behind counts at most for half of the bound, so that strangers
// cannot use it up for good.
func (s *Seller) exposedToOthers(x *session) channel.Amount {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := min(s.leftBehind, s.cfg.TotalCredit/2)
	for _, o := range s.sessions {
		if v := o.view.Load(); o != x && v != nil {
			sum = sum.Plus(v.Exposed)
		}
	}
	return sum
}

// countLeftBehind sums up what channels without a session owe and denied.
func (s *Seller) countLeftBehind() {
	states := s.payee.All()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leftBehind = 0
	for _, state := range states {
		var t agent.Tally
		if s.sessions[state.ID] != nil || t.UnmarshalBinary(state.Note) != nil {
			continue
		}
		gone := account{policy: s.cfg.Credit, tally: t, paid: max(state.Max, state.Claimed)}
		s.leftBehind = s.leftBehind.Plus(gone.exposed())
	}
}
