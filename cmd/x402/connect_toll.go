package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

// askTollTime bounds the question what relays charge; it is asked again when they
// are used.
const askTollTime = 2 * time.Second

// findTolls finds out what the relays ask by which the agent is reached, if
// nobody has said so yet, and refuses what is over the highest price together
// with the agent's. Where the agent has an endpoint of its own, relays are heard
// of when they are used.
func (p *purchase) findTolls(ctx context.Context) error {
	if len(p.offer.Relays) == 0 || len(p.offer.Endpoints) > 0 && !p.reach.NoDirect {
		return nil
	}
	if len(p.relays) == 0 { // the offer is not from a relay, which would have said it
		ctx, cancel := context.WithTimeout(ctx, askTollTime)
		defer cancel()
		p.tolls = buyer.AskTolls(ctx, p.offer)
	}
	least, found := channel.Amount(0), false
	for _, text := range p.offer.Relays {
		if n, err := relay.ParseName(text); err == nil {
			if price := p.tolls[n.Address()].Price; !found || price < least {
				least, found = price, true
			}
		}
	}
	if sum := p.offer.Price.Max() + least; sum > p.maxPrice {
		return fmt.Errorf("%w: the agent asks %s USD per GB and its relay %s, --max-price allows %s together", buyer.ErrPrice, p.offer.Price.Max().USD(), least.USD(), p.maxPrice.USD())
	}
	return nil
}

// tollText says what relays ask beside the agent, empty if none does.
func (p *purchase) tollText() string {
	var parts []string
	for _, text := range p.offer.Relays {
		n, err := relay.ParseName(text)
		if t := p.tolls[n.Address()]; err == nil && !t.Free() {
			parts = append(parts, fmt.Sprintf("%s USD per GB more through the relay %s", t.Price.USD(), n.Address()))
		}
	}
	if parts == nil {
		return ""
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ") + ", from a deposit of its own; nothing on the direct path"
}

// dearest is the most that a relay asks for a GB beside the agent.
func (p *purchase) dearest() (most channel.Amount) {
	for _, text := range p.offer.Relays {
		if n, err := relay.ParseName(text); err == nil {
			most = max(most, p.tolls[n.Address()].Price)
		}
	}
	return most
}

// tollConfig says what relays may be paid.
func (p *purchase) tollConfig() (buyer.TollConfig, error) {
	return p.places.tollConfig(p.wallet, p.tolls)
}

func (p places) tollConfig(w *buyer.Wallet, known map[string]toll.Tariff) (buyer.TollConfig, error) {
	urls, err := p.facilitators().All()
	return buyer.TollConfig{
		Known: known, Facilitators: urls,
		Note: func(name relay.Name, t toll.Tariff) error {
			_, err := p.offers().SaveRelay(w.Address(), name, t)
			return err
		},
	}, err
}
