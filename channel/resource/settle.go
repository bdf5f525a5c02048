package resource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

const (
	// claimBatch is how many channels are claimed at once, at most.
	claimBatch = 100
	// settleRetry is how long Run waits after a settlement that failed.
	settleRetry = time.Minute
)

// settleSoon has Run settle without waiting for its time.
func (s *Server) settleSoon() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// Run settles from time to time: every SettleEvery, at SettleAt, and when a
// payer begins to withdraw. It ends, after a last settlement, when ctx is
// cancelled, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	wait := s.cfg.SettleEvery
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
			defer cancel()
			if err := s.Settle(last); err != nil {
				s.log.Error("settle", "err", err)
			}
			return nil
		case <-s.due:
			timer.Stop()
		case <-timer.C:
		}
		wait = s.cfg.SettleEvery
		if err := s.Settle(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("settle", "err", err)
			wait = min(wait, settleRetry)
		}
	}
}

// Settle claims all that was charged, and moves what is claimed to PayTo.
func (s *Server) Settle(ctx context.Context) error {
	var rows []x402.VoucherClaim
	for _, state := range s.payee.All() {
		if state.Domain != s.domain || state.Config.ReceiverAuthorizer != s.cfg.Key.Address() || len(state.Note) == 0 {
			continue
		}
		charged, err := chargedOf(state)
		if err != nil {
			return err
		}
		if due := claimable(state, charged); due > state.Claimed {
			rows = append(rows, x402.ClaimOf(state, due))
		}
	}
	for len(rows) > 0 {
		n := min(len(rows), claimBatch)
		if err := s.claim(ctx, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	p := x402.Payload{Settle: &x402.Settle{Receiver: s.cfg.PayTo, Token: s.cfg.Token.Address}}
	_, err := s.operate(ctx, channel.Config{Receiver: s.cfg.PayTo, Token: s.cfg.Token.Address}, p)
	if r, ok := errors.AsType[*facilitator.RefusedError](err); ok && r.Code == x402.ErrNothingToSettle {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return nil
}

// claim claims rows, and notes that they are. One that is refused, since its
// deposit is gone, does not hold up the others.
func (s *Server) claim(ctx context.Context, rows []x402.VoucherClaim) error {
	c := x402.SignClaim(s.cfg.Key, s.domain, rows)
	_, err := s.operate(ctx, rows[0].Voucher.Channel, x402.Payload{Claim: &c})
	if _, refused := errors.AsType[*facilitator.RefusedError](err); refused {
		if len(rows) == 1 {
			s.log.Error("claim", "channel", s.domain.ID(rows[0].Voucher.Channel), "err", err)
			return nil
		}
		for _, row := range rows {
			if err := s.claim(ctx, []x402.VoucherClaim{row}); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	for _, row := range rows {
		id := s.domain.ID(row.Voucher.Channel)
		if !s.take(id) { // a request may change the record meanwhile: it is read again
			s.forget(id)
			continue
		}
		state, ok := s.payee.Get(id)
		var err error
		if ok && row.TotalClaimed > state.Claimed {
			_, err = s.payee.Observe(id, state.Balance, row.TotalClaimed, state.RefundNonce, state.WithdrawAt)
		}
		s.release(id)
		if err != nil {
			return fmt.Errorf("claim: %w", err)
		}
	}
	return nil
}

// operate has the facilitator do what needs no payer.
func (s *Server) operate(ctx context.Context, c channel.Config, p x402.Payload) (x402.SettlementResponse, error) {
	r := x402.BatchRequirements(s.network, s.cfg.Token, c)
	return s.cfg.Facilitator.Settle(ctx, x402.PaymentPayload{Version: x402.Version, Accepted: r, Payload: p}, r)
}
