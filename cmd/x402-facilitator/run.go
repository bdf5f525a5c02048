package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger/embedded"
)

const devWarning = `
*************************************************************************
**  --dev: THE FAUCET IS OPEN. Whoever reaches this address makes as   **
**  much credit as he likes, so the credit of this ledger is worthless **
**  for ever. Never use --dev on a ledger that anyone is to trust.     **
*************************************************************************
`

// runFlags are the flags of run.
type runFlags struct {
	ledger, dir, listen, readyFile string
	dev, verbose                   bool
}

func runCommand(help io.Writer, std stdio) *ffcli.Command {
	c := command(help, "run", runUsage, runHelp)
	c.ShortHelp = "serve the facilitator API"
	var f runFlags
	c.FlagSet.StringVar(&f.ledger, "ledger", "embedded", "`KIND` of ledger: embedded, kept in --dir by this process")
	c.FlagSet.StringVar(&f.dir, "dir", "", "`DIR` of the ledger, created if missing (required)")
	c.FlagSet.StringVar(&f.listen, "listen", "127.0.0.1:8402", "`ADDR` to serve on, host:port; port 0 takes a free one")
	c.FlagSet.BoolVar(&f.dev, "dev", false, "open a faucet: POST /v1/faucet gives credit to anyone")
	c.FlagSet.StringVar(&f.readyFile, "ready-file", "", "`PATH` of a file that holds the URL while clients can connect")
	c.FlagSet.BoolVar(&f.verbose, "verbose", false, "log refused requests too")
	c.Exec = func(ctx context.Context, args []string) error {
		switch {
		case len(args) > 0:
			return usageError{fmt.Errorf("run: unexpected argument %q", args[0])}
		case f.dir == "":
			return usageError{errors.New("run: --dir is required")}
		case f.ledger != "embedded":
			return usageError{fmt.Errorf("run: --ledger %q: only embedded is known", f.ledger)}
		}
		if _, _, err := net.SplitHostPort(f.listen); err != nil {
			return usageError{fmt.Errorf("run: --listen: %w", err)}
		}
		return f.run(ctx, std)
	}
	return c
}

// run serves until ctx is cancelled.
func (f runFlags) run(ctx context.Context, std stdio) (err error) {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	if f.readyFile != "" { // one that a killed process left would mislead
		if err := os.Remove(f.readyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("ready file: %w", err)
		}
	}
	log := slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: level}))
	l, err := embedded.Open(f.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if f.dev {
		fmt.Fprint(std.err, devWarning)
	}
	srv, err := server.New(server.Config{Ledger: l, Signer: l.Address(), Dev: f.dev, Logger: log})
	if err != nil {
		return err
	}
	admin, err := server.ListenAdmin(f.dir)
	if err != nil {
		return err
	}
	public, err := net.Listen("tcp", f.listen)
	if err != nil {
		return errors.Join(err, admin.Close())
	}
	p := l.Params()
	log.Info("ledger open", "dir", f.dir, "network", p.Network(), "asset", p.Token.String(), "dev", f.dev)
	url := "http://" + reachable(public.Addr())
	if f.readyFile != "" {
		if err := writeReady(f.readyFile, url); err != nil {
			return errors.Join(fmt.Errorf("ready file: %w", err), public.Close(), admin.Close())
		}
		defer func() { err = errors.Join(err, os.Remove(f.readyFile)) }()
	}
	fmt.Fprintln(std.out, "listening on", url)
	err = srv.Run(ctx, public, admin)
	log.Info("stopped")
	return err
}

// reachable is an address that clients on this machine can dial.
func reachable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if ok && t.IP.IsUnspecified() {
		return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: t.Port}).String()
	}
	return a.String()
}

// writeReady writes the file at once, never a part of it.
func writeReady(path, url string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, url)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
