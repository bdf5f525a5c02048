// Package seller is the agent: it reads the SIM, sells traffic under its
// owner's rules, relays it, counts it and is paid for it.
//
// [Run] is the composition root of modem, tunnel, meter and channel. One
// [session] serves one buyer; account.go says what a session owes, settle.go
// turns vouchers into money.
package seller

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
)

// A Facilitator settles channels. *facilitator.Client is one.
type Facilitator interface {
	Look(ctx context.Context, network string, v x402.VoucherPayment) (x402.ChannelInfo, error)
	Claim(ctx context.Context, network string, c x402.Claim) (x402.SettlementResponse, error)
	SettleReceiver(ctx context.Context, network string, receiver, token channel.Address) (x402.SettlementResponse, error)
	Refund(ctx context.Context, network string, r x402.Refund) (x402.SettlementResponse, error)
}

var _ Facilitator = (*facilitator.Client)(nil)

// A Seller is one line of a running agent: it sells one SIM, or none.
type Seller struct {
	cfg    Config
	log    *slog.Logger
	key    *channel.Key // the device's
	tls    *ecdsa.PrivateKey
	secret [32]byte // seals proofs
	tokens [32]byte // seals tokens
	domain channel.Domain
	token  channel.Token
	fac    Facilitator
	dialer tunnel.Dialer
	way    *way    // nil: as the device routes
	finder *finder // nil: the modem's port is known
	reach  *reach  // set by run, like relays and addr; others than run's lock mu
	relays []*relayLink
	rate   bbr.Cap // of all that goes to buyers
	// strangers are connections without a session or a token yet.
	strangers tunnel.Strangers

	journal  *channel.Journal
	payee    *channel.Payee
	addr     net.Addr // nil: not yet
	started  time.Time
	settle   chan settleRequest // served by settleLoop; unbuffered
	due      chan bool          // one token: enough is unclaimed to claim, and if true to settle
	alarm    chan channel.ID    // one: its payer withdraws, as a relay says
	hands    hands
	settled  string // the last settlement's transaction; settleLoop's, then lastSettle's
	sim      simWatch
	ration   *ration // nil: the SIM's plan is not kept
	cards    *cards
	links    *links
	receipts receiptBook
	looks    looks
	serves   func() // buyers are served; again does nothing

	recovery  *modem.Recovery // watchSIM's; nil: the modem is left as it is
	turnstile turnstile
	flight    flight
	radio     chan func(context.Context) // done by radioLoop; unbuffered

	unused chan struct{} // one token: a token is void and has a deposit left

	mu       sync.Mutex
	sessions map[channel.ID]*session  // serving
	uses     map[channel.ID]*tokenUse // tokens that flows use; a channel has a session or a use
	usedAt   map[channel.ID]time.Time // when the use of a token ended
	passed   map[string]int           // connections whose flows come by tokens, by where from
	tunnels  map[*tunnel.Session]bool // all connections
	rotated  RotationStatus
	// rotateFrom is when others than the owner may have the address changed again.
	rotateFrom time.Time
	closing    bool   // no new sessions
	offer      []byte // signed
	offerSeq   uint64
	alarmedAt  time.Time
	// unsettled is why the last settlement failed, nil if it did not.
	unsettled error
	// leftBehind is what channels without a session owe and denied.
	leftBehind channel.Amount
}

func open(c Config) (*Seller, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Seller{
		cfg: c, log: c.Logger, fac: c.Facilitator, dialer: c.Dialer,
		started: time.Now(), sessions: make(map[channel.ID]*session), settle: make(chan settleRequest), due: make(chan bool, 1), alarm: make(chan channel.ID, 1),
		hands:  hands{soon: make(chan struct{}, 1), gave: make(map[channel.ID]channel.Amount), kept: make(map[channel.ID]channel.Amount)},
		serves: func() {}, radio: make(chan func(context.Context)), tunnels: make(map[*tunnel.Session]bool), unused: make(chan struct{}, 1), uses: make(map[channel.ID]*tokenUse), usedAt: make(map[channel.ID]time.Time), passed: make(map[string]int),
	}
	if s.domain, err = c.Payment.Domain(); err != nil {
		return nil, err
	}
	if s.token, err = c.Payment.Token(); err != nil {
		return nil, err
	}
	if s.fac == nil {
		if s.fac, err = facilitator.NewDirect(c.Payment.Facilitator); err != nil {
			return nil, err
		}
	}
	s.turnstile.s = s
	if s.way, err = newWay(c.Policy.Interface); err != nil {
		return nil, fmt.Errorf("policy: interface: %w", err)
	}
	if s.dialer == nil {
		if s.dialer, err = newPolicy(c.Policy, s.way); err != nil {
			return nil, err
		}
	}
	if err := s.loadKeys(); err != nil {
		return nil, err
	}
	s.secret, s.tokens = s.key.Derive("x402 proof v1"), s.key.Derive("x402 token v1")
	s.rate.Set(lowest(c))
	s.strangers.Most = c.MaxStrangers
	if s.journal, err = channel.OpenJournal(filepath.Join(c.StateDir, channelsFolder)); err != nil {
		return nil, err
	}
	if n := s.journal.Dropped(); n > 0 {
		s.log.Warn("the journal's torn tail was cut off, as after a power loss", "bytes", n)
	}
	if s.payee, err = channel.NewPayee(s.journal); err != nil {
		return nil, errors.Join(err, s.journal.Close())
	}
	s.receipts.dir = c.StateDir
	s.keepReceipts()
	if s.cards, err = openCards(filepath.Join(c.StateDir, cardsFile), s.key.Derive("x402 sim v1"), c.SellNewSIM); err != nil {
		return nil, errors.Join(err, s.journal.Close())
	}
	if s.links, err = openLinks(filepath.Join(c.StateDir, linksFile)); err != nil {
		return nil, errors.Join(err, s.journal.Close())
	}
	s.sim.wake, s.sim.history = make(chan struct{}, 1), modem.NewHistory(maxSamples)
	if s.sim.wanted = c.Modem != nil; s.sim.wanted {
		s.sim.card = s.cards.last() // what was withheld stays so until the SIM is read
	}
	s.countLeftBehind()
	if s.recovery, err = openRecovery(c); err != nil {
		return nil, errors.Join(fmt.Errorf("recovery: %w", err), s.journal.Close())
	}
	if c.Plan == nil {
		return s, nil
	}
	if s.ration, err = openRation(c, s.way); err != nil {
		return nil, errors.Join(err, s.journal.Close())
	}
	return s, nil
}

// lowest is the bound of the rate: the agent's or its plan's.
func lowest(c Config) uint64 {
	if c.Plan == nil || c.Plan.Rate == 0 || c.Rate != 0 && c.Rate < c.Plan.Rate {
		return c.Rate
	}
	return c.Plan.Rate
}

// close lets the files go.
func (s *Seller) close() error {
	err := s.journal.Close()
	if s.recovery != nil {
		err = errors.Join(err, s.recovery.Close())
	}
	if s.ration != nil {
		err = errors.Join(err, s.ration.book.Close())
	}
	return err
}

// run sells until ctx is cancelled, then drains, claims and returns nil.
func (s *Seller) run(ctx context.Context) error {
	if s.cfg.Retired {
		err := s.settleLoop(ctx)
		s.lastSettle(context.WithoutCancel(ctx))
		return err
	}
	r, err := s.openReach(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.reach, s.addr, s.relays, s.closing = r, r.quic.Addr(), r.relays, false
	s.mu.Unlock()
	if s.ration != nil {
		if s.cfg.Modem == nil {
			if _, err := s.ration.book.Use(noSIM); err != nil {
				return errors.Join(err, r.close())
			}
		}
		s.lookAtPlan(ctx, time.Now())
	}
	if err := s.publish(ctx); err != nil {
		return errors.Join(err, r.close())
	}
	s.log.Info("selling", "agent", s.key.Address(), "listen", s.addr, "price_up", s.cfg.Price.Up, "price_down", s.cfg.Price.Down, "network", s.cfg.Payment.Network)

	// Sessions outlive ctx for as long as it takes to drain them.
	sctx, endSessions := context.WithCancel(context.WithoutCancel(ctx))
	defer endSessions()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.watchSIM(gctx) })
	g.Go(func() error { return s.settleLoop(gctx) })
	g.Go(func() error { return s.handLoop(gctx) })
	g.Go(func() error { return s.tokenLoop(gctx) })
	g.Go(func() error { return s.radioLoop(gctx) })
	g.Go(func() error { return r.run(gctx, sctx) })
	r.sessions.Go(func() error { return s.planLoop(sctx) }) // flows that drain need it
	err = g.Wait()

	s.landAtLast(context.WithoutCancel(ctx))
	s.stop()
	s.stopUses()
	endSessions()
	err = errors.Join(err, r.sessions.Wait(), r.close())
	if ctx.Err() == nil {
		return err
	}
	s.lastSettle(context.WithoutCancel(ctx))
	s.log.Info("stopped")
	return nil
}

// drainTime bounds an orderly stop's wait for flows.
const drainTime = 10 * time.Second

// stop tells all sessions to finish and waits for them, within drainTime.
func (s *Seller) stop() {
	s.mu.Lock()
	s.closing = true
	all := make([]*session, 0, len(s.sessions))
	for _, x := range s.sessions {
		all = append(all, x)
	}
	s.mu.Unlock()
	if len(all) == 0 {
		return
	}
	s.log.Info("draining", "sessions", len(all))
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	for _, x := range all {
		x.leave(agent.Notice{Code: agent.NoticeDraining, Text: "the agent stops; finish and pay"})
	}
	for _, x := range all {
		select {
		case <-x.done:
		case <-timer.C:
			return
		}
	}
}

// publish signs the present offer and hands it to the relays. While the SIM is
// withheld or the radio is off there is none, and the one before is withdrawn.
func (s *Seller) publish(ctx context.Context) error {
	if s.sim.withheld() || s.flight.on() {
		return s.withdraw(ctx)
	}
	hash, err := quic.KeyHash(&s.tls.PublicKey)
	if err != nil {
		return err
	}
	endpoints := s.cfg.Endpoints
	if len(endpoints) == 0 && len(s.cfg.Relays) == 0 {
		endpoints = []string{s.addr.String()}
	}
	seq, err := s.nextSeq()
	if err != nil {
		return err
	}
	b, err := agent.SignOffer(s.key, agent.Offer{
		Seq: seq, Endpoints: endpoints, Relays: relayNames(s.cfg.Relays), TunnelKey: hash,
		Price: s.price(), Payment: s.cfg.Payment, SIM: s.sim.offered(),
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.offer, s.offerSeq = b, seq
	s.mu.Unlock()
	if s.listedOffer() != nil {
		s.tellRelays(ctx)
	}
	return s.writeOffer(b)
}

// withdraw takes the offer from everywhere.
func (s *Seller) withdraw(ctx context.Context) error {
	s.mu.Lock()
	s.offer = nil
	s.mu.Unlock()
	s.tellRelays(ctx)
	return s.removeOffer()
}

// tellRelays publishes the present offer at all relays, or withdraws it.
func (s *Seller) tellRelays(ctx context.Context) {
	for _, l := range s.relays {
		l.publish(ctx)
	}
}

func relayNames(relays []relay.Name) []string {
	var text []string
	for _, n := range relays {
		text = append(text, n.String())
	}
	return text
}

// signedOffer is the present offer, nil if there is none.
func (s *Seller) signedOffer() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offer
}

// signRelay signs a hello to a relay.
func (s *Seller) signRelay(exporter [32]byte) (relay.Signature, error) {
	return relay.Signature(s.key.Sign(agent.RelayDigest(exporter))), nil
}

// plain answers requests that any HTTP/3 client may make.
func (s *Seller) plain(h tunnel.Header) (int, string, []byte) {
	if h.Method != "GET" || h.Path != agent.OfferPath {
		return tunnel.StatusNotFound, "text/plain; charset=utf-8", []byte("not found; the offer is at " + agent.OfferPath + "\n")
	}
	b := s.signedOffer()
	if b == nil {
		return tunnel.StatusServiceUnavailable, "text/plain; charset=utf-8", []byte("nothing is offered now\n")
	}
	return tunnel.StatusOK, "application/json", b
}

// unpaid are the fields of the 402 answer to a client without a channel:
// PAYMENT-REQUIRED (x402 v2, HTTP transport), and that a token will do.
func (s *Seller) unpaid() tunnel.Fields {
	cfg := s.offerConfig()
	req := x402.BatchRequirements(s.cfg.Payment.Network, s.token, cfg)
	req.Amount = s.cfg.Payment.MinDeposit
	v, err := x402.EncodeHeader(x402.PaymentRequired{
		Version: x402.Version, Error: "Payment required", Accepts: []x402.Requirements{req},
	})
	if err != nil {
		s.log.Error("payment required", "err", err)
		return nil
	}
	return tunnel.Fields{"payment-required": {v}, "proxy-authenticate": {agent.TokenRealm}}
}

// offerConfig is the agent's part of a channel's config.
func (s *Seller) offerConfig() channel.Config {
	return agent.Offer{Agent: s.key.Address(), Payment: s.cfg.Payment}.Channel(channel.Address{})
}
