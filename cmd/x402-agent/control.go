package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/depinsim/x402/agent/seller"
)

// controlFlags are the flags of the commands that talk to a running agent.
type controlFlags struct {
	config, control string
	json            bool
}

// controlCommand returns a command that hands a control to exec.
func controlCommand(help io.Writer, name string, t text, exec func(context.Context, *seller.Control, controlFlags) error) *ffcli.Command {
	var f controlFlags
	c := command(help, name, t)
	c.FlagSet.StringVar(&f.config, "config", defaultConfig, "`FILE` of the running agent, which names its control socket")
	c.FlagSet.StringVar(&f.control, "control", "", "`PATH` of the control socket, instead of --config")
	c.FlagSet.BoolVar(&f.json, "json", false, "print JSON")
	c.Exec = func(ctx context.Context, args []string) error {
		if err := none(name, args); err != nil {
			return err
		}
		path := f.control
		if path == "" {
			var err error
			if path, err = seller.ControlPathOf(f.config); err != nil {
				return configError{err}
			}
		}
		return exec(ctx, seller.DialControl(path), f)
	}
	return c
}

func (p program) statusCommand(help io.Writer) *ffcli.Command {
	return controlCommand(help, "status", statusHelp, func(ctx context.Context, c *seller.Control, f controlFlags) error {
		var st seller.Status
		return p.show(ctx, c, "status", f, &st, func() string { return renderStatus(st) })
	})
}

func (p program) sessionsCommand(help io.Writer) *ffcli.Command {
	return controlCommand(help, "sessions", sessionsHelp, func(ctx context.Context, c *seller.Control, f controlFlags) error {
		var all []seller.SessionStatus
		return p.show(ctx, c, "sessions", f, &all, func() string { return renderSessions(all) })
	})
}

func (p program) earningsCommand(help io.Writer) *ffcli.Command {
	return controlCommand(help, "earnings", earningsHelp, func(ctx context.Context, c *seller.Control, f controlFlags) error {
		var e seller.Earnings
		return p.show(ctx, c, "earnings", f, &e, func() string { return renderEarnings(e) })
	})
}

// show asks for name and prints the answer: as it came for --json, else what
// render makes of it once it is in v.
func (p program) show(ctx context.Context, c *seller.Control, name string, f controlFlags, v any, render func() string) error {
	var raw json.RawMessage
	if err := c.Get(ctx, name, &raw); err != nil {
		return err
	}
	if f.json {
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.out, b.String())
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err := io.WriteString(p.out, render())
	return err
}

// errNotSettled says that the agent was reached and could not settle.
var errNotSettled = errors.New("not settled")

func (p program) settleCommand(help io.Writer) *ffcli.Command {
	return controlCommand(help, "settle", settleHelp, func(ctx context.Context, c *seller.Control, f controlFlags) error {
		s, err := c.Settle(ctx)
		switch {
		case errors.Is(err, seller.ErrNotRunning), errors.Is(err, fs.ErrPermission):
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", errNotSettled, err)
		}
		if f.json {
			return p.printJSON(s)
		}
		if s.Channels == 0 {
			_, err = fmt.Fprintln(p.out, "nothing to claim")
		} else {
			_, err = fmt.Fprintf(p.out, "claimed %s USD of %s\n", s.Claimed.USD(), count(s.Channels, "channel"))
		}
		return err
	})
}

func (p program) versionCommand(help io.Writer) *ffcli.Command {
	c := command(help, "version", versionHelp)
	asJSON := c.FlagSet.Bool("json", false, "print JSON")
	c.Exec = func(_ context.Context, args []string) error {
		if err := none("version", args); err != nil {
			return err
		}
		if *asJSON {
			return p.printJSON(map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
		}
		_, err := fmt.Fprintf(p.out, "x402-agent %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}
	return c
}

func (p program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
