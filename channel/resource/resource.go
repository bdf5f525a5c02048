// Package resource is an x402 resource server: HTTP handlers that are paid for
// with each request, by the scheme batch-settlement (a voucher on a channel) or
// exact (one transfer), and the channels that they are paid by.
//
//	s, err := resource.New(resource.Config{Key: key, PayTo: address, Token: token,
//		Store: store, Facilitator: client})
//	h, err := s.Handler(resource.Route{Price: 100}, weather)
//	http.Handle("GET /weather", h)
//	… s.Run(ctx) // claims and settles, until ctx is cancelled
//
// A handler runs once its payment is known to be good, and may say by [Charge]
// that the request costs less than the route's price. What it charges is stored
// before the first byte of its answer leaves, and the answer carries
// PAYMENT-RESPONSE. An answer of status 400 and above is not charged for.
//
// One channel has one request at a time. A client and a server whose counts
// differ are told apart by the corrective 402 of the standard, which shows the
// newest voucher; after a loss of all records here the client's count is taken
// over, since its voucher proves it. A payer who begins to withdraw is served no
// more, and his vouchers are claimed at once.
//
// The facilitator is any that speaks the standard: nothing here needs more than
// its /verify and /settle.
package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// Config configures a Server. Zero fields have the defaults named.
type Config struct {
	Key         *channel.Key    // signs claims and refunds: the channels' receiverAuthorizer
	PayTo       channel.Address // is paid
	Token       channel.Token   // in this asset, on its chain
	Store       channel.Store   // keeps the channels; the caller's to close
	Facilitator Facilitator
	// WithdrawDelay is how long a payer's withdrawal takes. Default 24 h.
	WithdrawDelay time.Duration
	// MinDeposit is the least that a channel is opened or topped up with.
	// Default 100,000 (0.10 USD).
	MinDeposit channel.Amount
	// SettleEvery is how long Run waits between two settlements. Default 24 h, and
	// never more than half of WithdrawDelay: a payer who begins to withdraw and is
	// not heard of again leaves no voucher that is not claimed in time.
	SettleEvery time.Duration
	// SettleAt is the unclaimed amount that Run settles at once. Default
	// 1,000,000 (1 USD).
	SettleAt channel.Amount
	// BaseURL is what resources are called by, such as https://api.example; it
	// is needed behind a proxy that changes host or scheme. Default: what the
	// request says.
	BaseURL string
	Logger  *slog.Logger // nil: log nothing
}

// A Facilitator checks payments and executes them. *facilitator.Client is one.
type Facilitator interface {
	Verify(ctx context.Context, p x402.PaymentPayload, r x402.Requirements) (x402.VerifyResponse, error)
	Settle(ctx context.Context, p x402.PaymentPayload, r x402.Requirements) (x402.SettlementResponse, error)
}

var _ Facilitator = (*facilitator.Client)(nil)

const (
	// freshTime is how long what a facilitator said of a channel is relied on:
	// far less than the shortest withdrawal takes.
	freshTime = 5 * time.Minute
	// paymentTime is how long a payment stays good that a client signs.
	paymentTime = 5 * time.Minute
	// callTime bounds a call of the facilitator that must be heard to its end.
	callTime = 30 * time.Second
)

// A Server takes payments for any number of routes. It is safe for concurrent
// use, and starts nothing by itself.
type Server struct {
	cfg     Config
	log     *slog.Logger
	domain  channel.Domain
	network string
	payee   *channel.Payee
	answers answers       // to requests that named themselves
	due     chan struct{} // one token: settle now; dropped when there is one

	mu     sync.Mutex
	busy   map[any]bool             // channels and exact payments in work; true: to be forgotten afterwards
	synced map[channel.ID]time.Time // when the facilitator was heard last
}

// New returns a server that knows the channels in cfg.Store.
func New(cfg Config) (*Server, error) {
	if cfg.Key == nil || cfg.Store == nil || cfg.Facilitator == nil {
		return nil, errors.New("resource: Config needs a Key, a Store and a Facilitator")
	}
	if cfg.PayTo.IsZero() || cfg.Token.Address.IsZero() || cfg.Token.ChainID == 0 || cfg.Token.Name == "" {
		return nil, errors.New("resource: Config needs PayTo and Token")
	}
	if cfg.WithdrawDelay == 0 {
		cfg.WithdrawDelay = 24 * time.Hour
	}
	if d := uint64(cfg.WithdrawDelay / time.Second); d < channel.MinWithdrawDelay || d > channel.MaxWithdrawDelay {
		return nil, fmt.Errorf("resource: WithdrawDelay %v: want 15 minutes to 30 days", cfg.WithdrawDelay)
	}
	if cfg.MinDeposit == 0 {
		cfg.MinDeposit = 100_000
	}
	if cfg.SettleEvery == 0 {
		cfg.SettleEvery = 24 * time.Hour
	}
	cfg.SettleEvery = min(cfg.SettleEvery, cfg.WithdrawDelay/2)
	if cfg.SettleAt == 0 {
		cfg.SettleAt = 1_000_000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	payee, err := channel.NewPayee(cfg.Store)
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg: cfg, log: cfg.Logger, payee: payee,
		domain:  channel.Domain{ChainID: cfg.Token.ChainID, Contract: channel.SettlementContract()},
		network: channel.NetworkName(cfg.Token.ChainID),
		due:     make(chan struct{}, 1),
		busy:    map[any]bool{}, synced: map[channel.ID]time.Time{},
	}, nil
}

// A Route is what one handler costs and how it is described.
type Route struct {
	Price channel.Amount // the most that a request costs; see Charge
	// Schemes are how it may be paid, best first. Default: batch-settlement,
	// then exact.
	Schemes               []string
	Description, MIMEType string
	// Discovery describes the route to those who list resources; nil: it is not
	// to be listed.
	Discovery *Discovery
	// NeedID refuses requests without a payment-identifier, which all others may
	// have.
	NeedID bool
}

// A handler is a Route of a Server.
type handler struct {
	*Server
	route      Route
	accepts    []x402.Requirements
	extensions extensions
	next       http.Handler
}

// Handler returns next behind a payment for each request.
func (s *Server) Handler(route Route, next http.Handler) (http.Handler, error) {
	if route.Price == 0 {
		return nil, errors.New("resource: Route.Price is zero: a handler that costs nothing needs no Route")
	}
	if len(route.Schemes) == 0 {
		route.Schemes = []string{x402.SchemeBatch, x402.SchemeExact}
	}
	h := &handler{Server: s, route: route, next: next}
	for _, scheme := range route.Schemes {
		r := x402.Requirements{
			Scheme: scheme, Network: s.network, Amount: route.Price, Asset: s.cfg.Token.Address, PayTo: s.cfg.PayTo,
			MaxTimeoutSeconds: int(paymentTime / time.Second),
			Extra:             x402.Extra{Name: s.cfg.Token.Name, Version: s.cfg.Token.Version},
		}
		switch scheme {
		case x402.SchemeExact:
		case x402.SchemeBatch:
			authorizer, delay := s.cfg.Key.Address(), uint64(s.cfg.WithdrawDelay/time.Second)
			least := max(s.cfg.MinDeposit, route.Price)
			r.Extra.ReceiverAuthorizer, r.Extra.WithdrawDelay, r.Extra.MinDeposit = &authorizer, &delay, &least
		default:
			return nil, fmt.Errorf("resource: Route.Schemes: %q is not a scheme known here", scheme)
		}
		h.accepts = append(h.accepts, r)
	}
	var err error
	if h.extensions, err = newExtensions(route); err != nil {
		return nil, err
	}
	// The longest that it can be has to fit: a character is six when escaped.
	for _, method := range methods {
		longest := &http.Request{Method: method, Host: strings.Repeat("&", maxURL)}
		corrective := refusal{channel: new(x402.ChannelState), voucher: new(x402.VoucherState)}
		if _, err := x402.EncodeHeader(h.required(longest, corrective)); err != nil {
			return nil, fmt.Errorf("resource: Route: its description is too long: %w", err)
		}
	}
	return h, nil
}

// take begins work on a channel or an exact payment, of which there is one at a
// time. It reports false when there is some already.
func (s *Server) take(what any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.busy[what]; busy {
		return false
	}
	s.busy[what] = false
	return true
}

func (s *Server) release(what any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := what.(channel.ID); ok && s.busy[what] {
		delete(s.synced, id)
	}
	delete(s.busy, what)
}

// fresh says whether the facilitator was heard about a channel lately.
func (s *Server) fresh(id channel.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.synced[id]
	return ok && time.Since(t) < freshTime
}

// observe stores what the facilitator says of a channel.
func (s *Server) observe(m x402.ChannelState) (channel.State, error) {
	withdrawAt := m.WithdrawRequestedAt
	if withdrawAt != 0 {
		withdrawAt += uint64(s.cfg.WithdrawDelay / time.Second)
		s.settleSoon()
	}
	state, err := s.payee.Observe(m.Channel, m.Balance, m.TotalClaimed, uint64(m.RefundNonce), withdrawAt)
	if err == nil {
		s.mu.Lock()
		s.synced[m.Channel] = time.Now()
		s.mu.Unlock()
	}
	return state, err
}

// message is the channel as a payer is told of it.
func (s *Server) message(state channel.State, charged channel.Amount) *x402.ChannelState {
	m := &x402.ChannelState{
		Channel: state.ID, Balance: state.Balance, TotalClaimed: state.Claimed,
		RefundNonce: x402.Decimal(state.RefundNonce), Charged: &charged,
	}
	if state.WithdrawAt != 0 {
		m.WithdrawRequestedAt = state.WithdrawAt - uint64(s.cfg.WithdrawDelay/time.Second)
	}
	return m
}
