package main

import (
	"context"
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
// all at once.
func (b *bench) memory(ctx context.Context) error {
	program, arch, err := b.routerAgent(ctx)
	if err != nil {
		return err
	}
	samples := make([][]float64, 1+len(b.flows))
	for round := range b.rounds {
		for i := range samples {
			mib, err := b.busyAgent(ctx, fmt.Sprintf("memory-%d-%d", round, i), program, append([]int{0}, b.flows...)[i])
			if err != nil {
				return err
			}
			samples[i] = append(samples[i], mib)
			b.endAll()
		}
	}
	b.report.MemoryArch = arch
	for i, flows := range append([]int{0}, b.flows...) {
		b.report.Memory = append(b.report.Memory, Memory{Flows: flows, MiB: median(samples[i])})
	}
	return nil
}

// routerAgent builds the agent for the router's architecture if its programs
// run here.
func (b *bench) routerAgent(ctx context.Context) (program, arch string, err error) {
	if b.inside {
		return "", runtime.GOARCH, nil
	}
	if program, err = b.build(ctx, "x402-agent", router); err != nil {
		return "", "", err
	}
	if exec.CommandContext(ctx, program, "version").Run() == nil {
		return program, router, nil
	}
	program, err = b.build(ctx, "x402-agent", runtime.GOARCH)
	return program, runtime.GOARCH, err
}

// busyAgent starts an agent and returns its highest RSS while flows download,
// in MiB; of no flows, what it has when it is idle.
func (b *bench) busyAgent(ctx context.Context, name, program string, flows int) (float64, error) {
	m, err := b.openMarket(ctx, name, program)
	if err != nil {
		return 0, err
	}
	if flows == 0 {
		if !wait(ctx, min(idleTime, b.length)) {
			return 0, context.Cause(ctx)
		}
		n, err := m.agent.rss()
		return mebibytes(n), err
	}
	_, socks, err := m.buy(ctx, "", false)
	if err != nil {
		return 0, err
	}
	loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return 0, err
	}
	if err := loader.tell(job{Op: "down", Dial: m.ready.Target, SOCKS: socks, Lasts: b.length, Flows: flows}); err != nil {
		return 0, err
	}
	return m.highest(ctx, loader)
}

// highest samples the agent's RSS until the load answers.
func (m *market) highest(ctx context.Context, loader *process) (float64, error) {
	var y yield
	answered := make(chan error, 1)
	loader.wg.Go(func() { answered <- loader.answer(ctx, &y, m.b.length+answerTime) })
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	var most int64
	for {
		select {
		case <-tick.C:
			n, err := m.agent.rss()
			if err != nil {
				return 0, err // endAll ends the load, and so the answer
			}
			most = max(most, n)
		case err := <-answered:
			if err == nil && y.Error != "" {
				err = fmt.Errorf("%s: %s", m.agent.name, y.Error)
			}
			return mebibytes(most), err
		}
	}
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
