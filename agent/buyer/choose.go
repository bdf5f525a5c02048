package buyer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// A Want is what a buyer looks for. Zero fields accept everything.
type Want struct {
	Agent      string         // address, or how it begins
	Country    string         // ISO 3166-1 alpha-2, by the SIM's MCC
	Carrier    string         // part of the operator's name, or MCC and MNC
	Technology string         // such as LTE or 5G
	Network    string         // CAIP-2, where it is paid
	Evidence   string         // agent.EvidenceCarrier: relays see it in its carrier's network
	MaxPrice   channel.Amount // per GB, in either direction, what a relay asks included
	// Facilitators are those of which one has to keep the deposit.
	Facilitators []string
	Limit        int // offers to find, at most 1,000; 0: 100
}

// A Found is an offer that relays list. The agent has signed it, and says of
// itself what is in it; that it is there the relays say.
type Found struct {
	Offer  agent.Offer
	Relays []string  // addresses of those that list it
	Seen   time.Time // when a relay last heard of the agent
	// Tolls are what those of the relays ask that charge for passing packets on.
	Tolls map[string]toll.Tariff
	// Finding is what the relays found of the SIM's carrier: all that looked have
	// to agree that it is that one.
	Finding carrier.Finding

	relayed bool   // it is reached by a relay only
	signed  []byte // the offer as it came
}

// Toll is what a GB costs by the cheapest relay, beside the agent's price: 0 if
// one is free, or none is needed.
func (f Found) Toll() channel.Amount {
	if !f.relayed || len(f.Relays) == 0 {
		return 0
	}
	least := f.Tolls[f.Relays[0]].Price
	for _, r := range f.Relays {
		least = min(least, f.Tolls[r].Price)
	}
	return least
}

// Price is what a GB costs in the dearer direction, a relay's toll included.
func (f Found) Price() channel.Amount { return f.Offer.Price.Max() + f.Toll() } // no more than 2e12

// Country is that of the SIM's network (ISO 3166-1 alpha-2), the likeliest if
// several share its code; "" if it is none's.
func (f Found) Country() string {
	for _, c := range carrier.Countries(f.Offer.SIM) {
		return c
	}
	return ""
}

// Signed is the offer as the agent signed it.
func (f Found) Signed() []byte { return f.signed }

// A Listing is what relays know.
type Listing struct {
	Offers []Found // cheapest first
	Bad    int     // offers that were skipped, since their agents did not sign them so
	Failed []error // of relays that did not answer
	// Tolls are what the relays ask that charge, by their addresses.
	Tolls map[string]toll.Tariff
}

// A Market is the relays where a buyer looks for agents.
type Market struct {
	Relays []relay.Name
	Reach  ReachConfig
	Logger *slog.Logger // hears of agents that are passed over
}

const (
	listLimit = 100
	// listPages is how many pages of a relay are read to find enough offers.
	listPages = 10
	// listRest is how long the other relays are waited for once one has
	// answered.
	listRest = 1500 * time.Millisecond
	// askTime is how long one agent may take to answer, if there is another.
	askTime = 3 * time.Second
)

// List asks all relays for offers. It fails if none of them answers.
func (m Market) List(ctx context.Context, w Want) (Listing, error) {
	if w.Limit == 0 {
		w.Limit = listLimit
	}
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make([]answer, len(m.Relays))
	var wg sync.WaitGroup
	for i, name := range m.Relays {
		wg.Go(func() {
			answers[i] = m.ask(rctx, name, w)
			switch {
			case answers[i].err == nil:
				time.AfterFunc(listRest, cancel)
			case rctx.Err() != nil && ctx.Err() == nil:
				answers[i].err = fmt.Errorf("relay %s: no answer while others answered", name.Address())
			}
		})
	}
	wg.Wait()
	l := Listing{Tolls: make(map[string]toll.Tariff)}
	newest := make(map[channel.Address]Found)
	for _, a := range answers {
		if a.err != nil {
			l.Failed = append(l.Failed, a.err)
		}
		maps.Copy(l.Tolls, a.tolls)
		l.Bad += a.bad
		for _, f := range a.found {
			newest[f.Offer.Agent] = f.merge(newest[f.Offer.Agent])
		}
	}
	if len(l.Failed) == len(m.Relays) {
		return l, errors.Join(l.Failed...)
	}
	for _, f := range newest {
		if w.misses(f) == "" { // as an older one may have done
			l.Offers = append(l.Offers, f)
		}
	}
	cheapestFirst(l.Offers)
	l.Offers = l.Offers[:min(len(l.Offers), w.Limit)]
	return l, nil
}

// An answer is what one relay lists.
type answer struct {
	found []Found
	tolls map[string]toll.Tariff // its own, if it charges
	bad   int
	err   error
}

// ask reads a relay's pages until there are enough offers.
func (m Market) ask(ctx context.Context, name relay.Name, w Want) (a answer) {
	c := market.New(market.Config{Name: name})
	defer c.Close()
	q := market.Query{Country: w.Country, Carrier: w.Carrier, Technology: w.Technology, Network: w.Network, Evidence: w.Evidence, Limit: max(w.Limit, listLimit)}
	if w.MaxPrice > 0 {
		q.MaxPrice = w.MaxPrice.USD()
	}
	if _, err := channel.ParseAddress(w.Agent); err == nil {
		q.Agent = w.Agent
	}
	wanted := 0
	for range listPages {
		var p market.Page
		if p, a.err = c.Offers(ctx, q); a.err == nil {
			a.err = a.charge(name, p.Toll)
		}
		if a.err != nil {
			return a
		}
		for _, x := range p.Offers {
			o, err := agent.ParseOffer(x.Offer)
			if err != nil {
				a.bad++
				continue
			}
			f := Found{Offer: o, Relays: []string{name.Address()}, Seen: time.Unix(x.Seen, 0), Tolls: a.tolls, signed: x.Offer}
			f.relayed = m.Reach.NoDirect || len(o.Endpoints) == 0
			f.Finding = carrier.Heard(carrier.Finding{Evidence: x.Evidence, Network: carrier.Network(x.Network), Reason: carrier.Reason(x.Reason)})
			if w.misses(f) == "" {
				wanted++
			}
			a.found = append(a.found, f)
		}
		if q.Cursor = p.Next; q.Cursor == "" || wanted >= w.Limit {
			break
		}
	}
	return a
}

// charge takes over what a relay asks.
func (a *answer) charge(name relay.Name, told []byte) error {
	t, err := toll.Parse(told)
	if err == nil && !t.Free() {
		a.tolls = map[string]toll.Tariff{name.Address(): t}
	}
	if err != nil {
		err = fmt.Errorf("relay %s: %w", name.Address(), err)
	}
	return err
}

// merge joins what two relays, or two pages, say of an agent.
func (f Found) merge(old Found) Found {
	if old.Offer.Seq > f.Offer.Seq {
		f, old = old, f
	}
	for _, r := range old.Relays {
		if !slices.Contains(f.Relays, r) {
			f.Relays = append(f.Relays, r)
		}
	}
	if old.Seen.After(f.Seen) {
		f.Seen = old.Seen
	}
	if len(old.Tolls) > 0 {
		tolls := maps.Clone(old.Tolls)
		maps.Copy(tolls, f.Tolls)
		f.Tolls = tolls
	}
	other := old.Finding
	if old.Offer.Seq == f.Offer.Seq && other.Evidence != "" && (f.Finding.Evidence == "" || other.Evidence == agent.EvidenceClaimed) {
		f.Finding = other
	}
	return f
}

// Conditions of a Want, as the flags are called.
const (
	byAgent       = "agent"
	byPrice       = "max-price"
	byTechnology  = "tech"
	byCarrier     = "carrier"
	byCountry     = "country"
	byNetwork     = "network"
	byFacilitator = "facilitator"
	byEvidence    = "evidence"
)

// misses names a condition that an offer does not meet, "" if it meets all.
// Relays are asked by the same conditions, and not believed but for what they
// found of the carrier, and the names of radio technologies, which they know by
// others too.
func (w Want) misses(f Found) string {
	o, sim := f.Offer, f.Offer.SIM
	wanted := sim.MCC+sim.MNC == strings.ReplaceAll(w.Carrier, "-", "") ||
		strings.Contains(strings.ToLower(strings.Join(carrier.Names(sim), "\n")), strings.ToLower(w.Carrier))
	switch {
	case !strings.HasPrefix(strings.ToLower(o.Agent.String()), strings.ToLower(w.Agent)):
		return byAgent
	case w.Country != "" && !slices.Contains(carrier.Countries(sim), strings.ToUpper(w.Country)):
		return byCountry
	case !wanted:
		return byCarrier
	case w.Evidence == agent.EvidenceCarrier && f.Finding.Evidence != w.Evidence:
		return byEvidence
	case w.Network != "" && o.Payment.Network != w.Network:
		return byNetwork
	case w.Facilitators != nil && !slices.ContainsFunc(w.Facilitators, func(u string) bool { return sameURL(u, o.Payment.Facilitator) }):
		return byFacilitator
	case w.MaxPrice > 0 && f.Price() > w.MaxPrice:
		return byPrice
	}
	return ""
}

func sameURL(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

// cheapestFirst sorts by the dearer direction with what a relay asks, then by both. Among equals
// chance decides, so that no address is preferred.
func cheapestFirst(all []Found) {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortStableFunc(all, func(a, b Found) int {
		p, q := a.Offer.Price, b.Offer.Price
		return cmp.Or(cmp.Compare(a.Price(), b.Price()), cmp.Compare(p.Up+p.Down, q.Up+q.Down))
	})
}

// Choose asks the agents in turn for their offer of now, and returns the first
// that answers with one that is wanted. Each has a few seconds, the last one
// all that ctx leaves.
func (m Market) Choose(ctx context.Context, all []Found, w Want) (Found, error) {
	var errs []error
	for i, f := range all {
		actx, cancel := ctx, context.CancelFunc(func() {})
		if i+1 < len(all) {
			actx, cancel = context.WithTimeout(ctx, askTime)
		}
		fresh, err := RefreshOffer(actx, f.listedFirst(), m.Reach)
		cancel()
		if ctx.Err() != nil && err != nil {
			return Found{}, errors.Join(append(errs, f.failed(err))...)
		}
		if err != nil && Unpaid(err) { // nothing passes for nothing: what a relay lists is as fresh as its agent's connection
			f.Offer = f.listedFirst()
			return f, nil
		}
		if err == nil {
			if s, t := f.Offer.SIM, fresh.SIM; s.MCC != t.MCC || s.MNC != t.MNC || s.Roaming != t.Roaming {
				f.Finding = carrier.Finding{} // of another SIM
			}
			f.Offer, f.signed = fresh, nil
			if why := w.misses(f); why == "" {
				f.Offer = f.listedFirst()
				return f, nil
			} else if why == byPrice {
				err = fmt.Errorf("it asks %s USD per GB by now", f.Price().USD())
			} else {
				err = fmt.Errorf("its %s is another by now", why)
			}
		}
		err = f.failed(err)
		errs = append(errs, err)
		if i+1 < len(all) {
			m.Logger.Warn("trying the next agent", "err", err)
		}
	}
	return Found{}, errors.Join(errs...)
}

func (f Found) failed(err error) error { return fmt.Errorf("agent %.10s: %w", f.Offer.Agent, err) }

// listedFirst is the offer, with the relays that know the agent now before its
// others, the cheapest first.
func (f Found) listedFirst() agent.Offer {
	o := f.Offer
	o.Relays = slices.Clone(o.Relays)
	slices.SortStableFunc(o.Relays, func(a, b string) int { return cmp.Compare(f.rank(a), f.rank(b)) })
	return o
}

func (f Found) rank(name string) channel.Amount {
	if n, err := relay.ParseName(name); err == nil && slices.Contains(f.Relays, n.Address()) {
		return f.Tolls[n.Address()].Price
	}
	return ^channel.Amount(0)
}

// Accepts says whether an offer meets all conditions of w.
func (w Want) Accepts(f Found) bool { return w.misses(f) == "" }
