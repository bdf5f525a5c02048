// Package gateway sells traffic of agents to programs that know nothing of x402
// but how to pay for an HTTP request: credit is bought once, and spent through an
// HTTP or SOCKS5 proxy with a user and a password. To the agents it is a buyer.
//
//	g, err := gateway.Open(gateway.Config{…})
//	mux.Handle(gateway.CreditPath, g)
//	err = g.Run(ctx, relays)
//	err = g.Close()
//
// Customers trust it: it holds their money until it is spent, and sees which
// targets they go to, though not what is in TLS. What it promises:
//
//   - What is spent is what the agents ask for the bytes that passed, and the fee
//     in percent that it tells; what is not spent is given back to who paid.
//   - Credit, and what was spent of it, survive a crash. Up to 4 MiB of an
//     account that were carried and not stored are the gateway's loss: flows wait
//     before it is more.
//   - No flow carries a byte that the credit does not cover.
//   - A file that is stolen, the wallet's apart, spends nothing: tokens and
//     passwords are stored as hashes.
//   - Memory is bounded by the limits of [Config], whatever strangers do.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/operator"
	"github.com/depinsim/x402/channel/resource"
	"github.com/depinsim/x402/tunnel/relay"
)

// Config says how a gateway runs. Zero fields have the defaults named.
type Config struct {
	// Key is that of the wallet: it pays agents, is paid by customers, and pays
	// them back.
	Key *channel.Key
	// Payment is what customers pay in, and agents are paid in; its payTo is not
	// used.
	Payment agent.Payment
	// StateDir holds the accounts, the channels with agents, and those with
	// customers. It has the form of the x402 command's, so that its wallet
	// commands know the agents' channels.
	StateDir string
	// FeePercent is what the gateway keeps on top of what agents ask. 0: nothing.
	FeePercent uint64
	// Deposit is put into a channel with an agent at a time. Default 250,000
	// (0.25 USD), or the agent's least.
	Deposit channel.Amount
	// Life is how long credit is good after it was bought or topped up. Default
	// 30 days.
	Life time.Duration
	// Idle is how long an exit stays open that nobody uses. Default 10 min.
	Idle time.Duration
	// MaxExits is how many agents are bought from at once. Default 16.
	MaxExits int
	// Flows is the most connections of an account at once. Default 128.
	Flows int
	// Conns and SourceConns are the most connections to the proxies, each: in
	// all, and from one source. Default 4,096 and 256.
	Conns, SourceConns int

	// Secure, HTTP and SOCKS are where the proxies listen: HTTP over TLS, and in
	// clear if that is wanted. "" leaves one out.
	Secure, HTTP, SOCKS string
	TLS                 *tls.Config // of Secure
	// Host is what customers know the proxies by.
	Host string

	// Relays are where agents are looked for, besides those that Run is told.
	Relays []relay.Name
	Reach  buyer.ReachConfig
	Logger *slog.Logger
}

// Defaults that others count by.
const (
	defaultExits = 16
	defaultConns = 4_096
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Key == nil:
		return c, errors.New("gateway: Key is missing")
	case c.FeePercent > MaxFee:
		return c, fmt.Errorf("gateway: a fee of %d percent, at most %d", c.FeePercent, MaxFee)
	case c.Secure == "" && c.HTTP == "" && c.SOCKS == "":
		return c, errors.New("gateway: no proxy to listen with")
	case c.Secure != "" && c.TLS == nil:
		return c, errors.New("gateway: TLS is missing")
	}
	c.Payment.PayTo = c.Key.Address()
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{{&c.Life, 30 * 24 * time.Hour}, {&c.Idle, 10 * time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.zero
		}
	}
	for _, n := range []struct {
		value *int
		zero  int
	}{{&c.MaxExits, defaultExits}, {&c.Flows, 128}, {&c.Conns, defaultConns}, {&c.SourceConns, 256}} {
		if *n.value <= 0 {
			*n.value = n.zero
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.Payment.Check()
}

// Files is how many files a gateway has open at most: the proxies' connections,
// and for each exit, and for the records, a few.
func (c Config) Files() int {
	n := 16 + 4*cmp.Or(c.MaxExits, defaultExits)
	for _, at := range []string{c.Secure, c.HTTP, c.SOCKS} {
		if at != "" {
			n += cmp.Or(c.Conns, defaultConns)
		}
	}
	return n
}

// MaxFee is the most percent that a gateway may keep.
const MaxFee = 1_000

// A Gateway sells credit and serves the proxies that it is spent through. It is
// an http.Handler for [CreditPath].
type Gateway struct {
	cfg      Config
	log      *slog.Logger
	fac      *facilitator.Client
	token    channel.Token
	book     *book
	channels *bolt.Store // with agents
	sales    *bolt.Store // channels of customers
	till     *resource.Server
	guard    guard
	exits    *exits
	fronts   fronts
	operator net.Listener

	fundsMu sync.Mutex
	funds   channel.Amount
	counted time.Time

	sums sums // for Collectors

	handsMu sync.Mutex
	hands   map[channel.Hash]chan struct{} // payments in work; closed when they are not any more
}

// Open opens what a gateway runs on. Nothing is served before Run.
func Open(c Config) (_ *Gateway, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	g := &Gateway{cfg: c, log: c.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if g.token, err = c.Payment.Token(); err != nil {
		return nil, err
	}
	if g.fac, err = nethttp.New(nethttp.Config{URL: c.Payment.Facilitator}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, err
	}
	at := func(name string) string { return filepath.Join(c.StateDir, name) }
	if g.book, err = openBook(at("credit.db"), c.Logger); err != nil {
		return nil, err
	}
	if g.channels, err = bolt.Open(at("channels.db")); err != nil {
		return nil, err
	}
	if g.sales, err = bolt.Open(at("sales.db")); err != nil {
		return nil, err
	}
	g.exits = newExits(c, g.purchase, g.book)
	g.till, err = resource.New(resource.Config{
		Key: c.Key, PayTo: c.Key.Address(), Token: g.token, Store: g.sales, Facilitator: g.fac,
		WithdrawDelay: time.Duration(c.Payment.WithdrawDelay) * time.Second, MinDeposit: c.Payment.MinDeposit, Logger: c.Logger,
	})
	if err != nil {
		return nil, err
	}
	if g.operator, err = operator.Listen(at(operatorSocket)); err != nil {
		return nil, fmt.Errorf("operator's socket: %w", err)
	}
	g.fronts, err = g.listen()
	return g, err
}

// Close closes the records, and what was not served.
func (g *Gateway) Close() error {
	var errs []error
	if g.operator != nil {
		_ = g.operator.Close() // Run may have closed it
	}
	g.fronts.close()
	if g.book != nil {
		errs = append(errs, g.book.close())
	}
	for _, s := range []*bolt.Store{g.channels, g.sales} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// Run sells and serves until ctx is cancelled, pays the agents what they are
// owed, and returns nil. relays are where agents are looked for.
func (g *Gateway) Run(ctx context.Context, relays ...relay.Name) error {
	g.exits.lookAt(append(relays, g.cfg.Relays...))
	if err := g.conclude(); err != nil {
		g.log.Error("look for what is owed from before", "err", err)
	}
	eg, gctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return g.fronts.serve(gctx, g) })
	eg.Go(func() error { return g.serveOperator(gctx) })
	eg.Go(func() error { return g.exits.sweep(gctx) })
	eg.Go(func() error { return g.giveBackAll(gctx) })
	eg.Go(func() error { return g.till.Run(gctx) })
	var saving errgroup.Group // as long as anything is counted
	counting, stop := context.WithCancel(context.WithoutCancel(ctx))
	saving.Go(func() error { return g.book.run(counting) })
	err := eg.Wait()
	g.exits.stop()
	stop()
	return errors.Join(err, saving.Wait())
}

// purchase fills in what all purchases share, and names the channel.
func (g *Gateway) purchase(c buyer.Config) (buyer.Config, channel.ID, error) {
	c.Key, c.Store, c.Deposit, c.Reach = g.cfg.Key, g.channels, g.cfg.Deposit, g.cfg.Reach
	id, err := g.offers().Save(g.cfg.Key.Address(), c.Offer, channel.Hash{})
	return c, id, err
}

func (g *Gateway) offers() buyer.KnownOffers {
	return buyer.KnownOffers{Dir: filepath.Join(g.cfg.StateDir, "offers")}
}

// conclude begins to pay agents what they are owed by purchases that did not end in
// order.
func (g *Gateway) conclude() error {
	ids, err := g.book.unended()
	if err != nil || len(ids) == 0 {
		return err
	}
	states, err := g.channels.Load()
	if err != nil {
		return err
	}
	places := make(chan struct{}, concludeMost)
	for _, id := range ids {
		i := slices.IndexFunc(states, func(s channel.State) bool { return s.ID == id })
		if i < 0 || states[i].Balance == states[i].Claimed { // nothing to pay from
			if err := g.book.ended(id); err != nil {
				return err
			}
			continue
		}
		o, err := g.offers().Load(states[i])
		if err != nil {
			g.log.Warn("an agent may be owed something from before", "channel", id, "err", err)
			continue
		}
		g.exits.conclude(o, places)
	}
	return nil
}
