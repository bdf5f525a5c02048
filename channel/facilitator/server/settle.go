package server

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// settle answers POST /settle.
func (s *Server) settle(w http.ResponseWriter, r *http.Request) {
	var req x402.FacilitatorRequest
	if !decode(r, &req, s.settleFailure(w)) {
		return
	}
	p := req.Payload.Payload
	op, err := s.operation(r.Context(), req)
	var receipt ledger.Receipt
	if err == nil {
		receipt, err = s.submit(r.Context(), op)
	} else if refused, ok := errors.AsType[*ledger.RefusedError](err); ok {
		s.metrics.refused.WithLabelValues(refused.Code).Inc()
	}
	if err != nil {
		s.answerError(w, p.Payer(), err)
		return
	}
	out := x402.SettlementResponse{Payer: p.Payer(), Amount: &receipt.Amount}
	switch {
	case p.Deposit != nil:
		out.Extra = s.stateExtra(r.Context(), s.params.Domain().ID(p.Deposit.Config))
	case p.Refund != nil:
		out.Extra = s.stateExtra(r.Context(), s.params.Domain().ID(p.Refund.Config))
	case p.Claim != nil:
		out.Amount = nil // only the accounting changes
		if len(p.Claim.Claims) == 1 {
			out.Extra = s.stateExtra(r.Context(), s.params.Domain().ID(p.Claim.Claims[0].Voucher.Channel))
		}
	case p.Settle != nil:
		out.Extra = &x402.SettlementExtra{Fee: &receipt.Fee}
	}
	s.answer(w, out, receipt)
}

// operation checks a payload of /settle as far as the ledger will not, and
// returns what it asks for.
func (s *Server) operation(ctx context.Context, req x402.FacilitatorRequest) (ledger.Op, error) {
	if err := s.checkEnvelope(req); err != nil {
		return nil, err
	}
	p := req.Payload.Payload
	switch {
	case p.Exact != nil:
		return ledger.TransferOf(*p.Exact), s.checkExact(*p.Exact, req.Requirements)
	case p.Deposit != nil:
		return s.depositOp(ctx, *p.Deposit, req.Requirements)
	case p.Claim != nil:
		return ledger.ClaimOf(*p.Claim)
	case p.Settle != nil:
		return ledger.SettleOf(*p.Settle), nil
	case p.Refund != nil:
		return ledger.RefundOf(*p.Refund)
	}
	return nil, refusal(x402.ErrPayloadType, "a "+p.Type()+" can be verified, not settled")
}

// withdraw answers POST /v1/withdraw.
func (s *Server) withdraw(w http.ResponseWriter, r *http.Request) {
	var m x402.Withdraw
	if !decode(r, &m, s.settleFailure(w)) {
		return
	}
	if m.Network != s.params.Network() {
		s.answerError(w, nil, refusal(x402.ErrInvalidNetwork, "this facilitator serves "+s.params.Network()))
		return
	}
	st, err := s.ledger.Read(r.Context(), ledger.Touch{Channels: []channel.ID{m.Channel}})
	if err != nil {
		s.answerError(w, nil, err)
		return
	}
	ch, ok := st.Channels[m.Channel]
	if !ok {
		s.answerError(w, nil, refusal(x402.ErrChannelNotFound, "no channel "+m.Channel.String()))
		return
	}
	receipt, err := s.withdrawFrom(r.Context(), ch.Config, m)
	if err != nil {
		s.answerError(w, &ch.Config.Payer, err)
		return
	}
	out := x402.SettlementResponse{Payer: &ch.Config.Payer, Extra: s.stateExtra(r.Context(), m.Channel)}
	if m.Step == x402.WithdrawFinalize {
		out.Amount = &receipt.Amount
	}
	s.answer(w, out, receipt)
}

// withdrawFrom does one step of a withdrawal, or has the chain do it.
func (s *Server) withdrawFrom(ctx context.Context, c channel.Config, m x402.Withdraw) (ledger.Receipt, error) {
	if s.chain != nil {
		r, err := s.chain.Withdraw(ctx, c, m)
		return s.booked(ctx, r, err)
	}
	op, err := ledger.WithdrawOf(m, c)
	if err != nil {
		return ledger.Receipt{}, err
	}
	return s.submit(ctx, op)
}

// faucet answers POST /v1/faucet.
func (s *Server) faucet(w http.ResponseWriter, r *http.Request) {
	if !s.dev {
		s.settleFailure(w)(http.StatusNotFound, x402.ErrNotFound, "no faucet: the facilitator does not run with --dev")
		return
	}
	var m x402.FaucetRequest
	if !decode(r, &m, s.settleFailure(w)) {
		return
	}
	if m.Ref == (channel.Hash{}) {
		rand.Read(m.Ref[:]) // never fails (Go 1.24)
	}
	receipt, err := s.submit(r.Context(), ledger.Issue{Ref: m.Ref, To: m.Address, Amount: m.Amount, Memo: "faucet"})
	if err != nil {
		s.answerError(w, nil, err)
		return
	}
	s.answer(w, x402.SettlementResponse{Amount: &receipt.Amount}, receipt)
}

// stateExtra is the channel's present state for an answer. An answer is not
// held back because it cannot be read: the transaction is done.
func (s *Server) stateExtra(ctx context.Context, id channel.ID) *x402.SettlementExtra {
	st, err := s.ledger.Read(ctx, ledger.Touch{Channels: []channel.ID{id}})
	if err != nil {
		s.log.Error("ledger read", "err", err)
		return nil
	}
	m := st.Channels[id].Message(id)
	return &x402.SettlementExtra{ChannelState: &m}
}

func (s *Server) answer(w http.ResponseWriter, out x402.SettlementResponse, r ledger.Receipt) {
	out.Success, out.Transaction, out.Network = true, r.Hash.String(), s.params.Network()
	writeJSON(w, http.StatusOK, out)
}

// answerError answers a refusal with status 200, as the standard's facilitators
// do, and any other error with 503.
func (s *Server) answerError(w http.ResponseWriter, payer *channel.Address, err error) {
	out := x402.SettlementResponse{Payer: payer, Network: s.params.Network()}
	if refused, ok := errors.AsType[*ledger.RefusedError](err); ok {
		out.ErrorReason, out.ErrorMessage = refused.Code, refused.Message
		writeJSON(w, http.StatusOK, out)
		return
	}
	out.ErrorReason = x402.ErrUnexpectedSettle
	out.ErrorMessage = "the ledger cannot be written at present; send the same request again"
	if errors.Is(err, ledger.ErrLater) {
		w.Header().Set("Retry-After", "5")
		out.ErrorMessage = err.Error() + "; send the same request again"
	}
	writeJSON(w, http.StatusServiceUnavailable, out)
}

// settleFailure answers a request that did not get as far as the ledger.
func (s *Server) settleFailure(w http.ResponseWriter) func(status int, code, message string) {
	return func(status int, code, message string) {
		writeJSON(w, status, x402.SettlementResponse{ErrorReason: code, ErrorMessage: message, Network: s.params.Network()})
	}
}
