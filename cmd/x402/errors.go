package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/spend"
	"github.com/depinsim/x402/tunnel/proxy"
	"github.com/depinsim/x402/tunnel/relay"
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

// warn prints what does not end the command.
func warn(stderr io.Writer, err error) {
	fmt.Fprintln(stderr, "x402: warning:", plain(printable(strings.ReplaceAll(err.Error(), "\n", "; "))))
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
	if e, ok := errors.AsType[*buyer.NoOfferError](err); ok {
		return noOfferHint(e)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the name of a relay that browsers would not trust ends in #PIN: ask its operator for all of it"
	}
	if _, ok := errors.AsType[*proxy.OpenListenerError](err); ok {
		return "--user and --password-file set them"
	}
	switch {
	case errors.Is(err, relay.ErrWrongKey):
		return "someone else answers, or the relay has a new key: ask its operator for its present name"
	case errors.Is(err, channel.ErrInUse):
		return "one x402 command at a time uses a state folder; wait for the other to end, or name another with --state"
	case errors.Is(err, buyer.ErrNotRunning):
		return "x402 connect has to run on that state folder; name another with --state"
	case errors.Is(err, buyer.ErrWalletExists):
		return "choose another file, or move that one away"
	case errors.Is(err, buyer.ErrWrongPassphrase):
		return "it is the one given when the wallet was made; nobody can recover it"
	case errors.Is(err, buyer.ErrPrice):
		return "allow more with --max-price, or choose another agent"
	case errors.Is(err, spend.ErrPrice):
		return "allow more with --max-price"
	case errors.Is(err, spend.ErrOffer):
		return "x402 wallet fund --facilitator URL makes the asset of another ledger one of yours"
	case errors.Is(err, spend.ErrCount):
		return "nothing more was signed; x402 wallet withdraw takes back what is left in the channel"
	case errors.Is(err, buyer.ErrNoNode):
		return "name one with --rpc URL; the wallet's address needs a little of the chain's own coin for gas"
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

// noOfferHint says what would find an offer.
func noOfferHint(e *buyer.NoOfferError) string {
	switch {
	case e.Drop == "max-price":
		return fmt.Sprintf("raise --max-price to %s, or look elsewhere", e.Cheapest().USD())
	case e.Drop == "facilitator":
		return "x402 wallet fund --facilitator " + quoted(e.Near[0].Offer.Payment.Facilitator) + " says how to pay into it; or choose the agent by --agent ADDRESS"
	case e.Drop != "":
		return "leave --" + e.Drop + " out, or name another"
	case e.Empty:
		return "agents return within a minute of an outage; other relays may know others"
	case e.Want.Agent != "":
		return "an agent that is off is not listed; x402 offers shows who is there"
	}
	return "x402 offers without conditions shows who is there; other relays may list others"
}
