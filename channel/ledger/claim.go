package ledger

import (
	"encoding/binary"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// Claim books what receivers have earned: of each row's voucher TotalClaimed,
// cumulative, is the receiver's. Nothing moves to an account until Settle. All
// rows share one receiverAuthorizer, who signed them.
type Claim struct {
	Rows      []ClaimRow
	Signature channel.Signature
}

// A ClaimRow claims from one channel.
type ClaimRow struct {
	Config            channel.Config
	Max, TotalClaimed channel.Amount
	Signature         channel.Signature // of Config.PayerAuthorizer, on the voucher of Max
}

// Settle moves all that was claimed for a receiver, less the fee, to its
// account. Anyone may ask for it.
type Settle struct {
	Receiver, Token channel.Address
}

func (Claim) kind() Kind { return KindClaim }

func (op Claim) encode(e *encoder) {
	e.b = binary.BigEndian.AppendUint16(e.b, uint16(len(op.Rows)))
	for _, r := range op.Rows {
		e.config(r.Config)
		e.amount(r.Max)
		e.amount(r.TotalClaimed)
		e.bytes(r.Signature[:])
	}
	e.bytes(op.Signature[:])
}

func (d *decoder) claim() Claim {
	n := int(d.byte())<<8 | int(d.byte())
	if n == 0 || n > x402.MaxClaims {
		d.fail()
		return Claim{}
	}
	var op Claim
	for range n {
		op.Rows = append(op.Rows, ClaimRow{Config: d.config(), Max: d.amount(), TotalClaimed: d.amount(), Signature: d.signature()})
		if d.err != nil {
			return Claim{}
		}
	}
	op.Signature = d.signature()
	return op
}

func (op Claim) touch(p Params, t *Touch) {
	for _, r := range op.Rows {
		t.Channels = append(t.Channels, p.Domain().ID(r.Config))
		t.Receivers = append(t.Receivers, r.Config.Receiver)
	}
}

func (op Claim) apply(s *State, _ uint64) (amount, fee channel.Amount, err error) {
	amount, err = op.run(s)
	if err == nil && amount == 0 {
		prior := s.Channels[s.Params.Domain().ID(op.Rows[0].Config)].LastClaim
		return 0, 0, &RefusedError{Code: x402.ErrClaimFailed, Message: "nothing new to claim", prior: prior}
	}
	return amount, 0, err
}

// run claims the rows and returns by how much the claimed totals rose. Rows
// that were claimed before, or more, change nothing, as in the contract.
func (op Claim) run(s *State) (channel.Amount, error) {
	d := s.Params.Domain()
	if len(op.Rows) == 0 || len(op.Rows) > x402.MaxClaims {
		return 0, refuse(x402.ErrClaimPayload, "%d claims, want 1 to %d", len(op.Rows), x402.MaxClaims)
	}
	authorizer := op.Rows[0].Config.ReceiverAuthorizer
	entries := make([]channel.ClaimEntry, len(op.Rows))
	for i, r := range op.Rows {
		if r.Config.ReceiverAuthorizer != authorizer {
			return 0, refuse(x402.ErrAuthorizerMismatch, "claims of one batch have different receiver authorizers")
		}
		entries[i] = channel.ClaimEntry{Channel: d.ID(r.Config), Max: r.Max, TotalClaimed: r.TotalClaimed}
	}
	if signer, err := channel.Recover(d.ClaimDigest(entries), op.Signature); err != nil || signer != authorizer {
		return 0, refuse(x402.ErrClaimFailed, "claims are not signed by %s", authorizer)
	}
	var sum channel.Amount
	for i, r := range op.Rows {
		delta, err := s.claimRow(entries[i].Channel, r)
		if err != nil {
			return 0, err
		}
		if err := add(&sum, delta); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

func (s *State) claimRow(id channel.ID, r ClaimRow) (channel.Amount, error) {
	ch := s.Channels[id]
	switch {
	case r.TotalClaimed <= ch.Claimed:
		return 0, nil
	case r.TotalClaimed > r.Max:
		return 0, refuse(x402.ErrClaimFailed, "claim of %s exceeds the voucher's %s on channel %s", r.TotalClaimed, r.Max, id)
	case r.TotalClaimed > ch.Balance:
		return 0, refuse(x402.ErrClaimFailed, "claim of %s exceeds the balance %s of channel %s", r.TotalClaimed, ch.Balance, id)
	}
	// The balance is positive, so a deposit has checked the configuration.
	signer, err := channel.Recover(s.Params.Domain().VoucherDigest(id, r.Max), r.Signature)
	if err != nil || signer != r.Config.PayerAuthorizer {
		return 0, refuse(x402.ErrVoucherSignature, "voucher of channel %s is not signed by %s", id, r.Config.PayerAuthorizer)
	}
	delta := r.TotalClaimed - ch.Claimed
	rec := s.Receivers[r.Config.Receiver]
	if err := add(&rec.Claimed, delta); err != nil {
		return 0, refuse(x402.ErrClaimFailed, "receiver %s: %v", r.Config.Receiver, err)
	}
	ch.Claimed, ch.LastClaim = r.TotalClaimed, s.Totals.Height+1
	s.Channels[id], s.Receivers[r.Config.Receiver] = ch, rec
	if err := sub(&s.Totals.Escrow, delta); err != nil {
		return 0, err
	}
	return delta, add(&s.Totals.Unsettled, delta)
}

func (Settle) kind() Kind { return KindSettle }

func (op Settle) encode(e *encoder) {
	e.bytes(op.Receiver[:])
	e.bytes(op.Token[:])
}

func (op Settle) touch(_ Params, t *Touch) {
	t.Receivers = append(t.Receivers, op.Receiver)
	t.Accounts = append(t.Accounts, op.Receiver)
}

func (op Settle) apply(s *State, _ uint64) (amount, fee channel.Amount, err error) {
	if op.Token != s.Params.Token {
		return 0, 0, refuse(x402.ErrToken, "%s is not the ledger's asset %s", op.Token, s.Params.Token)
	}
	rec := s.Receivers[op.Receiver]
	gross := rec.Claimed - rec.Settled
	if gross == 0 {
		return 0, 0, refuse(x402.ErrNothingToSettle, "nothing is claimed for %s that is not settled", op.Receiver)
	}
	fee = s.Params.Fee(rec.Claimed) - s.Params.Fee(rec.Settled)
	rec.Settled = rec.Claimed
	s.Receivers[op.Receiver] = rec
	if err := sub(&s.Totals.Unsettled, gross); err != nil {
		return 0, 0, err
	}
	if err := add(&s.Totals.Fees, fee); err != nil {
		return 0, 0, err
	}
	return gross - fee, fee, s.credit(op.Receiver, gross-fee)
}
