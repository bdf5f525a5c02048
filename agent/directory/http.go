package directory

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// Paths that a directory answers.
const (
	offersPath    = "/v1/offers"
	discoveryPath = "/discovery/resources"
)

// ServeHTTP answers GET /v1/offers, whose offers are signed, and
// GET /discovery/resources, the same in the form of the x402 standard.
func (d *Directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case offersPath:
		d.serveOffers(w, r)
	case discoveryPath:
		d.serveDiscovery(w, r)
	default:
		http.NotFound(w, r)
	}
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone is no news
}

func refuse(w http.ResponseWriter, err error) {
	write(w, http.StatusBadRequest, struct {
		Error string `json:"error"`
	}{err.Error()})
}

// values reads a request's parameters strictly.
func values(r *http.Request) (url.Values, error) { return url.ParseQuery(r.URL.RawQuery) }

func (d *Directory) serveOffers(w http.ResponseWriter, r *http.Request) {
	v, err := values(r)
	if err != nil {
		refuse(w, err)
		return
	}
	q, err := parseQuery(v)
	if err != nil {
		refuse(w, err)
		return
	}
	found, total := d.find(q, time.Now())
	p := market.Page{Offers: make([]market.Listing, 0, len(found)), Next: q.next(total)}
	for _, e := range found {
		p.Offers = append(p.Offers, market.Listing{Offer: e.raw, Seen: e.seen.Load() / int64(time.Second), Country: e.country()})
	}
	write(w, http.StatusOK, p)
}

// country is the one that has most subscribers of those that share the code.
func (e *entry) country() string {
	if len(e.countries) == 0 {
		return ""
	}
	return e.countries[0]
}

// The x402 standard's discovery answer.
type (
	resources struct {
		Version    int        `json:"x402Version"`
		Items      []resource `json:"items"`
		Pagination pagination `json:"pagination"`
	}
	resource struct {
		Resource    string              `json:"resource"`
		Type        string              `json:"type"`
		Version     int                 `json:"x402Version"`
		Accepts     []x402.Requirements `json:"accepts"`
		LastUpdated time.Time           `json:"lastUpdated"`
		Metadata    metadata            `json:"metadata"`
	}
	pagination struct {
		Limit  int `json:"limit"`
		Offset int `json:"offset"`
		Total  int `json:"total"`
	}
	// metadata is ours: what the standard has no words for.
	metadata struct {
		Description string          `json:"description"`
		Agent       channel.Address `json:"agent"`
		Country     string          `json:"country,omitempty"`
		SIM         agent.SIM       `json:"sim"`
		PricePerGB  agent.Price     `json:"pricePerGB"` // atomic units per 1e9 bytes
		Facilitator string          `json:"facilitator"`
		Endpoints   []string        `json:"endpoints,omitempty"`
		Relays      []string        `json:"relays,omitempty"`
	}
)

// resourceType is the only type of resource that there is here, "http": what is
// bought is a tunnel that is opened by an HTTP request.
const resourceType = "http"

// hourSeed decides between resources of one price, for an hour: the standard's
// pages have an offset and no seed.
func hourSeed(now time.Time) uint64 { return uint64(now.Unix() / 3600) }

func (d *Directory) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	v, err := values(r)
	if err != nil {
		refuse(w, err)
		return
	}
	now := time.Now()
	q := query{limit: defaultLimit, seed: hourSeed(now)}
	if s := v.Get("limit"); s != "" {
		q.limit, err = number(s, 1, maxLimit)
	}
	if s := v.Get("offset"); s != "" && err == nil {
		q.offset, err = number(s, 0, maxOffset)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	var found []*entry
	var total int
	if t := v.Get("type"); t == "" || t == resourceType {
		found, total = d.find(q, now)
	}
	answer := resources{Version: x402.Version, Items: make([]resource, 0, len(found)), Pagination: pagination{q.limit, q.offset, total}}
	for _, e := range found {
		answer.Items = append(answer.Items, d.resource(e))
	}
	write(w, http.StatusOK, answer)
}

// resource is an offer in the standard's words. Its URL is where its signed
// offer is; the amount is the smallest deposit, for which a channel is opened.
func (d *Directory) resource(e *entry) resource {
	o := &e.offer
	where := url.URL{Scheme: "https", Host: d.name, Path: offersPath, RawQuery: url.Values{"agent": {o.Agent.String()}}.Encode()}
	return resource{
		Resource: where.String(), Type: resourceType, Version: x402.Version, LastUpdated: time.Unix(0, e.seen.Load()).UTC().Truncate(time.Second),
		Accepts: []x402.Requirements{{
			Scheme: x402.SchemeBatch, Network: o.Payment.Network, Amount: o.Payment.MinDeposit, Asset: o.Payment.Asset,
			PayTo: o.Payment.PayTo, MaxTimeoutSeconds: maxTimeout,
			Extra: x402.Extra{
				Name: o.Payment.AssetName, Version: o.Payment.AssetVersion,
				ReceiverAuthorizer: &o.Agent, WithdrawDelay: &o.Payment.WithdrawDelay, MinDeposit: &o.Payment.MinDeposit,
			},
		}},
		Metadata: metadata{
			Description: "Mobile traffic of one SIM, by the byte", Agent: o.Agent, Country: e.country(), SIM: o.SIM,
			PricePerGB: o.Price, Facilitator: o.Payment.Facilitator, Endpoints: o.Endpoints, Relays: o.Relays,
		},
	}
}

// maxTimeout is the standard's maxTimeoutSeconds: how long a payment may take.
const maxTimeout = 300
