package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/depinsim/x402/modem/modemtest"
)

const modemsimHelp = `NAME
    x402 modemsim - play a cellular modem on a pseudo-terminal

SYNOPSIS
    x402 modemsim --link PATH [flags]
    x402 modemsim --profile list

DESCRIPTION
    Answers AT commands as a modem with a SIM in it would, so that the agent can
    be tried without hardware. It makes a pseudo-terminal, lets PATH point to it
    and runs until it is interrupted, which removes PATH. Point the agent's
    modem port at PATH. Nothing is sent anywhere: card and network are made up.

    To unplug the modem, interrupt the command; to plug it in again, start it
    with the same PATH. The card then wants its PIN again, if it has one.

FLAGS
    --link PATH          Symbolic link to make for the terminal. A link that was
                         left over is replaced, any other file is not. Required.
    --profile NAME       Modem to play; each has its maker's commands and
                         habits. list shows the names. Default quectel.
    --fault NAME         What the modem does wrong; list shows the names.
                         Default: nothing.
    --imsi DIGITS        Subscriber's number, 6 to 15 digits. Default
                         001010123456789, of the test network.
    --iccid DIGITS       Card's number, 18 to 20 digits that begin with 89.
    --imei DIGITS        Modem's number, 14 to 16 digits.
    --pin DIGITS         PIN the card asks for, 4 to 8 digits. Default: none.
    --tries N            Tries left for the PIN, 0 to 10; a card with 0 wants
                         its PUK. Default 3.
    --mnc-length N       Digits of the network code, 2 or 3, as the card says.
                         Default 2.
    --no-sim             No card in the modem.
    --operator NAME      Name of the network in use. Default Test.
    --plmn DIGITS        Number of that network, MCC and MNC. Default: the
                         card's home network.
    --registration STATE home, roaming, searching, denied or none. Default home.
    --technology NAME    gsm, edge, umts, hspa, lte or nr. Default lte.
    --delay TIME         Wait before each answer, such as 200ms. Default 0.
    --busy TIME          Card is busy for so long after the start. Default 0.
    --help               Show this text.

OUTPUT
    One line when the terminal is ready: the profile, PATH and the terminal.
    With list: the names, one a line.

EXIT STATUS
    0 when interrupted, 1 when the terminal cannot be made, 2 for wrong flags.

EXAMPLES
    x402 modemsim --link /tmp/modem
    x402 modemsim --profile huawei --imsi 310260123456789 --mnc-length 3 \
        --operator T-Mobile --pin 1234 --link /tmp/modem
    x402 modemsim --registration roaming --plmn 20801 --link /tmp/modem
`

// A modemsimUsage is a wrong flag.
type modemsimUsage struct{ error }

// ExitCode is that of wrong flags or config.
func (modemsimUsage) ExitCode() int   { return 2 }
func (e modemsimUsage) Unwrap() error { return e.error }

// modemsim plays a modem on a pseudo-terminal until ctx ends. Errors fit on one
// line; those with an ExitCode are about the flags.
func modemsim(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, link, err := modemsimFlags(args)
	list, lists := errors.AsType[modemsimList](err)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, modemsimHelp)
		return err
	case lists:
		_, err := io.WriteString(stdout, list.Error())
		return err
	case err != nil:
		return modemsimUsage{fmt.Errorf("modemsim: %w; see x402 modemsim --help", err)}
	}
	sim, err := modemtest.New(cfg)
	if err != nil {
		return modemsimUsage{fmt.Errorf("modemsim: --%w", err)} // names its flag
	}
	ready := func(tty string) { fmt.Fprintf(stdout, "modem %s ready on %s (%s)\n", cfg.Profile, link, tty) }
	if err := sim.RunPTY(ctx, link, ready); err != nil {
		return fmt.Errorf("modemsim: %w", err)
	}
	fmt.Fprintln(stderr, "modem unplugged")
	return nil
}

// modemsimFlags reads the flags; numbers of the card are checked by modemtest.
func modemsimFlags(args []string) (cfg modemtest.Config, link string, err error) {
	fs := flag.NewFlagSet("modemsim", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are returned, the help is ours
	fs.StringVar(&link, "link", "", "")
	fs.StringVar(&cfg.Profile, "profile", modemtest.Quectel, "")
	fs.StringVar(&cfg.IMSI, "imsi", "001010123456789", "")
	fs.StringVar(&cfg.ICCID, "iccid", "", "")
	fs.StringVar(&cfg.IMEI, "imei", "", "")
	fs.StringVar(&cfg.PIN, "pin", "", "")
	fs.IntVar(&cfg.Tries, "tries", 3, "")
	fs.IntVar(&cfg.MNCLength, "mnc-length", 2, "")
	fs.BoolVar(&cfg.NoSIM, "no-sim", false, "")
	fs.StringVar(&cfg.Operator.Name, "operator", "", "")
	fs.StringVar(&cfg.Operator.PLMN, "plmn", "", "")
	fault := fs.String("fault", "", "")
	registration := fs.String("registration", "home", "")
	technology := fs.String("technology", "lte", "")
	fs.DurationVar(&cfg.Faults.Delay, "delay", 0, "")
	fs.DurationVar(&cfg.Faults.BusyFor, "busy", 0, "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return cfg, "", err
	} else if err != nil {
		return cfg, "", flagError(err)
	}
	if err := modemsimFault(&cfg, *fault); err != nil {
		return cfg, "", err
	}
	switch {
	case fs.NArg() > 0:
		return cfg, "", fmt.Errorf("%q: no arguments, only flags", fs.Arg(0))
	case link == "":
		return cfg, "", errors.New("--link: missing")
	case cfg.Tries < 0 || cfg.Tries > 10:
		return cfg, "", fmt.Errorf("--tries: %d is not within 0 to 10", cfg.Tries)
	case cfg.MNCLength != 2 && cfg.MNCLength != 3:
		return cfg, "", fmt.Errorf("--mnc-length: %d is neither 2 nor 3", cfg.MNCLength)
	case cfg.Faults.BusyFor < 0 || cfg.Faults.BusyFor > time.Hour:
		return cfg, "", fmt.Errorf("--busy: %v is not within 0 to 1h", cfg.Faults.BusyFor)
	case cfg.Faults.Delay < 0 || cfg.Faults.Delay > time.Hour:
		return cfg, "", fmt.Errorf("--delay: %v is not within 0 to 1h", cfg.Faults.Delay)
	}
	if cfg.Tries == 0 {
		cfg.Tries = -1 // modemtest's word for none
	}
	if cfg.Operator.PLMN == "" && len(cfg.IMSI) >= 6 {
		cfg.Operator.PLMN = cfg.IMSI[:3+cfg.MNCLength]
	}
	if cfg.Registration, err = modemsimChoice("registration", *registration, map[string]int{
		"home": 1, "roaming": 5, "searching": 2, "denied": 3, "none": -1,
	}); err != nil {
		return cfg, "", err
	}
	cfg.Technology, err = modemsimChoice("technology", *technology, map[string]int{
		"gsm": 1, "edge": 3, "umts": 2, "hspa": 6, "lte": 7, "nr": 11,
	})
	return cfg, link, err
}

// A modemsimList is what was asked for instead of a modem.
type modemsimList string

func (l modemsimList) Error() string { return string(l) }

// modemsimFault adds the faults with a name to those that flags set one by one,
// and answers "list" for profile and fault.
func modemsimFault(cfg *modemtest.Config, name string) error {
	var list strings.Builder
	switch {
	case cfg.Profile == "list":
		for _, profile := range modemtest.Profiles() {
			fmt.Fprintf(&list, "%-10s %s\n", profile, modemtest.Model(profile))
		}
		return modemsimList(list.String())
	case name == "list":
		return modemsimList(strings.Join(modemtest.FaultNames(), "\n") + "\n")
	case name == "":
		return nil
	}
	faults, known := modemtest.Named(name)
	if !known {
		return fmt.Errorf("--fault: %q is not one of --fault list", name)
	}
	if cfg.Faults.Delay != 0 {
		faults.Delay = cfg.Faults.Delay
	}
	if cfg.Faults.BusyFor != 0 {
		faults.BusyFor = cfg.Faults.BusyFor
	}
	cfg.Faults = faults
	return nil
}

// modemsimChoice is the number of a word.
func modemsimChoice(name, word string, numbers map[string]int) (int, error) {
	n, ok := numbers[strings.ToLower(word)]
	if !ok {
		return 0, fmt.Errorf("--%s: %q is not one of those in the help", name, word)
	}
	return n, nil
}
