package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/depinsim/x402/agent/seller"
)

// errChecks says that some checks failed.
var errChecks = errors.New("failed")

func (p program) checkCommand(help io.Writer) *ffcli.Command {
	c := command(help, "check", checkHelp)
	config := c.FlagSet.String("config", defaultConfig, "`FILE` to check")
	asJSON := c.FlagSet.Bool("json", false, "print JSON")
	c.Exec = func(ctx context.Context, args []string) error {
		if err := none("check", args); err != nil {
			return err
		}
		f, err := seller.ReadConfigFile(*config)
		f.Config.Policy.Lookup = p.lookup
		found := seller.Check(ctx, f, err)
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
	return c
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
