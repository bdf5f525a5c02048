package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"time"
)

// router is the architecture that the agent's memory is measured on: 32 bits
// wide, as routers are. Emulating one of theirs would distort it.
const router = "386"

const (
	idleTime    = 2 * time.Second // until an agent that has started is idle
	sampleEvery = 20 * time.Millisecond
)

// memory measures the agent's RSS: idle, and the highest while flows download
// all at once. Each count of flows has an agent of its own.
func (b *bench) memory(ctx context.Context) error {
	program, arch, err := b.routerAgent(ctx)
	if err != nil {
		return err
	}
	b.report.MemoryArch = arch
	b.report.Memory = make([]Memory, 1+len(b.flows))
	samples := make([][]float64, 1+len(b.flows))
	for round := range b.rounds {
		for i, flows := range append([]int{0}, b.flows...) {
			mib, moved, err := b.busyAgent(ctx, fmt.Sprintf("memory-%d-%d", round, i), program, flows)
			if err != nil {
				return err
			}
			samples[i] = append(samples[i], mib)
			x := &b.report.Memory[i]
			if round == 0 || moved < x.Moved {
				x.Moved = moved
			}
			x.Flows, x.MiB = flows, median(samples[i])
			b.endAll()
		}
	}
	return nil
}

// routerAgent builds the agent for the router's architecture if its programs
// run here.
func (b *bench) routerAgent(ctx context.Context) (program []string, arch string, err error) {
	if b.inside {
		return nil, runtime.GOARCH, nil
	}
	built, err := b.build(ctx, "x402-agent", router)
	if err != nil {
		return nil, "", err
	}
	if exec.CommandContext(ctx, built, "version").Run() == nil {
		return []string{built}, router, nil
	}
	return b.agent, runtime.GOARCH, nil
}

// busyAgent starts an agent and returns its highest RSS while flows download,
// in MiB, and how many of them got something; of no flows, the RSS when it is
// idle.
func (b *bench) busyAgent(ctx context.Context, name string, program []string, flows int) (mib float64, moved int, err error) {
	m, err := b.openMarket(ctx, name, program)
	if err != nil {
		return 0, 0, err
	}
	if flows == 0 {
		if !wait(ctx, min(idleTime, b.length)) {
			return 0, 0, context.Cause(ctx)
		}
		n, err := m.agent.rss()
		return mebibytes(n), 0, err
	}
	_, socks, err := m.buy(ctx, "", false)
	if err != nil {
		return 0, 0, err
	}
	loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return 0, 0, err
	}
	j := job{Op: "busy", Dial: m.ready.Target, SOCKS: socks, Lasts: b.length, Flows: flows}
	var most int64
	var y yield
	for range 3 {
		if most, y, err = m.highest(ctx, loader, j); !errors.Is(err, errNothing) {
			break
		}
		j.Lasts *= 4 // the machine had no time even to begin
	}
	return mebibytes(most), y.Moved, err
}

// highest samples the agent's RSS while the load does j.
func (m *market) highest(ctx context.Context, loader *process, j job) (most int64, y yield, err error) {
	type answer struct {
		yield
		err error
	}
	answered := make(chan answer, 1)
	loader.wg.Go(func() {
		y, err := doJob(ctx, loader, j)
		answered <- answer{y, err}
	})
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n, err := m.agent.rss()
			if err != nil {
				return 0, y, err // endAll ends the load, and so the answer
			}
			most = max(most, n)
		case a := <-answered:
			return most, a.yield, a.err
		}
	}
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
