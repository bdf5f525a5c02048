package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
)

// A cupboard is a wallet's channels, open for looking and for changing.
type cupboard struct {
	places
	wallet  *buyer.Wallet
	store   channel.Store
	payer   *channel.Payer
	inUse   bool   // by another x402
	blind   bool   // which does not say what was signed
	extra   string // --facilitator, for channels without an offer
	clients map[string]*facilitator.Client
	down    map[string]error // of facilitators that did not answer, which are not waited for again
	key     *channel.Key     // once it was needed
	node    *buyer.Node      // nil, or of the chain on which something is withdrawn
}

// openCupboard opens a wallet's channels. With channel.ErrInUse comes what needs
// no record.
func (p places) openCupboard(extra string) (*cupboard, error) {
	if err := p.resolve(); err != nil {
		return nil, err
	}
	c := &cupboard{places: p, extra: extra, clients: make(map[string]*facilitator.Client), down: make(map[string]error)}
	var err error
	if c.wallet, err = buyer.LoadWallet(p.wallet); err != nil {
		return nil, err
	}
	if extra != "" {
		if _, err := c.client(extra); err != nil {
			return nil, usage("--facilitator: %w", err)
		}
	}
	store, err := p.openStore()
	if err != nil {
		return c, err
	}
	c.store = store
	if c.payer, err = channel.NewPayer(store); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return c, nil
}

// openToLook opens a cupboard of which another x402 may have the records. That one
// is asked for them; if it does not answer, the channels are those that offers are
// stored for, with what the history knows of them.
func (p places) openToLook(ctx context.Context, extra string) (*cupboard, error) {
	c, err := p.openCupboard(extra)
	if !errors.Is(err, channel.ErrInUse) {
		return c, err
	}
	c.inUse = true
	states, err := buyer.RunningChannels(ctx, c.control())
	if c.blind = err != nil; c.blind {
		if states, err = c.offers().Channels(c.wallet.Address()); err != nil {
			return nil, err
		}
		_ = c.history().Recall(states) // whoever shows the history says what is wrong with it
	}
	c.store = sheet(states)
	c.payer, err = channel.NewPayer(c.store)
	return c, err
}

// A sheet is a store that keeps nothing.
type sheet []channel.State

func (s sheet) Load() ([]channel.State, error) { return s, nil }
func (sheet) Save(channel.State) error         { return nil }
func (sheet) Close() error                     { return nil }

func (c *cupboard) close() error { return c.store.Close() }

// client returns the one client of a facilitator.
func (c *cupboard) client(url string) (*facilitator.Client, error) {
	if known := c.clients[url]; known != nil {
		return known, nil
	}
	fac, err := nethttp.New(nethttp.Config{URL: url})
	if err == nil {
		c.clients[url] = fac
	}
	return fac, err
}

// A drawer is one channel of a cupboard.
type drawer struct {
	buyer.Holding
	offer agent.Offer
	relay string // that the channel is with; empty: with an agent
	// resource is what the channel paid for by HTTP; its URL is empty for all
	// others.
	resource buyer.Resource
	url      string // the facilitator's; empty: not known
	err      error  // why Holding is not what the ledger says now
}

func (d drawer) short() string { return d.State.ID.String()[:10] }

func (d drawer) network() string { return channel.NetworkName(d.State.Domain.ChainID) }

// drawers looks into the channels of this wallet that match selects: "all", or
// the beginning of an id.
func (c *cupboard) drawers(ctx context.Context, match string) ([]drawer, error) {
	out := c.labels(match)
	c.lookInto(ctx, out)
	switch {
	case match == "all":
	case len(out) == 0:
		return nil, usage("--channel: this wallet has no channel %.70q; x402 wallet show lists them", match)
	case len(out) > 1:
		return nil, usage("--channel: %d channels begin with %.70q; name more of the id", len(out), match)
	}
	return out, nil
}

// labels are the drawers that match selects, not looked into yet.
func (c *cupboard) labels(match string) []drawer {
	var out []drawer
	for _, s := range c.payer.All() {
		if s.Config.Payer != c.wallet.Address() || match != "all" && !strings.HasPrefix(s.ID.String(), strings.ToLower(match)) {
			continue
		}
		d := drawer{Holding: buyer.Holding{State: s, WithdrawAt: s.WithdrawAt}}
		if d.offer, d.err = c.offers().Load(s); d.err == nil {
			d.url, d.relay = d.offer.Payment.Facilitator, c.offers().Relay(s.ID)
		} else if r, rerr := c.resources().Load(s.ID); rerr == nil {
			d.resource, d.url, d.err = r, r.Facilitator, nil
		} else if errors.Is(d.err, buyer.ErrNoOffer) && c.extra != "" {
			d.url, d.err = c.extra, nil
		}
		out = append(out, d)
	}
	return out
}

// lookInto asks the ledgers about drawers.
func (c *cupboard) lookInto(ctx context.Context, drawers []drawer) {
	for i := range drawers {
		d := &drawers[i]
		if d.err == nil {
			d.err = c.down[d.url]
		}
		if d.err != nil {
			continue
		}
		if d.Holding, d.err = c.look(ctx, *d); errors.Is(d.err, facilitator.ErrUnavailable) {
			c.down[d.url] = d.err
		}
	}
}

// holdings are those of a drawer's facilitator.
func (c *cupboard) holdings(d drawer) (buyer.Holdings, error) {
	fac, err := c.client(d.url)
	return buyer.Holdings{Payer: c.payer, Facilitator: fac, Key: c.key, Node: c.node}, err
}

func (c *cupboard) look(ctx context.Context, d drawer) (buyer.Holding, error) {
	x, err := c.holdings(d)
	if err != nil {
		return d.Holding, err
	}
	return x.Look(ctx, d.State.ID)
}

// unlock asks for the passphrase, once.
func (c *cupboard) unlock() (err error) {
	if c.key == nil {
		c.key, err = c.openKey(c.wallet)
	}
	return err
}

// channelFlag checks a --channel.
func channelFlag(match string) error {
	if match == "all" || match == "" {
		return nil
	}
	const least = len("0x") + 4
	if !strings.HasPrefix(match, "0x") || len(match) < least {
		return usage("--channel: %.70q, want all, an id, or its beginning such as 0x12ab34cd", match)
	}
	return nil
}

// failures joins what went wrong with single channels.
func failures(drawers []drawer) error {
	var errs []error
	for _, d := range drawers {
		if d.err != nil {
			errs = append(errs, fmt.Errorf("channel %s: %w", d.short(), d.err))
		}
	}
	return errors.Join(errs...)
}
