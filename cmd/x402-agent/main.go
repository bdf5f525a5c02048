// X402-agent sells traffic over this device's SIM: it reads who the SIM is,
// relays for buyers, counts, and is paid. See --help.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/peterbourgon/ff/v3/ffcli"
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

func main() { os.Exit(program{out: os.Stdout, err: os.Stderr}.main()) }

// A program is what a command line works with.
type program struct {
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

// execute runs one command line and returns the exit code.
func (p program) execute(ctx context.Context, args []string) int {
	var help bytes.Buffer // what flag and ffcli print; shown only if asked for
	root := command(&help, "x402-agent", rootHelp)
	root.Exec = func(_ context.Context, args []string) error {
		if len(args) == 0 {
			return usageError{errors.New("want a command")}
		}
		return usageError{fmt.Errorf("unknown command %q", args[0])}
	}
	root.Subcommands = []*ffcli.Command{
		p.runCommand(&help), p.checkCommand(&help), p.statusCommand(&help), p.sessionsCommand(&help),
		p.earningsCommand(&help), p.settleCommand(&help), p.versionCommand(&help),
	}
	err := root.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := io.Copy(p.out, &help)
		return p.finish(err)
	}
	if err != nil {
		return p.finish(usageError{err})
	}
	return p.finish(root.Run(ctx))
}

// finish prints an error and what to do about it, and returns the exit code.
func (p program) finish(err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(p.err, "x402-agent:", printable(err.Error()))
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
