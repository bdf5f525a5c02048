package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

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
		return usageError{err}
	}
	c := file.Config
	c.Logger = slog.New(file.Handler(std.err))
	for _, found := range directory.Check(c) {
		if found.Result == directory.CheckWarning {
			c.Logger.Warn("config", "check", found.Name, "warning", found.Text)
		}
	}
	if *ready != "" {
		if err := agent.RemoveReady(*ready); err != nil { // one of a relay that was killed
			return fmt.Errorf("ready file: %w", err)
		}
		defer func() { err = errors.Join(err, agent.RemoveReady(*ready)) }()
	}
	c.Ready = func(name relay.Name, metrics net.Addr) error { return std.announce(*ready, name, metrics) }
	return directory.Run(ctx, c)
}

// A readiness is the content of the ready file.
type readiness struct {
	Relay   string `json:"relay"`
	Metrics string `json:"metrics,omitempty"`
	PID     int    `json:"pid"`
}

// announce says that the relay serves.
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

// errChecks says that some checks failed.
var errChecks = errors.New("a check failed")

func (std stdio) check(_ context.Context, f *flags, args []string) error {
	config := f.String("config", defaultConfig, "")
	if err := f.parse(args); err != nil {
		return err
	}
	file, err := directory.ReadConfigFile(*config)
	if e, ok := errors.AsType[*directory.ConfigError](err); ok {
		for _, p := range e.Problems {
			fmt.Fprintf(std.out, "%-8s %-8s %s\n", directory.CheckFailed, "config", p)
		}
		return usageError{fmt.Errorf("%s: %d problems", e.Path, len(e.Problems))}
	}
	if err != nil {
		return usageError{err}
	}
	failed := false
	for _, found := range directory.Check(file.Config) {
		failed = failed || found.Result == directory.CheckFailed
		if _, err := fmt.Fprintf(std.out, "%-8s %-8s %s\n", found.Result, found.Name, found.Text); err != nil {
			return err
		}
	}
	if failed {
		return errChecks
	}
	return nil
}
