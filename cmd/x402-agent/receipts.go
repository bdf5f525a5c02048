package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
)

// receipts shows the receipts in the state directory, which a running agent adds
// to.
func (p program) receipts(_ context.Context, f *flags, args []string) error {
	config := f.String("config", defaultConfig, "")
	asCSV := f.Bool("csv", false, "")
	asJSON := f.Bool("json", false, "")
	sim := f.String("sim", "", "")
	since := f.String("since", "", "")
	if err := f.parse(args); err != nil {
		return err
	}
	if _, err := agent.KeptSince(nil, *since); err != nil {
		return usage("--since: %w", err)
	}
	switch {
	case *sim != "" && seller.CheckName(*sim) != nil:
		return usage("--sim: %.40q names no SIM", *sim)
	case *asCSV && *asJSON:
		return usage("--csv and --json: choose one")
	}
	dir, err := seller.StateDirOf(*config)
	if err != nil {
		return configError{err}
	}
	all, damaged, err := seller.Receipts(dir, *sim)
	if err != nil {
		return fmt.Errorf("receipts: %w", err)
	}
	if damaged > 0 {
		fmt.Fprintf(p.err, "x402-agent: warning: %s in %s can no longer be read\n", count(damaged, "receipt"), dir)
	}
	if all, err = agent.KeptSince(all, *since); err != nil {
		return err
	}
	if *asCSV || *asJSON {
		_, err = p.out.Write(agent.AppendReceipts(nil, all, *asCSV))
		return err
	}
	_, err = io.WriteString(p.out, renderReceipts(all))
	return err
}

// renderReceipts is a row a receipt, and the sum.
func renderReceipts(all []agent.KeptReceipt) string {
	if len(all) == 0 {
		return "no receipts\n"
	}
	rows := [][]string{{"MADE", "BUYER", "SESSION", "UP", "DOWN", "USD", "UNPAID"}}
	for _, r := range all {
		t := r.Total
		amount, unpaid := r.Amounts()
		rows = append(rows, []string{
			r.Made(), short(r.Config.Payer), strconv.FormatUint(t.Session, 10), size(t.Up - t.BaseUp), size(t.Down - t.BaseDown), usd(amount), usd(unpaid),
		})
	}
	return table(rows)
}
