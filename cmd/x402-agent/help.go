package main

import (
	"flag"
	"fmt"
	"io"

	"github.com/peterbourgon/ff/v3/ffcli"
)

const defaultConfig = "/etc/x402/agent.toml"

// A text is what a command says of itself.
type text struct{ short, usage, long string }

// command returns a command whose flags are parsed, and whose help is written,
// without printing anything by itself.
func command(help io.Writer, name string, t text) *ffcli.Command {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(help)
	return &ffcli.Command{Name: name, ShortUsage: t.usage, ShortHelp: t.short, LongHelp: t.long, FlagSet: fs}
}

// none refuses arguments.
func none(name string, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s: unexpected argument %q", name, args[0])}
	}
	return nil
}

var rootHelp = text{
	short: "sell traffic over this device's SIM",
	usage: "x402-agent COMMAND [flags]",
	long: `WHAT IT DOES
  The agent reads the SIM in a modem, offers its traffic at your price, relays
  for buyers, counts what passes and is paid for it by the second, through
  payment channels (x402). What it earns goes to an address of yours; the
  device holds no funds. The SIM's number never leaves it.

  "run" is the agent. The other commands talk to the one that runs, over its
  control socket, except "check", which also works without one.

FILES
  /etc/x402/agent.toml      what to sell and how; the agent.toml that came with
                            the program explains every key
  STATE_DIR/device.key      the agent's identity, made at the first start: back
                            it up, show it to nobody
  STATE_DIR/tunnel.key      key of the tunnel, replaced if it is lost
  STATE_DIR/channels/       vouchers: what buyers have signed and you can claim
  STATE_DIR/offer.json      the signed offer, for buyers
  STATE_DIR/control.sock    for the commands below; its owner commands the agent

EXIT STATUS
  0 done, 1 failed while running, 2 wrong flags or config.

EXAMPLE
    x402-agent check --config agent.toml
    x402-agent run --config agent.toml
    x402-agent status --config agent.toml`,
}

var runHelp = text{
	short: "sell until told to stop",
	usage: "x402-agent run [flags]",
	long: `WHAT IT DOES
  Sells until SIGINT or SIGTERM. Then it takes no new buyers, lets those it has
  finish for up to 10 seconds, claims what they paid, and ends. A second signal
  kills it; SIGKILL or a power cut at any instant lose no voucher.

  A modem or facilitator that is gone is looked for again, for ever: the agent
  goes on by itself when it is back.

  It logs on the standard error, as [log] in the config file says. The ready
  file is JSON: "agent", its address; "listen", the UDP address; "offer" and
  "control", paths of the signed offer and of the control socket; "pid". It is
  written when buyers are served, the SIM being read, and removed at the end.

FILES
  As x402-agent --help lists them.

ENVIRONMENT
  GOMEMLIMIT, GOGC  limits of memory use. Default: a quarter of the device's
                    memory, at least 24 and at most 256 MiB; and 50.

EXIT STATUS
  0 stopped by a signal, 1 failed, 2 wrong flags or config.

EXAMPLE
    x402-agent run --config /etc/x402/agent.toml`,
}

var checkHelp = text{
	short: "look whether all is well, without selling",
	usage: "x402-agent check [flags]",
	long: `WHAT IT DOES
  Checks the config file, state directory and keys, clock, UDP port, modem, SIM
  and network, DNS, the facilitator and what it settles in, and your account
  there. It changes nothing and sends no PIN; an agent that runs is not
  disturbed. Run it as the agent's user.

  Each line is "ok", "warning" (the agent sells all the same) or "failed",
  followed by what to do. If the file does not say yet which asset on which
  network you accept, it shows what the facilitator offers, ready to paste.

EXIT STATUS
  0 nothing failed, 1 something failed, 2 wrong flags.

EXAMPLE
    x402-agent check --config /etc/x402/agent.toml`,
}

const controlFiles = `
FILES
  The control socket is the one that the config file names, or --control. Only
  the agent's user, and root, may use it.

EXIT STATUS
  0 done, 1 failed, such as when no agent runs, 2 wrong flags or config.

EXAMPLE
`

var statusHelp = text{
	short: "show how the agent is",
	usage: "x402-agent status [flags]",
	long: `WHAT IT DOES
  Shows whether the agent sells, and if something is wrong, what, and what to do
  first; modem, SIM and signal; price and earnings; and who is buying.
  With --json, amounts are in atomic units (1 USD is 1000000), sizes in bytes
  and times in seconds.
` + controlFiles + `    x402-agent status
    x402-agent status --json`,
}

var sessionsHelp = text{
	short: "show who is buying",
	usage: "x402-agent sessions [flags]",
	long: `WHAT IT DOES
  Shows the sessions: what each buyer sent (up) and received (down), owes and
  has paid over all of his sessions, in USD. One who "waits" has used up his
  credit or deposit, and gets more when he has paid.
` + controlFiles + `    x402-agent sessions`,
}

var earningsHelp = text{
	short: "show what every buyer has brought",
	usage: "x402-agent earnings [flags]",
	long: `WHAT IT DOES
  Shows for each buyer, and in total, what was counted, what is owed for it,
  what he paid by vouchers and what of it was claimed from the facilitator.
  "settle" claims the rest; so does the agent by itself, as [settle] in the
  config file says.
` + controlFiles + `    x402-agent earnings`,
}

var settleHelp = text{
	short: "claim what buyers paid, now",
	usage: "x402-agent settle [flags]",
	long: `WHAT IT DOES
  Has the agent claim what its vouchers are worth, and move all that was claimed
  to your address. It waits for the facilitator's answer. After a failure
  nothing is lost: the agent tries again by itself.
` + controlFiles + `    x402-agent settle`,
}

var versionHelp = text{
	short: "print the version",
	usage: "x402-agent version [flags]",
	long: `EXIT STATUS
  0 done, 2 wrong flags.

EXAMPLE
    x402-agent version --json`,
}
