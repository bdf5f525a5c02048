package resource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// A channel's note is what was charged: a version and 8 bytes. A record without
// one was begun and not finished, and counts as none.
const noteVersion = 1

func encodeNote(charged channel.Amount) []byte {
	return binary.BigEndian.AppendUint64([]byte{noteVersion}, uint64(charged))
}

// chargedOf is what was charged on a channel: at least what was claimed.
func chargedOf(s channel.State) (channel.Amount, error) {
	if len(s.Note) == 0 {
		return s.Claimed, nil
	}
	if len(s.Note) != 9 || s.Note[0] != noteVersion {
		return 0, fmt.Errorf("channel %s: its record has a note that is not ours", s.ID)
	}
	return max(channel.Amount(binary.BigEndian.Uint64(s.Note[1:])), s.Claimed), nil
}

// A bill is one payment on a channel while it is checked.
type bill struct {
	p       x402.PaymentPayload
	req     x402.Requirements
	config  channel.Config
	voucher channel.Voucher
	ask     channel.Amount // what the voucher allows beyond what was charged; a refund's nothing
	refund  bool
}

func billOf(p x402.PaymentPayload, req x402.Requirements) bill {
	b := bill{p: p, req: req, ask: req.Amount}
	switch m := p.Payload; {
	case m.Deposit != nil:
		b.config, b.voucher = m.Deposit.Config, m.Deposit.Voucher
	case m.Voucher != nil:
		b.config, b.voucher = m.Voucher.Config, m.Voucher.Voucher
	case m.Refund != nil:
		b.config, b.voucher, b.ask, b.refund = m.Refund.Config, m.Refund.Voucher, 0, true
	}
	return b
}

// checkConfig applies the rules that depend on no state.
func (h *handler) checkConfig(b bill) error {
	c, r := b.config, b.req
	no := func(code, message string) error { return &refusal{code: code, message: message} }
	switch {
	case h.domain.ID(c) != b.voucher.Channel:
		return no(x402.ErrChannelID, "channelConfig is not that of channel "+b.voucher.Channel.String())
	case c.Receiver != r.PayTo:
		return no(x402.ErrReceiver, "channel pays another receiver than payTo")
	case c.ReceiverAuthorizer != *r.Extra.ReceiverAuthorizer:
		return no(x402.ErrReceiverAuthorizer, "channel has another receiverAuthorizer than required")
	case c.Token != r.Asset:
		return no(x402.ErrToken, "channel is of another asset than required")
	case c.WithdrawDelay != *r.Extra.WithdrawDelay:
		return no(x402.ErrWithdrawDelayMismatch, "channel has another withdrawDelay than required")
	case c.PayerAuthorizer.IsZero():
		return no(x402.ErrVoucherSignature, "vouchers of contract wallets (EIP-1271) are not taken: set payerAuthorizer")
	}
	signer, err := channel.Recover(h.domain.VoucherDigest(b.voucher.Channel, b.voucher.Max), b.voucher.Signature)
	if err != nil || signer != c.PayerAuthorizer {
		return no(x402.ErrVoucherSignature, "voucher is not signed by the channel's payerAuthorizer")
	}
	return nil
}

// onChannel serves a request by a channel, of which it is the only one meanwhile,
// with our record of it brought up to date.
func (h *handler) onChannel(w http.ResponseWriter, r *http.Request, b bill) {
	if err := h.checkConfig(b); err != nil {
		h.refuse(w, r, err, "")
		return
	}
	if !h.take(b.voucher.Channel) {
		h.refuse(w, r, &refusal{code: x402.ErrChannelBusy, message: "the channel pays for another request at present"}, "")
		return
	}
	defer h.release(b.voucher.Channel)
	state, err := h.reconcile(r.Context(), b)
	switch {
	case err != nil:
		h.refuse(w, r, err, x402.ErrUnexpectedVerify)
	case b.refund:
		h.refund(w, r, b, state)
	default:
		h.payChannel(w, r, b, state)
	}
}

// payChannel serves a request that is paid by a voucher, with or without a
// deposit before it.
func (h *handler) payChannel(w http.ResponseWriter, r *http.Request, b bill, state channel.State) {
	if state.WithdrawAt != 0 {
		h.refuse(w, r, &refusal{code: string(channel.ReasonFrozen), message: "the payer has begun to withdraw the deposit, which can be taken at " +
			time.Unix(int64(state.WithdrawAt), 0).UTC().Format(time.RFC3339)}, "")
		return
	}
	out := x402.SettlementResponse{Success: true, Payer: &b.config.Payer, Network: h.network}
	if b.p.Payload.Deposit != nil {
		var err error
		if state, err = h.deposit(r.Context(), b, &out); err != nil {
			h.refuse(w, r, err, x402.ErrUnexpectedSettle)
			return
		}
	}
	if err := admit(state, b.voucher); err != nil {
		h.refuse(w, r, err, x402.ErrUnexpectedVerify)
		return
	}
	h.serve(w, r, &answer{price: b.req.Amount, book: func(charge channel.Amount) (*x402.SettlementResponse, error) {
		now, err := h.book(state, b.voucher, charge)
		if err != nil {
			return nil, err
		}
		total, err := chargedOf(now)
		out.Extra = &x402.SettlementExtra{ChargedAmount: &charge, ChannelState: h.message(now, total)}
		return &out, err
	}})
}

// known returns the record of a channel.
func (s *Server) known(id channel.ID) (channel.State, bool) {
	state, ok := s.payee.Get(id)
	return state, ok && len(state.Note) > 0
}

// reconcile brings our record of the channel up to date and holds the payer's
// count against it. The state it returns is not stored when the channel is new.
func (h *handler) reconcile(ctx context.Context, b bill) (channel.State, error) {
	state, known := h.known(b.voucher.Channel)
	if !known || b.p.Payload.Voucher == nil || !h.fresh(b.voucher.Channel) {
		v, err := h.cfg.Facilitator.Verify(ctx, b.p, b.req)
		if err != nil {
			// Whose count is wrong is told what is right, whatever else is: unless
			// more is claimed than our own record knows of.
			e := failure(err, "")
			charged, _ := chargedOf(state) // sameCount tells of an error
			if known && e.status == 0 && !(e.code == x402.ErrBelowClaimed && b.voucher.Max > charged) {
				if serr := h.sameCount(state, b); serr != nil {
					return state, serr
				}
			}
			return state, err
		}
		if v.Extra == nil || v.Extra.Channel != b.voucher.Channel {
			return state, errors.New("the facilitator verified a payment without the state of its channel")
		}
		if !known {
			return h.adopt(b, *v.Extra)
		}
		if state, err = h.observe(*v.Extra); err != nil {
			return state, err
		}
	}
	return state, h.sameCount(state, b)
}

// sameCount refuses, and corrects, a payer who counts differently.
func (h *handler) sameCount(state channel.State, b bill) error {
	charged, err := chargedOf(state)
	if err != nil {
		return err
	}
	if want, err := charged.Add(b.ask); err != nil || b.voucher.Max != want {
		e := &refusal{
			code:    x402.ErrCumulativeMismatch,
			message: fmt.Sprintf("voucher of %d; charged is %d, and this asks for %d", b.voucher.Max, charged, b.ask),
			channel: h.message(state, charged),
		}
		// A voucher below what was claimed proves nothing.
		if v, ok := state.Voucher(); ok && v.Max >= charged {
			e.voucher = &x402.VoucherState{SignedMaxClaimable: v.Max, Signature: v.Signature}
		}
		return e
	}
	return nil
}

// adopt takes over the count of a payer whose channel is not known here: by his
// voucher, which is good, he says himself what was charged. It cannot be less
// than what was claimed.
func (h *handler) adopt(b bill, m x402.ChannelState) (channel.State, error) {
	state, err := channel.NewState(h.domain, b.config)
	if err != nil {
		return state, err
	}
	charged, err := b.voucher.Max.Sub(b.ask)
	if err != nil || charged < m.TotalClaimed {
		state.Balance, state.Claimed, state.RefundNonce = m.Balance, m.TotalClaimed, uint64(m.RefundNonce)
		return state, h.sameCount(state, b)
	}
	if b.p.Payload.Deposit != nil && m.Balance == 0 {
		return state, nil // there is no channel before the deposit is made
	}
	return h.open(b, m)
}

// open stores a channel that is new here, as the facilitator describes it.
func (h *handler) open(b bill, m x402.ChannelState) (channel.State, error) {
	if _, err := h.payee.Open(h.domain, b.config); err != nil {
		return channel.State{}, err
	}
	charged, err := b.voucher.Max.Sub(b.ask)
	if err != nil {
		return channel.State{}, err
	}
	if _, err := h.payee.Note(b.voucher.Channel, encodeNote(charged)); err != nil {
		return channel.State{}, err
	}
	state, err := h.observe(m)
	if err != nil || b.voucher.Max == state.Claimed { // as that of a refund may be
		return state, err
	}
	return h.payee.Accept(b.voucher, nil)
}

// deposit has the facilitator make a deposit, and says so in out.
func (h *handler) deposit(ctx context.Context, b bill, out *x402.SettlementResponse) (channel.State, error) {
	amount := b.p.Payload.Deposit.Deposit.Amount
	if least := *b.req.Extra.MinDeposit; amount < least {
		return channel.State{}, &refusal{code: x402.ErrDepositBelowMin, message: fmt.Sprintf("deposit of %d, at least %d", amount, least)}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	got, err := h.cfg.Facilitator.Settle(ctx, b.p, b.req)
	if err != nil {
		e := failure(err, x402.ErrUnexpectedSettle)
		e.settled, e.payer = e.status == 0, &b.config.Payer
		return channel.State{}, e
	}
	if got.Extra == nil || got.Extra.ChannelState == nil || got.Extra.ChannelState.Channel != b.voucher.Channel {
		return channel.State{}, errors.New("the facilitator made a deposit without the state of its channel")
	}
	h.log.Debug("deposit", "channel", b.voucher.Channel, "amount", amount, "transaction", got.Transaction)
	out.Transaction, out.Amount = got.Transaction, &amount
	if _, known := h.known(b.voucher.Channel); !known {
		return h.open(b, *got.Extra.ChannelState)
	}
	return h.observe(*got.Extra.ChannelState)
}

// admit checks a voucher against the channel as it stands.
func admit(state channel.State, v channel.Voucher) error {
	if v.Max <= state.Max {
		return state.Covered(v)
	}
	_, err := state.Next(v)
	return err
}

// book stores a charge with the voucher that pays it: disk, then the answer.
func (h *handler) book(state channel.State, v channel.Voucher, charge channel.Amount) (channel.State, error) {
	if charge == 0 {
		return state, nil
	}
	charged, err := chargedOf(state)
	if err != nil {
		return state, err
	}
	total, err := charged.Add(charge)
	switch {
	case err != nil:
		return state, err
	case total > v.Max:
		return state, &refusal{code: x402.ErrChargeExceedsSigned, message: fmt.Sprintf("charge of %d in all, signed is %d", total, v.Max)}
	case v.Max > state.Max:
		state, err = h.payee.Accept(v, encodeNote(total))
	default:
		state, err = h.payee.Note(v.Channel, encodeNote(total))
	}
	if err == nil && total-state.Claimed >= h.cfg.SettleAt {
		h.settleSoon()
	}
	return state, err
}
