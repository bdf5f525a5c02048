package directory

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
)

// Bounds of queries and answers.
const (
	maxValue     = 100 // bytes of a parameter
	defaultLimit = 20
	maxLimit     = 100
	maxOffset    = 1 << 20
)

// A query is what a buyer looks for. Zero fields do not narrow it.
type query struct {
	country  string
	carrier  string   // lower case
	tech     []string // any of them, lower case
	network  string
	agent    channel.Address
	priced   bool
	maxPrice channel.Amount
	limit    int

	seed   uint64 // decides between offers of one price
	offset int
}

// parseQuery reads the parameters of GET /v1/offers. One that is not known is
// an error: an answer that ignored it would be wrong.
func parseQuery(v url.Values) (query, error) {
	q := query{limit: defaultLimit, seed: rand.Uint64()}
	for key, values := range v {
		if len(values) != 1 {
			return query{}, fmt.Errorf("%.20q is given %d times", key, len(values))
		}
		value := values[0]
		if value == "" {
			continue
		}
		if len(value) > maxValue {
			return query{}, fmt.Errorf("%.20q has %d bytes, at most %d are allowed", key, len(value), maxValue)
		}
		if err := q.set(key, value); err != nil {
			return query{}, fmt.Errorf("%.20q: %w", key, err)
		}
	}
	return q, nil
}

func (q *query) set(key, value string) (err error) {
	switch key {
	case "country":
		if q.country = strings.ToUpper(value); len(q.country) != 2 || strings.Trim(q.country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return errors.New("want two letters, such as DE")
		}
	case "carrier":
		q.carrier = strings.ToLower(value)
	case "tech":
		q.tech = technologies(value)
	case "network":
		q.network = value
		_, err = channel.ParseNetwork(value)
	case "agent":
		q.agent, err = channel.ParseAddress(value)
	case "max-price":
		q.priced = true
		q.maxPrice, err = channel.ParseUSD(value)
	case "limit":
		q.limit, err = number(value, 1, maxLimit)
	case "cursor":
		seed, offset, ok := strings.Cut(value, "-")
		if !ok {
			return errors.New("want what \"next\" said")
		}
		if q.seed, err = strconv.ParseUint(seed, 16, 64); err == nil {
			q.offset, err = number(offset, 0, maxOffset)
		}
	default:
		return errors.New("not known; there are country, carrier, tech, max-price, network, agent, limit and cursor")
	}
	return err
}

func number(s string, least, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("want a number from %d to %d", least, most)
	}
	return n, nil
}

// technologies are the names of package modem that a buyer's word for a radio
// technology means, in lower case: people say 4G, and modems LTE.
func technologies(s string) []string {
	switch s = strings.ToLower(s); s {
	case "5g", "nr":
		return []string{"5g"} // and 5G NSA
	case "4g":
		return []string{"lte"}
	case "3g":
		return []string{"umts", "hspa"}
	case "2g":
		return []string{"gsm", "edge"}
	}
	return []string{s}
}

// speaks says whether a technology is one of those that are looked for.
func (q *query) speaks(technology string) bool {
	technology = strings.ToLower(technology)
	return slices.ContainsFunc(q.tech, func(t string) bool { return strings.Contains(technology, t) })
}

// matches says whether an offer is what is looked for.
func (q *query) matches(e *entry) bool {
	o := &e.offer
	switch {
	case q.priced && o.Price.Max() > q.maxPrice:
	case q.country != "" && !slices.Contains(e.countries, q.country):
	case q.carrier != "" && !strings.Contains(e.carrier, q.carrier) && e.network != strings.ReplaceAll(q.carrier, "-", ""):
	case q.tech != nil && !q.speaks(o.SIM.Technology):
	case q.network != "" && o.Payment.Network != q.network:
	case q.agent != channel.Address{} && o.Agent != q.agent:
	default:
		return true
	}
	return false
}

// find returns a page of what is looked for, cheapest first; of one price in an
// order that the seed decides, so that no agent is always first. total is how
// many there are on all pages.
func (d *Directory) find(q query, now time.Time) (page []*entry, total int) {
	type ranked struct {
		e    *entry
		rank uint64
	}
	var found []ranked
	for _, e := range d.list(now) {
		if !e.gone(now) && q.matches(e) {
			found = append(found, ranked{e, rank(q.seed, e.agent)})
		}
	}
	slices.SortFunc(found, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.e.offer.Price.Max(), b.e.offer.Price.Max()), cmp.Compare(a.rank, b.rank))
	})
	from := min(q.offset, len(found))
	for _, r := range found[from:min(from+q.limit, len(found))] {
		page = append(page, r.e)
	}
	return page, len(found)
}

// rank is an agent's place among those of its price (SplitMix64's mixing of
// the seed and its address).
func rank(seed uint64, a channel.Address) uint64 {
	x := seed ^ binary.BigEndian.Uint64(a[:]) ^ binary.BigEndian.Uint64(a[12:])
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// next is the cursor of the page after q's; "" if there is none.
func (q *query) next(total int) string {
	if q.offset+q.limit >= total {
		return ""
	}
	return fmt.Sprintf("%x-%d", q.seed, q.offset+q.limit)
}
