package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/url"
	"slices"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// Bounds of a page of resources.
const (
	defaultResources = 20
	maxResources     = 100
)

// resourceType is the one type that is listed: the resources are read over
// HTTP.
const resourceType = "http"

// resourceList is the answer to GET /discovery/resources (x402 version 2,
// discovery).
type resourceList struct {
	Version    int        `json:"x402Version"`
	Items      []any      `json:"items"` // resources: our own as they are, then offers
	Pagination pagination `json:"pagination"`
}

type pagination struct {
	Limit  int `json:"limit"`
	Offset int `json:"offset"`
	Total  int `json:"total"`
}

// A resource is an agent's offer. Its URL is where this relay shows the signed
// offer.
type resource struct {
	URL         string              `json:"resource"`
	Type        string              `json:"type"`
	Version     int                 `json:"x402Version"`
	Accepts     []x402.Requirements `json:"accepts"`
	LastUpdated time.Time           `json:"lastUpdated"`
	Metadata    metadata            `json:"metadata"`
}

// metadata is what the standard leaves to us.
type metadata struct {
	Description string          `json:"description"`
	MIMEType    string          `json:"mimeType"`
	Agent       channel.Address `json:"agent"`
	Price       agent.Price     `json:"price"`     // atomic units of the asset
	PriceUnit   uint64          `json:"priceUnit"` // for so many bytes
	Facilitator string          `json:"facilitator"`
	Country     string          `json:"country,omitempty"`
	SIM         agent.SIM       `json:"sim"`
	Endpoints   []string        `json:"endpoints,omitempty"`
	Relays      []string        `json:"relays,omitempty"`
	Seen        time.Time       `json:"seen"`
}

// resources answers GET /discovery/resources. Their order is this Directory's:
// the same for every page and every client, and nobody's choice.
func (d *Directory) resources(ctx context.Context, raw string) ([]byte, error) {
	limit, offset, none := defaultResources, 0, false
	err := parameters(raw, map[string]func(string) error{
		"type": func(s string) error {
			none = s != resourceType
			if len(s) > maxCarrier {
				return errors.New("no such type")
			}
			return nil
		},
		"limit":  func(s string) error { return setNumber(&limit, s, 1, maxResources) },
		"offset": func(s string) error { return setNumber(&offset, s, 0, math.MaxInt32) },
	})
	if err != nil {
		return nil, err
	}
	var all []placed
	for _, e := range d.matching(func(*entry) bool { return !none }) {
		all = append(all, placed{e, draw(d.salt, e.offer.Agent)})
	}
	slices.SortFunc(all, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.draw, b.draw), slices.Compare(a.offer.Agent[:], b.offer.Agent[:]))
	})
	var own []json.RawMessage
	if d.own != nil && !none {
		own = d.own(ctx, "https://"+d.name.Address())
	}
	total := len(own) + len(all)
	list := resourceList{Version: x402.Version, Items: []any{}, Pagination: pagination{limit, offset, total}}
	from := min(offset, total)
	for i := from; i < min(from+limit, total); i++ {
		if i < len(own) {
			list.Items = append(list.Items, own[i])
		} else {
			list.Items = append(list.Items, d.resource(all[i-len(own)].entry))
		}
	}
	return marshal(list), nil
}

// resource describes an offer.
func (d *Directory) resource(e *entry) resource {
	o := &e.offer
	r := resource{
		URL:  "https://" + d.name.Address() + market.OffersPath + "?" + url.Values{"agent": {o.Agent.String()}}.Encode(),
		Type: resourceType, Version: x402.Version, Accepts: []x402.Requirements{requirements(o)},
		LastUpdated: e.published.UTC().Truncate(time.Second),
		Metadata: metadata{
			Description: "Internet access over a SIM card, paid by the byte through the tunnel of github.com/depinsim/x402",
			MIMEType:    "application/json",
			Agent:       o.Agent, Price: o.Price, PriceUnit: agent.GB, Facilitator: o.Payment.Facilitator, SIM: o.SIM,
			Endpoints: o.Endpoints, Relays: o.Relays,
			Seen: time.Unix(0, e.seen.Load()).UTC().Truncate(time.Second),
		},
	}
	if e.country != "" {
		r.Metadata.Country = e.country[:2]
	}
	return r
}

// requirements are what the agent itself asks of a client without a channel:
// the smallest deposit. It is said once more as a hint, without which some
// clients deposit ten times the amount.
func requirements(o *agent.Offer) x402.Requirements {
	r := x402.BatchRequirements(o.Payment.Network,
		channel.Token{Name: o.Payment.AssetName, Version: o.Payment.AssetVersion}, o.Channel(channel.Address{}))
	r.Amount, r.Extra.MinDeposit = o.Payment.MinDeposit, &o.Payment.MinDeposit
	return r
}
