package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A routerCPU is a processor of routers, with the emulator that runs its
// programs.
type routerCPU struct {
	name   string
	target string // of scripts/cross.sh
	env    string // for the go command
	qemu   string
}

func routerCPUs() []routerCPU {
	return []routerCPU{
		{"mipsle", "linux_mipsle_softfloat", "GOARCH=mipsle GOMIPS=softfloat", "qemu-mipsel"},
		{"armv7", "linux_arm_7", "GOARCH=arm GOARM=7", "qemu-arm"},
		{"arm64", "linux_arm64", "GOARCH=arm64", "qemu-aarch64"},
	}
}

// insns is the source of the emulator's plugin that counts instructions.
//
//go:embed insns/insns.c
var insns string

// router counts the instructions that the agent takes in user space for a byte
// of a download, beside the bare relay's, on processors of routers. Each figure
// is the slope between a short and a long download, so that what starting costs
// is not in it.
func (b *bench) router(ctx context.Context) error {
	plugin, err := b.buildPlugin(ctx)
	if err != nil {
		return err
	}
	for _, cpu := range routerCPUs() {
		if _, err := exec.LookPath(cpu.qemu); err != nil {
			return fmt.Errorf("%w: apt-get install qemu-user", err)
		}
		agent, err := b.cross(ctx, cpu)
		if err != nil {
			return err
		}
		bare, err := b.buildFor(ctx, cpu)
		if err != nil {
			return err
		}
		e := emulated{b: b, cpu: cpu, plugin: plugin}
		var ours, relay, ratios []float64
		for round := range min(b.rounds, 3) { // they hardly differ
			x, err := e.slope(ctx, fmt.Sprintf("router-%s-%d", cpu.name, round), agent, e.agentRun)
			if err != nil {
				return fmt.Errorf("%s: %w", cpu.name, err)
			}
			y, err := e.slope(ctx, fmt.Sprintf("router-%s-%d-bare", cpu.name, round), bare, e.bareRun)
			if err != nil {
				return fmt.Errorf("%s, bare relay: %w", cpu.name, err)
			}
			ours, relay, ratios = append(ours, x), append(relay, y), append(ratios, x/y)
		}
		b.report.Router = append(b.report.Router, Router{CPU: cpu.name, Ours: median(ours), Bare: median(relay), Ratio: median(ratios)})
	}
	return nil
}

// buildPlugin compiles the plugin with the machine's C compiler.
func (b *bench) buildPlugin(ctx context.Context) (string, error) {
	source, out := filepath.Join(b.dir, "insns.c"), filepath.Join(b.dir, "insns.so")
	if err := os.WriteFile(source, []byte(insns), 0o600); err != nil {
		return "", err
	}
	text, err := exec.CommandContext(ctx, "cc", "-O2", "-shared", "-fPIC", "-o", out, source).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cc insns.c: %w: %s", err, strings.TrimSpace(string(text)))
	}
	return out, nil
}

// cross builds the agent as it is shipped.
func (b *bench) cross(ctx context.Context, cpu routerCPU) (string, error) {
	root, err := exec.CommandContext(ctx, goCommand(), "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	cmd := exec.CommandContext(ctx, "scripts/cross.sh", cpu.target)
	cmd.Dir = strings.TrimSpace(string(root))
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cross.sh %s: %w: %s", cpu.target, err, strings.TrimSpace(string(text)))
	}
	return filepath.Join(cmd.Dir, "dist", cpu.target, "x402-agent"), nil
}

// buildFor builds this program, of which the bare relay is a role.
func (b *bench) buildFor(ctx context.Context, cpu routerCPU) (string, error) {
	out := filepath.Join(b.dir, "bench-"+cpu.name)
	cmd := exec.CommandContext(ctx, goCommand(), "build", "-trimpath", "-ldflags=-s -w", "-o", out, modulePath+"/scripts/bench")
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), strings.Fields(cpu.env)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build bench for %s: %w: %s", cpu.name, err, strings.TrimSpace(string(text)))
	}
	return out, nil
}

// emulated runs programs of a processor and counts what they execute.
type emulated struct {
	b      *bench
	cpu    routerCPU
	plugin string
}

// A run downloads for a time through a program and returns the bytes that
// arrived, after the program has ended. argv is the program's beginning.
type emulatedRun func(ctx context.Context, name string, argv []string, lasts time.Duration) (uint64, error)

// slope is the instructions for each byte more that a longer run downloads.
func (e emulated) slope(ctx context.Context, name, program string, run emulatedRun) (float64, error) {
	var insns, bytes [2]uint64
	for i, lasts := range []time.Duration{e.b.length / 2, 2 * e.b.length} {
		count := filepath.Join(e.b.dir, fmt.Sprintf("%s-%d.count", name, i))
		argv := []string{e.cpu.qemu, "-d", "plugin", "-D", count, "-plugin", e.plugin, "-E", "GOMAXPROCS=1", program}
		var err error
		if bytes[i], err = run(ctx, fmt.Sprintf("%s-%d", name, i), argv, lasts); err != nil {
			return 0, err
		}
		text, err := os.ReadFile(count)
		if err != nil {
			return 0, err
		}
		if insns[i], err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return 0, fmt.Errorf("the plugin's count: %w", err)
		}
	}
	if bytes[1] <= bytes[0] || insns[1] <= insns[0] {
		return 0, fmt.Errorf("%d and %d bytes took %d and %d instructions: take longer --seconds", bytes[0], bytes[1], insns[0], insns[1])
	}
	return float64(insns[1]-insns[0]) / float64(bytes[1]-bytes[0]), nil
}

// agentRun downloads through an agent of its own.
func (e emulated) agentRun(ctx context.Context, name string, argv []string, lasts time.Duration) (uint64, error) {
	defer e.b.endAll()
	m, err := e.b.openMarket(ctx, name, argv)
	if err != nil {
		return 0, err
	}
	purchase, socks, err := m.buy(ctx, "", false)
	if err != nil {
		return 0, err
	}
	n, err := e.download(ctx, job{Dial: m.ready.Target, SOCKS: socks, Lasts: lasts})
	if err != nil {
		return 0, err
	}
	return n, errors.Join(purchase.stop(nil), m.agent.stop(nil))
}

// bareRun downloads through a bare relay of its own.
func (e emulated) bareRun(ctx context.Context, name string, argv []string, lasts time.Duration) (uint64, error) {
	defer e.b.endAll()
	site, ready, err := e.b.startSite(ctx, siteSettings{Host: e.b.lab.addr[agentSide]})
	if err != nil {
		return 0, err
	}
	agent, err := e.b.start(ctx, agentSide, name, append(argv, roleArg, "bare-agent")...)
	if err != nil {
		return 0, err
	}
	agent.role = true
	if err := agent.tell(bareSettings{net.JoinHostPort(e.b.lab.addr[agentSide], "0"), ready.Target, ""}); err != nil {
		return 0, err
	}
	var at bareReady
	if err := agent.answer(ctx, &at, answerTime); err != nil {
		return 0, err
	}
	_, forward, err := e.b.startBareBuyer(ctx, at.Addr)
	if err != nil {
		return 0, err
	}
	n, err := e.download(ctx, job{Dial: forward, Lasts: lasts})
	if err != nil {
		return 0, err
	}
	return n, errors.Join(agent.stop(nil), site.stop(nil))
}

func (e emulated) download(ctx context.Context, j job) (uint64, error) {
	loader, err := e.b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return 0, err
	}
	j.Op = "down"
	y, err := doJob(ctx, loader, j)
	return y.Bytes, err
}
