package resource

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// refund gives a payer back what is left of his deposit, or the part that he
// asks for: what was charged is claimed first, in the same transaction. The
// route's handler is not run.
func (h *handler) refund(w http.ResponseWriter, r *http.Request, b bill, state channel.State) {
	out, err := h.giveBack(r.Context(), b, state)
	if err != nil {
		h.refuse(w, r, err, x402.ErrUnexpectedSettle)
		return
	}
	setHeader(w.Header(), x402.HeaderResponse, out)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprintf(w, "{\"refunded\":%q,\"channelId\":%q}\n", out.Amount.String(), state.ID.String())
}

// giveBack signs the refund and has the facilitator make it.
func (h *handler) giveBack(ctx context.Context, b bill, state channel.State) (*x402.SettlementResponse, error) {
	charged, err := chargedOf(state)
	if err != nil {
		return nil, err
	}
	left := state.Balance - min(state.Balance, charged)
	amount := left
	if asked := b.p.Payload.Refund.Amount; asked != nil {
		amount = *asked
	}
	switch {
	case left == 0:
		return nil, &refusal{code: x402.ErrRefundNoBalance, message: "all of the deposit is charged"}
	case amount == 0 || amount > left:
		return nil, &refusal{code: x402.ErrRefundAmount, message: fmt.Sprintf("refund of %d, of which %d are there", amount, left)}
	}
	request := x402.RefundRequest{Domain: h.domain, Config: b.config, Voucher: b.voucher, Amount: amount, Nonce: state.RefundNonce}
	if due := claimable(state, charged); due > state.Claimed {
		request.Claims = []x402.VoucherClaim{x402.ClaimOf(state, due)}
	}
	signed := request.Sign(h.cfg.Key)
	p := b.p
	p.Payload, p.Extensions = x402.Payload{Refund: &signed}, nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	out, err := h.cfg.Facilitator.Settle(ctx, p, b.req)
	if err != nil {
		h.forget(state.ID) // it may have been made
		e := failure(err, x402.ErrUnexpectedSettle)
		e.settled, e.payer = e.status == 0, &b.config.Payer
		return nil, e
	}
	if out.Extra == nil || out.Extra.ChannelState == nil || out.Extra.ChannelState.Channel != state.ID || out.Amount == nil {
		h.forget(state.ID)
		return nil, errors.New("the facilitator made a refund without the state of its channel")
	}
	now, err := h.observe(*out.Extra.ChannelState)
	if err != nil {
		h.forget(state.ID)
		return nil, err
	}
	h.log.Debug("refund", "channel", state.ID, "amount", *out.Amount, "transaction", out.Transaction)
	return &x402.SettlementResponse{
		Success: true, Payer: &b.config.Payer, Transaction: out.Transaction, Network: h.network, Amount: out.Amount,
		Extra: &x402.SettlementExtra{ChannelState: h.message(now, max(charged, now.Claimed))},
	}, nil
}

// forget has the facilitator asked about a channel before it is used again, also
// if who works on it now has an answer from before.
func (s *Server) forget(id channel.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.synced, id)
	if _, busy := s.busy[id]; busy {
		s.busy[id] = true
	}
}

// claimable is how much of what was charged can be claimed: what vouchers and
// the deposit cover.
func claimable(s channel.State, charged channel.Amount) channel.Amount {
	return max(min(charged, s.Max, s.Balance), s.Claimed)
}
