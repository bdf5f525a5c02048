// Package demo runs the whole story of the project on one machine: an agent
// sells the tunnel of a SIM, a buyer uses it, the agent is killed in the
// middle, and in the end what both sides counted is what was owed, signed,
// claimed and paid, to the unit.
//
// It starts the real commands as processes of their own, with their files in
// one temporary directory, and speaks to them as their users do: by flags,
// files, proxies and signals. Only the internet is played here: a web server
// and a UDP echo server on loopback. [Run] is the order of events.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
)

// Config says what to run. Zero fields have the defaults named.
type Config struct {
	// Bytes is the size of the file that the buyer fetches; it may be zero.
	Bytes int64
	// Bin is the folder of the commands. Default: that of the running one.
	Bin string
	// Agent is the agent's binary. Default: x402-agent in Bin.
	Agent string
	// Runner is put before the agent's binary, such as an emulator.
	Runner []string
	// Keep is a folder for all files, which stays. It must be empty or absent.
	// Default: a temporary one, which stays only if something goes wrong.
	Keep string
	// Chain is where the facilitator settles. Default: on a ledger of its own.
	Chain *Chain
	// JSON prints the report as JSON.
	JSON bool
	// Verbose shows what the programs log while it happens.
	Verbose bool
	// Terminal says that Log is one.
	Terminal bool

	Out io.Writer // for the report
	Log io.Writer // for what happens meanwhile
}

// A Chain is an EVM chain for the demo.
type Chain struct {
	Flags []string                                                     // of x402-facilitator run, that say which
	Fund  func(context.Context, channel.Address, channel.Amount) error // gives an account of the token
}

// MaxBytes bounds the file: what it costs must fit the demo's wallet.
const MaxBytes = 1_000_000_000_000

// gateFrom is the size from which on the file is interrupted by the kill. The
// halves of a smaller one are fetched one before and one after it.
const gateFrom = 256 << 10

// ErrInterrupted says that the demo was stopped from outside.
var ErrInterrupted = errors.New("interrupted")

// A demo is one run.
type demo struct {
	cfg    Config
	dir    string
	say    *narrator
	progs  *programs
	net    *internet
	bank   *bank
	modem  *program
	seller seller
	buyer  buyer
	mu     sync.Mutex // of report, while two halves come
	report Report
}

// Run runs the demo and prints its report. It fails with a *FaultError if the
// report does not add up. When ctx is cancelled it fails with ErrInterrupted.
// All processes have ended when it returns.
func Run(ctx context.Context, c Config) error {
	d := &demo{cfg: c, say: &narrator{w: c.Log, terminal: c.Terminal && !c.JSON, began: time.Now()}}
	if c.JSON && !c.Verbose {
		d.say.w = io.Discard
	}
	if err := d.prepare(); err != nil {
		return err
	}
	err := d.supervise(ctx)
	if ctx.Err() != nil {
		err = ErrInterrupted
	}
	return d.tidy(err)
}

// prepare finds the commands and makes the folder.
func (d *demo) prepare() error {
	c := &d.cfg
	if c.Bytes < 0 || c.Bytes > MaxBytes {
		return fmt.Errorf("%d bytes: want 0 to %d", c.Bytes, int64(MaxBytes))
	}
	if c.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Bin = filepath.Dir(self)
	}
	if c.Agent == "" {
		c.Agent = filepath.Join(c.Bin, "x402-agent")
	}
	var err error
	for _, path := range []*string{&c.Bin, &c.Agent} { // a name without a folder is not looked for in PATH
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	for _, path := range []string{d.command("x402"), d.command("x402-facilitator"), c.Agent} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: `make build` builds the commands", err)
		}
	}
	if c.Keep == "" {
		d.dir, err = os.MkdirTemp("", "x402-demo-")
		return err
	}
	if d.dir, err = filepath.Abs(c.Keep); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty", d.dir)
	}
	return err
}

func (d *demo) command(name string) string { return filepath.Join(d.cfg.Bin, name) }

func (d *demo) path(names ...string) string { return filepath.Join(d.dir, filepath.Join(names...)) }

// supervise runs the story and ends every process, however that went.
func (d *demo) supervise(ctx context.Context) (err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	if d.net, err = newInternet(d.cfg.Bytes, d.cfg.Bytes >= gateFrom); err != nil {
		return err
	}
	d.progs = &programs{dir: d.dir, fail: fail}
	if d.cfg.Verbose {
		d.progs.mirror = d.say
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.net.run(ctx); err != nil {
			fail(err)
		}
	})
	err = d.story(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // why the rest went wrong
	}
	d.progs.end()
	fail(nil)
	wg.Wait()
	return err
}

// story is the order of events.
func (d *demo) story(ctx context.Context) error {
	steps := []func(context.Context) error{
		d.startFacilitator, d.startModem, d.startAgent, d.makeWallet,
		d.readBefore, d.startBuyer,
		d.echoPackets, d.transfer, d.echoPackets,
		d.endBuyer, d.settle, d.readAfter,
		d.stopRest,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.report.Faults = d.report.check()
	if err := d.print(); err != nil {
		return err
	}
	if len(d.report.Faults) > 0 {
		return &FaultError{d.report.Faults}
	}
	return nil
}

func (d *demo) print() error {
	if !d.cfg.JSON {
		return d.report.table(d.cfg.Out)
	}
	e := json.NewEncoder(d.cfg.Out)
	e.SetIndent("", "  ")
	return e.Encode(d.report)
}

// tidy removes the folder, or says where it is.
func (d *demo) tidy(err error) error {
	failed := err != nil && !errors.Is(err, ErrInterrupted)
	if failed {
		fmt.Fprint(d.cfg.Log, d.progs.tails())
	}
	if failed || d.cfg.Keep != "" {
		fmt.Fprintln(d.cfg.Log, "all files are in", d.dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}
