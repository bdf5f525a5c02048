// X402-facilitator settles payment channels for buyers and agents: a ledger of
// its operator's credit, or an EVM chain, behind the x402 facilitator API. See
// --help.
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

	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger/embedded"
	"github.com/depinsim/x402/channel/ledger/evm"
)

// version is set by the linker.
var version = "unknown"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // while running
	exitUsage  = 2 // wrong flags
)

// A usageError is the caller's mistake.
type usageError struct{ error }

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
	fmt.Fprintln(std.err, "x402-facilitator:", strings.ReplaceAll(err.Error(), "\n", "; "))
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
	if _, ok := errors.AsType[usageError](err); ok {
		return "x402-facilitator help lists the commands, x402-facilitator help COMMAND its flags"
	}
	switch {
	case errors.Is(err, evm.ErrForeign):
		return "one facilitator at a time may use a key; once the other is stopped for good, run this one with --take-over"
	case errors.Is(err, embedded.ErrInUse), errors.Is(err, evm.ErrInUse):
		return "one facilitator at a time may use a directory; stop the other, or choose another --dir"
	case errors.Is(err, embedded.ErrNoLedger):
		return "`x402-facilitator run --dir DIR` creates one"
	case errors.Is(err, server.ErrNotRunning):
		return "start it with `x402-facilitator run --dir DIR`, and run this as the same user"
	case errors.Is(err, syscall.EADDRINUSE):
		return "choose another port with --listen, or 0 for a free one"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EFBIG):
		return "the disk is full; nothing was lost, and it goes on once there is room"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "the user of this command must be able to write to --dir"
	}
	return ""
}
