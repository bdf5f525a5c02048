package carrier

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// runs says whether the network is the operator's, by their names: a group's
// by the table of groups, any other if the names are the same but for words
// that say nothing. A name that merely has another's in it is not the same.
func runs(o Operator, n Network) bool {
	owner := words(n.Name)
	for _, name := range []string{o.Brand, o.Name} {
		if w := words(name); len(w) > 0 && (same(w, owner, n.Country) || allied(w, owner, n.Country)) {
			return true
		}
	}
	return false
}

// words are those of a name, in small letters without accents. What is written
// with & stays one word, and dots separate nothing: AT&T, S.A.
func words(name string) []string {
	plain := func(r rune) rune {
		switch {
		case unicode.Is(unicode.Mn, r), r == '.', r == '\'':
			return -1
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '&':
			return r
		}
		return ' '
	}
	text := strings.Map(plain, norm.NFD.String(unaccented.Replace(strings.ToLower(name))))
	return strings.Fields(text)
}

// unaccented are letters that are not made of one and an accent.
var unaccented = strings.NewReplacer("ß", "ss", "ø", "o", "æ", "ae", "ł", "l", "đ", "d", "ı", "i", "þ", "th", "ð", "d", "œ", "oe", " & ", " and ")

// legal are words of companies' forms.
var legal = set(`ag gmbh co kg kgaa ohg mbh inc llc ltd limited plc lp corp corporation company companies group grupo
	holding holdings sa sas sau sarl spa srl sl slu snc nv bv ab as asa a/s oy oyj aps sro zrt kft nyrt rt doo dd ad ead
	eood ood jsc pjsc ojsc cjsc ooo oao zao pao pty pte pvt private sdn bhd berhad tbk pt cv s a public the and de c v p l
	spolka akcyjna sp z oo anonim sirketi aktiengesellschaft aktiebolag incorporated`)

// trade are words of the trade.
var trade = set(`mobile mobil mobiles movil moviles movel wireless telecom telecoms telecomunicaciones telecomunicacoes
	telecommunication telecommunications telekomunikasyon telekommunikation telecomunicazioni communication
	communications comunicaciones comunicacoes cellular celular`)

// leastName is how many letters a name has at least that is one without the
// words of the trade.
const leastName = 4

// same compares names word by word, without what says nothing. Words of the
// trade do not count in the network's name if the SIM's has none, and there is
// enough else: Sunrise is Sunrise Communications, and China Mobile is not China
// Telecom, nor a bank's SIM in the bank's network.
func same(a, b []string, country string) bool {
	place := homeWords[country]
	without := func(w []string, also map[string]bool) []string {
		return slices.DeleteFunc(slices.Clone(w), func(s string) bool { return legal[s] || place[s] || also[s] })
	}
	a, b = without(a, nil), without(b, nil)
	if len(a) > 0 && slices.Equal(a, b) {
		return true
	}
	return len(strings.Join(a, "")) >= leastName && slices.Equal(a, without(b, trade))
}

// allied looks into the table of groups.
func allied(sim, owner []string, country string) bool {
	for _, g := range groups() {
		if g.in != nil && !g.in[country] || !begins(sim, g.sim) {
			continue
		}
		for i := range owner {
			if begins(owner[i:], g.owner) {
				return true
			}
		}
	}
	return false
}

func begins(w, with []string) bool { return len(w) >= len(with) && slices.Equal(w[:len(with)], with) }

func set(text string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(text) {
		m[w] = true
	}
	return m
}
