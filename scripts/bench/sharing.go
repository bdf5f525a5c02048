package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// blackout cuts the link for ten times --seconds while all ways download at
// once, and measures how long after its end each gets something again.
func (b *bench) blackout(ctx context.Context) error {
	c, err := b.openCrossing(ctx, b.group)
	if err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	outage := 10 * b.length
	k := b.lab.link
	k.Set(mobile(0), mobile(0))
	yields, errs := make([]yield, len(c.ways)), make([]error, len(c.ways))
	var wg sync.WaitGroup
	for i, w := range c.ways {
		loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
		if err != nil {
			return err
		}
		j := w.job
		// As long again after it, since TCP doubles its time-outs (RFC 6298).
		j.Op, j.Lasts, j.Within = "gap", b.linkLength()+outage*2, time.Second
		wg.Go(func() { yields[i], errs[i] = doJob(ctx, loader, j) })
	}
	whole := wait(ctx, b.linkLength())
	k.Set(netlab.Shape{Down: true}, netlab.Shape{Down: true})
	whole = whole && wait(ctx, outage)
	k.Set(mobile(0), mobile(0))
	over := time.Now()
	wg.Wait()
	if !whole {
		return context.Cause(ctx)
	}
	for i, w := range c.ways {
		if errs[i] != nil && !errors.Is(errs[i], errNothing) { // it has not recovered then
			return fmt.Errorf("%s: %w", w.name, errs[i])
		}
		c.did(w, "down", yields[i].Bytes)
		row := Blackout{Way: w.name, Outage: outage.Seconds(), Recovery: -1, Broken: yields[i].Broken}
		if yields[i].Resumed.After(over) {
			row.Recovery = yields[i].Resumed.Sub(over).Seconds()
		}
		b.report.Blackouts = append(b.report.Blackouts, row)
	}
	return c.close(ctx)
}

// sharing measures how evenly flows share a link: twenty in a tunnel, and one in
// a tunnel beside two of the kernel's TCP.
func (b *bench) sharing(ctx context.Context) error {
	c, err := b.openCrossing(ctx, b.group)
	if err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	b.lab.link.Set(mobile(0), mobile(0))
	for _, w := range c.tunnels() {
		if w.name == wayBare {
			continue
		}
		if err := c.share(ctx, "20 flows in one tunnel", w, nil); err != nil {
			return err
		}
		for _, name := range []string{wayCubic, wayBBR} {
			if other := c.way(name); other != nil {
				if err := c.share(ctx, "one flow beside 2 of "+name, w, other); err != nil {
					return err
				}
			}
		}
	}
	return c.close(ctx)
}

// share measures one case: many flows of w, or one beside two of another way.
func (c *crossing) share(ctx context.Context, name string, w way, other *way) error {
	row := Sharing{Case: name, Way: w.name}
	var jains, first, others []float64
	for range min(c.b.rounds, 3) {
		j := w.job
		j.Op, j.Skip, j.Lasts, j.Flows = "busy", c.b.length, 2*c.b.linkLength(), 20
		var each []uint64
		if other == nil {
			y, err := doJob(ctx, c.load, j)
			if err != nil && !errors.Is(err, errNothing) {
				return fmt.Errorf("%s, %s: %w", name, w.name, err)
			}
			each = y.Each
			c.did(w, "down", y.Bytes)
		} else {
			two := other.job
			two.Op, two.Skip, two.Lasts, two.Flows = j.Op, j.Skip, j.Lasts, 2
			j.Flows = 1
			y, errs := c.both(ctx, j, two)
			for _, err := range errs {
				if err != nil && !errors.Is(err, errNothing) { // to get nothing is a share, too
					return fmt.Errorf("%s, %s: %w", name, w.name, err)
				}
			}
			each = append(y[0].Each, y[1].Each...)
			c.did(w, "down", y[0].Bytes)
		}
		jains = append(jains, jain(each))
		var sum uint64
		for _, n := range each[1:] {
			sum += n
		}
		mbits := func(n uint64) float64 { return float64(n) * 8 / 1e6 / j.Lasts.Seconds() }
		first, others = append(first, mbits(each[0])), append(others, mbits(sum))
		if !wait(ctx, 2*rest) { // twenty flows leave more behind than one
			return context.Cause(ctx)
		}
	}
	row.Jain, row.First, row.Others = median(jains), median(first), median(others)
	c.b.report.Sharing = append(c.b.report.Sharing, row)
	return nil
}

// jain is the fairness index of R. Jain (1984): 1 if all got the same, 1/n if one
// got all.
func jain(each []uint64) float64 {
	var sum, squares float64
	for _, n := range each {
		x := float64(n)
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(each)) * squares)
}

const pausedFlows = 50

// paused measures what a download keeps beside fifty that nobody reads.
func (b *bench) paused(ctx context.Context) error {
	c, err := b.openCrossing(ctx, b.group)
	if err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	for _, w := range c.tunnels() {
		var alone, beside []float64
		for range min(b.rounds, 3) {
			j := w.job
			j.Op, j.Lasts, j.Within = "busy", b.length, b.length
			y, err := doJob(ctx, c.load, j)
			if err != nil && !errors.Is(err, errNothing) {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			c.did(w, "down", y.Bytes)
			mbits := func(y yield) float64 { return float64(y.Bytes) * 8 / 1e6 / j.Lasts.Seconds() }
			alone = append(alone, mbits(y))
			held := w.job
			held.Op, held.Paused, held.Flows, held.Lasts, held.Within = "hold", true, pausedFlows, b.length, b.length
			// A tunnel that stands still is a result.
			if _, err = doJob(ctx, c.neighbor, held); ctx.Err() != nil {
				return err
			}
			if y, err = doJob(ctx, c.load, j); ctx.Err() != nil {
				return err
			}
			c.did(w, "down", y.Bytes)
			beside = append(beside, mbits(y))
			held.Op = "release"
			if err := c.neighbor.ask(ctx, held, &y, 0); err != nil {
				return err
			}
			if !wait(ctx, rest) {
				return context.Cause(ctx)
			}
		}
		row := Paused{Way: w.name, Flows: pausedFlows, Alone: median(alone), Beside: median(beside)}
		if row.Alone > 0 {
			row.Ratio = row.Beside / row.Alone
		}
		b.report.Paused = append(b.report.Paused, row)
	}
	return c.close(ctx)
}
