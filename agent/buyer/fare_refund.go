package buyer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// RefundRelay has a relay close its channel with c.Key, as KnownOffers stores it
// in c.Offer, and give back what is left. Of c it needs Key, Store, Offer and
// Facilitator.
func RefundRelay(ctx context.Context, c Config) (RelayResult, error) {
	if len(c.Offer.Relays) != 1 {
		return RelayResult{}, errors.New("the offer is not a relay's")
	}
	name, err := relay.ParseName(c.Offer.Relays[0])
	if err != nil {
		return RelayResult{}, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.CloseOnly = true
	s := newFares(c)
	b := broker{market.New(market.Config{Name: name}), name.Address()}
	defer b.Close()
	f, err := newFare(s, b, toll.Tariff{Price: c.Offer.Price.Max(), Authorizer: c.Offer.Agent, Payment: c.Offer.Payment})
	if err != nil {
		return RelayResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	if err := f.refresh(ctx); err != nil {
		return RelayResult{}, err
	}
	r := RelayResult{Relay: b.address, Channel: f.id}
	if err := f.close(ctx, &r); err != nil {
		return r, fmt.Errorf("relay %s: %w", b.address, err)
	}
	return r, nil
}

// refresh asks the relay for its tariff of now. With another key, or paid
// elsewhere, it cannot close the channel; at another price it can.
func (f *fare) refresh(ctx context.Context) error {
	told, err := f.relay.Toll(ctx)
	if err != nil {
		return err
	}
	t, err := toll.Parse(told)
	if err != nil {
		return fmt.Errorf("relay %s: %w", f.relay.address, err)
	}
	if t.Free() || t.Offer(f.relay.Name()).Channel(f.cfg.Key.Address()) != f.cfg.channel() {
		return fmt.Errorf("relay %s: it charges nothing by now, or is paid elsewhere", f.relay.address)
	}
	f.tariff.Price = max(f.tariff.Price, t.Price)
	if _, err := f.observe(ctx); err != nil {
		return err
	}
	return nil
}

// AskTolls asks the relays of an offer for what they charge, all at once. Those
// that are free, or do not answer, are left out.
func AskTolls(ctx context.Context, o agent.Offer) map[string]toll.Tariff {
	tariffs := make([]toll.Tariff, len(o.Relays))
	var wg sync.WaitGroup
	for i, text := range o.Relays {
		name, err := relay.ParseName(text)
		if err != nil {
			continue
		}
		wg.Go(func() {
			c := market.New(market.Config{Name: name})
			defer c.Close()
			if told, err := c.Toll(ctx); err == nil {
				tariffs[i], _ = toll.Parse(told) // one that is not well-formed is heard of when it is used
			}
		})
	}
	wg.Wait()
	all := make(map[string]toll.Tariff)
	for i, t := range tariffs {
		if name, err := relay.ParseName(o.Relays[i]); err == nil && !t.Free() {
			all[name.Address()] = t
		}
	}
	return all
}
