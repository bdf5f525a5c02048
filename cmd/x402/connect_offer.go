package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/tunnel/relay"
	relaymarket "github.com/depinsim/x402/tunnel/relay/market"
)

// whom says which agent is meant: the one at a place, that of a file, or one
// that relays list.
func (p *purchase) whom() (err error) {
	f := p.connectFlags
	byPlace := f.agent != "" && (!strings.HasPrefix(f.agent, "0x") || strings.Contains(f.agent, ":"))
	if f.agent != "" && f.offer != "" {
		return usage("--agent and --offer: name one of them")
	}
	if byPlace || f.offer != "" {
		if name := f.used(); name != "" {
			return usage("--%s: it finds agents; --agent HOST:PORT and --offer FILE have found one", name)
		}
		if !byPlace {
			return nil
		}
		if err := agent.CheckEndpoint(f.agent); err != nil {
			return usage("--agent: %w", err)
		}
		return nil
	}
	if f.agent != "" {
		if err := agentFlag(f.agent); err != nil {
			return err
		}
	}
	if err := f.marketFlags.check(); err != nil {
		return err
	}
	if p.relays, err = f.marketFlags.relays(p.places); err != nil || len(p.relays) > 0 {
		return err
	}
	if f.agent == "" && f.used() == "" {
		return usage("--agent HOST:PORT, --offer FILE or --relay HOST:PORT#PIN: name one of them")
	}
	return errNoRelay()
}

// findOffer gets the offer and makes sure of the agent.
func (p *purchase) findOffer(ctx context.Context) error {
	if p.connectFlags.offer != "" {
		return p.readOffer()
	}
	fctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	find := p.fetchOffer
	if len(p.relays) > 0 {
		find = p.chooseOffer
	}
	err := find(fctx)
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func (p *purchase) readOffer() error {
	b, err := os.ReadFile(p.connectFlags.offer)
	if err != nil {
		return fmt.Errorf("--offer: %w", err)
	}
	if p.offer, err = agent.ParseOffer(b); err != nil {
		return withHint(fmt.Errorf("--offer: %s: %w", p.connectFlags.offer, err), "the file is no offer, or was changed or damaged: get it from the agent's owner again")
	}
	p.origin = "named by the file " + p.connectFlags.offer
	return p.checkKey()
}

func (p *purchase) fetchOffer(ctx context.Context) (err error) {
	if p.offer, err = buyer.FetchOffer(ctx, p.agent, p.reach); err != nil {
		return withHint(err, "is the agent running there, and do packets get through to it?")
	}
	// Where it has just answered comes first: it may not know its own address.
	p.offer.Endpoints = append([]string{p.agent}, slices.DeleteFunc(p.offer.Endpoints, func(e string) bool { return e == p.agent })...)
	if p.key != nil {
		p.origin, p.pin = "as --agent-key says", true
		return p.checkKey()
	}
	known, err := p.known().Check(p.agent, p.offer.Agent)
	if err != nil {
		return err
	}
	if known {
		p.origin = "known, as in " + p.known().Path
		return nil
	}
	p.origin, p.pin = "new: from now on only this one is accepted at "+p.agent, true
	return nil
}

func (p *purchase) checkKey() error {
	if p.key != nil && *p.key != p.offer.Agent {
		return withHint(fmt.Errorf("the agent is %s, --agent-key says %s", p.offer.Agent, *p.key),
			"ask its owner which is right: someone else may be answering")
	}
	return nil
}

// candidates is how many agents are tried, the cheapest first.
const candidates = 8

// chooseOffer finds the cheapest agent that answers. Its offer is signed by its
// key, and asked for anew from itself: the relay is believed only that there is
// such an agent.
func (p *purchase) chooseOffer(ctx context.Context) error {
	w := p.marketFlags.want()
	w.Agent, w.MaxPrice, w.Limit = p.agent, p.maxPrice, candidates
	if p.key != nil {
		w.Agent = p.key.String()
	}
	if w.Agent == "" { // nobody has said who keeps the money
		urls, err := p.facilitators().All()
		if err != nil {
			return err
		}
		w.Facilitators = append([]string{}, urls...)
	}
	m := buyer.Market{Relays: p.relays, Reach: p.reach, Logger: slog.New(p.handler(p.stderr))}
	l, err := m.List(ctx, w)
	if err != nil {
		return relayTrouble(ctx, err)
	}
	tellListing(p.stderr, l)
	if len(l.Offers) == 0 {
		return m.Explain(ctx, w)
	}
	if w.Agent != "" && len(l.Offers) > 1 {
		return usage("--agent: %d agents begin with %s: name more of it", len(l.Offers), w.Agent)
	}
	f, err := m.Choose(ctx, l.Offers, w)
	if err != nil {
		return withHint(err, "they were there a moment ago: try again, or x402 offers shows others")
	}
	p.offer, p.tolls, p.finding = f.Offer, l.Tolls, f.Finding
	p.origin = "listed by " + relaysText(f.Relays) + ", " + p.acquaintance()
	return nil
}

// acquaintance says whether the wallet has bought from this agent before.
func (p *purchase) acquaintance() string {
	states, err := p.offers().Channels(p.wallet.Address())
	if err == nil {
		for _, s := range states {
			if s.Config.ReceiverAuthorizer == p.offer.Agent {
				return "and known: bought from before"
			}
		}
	}
	return "and new: nothing else speaks for it"
}

// relayTrouble says what to do about relays that list nothing.
func relayTrouble(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return errInterrupted
	}
	if hint(err) != "" {
		return err
	}
	if refused, ok := errors.AsType[*relaymarket.RefusedError](err); ok && refused.Status == http.StatusBadRequest {
		return withHint(err, "the relay does not take this question: leave out what it names, or ask another relay")
	}
	return withHint(err, "is the relay running, its name right, and can this machine reach it by TCP?")
}

// whereText says where an agent is.
func whereText(o agent.Offer) string {
	text := o.Agent.String()
	if len(o.Endpoints) > 0 {
		text += " at " + printable(strings.Join(o.Endpoints, " "))
	}
	var relays []string
	for _, r := range o.Relays {
		if n, err := relay.ParseName(r); err == nil {
			relays = append(relays, n.Address())
		}
	}
	if len(relays) > 0 {
		text += " by " + relaysText(relays)
	}
	return text
}

func relaysText(addresses []string) string {
	if len(addresses) == 1 {
		return "the relay " + addresses[0]
	}
	return "the relays " + strings.Join(addresses, " ")
}
