package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// A listing is one row of the source.
type listing struct {
	Country  string `json:"countryCode"` // of several countries with "/" between
	MCC      string `json:"mcc"`
	MNC      string `json:"mnc"`
	Brand    string `json:"brand"`
	Operator string `json:"operator"`
	Status   string `json:"status"`
}

// A row is one of the table: a network, or one of several that share a code.
type row struct {
	mcc, mnc        string
	countries       string // ISO 3166-1 alpha-2, with a space between; "" for none
	status          string // +: operates, -: does not, ?: not known
	brand, operator string
}

// rowsOf returns the rows in order, and the listings that have no code. France
// divides some codes among private networks by two digits more: their first
// three are the code.
func rowsOf(listed []listing) (rows []row, left []listing) {
	for _, l := range listed {
		mnc := l.MNC
		if len(mnc) == 5 && digits(mnc) {
			mnc = mnc[:3]
		}
		if len(l.MCC) != 3 || !digits(l.MCC) || len(mnc) != 2 && len(mnc) != 3 || !digits(mnc) {
			left = append(left, l)
			continue
		}
		r := row{mcc: l.MCC, mnc: mnc, status: "?", brand: text(l.Brand), operator: text(l.Operator)}
		var countries []string
		for c := range strings.SplitSeq(l.Country, "/") {
			if len(c) >= 2 { // GE-AB is a part of GE
				countries = append(countries, c[:2])
			}
		}
		r.countries = strings.Join(countries, " ")
		switch l.Status {
		case "Operational":
			r.status = "+"
		case "Not operational", "Returned spare":
			r.status = "-"
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return strings.Compare(a.mcc+a.mnc, b.mcc+b.mnc) })
	return slices.Compact(rows), left
}

// text is a name on one line.
func text(s string) string { return strings.Join(strings.Fields(s), " ") }

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// operatorsFile is the table of names.
func operatorsFile(from origin, rows []row) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by scripts/operators: do not edit.\n# Source: npm %s %s of %s, licence %s:\n#\n", from.Name, from.Version, from.date, from.License)
	for line := range strings.Lines(strings.TrimSpace(from.licence)) {
		b.WriteString(strings.TrimSpace("# "+line) + "\n")
	}
	b.WriteString("#\n# MCC and MNC, countries, status (+ operates, - does not, ? not known), brand, operator.\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "%s%s\t%s\t%s\t%s\t%s\n", r.mcc, r.mnc, r.countries, r.status, r.brand, r.operator)
	}
	return b.Bytes()
}
