package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/tunnel/relay"
)

func (std stdio) run(ctx context.Context, f *flags, args []string) (err error) {
	config := f.String("config", defaultConfig, "")
	ready := f.String("ready-file", "", "")
	if err := f.parse(args); err != nil {
		return err
	}
	file, err := directory.ReadConfigFile(*config)
	if err != nil {
		return configError{err}
	}
	cfg := file.Config
	cfg.Logger = file.Log.Logger(std.err)
	for _, w := range file.Warnings {
		cfg.Logger.Warn("config", "file", file.Path, "warning", w)
	}
	if *ready != "" {
		if err := agent.RemoveReady(*ready); err != nil { // one of a relay that was killed
			return fmt.Errorf("ready file: %w", err)
		}
		defer func() { err = errors.Join(err, agent.RemoveReady(*ready)) }()
	}
	cfg.Ready = func(name relay.Name, metrics net.Addr) error { return std.announce(*ready, name, metrics) }
	return directory.Run(ctx, cfg)
}

// A readiness is the content of the ready file.
type readiness struct {
	Relay   string `json:"relay"`
	Metrics string `json:"metrics,omitempty"`
	PID     int    `json:"pid"`
}

// announce says that the relay runs.
func (std stdio) announce(path string, name relay.Name, metrics net.Addr) error {
	if path != "" {
		r := readiness{Relay: name.String(), PID: os.Getpid()}
		if metrics != nil {
			r.Metrics = metrics.String()
		}
		b, err := json.Marshal(r)
		if err == nil {
			err = agent.WriteReady(path, append(b, '\n'))
		}
		if err != nil {
			return fmt.Errorf("ready file: %w", err)
		}
	}
	_, err := fmt.Fprintln(std.out, "relay", name)
	return err
}

func (std stdio) name(_ context.Context, f *flags, args []string) error {
	config := f.String("config", defaultConfig, "")
	if err := f.parse(args); err != nil {
		return err
	}
	file, err := directory.ReadConfigFile(*config)
	if err != nil {
		return configError{err}
	}
	name, err := file.Config.Name()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(std.out, name)
	return err
}

// errChecks says that some checks failed.
var errChecks = errors.New("failed")

func (std stdio) check(ctx context.Context, f *flags, args []string) error {
	config := f.String("config", defaultConfig, "")
	if err := f.parse(args); err != nil {
		return err
	}
	file, err := directory.ReadConfigFile(*config)
	found := directory.Check(ctx, file, err)
	bad := 0
	for _, c := range found {
		if _, err := fmt.Fprintf(std.out, "%-8s %-12s %s\n", c.Result, c.Name, wrap(c.Text)); err != nil {
			return err
		}
		if c.Do != "" {
			fmt.Fprintf(std.out, "%*s%s\n", checkIndent, "", wrap("do: "+c.Do))
		}
		for _, line := range c.Paste {
			fmt.Fprintf(std.out, "    %s\n", line)
		}
		if c.Result == directory.CheckFailed {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks %w", bad, len(found), errChecks)
	}
	return nil
}

// checkIndent is where the text of a check begins.
const checkIndent = 22

// wrap breaks text that begins at checkIndent into lines of 80 columns, and
// leaves out what could steer a terminal: facilitators and names are strangers'.
func wrap(text string) string {
	var b strings.Builder
	at := checkIndent
	for i, word := range strings.Fields(text) {
		word = strings.Map(func(r rune) rune {
			if strconv.IsPrint(r) {
				return r
			}
			return '?'
		}, word)
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > 80:
			b.WriteString("\n" + strings.Repeat(" ", checkIndent))
			at = checkIndent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}
