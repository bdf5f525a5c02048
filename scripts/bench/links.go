package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// A condition is a link and what is done on it.
type condition struct {
	name      string
	loss      float64 // each way
	direction string
	up, down  netlab.Shape // of the agent's link: up is what a download takes
}

// links measures one download at a time by all ways, with and without loss, and
// how long new connections take.
func (b *bench) links(ctx context.Context) error {
	c, err := b.openCrossing(ctx, b.group)
	if err != nil {
		return err
	}
	if err := c.setUp(ctx); err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	var list []condition
	for _, loss := range []float64{0, 0.01, 0.05} {
		s := mobile(loss)
		list = append(list, condition{fmt.Sprintf("50 Mbit/s, 40 ms, %.0f%% loss", loss*100), loss, "down", s, s})
	}
	if err := c.compare(ctx, list, b.rounds); err != nil {
		return err
	}
	return c.close(ctx)
}

// uplink measures a poor cellular link: little up, delays that vary.
func (b *bench) uplink(ctx context.Context) error {
	c, err := b.openCrossing(ctx, b.group)
	if err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	up := netlab.Shape{Rate: 5_000_000, Delay: 30 * time.Millisecond, Jitter: 15 * time.Millisecond, Queue: 200 * time.Millisecond}
	down := up
	down.Rate = 20_000_000
	const name = "5 Mbit/s up, 20 down, 60 to 90 ms"
	c.ways = slices.DeleteFunc(c.ways, func(w way) bool { return w.name == wayCubic })
	if err := c.compare(ctx, []condition{{name, 0, "down", up, down}, {name, 0, "up", up, down}}, min(b.rounds, 3)); err != nil {
		return err
	}
	return c.close(ctx)
}

// linkLength is how long a transfer on an emulated link takes: beginning is a
// part of it, so not less than some seconds.
func (b *bench) linkLength() time.Duration { return b.length * 3 / 2 }

// A crossed is one transfer across a link.
type crossed struct {
	sample
	wire   float64    // bytes on the agent's interface for each that arrived
	mib    [2]float64 // RSS of buyer and agent
	pings  []float64
	firsts []float64
}

// compare takes all ways under all conditions, once a round in an order that
// differs, and reports them.
func (c *crossing) compare(ctx context.Context, list []condition, rounds int) error {
	got := make([][]crossed, len(list)*len(c.ways))
	order := rand.New(rand.NewPCG(3, 2544))
	for range rounds {
		for _, i := range order.Perm(len(got)) {
			at, w := list[i/len(c.ways)], c.ways[i%len(c.ways)]
			var x crossed
			err := c.b.steady(&c.b.report.Unsteady, func() (err error) {
				x, err = c.sample(ctx, at, w)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s, %s, %s: %w", at.name, at.direction, w.name, err)
			}
			got[i] = append(got[i], x)
		}
	}
	for i, samples := range got {
		c.b.report.Links = append(c.b.report.Links, summariseLink(list[i/len(c.ways)], c.ways[i%len(c.ways)].name, samples))
	}
	return nil
}

// steady has a sample taken again, up to twice, if the machine had no time for
// the link meanwhile or nothing arrived, and counts how often that was in vain.
func (b *bench) steady(unsteady *int, take func() error) (err error) {
	k := b.lab.link
	if k == nil {
		return take()
	}
	late := func() (late, out uint64) {
		ab, ba := k.AB.Counts(), k.BA.Counts()
		return ab.Late + ba.Late, ab.Out + ba.Out
	}
	for range 3 {
		lateBefore, outBefore := late()
		if err = take(); errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return err
		}
		if lateAfter, outAfter := late(); lateAfter-lateBefore <= (outAfter-outBefore)/200 {
			return nil
		}
	}
	*unsteady++
	return err
}

// sample does one transfer with pings and first bytes beside it.
func (c *crossing) sample(ctx context.Context, at condition, w way) (x crossed, err error) {
	k := c.b.lab.link
	k.Set(at.up, at.down)
	if !wait(ctx, rest) {
		return x, context.Cause(ctx)
	}
	j, beside := w.job, w.job
	j.Op, j.Lasts = map[string]string{"down": "busy", "up": "take"}[at.direction], c.b.linkLength()
	beside.Op, beside.Lasts, beside.Ping = "beside", j.Lasts, c.b.lab.addr[agentSide]
	line := map[string]*netlab.Line{"down": k.AB, "up": k.BA}[at.direction]
	cpu, err := cpuOf(w.buyer, w.agent)
	if err != nil {
		return x, err
	}
	wire := line.Counts().InBytes
	y, errs := c.both(ctx, j, beside)
	if errs[0] != nil {
		return x, errs[0]
	}
	x.wire = float64(line.Counts().InBytes-wire) / float64(y[0].Bytes)
	after, err := cpuOf(w.buyer, w.agent)
	if err != nil {
		return x, err
	}
	gb := float64(y[0].Bytes) / 1e9
	x.mbits = float64(y[0].Bytes) * 8 / 1e6 / j.Lasts.Seconds()
	x.buyer, x.agent = (after[0]-cpu[0]).Seconds()/gb, (after[1]-cpu[1]).Seconds()/gb
	x.pings, x.firsts = mapped(y[1].Pings, milliseconds), mapped(y[1].First, milliseconds)
	for i, p := range []*process{w.buyer, w.agent} {
		if p != nil {
			n, err := p.rss()
			if err != nil {
				return x, err
			}
			x.mib[i] = mebibytes(n)
		}
	}
	c.did(w, at.direction, y[0].Bytes)
	return x, nil
}

// summariseLink reduces samples to medians.
func summariseLink(at condition, name string, samples []crossed) Link {
	pick := func(f func(crossed) float64) float64 { return median(mapped(samples, f)) }
	var pings, firsts []float64
	for _, s := range samples {
		pings, firsts = append(pings, s.pings...), append(firsts, s.firsts...)
	}
	rates := mapped(samples, func(x crossed) float64 { return x.mbits })
	return Link{
		Link: at.name, Loss: at.loss, Direction: at.direction, Way: name,
		Mbits: median(rates), MbitsLow: slices.Min(rates), MbitsHigh: slices.Max(rates),
		Wire:     pick(func(x crossed) float64 { return x.wire }),
		BuyerCPU: pick(func(x crossed) float64 { return x.buyer }),
		AgentCPU: pick(func(x crossed) float64 { return x.agent }),
		BuyerMiB: pick(func(x crossed) float64 { return x.mib[0] }),
		AgentMiB: pick(func(x crossed) float64 { return x.mib[1] }),
		Ping:     median(pings), PingHigh: quantile(pings, 0.95), First: median(firsts),
	}
}

// quantile is the value that a share of list does not exceed, 0 of none.
func quantile(list []float64, share float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[min(int(share*float64(len(list))), len(list)-1)]
}
