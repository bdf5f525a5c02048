package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/embedded"
)

// orderFlags are the flags of issue and redeem.
type orderFlags struct {
	dir, account, amount, memo, ref string
}

// verb is what tells the two apart.
type verb struct {
	name, past, side, preposition string // issue, issued, --to, to
	send                          func(*server.Operator, context.Context, server.Order) (server.OrderReceipt, error)
}

func issueCommand(help io.Writer, std stdio) *ffcli.Command {
	c := command(help, "issue", issueUsage, issueHelp)
	c.ShortHelp = "create credit on an account"
	return orderCommand(c, std, verb{"issue", "issued", "to", "to", (*server.Operator).Issue})
}

func redeemCommand(help io.Writer, std stdio) *ffcli.Command {
	c := command(help, "redeem", redeemUsage, redeemHelp)
	c.ShortHelp = "take credit out of an account"
	return orderCommand(c, std, verb{"redeem", "redeemed", "from", "from", (*server.Operator).Redeem})
}

func orderCommand(c *ffcli.Command, std stdio, v verb) *ffcli.Command {
	var f orderFlags
	c.FlagSet.StringVar(&f.dir, "dir", "", "`DIR` of the running facilitator (required)")
	c.FlagSet.StringVar(&f.account, v.side, "", "`ADDRESS` of the account, 0x and 40 digits (required)")
	c.FlagSet.StringVar(&f.amount, "amount", "", "`USD`, at most six decimals (required)")
	c.FlagSet.StringVar(&f.memo, "memo", "", fmt.Sprintf("`TEXT` for the journal, at most %d bytes", ledger.MaxMemo))
	c.FlagSet.StringVar(&f.ref, "ref", "", "`ID` of your own: the same order with the same ID is executed once")
	c.Exec = func(ctx context.Context, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("%s: unexpected argument %q", v.name, args[0])}
		}
		order, err := f.order(v.side)
		if err != nil {
			return usageError{fmt.Errorf("%s: %w", v.name, err)}
		}
		r, err := v.send(server.NewOperator(f.dir), ctx, order)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		_, err = fmt.Fprintf(std.out, "%s %s USD %s %s\nbalance     %s USD\ntransaction %s\n",
			v.past, order.Amount.USD(), v.preposition, order.Address, r.Balance.USD(), r.Transaction)
		return err
	}
	return c
}

// order parses the flags.
func (f orderFlags) order(side string) (server.Order, error) {
	o := server.Order{Memo: f.memo}
	if f.dir == "" || f.account == "" || f.amount == "" {
		return o, fmt.Errorf("--dir, --%s and --amount are required", side)
	}
	var err error
	if o.Address, err = channel.ParseAddress(f.account); err != nil {
		return o, fmt.Errorf("--%s: %w", side, err)
	}
	if o.Amount, err = channel.ParseUSD(f.amount); err != nil {
		return o, fmt.Errorf("--amount: %w", err)
	}
	if len(f.memo) > ledger.MaxMemo {
		return o, fmt.Errorf("--memo: longer than %d bytes", ledger.MaxMemo)
	}
	if f.ref == "" {
		rand.Read(o.Ref[:]) // never fails (Go 1.24)
	} else {
		o.Ref = channel.Keccak256([]byte(f.ref))
	}
	return o, nil
}

func auditCommand(help io.Writer, std stdio) *ffcli.Command {
	c := command(help, "audit", auditUsage, auditHelp)
	c.ShortHelp = "recompute the ledger and compare"
	dir := c.FlagSet.String("dir", "", "`DIR` of the ledger (required)")
	c.Exec = func(ctx context.Context, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("audit: unexpected argument %q", args[0])}
		}
		if *dir == "" {
			return usageError{errors.New("audit: --dir is required")}
		}
		r, err := audit(ctx, *dir)
		if err != nil {
			return err
		}
		return printReport(std.out, r)
	}
	return c
}

// audit asks the facilitator that runs in dir, or reads the ledger itself if
// none does.
func audit(ctx context.Context, dir string) (_ ledger.Report, err error) {
	r, err := server.NewOperator(dir).Audit(ctx)
	if !errors.Is(err, server.ErrNotRunning) {
		return r, err
	}
	l, err := embedded.OpenReadOnly(dir)
	if err != nil {
		return ledger.Report{}, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return l.Audit(ctx)
}

func printReport(w io.Writer, r ledger.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")+"\t") }
	row("issued", r.Totals.Issued.USD()+" USD")
	row("redeemed", r.Totals.Redeemed.USD()+" USD")
	row(fmt.Sprintf("in %d accounts", r.Accounts), r.Totals.Accounts.USD()+" USD")
	row(fmt.Sprintf("in escrow of %d channels", r.Channels), r.Totals.Escrow.USD()+" USD")
	row(fmt.Sprintf("claimed by %d receivers, unsettled", r.Receivers), r.Totals.Unsettled.USD()+" USD")
	row("fees", r.Totals.Fees.USD()+" USD")
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "ok: %d transactions replayed, the records agree, and the sums do\n", r.Totals.Height)
	return err
}
