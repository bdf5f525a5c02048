package main

import (
	"context"
	"fmt"
)

// idle measures what flows cost in memory that do nothing: each has got a byte
// and waits.
func (b *bench) idle(ctx context.Context) error {
	counts := []int{0, b.idleFlows}
	samples := map[string][][2]float64{} // by way, in turn without and with flows
	var names []string
	for round := range min(b.rounds, 3) {
		c, err := b.openCrossing(ctx, fmt.Sprintf("%s-%d", b.group, round))
		if err != nil {
			return err
		}
		if err := c.open(ctx); err != nil {
			return err
		}
		names = nil
		for _, w := range c.tunnels() {
			names = append(names, w.name)
			for _, flows := range counts {
				if flows > 0 {
					j := w.job
					j.Op, j.Flows = "hold", flows
					y, err := doJob(ctx, c.neighbor, j)
					if err != nil || y.Moved < flows {
						return fmt.Errorf("%s: %d of %d flows stand: %w", w.name, y.Moved, flows, err)
					}
				}
				var mib [2]float64
				for i, p := range []*process{w.buyer, w.agent} {
					n, err := p.rss()
					if err != nil {
						return err
					}
					mib[i] = mebibytes(n)
				}
				samples[w.name] = append(samples[w.name], mib)
			}
		}
		b.endAll()
	}
	for _, name := range names {
		for k, flows := range counts {
			var buyer, agent []float64
			for i := k; i < len(samples[name]); i += len(counts) {
				buyer, agent = append(buyer, samples[name][i][0]), append(agent, samples[name][i][1])
			}
			b.report.Idle = append(b.report.Idle, Idle{name, flows, median(buyer), median(agent)})
		}
	}
	return nil
}

const (
	datagramRate = 20_000
	wayUDP       = "plain UDP"
)

// datagrams measures UDP flows of small packets: how many are lost, and what each
// costs.
func (b *bench) datagrams(ctx context.Context) error {
	c, err := b.openCrossing(ctx, b.group)
	if err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	for _, direction := range []string{"down", "up"} {
		// Plain UDP shows what the bench itself loses.
		for _, w := range append(c.tunnels(), way{name: wayUDP}) {
			if w.job.SOCKS == "" && w.buyer != nil {
				continue // no UDP
			}
			row := Datagrams{Direction: direction, Way: w.name}
			var loss, buyer, agent []float64
			for range min(b.rounds, 3) {
				cpu, err := cpuOf(w.buyer, w.agent)
				if err != nil {
					return err
				}
				j := job{Op: "datagrams-" + direction, SOCKS: w.job.SOCKS, Dial: c.m.ready.UDP, Rate: datagramRate, Lasts: b.length}
				y, err := doJob(ctx, c.load, j)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", w.name, direction, err)
				}
				after, err := cpuOf(w.buyer, w.agent)
				if err != nil {
					return err
				}
				c.did(w, direction, y.Bytes)
				n := float64(y.Sent)
				loss = append(loss, 100*float64(y.Lost)/n)
				buyer, agent = append(buyer, float64((after[0]-cpu[0]).Microseconds())/n), append(agent, float64((after[1]-cpu[1]).Microseconds())/n)
			}
			row.Loss, row.BuyerMicros, row.AgentMicros = median(loss), median(buyer), median(agent)
			b.report.Datagrams = append(b.report.Datagrams, row)
		}
	}
	return c.close(ctx)
}
