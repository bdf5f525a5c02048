package directory

import (
	"context"
	"errors"
	"time"

	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// pay takes over a payment: what arrived, then a voucher, which is stored before
// it lets anything pass. One that is not good changes nothing and is named in
// the reading; an error is of a count that cannot be. The caller holds the turn.
func (t *Toll) pay(ctx context.Context, s *stay, p toll.Payment) (toll.Reading, error) {
	if p.Drain {
		s.meter.End()
		s.meter.Rest(ctx) // the reading is the last
		s.drained = true
	}
	if err := s.sum.hear(p.Received); err != nil {
		return toll.Reading{}, err
	}
	up, down := s.meter.Passed()
	s.sum.update(up, down)
	s.used = time.Now()
	if p.TopUp {
		t.grown(ctx, s)
	}
	var notice string
	if p.Voucher != nil {
		if err := t.accept(ctx, s, *p.Voucher); err != nil {
			notice = err.Error()
		}
	}
	owed, err := s.sum.tally.Owed()
	if err != nil {
		return toll.Reading{}, err
	}
	return toll.Reading{
		Up: up, Down: down, Owed: owed, Paid: s.sum.paid, Balance: s.sum.balance, Notice: notice,
	}, nil
}

// accept takes a voucher. One that is not above the newest is an old one, or the
// newest again, and is ignored.
func (t *Toll) accept(ctx context.Context, s *stay, v channel.Voucher) error {
	if v.Channel == s.id && v.Max <= s.sum.paid {
		return nil
	}
	note, err := s.sum.tally.MarshalBinary()
	if err != nil {
		return err
	}
	state, err := t.payee.Accept(v, note)
	if refused, ok := errors.AsType[*channel.StateError](err); ok && refused.Reason == channel.ReasonBalance && t.grown(ctx, s) {
		state, err = t.payee.Accept(v, note)
	}
	if err != nil {
		t.log.Debug("voucher", "channel", s.id.String()[:10], "err", err)
		return err
	}
	t.counts.paid.Add(uint64(state.Max - min(state.Max, s.sum.paid)))
	s.sum.paid, s.sum.balance = state.Max, state.Balance
	s.stuck = time.Time{}
	if due, err := charged(state); err == nil && due-state.Claimed >= t.cfg.SettleAt {
		select {
		case t.due <- struct{}{}:
		default:
		}
	}
	return nil
}

// askEvery is how often the ledger is asked whether an account's deposit has
// grown.
const askEvery = 2 * time.Second

// grown asks the ledger whether the deposit has grown. The caller holds the turn.
func (t *Toll) grown(ctx context.Context, s *stay) bool {
	now := time.Now()
	if now.Sub(s.asked) < askEvery {
		return false
	}
	s.asked = now
	state, err := t.observe(ctx, s.id)
	if err != nil {
		return false
	}
	grown := state.Balance > s.sum.balance
	s.sum.balance = state.Balance
	return grown
}

// ledgerTime is for one look at a channel; a buyer waits for it.
const ledgerTime = 8 * time.Second

// ask asks the facilitator about a channel for a buyer.
func (t *Toll) ask(ctx context.Context, id channel.ID) (x402.ChannelInfo, error) {
	select {
	case t.asking <- struct{}{}:
	default:
		return x402.ChannelInfo{}, errBusy
	}
	defer func() { <-t.asking }()
	ctx, cancel := context.WithTimeout(ctx, ledgerTime)
	defer cancel()
	return t.fac.Channel(ctx, t.cfg.Payment.Network, id)
}

// observe reads a channel from the ledger into its state.
func (t *Toll) observe(ctx context.Context, id channel.ID) (channel.State, error) {
	info, err := t.ask(ctx, id)
	if err != nil {
		return channel.State{}, err
	}
	withdrawAt := info.FinalizeAfter
	if withdrawAt == 0 {
		withdrawAt = info.WithdrawRequestedAt
	}
	return t.payee.Observe(id, info.Balance, info.TotalClaimed, uint64(info.RefundNonce), withdrawAt)
}
