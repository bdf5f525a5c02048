// X402-relay makes agents without a public address known and reachable: it
// lists their offers and copies packets that it cannot read. See --help.
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

	"github.com/depinsim/x402/agent/directory"
)

// version is set by the linker.
var version = "unknown"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // while running
	exitUsage  = 2 // wrong flags or config
)

// A usageError is the caller's mistake, in flags or config.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

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
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// hint says what to do about an error, if we know.
func hint(err error) string {
	_, config := errors.AsType[*directory.ConfigError](err)
	_, wrong := errors.AsType[usageError](err)
	switch {
	case config:
		return "the relay.toml that came with the program explains every key"
	case wrong && errors.Is(err, fs.ErrNotExist):
		return "copy the relay.toml that came with the program, or name yours with --config"
	case wrong && !errors.Is(err, fs.ErrPermission):
		return "x402-relay help lists the commands, x402-relay help COMMAND its flags"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program has the port; set another in listen, or stop it"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "listen names an address that this machine does not have; public is for those that others see"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "the user of this command must be able to read the config and key files, and to make the key at the first start"
	}
	return ""
}
