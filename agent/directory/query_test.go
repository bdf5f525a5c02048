package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// various are offers that differ in everything that is asked for.
func various(n int, o *agent.Offer) {
	switch n {
	case 0: // Germany, LTE, 4 USD
	case 1:
		o.SIM = agent.SIM{MCC: "262", MNC: "02", Operator: "Vodafone.de", Technology: "5G NSA"}
		o.Price = agent.Price{Up: 2_000_000, Down: 3_000_000}
	case 2:
		o.SIM = agent.SIM{MCC: "310", MNC: "410", Operator: "AT&T", Technology: "5G"}
		o.Price = agent.Price{Up: 500_000, Down: 8_000_000}
	case 3:
		o.SIM = agent.SIM{MCC: "250", MNC: "01", Operator: "МТС", Technology: "UMTS"}
		o.Price = agent.Price{Up: 3_000_000, Down: 3_000_000}
		o.Payment.Network = "eip155:8453"
	case 4:
		o.SIM = agent.SIM{} // sells without naming a SIM
		o.Price = agent.Price{}
	case 5:
		o.SIM = agent.SIM{MCC: "340", MNC: "02", Operator: "Orange", Technology: "HSPA"}
		o.Price = agent.Price{Up: 9_000_000, Down: 9_000_000}
	}
}

const variety = 6

// TestOffers asks as buyers do, over HTTPS. The agents come cheapest first.
func TestOffers(t *testing.T) {
	d := New(Options{Name: testName()})
	list(t, d, variety, various)
	index := map[channel.Address]int{}
	for n := range variety {
		index[testKey(t, n).Address()] = n
	}
	c := client(t, d)
	for name, test := range map[string]struct {
		query market.Query
		want  []int
	}{
		"all":                  {market.Query{}, []int{4, 1, 3, 0, 2, 5}},
		"country":              {market.Query{Country: "DE"}, []int{1, 0}},
		"country in lower":     {market.Query{Country: "us"}, []int{2}},
		"second of a country":  {market.Query{Country: "MQ"}, []int{5}},
		"country of nobody":    {market.Query{Country: "FR"}, nil},
		"carrier":              {market.Query{Carrier: "TELEKOM"}, []int{0}},
		"carrier with &":       {market.Query{Carrier: "at&t"}, []int{2}},
		"carrier in cyrillic":  {market.Query{Carrier: "мтс"}, []int{3}},
		"part of two":          {market.Query{Carrier: ".de"}, []int{1, 0}},
		"MCC and MNC":          {market.Query{Carrier: "26202"}, []int{1}},
		"MNC of three":         {market.Query{Carrier: "310410"}, []int{2}},
		"MNC of nobody":        {market.Query{Carrier: "31041"}, nil},
		"5g with its half":     {market.Query{Technology: "5g"}, []int{1, 2}},
		"5g nsa alone":         {market.Query{Technology: "5G NSA"}, []int{1}},
		"with a hyphen":        {market.Query{Carrier: "310-410"}, []int{2}},
		"4g":                   {market.Query{Technology: "4G"}, []int{0}},
		"3g":                   {market.Query{Technology: "3g"}, []int{3, 5}},
		"2g":                   {market.Query{Technology: "2g"}, nil},
		"lte":                  {market.Query{Technology: "lte"}, []int{0}},
		"umts":                 {market.Query{Technology: "umts"}, []int{3}},
		"most":                 {market.Query{MaxPrice: "4.00"}, []int{4, 1, 3, 0}},
		"most, to the unit":    {market.Query{MaxPrice: "3.999999"}, []int{4, 1, 3}},
		"free only":            {market.Query{MaxPrice: "0"}, []int{4}},
		"network":              {market.Query{Network: "eip155:8453"}, []int{3}},
		"agent":                {market.Query{Agent: testKey(t, 2).Address().String()}, []int{2}},
		"agent in lower":       {market.Query{Agent: strings.ToLower(testKey(t, 2).Address().String())}, []int{2}},
		"agent that is not":    {market.Query{Agent: testKey(t, 99).Address().String()}, nil},
		"all of it":            {market.Query{Country: "de", Carrier: "voda", Technology: "5g", MaxPrice: "3", Network: "eip155:84532"}, []int{1}},
		"all of it but one":    {market.Query{Country: "de", Carrier: "voda", Technology: "lte", MaxPrice: "3"}, nil},
		"the two cheapest":     {market.Query{Limit: 2}, []int{4, 1}},
		"as many as there are": {market.Query{Limit: variety}, []int{4, 1, 3, 0, 2, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := c.Offers(t.Context(), test.query)
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, l := range p.Offers {
				o, err := agent.ParseOffer(l.Offer)
				if err != nil {
					t.Fatal(err)
				}
				n := index[o.Agent]
				got = append(got, n)
				if want := []string{"DE", "DE", "US", "RU", "", "GP"}[n]; l.Country != want {
					t.Errorf("agent %d: country %q, want %q", n, l.Country, want)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
			if more := test.query.Limit == 2; (p.Next != "") != more {
				t.Errorf("next page %q", p.Next)
			}
		})
	}
}

// TestSignatureStays lists an offer that is not written as we would.
func TestSignatureStays(t *testing.T) {
	d, k := New(Options{Name: testName()}), testKey(t, 0)
	o := testOffer()
	o.SIM.Operator = "AT&T <US>"
	o.Version, o.Agent = agent.OfferVersion, k.Address()
	var raw bytes.Buffer
	e := json.NewEncoder(&raw)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		t.Fatal(err)
	}
	compact := bytes.TrimSpace(raw.Bytes())
	if !bytes.Contains(compact, []byte("AT&T <US>")) {
		t.Fatalf("%s", compact)
	}
	s := k.Sign(channel.Keccak256([]byte("x402 offer v1\n"), compact))
	signed := fmt.Appendf(nil, "{ \"offer\": %s,\n \"signature\": %q }", compact, s)
	if err := d.Publish(k.Address(), seenAt, signed); err != nil {
		t.Fatal(err)
	}
	p, err := client(t, d).Offers(t.Context(), market.Query{Carrier: "at&t"})
	if err != nil || len(p.Offers) != 1 {
		t.Fatalf("%d offers, %v", len(p.Offers), err)
	}
	if got, err := agent.ParseOffer(p.Offers[0].Offer); err != nil || got.SIM != o.SIM {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestPages goes through many offers of few prices while others come and go.
func TestPages(t *testing.T) {
	d := New(Options{Name: testName()})
	const agents = 257
	price := func(n int) channel.Amount { return channel.Amount(n % 3 * 1_000_000) }
	list(t, d, agents, func(n int, o *agent.Offer) { o.Price = agent.Price{Up: price(n), Down: price(n)} })
	index := map[channel.Address]int{}
	for n := range agents {
		index[testKey(t, n).Address()] = n
	}
	for _, limit := range []int{1, 7, 100, 256, 257, 1000} {
		seen, last, pages := map[channel.Address]bool{}, channel.Amount(0), 0
		for next := ""; ; pages++ {
			got, more := page(t, d, fmt.Sprintf("limit=%d&cursor=%s", limit, next))
			if len(got) > limit || len(got) == 0 {
				t.Fatalf("limit %d: a page of %d", limit, len(got))
			}
			for _, a := range got {
				if seen[a] {
					t.Errorf("limit %d: %s twice", limit, a)
				}
				if p := price(index[a]); p < last {
					t.Errorf("limit %d: %s after %s", limit, p, last)
				} else {
					last = p
				}
				seen[a] = true
			}
			if next = more; next == "" {
				break
			}
			if limit == 7 { // one leaves that was listed, and comes back
				d.Seen(got[0], false)
				d.Seen(got[0], true)
			}
		}
		if want := (agents - 1) / limit; len(seen) != agents || pages != want {
			t.Errorf("limit %d: %d agents in %d pages, want %d in %d", limit, len(seen), pages+1, agents, want+1)
		}
	}
}

// TestFair asks again and again: of equals each is first in his turn.
func TestFair(t *testing.T) {
	d := New(Options{Name: testName()})
	const agents, queries = 5, 1000
	list(t, d, agents, nil)
	first := map[channel.Address]int{}
	for range queries {
		got, _ := page(t, d, "limit=1")
		first[got[0]]++
	}
	for a, n := range first {
		if n < queries/agents/2 || n > queries/agents*2 {
			t.Errorf("%s is first in %d of %d", a, n, queries)
		}
	}
	if len(first) != agents {
		t.Errorf("only %d of %d are ever first", len(first), agents)
	}
}

// TestLargePages lists offers of the greatest size: an answer stays one that
// the client takes, and all are there.
func TestLargePages(t *testing.T) {
	d := New(Options{Name: testName()})
	const agents = 300
	list(t, d, agents, func(_ int, o *agent.Offer) {
		o.Relays = append(o.Relays, strings.Repeat("a.", 100)+"example:1")
		o.Payment.Facilitator = "https://facilitator.example/" + strings.Repeat("x", 6500)
	})
	c := client(t, d)
	for q, seen, pages := (market.Query{Limit: 1000}), 0, 1; ; pages++ {
		p, err := c.Offers(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(p.Offers)
		if q.Cursor = p.Next; q.Cursor == "" {
			if seen != agents || pages < 2 {
				t.Errorf("%d offers in %d pages", seen, pages)
			}
			return
		}
	}
}

// TestBadQueries is what buyers get wrong. Each answer is one line that names
// the parameter.
func TestBadQueries(t *testing.T) {
	d := New(Options{Name: testName()})
	list(t, d, 1, nil)
	c := client(t, d)
	_, err := c.Offers(t.Context(), market.Query{Country: "Germany"})
	e, ok := errors.AsType[*market.RefusedError](err)
	if !ok || e.Status != http.StatusBadRequest || !strings.Contains(e.Text, "country: ") {
		t.Errorf("the client says %v", err)
	}
	for url, want := range map[string]string{
		"/v1/offers?contry=de":                  `unknown parameter "contry": there are agent, carrier, country, cursor, evidence, limit, max-price, network, tech`,
		"/v1/offers?country=de&country=us":      "country: given twice",
		"/v1/offers?country=zz":                 `country: "zz", want a country's two letters`,
		"/v1/offers?country=U%20":               "country: ",
		"/v1/offers?country=%20U":               "country: ",
		"/v1/offers?max-price=cheap":            `max-price: amount "cheap"`,
		"/v1/offers?max-price=-1":               "max-price: ",
		"/v1/offers?max-price=1.0000001":        "max-price: ",
		"/v1/offers?limit=0":                    `limit: "0", want a number from 1 to 1000`,
		"/v1/offers?limit=1001":                 "limit: ",
		"/v1/offers?limit=ten":                  "limit: ",
		"/v1/offers?network=base":               "network: ",
		"/v1/offers?agent=me":                   `agent: address "me"`,
		"/v1/offers?cursor=x":                   "cursor: not one of this relay's",
		"/v1/offers?cursor=AAAA":                "cursor: ",
		"/v1/offers?a=%zz":                      "the query is not well-formed",
		"/v1/offers?a=1;b=2":                    "the query is not well-formed",
		"/discovery/resources?limit=101":        "limit: ",
		"/discovery/resources?offset=-1":        "offset: ",
		"/discovery/resources?country=de":       `unknown parameter "country": there are limit, offset, type`,
		"/v1/offers?carrier=" + long(65):        "carrier: longer than 64 bytes",
		"/v1/offers?tech=" + long(65):           "tech: longer than 64 bytes",
		"/v1/offers?country=" + long(5000):      "country: ",
		"/v1/offers?" + long(5000) + "=1":       "unknown parameter ",
		"/discovery/resources?type=" + long(65): "type: ",
	} {
		w := get(d, url)
		var said struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil {
			t.Errorf("%.60s: %v", url, err)
		}
		if w.Code != http.StatusBadRequest || !strings.HasPrefix(said.Error, want) || strings.Contains(said.Error, "\n") || len(said.Error) > 200 {
			t.Errorf("%.60s: %d %q, want %q", url, w.Code, said.Error, want)
		}
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func TestElsewhere(t *testing.T) {
	d := New(Options{Name: testName()})
	if w := get(d, "/v1/offer"); w.Code != http.StatusNotFound {
		t.Error(w.Code)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, httptest.NewRequest(http.MethodPost, market.OffersPath, nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Error(w.Code)
	}
	if w := get(d, market.OffersPath); w.Body.String() != "{\"offers\":[]}\n" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("an empty directory says %q", w.Body)
	}
}

func TestCursor(t *testing.T) {
	want := position{salt: 1, price: 2, both: 1<<64 - 1, draw: 4, next: true}
	var got position
	if err := got.parse(want.String()); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
}

// FuzzOffers asks what nobody should.
func FuzzOffers(f *testing.F) {
	d := New(Options{Name: testName()})
	list(f, d, variety, various)
	for _, seed := range []string{
		"", "country=de&tech=5g", "carrier=at%26t&max-price=4.00&limit=2", "network=eip155:8453", "cursor=" + position{}.String(),
		"agent=" + testKey(f, 1).Address().String(), "limit=1000&cursor=" + position{salt: 1 << 63, price: 3_000_000}.String(),
		"a=%zz", "country=%00%ff", "max-price=18446744073709551615",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		for _, path := range []string{market.OffersPath, discoveryPath} {
			w := get(d, path+"?"+raw)
			var p market.Page
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if w.Code != http.StatusOK && w.Code != http.StatusBadRequest || len(p.Offers) > variety {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		q, err := parseQuery(raw)
		if err != nil {
			return
		}
		agents, _ := page(t, d, raw)
		if all := d.matching(q.matches); len(agents) > q.limit || !q.after.next && len(agents) != min(q.limit, len(all)) {
			t.Fatalf("%d offers, %d match", len(agents), len(all))
		}
	})
}

// FuzzPublish feeds offers. What is listed is the agent's own and verifies.
func FuzzPublish(f *testing.F) {
	k := testKey(f, 0)
	f.Add(sign(f, k, testOffer()))
	f.Add([]byte(`{"offer":{"version":1,"relays":["relay.example:4403"]},"signature":"0x00"}`))
	f.Add([]byte(" {}"))
	f.Add([]byte{}) // withdraws what was published
	f.Fuzz(func(t *testing.T, signed []byte) {
		d := New(Options{Name: testName()})
		err := d.Publish(k.Address(), seenAt, signed)
		listed := err == nil && len(signed) > 0
		if agents, _ := page(t, d, ""); listed != cmp.Equal(agents, []channel.Address{k.Address()}) || !listed && agents != nil {
			t.Fatalf("%v, and listed are %v", err, agents)
		}
		if w := get(d, discoveryPath); w.Code != http.StatusOK || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// BenchmarkOffers is a query at a full market, as the server calls it.
func BenchmarkOffers(b *testing.B) {
	d := New(Options{Name: testName()})
	list(b, d, 5000, func(n int, o *agent.Offer) {
		various(n%variety, o)
		o.Price.Up += channel.Amount(n % 40)
	})
	for _, q := range []string{"", "limit=1000", "country=de&tech=5g&max-price=4.00&carrier=voda", "agent=" + testKey(b, 7).Address().String()} {
		b.Run("offers?"+q, func(b *testing.B) {
			for b.Loop() {
				get(d, market.OffersPath+"?"+q)
			}
		})
	}
	b.Run("resources?limit=100", func(b *testing.B) {
		for b.Loop() {
			get(d, discoveryPath+"?limit=100")
		}
	})
}
