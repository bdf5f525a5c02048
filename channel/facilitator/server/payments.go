package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// refusal is a no with one of the standard's codes.
func refusal(code, message string) error { return &ledger.RefusedError{Code: code, Message: message} }

// verify answers POST /verify.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	var req x402.FacilitatorRequest
	ok := decode(r, &req, func(status int, code, message string) {
		writeJSON(w, status, x402.VerifyResponse{InvalidReason: code, InvalidMessage: message})
	})
	if !ok {
		return
	}
	out, err := s.check(r.Context(), req)
	out.Payer = req.Payload.Payload.Payer()
	if err == nil {
		out.IsValid = true
		writeJSON(w, http.StatusOK, out)
		return
	}
	refused, ok := errors.AsType[*ledger.RefusedError](err)
	if !ok {
		s.log.Error("verify", "err", err)
		writeJSON(w, http.StatusServiceUnavailable, x402.VerifyResponse{
			InvalidReason: x402.ErrUnexpectedVerify, InvalidMessage: "the ledger cannot be read"})
		return
	}
	s.metrics.refused.WithLabelValues(refused.Code).Inc()
	out.Extra, out.InvalidReason, out.InvalidMessage = nil, refused.Code, refused.Message
	writeJSON(w, http.StatusOK, out)
}

// check is what /verify does: everything that settling would check, without
// doing it.
func (s *Server) check(ctx context.Context, req x402.FacilitatorRequest) (x402.VerifyResponse, error) {
	if err := s.checkEnvelope(req); err != nil {
		return x402.VerifyResponse{}, err
	}
	p := req.Payload.Payload
	switch {
	case p.Exact != nil:
		if err := s.checkExact(*p.Exact, req.Requirements); err != nil {
			return x402.VerifyResponse{}, err
		}
		return x402.VerifyResponse{}, s.simulate(ctx, ledger.TransferOf(*p.Exact))
	case p.Deposit != nil:
		op, err := s.depositOp(ctx, *p.Deposit, req.Requirements)
		if err == nil {
			err = s.simulate(ctx, op)
		}
		if err != nil {
			return x402.VerifyResponse{}, err
		}
		return s.snapshot(ctx, p.Deposit.Voucher.Channel)
	case p.Voucher != nil:
		return s.checkVoucher(ctx, p.Voucher.Config, p.Voucher.Voucher, req)
	case p.Refund != nil:
		return s.checkVoucher(ctx, p.Refund.Config, p.Refund.Voucher, req)
	}
	return x402.VerifyResponse{}, refusal(x402.ErrPayloadType, "a "+p.Type()+" can be settled, not verified")
}

// checkEnvelope checks what does not depend on the payload's type.
func (s *Server) checkEnvelope(req x402.FacilitatorRequest) error {
	accepted, required := req.Payload.Accepted, req.Requirements
	exact := req.Payload.Payload.Exact != nil
	switch {
	case req.Version != x402.Version || req.Payload.Version != x402.Version:
		return refusal(x402.ErrInvalidVersion, "x402Version must be 2")
	case required.Scheme != x402.SchemeExact && required.Scheme != x402.SchemeBatch:
		return refusal(x402.ErrUnsupportedScheme, "schemes here are exact and batch-settlement")
	case accepted.Scheme != required.Scheme && exact:
		return refusal(x402.ErrInvalidScheme, "accepted scheme is not the required one")
	case accepted.Scheme != required.Scheme:
		return refusal(x402.ErrBatchScheme, "accepted scheme is not the required one")
	case exact != (required.Scheme == x402.SchemeExact):
		return refusal(x402.ErrInvalidPayload, "payload is not one of scheme "+required.Scheme)
	case accepted.Network != required.Network && exact:
		return refusal(x402.ErrInvalidNetwork, "accepted network is not the required one")
	case accepted.Network != required.Network:
		return refusal(x402.ErrNetworkMismatch, "accepted network is not the required one")
	case required.Network != s.params.Network():
		return refusal(x402.ErrInvalidNetwork, "this facilitator serves "+s.params.Network())
	}
	return nil
}

// checkExact compares a payment with what was asked for.
func (s *Server) checkExact(p x402.Exact, r x402.Requirements) error {
	switch {
	case r.Asset != s.params.Token:
		return refusal(x402.ErrRequirements, "required is asset "+r.Asset.String()+", this facilitator moves "+s.params.Token.String())
	case p.Authorization.To != r.PayTo:
		return refusal(x402.ErrExactRecipient, "authorization pays "+p.Authorization.To.String()+", required is "+r.PayTo.String())
	case p.Authorization.Value != r.Amount:
		return refusal(x402.ErrExactValue, "authorization is of "+p.Authorization.Value.String()+", required is "+r.Amount.String())
	}
	return nil
}

// simulate applies op to a copy of the present state.
func (s *Server) simulate(ctx context.Context, op ledger.Op) error {
	tx := ledger.Tx{Op: op}
	st, err := s.ledger.Read(ctx, tx.Touches(s.params))
	if err != nil {
		return err
	}
	tx.Time = timeOf(st)
	_, err = ledger.Apply(st, tx)
	return err
}

// snapshot answers a valid payload with the state of its channel.
func (s *Server) snapshot(ctx context.Context, id channel.ID) (x402.VerifyResponse, error) {
	st, err := s.ledger.Read(ctx, ledger.Touch{Channels: []channel.ID{id}})
	if err != nil {
		return x402.VerifyResponse{}, err
	}
	m := st.Channels[id].Message(id)
	return x402.VerifyResponse{Extra: &m}, nil
}

// checkConfig applies rules 1 to 5 of the scheme's verification, and the
// signature (rule 6), none of which depends on the ledger's state.
func (s *Server) checkConfig(c channel.Config, v channel.Voucher, r x402.Requirements) error {
	switch {
	case s.params.Domain().ID(c) != v.Channel:
		return refusal(x402.ErrChannelID, "channelConfig is not that of channel "+v.Channel.String())
	case c.Receiver != r.PayTo:
		return refusal(x402.ErrReceiver, "channel pays another receiver than payTo")
	case r.Extra.ReceiverAuthorizer == nil || c.ReceiverAuthorizer != *r.Extra.ReceiverAuthorizer:
		return refusal(x402.ErrReceiverAuthorizer, "channel has another receiverAuthorizer than required")
	case c.Token != r.Asset || c.Token != s.params.Token:
		return refusal(x402.ErrToken, "channel is of another asset than required")
	case r.Extra.WithdrawDelay != nil && c.WithdrawDelay != *r.Extra.WithdrawDelay:
		return refusal(x402.ErrWithdrawDelayMismatch, "channel has another withdrawDelay than required")
	case c.WithdrawDelay < channel.MinWithdrawDelay || c.WithdrawDelay > channel.MaxWithdrawDelay:
		return refusal(x402.ErrWithdrawDelayRange, "withdrawDelay is out of range")
	}
	signer, err := channel.Recover(s.params.Domain().VoucherDigest(v.Channel, v.Max), v.Signature)
	if err != nil || signer != c.PayerAuthorizer {
		return refusal(x402.ErrVoucherSignature, "voucher is not signed by the channel's payerAuthorizer")
	}
	return nil
}

// depositOp checks a deposit and the voucher that comes with it. If the
// deposit's nonce is used, what the voucher may be worth is not looked at: it
// is a repetition, which the ledger tells from a fraud.
func (s *Server) depositOp(ctx context.Context, d x402.Deposit, r x402.Requirements) (ledger.Deposit, error) {
	if err := s.checkConfig(d.Config, d.Voucher, r); err != nil {
		return ledger.Deposit{}, err
	}
	op, err := ledger.DepositOf(d)
	if err != nil {
		return op, err
	}
	if r.Extra.Name != s.params.Name || r.Extra.Version != s.params.Version {
		return op, refusal(x402.ErrMissingDomain, "requirements do not name the asset's EIP-712 domain")
	}
	t := ledger.Tx{Op: op}.Touches(s.params)
	st, err := s.ledger.Read(ctx, t)
	if err != nil || st.Nonces[t.Nonces[0]] {
		return op, err
	}
	ch := st.Channels[d.Voucher.Channel]
	covered, err := ch.Balance.Add(d.Deposit.Amount)
	switch {
	case err != nil:
		return op, refusal(x402.ErrDepositFailed, err.Error())
	case d.Voucher.Max > covered:
		return op, refusal(x402.ErrExceedsBalance, "voucher of "+d.Voucher.Max.String()+" exceeds the balance after the deposit, "+covered.String())
	case d.Voucher.Max < ch.Claimed:
		return op, refusal(x402.ErrBelowClaimed, "voucher of "+d.Voucher.Max.String()+" is below the claimed "+ch.Claimed.String())
	}
	return op, nil
}

// checkVoucher verifies a voucher or a refund's zero-charge voucher.
func (s *Server) checkVoucher(ctx context.Context, c channel.Config, v channel.Voucher, req x402.FacilitatorRequest) (x402.VerifyResponse, error) {
	if err := s.checkConfig(c, v, req.Requirements); err != nil {
		return x402.VerifyResponse{}, err
	}
	st, err := s.ledger.Read(ctx, ledger.Touch{Channels: []channel.ID{v.Channel}})
	if err != nil {
		return x402.VerifyResponse{}, err
	}
	ch := st.Channels[v.Channel]
	refund := req.Payload.Payload.Refund != nil
	switch {
	case ch.Balance == 0:
		return x402.VerifyResponse{}, refusal(x402.ErrChannelNotFound, "channel has no balance")
	case v.Max > ch.Balance:
		return x402.VerifyResponse{}, refusal(x402.ErrExceedsBalance, "voucher of "+v.Max.String()+" exceeds the balance "+ch.Balance.String())
	case v.Max < ch.Claimed, v.Max == ch.Claimed && !refund:
		return x402.VerifyResponse{}, refusal(x402.ErrBelowClaimed, "voucher of "+v.Max.String()+" pays no more than the claimed "+ch.Claimed.String())
	}
	m := ch.Message(v.Channel)
	return x402.VerifyResponse{Extra: &m}, nil
}
