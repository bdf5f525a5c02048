package main

import (
	"context"
	"io"
	"strings"

	"github.com/depinsim/x402/scripts/demo"
)

const demoHelp = `NAME
    x402 demo - the whole story on this machine: sell, buy, crash, settle, refund

SYNOPSIS
    x402 demo [flags]

DESCRIPTION
    Starts a facilitator with a ledger of its own, a modem that is played on a
    pseudo-terminal, an agent that reads the modem's SIM and sells, and a buyer
    with a wallet from the faucet: the real commands, as processes, on loopback
    only. Then it fetches a file, half through the buyer's SOCKS5 proxy and half
    through its HTTP proxy, sends UDP there and back, kills the agent with
    SIGKILL in the middle and starts it again, ends the purchase, settles, and
    compares what both sides counted, signed and were paid.

    The file comes from a web server in this command; nothing leaves the
    machine. All processes have ended when it returns.

FLAGS
    --bytes SIZE         Size of the file: 0, 1, 20k, 50MB, 1G. k, M and G are
                         powers of 1000. Default 50MB.
    --json               Print the report as one JSON object: amounts in atomic
                         units (millionths of a USD), sizes in bytes.
    --bin DIR            Folder of x402, x402-agent and x402-facilitator.
                         Default: that of this command.
    --agent-binary PATH  Agent to run instead of the one there, such as one that
                         is built for a router.
    --agent-runner CMD   Command, with arguments, to run the agent with, such as
                         "qemu-mipsel-static".
    --keep DIR           Put all files into DIR, which is empty or made, and
                         keep them. Default: a temporary folder, kept only if
                         something goes wrong.
    --verbose            Show what the programs log.
    --help               Show this text.

EXIT STATUS
    0 when everything adds up to the unit, 1 when it does not or the demo fails,
    2 for wrong flags.

EXAMPLES
    x402 demo --bytes 200MB
    x402 demo --json | jq .ledger
    x402 demo --agent-binary dist/linux_mipsle_softfloat/x402-agent \
        --agent-runner qemu-mipsel-static --bytes 2MB
`

// runDemo runs the demo.
func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c := demo.Config{Out: stdout, Log: stderr}
	fs := newFlags("demo")
	bytes := fs.String("bytes", "50MB", "")
	runner := fs.String("agent-runner", "", "")
	fs.BoolVar(&c.JSON, "json", false, "")
	fs.StringVar(&c.Bin, "bin", "", "")
	fs.StringVar(&c.Agent, "agent-binary", "", "")
	fs.StringVar(&c.Keep, "keep", "", "")
	fs.BoolVar(&c.Verbose, "verbose", false, "")
	if done, err := parse(fs, demoHelp, args, stdout); done {
		return prefix("demo", err)
	}
	var err error
	if c.Bytes, err = demo.ParseSize(*bytes); err != nil {
		return prefix("demo", usage("--bytes: %w", err))
	}
	c.Runner = strings.Fields(*runner)
	_, c.Terminal = terminal(stderr)
	return prefix("demo", demo.Run(ctx, c))
}
