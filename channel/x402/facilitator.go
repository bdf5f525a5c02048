package x402

import (
	"fmt"

	"github.com/depinsim/x402/channel"
)

// FacilitatorRequest is the body of POST /verify and POST /settle.
type FacilitatorRequest struct {
	Version      int            `json:"x402Version"`
	Payload      PaymentPayload `json:"paymentPayload"`
	Requirements Requirements   `json:"paymentRequirements"`
}

// VerifyResponse is the answer to POST /verify. Extra is the channel's state,
// for batch-settlement only.
type VerifyResponse struct {
	IsValid        bool             `json:"isValid"`
	InvalidReason  string           `json:"invalidReason,omitempty"`
	InvalidMessage string           `json:"invalidMessage,omitempty"`
	Payer          *channel.Address `json:"payer,omitempty"`
	Extra          *ChannelState    `json:"extra,omitempty"`
}

// Supported is the answer to GET /supported.
type Supported struct {
	Kinds      []Kind                       `json:"kinds"`
	Extensions []string                     `json:"extensions"`
	Signers    map[string][]channel.Address `json:"signers"` // CAIP-2 pattern to addresses
}

// A Kind is one scheme on one network.
type Kind struct {
	Version int        `json:"x402Version"`
	Scheme  string     `json:"scheme"`
	Network string     `json:"network"`
	Extra   *KindExtra `json:"extra,omitempty"`
}

// KindExtra is what our facilitator says about a network beyond the standard,
// so that its URL is all that a payer or a payee has to know.
type KindExtra struct {
	Asset      *channel.Address `json:"asset,omitempty"`
	Name       string           `json:"name,omitempty"`    // EIP-712 domain of the asset
	Version    string           `json:"version,omitempty"` //
	Contract   *channel.Address `json:"settlementContract,omitempty"`
	Collector  *channel.Address `json:"depositCollector,omitempty"`
	FeeDivisor uint64           `json:"feeDivisor,omitempty"` // a settled total of n has cost n/feeDivisor
}

// Token returns the asset of network in which batch-settlement is paid, as the
// facilitator described it.
func (s Supported) Token(network string) (channel.Token, error) {
	chain, err := channel.ParseNetwork(network)
	if err != nil {
		return channel.Token{}, err
	}
	for _, k := range s.Kinds {
		if k.Version != Version || k.Scheme != SchemeBatch || k.Network != network || k.Extra == nil || k.Extra.Asset == nil {
			continue
		}
		return channel.Token{ChainID: chain, Address: *k.Extra.Asset, Name: k.Extra.Name, Version: k.Extra.Version}, nil
	}
	return channel.Token{}, fmt.Errorf("facilitator names no asset for %s on %s", SchemeBatch, network)
}

// Networks lists the networks on which the facilitator settles channels, in
// its own order.
func (s Supported) Networks() []string {
	var out []string
	for _, k := range s.Kinds {
		if k.Version == Version && k.Scheme == SchemeBatch {
			out = append(out, k.Network)
		}
	}
	return out
}

// BatchRequirements describes c on network as an entry of accepts[]. It is what
// an operation on a channel sends along to the facilitator.
func BatchRequirements(network string, t channel.Token, c channel.Config) Requirements {
	return Requirements{
		Scheme: SchemeBatch, Network: network, Asset: c.Token, PayTo: c.Receiver, MaxTimeoutSeconds: 60,
		Extra: Extra{
			Name: t.Name, Version: t.Version,
			ReceiverAuthorizer: &c.ReceiverAuthorizer, WithdrawDelay: &c.WithdrawDelay,
		},
	}
}

// NetworkError is an answer of one of our own calls (/v1/…) that is not a
// success.
type NetworkError struct {
	Code    string `json:"error"`
	Message string `json:"message,omitempty"`
}

// ChannelInfo is the answer to GET /v1/channels/{network}/{id}. A channel that
// never had a deposit does not exist and has zero amounts.
type ChannelInfo struct {
	ChannelState
	Exists        bool            `json:"exists"`
	Config        *channel.Config `json:"channelConfig,omitempty"`
	WithdrawAmt   channel.Amount  `json:"withdrawAmount"`
	FinalizeAfter uint64          `json:"finalizeAfter"` // Unix seconds, 0 when no withdrawal is pending
	WithdrawNonce Decimal         `json:"withdrawNonce"` // what the next Withdraw must carry
	Time          uint64          `json:"time"`          // the ledger's clock, Unix seconds
}

// AccountInfo is the answer to GET /v1/accounts/{network}/{address}.
type AccountInfo struct {
	Address   channel.Address `json:"address"`
	Balance   channel.Amount  `json:"balance"`
	Claimed   channel.Amount  `json:"claimed"`   // as a receiver, ever
	Settled   channel.Amount  `json:"settled"`   // of Claimed, before the fee
	Unsettled channel.Amount  `json:"unsettled"` // Claimed less Settled
	Fee       channel.Amount  `json:"fee"`       // what settling has cost, ever
}

// Totals is the answer to GET /v1/totals/{network}: where all credit of the
// ledger is. Accounts + Escrow + Unsettled + Fees == Issued - Redeemed.
type Totals struct {
	Height    uint64         `json:"height"` // transactions applied
	Issued    channel.Amount `json:"issued"`
	Redeemed  channel.Amount `json:"redeemed"`
	Accounts  channel.Amount `json:"accounts"`
	Escrow    channel.Amount `json:"escrow"`
	Unsettled channel.Amount `json:"unsettled"`
	Fees      channel.Amount `json:"fees"`
}

// FaucetRequest is the body of POST /v1/faucet, which a facilitator has only in
// development. Ref makes a repeated request a single issue.
type FaucetRequest struct {
	Address channel.Address `json:"address"`
	Amount  channel.Amount  `json:"amount"`
	Ref     channel.Hash    `json:"ref"`
}
