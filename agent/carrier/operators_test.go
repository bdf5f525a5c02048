package carrier

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
)

// abroad are networks whose code is of another country than its MCC's plan
// says (agent.CountriesOf): on the soil of one and run from another, or of places that no plan has.
var abroad = map[string]string{
	"289": "GE", "995": "IO", "310": "PR VI BM", "255": "MD RU", "312": "PR", "313": "PR", "311": "VI AS", "338": "KY MS LC BM TC", "270": "BE", "340": "GF",
}

// TestOperators: every row of the table gives back its operator, and is of a
// country that its MCC is of.
func TestOperators(t *testing.T) {
	code, country := regexp.MustCompile(`^\d{5,6}$`), regexp.MustCompile(`^([A-Z]{2}( [A-Z]{2})*)?$`)
	rows, codes, countries := 0, map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(operatorsFile) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 5 || !code.MatchString(f[0]) || !country.MatchString(f[1]) || !slices.Contains([]string{"+", "-", "?"}, f[2]) {
			t.Errorf("row %q", line)
			continue
		}
		rows++
		codes[f[0]] = true
		mcc, mnc := f[0][:3], f[0][3:]
		if !slices.ContainsFunc(Operators(mcc, mnc), func(o Operator) bool {
			return o.Brand == f[3] && o.Name == f[4] && o.Gone == (f[2] == "-") && slices.Equal(o.Countries, strings.Fields(f[1]))
		}) {
			t.Errorf("%s %s: %+v", mcc, mnc, Operators(mcc, mnc))
		}
		plan := agent.CountriesOf(mcc) + " " + abroad[mcc]
		for c := range strings.FieldsSeq(f[1]) {
			countries[c] = true
			if !slices.Contains(strings.Fields(plan), c) {
				t.Errorf("%s %s is in %s, its MCC in %s", mcc, mnc, c, plan)
			}
		}
	}
	if rows != 3090 || len(codes) != 3039 {
		t.Errorf("%d rows, %d codes", rows, len(codes))
	}
	for _, mcc := range []string{"202", "262", "310", "404", "724"} {
		for c := range strings.FieldsSeq(agent.CountriesOf(mcc)) {
			if !countries[c] {
				t.Errorf("no network in %s", c)
			}
		}
	}
	for _, notice := range []string{"mcc-mnc-list 1.1.11 of 2024-12-13", "Copyright (c) 2016 Peter Bakondy", "The above copyright notice and this permission notice shall be included"} {
		if !strings.Contains(operatorsFile, notice) {
			t.Errorf("the table does not say %q", notice)
		}
	}
}

func TestNames(t *testing.T) {
	for code, want := range map[string]string{
		"262 01": "Telekom", "310 260": "T-Mobile", "405 854": "Jio", "714 020": "Tigo", "738 00": "E-Networks", "738 002": "GT&T Cellink Plus",
		"262 001": "", "310 26": "", "": "", "26 201": "", "262 ": "",
	} {
		mcc, mnc, _ := strings.Cut(code, " ")
		if got := Name(agent.SIM{MCC: mcc, MNC: mnc}); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
	got := Names(agent.SIM{MCC: "262", MNC: "03", Operator: "o2 - de"})
	if !slices.Equal(got, []string{"o2 - de", "O2", "Telefónica Germany GmbH & Co. oHG"}) {
		t.Errorf("%q", got)
	}
	for code, want := range map[string]string{
		"262 01": "DE", "310 260": "US PR VI", "310 999": "US GU MP", "234 55": "GB GG JE", "001 01": "", "901 01": "", "425 05": "IL PS", "338 050": "BM TC",
	} {
		mcc, mnc, _ := strings.Cut(code, " ")
		if got := strings.Join(Countries(agent.SIM{MCC: mcc, MNC: mnc}), " "); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
}
