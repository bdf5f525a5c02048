package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/depinsim/x402/agent/seller"
)

// errChecks says that some checks failed.
var errChecks = errors.New("failed")

func (p program) check(ctx context.Context, f *flags, args []string) error {
	config := f.String("config", defaultConfig, "")
	asJSON := f.Bool("json", false, "")
	offline := f.Bool("offline", false, "")
	if err := f.parse(args); err != nil {
		return err
	}
	file, err := seller.ReadConfigFile(*config)
	file.Config.Policy.Lookup = p.lookup
	var found []seller.Finding
	if *offline {
		found = seller.CheckOffline(file, err)
	} else {
		found = seller.Check(ctx, file, err)
	}
	failed := 0
	for _, f := range found {
		if f.Result == seller.CheckFailed {
			failed++
		}
	}
	if *asJSON {
		err = p.printJSON(struct {
			OK     bool             `json:"ok"`
			Checks []seller.Finding `json:"checks"`
		}{failed == 0, found})
	} else {
		_, err = io.WriteString(p.out, renderCheck(found))
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d checks %w", failed, len(found), errChecks)
	}
	return err
}

// renderCheck prints one line a check, with what to do below it.
func renderCheck(found []seller.Finding) string {
	const indent = 22
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%-8s %-12s %s\n", f.Result, f.Name, wrap(f.Text, indent))
		if f.Do != "" {
			fmt.Fprintf(&b, "%*s%s\n", indent, "", wrap("do: "+f.Do, indent))
		}
		for _, line := range f.Paste {
			fmt.Fprintf(&b, "    %s\n", printable(line))
		}
	}
	return b.String()
}
