package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"runtime"

	"github.com/peterbourgon/ff/v3/ffcli"
)

const (
	rootUsage = "x402-facilitator COMMAND [flags]"
	rootHelp  = `Settles x402 payment channels.

  A facilitator verifies payments and settles channels for buyers and agents,
  by the HTTP API of the x402 standard, version 2 (schemes batch-settlement and
  exact). This one keeps its own ledger: amounts are credit that you, its
  operator, owe to its holders, who trust you for it. You hand out credit with
  issue when you receive money, and take it back with redeem when you pay it
  out. Everything else is signed by those whose money it is, and a claim pays
  nobody but its channel's receiver, who pays a fee of 0.001% of his total.

EXAMPLES
  Try it, with a faucet that gives credit to anyone:
    x402-facilitator run --dir /tmp/f --dev

  Run it for real, behind a web server that speaks TLS:
    x402-facilitator run --dir /var/lib/x402-facilitator --listen 127.0.0.1:8402
    x402-facilitator issue --dir /var/lib/x402-facilitator --to 0x7099… \
        --amount 25.00 --ref invoice-17 --memo "wire of 3 May"
    x402-facilitator audit --dir /var/lib/x402-facilitator

EXIT STATUS
  0 done, 1 failed while running, 2 wrong flags.`

	runUsage = "x402-facilitator run --dir DIR [flags]"
	runHelp  = `Serves until it is told to stop (SIGINT or SIGTERM); a second signal kills.

  The first run creates the ledger in DIR: ledger.db, the records and the
  journal of every transaction; ledger.key, mode 0600, which is the ledger's
  identity: back it up with the database. Its network name, eip155:N with N
  random, and its asset's address belong to this ledger alone.

  While it runs, DIR/admin.sock, mode 0600, takes the operator's commands.
  SIGKILL or a power cut at any instant loses nothing that was answered.

  "listening on URL" is printed on the standard output once clients can
  connect; everything else is logged on the standard error.

  The API: POST /verify, POST /settle, GET /supported, GET /healthz (200 or
  503), GET /metrics (Prometheus), GET /v1/channels/{network}/{id},
  GET /v1/accounts/{network}/{address}, GET /v1/totals/{network} and
  POST /v1/withdraw (a payer's timed withdrawal).`

	issueUsage = "x402-facilitator issue --dir DIR --to ADDRESS --amount USD [flags]"
	issueHelp  = `Creates credit on an account: you have received money for it.

  The facilitator must be running in DIR; the order is journalled like any
  transaction. Without --ref, every call is a new order. With it, the same order
  given twice is executed once, so that it can be repeated after a failure.`

	redeemUsage = "x402-facilitator redeem --dir DIR --from ADDRESS --amount USD [flags]"
	redeemHelp  = `Takes credit out of an account: you have paid its holder, or are about to.

  The facilitator must be running in DIR. The holder signs nothing: take credit
  only from those who asked for it, or let them transfer it to an account of
  yours first. See issue for --ref.`

	auditUsage = "x402-facilitator audit --dir DIR"
	auditHelp  = `Recomputes the whole ledger from its journal, every signature included, and
  compares it with the records: nothing lost, nothing made, nothing changed.

  It works beside a running facilitator and without one. It fails (1) and says
  where on the first difference.`

	versionUsage = "x402-facilitator version"
)

// command returns a command whose flags are parsed, and whose help is written,
// without printing anything by itself.
func command(help io.Writer, name, usage, long string) *ffcli.Command {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(help)
	return &ffcli.Command{Name: name, ShortUsage: usage, LongHelp: long, FlagSet: fs}
}

func versionCommand(help io.Writer, std stdio) *ffcli.Command {
	c := command(help, "version", versionUsage, "")
	c.ShortHelp = "print the version"
	c.Exec = func(context.Context, []string) error {
		_, err := fmt.Fprintf(std.out, "x402-facilitator %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}
	return c
}
