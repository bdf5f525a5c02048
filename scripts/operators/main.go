// Command operators makes the tables of mobile networks: agent/carrier's
// operators.tsv, which names them, and modem's mnc_table.go, which says how long
// their codes are.
//
//	npm pack mcc-mnc-list@1.1.11 && tar xzf mcc-mnc-list-1.1.11.tgz
//	go run ./scripts/operators -source package -date 2024-12-13
//
// The source is the npm package mcc-mnc-list (MIT), which its author takes from
// Wikipedia. Its files bear no date: -date is the day on which the version was
// published, as `npm view mcc-mnc-list time` tells. With -debian FILE the result
// is compared with the serviceproviders.xml of Debian's
// mobile-broadband-provider-info (public domain), and the differences are
// printed; they change nothing.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	source := flag.String("source", "package", "folder of the unpacked npm package")
	date := flag.String("date", "", "day on which that version was published, YYYY-MM-DD")
	debian := flag.String("debian", "", "serviceproviders.xml to compare with")
	top := flag.String("top", ".", "folder of this repository")
	flag.Parse()
	if err := run(*source, *date, *debian, *top); err != nil {
		fmt.Fprintln(os.Stderr, "operators:", err)
		os.Exit(1)
	}
}

// An origin says where the tables come from.
type origin struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	License string `json:"license"`

	date    string
	licence string // the text that has to stay with the data
}

func run(source, date, debian, top string) error {
	if _, err := time.Parse(time.DateOnly, date); err != nil {
		return fmt.Errorf("-date: %q, want YYYY-MM-DD", date)
	}
	from := origin{date: date}
	if err := readJSON(filepath.Join(source, "package.json"), &from); err != nil {
		return err
	}
	licence, err := os.ReadFile(filepath.Join(source, "LICENSE"))
	if err != nil {
		return err
	}
	from.licence = string(licence)
	var listed []listing
	if err := readJSON(filepath.Join(source, "mcc-mnc-list.json"), &listed); err != nil {
		return err
	}
	rows, left := rowsOf(listed)
	for _, l := range left {
		fmt.Printf("left out, for it has no code: %s %q %s\n", l.MCC, l.MNC, l.Operator)
	}
	fmt.Printf("%d rows of %d\n", len(rows), len(listed))
	if debian != "" {
		if err := compare(os.Stdout, rows, debian); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(top, "agent/carrier/operators.tsv"), operatorsFile(from, rows), 0o644); err != nil {
		return err
	}
	table, err := lengthsFile(from, rows)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(top, "modem/mnc_table.go"), table, 0o644)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
