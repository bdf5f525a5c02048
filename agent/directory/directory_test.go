package directory

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay/market"
	"github.com/depinsim/x402/tunnel/relay/server"
)

var _ server.Directory = (*Directory)(nil)

// testKey returns a key that is the same at every call.
func testKey(t testing.TB, n uint32) *channel.Key {
	t.Helper()
	b := make([]byte, 32)
	binary.BigEndian.PutUint32(b[28:], n+1)
	k, err := channel.ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testOffer() agent.Offer {
	var asset, pay channel.Address
	asset[0], pay[0] = 1, 2
	return agent.Offer{
		Seq: 7, Endpoints: []string{"192.0.2.1:4402"}, Relays: []string{"relay.example:4433"},
		Price: agent.Price{Up: 500_000, Down: 800_000},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "https://facilitator.example", Asset: asset,
			AssetName: "USDC", AssetVersion: "2", PayTo: pay, WithdrawDelay: 86_400, MinDeposit: 1000,
		},
		SIM: agent.SIM{MCC: "262", MNC: "01", Operator: "Telekom.de", Technology: "LTE", Evidence: agent.EvidenceClaimed},
	}
}

func signed(t testing.TB, k *channel.Key, change func(*agent.Offer)) []byte {
	t.Helper()
	o := testOffer()
	if change != nil {
		change(&o)
	}
	b, err := agent.SignOffer(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// publish connects an agent and publishes its offer.
func publish(t testing.TB, d *Directory, n uint32, change func(*agent.Offer)) *channel.Key {
	t.Helper()
	k := testKey(t, n)
	d.Seen(k.Address(), true)
	if err := d.Publish(k.Address(), signed(t, k, change)); err != nil {
		t.Fatal(err)
	}
	return k
}

// get asks over HTTP.
func get(t testing.TB, d *Directory, target string, into any) int {
	t.Helper()
	w := httptest.NewRecorder()
	d.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
		t.Fatalf("%s: %s: %v", target, w.Body, err)
	}
	return w.Code
}

func agents(t testing.TB, d *Directory, q string) []string {
	t.Helper()
	var p market.Page
	if code := get(t, d, "/v1/offers?"+q, &p); code != http.StatusOK {
		t.Fatalf("%s: %d", q, code)
	}
	var all []string
	for _, l := range p.Offers {
		o, err := agent.ParseOffer(l.Offer)
		if err != nil {
			t.Fatalf("%s: the relay hands out %s: %v", q, l.Offer, err)
		}
		all = append(all, o.Agent.String())
	}
	return all
}

func TestAuthenticate(t *testing.T) {
	d, k := New("relay.example:4433"), testKey(t, 1)
	exporter := [32]byte{1, 2, 3}
	good := k.Sign(agent.RelayDigest(exporter))
	if err := d.Authenticate(k.Address(), exporter, good); err != nil {
		t.Error(err)
	}
	if err := d.Authenticate(k.Address(), [32]byte{4}, good); err == nil {
		t.Error("a hello was replayed on another connection")
	}
	if err := d.Authenticate(testKey(t, 2).Address(), exporter, good); err == nil {
		t.Error("another agent's name")
	}
	if err := d.Authenticate(k.Address(), exporter, [65]byte{}); err == nil {
		t.Error("no signature")
	}
}

// TestPublish: only its agent publishes an offer, on a connection of its own,
// and never an older one.
func TestPublish(t *testing.T) {
	d, k, thief := New("relay.example:4433"), testKey(t, 1), testKey(t, 2)
	offer := signed(t, k, nil)
	if err := d.Publish(k.Address(), offer); err == nil {
		t.Error("published without a connection")
	}
	d.Seen(k.Address(), true)
	d.Seen(thief.Address(), true)
	if err := d.Publish(thief.Address(), offer); err == nil {
		t.Error("a thief published another's offer")
	}
	if err := d.Publish(k.Address(), bytes.Replace(offer, []byte("500000"), []byte("400000"), 1)); err == nil {
		t.Error("a changed offer")
	}
	for _, o := range [][]byte{offer, offer} { // again after a new connection
		if err := d.Publish(k.Address(), o); err != nil {
			t.Error(err)
		}
	}
	if err := d.Publish(k.Address(), signed(t, k, func(o *agent.Offer) { o.Price.Up = 1 })); err == nil {
		t.Error("another offer of the same number")
	}
	if err := d.Publish(k.Address(), signed(t, k, func(o *agent.Offer) { o.Seq = 6 })); err == nil {
		t.Error("an older offer")
	}
	if err := d.Publish(k.Address(), signed(t, k, func(o *agent.Offer) { o.Seq = 8; o.Price.Down = 700_000 })); err != nil {
		t.Error(err)
	}
	var p market.Page
	get(t, d, "/v1/offers", &p)
	if len(p.Offers) != 1 || !strings.Contains(string(p.Offers[0].Offer), "700000") || p.Offers[0].Country != "DE" {
		t.Errorf("%+v", p)
	}
}

// TestFresh: an offer is listed while its agent is connected and a minute
// longer, with the time of its last sign of life.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New("relay.example:4433")
		k := publish(t, d, 1, nil)
		time.Sleep(10 * time.Minute) // connected, and says nothing
		began := time.Now().Unix()
		d.Seen(k.Address(), true)
		time.Sleep(5 * time.Second)
		var p market.Page
		if get(t, d, "/v1/offers", &p); len(p.Offers) != 1 || p.Offers[0].Seen != began {
			t.Fatalf("%+v, seen at %d", p, began)
		}
		d.Seen(k.Address(), false)
		time.Sleep(away)
		if n := len(agents(t, d, "")); n != 1 {
			t.Errorf("after a minute: %d offers", n)
		}
		d.Seen(k.Address(), true) // back
		time.Sleep(away)
		if n := len(agents(t, d, "")); n != 1 {
			t.Errorf("back: %d offers", n)
		}
		d.Seen(k.Address(), false)
		time.Sleep(away + time.Nanosecond)
		if n := len(agents(t, d, "")); n != 0 {
			t.Errorf("gone: %d offers", n)
		}
		time.Sleep(sweepEvery)
		d.Seen(testKey(t, 2).Address(), true)
		if len(d.entries) != 1 {
			t.Errorf("%d agents remembered", len(d.entries))
		}
		// One that is gone may begin again with any number.
		d.Seen(k.Address(), true)
		if err := d.Publish(k.Address(), signed(t, k, func(o *agent.Offer) { o.Seq = 1 })); err != nil {
			t.Error(err)
		}
	})
}

func TestQuery(t *testing.T) {
	d := New("relay.example:4433")
	german := publish(t, d, 1, nil).Address().String()
	american := publish(t, d, 2, func(o *agent.Offer) {
		o.SIM = agent.SIM{MCC: "311", MNC: "480", Operator: "Verizon", Technology: "5G NSA"}
		o.Price = agent.Price{Up: 100, Down: 900_000}
	}).Address().String()
	island := publish(t, d, 3, func(o *agent.Offer) {
		o.SIM = agent.SIM{MCC: "340", MNC: "20", Operator: "Digicel", Technology: "HSPA"}
		o.Price = agent.Price{Up: 100, Down: 100}
		o.Payment.Network = "eip155:8453"
	}).Address().String()
	nowhere := publish(t, d, 4, func(o *agent.Offer) { o.SIM = agent.SIM{}; o.Price = agent.Price{} }).Address().String()

	for q, want := range map[string][]string{
		"":                                 {nowhere, island, german, american},
		"country=de":                       {german},
		"country=US":                       {american},
		"country=MQ":                       {island},
		"country=GP":                       {island},
		"country=FR":                       nil,
		"carrier=TELEKOM":                  {german},
		"carrier=262-01":                   {german},
		"carrier=311480":                   {american},
		"carrier=26202":                    nil,
		"tech=lte":                         {german},
		"tech=4g":                          {german},
		"tech=5G":                          {american},
		"tech=nr":                          {american},
		"tech=3g":                          {island},
		"tech=hspa":                        {island},
		"max-price=0.80":                   {nowhere, island, german},
		"max-price=0.799999":               {nowhere, island},
		"max-price=0":                      {nowhere},
		"network=eip155:8453":              {island},
		"agent=" + german:                  {german},
		"agent=" + strings.ToLower(german): {german},
		"country=de&tech=5g":               nil,
		"country=de&tech=&carrier=tele":    {german},
		"limit=2":                          {nowhere, island},
	} {
		if got := agents(t, d, q); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", q, got, want)
		}
	}
	for _, q := range []string{
		"country=DEU", "country=d%C3%A4", "max-price=-1", "max-price=1e3", "max-price=0.0000001", "network=ethereum", "agent=0x12",
		"limit=0", "limit=101", "limit=x", "cursor=x", "cursor=0-", "cursor=zz-0", "cursor=0-99999999", "contry=de",
		"country=de&country=us", "carrier=" + strings.Repeat("x", 101), "a=%zz", "a;b",
	} {
		var e struct{ Error string }
		if code := get(t, d, "/v1/offers?"+q, &e); code != http.StatusBadRequest || e.Error == "" {
			t.Errorf("%s: %d %q", q, code, e.Error)
		}
	}
}

// TestPages: pages hold every offer once, cheapest first, and those of one
// price in another order for each who asks.
func TestPages(t *testing.T) {
	d := New("relay.example:4433")
	for n := range uint32(50) {
		publish(t, d, n, func(o *agent.Offer) { o.Price.Down = channel.Amount(600_000 + n/25) })
	}
	firsts := map[string]bool{}
	for range 10 {
		var all []string
		for cursor := ""; ; {
			var p market.Page
			get(t, d, "/v1/offers?limit=7&cursor="+cursor, &p)
			for _, l := range p.Offers {
				o, err := agent.ParseOffer(l.Offer)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, fmt.Sprintf("%d %s", o.Price.Down, o.Agent))
			}
			if cursor = p.Next; cursor == "" {
				break
			}
		}
		firsts[all[0]] = true
		slices.Sort(all[:25]) // of one price, so only what is where counts
		slices.Sort(all[25:])
		if len(slices.Compact(slices.Clone(all))) != 50 || !slices.IsSorted(all) {
			t.Fatalf("%d offers, or in disorder: %q", len(all), all)
		}
	}
	if len(firsts) < 3 {
		t.Errorf("always the same first: %v", firsts)
	}
}

// TestDiscovery pins the standard's form.
func TestDiscovery(t *testing.T) {
	d := New("relay.example:4433")
	k := publish(t, d, 1, nil)
	publish(t, d, 2, func(o *agent.Offer) { o.Price.Up = 900_000 })
	var got map[string]any
	if code := get(t, d, "/discovery/resources?type=http&limit=1", &got); code != http.StatusOK {
		t.Fatal(code)
	}
	items := got["items"].([]any)
	item := items[0].(map[string]any)
	updated, err := time.Parse(time.RFC3339, item["lastUpdated"].(string))
	if err != nil || time.Since(updated) > time.Minute {
		t.Errorf("lastUpdated %v, %v", item["lastUpdated"], err)
	}
	delete(item, "lastUpdated")
	want := `{"items":[{"accepts":[{"amount":"1000","asset":"0x0100000000000000000000000000000000000000",` +
		`"extra":{"minDeposit":"1000","name":"USDC","receiverAuthorizer":"AGENT","version":"2","withdrawDelay":86400},"maxTimeoutSeconds":300,` +
		`"network":"eip155:84532","payTo":"0x0200000000000000000000000000000000000000","scheme":"batch-settlement"}],` +
		`"metadata":{"agent":"AGENT","country":"DE","description":"Mobile traffic of one SIM, by the byte","endpoints":["192.0.2.1:4402"],` +
		`"facilitator":"https://facilitator.example","pricePerGB":{"down":"800000","up":"500000"},"relays":["relay.example:4433"],` +
		`"sim":{"evidence":"claimed","mcc":"262","mnc":"01","operator":"Telekom.de","technology":"LTE"}},` +
		`"resource":"https://relay.example:4433/v1/offers?agent=AGENT","type":"http","x402Version":2}],` +
		`"pagination":{"limit":1,"offset":0,"total":2},"x402Version":2}`
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.ReplaceAll(string(b), k.Address().String(), "AGENT"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	for q, n := range map[string]int{"": 2, "offset=1": 1, "offset=2": 0, "type=mcp": 0, "limit=1&offset=1": 1} {
		var p struct{ Items []any }
		if code := get(t, d, "/discovery/resources?"+q, &p); code != http.StatusOK || len(p.Items) != n {
			t.Errorf("%q: %d, %d items, want %d", q, code, len(p.Items), n)
		}
	}
	for _, q := range []string{"limit=-1", "limit=1000", "offset=x", "offset=99999999999"} {
		var e struct{ Error string }
		if code := get(t, d, "/discovery/resources?"+q, &e); code != http.StatusBadRequest {
			t.Errorf("%q: %d", q, code)
		}
	}
}

// TestCountries holds the table against itself and against codes that everyone
// knows.
func TestCountries(t *testing.T) {
	table := countries()
	if len(table) != 238 {
		t.Errorf("%d codes", len(table))
	}
	for code, names := range table {
		if len(code) != 3 || code < "202" || code > "750" {
			t.Errorf("code %q", code)
		}
		for _, n := range names {
			if len(n) != 2 || n != strings.ToUpper(n) {
				t.Errorf("%s: %q", code, n)
			}
		}
	}
	for code, want := range map[string]string{
		"262": "DE", "310": "US", "234": "GB", "208": "FR", "440": "JP", "460": "CN", "404": "IN", "724": "BR", "655": "ZA", "505": "AU", "302": "CA", "621": "NG",
	} {
		if names := table[code]; len(names) == 0 || names[0] != want {
			t.Errorf("%s: %q, want %s", code, names, want)
		}
	}
	seen := map[string]bool{}
	for line := range strings.Lines(countryLines) {
		for word := range strings.FieldsSeq(line) {
			if len(word) == 3 && !strings.HasPrefix(line, "#") {
				if seen[word] {
					t.Errorf("%s twice", word)
				}
				seen[word] = true
			}
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "country=de&tech=5g", "max-price=0.80&carrier=x", "cursor=ff-20&limit=3", "agent=0x" + strings.Repeat("0", 40), "network=eip155:1", "a=b", "%"} {
		f.Add(s)
	}
	d := New("relay.example:4433")
	publish(f, d, 1, nil)
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		q, err := parseQuery(v)
		if err != nil {
			return
		}
		if q.limit < 1 || q.limit > maxLimit || q.offset < 0 || q.offset > maxOffset {
			t.Fatalf("%+v", q)
		}
		page, total := d.find(q, time.Now())
		if len(page) > q.limit || len(page) > total {
			t.Errorf("%d of %d for %+v", len(page), total, q)
		}
		if next := q.next(total); next != "" {
			if _, err := parseQuery(url.Values{"cursor": {next}}); err != nil {
				t.Errorf("cursor %q: %v", next, err)
			}
		}
	})
}

// BenchmarkQuery asks 5,000 offers by HTTP, without the network.
func BenchmarkQuery(b *testing.B) {
	d := New("relay.example:4433")
	for n := range uint32(5000) {
		publish(b, d, n, func(o *agent.Offer) { o.Price.Down = channel.Amount(500_000 + n%100) })
	}
	for name, q := range map[string]string{"all": "limit=100", "narrow": "country=DE&carrier=telekom&tech=lte&max-price=0.60&limit=20"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				w := httptest.NewRecorder()
				d.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/offers?"+q, nil))
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
