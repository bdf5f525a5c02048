// X402-agent sells traffic over this device's SIM: it reads who the SIM is,
// relays for buyers, counts, and is paid. See --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // while running
	exitUsage  = 2 // wrong flags or config
)

// A usageError is a wrong flag, a configError a wrong config: the caller's
// mistakes.
type (
	usageError  struct{ error }
	configError struct{ error }
)

func (e usageError) Unwrap() error  { return e.error }
func (e configError) Unwrap() error { return e.error }

func main() { os.Exit(program{in: os.Stdin, out: os.Stdout, err: os.Stderr}.main()) }

// A program is what a command line works with.
type program struct {
	in       io.Reader
	out, err io.Writer
	// lookup replaces the device's resolver in tests.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// main runs the command line of this process until a signal.
func (p program) main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	return p.execute(ctx, os.Args[1:])
}

// A command takes its own flags.
type command struct {
	name, help string
	run        func(ctx context.Context, f *flags, args []string) error
}

func (p program) commands() []command {
	return []command{
		{"run", runHelp, p.run},
		{"check", checkHelp, p.check},
		{"modems", modemsHelp, p.modems},
		{"status", statusHelp, p.status},
		{"sessions", sessionsHelp, p.sessions},
		{"earnings", earningsHelp, p.earnings},
		{"receipts", receiptsHelp, p.receipts},
		{"plan", planHelp, p.plan},
		{"settle", settleHelp, p.settle},
		{"sim", simHelp, p.sim},
		{"rotate", rotateHelp, p.rotate},
		{"modem", modemHelp, p.modem},
		{"sms", smsHelp, p.sms},
		{"ussd", ussdHelp, p.ussd},
		{"purge", purgeHelp, p.purge},
		{"version", versionHelp, p.version},
	}
}

// execute runs one command line and returns the exit code.
func (p program) execute(ctx context.Context, args []string) int {
	err := p.dispatch(ctx, args)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(p.err, "x402-agent:", printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
	if h := hint(err); h != "" {
		fmt.Fprintln(p.err, "hint:", h)
	}
	_, isUsage := errors.AsType[usageError](err)
	_, isConfig := errors.AsType[configError](err)
	if isUsage || isConfig {
		return exitUsage
	}
	return exitFailed
}
