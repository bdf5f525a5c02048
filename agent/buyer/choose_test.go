package buyer

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// fakeRelay serves what it is told to, however it was asked.
func fakeRelay(t *testing.T, serve func(url.Values) any) relay.Name {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != market.OffersPath {
			http.NotFound(w, r)
			return
		}
		b, err := json.Marshal(serve(r.URL.Query()))
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	}))
	t.Cleanup(s.Close)
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	return relay.Name{Host: at.Addr().String(), Port: at.Port(), Pin: sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo), Pinned: true}
}

// A stall is an agent that offers.
type stall struct {
	key *channel.Key
	o   agent.Offer
}

func newStall(t *testing.T, price channel.Amount, change func(*agent.Offer)) stall {
	t.Helper()
	key, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	s := stall{key, testOffer()}
	s.o.Agent, s.o.Price = key.Address(), agent.Price{Up: price, Down: price}
	if change != nil {
		change(&s.o)
	}
	return s
}

// listing is what a relay says of it.
func (s stall) listing(t *testing.T, seq uint64, price channel.Amount, seen int64) market.Listing {
	t.Helper()
	o := s.o
	if o.Seq = seq; price > 0 {
		o.Price = agent.Price{Up: price, Down: price}
	}
	b, err := agent.SignOffer(s.key, o)
	if err != nil {
		t.Fatal(err)
	}
	return market.Listing{Offer: b, Seen: seen, Country: "DE"}
}

func found(l Listing) (text []string) {
	for _, f := range l.Offers {
		text = append(text, fmt.Sprintf("%s %s %d", f.Offer.Agent, f.Offer.Price.Max().USD(), f.Offer.Seq))
	}
	return text
}

// TestListMerges asks two relays: the newest offer of each agent counts.
func TestListMerges(t *testing.T) {
	a, b := newStall(t, 3_000_000, nil), newStall(t, 2_000_000, nil)
	one := fakeRelay(t, func(url.Values) any {
		return market.Page{Offers: []market.Listing{a.listing(t, 7, 0, 100), b.listing(t, 1, 0, 200)}}
	})
	two := fakeRelay(t, func(url.Values) any {
		return market.Page{Offers: []market.Listing{a.listing(t, 8, 1_000_000, 50)}}
	})
	for _, relays := range [][]relay.Name{{one, two}, {two, one}} {
		l, err := Market{Relays: relays}.List(t.Context(), Want{})
		if err != nil || l.Bad > 0 || len(l.Failed) > 0 {
			t.Fatalf("%v %+v", err, l)
		}
		want := []string{a.o.Agent.String() + " 1.00 8", b.o.Agent.String() + " 2.00 1"}
		if diff := cmp.Diff(want, found(l)); diff != "" {
			t.Error(diff)
		}
		if f := l.Offers[0]; len(f.Relays) != 2 || f.Seen != time.Unix(100, 0) || f.Country() != "DE" {
			t.Errorf("%+v", f)
		}
		if o, err := agent.ParseOffer(l.Offers[0].Signed()); err != nil || o.Seq != 8 {
			t.Errorf("%+v, %v", o, err)
		}
	}
	// An older offer that would have been cheap enough is not taken for the newest.
	l, err := Market{Relays: []relay.Name{one, two}}.List(t.Context(), Want{Agent: a.o.Agent.String(), MaxPrice: 500_000})
	if err != nil || len(l.Offers) > 0 {
		t.Errorf("%v, %v", found(l), err)
	}
}

// TestLyingRelay is about one that does not do what it was asked, and lists what
// no agent signed.
func TestLyingRelay(t *testing.T) {
	good, dear := newStall(t, 2_000_000, nil), newStall(t, 9_000_000, nil)
	elsewhere := newStall(t, 1_000_000, func(o *agent.Offer) { o.Payment.Network = "eip155:1" })
	other := newStall(t, 1_000_000, func(o *agent.Offer) { o.Payment.Facilitator = "http://thief.example" })
	carrier := newStall(t, 1_000_000, func(o *agent.Offer) { o.SIM.MNC, o.SIM.Operator = "99", "Another" })
	abroad := newStall(t, 1_000_000, func(o *agent.Offer) { o.SIM.MCC = "310" }) // though the relay says DE
	forged := good.listing(t, 9, 0, 0)
	forged.Offer = json.RawMessage(strings.Replace(string(forged.Offer), "2000000", "1000000", 1))
	long := good.listing(t, 9, 0, 0)
	long.Offer = json.RawMessage(`"` + strings.Repeat("x", agent.MaxOffer) + `"`)
	name := fakeRelay(t, func(url.Values) any {
		p := market.Page{Offers: []market.Listing{forged, long, {Offer: json.RawMessage("null")}, {}}}
		for _, s := range []stall{dear, elsewhere, other, carrier, abroad, good} {
			p.Offers = append(p.Offers, s.listing(t, 1, 0, 0))
		}
		return p
	})
	w := Want{Country: "de", Carrier: "262-01", Network: "eip155:84532", MaxPrice: 5_000_000, Facilitators: []string{"HTTP://127.0.0.1:1/"}}
	l, err := Market{Relays: []relay.Name{name}}.List(t.Context(), w)
	if err != nil || l.Bad != 4 {
		t.Errorf("%v, %d bad", err, l.Bad)
	}
	if diff := cmp.Diff([]string{good.o.Agent.String() + " 2.00 1"}, found(l)); diff != "" {
		t.Fatal(diff)
	}
	if c := l.Offers[0].Country(); c != "DE" {
		t.Errorf("country %q", c)
	}
}

// TestListPages reads on until there are enough, and not for ever.
func TestListPages(t *testing.T) {
	dear, good := newStall(t, 9_000_000, nil), newStall(t, 2_000_000, nil)
	asked := 0
	endless := fakeRelay(t, func(q url.Values) any {
		asked++
		p := market.Page{Next: "on", Offers: []market.Listing{dear.listing(t, 1, 0, 0)}}
		if asked == 3 {
			if q.Get("cursor") != "on" || q.Get("limit") != "100" || q.Get("max-price") != "3.00" {
				t.Errorf("asked %v", q)
			}
			p.Offers[0] = good.listing(t, 1, 0, 0)
		}
		return p
	})
	m := Market{Relays: []relay.Name{endless}}
	l, err := m.List(t.Context(), Want{MaxPrice: 3_000_000, Limit: 1})
	if err != nil || len(l.Offers) != 1 || asked != 3 {
		t.Errorf("%d offers after %d pages, %v", len(l.Offers), asked, err)
	}
	asked = 3
	if l, err = m.List(t.Context(), Want{MaxPrice: 3_000_000}); err != nil || len(l.Offers) > 0 || asked != 3+listPages {
		t.Errorf("%d offers after %d pages, %v", len(l.Offers), asked, err)
	}
}

// TestListFails is about relays that do not answer.
func TestListFails(t *testing.T) {
	good := newStall(t, 2_000_000, nil)
	works := fakeRelay(t, func(url.Values) any { return market.Page{Offers: []market.Listing{good.listing(t, 1, 0, 0)}} })
	hangs := fakeRelay(t, func(url.Values) any { <-t.Context().Done(); return nil })
	garbles := fakeRelay(t, func(url.Values) any { return "offers" })
	wrong := works
	wrong.Pin[0] ^= 1
	dead := relay.Name{Host: "127.0.0.1", Port: 1}
	l, err := Market{Relays: []relay.Name{hangs, garbles, wrong, dead, works}}.List(t.Context(), Want{})
	if err != nil || len(l.Offers) != 1 || len(l.Failed) != 4 {
		t.Fatalf("%v: %d offers, %v", err, len(l.Offers), l.Failed)
	}
	for i, want := range []string{"no answer while others answered", "answer: json", relay.ErrWrongKey.Error(), "refused"} {
		if got := l.Failed[i].Error(); !strings.Contains(got, want) || !strings.HasPrefix(got, "relay 127.0.0.1:") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if _, err := (Market{Relays: []relay.Name{garbles, wrong}}).List(t.Context(), Want{}); !errors.Is(err, relay.ErrWrongKey) {
		t.Errorf("got %v", err)
	}
}

func TestCheapestFirst(t *testing.T) {
	price := func(up, down channel.Amount) Found {
		return Found{Offer: agent.Offer{Price: agent.Price{Up: up, Down: down}}}
	}
	firsts := map[agent.Price]int{}
	for range 100 {
		all := []Found{price(5, 5), price(3, 4), price(4, 1), price(1, 4), price(0, 9)}
		cheapestFirst(all)
		var got []agent.Price
		for _, f := range all {
			got = append(got, f.Offer.Price)
		}
		firsts[all[0].Offer.Price]++
		p := []agent.Price{{Up: 4, Down: 1}, {Up: 1, Down: 4}}
		if got[0].Up == 1 {
			slices.Reverse(p)
		}
		if diff := cmp.Diff(append(p, agent.Price{Up: 3, Down: 4}, agent.Price{Up: 5, Down: 5}, agent.Price{Down: 9}), got); diff != "" {
			t.Fatal(diff)
		}
	}
	if len(firsts) != 2 {
		t.Errorf("among equals one is always first: %v", firsts)
	}
}

// TestExplain asks which condition to give up.
func TestExplain(t *testing.T) {
	all := []stall{newStall(t, 5_200_000, nil), newStall(t, 6_000_000, nil)}
	name := fakeRelay(t, func(q url.Values) any {
		var p market.Page
		if q.Get("country") == "de" && q.Get("tech") == "" || len(q) == 1 {
			for _, s := range all {
				p.Offers = append(p.Offers, s.listing(t, 1, 0, 0))
			}
		}
		return p
	})
	at := name.Address()
	for _, tt := range []struct {
		w          Want
		drop, text string
	}{
		{Want{Country: "de", MaxPrice: 4_000_000}, byPrice, "no offer at 4.00 USD per GB or less: 2 offers in DE, cheapest 5.20 USD per GB"},
		{Want{Country: "de", Technology: "5g"}, byTechnology, "no offer matches: 2 offers without --tech, cheapest 5.20 USD per GB"},
		{Want{Country: "fr"}, byCountry, "no offer matches: 2 offers without --country, cheapest 5.20 USD per GB; there is DE"},
		{Want{Country: "fr", Technology: "5g"}, "", "no offer matches at " + at + ", and none comes close"},
		{Want{Country: "de", Carrier: "other"}, byCarrier, "no offer matches: 2 offers without --carrier, cheapest 5.20 USD per GB"},
		{Want{Country: "de", Facilitators: []string{}}, byFacilitator, "no offer is paid through a facilitator that the wallet was used with: " +
			"2 offers in DE through others, such as http://127.0.0.1:1, cheapest 5.20 USD per GB"},
		{Want{Agent: "0x1234567890"}, "", "the agent 0x1234567890 is not known at " + at + " now"},
	} {
		e, ok := errors.AsType[*NoOfferError](Market{Relays: []relay.Name{name}}.Explain(t.Context(), tt.w))
		if !ok || e.Drop != tt.drop || e.Error() != tt.text || e.Empty {
			t.Errorf("%+v: got %v", tt.w, e)
		}
	}
	all = all[:1]
	e, _ := errors.AsType[*NoOfferError](Market{Relays: []relay.Name{name}}.Explain(t.Context(), Want{Country: "de", MaxPrice: 1}))
	if e.Error() != "no offer at 0.000001 USD per GB or less: 1 offer in DE, cheapest 5.20 USD per GB" {
		t.Errorf("got %v", e)
	}
	all = nil
	e, _ = errors.AsType[*NoOfferError](Market{Relays: []relay.Name{name}}.Explain(t.Context(), Want{Country: "de"}))
	if !e.Empty || e.Error() != "no agent is at "+at+" now" {
		t.Errorf("got %v", e)
	}
}

func TestListedFirst(t *testing.T) {
	f := Found{Relays: []string{"c.example:3", "b.example:2"}, Offer: agent.Offer{Relays: []string{"a.example:1", "b.example:2", "C.example:3"}}}
	if diff := cmp.Diff([]string{"b.example:2", "C.example:3", "a.example:1"}, f.listedFirst().Relays); diff != "" {
		t.Error(diff)
	}
	if f.Offer.Relays[0] != "a.example:1" {
		t.Error("the offer itself was changed")
	}
}
