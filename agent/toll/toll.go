// Package toll is what the two sides of a relay's charge agree on: what a relay
// asks for passing packets on, and the messages by which a buyer pays it.
//
// A buyer pays a relay as it pays an agent: on a channel of its own with the
// relay, by cumulative vouchers, for running totals of an account. [Tariff] is
// the offer; a hello ([Seal]) opens the account and is answered by [Opened];
// then come [Payment] and [Reading], and a [Closing] at the end. All travel as
// HTTPS requests to the relay; docs/PROTOCOL.md §12.4 has them.
//
// The package does no I/O. The relay's side is in agent/directory, the buyer's
// in agent/buyer.
package toll

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
)

// A Tariff is what a relay asks. The zero Tariff is a free relay's.
type Tariff struct {
	// Price is atomic units of the asset for 1e9 bytes, both directions alike.
	Price channel.Amount `json:"price"`
	// Authorizer is the relay's key for channels, their receiverAuthorizer.
	Authorizer channel.Address `json:"authorizer"`
	Payment    agent.Payment   `json:"payment"`
}

// Free says whether the relay asks nothing.
func (t Tariff) Free() bool { return t.Price == 0 }

// Parse reads a tariff that a relay tells; nothing is a free one's.
func Parse(b json.RawMessage) (Tariff, error) {
	var t Tariff
	if len(b) == 0 || string(b) == "null" {
		return t, nil
	}
	if len(b) > agent.MaxOffer {
		return t, fmt.Errorf("tariff: longer than %d bytes", agent.MaxOffer)
	}
	if err := x402.Unmarshal(b, &t); err != nil {
		return Tariff{}, fmt.Errorf("tariff: %w", err)
	}
	if err := t.check(); err != nil {
		return Tariff{}, fmt.Errorf("tariff: %w", err)
	}
	return t, nil
}

func (t Tariff) check() error {
	switch {
	case t.Free():
		return nil
	case t.Authorizer.IsZero():
		return errors.New("no authorizer")
	}
	if err := t.PriceOf().Check(); err != nil {
		return err
	}
	return t.Payment.Check()
}

// PriceOf is the price by direction.
func (t Tariff) PriceOf() agent.Price { return agent.Price{Up: t.Price, Down: t.Price} }

// Offer is the tariff in the form of an agent's offer, by the relay's name: a
// channel with the relay is found, filled and kept like one with an agent.
func (t Tariff) Offer(name relay.Name) agent.Offer {
	return agent.Offer{
		Version: agent.OfferVersion, Agent: t.Authorizer, Relays: []string{name.String()},
		Price: t.PriceOf(), Payment: t.Payment,
	}
}

// Requirements say how to pay in the x402 standard's form: by a deposit.
func (t Tariff) Requirements() x402.Requirements {
	token := channel.Token{Name: t.Payment.AssetName, Version: t.Payment.AssetVersion}
	c := agent.Offer{Agent: t.Authorizer, Payment: t.Payment}.Channel(channel.Address{})
	r := x402.BatchRequirements(t.Payment.Network, token, c)
	r.Amount, r.Extra.MinDeposit = t.Payment.MinDeposit, &t.Payment.MinDeposit
	return r
}

// scope is what a hello to a relay signs in place of a TLS exporter: the channel
// names the relay's key, so that the hello counts at no other relay, and nobody
// but the relay sees it.
func scope(id channel.ID) [32]byte {
	return channel.Keccak256([]byte("x402 relay account v1\n"), id[:])
}

// Seal encodes and signs a hello for the channel that it names on d.
func Seal(k *channel.Key, d channel.Domain, h agent.Hello) ([]byte, error) {
	return agent.SealHello(k, scope(d.ID(h.Config)), h)
}

// Unseal decodes a hello, checks that the channel's payerAuthorizer signed it,
// and returns the channel's name.
func Unseal(d channel.Domain, b []byte) (agent.Hello, channel.ID, error) {
	var named struct {
		Config channel.Config `json:"channelConfig"`
	}
	if len(b) < len(channel.Signature{}) {
		return agent.Hello{}, channel.ID{}, errors.New("hello: truncated")
	}
	if err := json.Unmarshal(b[len(channel.Signature{}):], &named); err != nil {
		return agent.Hello{}, channel.ID{}, fmt.Errorf("hello: %w", err)
	}
	id := d.ID(named.Config)
	h, err := agent.OpenHello(scope(id), b)
	if err == nil && h.Config != named.Config {
		err = errors.New("hello: names two channels")
	}
	return h, id, err
}

// Opened is the answer to a hello: the terms, and the credential of the account
// that they hold for.
type Opened struct {
	agent.Terms
	Account string `json:"account"`
}

// Paths of an account, below that at which a hello opens it.
const (
	PayPath   = "/v1/account/pay"   // a Payment, answered by a Reading
	ClosePath = "/v1/account/close" // a Closing, answered by a Closed
)

// A Payment tells the relay what has arrived, and pays. Sent again it changes
// nothing.
type Payment struct {
	// Received is what came from the relay for the account, by the buyer's count.
	Received uint64           `json:"received,string"`
	Voucher  *channel.Voucher `json:"voucher,omitempty"`
	// TopUp says that the deposit has grown beyond the balance of the last reading.
	TopUp bool `json:"topUp,omitempty"`
	// Drain says that nothing more is to pass: the reading in answer is the last.
	Drain bool `json:"drain,omitempty"`
}

// A Reading is an account as the relay counts it. Totals are the account's own,
// since it was opened; amounts are the channel's.
type Reading struct {
	Up      uint64         `json:"up,string"`   // passed on to the agent
	Down    uint64         `json:"down,string"` // to the buyer, whether or not it arrived
	Owed    channel.Amount `json:"owed"`
	Paid    channel.Amount `json:"paid"`
	Credit  channel.Amount `json:"credit"`
	Balance channel.Amount `json:"balance"`
	// Notice says why a voucher was not taken; empty if there is nothing to say.
	Notice string `json:"notice,omitempty"`
}

// A Closing ends the account: the relay claims what is owed and refunds the rest.
type Closing struct {
	Payment
	Refund bool `json:"refund"`
}

// A Closed is what came of a Closing. While Pending it is asked for again.
type Closed struct {
	agent.Closed
	Pending bool `json:"pending,omitempty"`
}

// Codes of refusals, beside those of agent's notices.
const (
	CodeUnpaid   = "unpaid"          // the credit is used up and nothing was paid for 30 s
	CodeUnknown  = "account_unknown" // as after a restart of the relay
	CodeReplaced = "replaced"        // the channel has another account by now
	CodeIdle     = "idle"            // the account was not used
	CodePay      = "payment_required"
)
