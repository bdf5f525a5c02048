// Package carrier says which mobile networks there are, whose an IP address is,
// and whether the two agree: whether an agent that claims a SIM is seen in the
// network of the carrier that such SIMs are from.
//
// Relays and buyers use it, each on an address that it saw itself. An agent's
// own word is no evidence, so agents do not carry these tables.
//
// The mobile networks are built in; whose an address is comes from files that
// their user supplies (see [Read]).
package carrier

import (
	_ "embed"
	"slices"
	"strings"
	"sync"

	"github.com/depinsim/x402/agent"
)

//go:embed operators.tsv
var operatorsFile string

// An Operator is a mobile network. Several may share a code.
type Operator struct {
	Countries []string // ISO 3166-1 alpha-2; none for tests and worldwide networks
	Brand     string   // under which it sells; may be ""
	Name      string   // of the company; may be ""
	Gone      bool     // it does not operate any more
}

func (o Operator) String() string {
	if o.Brand != "" {
		return o.Brand
	}
	return o.Name
}

// operators are all, by MCC and MNC.
var operators = sync.OnceValue(func() map[string][]Operator {
	all := make(map[string][]Operator, 4096)
	for line := range strings.Lines(operatorsFile) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") || len(fields) != 5 {
			continue
		}
		code := fields[0]
		all[code] = append(all[code], Operator{
			Countries: strings.Fields(fields[1]), Gone: fields[2] == "-", Brand: fields[3], Name: fields[4],
		})
	}
	return all
})

// Operators are the networks of a code, those that operate first. The length
// of the MNC counts: 01 is another than 001.
func Operators(mcc, mnc string) []Operator {
	if len(mcc) != 3 {
		return nil
	}
	found := slices.Clone(operators()[mcc+mnc])
	slices.SortStableFunc(found, func(a, b Operator) int {
		switch {
		case a.Gone == b.Gone:
			return 0
		case b.Gone:
			return -1
		}
		return 1
	})
	return found
}

// Name is what people call the carrier of a SIM, "" if it is not known.
func Name(s agent.SIM) string {
	for _, o := range Operators(s.MCC, s.MNC) {
		return o.String()
	}
	return ""
}

// Names are all that a SIM's carrier may be looked for by: what the agent calls
// its network, and the names of those that have the SIM's code.
func Names(s agent.SIM) []string {
	names := []string{s.Operator}
	for _, o := range Operators(s.MCC, s.MNC) {
		names = append(names, o.Brand, o.Name)
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

// Countries are those that a SIM may be of, the likeliest first: by its network
// where that is known, else all of its MCC.
func Countries(s agent.SIM) []string {
	all := strings.Fields(agent.CountriesOf(s.MCC))
	var known []string
	for _, o := range Operators(s.MCC, s.MNC) {
		known = append(known, o.Countries...)
	}
	if known == nil {
		return all
	}
	var found []string
	for _, c := range append(all, known...) {
		if slices.Contains(known, c) && !slices.Contains(found, c) {
			found = append(found, c)
		}
	}
	return found
}
