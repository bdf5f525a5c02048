package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/scripts/netlab"
)

// The ways of the relay group.
const (
	wayDirectly = "ours, directly"
	wayRelay    = "ours, by a relay"
	wayToll     = "ours, by a relay that charges"
)

// toll is what the relay that charges asks for a GB: what relay.toml has for an
// example.
const toll = 200_000

// A passage is one of these ways, with a market of its own: a payer has one
// session with an agent at a time.
type passage struct {
	name     string
	toll     channel.Amount
	m        *market
	relay    *process // nil: none
	purchase *process
	job      job
	moved    map[string]uint64
	samples  map[string][]passed // by direction
}

// A passed is one transfer by a passage.
type passed struct {
	mbits      float64
	cpu, agent float64 // CPU-seconds per GB of relay and agent
	mib        float64 // the relay's RSS
}

// relay measures one flow at a time by a relay, beside the same flow directly: as
// fast as the machine lets it, and on a link that is slower than that.
func (b *bench) relay(ctx context.Context) error {
	if err := b.compareRelays(ctx, "no limit", b.length); err != nil {
		return err
	}
	if err := netlab.Missing(); err != nil {
		b.report.Left = append(b.report.Left, fmt.Sprintf("%s, on an emulated link: %v", b.group, err))
		return nil
	}
	b.endAll()
	return b.linked(ctx, func(ctx context.Context) error {
		shape := netlab.Shape{Rate: 200_000_000, Delay: oneWay / 2, Queue: 100 * time.Millisecond}
		b.lab.link.Set(shape, shape)
		return b.compareRelays(ctx, "200 Mbit/s, 20 ms", b.linkLength())
	})
}

// compareRelays takes all passages in both directions once a round, in an order
// that differs, and reports them.
func (b *bench) compareRelays(ctx context.Context, link string, length time.Duration) error {
	loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return err
	}
	passages := []*passage{{name: wayDirectly}, {name: wayRelay}, {name: wayToll, toll: toll}}
	for i, p := range passages {
		if err := p.open(ctx, b, fmt.Sprintf("%s-%d-%d", b.group, len(b.report.Relays), i)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	directions := []string{"down", "up"}
	order := rand.New(rand.NewPCG(4, 2544))
	for round := range b.rounds + 1 { // the first warms up
		for _, i := range order.Perm(len(passages) * len(directions)) {
			p, direction := passages[i/2], directions[i%2]
			j := p.job
			j.Op, j.Lasts = direction, length
			var x passed
			unsteady := &b.report.RelaysUnsteady
			if round == 0 {
				unsteady = new(int)
			}
			err := b.steady(unsteady, func() (err error) {
				x, err = p.take(ctx, loader, j)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s, %s, %s: %w", link, p.name, direction, err)
			}
			if round > 0 {
				p.samples[direction] = append(p.samples[direction], x)
			}
		}
	}
	for _, direction := range directions {
		for _, p := range passages {
			row := summariseRelay(p.samples[direction], passages[0].samples[direction], passages[1].samples[direction])
			row.Link, row.Direction, row.Way, row.Toll = link, direction, p.name, p.toll
			if p.toll == 0 {
				row.FreeRatio = 0
			}
			b.report.Relays = append(b.report.Relays, row)
		}
	}
	for _, p := range passages {
		if err := p.close(ctx); err != nil {
			return fmt.Errorf("%s, %s: %w", link, p.name, err)
		}
	}
	return nil
}

// open starts all that the passage needs, and returns when its tunnel stands.
func (p *passage) open(ctx context.Context, b *bench, name string) (err error) {
	p.moved, p.samples = map[string]uint64{}, map[string][]passed{}
	if p.m, err = b.newMarket(ctx, name); err != nil {
		return err
	}
	listen := fmt.Sprintf("listen = %q\n", net.JoinHostPort(b.lab.addr[agentSide], "0"))
	if p.name != wayDirectly {
		var relay string
		if p.relay, relay, err = p.m.startRelay(ctx, p.toll); err != nil {
			return err
		}
		listen += fmt.Sprintf("relays = [%q]\n", relay) // no endpoints: there is no other way
	}
	if err := p.m.sell(ctx, b.agent, listen); err != nil {
		return err
	}
	var socks string
	p.purchase, socks, err = p.m.buyBy(ctx, buyerSettings{Relayed: p.relay != nil})
	p.job = job{Dial: p.m.ready.Target, SOCKS: socks}
	return err
}

// take does one transfer.
func (p *passage) take(ctx context.Context, loader *process, j job) (x passed, err error) {
	before, err := cpuOf(p.relay, p.m.agent)
	if err != nil {
		return x, err
	}
	y, err := doJob(ctx, loader, j)
	p.moved[j.Op] += y.Bytes
	if err != nil {
		return x, err
	}
	after, err := cpuOf(p.relay, p.m.agent)
	if err != nil {
		return x, err
	}
	x.mbits = float64(y.Bytes) * 8 / 1e6 / y.Took.Seconds()
	gb := float64(y.Bytes) / 1e9
	x.cpu, x.agent = (after[0]-before[0]).Seconds()/gb, (after[1]-before[1]).Seconds()/gb
	if p.relay != nil {
		n, err := p.relay.rss()
		if err != nil {
			return x, err
		}
		x.mib = mebibytes(n)
	}
	return x, nil
}

// close ends the passage in order, and checks that all that it moved was counted
// by both sides alike, and paid: to the agent, and to the relay that charges.
func (p *passage) close(ctx context.Context) error {
	var r buyer.Result
	if err := p.purchase.stop(&r); err != nil {
		return err
	}
	status, err := p.m.status(ctx)
	if err != nil {
		return err
	}
	if err := agree(r, status.Earnings, p.moved); err != nil {
		return err
	}
	if err := agreeRelay(r, p.toll > 0); err != nil {
		return err
	}
	if err := p.m.agent.stop(nil); err != nil || p.relay == nil {
		return err
	}
	return p.relay.stop(nil)
}

// agreeRelay is an error unless the relay that charges was paid for all that the
// agent was paid for, and that alone. What it passes on is packets, so it is more
// than what they carry.
func agreeRelay(r buyer.Result, charges bool) error {
	if !charges {
		if len(r.Relays) > 0 {
			return fmt.Errorf("%d relays were paid, none charges", len(r.Relays))
		}
		return nil
	}
	if len(r.Relays) != 1 {
		return fmt.Errorf("%d relays were paid, one charges", len(r.Relays))
	}
	switch x := r.Relays[0]; {
	case x.Down < r.Down || x.Up < r.Up:
		return fmt.Errorf("the relay is paid for %d bytes down and %d up, %d and %d came through it", x.Down, x.Up, r.Down, r.Up)
	case x.Owed == 0 || x.Signed < x.Owed || x.Claimed != x.Owed: // some may be signed in advance
		return fmt.Errorf("the relay: %s owed, %s signed, %s claimed", x.Owed, x.Signed, x.Claimed)
	}
	return nil
}

// summariseRelay reduces the samples of one passage in one direction to medians.
// Ratios are taken round by round, since the machine's speed drifts.
func summariseRelay(samples, direct, free []passed) Relay {
	mbits := mapped(samples, func(x passed) float64 { return x.mbits })
	ratio := func(base []passed) float64 {
		var ratios []float64
		for i, x := range base {
			ratios = append(ratios, mbits[i]/x.mbits)
		}
		return median(ratios)
	}
	return Relay{
		Mbits: median(mbits), MbitsLow: slices.Min(mbits), MbitsHigh: slices.Max(mbits),
		Ratio: ratio(direct), FreeRatio: ratio(free),
		CPU:      median(mapped(samples, func(x passed) float64 { return x.cpu })),
		AgentCPU: median(mapped(samples, func(x passed) float64 { return x.agent })),
		MiB:      slices.Max(mapped(samples, func(x passed) float64 { return x.mib })),
	}
}
