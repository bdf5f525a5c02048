package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/channel"
)

// shownOffers is what offers prints with --json.
type shownOffers struct {
	Offers  []shownOffer `json:"offers"` // cheapest first
	Skipped int          `json:"skipped,omitempty"`
	Failed  []string     `json:"failed,omitempty"` // relays that did not answer
}

type shownOffer struct {
	Agent   channel.Address `json:"agent"`
	Country string          `json:"country,omitempty"`
	carrier.Finding
	Relays []string        `json:"relays"`         // that list it
	Toll   channel.Amount  `json:"toll,omitempty"` // of the cheapest relay for a GB, beside the agent's price
	Seen   int64           `json:"seen"`           // Unix seconds
	Signed json.RawMessage `json:"signed"`         // the offer as connect --offer takes it
}

func offers(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return prefix("offers", listOffers(ctx, args, stdout, stderr))
}

func listOffers(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var p places
	var f marketFlags
	fs := newFlags("offers")
	p.stateFlag(fs)
	f.add(fs)
	who := fs.String("agent", "", "")
	price := fs.String("max-price", "", "")
	limit := fs.Int("limit", 20, "")
	asJSON := fs.Bool("json", false, "")
	if done, err := parse(fs, offersHelp, args, stdout); done {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	w := f.want()
	if w.Agent, w.Limit = *who, *limit; w.Agent != "" {
		if err := agentFlag(w.Agent); err != nil {
			return err
		}
	}
	if *price != "" {
		if w.MaxPrice, err = usd("max-price", *price); err != nil {
			return err
		}
	}
	if *limit < 1 || *limit > maxShown {
		return usage("--limit: %d, want 1 to %d", *limit, maxShown)
	}
	if err := p.resolve(); err != nil {
		return err
	}
	var m buyer.Market
	if m.Relays, err = f.relays(p); err != nil {
		return err
	}
	if len(m.Relays) == 0 {
		return errNoRelay()
	}
	l, err := m.List(ctx, w)
	if err != nil {
		return relayTrouble(ctx, err)
	}
	if *asJSON {
		err = printOffersJSON(stdout, l)
	} else {
		tellListing(stderr, l)
		err = printOffers(stdout, l.Offers, time.Now())
	}
	if err == nil && len(l.Offers) == 0 {
		return m.Explain(ctx, w)
	}
	return err
}

// maxShown is the most that --limit takes.
const maxShown = 1000

// tellListing says what is not in a list.
func tellListing(stderr io.Writer, l buyer.Listing) {
	for _, err := range l.Failed {
		warn(stderr, err)
	}
	if l.Bad > 0 {
		warn(stderr, fmt.Errorf("%d of the relays' offers skipped: their agents did not sign them so", l.Bad))
	}
}

func printOffersJSON(w io.Writer, l buyer.Listing) error {
	out := shownOffers{Offers: []shownOffer{}, Skipped: l.Bad}
	for _, f := range l.Offers {
		out.Offers = append(out.Offers, shownOffer{f.Offer.Agent, f.Country(), f.Finding, f.Relays, f.Toll(), f.Seen.Unix(), f.Signed()})
	}
	for _, err := range l.Failed {
		out.Failed = append(out.Failed, plain(err.Error()))
	}
	return printJSON(w, out)
}

func printJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// printOffers writes the table. Prices are USD per GB.
func printOffers(w io.Writer, all []buyer.Found, now time.Time) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	tolls := slices.ContainsFunc(all, func(f buyer.Found) bool { return f.Toll() > 0 })
	column := func(text string) string {
		if !tolls {
			return "" // all relays are free
		}
		return text + "\t"
	}
	fmt.Fprintln(t, "AGENT\tCOUNTRY\tCARRIER\tTECH\tUSD/GB DOWN\tUP\t"+column("RELAY'S")+"EVIDENCE\tNETWORK\tRELAYS\tSEEN")
	for _, f := range all {
		sim := f.Offer.SIM
		fmt.Fprintf(t, "%.10s\t%s\t%s\t%s\t%s\t%s\t%s%s\t%s\t%d\t%s\n", f.Offer.Agent, dash(f.Country()), dash(carrierText(sim)), dash(clip(sim.Technology, 13)),
			f.Offer.Price.Down.USD(), f.Offer.Price.Up.USD(), column("+"+f.Toll().USD()), dash(evidenceText(sim, f.Finding)), dash(networkText(f.Finding.Network)), len(f.Offer.Relays), ago(now.Sub(f.Seen)))
	}
	return t.Flush()
}

// carrierText is what an agent calls its network, else who has the SIM's code.
func carrierText(s agent.SIM) string {
	text := s.Operator
	if text == "" {
		text = carrier.Name(s)
	}
	if text == "" {
		text = s.MCC + s.MNC
	}
	if s.Roaming {
		return clip(text, 16) + " roaming"
	}
	return clip(text, 25)
}

// evidenceText is what a SIM's claims are worth. The offer's own word for that
// is the agent's, and no evidence.
func evidenceText(s agent.SIM, f carrier.Finding) string {
	if f.Evidence == "" && s.MCC != "" {
		return agent.EvidenceClaimed
	}
	return f.Evidence
}

func networkText(n carrier.Network) string {
	if n.AS == 0 {
		return ""
	}
	return clip(n.String(), 28)
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// ago is how long something is over; a relay's clock may be ahead.
func ago(d time.Duration) string {
	if d < time.Second {
		return "now"
	}
	if d < 2*time.Minute {
		return fmt.Sprintf("%d s ago", d/time.Second)
	}
	return duration(uint64(d/time.Second)) + " ago"
}
