// Package x402 holds the messages of the x402 payment standard, version 2, as
// they travel over HTTP: what a server asks for, what a client pays with, and
// what a facilitator answers. It speaks the schemes "exact" and
// "batch-settlement" on eip155 networks.
//
// Decoding is bounded and strict about money: amounts are decimal strings that
// fit an [channel.Amount], an object that names a member twice is refused, and
// so is anything after the first JSON value. Members that are not known are
// ignored, as the standard's extensions need. Use [Unmarshal] for bodies and
// [DecodeHeader] for headers; encoding/json alone does not apply these rules.
//
// The package does no I/O, and reads no clock.
package x402

import (
	"bytes"
	"encoding/json"
	"maps"

	"github.com/depinsim/x402/channel"
)

// Version is the protocol version on the wire.
const Version = 2

// Schemes of the standard that this package knows.
const (
	SchemeExact = "exact"
	SchemeBatch = "batch-settlement"
)

// Headers of the HTTP transport; their values are base64 JSON ([EncodeHeader]).
const (
	HeaderRequired  = "PAYMENT-REQUIRED"  // server to client with status 402: [PaymentRequired]
	HeaderSignature = "PAYMENT-SIGNATURE" // client to server: [PaymentPayload]
	HeaderResponse  = "PAYMENT-RESPONSE"  // server to client: [SettlementResponse]
)

// A Decimal is an unsigned number that the standard writes as a decimal
// string: a nonce or a point in time, never money. A bare integer is accepted.
type Decimal uint64

// MarshalText writes d as a decimal string.
func (d Decimal) MarshalText() ([]byte, error) { return channel.Amount(d).MarshalText() }

// UnmarshalJSON reads a decimal string or a bare integer.
func (d *Decimal) UnmarshalJSON(b []byte) error { return (*channel.Amount)(d).UnmarshalJSON(b) }

// A Resource describes what is paid for.
type Resource struct {
	URL         string `json:"url"`
	Description string `json:"description,omitempty"`
	MIMEType    string `json:"mimeType,omitempty"`
}

// PaymentRequired is a server's answer to a request that was not paid for.
type PaymentRequired struct {
	Version    int                        `json:"x402Version"`
	Error      string                     `json:"error,omitempty"`
	Resource   *Resource                  `json:"resource,omitempty"`
	Accepts    []Requirements             `json:"accepts"`
	Extensions map[string]json.RawMessage `json:"extensions,omitempty"`
}

// Requirements is one way to pay: an entry of PaymentRequired.Accepts, which
// the client echoes unchanged in PaymentPayload.Accepted.
type Requirements struct {
	Scheme            string          `json:"scheme"`
	Network           string          `json:"network"` // CAIP-2
	Amount            channel.Amount  `json:"amount"`
	Asset             channel.Address `json:"asset"`
	PayTo             channel.Address `json:"payTo"`
	MaxTimeoutSeconds int             `json:"maxTimeoutSeconds"`
	Extra             Extra           `json:"extra"`
}

// Extra holds the scheme's own part of Requirements. Members that are not
// listed here survive a round trip in Other, since clients must echo them.
type Extra struct {
	Name                string           `json:"name,omitempty"`    // EIP-712 domain of the asset
	Version             string           `json:"version,omitempty"` //
	AssetTransferMethod string           `json:"assetTransferMethod,omitempty"`
	ReceiverAuthorizer  *channel.Address `json:"receiverAuthorizer,omitempty"`
	WithdrawDelay       *uint64          `json:"withdrawDelay,omitempty"` // seconds
	MinDeposit          *channel.Amount  `json:"minDeposit,omitempty"`
	ChannelState        *ChannelState    `json:"channelState,omitempty"` // corrective answers only
	VoucherState        *VoucherState    `json:"voucherState,omitempty"`

	Other map[string]json.RawMessage `json:"-"`
}

// MarshalJSON writes the known members and those of Other.
func (e Extra) MarshalJSON() ([]byte, error) {
	type plain Extra
	known, err := json.Marshal(plain(e))
	if err != nil || len(e.Other) == 0 {
		return known, err
	}
	all := make(map[string]json.RawMessage)
	maps.Copy(all, e.Other)
	if err := json.Unmarshal(known, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads the known members and keeps the others in Other.
func (e *Extra) UnmarshalJSON(b []byte) error {
	type plain Extra
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for _, k := range [...]string{"name", "version", "assetTransferMethod", "receiverAuthorizer",
		"withdrawDelay", "minDeposit", "channelState", "voucherState"} {
		delete(all, k)
	}
	p.Other = nil
	if len(all) > 0 {
		p.Other = all
	}
	*e = Extra(p)
	return nil
}

// ChannelState is what the network, and in answers to a payer also the server,
// holds of a channel.
type ChannelState struct {
	Channel             channel.ID      `json:"channelId"`
	Balance             channel.Amount  `json:"balance"`
	TotalClaimed        channel.Amount  `json:"totalClaimed"`
	WithdrawRequestedAt uint64          `json:"withdrawRequestedAt"` // Unix seconds, 0 for none
	RefundNonce         Decimal         `json:"refundNonce"`
	Charged             *channel.Amount `json:"chargedCumulativeAmount,omitempty"`
}

// VoucherState is the newest voucher a server holds; it proves
// ChannelState.Charged to a payer who lost his record.
type VoucherState struct {
	SignedMaxClaimable channel.Amount    `json:"signedMaxClaimable"`
	Signature          channel.Signature `json:"signature"`
}

// PaymentPayload is a payment: which of the server's requirements the client
// chose, and the scheme's own message.
type PaymentPayload struct {
	Version    int                        `json:"x402Version"`
	Resource   *Resource                  `json:"resource,omitempty"`
	Accepted   Requirements               `json:"accepted"`
	Payload    Payload                    `json:"payload"`
	Extensions map[string]json.RawMessage `json:"extensions,omitempty"`
}

// SettlementResponse is the outcome of a payment.
type SettlementResponse struct {
	Success      bool
	ErrorReason  string           // one of the standard's codes, if not Success
	ErrorMessage string           // for people
	Payer        *channel.Address // nil where the operation has none
	Transaction  string           // hash, or empty
	Network      string
	Amount       *channel.Amount // nil is written as "": no tokens moved
	Extra        *SettlementExtra
	Extensions   map[string]json.RawMessage
}

// SettlementExtra is the part of a SettlementResponse that batch-settlement
// adds.
type SettlementExtra struct {
	ChargedAmount *channel.Amount `json:"chargedAmount,omitempty"`
	ChannelState  *ChannelState   `json:"channelState,omitempty"`
	VoucherState  *VoucherState   `json:"voucherState,omitempty"`
	Fee           *channel.Amount `json:"fee,omitempty"` // ours: what a settle cost the receiver
}

// wireSettlement is SettlementResponse as it is written: amount may be "".
type wireSettlement struct {
	Success      bool                       `json:"success"`
	ErrorReason  string                     `json:"errorReason,omitempty"`
	ErrorMessage string                     `json:"errorMessage,omitempty"`
	Payer        string                     `json:"payer,omitempty"`
	Transaction  string                     `json:"transaction"`
	Network      string                     `json:"network"`
	Amount       json.RawMessage            `json:"amount,omitempty"`
	Extra        *SettlementExtra           `json:"extra,omitempty"`
	Extensions   map[string]json.RawMessage `json:"extensions,omitempty"`
}

// MarshalJSON writes a nil Amount as "", the standard's form for a response
// without a transfer.
func (r SettlementResponse) MarshalJSON() ([]byte, error) {
	w := wireSettlement{
		Success: r.Success, ErrorReason: r.ErrorReason, ErrorMessage: r.ErrorMessage,
		Transaction: r.Transaction, Network: r.Network, Amount: json.RawMessage(`""`),
		Extra: r.Extra, Extensions: r.Extensions,
	}
	if r.Payer != nil {
		w.Payer = r.Payer.String()
	}
	if r.Amount != nil {
		w.Amount = json.RawMessage(`"` + r.Amount.String() + `"`)
	}
	return json.Marshal(w)
}

// UnmarshalJSON accepts a missing or empty payer and amount.
func (r *SettlementResponse) UnmarshalJSON(b []byte) error {
	var w wireSettlement
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	out := SettlementResponse{
		Success: w.Success, ErrorReason: w.ErrorReason, ErrorMessage: w.ErrorMessage,
		Transaction: w.Transaction, Network: w.Network, Extra: w.Extra, Extensions: w.Extensions,
	}
	if w.Payer != "" {
		a, err := channel.ParseAddress(w.Payer)
		if err != nil {
			return err
		}
		out.Payer = &a
	}
	if len(w.Amount) > 0 && !bytes.Equal(w.Amount, []byte(`""`)) && !bytes.Equal(w.Amount, []byte("null")) {
		out.Amount = new(channel.Amount)
		if err := out.Amount.UnmarshalJSON(w.Amount); err != nil {
			return err
		}
	}
	*r = out
	return nil
}
