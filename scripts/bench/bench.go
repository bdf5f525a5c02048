package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// groups are what can be measured by itself.
func groups() []string {
	return []string{
		"transfer", "flash", "latency", "memory", "micro", "router", "relay",
		"links", "uplink", "blackout", "sharing", "flood", "paused", "idle", "datagrams",
	}
}

// onLink are the groups that need an emulated link; relay uses one if it can.
func onLink() []string { return []string{"links", "uplink", "blackout", "sharing", "flood"} }

// A config says what is measured, and how thoroughly.
type config struct {
	rounds   int
	length   time.Duration // of one transfer
	only     []string      // groups
	loopback bool
	profiles string // folder for the transfers' CPU profiles; "": none
	log      io.Writer
	// inside runs the agent of all groups in this program instead of
	// building cmd/x402-agent, for a quick look.
	inside bool
	flows  []int // of the memory group; nil: 48, 100, 1000
	// idleFlows is how many flows do nothing in the idle group; 0: 1000.
	idleFlows int
	peers     peers
}

// A bench is a run under way.
type bench struct {
	config
	dir    string // for everything that is written
	self   string // this program
	lab    *lab
	report *Report
	agent  []string // x402-agent's command line begins so; nil: a role of this program
	group  string   // under way
	procs  []*process
}

// measure runs the groups and returns what they found.
func (c config) measure(ctx context.Context) (_ *Report, err error) {
	b := &bench{config: c, report: &Report{Rounds: c.rounds, Seconds: c.length.Seconds()}}
	if b.flows == nil {
		b.flows = []int{48, 100, 1000}
	}
	if b.idleFlows == 0 {
		b.idleFlows = 1000
	}
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.profiles != "" {
		if b.profiles, err = filepath.Abs(b.profiles); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return nil, err
		}
	}
	// Unix sockets' paths are short (unix(7)), so not below a deep folder.
	if b.dir, err = os.MkdirTemp("", "x402-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.lab, err = openLab(ctx, c.loopback); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.lab.close()) }()
	b.report.Path, b.report.Date = b.lab.describe, time.Now().UTC().Format(time.DateOnly)
	if b.report.Machine, err = describeMachine(); err != nil {
		return nil, err
	}
	if !c.inside && c.profiles == "" {
		program, err := b.build(ctx, "x402-agent", runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		b.agent = []string{program}
	}
	if err := b.runGroups(ctx); err != nil {
		return nil, err
	}
	b.report.judge()
	return b.report, nil
}

func (b *bench) runGroups(ctx context.Context) error {
	defer b.endAll()
	for _, group := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"transfer", b.transfer}, {"flash", b.flash}, {"latency", b.latency}, {"memory", b.memory}, {"micro", b.micro},
		{"router", b.router}, {"relay", b.relay}, {"links", b.links}, {"uplink", b.uplink}, {"blackout", b.blackout}, {"sharing", b.sharing}, {"flood", b.flood},
		{"paused", b.paused}, {"idle", b.idle}, {"datagrams", b.datagrams},
	} {
		if !slices.Contains(b.only, group.name) {
			continue
		}
		fmt.Fprintf(b.log, "%s: measuring\n", group.name)
		b.group = group.name
		run := group.run
		if slices.Contains(onLink(), group.name) {
			if err := netlab.Missing(); err != nil {
				b.report.Left = append(b.report.Left, fmt.Sprintf("%s: %v", group.name, err))
				continue
			}
			run = func(ctx context.Context) error { return b.linked(ctx, group.run) }
		}
		if err := run(ctx); err != nil {
			return fmt.Errorf("%s: %w", group.name, err)
		}
		b.endAll()
	}
	return nil
}

// linked runs a group in a lab of its own, with an emulated link.
func (b *bench) linked(ctx context.Context, run func(context.Context) error) (err error) {
	l, err := openLink(ctx)
	if err != nil {
		return err
	}
	around := b.lab
	b.lab = l
	defer func() {
		b.endAll()
		b.lab = around
		err = errors.Join(err, l.close())
	}()
	return run(ctx)
}

// build compiles a command of this module for an architecture and returns its
// path.
func (b *bench) build(ctx context.Context, name, arch string) (string, error) {
	out := filepath.Join(b.dir, name+"-"+arch)
	cmd := exec.CommandContext(ctx, goCommand(), "build", "-trimpath", "-ldflags=-s -w", "-o", out, modulePath+"/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, strings.TrimSpace(string(text)))
	}
	return out, nil
}

const modulePath = "github.com/depinsim/x402"

// goCommand is the go command that make was told to use.
func goCommand() string {
	if name := os.Getenv("GO"); name != "" {
		return name
	}
	return "go"
}

// profile is where a process of the transfers writes its CPU profile, "" for
// nowhere.
func (b *bench) profile(name string) string {
	if b.profiles == "" || b.group != "transfer" {
		return ""
	}
	return filepath.Join(b.profiles, name+".pprof")
}
