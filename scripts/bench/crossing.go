package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/agent/buyer"
)

// The kernel's TCP, by congestion control.
const (
	wayCubic = "direct TCP cubic"
	wayBBR   = "direct TCP bbr"
)

// A crossing is all ways between the sides of a lab at once: ours, the bare
// relay, the kernel's TCP and the peers.
type crossing struct {
	b        *bench
	m        *market
	bareAt   string // address of the bare agent
	bare     *process
	peers    []*peerRun
	load     *process
	neighbor *process // a load, too
	purchase *process // once ways are open
	ways     []way
	moved    map[string]uint64 // bytes by ours
}

// openCrossing starts what is on the agent's side, and the loads.
func (b *bench) openCrossing(ctx context.Context, name string) (*crossing, error) {
	c := &crossing{b: b, moved: map[string]uint64{}}
	var err error
	if c.m, err = b.openMarket(ctx, name, b.agent); err != nil {
		return nil, err
	}
	if c.bare, c.bareAt, err = b.startBareAgent(ctx, c.m.ready.Target); err != nil {
		return nil, err
	}
	for _, p := range b.peers {
		r, err := b.startPeer(ctx, p, c.m.ready.Target)
		if err != nil {
			return nil, err
		}
		c.peers = append(c.peers, r)
	}
	for _, to := range []**process{&c.load, &c.neighbor} {
		if *to, err = b.startRole(ctx, buyerSide, "load", struct{}{}); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// open starts what is on the buyer's side.
func (c *crossing) open(ctx context.Context) error {
	var socks string
	var err error
	if c.purchase, socks, err = c.m.buy(ctx, "", false); err != nil {
		return err
	}
	c.ways = []way{{wayOurs, job{Dial: c.m.ready.Target, SOCKS: socks}, c.purchase, c.m.agent}}
	p, forward, err := c.b.startBareBuyer(ctx, c.bareAt)
	if err != nil {
		return err
	}
	c.ways = append(c.ways, way{wayBare, job{Dial: forward}, p, c.bare})
	for _, r := range c.peers {
		p, j, err := r.client(ctx)
		if err != nil {
			return err
		}
		c.ways = append(c.ways, way{r.name, j, p, r.server})
	}
	for _, w := range c.ways { // until the tunnels stand
		j := w.job
		j.Op = "first"
		if _, err := doJob(ctx, c.load, j); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	for i, name := range []string{wayCubic, wayBBR} {
		if at := c.m.ready.Direct[i]; at != "" { // else the kernel cannot
			c.ways = append(c.ways, way{name: name, job: job{Dial: at, Control: []string{"cubic", "bbr"}[i]}})
		}
	}
	return nil
}

// tunnels are the ways that are none of the kernel's.
func (c *crossing) tunnels() []way {
	return slices.DeleteFunc(slices.Clone(c.ways), func(w way) bool { return w.buyer == nil })
}

// way is the one with that name, nil if there is none.
func (c *crossing) way(name string) *way {
	for i := range c.ways {
		if c.ways[i].name == name {
			return &c.ways[i]
		}
	}
	return nil
}

// close ends ours in order, and checks that all that it moved was counted and
// paid. The group's end kills the rest.
func (c *crossing) close(ctx context.Context) error {
	if k := c.b.lab.link; k != nil {
		k.Set(mobile(0), mobile(0))
	}
	var r buyer.Result
	if err := c.purchase.stop(&r); err != nil {
		return err
	}
	status, err := c.m.status(ctx)
	if err != nil {
		return err
	}
	return agree(r, status.Earnings, c.moved)
}

// did notes what ours has moved.
func (c *crossing) did(w way, direction string, bytes uint64) {
	if w.name == wayOurs {
		c.moved[direction] += bytes
	}
}

// both has the loads do a job each, at once. The second may fail by itself.
func (c *crossing) both(ctx context.Context, first, second job) (y [2]yield, errs [2]error) {
	var wg sync.WaitGroup
	wg.Go(func() { y[1], errs[1] = doJob(ctx, c.neighbor, second) })
	y[0], errs[0] = doJob(ctx, c.load, first)
	wg.Wait()
	return y, errs
}

// rest is how long nothing is done between two samples, so that what the first
// left in queues is gone.
const rest = 400 * time.Millisecond

// setUp measures first bytes of new connections, without loss: of tunnels that
// stand, and from the start of the buyer's process. It is for a crossing that is
// not open.
func (c *crossing) setUp(ctx context.Context) error {
	k := c.b.lab.link
	k.Set(mobile(0), mobile(0))
	cold, warm := map[string][]float64{}, map[string][]float64{}
	note := func(round int, name string, first float64, others []float64) {
		if round > 0 { // the first opens the channel
			cold[name], warm[name] = append(cold[name], first), append(warm[name], others...)
		}
	}
	for round := range c.b.rounds + 1 {
		began := time.Now()
		p, socks, err := c.m.buy(ctx, "", true)
		if err != nil {
			return err
		}
		first, others, err := firstBytes(ctx, c.load, began, job{Dial: c.m.ready.Target, SOCKS: socks})
		if err != nil {
			return err
		}
		var kept struct{}
		if err := p.stop(&kept); err != nil {
			return err
		}
		note(round, wayOurs, first, others)

		began = time.Now()
		p, forward, err := c.b.startBareBuyer(ctx, c.bareAt)
		if err != nil {
			return err
		}
		if first, others, err = firstBytes(ctx, c.load, began, job{Dial: forward}); err != nil {
			return err
		}
		if err := p.stop(nil); err != nil {
			return err
		}
		note(round, wayBare, first, others)

		for _, r := range c.peers {
			began = time.Now()
			p, j, err := r.client(ctx)
			if err != nil {
				return err
			}
			if first, others, err = firstBytes(ctx, c.load, began, j); err != nil {
				return errors.Join(err, fmt.Errorf("%s: %s", r.name, p.lastWords()))
			}
			p.kill()
			<-p.done
			note(round, r.name, first, others)
		}
		first, others, err = firstBytes(ctx, c.load, time.Now(), job{Dial: c.m.ready.Target})
		if err != nil {
			return err
		}
		note(round, wayDirect, first, others)
	}
	for _, name := range slices.Sorted(maps.Keys(cold)) {
		c.b.report.SetUp = append(c.b.report.SetUp, Latency{Way: name, Warm: median(warm[name]), Cold: median(cold[name])})
	}
	return nil
}
