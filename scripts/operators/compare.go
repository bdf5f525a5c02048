package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strings"
)

// A provider is one of Debian's mobile-broadband-provider-info.
type provider struct {
	Name     string `xml:"name"`
	Networks []struct {
		MCC string `xml:"mcc,attr"`
		MNC string `xml:"mnc,attr"`
	} `xml:"gsm>network-id"`
}

// compare prints where another list disagrees: a code that is not in the table,
// one of another length, one of another country.
func compare(w io.Writer, rows []row, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var list struct {
		Countries []struct {
			Code      string     `xml:"code,attr"`
			Providers []provider `xml:"provider"`
		} `xml:"country"`
	}
	if err := xml.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	countries := map[string]string{}
	for _, r := range rows {
		countries[r.mcc+r.mnc] += " " + r.countries
	}
	same, seen := 0, map[string]bool{}
	for _, c := range list.Countries {
		for _, p := range c.Providers {
			for _, n := range p.Networks {
				code := n.MCC + n.MNC
				if seen[code+c.Code] {
					continue
				}
				seen[code+c.Code] = true
				known, ok := countries[code]
				switch {
				case !ok:
					fmt.Fprintf(w, "only there: %s %s, %s\n", code, strings.ToUpper(c.Code), p.Name)
				case !strings.Contains(known, strings.ToUpper(c.Code)):
					fmt.Fprintf(w, "another country: %s is %s there and%s here, %s\n", code, strings.ToUpper(c.Code), known, p.Name)
				default:
					same++
				}
			}
		}
	}
	fmt.Fprintf(w, "%d codes are in both, of the same country\n", same)
	return nil
}
