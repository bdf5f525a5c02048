package buyer

import (
	"context"
	"fmt"
	"strings"

	"github.com/depinsim/x402/channel"
)

// A NoOfferError says that no offer meets all conditions, and what came closest.
type NoOfferError struct {
	Want   Want
	Relays []string // that were asked
	// Drop is a condition without which there are Near offers: max-price,
	// evidence, tech, carrier, country, facilitator or network; "": none alone.
	Drop string
	Near []Found // cheapest first
	// Empty says that there is no offer at all.
	Empty bool
}

// conditions are those of a Want that may be given up, the easiest first, with
// what does so.
var conditions = []struct {
	name string
	drop func(*Want) bool // false: it is not set
}{
	{byPrice, func(w *Want) bool { set := w.MaxPrice > 0; w.MaxPrice = 0; return set }},
	{byEvidence, func(w *Want) bool { set := w.Evidence != ""; w.Evidence = ""; return set }},
	{byTechnology, func(w *Want) bool { set := w.Technology != ""; w.Technology = ""; return set }},
	{byCarrier, func(w *Want) bool { set := w.Carrier != ""; w.Carrier = ""; return set }},
	{byCountry, func(w *Want) bool { set := w.Country != ""; w.Country = ""; return set }},
	{byFacilitator, func(w *Want) bool { set := w.Facilitators != nil; w.Facilitators = nil; return set }},
	{byNetwork, func(w *Want) bool { set := w.Network != ""; w.Network = ""; return set }},
}

// Explain asks the relays again, with a condition less, for what comes closest
// to w, which found nothing.
func (m Market) Explain(ctx context.Context, w Want) error {
	e := &NoOfferError{Want: w}
	for _, name := range m.Relays {
		e.Relays = append(e.Relays, name.Address())
	}
	w.Limit = 0
	for _, c := range conditions {
		less := w
		if !c.drop(&less) {
			continue
		}
		l, err := m.List(ctx, less)
		if err != nil {
			return err
		}
		if len(l.Offers) > 0 {
			e.Drop, e.Near = c.name, l.Offers
			return e
		}
	}
	all, err := m.List(ctx, Want{Limit: 1})
	if err != nil {
		return err
	}
	e.Empty = len(all.Offers) == 0
	return e
}

func (e *NoOfferError) Error() string {
	w, at := e.Want, strings.Join(e.Relays, ", ")
	if e.Drop == "" {
		if w.Agent != "" {
			return fmt.Sprintf("the agent %s is not known at %s now", w.Agent, at)
		}
		if e.Empty {
			return fmt.Sprintf("no agent is at %s now", at)
		}
		return fmt.Sprintf("no offer matches at %s, and none comes close", at)
	}
	near := fmt.Sprintf("%d offers", len(e.Near))
	switch {
	case len(e.Near) == 1:
		near = "1 offer"
	case len(e.Near) >= listLimit:
		near = fmt.Sprintf("%d offers or more", len(e.Near))
	}
	cheapest := e.Near[0].Price().USD()
	switch e.Drop {
	case byPrice:
		return fmt.Sprintf("no offer at %s USD per GB or less: %s%s, cheapest %s USD per GB", w.MaxPrice.USD(), near, w.place(), cheapest)
	case byFacilitator:
		return fmt.Sprintf("no offer is paid through a facilitator that the wallet was used with: %s%s through others, such as %s, cheapest %s USD per GB",
			near, w.place(), e.Near[0].Offer.Payment.Facilitator, cheapest)
	}
	return fmt.Sprintf("no offer matches: %s without --%s, cheapest %s USD per GB%s", near, e.Drop, cheapest, e.others())
}

// place says where was looked.
func (w Want) place() string {
	if w.Country == "" {
		return ""
	}
	return " in " + strings.ToUpper(w.Country)
}

// others says what there is instead of what was asked for.
func (e *NoOfferError) others() string {
	seen, all := make(map[string]bool), []string(nil)
	for _, f := range e.Near {
		word := ""
		switch e.Drop {
		case byTechnology:
			word = f.Offer.SIM.Technology
		case byCarrier:
			word = f.Offer.SIM.Operator
		case byCountry:
			word = f.Country()
		case byNetwork:
			word = f.Offer.Payment.Network
		}
		if word != "" && !seen[word] && len(all) < 5 {
			seen[word] = true
			all = append(all, word)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "; there is " + strings.Join(all, ", ")
}

// Cheapest is the price of the nearest offer.
func (e *NoOfferError) Cheapest() channel.Amount {
	if len(e.Near) == 0 {
		return 0
	}
	return e.Near[0].Price()
}
