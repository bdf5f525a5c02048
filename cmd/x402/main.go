// X402 buys mobile traffic from agents: a tunnel with local proxies, paid for
// as it is counted, and the wallet that pays. See --help.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // while running
	exitUsage  = 2 // wrong flags
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// A command takes its own flags and prints its own help. Its errors fit on one
// line; those with an ExitCode are about the flags.
type command struct {
	name string
	run  func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func commands() []command {
	return []command{
		{"connect", connect},
		{"rotate", rotate},
		{"offers", offers},
		{"relay", relayCommand},
		{"token", token},
		{"pay", pay},
		{"wallet", wallet},
		{"receipts", receipts},
		{"demo", runDemo},
		{"modemsim", modemsim},
		{"version", printVersion},
	}
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := dispatch(ctx, commands(), rootHelp, args, stdout, stderr)
	if err == nil {
		return exitOK
	}
	complain(stderr, err, givenBy(args))
	if e, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return e.ExitCode()
	}
	return exitFailed
}

// dispatch runs the command that the first argument names.
func dispatch(ctx context.Context, table []command, help string, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usage("which command? There are %s", names(table))
	}
	if args[0] == "help" && len(args) > 1 { // of a command
		return dispatch(ctx, table, help, append(slices.Clone(args[1:]), "--help"), stdout, stderr)
	}
	switch args[0] {
	case "help", "--help", "-help", "-h":
		_, err := io.WriteString(stdout, help)
		return err
	}
	for _, c := range table {
		if c.name == args[0] {
			return c.run(ctx, args[1:], stdout, stderr)
		}
	}
	return usage("no command %q. There are %s", args[0], names(table))
}

func names(table []command) string {
	var all []string
	for _, c := range table {
		all = append(all, c.name)
	}
	return strings.Join(all, ", ")
}
