package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/term"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
)

// places is where a user's things are.
type places struct {
	wallet         string // the wallet's file
	state          string // folder of channels, offers and known agents
	passphraseFile string
	given          given // wallet and state as the user named them
}

// newFlags returns a flag set whose errors are returned and whose help is ours.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

func (p *places) walletFlags(fs *flag.FlagSet) {
	fs.StringVar(&p.wallet, "wallet", "", "")
	fs.StringVar(&p.passphraseFile, "passphrase-file", "", "")
}

func (p *places) stateFlag(fs *flag.FlagSet) { fs.StringVar(&p.state, "state", "", "") }

// resolve fills in where things are by default (XDG Base Directory
// Specification).
func (p *places) resolve() (err error) {
	p.given = given{p.wallet, p.state}
	if p.wallet == "" {
		if p.wallet, err = xdg("XDG_CONFIG_HOME", ".config", "wallet.json"); err != nil {
			return usage("--wallet: %w", err)
		}
	}
	if p.state == "" {
		if p.state, err = xdg("XDG_STATE_HOME", filepath.Join(".local", "state"), ""); err != nil {
			return usage("--state: %w", err)
		}
	}
	return nil
}

func xdg(variable, fallback, name string) (string, error) {
	base := os.Getenv(variable)
	if !filepath.IsAbs(base) { // the specification says to ignore a relative one
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		base = filepath.Join(home, fallback)
	}
	return filepath.Join(base, "x402", name), nil
}

func (p places) known() buyer.KnownAgents {
	return buyer.KnownAgents{Path: filepath.Join(p.state, "known_agents")}
}

func (p places) offers() buyer.KnownOffers {
	return buyer.KnownOffers{Dir: filepath.Join(p.state, "offers")}
}

func (p places) resources() buyer.KnownResources {
	return buyer.KnownResources{Dir: filepath.Join(p.state, "resources")}
}

func (p places) relays() buyer.KnownRelays {
	return buyer.KnownRelays{Path: filepath.Join(p.state, "relays")}
}

func (p places) tickets() buyer.KnownTickets {
	return buyer.KnownTickets{Dir: filepath.Join(p.state, "tickets")}
}

func (p places) networks() (*buyer.KnownNetworks, error) {
	return buyer.LoadNetworks(filepath.Join(p.state, "networks"))
}

// facilitators are beside the wallet, whose money they keep.
func (p places) facilitators() buyer.KnownFacilitators {
	return buyer.KnownFacilitators{Path: filepath.Join(filepath.Dir(p.wallet), "facilitators")}
}

// control is the socket of the buyer that runs on the state folder.
func (p places) control() string { return filepath.Join(p.state, "control.sock") }

func (p places) history() buyer.History {
	return buyer.History{Path: filepath.Join(p.state, "history")}
}

func (p places) receipts() *buyer.Receipts {
	return &buyer.Receipts{Path: filepath.Join(p.state, "receipts")}
}

// openStore opens the channels' records, and with them the right to change
// anything in the state folder.
func (p places) openStore() (channel.Store, error) {
	if err := os.MkdirAll(p.state, 0o700); err != nil {
		return nil, err
	}
	store, err := bolt.Open(filepath.Join(p.state, "channels.db"))
	if err != nil {
		return nil, err
	}
	return p.history().Watch(store), nil
}

// openKey asks for the passphrase and opens the wallet.
func (p places) openKey(w *buyer.Wallet) (*channel.Key, error) {
	passphrase, err := p.passphrases().Get()
	if err != nil {
		return nil, err
	}
	return w.Open(passphrase)
}

func (p places) passphrases() buyer.PassphraseSource {
	return buyer.PassphraseSource{File: p.passphraseFile, Prompt: askPassphrase}
}

var errInterrupted = errors.New("interrupted")

// askPassphrase asks on the terminal, in raw mode: so Ctrl-C is a key like any
// other, and the terminal is as it was before when the command ends.
func askPassphrase(question string) (_ string, err error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", buyer.ErrNoPassphrase
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	defer func() { err = errors.Join(err, term.Restore(fd, before)) }()
	t := term.NewTerminal(console{}, "")
	passphrase, err := t.ReadPassword(question)
	if errors.Is(err, io.EOF) { // Ctrl-C or Ctrl-D
		fmt.Fprint(os.Stderr, "\r\n")
		err = errInterrupted
	}
	return passphrase, err
}

// A console is the terminal. It reads a byte at a time, so that what was typed
// ahead stays for the next question.
type console struct{}

func (console) Read(p []byte) (int, error)  { return os.Stdin.Read(p[:min(len(p), 1)]) }
func (console) Write(p []byte) (int, error) { return os.Stderr.Write(p) }

// parse reads flags that take no arguments besides. A request for help is
// answered, and done is true.
func parse(fs *flag.FlagSet, help string, args []string, stdout io.Writer) (done bool, err error) {
	err = fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, help)
		return true, err
	case err != nil:
		return true, withHint(flagError(err), "x402 %s --help explains the flags", fs.Name())
	case fs.NArg() > 0:
		return true, withHint(usage("%q: no arguments, only flags", fs.Arg(0)), "x402 %s --help explains the flags", fs.Name())
	}
	return false, nil
}

// singleDash is how package flag names a flag in its errors.
var singleDash = regexp.MustCompile(`^(flag provided but not defined: |flag needs an argument: |(?:invalid value ".*" for flag |invalid boolean value ".*" for ))-`)

// flagError is an error of package flag, with flags written as the help does.
func flagError(err error) error {
	return usage("%s", singleDash.ReplaceAllString(err.Error(), "$1--"))
}

// usd reads an amount from a flag.
func usd(name, value string) (channel.Amount, error) {
	a, err := channel.ParseUSD(value)
	if err != nil {
		return 0, usage("--%s: %w", name, err)
	}
	return a, nil
}

// readSecret reads a file that holds one line.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const limit = 4096
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || len(b) > limit {
		return "", fmt.Errorf("%s: want one line of at most %d bytes", path, limit)
	}
	return s, nil
}
