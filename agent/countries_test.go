package agent

import (
	"regexp"
	"strings"
	"testing"
)

func TestCountries(t *testing.T) {
	mcc, iso := regexp.MustCompile(`^[2-7]\d\d$`), regexp.MustCompile(`^[A-Z]{2}( [A-Z]{2})*$`)
	distinct := map[string]bool{}
	for code, list := range countries {
		if !mcc.MatchString(code) || !iso.MatchString(list) {
			t.Errorf("%q: %q", code, list)
		}
		for c := range strings.SplitSeq(list, " ") {
			distinct[c] = true
			if !IsCountry(c) {
				t.Errorf("%s is no country", c)
			}
		}
	}
	if len(countries) != 237 || len(distinct) != 240 {
		t.Errorf("%d codes of %d countries", len(countries), len(distinct))
	}
	for code, want := range map[string]string{
		"202": "GR", "262": "DE", "310": "US GU MP", "316": "US", "404": "IN", "440": "JP", "460": "CN", "505": "AU CC CX NF",
		"659": "SS", "724": "BR", "750": "FK", "001": "", "901": "", "999": "", "289": "", "": "", "26": "", "2620": "",
	} {
		if got := CountriesOf(code); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
	for _, code := range []string{"", "D", "DEU", "de", "P M", "R ", " Y", "ZZ", "EU"} {
		if IsCountry(code) {
			t.Errorf("%q is a country", code)
		}
	}
}
