package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/depinsim/x402/agent"
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

func (std stdio) run(ctx context.Context, fs *flags, args []string) error {
	var f runFlags
	fs.StringVar(&f.ledger, "ledger", "embedded", "")
	fs.StringVar(&f.dir, "dir", "", "")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8402", "")
	fs.BoolVar(&f.dev, "dev", false, "")
	fs.StringVar(&f.readyFile, "ready-file", "", "")
	fs.BoolVar(&f.verbose, "verbose", false, "")
	if err := fs.parse(args); err != nil {
		return err
	}
	switch {
	case f.dir == "":
		return usage("run: --dir is required")
	case f.ledger != "embedded":
		return usage("run: --ledger %q: only embedded is known", f.ledger)
	}
	if _, _, err := net.SplitHostPort(f.listen); err != nil {
		return usage("run: --listen: %w", err)
	}
	return f.serve(ctx, std)
}

// serve serves until ctx is cancelled.
func (f runFlags) serve(ctx context.Context, std stdio) (err error) {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	if f.readyFile != "" { // one that a killed process left would mislead
		if err := agent.RemoveReady(f.readyFile); err != nil {
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
		if err := agent.WriteReady(f.readyFile, []byte(url+"\n")); err != nil {
			return errors.Join(fmt.Errorf("ready file: %w", err), public.Close(), admin.Close())
		}
		defer func() { err = errors.Join(err, agent.RemoveReady(f.readyFile)) }()
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
