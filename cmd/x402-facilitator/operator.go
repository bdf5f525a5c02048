package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/embedded"
	"github.com/depinsim/x402/channel/ledger/evm"
)

// orderFlags are the flags of issue and redeem.
type orderFlags struct {
	dir, account, amount, memo, ref string
}

// verb is what tells the two apart.
type verb struct {
	past, side string // issued, --to
	send       func(*server.Operator, context.Context, server.Order) (server.OrderReceipt, error)
}

func (std stdio) issue(ctx context.Context, f *flags, args []string) error {
	return std.give(ctx, f, args, verb{"issued", "to", (*server.Operator).Issue})
}

func (std stdio) redeem(ctx context.Context, f *flags, args []string) error {
	return std.give(ctx, f, args, verb{"redeemed", "from", (*server.Operator).Redeem})
}

// give has the facilitator execute one order.
func (std stdio) give(ctx context.Context, fs *flags, args []string, v verb) error {
	var f orderFlags
	fs.StringVar(&f.dir, "dir", "", "")
	fs.StringVar(&f.account, v.side, "", "")
	fs.StringVar(&f.amount, "amount", "", "")
	fs.StringVar(&f.memo, "memo", "", "")
	fs.StringVar(&f.ref, "ref", "", "")
	if err := fs.parse(args); err != nil {
		return err
	}
	order, err := f.order(v.side)
	if err != nil {
		return usage("%s: %w", fs.Name(), err)
	}
	r, err := v.send(server.NewOperator(f.dir), ctx, order)
	if err != nil {
		return fmt.Errorf("%s: %w", fs.Name(), err)
	}
	_, err = fmt.Fprintf(std.out, "%s %s USD %s %s\nbalance     %s USD\ntransaction %s\n",
		v.past, order.Amount.USD(), v.side, order.Address, r.Balance.USD(), r.Transaction)
	return err
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

// settle has a facilitator on a chain send what waits.
func (std stdio) settle(ctx context.Context, f *flags, args []string) error {
	dir := f.String("dir", "", "")
	if err := f.parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return usage("settle: --dir is required")
	}
	r, err := server.NewOperator(*dir).Flush(ctx)
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	_, err = fmt.Fprintf(std.out, "sending what waited: %d operations\n", r.Waiting)
	return err
}

func (std stdio) audit(ctx context.Context, f *flags, args []string) error {
	dir := f.String("dir", "", "")
	if err := f.parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return usage("audit: --dir is required")
	}
	r, err := audit(ctx, *dir)
	if err != nil {
		return err
	}
	return printReport(std.out, r)
}

// audit asks the facilitator that runs in dir, or reads the ledger itself if
// none does.
func audit(ctx context.Context, dir string) (_ ledger.Report, err error) {
	r, err := server.NewOperator(dir).Audit(ctx)
	if !errors.Is(err, server.ErrNotRunning) {
		return r, err
	}
	if _, serr := os.Stat(filepath.Join(dir, evm.DBFile)); serr == nil { // only a node can tell
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
	if c := r.Chain; c != nil {
		_, err := fmt.Fprintf(w, "account %s on %s sent %d transactions for %d gas, of which %d were reverted; %d operations wait\n"+
			"ok: every one that has ended is on the chain as the journal says\n", c.Account, c.Network, c.Transactions, c.Gas, c.Reverted, c.Waiting)
		return err
	}
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
