package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

// relaysVariable names relays, with spaces or commas between.
const relaysVariable = "X402_RELAYS"

func relayCommands() []command {
	return []command{{"add", relayAdd}, {"list", relayList}, {"remove", relayRemove}}
}

// relayCommand runs the commands that look after the known relays.
func relayCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return prefix("relay", dispatch(ctx, relayCommands(), relayHelp, args, stdout, stderr))
}

func relayAdd(_ context.Context, args []string, stdout, _ io.Writer) error {
	k, n, done, err := relayArgument("relay add", args, stdout)
	if done || err != nil {
		return err
	}
	before, err := k.All()
	if err != nil {
		return err
	}
	if err := k.Add(n); err != nil {
		return err
	}
	for _, old := range before {
		if old.Address() == n.Address() && old != n {
			_, err := fmt.Fprintf(stdout, "noted in place of %s\n", old)
			return err
		}
	}
	_, err = fmt.Fprintf(stdout, "noted in %s\n", k.Path)
	return err
}

func relayRemove(_ context.Context, args []string, stdout, _ io.Writer) error {
	k, n, done, err := relayArgument("relay remove", args, stdout)
	if done || err != nil {
		return err
	}
	known, err := k.Remove(n)
	if err == nil && !known {
		return withHint(usage("%s is not known", n.Address()), "x402 relay list names those that are")
	}
	return err
}

// relayArgument reads the one name that a command takes.
func relayArgument(name string, args []string, stdout io.Writer) (k buyer.KnownRelays, n relay.Name, done bool, err error) {
	var p places
	fs := newFlags(name)
	p.stateFlag(fs)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, relayHelp)
		return k, n, true, err
	case err != nil:
		return k, n, true, withHint(flagError(err), "x402 relay --help explains the flags")
	case fs.NArg() != 1:
		return k, n, true, usage("want one name of a relay, HOST:PORT#PIN, have %d", fs.NArg())
	}
	if n, err = relay.ParseName(fs.Arg(0)); err != nil {
		return k, n, true, usageError{err}
	}
	err = p.resolve()
	return p.relays(), n, false, err
}

func relayList(_ context.Context, args []string, stdout, _ io.Writer) error {
	var p places
	fs := newFlags("relay list")
	p.stateFlag(fs)
	if done, err := parse(fs, relayHelp, args, stdout); done {
		return err
	}
	if err := p.resolve(); err != nil {
		return err
	}
	names, err := p.relays().All()
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := fmt.Fprintln(stdout, n); err != nil {
			return err
		}
	}
	return nil
}

// marketFlags say where agents are looked for, and which.
type marketFlags struct {
	named                                     []relay.Name
	country, carrier, tech, network, evidence string
}

func (f *marketFlags) add(fs *flag.FlagSet) {
	fs.Func("relay", "", func(text string) error {
		n, err := relay.ParseName(text)
		f.named = append(f.named, n)
		return err
	})
	fs.StringVar(&f.country, "country", "", "")
	fs.StringVar(&f.carrier, "carrier", "", "")
	fs.StringVar(&f.tech, "tech", "", "")
	fs.StringVar(&f.network, "network", "", "")
	fs.StringVar(&f.evidence, "evidence", "", "")
}

// used is the first flag that was given, "" for none.
func (f *marketFlags) used() string {
	for _, x := range []struct {
		name string
		used bool
	}{
		{"relay", len(f.named) > 0}, {"country", f.country != ""}, {"carrier", f.carrier != ""},
		{"tech", f.tech != ""}, {"network", f.network != ""}, {"evidence", f.evidence != ""},
	} {
		if x.used {
			return x.name
		}
	}
	return ""
}

// check refuses what no offer could match.
func (f *marketFlags) check() error {
	if f.country != "" && !agent.IsCountry(strings.ToUpper(f.country)) {
		return usage("--country: %q, want its two letters (ISO 3166-1), such as de", f.country)
	}
	if f.network != "" {
		if _, err := channel.ParseNetwork(f.network); err != nil {
			return usage("--network: %w", err)
		}
	}
	if f.evidence != "" && f.evidence != agent.EvidenceCarrier {
		return usage("--evidence: %q, want %s", f.evidence, agent.EvidenceCarrier)
	}
	return nil
}

// relays are those that the flags name, else the variable, else the file. There
// may be none.
func (f *marketFlags) relays(p places) ([]relay.Name, error) {
	if len(f.named) > 0 {
		return f.named, nil
	}
	words := strings.FieldsFunc(os.Getenv(relaysVariable), func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
	if len(words) == 0 {
		return p.relays().All()
	}
	var names []relay.Name
	for _, w := range words {
		n, err := relay.ParseName(w)
		if err != nil {
			return nil, usage("%s: %w", relaysVariable, err)
		}
		names = append(names, n)
	}
	return names, nil
}

// errNoRelay is about somebody who has not said where to look.
func errNoRelay() error {
	return withHint(usage("--relay: no relay is known"), "--relay HOST:PORT#PIN names one; x402 relay add keeps it for the next time")
}

func (f *marketFlags) want() buyer.Want {
	return buyer.Want{Country: f.country, Carrier: f.carrier, Technology: f.tech, Network: f.network, Evidence: f.evidence}
}

// agentFlag checks an --agent that is an address, or begins as one.
func agentFlag(text string) error {
	const least = len("0x") + 8
	digits := strings.Trim(strings.ToLower(strings.TrimPrefix(text, "0x")), "0123456789abcdef") == ""
	if !strings.HasPrefix(text, "0x") || len(text) < least || len(text) > len("0x")+40 || !digits {
		return usage("--agent: %.70q, want an address, 0x and 40 hexadecimal digits, or at least the first 8 of them", text)
	}
	return nil
}

// reachFlags say how agents may be reached.
type reachFlags struct {
	transport string
	noDirect  bool
}

func (f *reachFlags) add(fs *flag.FlagSet) {
	fs.StringVar(&f.transport, "transport", "", "")
	fs.BoolVar(&f.noDirect, "no-direct", false, "")
}

// reach is what the flags say, with the memory of networks. A broken memory is
// told to stderr and forgotten.
func (f *reachFlags) reach(p places, stderr io.Writer) (buyer.ReachConfig, error) {
	switch f.transport {
	case "", buyer.QUIC, buyer.TLS, buyer.KCP:
	default:
		return buyer.ReachConfig{}, usage("--transport: %q, want %s, %s or %s", f.transport, buyer.QUIC, buyer.TLS, buyer.KCP)
	}
	networks, err := p.networks()
	if err != nil {
		warn(stderr, fmt.Errorf("what gets through on which network is forgotten: %w", err))
	}
	return buyer.ReachConfig{Transport: f.transport, NoDirect: f.noDirect, Networks: networks}, nil
}
