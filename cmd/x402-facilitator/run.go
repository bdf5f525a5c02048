package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger/embedded"
	"github.com/depinsim/x402/channel/ledger/evm"
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
	evm                            evmFlags
}

func (std stdio) run(ctx context.Context, fs *flags, args []string) error {
	var f runFlags
	fs.StringVar(&f.ledger, "ledger", "embedded", "")
	fs.StringVar(&f.dir, "dir", "", "")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8402", "")
	fs.BoolVar(&f.dev, "dev", false, "")
	fs.StringVar(&f.readyFile, "ready-file", "", "")
	fs.BoolVar(&f.verbose, "verbose", false, "")
	f.evm.register(fs.FlagSet)
	if err := fs.parse(args); err != nil {
		return err
	}
	if f.dir == "" {
		return usage("run: --dir is required")
	}
	if _, _, err := net.SplitHostPort(f.listen); err != nil {
		return usage("run: --listen: %w", err)
	}
	switch f.ledger {
	case "embedded":
		if err := f.evm.unused(fs); err != nil {
			return err
		}
		return f.serve(ctx, std, f.openEmbedded)
	case "evm":
		c, err := f.evm.config(f.dir, f.dev)
		if err != nil {
			return usage("run: %w", err)
		}
		return f.serve(ctx, std, func(ctx context.Context, log *slog.Logger) (home, error) {
			if err := onlyKind(f.dir, embedded.DBFile); err != nil {
				return home{}, err
			}
			h, err := f.evm.open(ctx, c, log)
			if err != nil {
				return home{}, err
			}
			return home{ledger: h, signer: h.Account(), run: h.Run, close: h.Close}, nil
		})
	}
	return usage("run: --ledger %q: there are embedded and evm", f.ledger)
}

// A home is an open ledger.
type home struct {
	ledger server.Ledger
	signer channel.Address
	run    func(context.Context) error // nil: it has nothing to do by itself
	close  func() error
}

func (f runFlags) openEmbedded(context.Context, *slog.Logger) (home, error) {
	if err := onlyKind(f.dir, evm.DBFile); err != nil {
		return home{}, err
	}
	l, err := embedded.Open(f.dir)
	if err != nil {
		return home{}, err
	}
	return home{ledger: l, signer: l.Address(), close: l.Close}, nil
}

// serve serves until ctx is cancelled.
func (f runFlags) serve(ctx context.Context, std stdio, open func(context.Context, *slog.Logger) (home, error)) (err error) {
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
	h, err := open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if f.dev {
		fmt.Fprint(std.err, devWarning)
	}
	srv, err := server.New(server.Config{Ledger: h.ledger, Signer: h.signer, Dev: f.dev, Logger: log})
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
	p := h.ledger.Params()
	log.Info("ledger open", "dir", f.dir, "network", p.Network(), "asset", p.Token.String(), "dev", f.dev)
	url := "http://" + reachable(public.Addr())
	if f.readyFile != "" {
		if err := agent.WriteReady(f.readyFile, []byte(url+"\n")); err != nil {
			return errors.Join(fmt.Errorf("ready file: %w", err), public.Close(), admin.Close())
		}
		defer func() { err = errors.Join(err, agent.RemoveReady(f.readyFile)) }()
	}
	fmt.Fprintln(std.out, "listening on", url)
	err = h.beside(ctx, func() error { return srv.Run(ctx, public, admin) })
	log.Info("stopped")
	return err
}

// beside runs the home until serve has returned: requests that wait for it are
// finished first.
func (h home) beside(ctx context.Context, serve func() error) error {
	if h.run == nil {
		return serve()
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return h.run(ctx) })
	err := serve()
	stop()
	return errors.Join(err, g.Wait())
}

// reachable is an address that clients on this machine can dial.
func reachable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if ok && t.IP.IsUnspecified() {
		return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: t.Port}).String()
	}
	return a.String()
}
