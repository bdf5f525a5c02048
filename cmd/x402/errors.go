package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/tunnel/proxy"
)

// A usageError is the caller's mistake.
type usageError struct{ error }

// ExitCode is that of wrong flags or config.
func (usageError) ExitCode() int   { return exitUsage }
func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// A hintError knows what to do about it.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

func withHint(err error, format string, args ...any) error {
	return hintError{err, fmt.Sprintf(format, args...)}
}

// complain prints an error in one line, and what to do about it in another.
func complain(stderr io.Writer, err error, g given) {
	fmt.Fprintln(stderr, "x402:", g.echo(plain(printable(strings.ReplaceAll(err.Error(), "\n", "; ")))))
	if h := hint(err); h != "" {
		fmt.Fprintln(stderr, "hint:", g.echo(h))
	}
}

// hint says what to do about an error, if we know.
func hint(err error) string {
	if h, ok := errors.AsType[hintError](err); ok {
		return h.hint
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return "--help explains each command and its flags"
	}
	if e, ok := errors.AsType[*buyer.ChangedAgentError](err); ok {
		return fmt.Sprintf("ask its owner; if he says that %s is right, accept it with --agent-key %s", e.Now, e.Now)
	}
	if _, ok := errors.AsType[*proxy.OpenListenerError](err); ok {
		return "--user and --password-file set them"
	}
	switch {
	case errors.Is(err, channel.ErrInUse):
		return "one x402 command at a time uses a state folder; wait for the other to end, or name another with --state"
	case errors.Is(err, buyer.ErrWalletExists):
		return "choose another file, or move that one away"
	case errors.Is(err, buyer.ErrWrongPassphrase):
		return "it is the one given when the wallet was made; nobody can recover it"
	case errors.Is(err, buyer.ErrPrice):
		return "allow more with --max-price, or choose another agent"
	case errors.Is(err, buyer.ErrNoOffer):
		return "x402 connect --agent HOST:PORT --keep stores it again; or name the --facilitator, which is enough to withdraw"
	case errors.Is(err, facilitator.ErrUnavailable):
		return "the facilitator holds the deposits: is it running, and can this machine reach it?"
	case errors.Is(err, syscall.EADDRINUSE):
		return `choose another port with --socks or --http, 0 for a free one, "" to go without`
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EFBIG):
		return "the disk is full; no voucher was signed that is not stored"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "the user of this command must be able to write to the state folder, --state"
	}
	return ""
}
