package directory

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// How many offers one answer has.
const (
	defaultLimit = 100
	maxLimit     = 1000 // what market.Client takes
)

// maxCarrier bounds the part of an operator's name that is looked for: no name
// in an offer is longer.
const maxCarrier = 64

// A query says which offers are asked for. Zero fields do not narrow it.
type query struct {
	country string          // upper case
	carrier string          // lower case: part of a name
	plmn    string          // or MCC and MNC
	tech    []string        // any of them, lower case
	price   *channel.Amount // the most, of either direction
	agent   *channel.Address
	network string
	// evidence is the least that a SIM's claims are worth; "": anything.
	evidence string

	limit int
	after position // of the first page: the salt alone
}

// A position is a place in the order of one query's answers: by price, and
// among equals as the salt draws, so that nobody is always first. The salt is
// drawn for the first page and goes on in the cursors.
type position struct {
	salt              uint64
	price, both, draw uint64
	next              bool // what follows it is asked for
}

// parseQuery reads the parameters of /v1/offers. What is not known is refused:
// a filter that is overlooked would list what the buyer does not want.
func parseQuery(raw string) (query, error) {
	q := query{limit: defaultLimit, after: position{salt: rand.Uint64()}}
	return q, parameters(raw, map[string]func(string) error{
		"country": q.setCountry,
		"carrier": q.setCarrier,
		"tech":    q.setTech,
		"network": q.setNetwork,
		"evidence": func(s string) error {
			q.evidence = s
			if s != agent.EvidenceCarrier && s != agent.EvidenceClaimed {
				return fmt.Errorf("%.40q, want %s or %s", s, agent.EvidenceCarrier, agent.EvidenceClaimed)
			}
			return nil
		},
		"max-price": func(s string) (err error) {
			q.price = new(channel.Amount)
			*q.price, err = channel.ParseUSD(s)
			return err
		},
		"agent": func(s string) (err error) {
			q.agent = new(channel.Address)
			*q.agent, err = channel.ParseAddress(s)
			return err
		},
		"limit":  func(s string) error { return setNumber(&q.limit, s, 1, maxLimit) },
		"cursor": func(s string) error { return q.after.parse(s) },
	})
}

// parameters hands each parameter of a URL's query to the function of its name.
// An empty one counts as absent.
func parameters(raw string, take map[string]func(string) error) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return errors.New("the query is not well-formed")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		set, known := take[name]
		switch {
		case !known:
			return fmt.Errorf("unknown parameter %.40q: there are %s", name, strings.Join(slices.Sorted(maps.Keys(take)), ", "))
		case len(values[name]) > 1:
			return fmt.Errorf("%s: given twice", name)
		case values[name][0] == "":
			continue
		}
		if err := set(values[name][0]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func setNumber(n *int, s string, least, most int) error {
	v, err := strconv.ParseUint(s, 10, 31)
	if err != nil || int(v) < least || int(v) > most {
		return fmt.Errorf("%.40q, want a number from %d to %d", s, least, most)
	}
	*n = int(v)
	return nil
}

func (q *query) setCountry(s string) error {
	if q.country = strings.ToUpper(s); !agent.IsCountry(q.country) {
		return fmt.Errorf("%.40q, want a country's two letters (ISO 3166-1), such as DE", s)
	}
	return nil
}

func (q *query) setCarrier(s string) error {
	if len(s) > maxCarrier {
		return fmt.Errorf("longer than %d bytes", maxCarrier)
	}
	q.carrier = strings.ToLower(s)
	code := strings.Replace(s, "-", "", 1) // 262-01
	if n := len(code); (n == 5 || n == 6) && strings.Trim(code, "0123456789") == "" {
		q.plmn = code
	}
	return nil
}

func (q *query) setTech(s string) error {
	if len(s) > maxCarrier {
		return fmt.Errorf("longer than %d bytes", maxCarrier)
	}
	q.tech = technologies(strings.ToLower(s))
	return nil
}

// technologies are the names of package modem that a buyer's word for a radio
// technology means, in lower case: people say 4G, and modems LTE.
func technologies(word string) []string {
	switch word {
	case "nr":
		return []string{"5g"}
	case "4g":
		return []string{"lte"}
	case "3g":
		return []string{"umts", "hspa"}
	case "2g":
		return []string{"gsm", "edge"}
	}
	return []string{word}
}

func (q *query) setNetwork(s string) error {
	_, err := channel.ParseNetwork(s)
	q.network = s
	return err
}

// matches says whether an offer is what is asked for.
func (q *query) matches(e *entry) bool {
	o := &e.offer
	switch {
	case q.agent != nil && o.Agent != *q.agent,
		q.country != "" && !strings.Contains(e.country, q.country),
		q.price != nil && e.price > uint64(*q.price),
		q.network != "" && o.Payment.Network != q.network,
		q.evidence == agent.EvidenceCarrier && e.evidence() != agent.EvidenceCarrier:
		return false
	case q.carrier != "" && !strings.Contains(e.carrier, q.carrier) && (q.plmn == "" || o.SIM.MCC+o.SIM.MNC != q.plmn):
		return false
	}
	return q.tech == nil || slices.ContainsFunc(q.tech, func(t string) bool {
		return e.tech == t || strings.HasPrefix(e.tech, t+" ") // "5g" is also "5G NSA"
	})
}

// cursorSize is that of a position but for next.
const cursorSize = 4 * 8

// String is the cursor of the page that begins behind p.
func (p position) String() string {
	b := make([]byte, 0, cursorSize)
	for _, v := range [...]uint64{p.salt, p.price, p.both, p.draw} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parse reads what String writes. Whoever makes up a cursor gets a page that
// begins elsewhere, and nothing more.
func (p *position) parse(s string) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != cursorSize {
		return errors.New("not one of this relay's")
	}
	*p = position{next: true}
	for i, v := range [...]*uint64{&p.salt, &p.price, &p.both, &p.draw} {
		*v = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}
