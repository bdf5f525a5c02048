package x402

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
)

// MaxClaims is the most rows that a claim may carry. The reference server
// sends 100 in one batch.
const MaxClaims = 200

// A Payload is the scheme's own message in a PaymentPayload: exactly one of
// its fields is set. The wire tells them apart by "type"; exact has none.
type Payload struct {
	Exact   *Exact
	Deposit *Deposit
	Voucher *VoucherPayment
	Refund  *Refund
	Claim   *Claim
	Settle  *Settle
}

// Exact pays once by a transfer of the asset (EIP-3009).
type Exact struct {
	Signature     channel.Signature `json:"signature"`
	Authorization Authorization     `json:"authorization"`
}

// Authorization is an EIP-3009 authorization as the scheme exact writes it.
type Authorization struct {
	From        channel.Address `json:"from"`
	To          channel.Address `json:"to"`
	Value       channel.Amount  `json:"value"`
	ValidAfter  Decimal         `json:"validAfter"`
	ValidBefore Decimal         `json:"validBefore"`
	Nonce       channel.Hash    `json:"nonce"`
}

// Deposit opens a channel, or tops it up, and pays with a voucher.
type Deposit struct {
	Config  channel.Config  `json:"channelConfig"`
	Voucher channel.Voucher `json:"voucher"`
	Deposit DepositTerms    `json:"deposit"`
}

// DepositTerms is the amount of a deposit and the payer's permission to take it.
type DepositTerms struct {
	Amount        channel.Amount       `json:"amount"`
	Authorization DepositAuthorization `json:"authorization"`
}

// DepositAuthorization carries one of the standard's transfer methods. Permit2
// is not supported: a payload that has only that leaves ERC3009 nil.
type DepositAuthorization struct {
	ERC3009 *ERC3009Authorization `json:"erc3009Authorization,omitempty"`
}

// ERC3009Authorization lets the deposit collector take the amount from the
// payer; its nonce is channel.DepositNonce(id, Salt).
type ERC3009Authorization struct {
	ValidAfter  Decimal           `json:"validAfter"`
	ValidBefore Decimal           `json:"validBefore"`
	Salt        channel.Hash      `json:"salt"`
	Signature   channel.Signature `json:"signature"`
}

// VoucherPayment pays with a voucher on an open channel.
type VoucherPayment struct {
	Config  channel.Config  `json:"channelConfig"`
	Voucher channel.Voucher `json:"voucher"`
}

// Refund asks for unclaimed escrow back. The client fills the first three
// fields; the server adds the others before it sends it to the facilitator.
type Refund struct {
	Config  channel.Config  `json:"channelConfig"`
	Voucher channel.Voucher `json:"voucher"`          // zero-charge: what is charged already
	Amount  *channel.Amount `json:"amount,omitempty"` // nil asks for all

	Nonce           *Decimal           `json:"refundNonce,omitempty"`
	Claims          []VoucherClaim     `json:"claims,omitzero"` // applied first, in the same transaction; empty, not nil, if there are none
	RefundSignature *channel.Signature `json:"refundAuthorizerSignature,omitempty"`
	ClaimSignature  *channel.Signature `json:"claimAuthorizerSignature,omitempty"`
}

// Claim tells the network how much of each channel's newest voucher was used.
type Claim struct {
	Claims    []VoucherClaim     `json:"claims"`
	Signature *channel.Signature `json:"claimAuthorizerSignature,omitempty"`
}

// VoucherClaim is one row of a claim.
type VoucherClaim struct {
	Voucher      ClaimedVoucher    `json:"voucher"`
	Signature    channel.Signature `json:"signature"` // the payer's, on the voucher
	TotalClaimed channel.Amount    `json:"totalClaimed"`
}

// ClaimedVoucher names the channel by its configuration.
type ClaimedVoucher struct {
	Channel channel.Config `json:"channel"`
	Max     channel.Amount `json:"maxClaimableAmount"`
}

// Settle moves all that was claimed for a receiver to its account.
type Settle struct {
	Receiver channel.Address `json:"receiver"`
	Token    channel.Address `json:"token"`
}

// Payload types on the wire.
const (
	typeDeposit = "deposit"
	typeVoucher = "voucher"
	typeRefund  = "refund"
	typeClaim   = "claim"
	typeSettle  = "settle"
)

// Type returns the payload's type as the standard names it, "exact" for a
// payload of that scheme, and "" for an empty one.
func (p Payload) Type() string {
	switch {
	case p.Exact != nil:
		return SchemeExact
	case p.Deposit != nil:
		return typeDeposit
	case p.Voucher != nil:
		return typeVoucher
	case p.Refund != nil:
		return typeRefund
	case p.Claim != nil:
		return typeClaim
	case p.Settle != nil:
		return typeSettle
	}
	return ""
}

// Payer returns whose money the payload is about, nil if it does not say.
func (p Payload) Payer() *channel.Address {
	switch {
	case p.Exact != nil:
		return &p.Exact.Authorization.From
	case p.Deposit != nil:
		return &p.Deposit.Config.Payer
	case p.Voucher != nil:
		return &p.Voucher.Config.Payer
	case p.Refund != nil:
		return &p.Refund.Config.Payer
	}
	return nil
}

// MarshalJSON writes the one field that is set.
func (p Payload) MarshalJSON() ([]byte, error) {
	switch t := p.Type(); t {
	case SchemeExact:
		return json.Marshal(p.Exact)
	case typeDeposit:
		return json.Marshal(struct {
			Type string `json:"type"`
			*Deposit
		}{t, p.Deposit})
	case typeVoucher:
		return json.Marshal(struct {
			Type string `json:"type"`
			*VoucherPayment
		}{t, p.Voucher})
	case typeRefund:
		return json.Marshal(struct {
			Type string `json:"type"`
			*Refund
		}{t, p.Refund})
	case typeClaim:
		return json.Marshal(struct {
			Type string `json:"type"`
			*Claim
		}{t, p.Claim})
	case typeSettle:
		return json.Marshal(struct {
			Type string `json:"type"`
			*Settle
		}{t, p.Settle})
	}
	return nil, errors.New("x402: empty payload")
}

// UnmarshalJSON reads the payload that "type" names.
func (p *Payload) UnmarshalJSON(b []byte) error {
	var head struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	*p = Payload{}
	if head.Type == nil {
		p.Exact = new(Exact)
		return json.Unmarshal(b, p.Exact)
	}
	switch *head.Type {
	case typeDeposit:
		p.Deposit = new(Deposit)
		return json.Unmarshal(b, p.Deposit)
	case typeVoucher:
		p.Voucher = new(VoucherPayment)
		return json.Unmarshal(b, p.Voucher)
	case typeRefund:
		p.Refund = new(Refund)
		if err := json.Unmarshal(b, p.Refund); err != nil {
			return err
		}
		return checkClaims(p.Refund.Claims)
	case typeClaim:
		p.Claim = new(Claim)
		if err := json.Unmarshal(b, p.Claim); err != nil {
			return err
		}
		return checkClaims(p.Claim.Claims)
	case typeSettle:
		p.Settle = new(Settle)
		return json.Unmarshal(b, p.Settle)
	}
	return fmt.Errorf("unknown payload type %.32q", *head.Type)
}

func checkClaims(rows []VoucherClaim) error {
	if len(rows) > MaxClaims {
		return fmt.Errorf("%d claims in one payload, at most %d", len(rows), MaxClaims)
	}
	return nil
}
