// X402-relay lets buyers find agents that have no public address, and passes
// their packets on without being able to read them. See --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
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

func (e configError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(execute(ctx, os.Args[1:], stdio{os.Stdout, os.Stderr}))
}

// stdio is where a command writes.
type stdio struct{ out, err io.Writer }

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, std stdio) int {
	err := std.dispatch(ctx, args)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(std.err, "x402-relay:", strings.ReplaceAll(err.Error(), "\n", "; "))
	if h := hint(err); h != "" {
		fmt.Fprintln(std.err, "hint:", h)
	}
	_, isUsage := errors.AsType[usageError](err)
	_, isConfig := errors.AsType[configError](err)
	if isUsage || isConfig {
		return exitUsage
	}
	return exitFailed
}

// hint says what to do about an error, "" if we do not know.
func hint(err error) string {
	_, isUsage := errors.AsType[usageError](err)
	_, isConfig := errors.AsType[configError](err)
	switch {
	case isUsage:
		return "`x402-relay help` lists the commands, `x402-relay help COMMAND` their flags"
	case isConfig && errors.Is(err, fs.ErrNotExist):
		return "name the file with --config; the relay.toml that came with the program explains every key"
	case isConfig && errors.Is(err, fs.ErrPermission):
		return "run this as the relay's user, who must be able to read the file"
	case isConfig:
		return "the relay.toml that came with the program explains every key; `x402-relay check` checks yours"
	case errors.Is(err, errChecks):
		return "" // each check says what to do
	case errors.Is(err, channel.ErrInUse):
		return "another relay is running with this payment.state_dir or gateway.state_dir; one at a time may use it"
	case errors.Is(err, gateway.ErrNotRunning):
		return "`x402-relay run` with this config file has to be running"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program uses the port; stop it, or set another in the config file"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine has no such address; set listen in the config file, and addresses if it is behind a translator"
	case errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "bind"):
		return "ports below 1024 need the capability CAP_NET_BIND_SERVICE"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "run this as the relay's user, who must be able to read key_file, and to make it at the first start"
	}
	return ""
}
