package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

// errNotVerified says that at least one receipt is not good.
var errNotVerified = errors.New("not all receipts are good")

// receipts shows what agents have signed for, or checks receipts.
func receipts(_ context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "verify" {
		return prefix("receipts verify", verifyReceipts(args[1:], stdout))
	}
	var p places
	fs := newFlags("receipts")
	p.stateFlag(fs)
	asCSV := fs.Bool("csv", false, "")
	asJSON := fs.Bool("json", false, "")
	id := fs.String("channel", "", "")
	since := fs.String("since", "", "")
	if done, err := parse(fs, receiptsHelp, args, stdout); done {
		return err
	}
	if *asCSV && *asJSON {
		return usage("--csv and --json: choose one")
	}
	if err := p.resolve(); err != nil {
		return err
	}
	kept := p.receipts()
	all, broken, err := kept.All()
	if err != nil {
		return prefix("receipts", err)
	}
	if broken > 0 {
		warn(stderr, fmt.Errorf("%d lines of %s are no receipts", broken, kept.Path))
	}
	if all, err = agent.KeptSince(all, *since); err != nil {
		return usage("--since: %w", err)
	}
	all = slices.DeleteFunc(all, func(r agent.KeptReceipt) bool {
		return !strings.HasPrefix(r.Channel().String(), *id)
	})
	if *id != "" && len(all) == 0 {
		return prefix("receipts", fmt.Errorf("--channel %.70q: there are none", *id))
	}
	if *asCSV || *asJSON {
		_, err = stdout.Write(agent.AppendReceipts(nil, all, *asCSV))
		return err
	}
	return printReceipts(stdout, all)
}

// printReceipts prints a row a receipt, and what they come to.
func printReceipts(w io.Writer, all []agent.KeptReceipt) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no receipts")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MADE\tNETWORK\tCHANNEL\tAGENT\tSESSION\tUP\tDOWN\tUSD\tUNPAID\tNOTE")
	var sum channel.Amount
	for _, r := range all {
		amount, unpaid := r.Amounts()
		sum += min(amount, ^sum)
		line(t, r.Made(), channel.NetworkName(r.Domain.ChainID), fmt.Sprintf("%.10s", r.Channel()), fmt.Sprintf("%.10s", r.Config.ReceiverAuthorizer),
			strconv.FormatUint(r.Total.Session, 10), bytesText(r.Total.Up-r.Total.BaseUp), bytesText(r.Total.Down-r.Total.BaseDown),
			amount.USD(), unpaid.USD(), printable(r.Note))
	}
	line(t, "total", "", "", "", "", "", "", sum.USD(), "", "")
	return t.Flush()
}

// A verdict is what came of checking one line.
type verdict struct {
	File    string           `json:"file"`
	Line    int              `json:"line"`
	Good    bool             `json:"good"`
	Error   string           `json:"error,omitempty"`
	Agent   *channel.Address `json:"agent,omitempty"` // that signed it
	Payer   *channel.Address `json:"payer,omitempty"`
	Channel *channel.ID      `json:"channelId,omitempty"`
	Session string           `json:"session,omitempty"`
	Amount  *channel.Amount  `json:"amount,omitempty"` // of the session
	Unpaid  *channel.Amount  `json:"unpaid,omitempty"`
}

// verifyReceipts checks receipts that anybody has exported.
func verifyReceipts(args []string, stdout io.Writer) error {
	fs := newFlags("receipts")
	asJSON := fs.Bool("json", false, "")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, receiptsHelp)
		return err
	case err != nil:
		return withHint(flagError(err), "x402 receipts --help explains the flags")
	case fs.NArg() == 0:
		return withHint(usage("which file? - is the standard input"), "x402 receipts --help explains the flags")
	}
	bad, n := 0, 0
	for _, name := range fs.Args() {
		err := readVerdicts(name, func(v verdict) error {
			n++
			if !v.Good {
				bad++
			}
			return v.print(stdout, *asJSON)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case n == 0:
		return fmt.Errorf("%w: there are none", errNotVerified)
	case bad > 0:
		return fmt.Errorf("%w: %d of %d are not", errNotVerified, bad, n)
	}
	return nil
}

// readVerdicts checks the receipts of a file and calls each with what came of it.
func readVerdicts(name string, each func(verdict) error) error {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return err
		}
		defer f.Close()
	}
	return buyer.ReadReceipts(f, func(n int, r agent.KeptReceipt, err error) error {
		v := verdict{File: name, Line: n}
		if err == nil {
			id := r.Channel()
			amount, unpaid := r.Amounts()
			v.Agent, v.Payer, v.Channel, v.Session = &r.Config.ReceiverAuthorizer, &r.Config.Payer, &id, strconv.FormatUint(r.Total.Session, 10)
			v.Amount, v.Unpaid = &amount, &unpaid
			err = r.Verify()
		}
		if v.Good = err == nil; err != nil {
			v.Error = err.Error()
		}
		return each(v)
	})
}

func (v verdict) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(v)
	}
	where := fmt.Sprintf("%s:%d", printable(v.File), v.Line)
	if !v.Good {
		_, err := fmt.Fprintf(w, "BAD   %s  %s\n", where, printable(v.Error))
		return err
	}
	unpaid := "paid"
	if *v.Unpaid > 0 {
		unpaid = v.Unpaid.USD() + " USD unpaid"
	}
	_, err := fmt.Fprintf(w, "good  %s  agent %s  payer %s  channel %.10s  session %s  %s USD, %s\n", where, v.Agent, v.Payer, v.Channel, v.Session, v.Amount.USD(), unpaid)
	return err
}
