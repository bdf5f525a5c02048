package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/peterbourgon/ff/v3/ffcli"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
)

func (p program) runCommand(help io.Writer) *ffcli.Command {
	c := command(help, "run", runHelp)
	config := c.FlagSet.String("config", defaultConfig, "`FILE` that says what to sell and how")
	ready := c.FlagSet.String("ready-file", "", "`PATH` of a file to write when buyers are served; see above")
	c.Exec = func(ctx context.Context, args []string) error {
		if err := none("run", args); err != nil {
			return err
		}
		cfg, err := seller.LoadConfig(*config)
		if err != nil {
			return configError{err}
		}
		total := memTotal("/proc/meminfo")
		limitMemory(total, os.Getenv)
		if cfg.MaxFlows == 0 {
			cfg.MaxFlows = maxFlows(total)
		}
		if *ready == "" {
			return seller.Run(ctx, cfg)
		}
		return runAnnounced(ctx, cfg, *ready)
	}
	return c
}

// runAnnounced runs the agent and keeps the ready file meanwhile.
func runAnnounced(ctx context.Context, cfg seller.Config, path string) error {
	if err := removeFile(path); err != nil { // one of an agent that was killed
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return seller.Run(gctx, cfg) })
	g.Go(func() error { return announce(gctx, cfg, path) })
	return g.Wait()
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// A readiness is the content of the ready file.
type readiness struct {
	Agent   channel.Address `json:"agent"`
	Listen  string          `json:"listen"`
	Offer   string          `json:"offer"`
	Control string          `json:"control"`
	PID     int             `json:"pid"`
}

// readyEvery is how often announce asks. Asking is local and cheap.
const readyEvery = 20 * time.Millisecond

// announce writes the ready file as soon as the agent of this process, asked
// over its control socket like by anyone else, says that it sells. It removes
// the file when ctx ends.
func announce(ctx context.Context, cfg seller.Config, path string) error {
	control := seller.DialControl(cfg.ControlPath())
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		var st seller.Status
		// An agent of another process answers if its state directory is ours:
		// then Run fails.
		if err := control.Get(ctx, "status", &st); err == nil && st.PID == os.Getpid() && st.Refusing == "" {
			r := readiness{Agent: st.Agent, Listen: st.Listen, Offer: cfg.OfferPath(), Control: cfg.ControlPath(), PID: st.PID}
			if err := writeReady(path, r); err != nil {
				return fmt.Errorf("ready file: %w", err)
			}
			<-ctx.Done()
			return removeFile(path)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// writeReady writes the file at once, never a part of it.
func writeReady(path string, r readiness) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
