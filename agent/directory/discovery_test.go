package directory

import (
	"encoding/json"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// TestResources is the answer as a client reads it that knows the standard and
// not us.
func TestResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, k := New(Options{Name: testName()}), testKey(t, 0)
		list(t, d, 1, nil)
		time.Sleep(90 * time.Second)
		d.Seen(k.Address(), true)
		var got any
		if err := json.Unmarshal(get(d, "/discovery/resources?type=http&limit=10").Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		self := k.Address().String()
		want := map[string]any{
			"x402Version": 2.0,
			"pagination":  map[string]any{"limit": 10.0, "offset": 0.0, "total": 1.0},
			"items": []any{map[string]any{
				"resource":    "https://relay.example:4403/v1/offers?agent=" + self,
				"type":        "http",
				"x402Version": 2.0,
				"lastUpdated": "2000-01-01T00:00:00Z", // where synctest's time begins
				"accepts": []any{map[string]any{
					"scheme": "batch-settlement", "network": "eip155:84532", "amount": "100000",
					"asset": channel.Address{1}.String(), "payTo": channel.Address{2}.String(), "maxTimeoutSeconds": 60.0,
					"extra": map[string]any{"name": "USDC", "version": "2", "receiverAuthorizer": self, "withdrawDelay": 86400.0, "minDeposit": "100000"},
				}},
				"metadata": map[string]any{
					"description": "Internet access over a SIM card, paid by the byte through the tunnel of github.com/depinsim/x402",
					"mimeType":    "application/json",
					"agent":       self,
					"price":       map[string]any{"up": "4000000", "down": "4000000"}, "priceUnit": 1e9,
					"facilitator": "https://facilitator.example",
					"country":     "DE",
					"sim":         map[string]any{"mcc": "262", "mnc": "01", "operator": "Telekom.de", "technology": "LTE", "evidence": "claimed"},
					"relays":      []any{testName().String()},
					"seen":        "2000-01-01T00:01:30Z",
				},
			}},
		}
		if diff := cmp.Diff(any(want), got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestResource follows a resource's URL, and reads what is accepted by the
// strict rules of the payment's types.
func TestResource(t *testing.T) {
	d := New(Options{Name: testName()})
	list(t, d, variety, various)
	var l struct {
		Items []struct {
			Resource string
			Accepts  []x402.Requirements
			Metadata struct{ Agent channel.Address }
		}
	}
	if err := x402.Unmarshal(get(d, discoveryPath).Body.Bytes(), &l); err != nil || len(l.Items) != variety {
		t.Fatal(err, len(l.Items))
	}
	for _, i := range l.Items {
		u, err := url.Parse(i.Resource)
		if err != nil || u.Host != "relay.example:4403" {
			t.Fatal(err, i.Resource)
		}
		if agents, _ := page(t, d, u.RawQuery); !cmp.Equal(agents, []channel.Address{i.Metadata.Agent}) {
			t.Errorf("%s shows %v", i.Resource, agents)
		}
		if len(i.Accepts) != 1 || *i.Accepts[0].Extra.ReceiverAuthorizer != i.Metadata.Agent {
			t.Errorf("%+v", i.Accepts)
		}
	}
}

// A resourcePage is a resourceList of offers, as a client reads it.
type resourcePage struct {
	Items      []resource `json:"items"`
	Pagination pagination `json:"pagination"`
}

// TestResourcePages reads all by limit and offset, in an order that stays.
func TestResourcePages(t *testing.T) {
	d := New(Options{Name: testName()})
	const agents = 47
	list(t, d, agents, nil)
	read := func(limit int) (order []string) {
		for offset := 0; ; offset += limit {
			var l resourcePage
			w := get(d, fmt.Sprintf("%s?limit=%d&offset=%d", discoveryPath, limit, offset))
			if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			if l.Pagination != (pagination{limit, offset, agents}) || l.Items == nil {
				t.Errorf("%+v, %d items", l.Pagination, len(l.Items))
			}
			if len(l.Items) == 0 {
				return order
			}
			for _, i := range l.Items {
				order = append(order, i.URL)
			}
		}
	}
	order := read(5)
	seen := map[string]bool{}
	for _, u := range order {
		seen[u] = true
	}
	if len(seen) != agents {
		t.Errorf("%d of %d listed", len(seen), agents)
	}
	if diff := cmp.Diff(order, read(20)); diff != "" {
		t.Error("the order changed", diff)
	}
	for query, items := range map[string]int{"": defaultResources, "type=mcp": 0, "offset=2147483647": 0, "limit=": defaultResources} {
		var l resourcePage
		if err := json.Unmarshal(get(d, discoveryPath+"?"+query).Body.Bytes(), &l); err != nil || len(l.Items) != items {
			t.Errorf("%q: %d items, %v", query, len(l.Items), err)
		}
	}
}

// TestRequirements holds what is listed against the terms that a channel of
// the agent must have.
func TestRequirements(t *testing.T) {
	o := testOffer()
	o.Agent = channel.Address{9}
	r := requirements(&o)
	c := o.Channel(channel.Address{3})
	if r.Scheme != x402.SchemeBatch || r.PayTo != c.Receiver || r.Asset != c.Token || *r.Extra.ReceiverAuthorizer != c.ReceiverAuthorizer ||
		*r.Extra.WithdrawDelay != c.WithdrawDelay || r.Amount != o.Payment.MinDeposit {
		t.Errorf("%+v is not for %+v", r, c)
	}
}
