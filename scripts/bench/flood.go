package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/scripts/netlab"
)

// floodRate is the honest buyer's link: so slow that the machine's processors do
// not decide what he keeps.
const floodRate = 20_000_000

// A flood is one kind of hostile traffic, and by which way the honest buyer goes
// meanwhile.
type flood struct {
	kind    string
	name    string
	relayed bool
}

func floods() []flood {
	return []flood{
		{"datagrams", "forged datagrams at the agent's port", false},
		{"handshakes", "half-open handshakes at the agent", false},
		{"loris", "buyers at the agent who say nothing, and send what they may", false},
		{"datagrams", "forged datagrams at the agent's port", true},
		{"sessions", "session requests at the relay that nobody comes to", true},
		{"relay", "half-open handshakes at the relay", true},
	}
}

// flood measures what a download keeps of its rate while others do their worst,
// next door to agent and relay: what they send does not take the buyer's link.
func (b *bench) flood(ctx context.Context) error {
	host := b.lab.addr[agentSide]
	m, err := b.newMarket(ctx, b.group)
	if err != nil {
		return err
	}
	at, name, err := m.startRelay(ctx, 0)
	if err != nil {
		return err
	}
	port, err := b.lab.freePort(agentSide, "udp")
	if err != nil {
		return err
	}
	listen := net.JoinHostPort(host, fmt.Sprint(port))
	if err := m.sell(ctx, b.agent, fmt.Sprintf("listen = %q\nlisten_tcp = %q\nendpoints = [%q]\nkcp = true\nrelays = [%q]\n", listen, listen, listen, name)); err != nil {
		return err
	}
	shape := netlab.Shape{Rate: floodRate, Delay: oneWay, Queue: 100 * time.Millisecond}
	b.lab.link.Set(shape, shape)
	load, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return err
	}
	evil, err := b.startRole(ctx, agentSide, "flood", floodSettings{Agent: listen, Relay: name, Offer: m.offer})
	if err != nil {
		return err
	}
	for _, relayed := range []bool{false, true} {
		if err := m.beside(ctx, load, evil, at, relayed); err != nil {
			return err
		}
	}
	return nil
}

// beside has one buyer download alone and beside each flood, in turn.
func (m *market) beside(ctx context.Context, load, evil, relay *process, relayed bool) error {
	p, socks, err := m.buyBy(ctx, buyerSettings{Keep: true, Relayed: relayed})
	if err != nil {
		return err
	}
	b := m.b
	j := job{Op: "busy", Dial: m.ready.Target, SOCKS: socks, Skip: b.length, Lasts: b.linkLength()}
	once := func() (float64, error) {
		y, err := doJob(ctx, load, j)
		if errors.Is(err, errNothing) { // which a flood may come to
			err = nil
		}
		return float64(y.Bytes) * 8 / 1e6 / j.Lasts.Seconds(), err
	}
	if _, err := once(); err != nil { // until the tunnel stands, at its rate
		return err
	}
	var rows []Flood
	attempts, seconds := map[string]int{}, map[string]float64{}
	alone, with, ratios := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for range b.rounds {
		rows = rows[:0]
		for _, f := range floods() {
			if f.relayed != relayed {
				continue
			}
			quiet, err := once()
			if err != nil {
				return err
			}
			row, loud, err := m.under(ctx, evil, f, once)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			alone[f.kind], with[f.kind] = append(alone[f.kind], quiet), append(with[f.kind], loud)
			if quiet > 0 {
				ratios[f.kind] = append(ratios[f.kind], loud/quiet)
			}
			for i, p := range []*process{m.agent, relay} {
				n, err := p.rss()
				if err != nil {
					return err
				}
				*[]*float64{&row.AgentMiB, &row.RelayMiB}[i] = mebibytes(n)
			}
			attempts[f.kind] += row.Attempts
			seconds[f.kind] += row.Seconds
			rows = append(rows, row)
			if !wait(ctx, rest) {
				return context.Cause(ctx)
			}
		}
	}
	for _, row := range rows {
		row.Alone, row.Beside, row.Ratio = median(alone[row.Kind]), median(with[row.Kind]), median(ratios[row.Kind])
		row.Attempts, row.Seconds = attempts[row.Kind], seconds[row.Kind]
		b.report.Floods = append(b.report.Floods, row)
	}
	var r buyer.Result
	return p.stop(&r)
}

// under downloads while a flood lasts.
func (m *market) under(ctx context.Context, evil *process, f flood, once func() (float64, error)) (Flood, float64, error) {
	b := m.b
	order := floodOrder{Kind: f.kind, Lasts: 2*b.length + b.linkLength() + time.Second}
	var done flooded
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() { failed = evil.ask(ctx, order, &done, order.Lasts) })
	wait(ctx, b.length/2)
	mbits, err := once()
	wg.Wait()
	if failed == nil && (done.Error != "" || done.Attempts == 0) {
		failed = fmt.Errorf("the flood: %d attempts %s", done.Attempts, done.Error)
	}
	way := "directly"
	if f.relayed {
		way = "by a relay"
	}
	return Flood{Kind: f.kind, Case: f.name, Way: way, Attempts: done.Attempts, Seconds: done.Took.Seconds()}, mbits, errors.Join(err, failed)
}
