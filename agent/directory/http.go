package directory

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// maxPage is the size at which an answer ends: no more than market.Client
// takes, with room for what comes around and after.
const maxPage = 1 << 20

// discoveryPath is where the x402 standard has resources listed.
const discoveryPath = "/discovery/resources"

// ServeHTTP answers queries.
func (d *Directory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if link, is := strings.CutPrefix(r.URL.Path, agent.LinkPath); is {
		d.serveLink(w, r, link)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "ask with GET")
		return
	}
	var body []byte
	var err error
	switch r.URL.Path {
	case market.OffersPath:
		body, err = d.offers(r.URL.RawQuery)
	case discoveryPath:
		body, err = d.resources(r.Context(), r.URL.RawQuery)
	default:
		refuse(w, http.StatusNotFound, "there are "+market.OffersPath+" and "+discoveryPath)
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	answer(w, http.StatusOK, body)
}

func answer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone is no news
}

func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, marshal(struct {
		Error string `json:"error"`
	}{text}))
}

// marshal encodes a value of ours, which always can be.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("directory: " + err.Error())
	}
	return b
}

// A placed entry is one in the order of a query.
type placed struct {
	*entry
	draw uint64
}

// compare orders by price, that of the dearer direction first of all, and then
// as drawn.
func (p placed) compare(o placed) int {
	return cmp.Or(cmp.Compare(p.price, o.price), cmp.Compare(p.both, o.both), cmp.Compare(p.draw, o.draw))
}

// offers answers a query with a market.Page: what is cheapest, and where to go
// on. Between the pages of one answer prices may change: then an offer may be
// in two of them, or in none.
func (d *Directory) offers(raw string) ([]byte, error) {
	q, err := parseQuery(raw)
	if err != nil {
		return nil, err
	}
	if q.evidence == agent.EvidenceCarrier && !d.checks() {
		return nil, errors.New("evidence: this relay has no table of networks and checks no carriers")
	}
	page := make([]placed, 0, defaultLimit)
	for _, e := range d.matching(q.matches) {
		p := placed{e, draw(q.after.salt, e.offer.Agent)}
		if !q.after.next || q.after.before(p) {
			page = append(page, p)
		}
	}
	slices.SortFunc(page, placed.compare)
	b := appendPage(page, &q)
	if len(d.toll) > 0 {
		b = append(append(append(b[:len(b)-1], `,"toll":`...), d.toll...), '}')
	}
	return b, nil
}

// before says whether p comes behind the position.
func (a position) before(p placed) bool {
	return cmp.Or(cmp.Compare(a.price, p.price), cmp.Compare(a.both, p.both), cmp.Compare(a.draw, p.draw)) < 0
}

// appendPage writes a market.Page by hand: json.Marshal would write "&" in an
// operator's name otherwise than its agent, who signed it.
func appendPage(all []placed, q *query) []byte {
	b := []byte(`{"offers":[`)
	for i, p := range all {
		if i == q.limit || i > 0 && len(b)+len(p.signed) > maxPage {
			last := all[i-1]
			next := position{salt: q.after.salt, price: last.price, both: last.both, draw: last.draw}
			b = append(append(b, `],"next":"`...), next.String()...)
			return append(b, `"}`...)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, `{"offer":`...), p.signed...)
		b = append(b, `,"seen":`...)
		b = strconv.AppendInt(b, p.seen.Load()/int64(time.Second), 10)
		if p.country != "" {
			b = append(append(b, `,"country":"`...), p.country[:2]...)
			b = append(b, '"')
		}
		if c := p.checked.Load(); c != nil {
			b = append(b, c.members...)
		}
		b = append(b, '}')
	}
	return append(b, `]}`...)
}
