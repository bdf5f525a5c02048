package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

// OfferPath is where an agent serves its offer over HTTP/3.
const OfferPath = "/.well-known/x402/offer"

// Limits of an offer: what is read from strangers is bounded.
const (
	MaxOffer     = 8 << 10
	MaxRelays    = 4
	maxEndpoints = 8
	maxText      = 64
	maxHost      = 253 // RFC 1035 §2.3.4, as text
)

// OfferVersion is the version of the Offer's shape.
const OfferVersion = 1

// An Offer says what an agent sells, for how much, how it is reached and how
// it is paid. It is signed by the agent's device key.
type Offer struct {
	Version int             `json:"version"`
	Agent   channel.Address `json:"agent"` // the device key's; also the channel's receiverAuthorizer
	// Seq rises with every change: of two offers of an agent the higher counts.
	Seq       uint64   `json:"seq"`
	Endpoints []string `json:"endpoints,omitempty"` // host:port, UDP; also TCP if the agent listens there
	// Relays are where an agent without a public address is reached, by their
	// names: host:port or host:port#pin.
	Relays    []string     `json:"relays,omitempty"`
	TunnelKey channel.Hash `json:"tunnelKey"` // SHA-256 of the TLS key's SubjectPublicKeyInfo
	Price     Price        `json:"price"`     // atomic units per 1e9 bytes
	Payment   Payment      `json:"payment"`
	SIM       SIM          `json:"sim"`
}

// Payment says where and to whom a channel pays.
type Payment struct {
	Network       string          `json:"network"` // CAIP-2
	Facilitator   string          `json:"facilitator"`
	Asset         channel.Address `json:"asset"`
	AssetName     string          `json:"assetName"` // with AssetVersion the asset's EIP-712 domain
	AssetVersion  string          `json:"assetVersion"`
	PayTo         channel.Address `json:"payTo"`
	WithdrawDelay uint64          `json:"withdrawDelay"` // seconds
	MinDeposit    channel.Amount  `json:"minDeposit"`
}

// Evidence of a SIM's claims. An offer says claimed, whatever is in it: more is
// what a relay or a buyer found by itself.
const (
	EvidenceClaimed = "claimed" // the agent says so
	EvidenceCarrier = "carrier" // the address is in a network of the carrier of that MCC and MNC
)

// SIM is what an agent says of its SIM and network. The IMSI is not part of it.
type SIM struct {
	MCC        string `json:"mcc,omitempty"`
	MNC        string `json:"mnc,omitempty"`
	Operator   string `json:"operator,omitempty"`
	Technology string `json:"technology,omitempty"`
	Roaming    bool   `json:"roaming,omitempty"`
	Evidence   string `json:"evidence,omitempty"`
}

// Domain is the EIP-712 domain of the offer's channels.
func (p Payment) Domain() (channel.Domain, error) {
	id, err := channel.ParseNetwork(p.Network)
	if err != nil {
		return channel.Domain{}, err
	}
	return channel.Domain{ChainID: id, Contract: channel.SettlementContract()}, nil
}

// Token is the EIP-712 domain of the offer's asset.
func (p Payment) Token() (channel.Token, error) {
	id, err := channel.ParseNetwork(p.Network)
	if err != nil {
		return channel.Token{}, err
	}
	return channel.Token{ChainID: id, Address: p.Asset, Name: p.AssetName, Version: p.AssetVersion}, nil
}

// Channel is the channel that payer uses with the agent: one for each pair,
// found again after any loss of state.
func (o Offer) Channel(payer channel.Address) channel.Config {
	return channel.Config{
		Payer: payer, PayerAuthorizer: payer,
		Receiver: o.Payment.PayTo, ReceiverAuthorizer: o.Agent,
		Token: o.Payment.Asset, WithdrawDelay: o.Payment.WithdrawDelay,
	}
}

// signedOffer is the form on the wire and in files. The signature is over the
// offer member without insignificant white space, so that a file may be
// formatted.
type signedOffer struct {
	Offer     json.RawMessage   `json:"offer"`
	Signature channel.Signature `json:"signature"`
}

func offerDigest(compact []byte) channel.Hash {
	return channel.Keccak256([]byte("x402 offer v1\n"), compact)
}

// SignOffer returns the signed form of o. The key must be the agent's.
func SignOffer(k *channel.Key, o Offer) ([]byte, error) {
	o.Version, o.Agent = OfferVersion, k.Address()
	if err := o.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(signedOffer{raw, k.Sign(offerDigest(raw))})
	if err != nil {
		return nil, err
	}
	if len(b) > MaxOffer {
		return nil, fmt.Errorf("offer of %d bytes, at most %d are allowed", len(b), MaxOffer)
	}
	return b, nil
}

// RelayDigest is what an agent signs by its device key to prove to a relay who it
// is; the exporter is that of their TLS connection, relay.ExporterLabel.
func RelayDigest(exporter [32]byte) channel.Hash {
	return channel.Keccak256([]byte("x402 relay v1\n"), exporter[:])
}

// ParseOffer checks a signed offer and returns it.
func ParseOffer(b []byte) (Offer, error) {
	o, err := parseOffer(b)
	if err != nil {
		return Offer{}, fmt.Errorf("offer: %w", err)
	}
	return o, nil
}

func parseOffer(b []byte) (Offer, error) {
	if len(b) > MaxOffer {
		return Offer{}, fmt.Errorf("longer than %d bytes", MaxOffer)
	}
	var s signedOffer
	if err := json.Unmarshal(b, &s); err != nil {
		return Offer{}, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, s.Offer); err != nil {
		return Offer{}, err
	}
	var o Offer
	if err := json.Unmarshal(s.Offer, &o); err != nil {
		return Offer{}, err
	}
	if o.Version != OfferVersion {
		return Offer{}, fmt.Errorf("version %d, this program knows %d: update it", o.Version, OfferVersion)
	}
	signer, err := channel.Recover(offerDigest(compact.Bytes()), s.Signature)
	if err != nil {
		return Offer{}, err
	}
	if signer != o.Agent {
		return Offer{}, fmt.Errorf("signed by %s, not by the agent %s", signer, o.Agent)
	}
	return o, o.check()
}

func (o Offer) check() error {
	switch {
	case len(o.Endpoints) == 0 && len(o.Relays) == 0:
		return errors.New("neither an endpoint nor a relay")
	case len(o.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d endpoints, at most %d are allowed", len(o.Endpoints), maxEndpoints)
	case len(o.Relays) > MaxRelays:
		return fmt.Errorf("%d relays, at most %d are allowed", len(o.Relays), MaxRelays)
	}
	for _, r := range o.Relays {
		if _, err := relay.ParseName(r); err != nil {
			return err
		}
	}
	for _, e := range o.Endpoints {
		if err := CheckEndpoint(e); err != nil {
			return err
		}
	}
	if err := o.Price.Check(); err != nil {
		return err
	}
	if err := o.Payment.Check(); err != nil {
		return err
	}
	return checkTexts(o.SIM.MCC, o.SIM.MNC, o.SIM.Operator, o.SIM.Technology, o.SIM.Evidence)
}

// Check refuses terms of payment that nobody could be paid by, or that are not
// fit to be shown.
func (p Payment) Check() error {
	if _, err := p.Domain(); err != nil {
		return err
	}
	if u, err := url.Parse(p.Facilitator); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("facilitator %.80q, want an http or https URL", p.Facilitator)
	}
	if p.PayTo.IsZero() || p.Asset.IsZero() {
		return errors.New("payTo and asset must be set")
	}
	return checkTexts(p.AssetName, p.AssetVersion)
}

func checkTexts(texts ...string) error {
	for _, s := range texts {
		if len(s) > maxText {
			return fmt.Errorf("text of %d bytes, at most %d are allowed", len(s), maxText)
		}
		if strings.ContainsFunc(s, steers) {
			return fmt.Errorf("text %q has a control character", s)
		}
	}
	return nil
}

// CheckEndpoint refuses what is not host:port.
func CheckEndpoint(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err == nil && host != "" && len(host) <= maxHost && !strings.ContainsFunc(host, steers) {
		if n, perr := strconv.ParseUint(port, 10, 16); perr == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf("endpoint %.80q, want host:port", s)
}

// steers reports what could steer a terminal or change how the text around it
// reads: controls, formats such as those of bidirectional text, separators of
// lines, and what was not UTF-8.
func steers(r rune) bool {
	return r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
}
