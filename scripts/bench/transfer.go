package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
)

// The ways a flow can take.
const (
	wayOurs   = "ours"
	wayEarly  = "ours, by a ticket" // back within one round trip
	wayBare   = "bare QUIC relay"
	wayDirect = "direct TCP"
)

// A way is one of them, ready to be used.
type way struct {
	name         string
	job          job      // how to connect
	buyer, agent *process // whose processor time counts; nil: nobody's
}

// A sample is one transfer by one way.
type sample struct {
	mbits        float64 // goodput, Mbit/s
	buyer, agent float64 // CPU-seconds per GB
}

// transfer measures one flow at a time, down and up, by all ways in turn.
func (b *bench) transfer(ctx context.Context) error {
	m, err := b.openMarket(ctx, "transfer", b.agent)
	if err != nil {
		return err
	}
	purchase, socks, err := m.buy(ctx, "", false)
	if err != nil {
		return err
	}
	bareAgent, addr, err := b.startBareAgent(ctx, m.ready.Target)
	if err != nil {
		return err
	}
	bareBuyer, forward, err := b.startBareBuyer(ctx, addr)
	if err != nil {
		return err
	}
	loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return err
	}
	ways := []way{
		{wayOurs, job{Dial: m.ready.Target, SOCKS: socks}, purchase, m.agent},
		{wayBare, job{Dial: forward}, bareBuyer, bareAgent},
		{wayDirect, job{Dial: m.ready.Target}, nil, nil},
	}
	moved, err := b.interleave(ctx, loader, ways)
	if err != nil {
		return err
	}
	var r buyer.Result
	if err := purchase.stop(&r); err != nil {
		return err
	}
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	if err := agree(r, status.Earnings, moved); err != nil {
		return err
	}
	b.report.Paid = &Paid{BytesDown: r.Down, BytesUp: r.Up, Signed: r.Signed, Claimed: r.Claimed}
	b.report.FullSpeed = flashOf(status, time.Duration(status.Uptime)*time.Second)
	return errors.Join(m.agent.stop(nil), bareBuyer.stop(nil), bareAgent.stop(nil))
}

// agree is an error unless all that was moved was counted, by both sides alike,
// and paid: what is measured must be the whole work.
func agree(r buyer.Result, e seller.Earnings, moved map[string]uint64) error {
	switch {
	case r.Down < moved["down"] || r.Up < moved["up"]:
		return fmt.Errorf("%d bytes down and %d up came through, %d and %d were counted", moved["down"], moved["up"], r.Down, r.Up)
	case e.Down != r.Down || e.Up != r.Up:
		return fmt.Errorf("the buyer counted %d bytes down and %d up, the agent %d and %d", r.Down, r.Up, e.Down, e.Up)
	case r.Signed != r.Owed || r.Claimed != r.Owed || e.Paid != r.Owed:
		return fmt.Errorf("%s owed, %s signed, %s claimed, %s paid", r.Owed, r.Signed, r.Claimed, e.Paid)
	}
	return nil
}

// startBareAgent starts the bare relay's far end and returns its address.
func (b *bench) startBareAgent(ctx context.Context, target string) (*process, string, error) {
	p, err := b.startRole(ctx, agentSide, "bare-agent",
		bareSettings{net.JoinHostPort(b.lab.addr[agentSide], "0"), target, b.profile("bare-agent")})
	if err != nil {
		return nil, "", err
	}
	var ready bareReady
	err = p.answer(ctx, &ready, answerTime)
	return p, ready.Addr, err
}

// startBareBuyer starts its near end and returns the address of its forward to
// the target.
func (b *bench) startBareBuyer(ctx context.Context, agent string) (*process, string, error) {
	p, err := b.startRole(ctx, buyerSide, "bare-buyer", bareSettings{"127.0.0.1:0", agent, b.profile("bare-buyer")})
	if err != nil {
		return nil, "", err
	}
	var ready bareReady
	err = p.answer(ctx, &ready, answerTime)
	return p, ready.Addr, err
}

// interleave takes all ways in both directions once a round, in an order that
// differs, and reports them. It returns the bytes moved by ours.
func (b *bench) interleave(ctx context.Context, loader *process, ways []way) (moved map[string]uint64, err error) {
	directions := []string{"down", "up"}
	samples := map[string]map[string][]sample{}
	for _, d := range directions {
		samples[d] = map[string][]sample{}
	}
	moved = map[string]uint64{}
	order := rand.New(rand.NewPCG(1, 2544))
	for round := range b.rounds + 1 { // the first warms up
		for _, i := range order.Perm(len(ways) * len(directions)) {
			w, direction := ways[i/2], directions[i%2]
			s, bytes, err := b.sample(ctx, loader, w, direction)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", w.name, direction, err)
			}
			if w.name == wayOurs {
				moved[direction] += bytes
			}
			if round > 0 {
				samples[direction][w.name] = append(samples[direction][w.name], s)
			}
		}
	}
	for _, d := range directions {
		for _, w := range ways {
			b.report.Transfers = append(b.report.Transfers, summarise(d, w.name, samples[d][w.name], samples[d][wayBare]))
		}
	}
	return moved, nil
}

func (b *bench) sample(ctx context.Context, loader *process, w way, direction string) (sample, uint64, error) {
	before, err := cpuOf(w.buyer, w.agent)
	if err != nil {
		return sample{}, 0, err
	}
	j := w.job
	j.Op, j.Lasts = direction, b.length
	y, err := doJob(ctx, loader, j)
	if err != nil {
		return sample{}, 0, err
	}
	after, err := cpuOf(w.buyer, w.agent)
	if err != nil {
		return sample{}, 0, err
	}
	gb := float64(y.Bytes) / 1e9
	return sample{
		mbits: float64(y.Bytes) * 8 / 1e6 / y.Took.Seconds(),
		buyer: (after[0] - before[0]).Seconds() / gb,
		agent: (after[1] - before[1]).Seconds() / gb,
	}, y.Bytes, nil
}

var errNothing = errors.New("nothing arrived")

// doJob has the load do j.
func doJob(ctx context.Context, loader *process, j job) (y yield, err error) {
	if err := loader.ask(ctx, j, &y, j.Lasts); err != nil {
		return y, err
	}
	if y.Error != "" {
		return y, errors.New(y.Error)
	}
	if y.Bytes == 0 && j.Op != "first" {
		return y, errNothing
	}
	return y, nil
}

// cpuOf is the processor time of both processes.
func cpuOf(procs ...*process) (times [2]time.Duration, err error) {
	for i, p := range procs {
		if p == nil {
			continue
		}
		if times[i], err = p.cpu(); err != nil {
			return times, err
		}
	}
	return times, nil
}

// summarise reduces the samples of one way to medians. Ratios are taken round
// by round, since the machine's speed drifts.
func summarise(direction, name string, samples, bare []sample) Transfer {
	pick := func(f func(sample) float64) float64 { return median(mapped(samples, f)) }
	ratio := func(f func(sample) float64) float64 {
		var ratios []float64
		for i := range samples {
			if base := f(bare[i]); base > 0 {
				ratios = append(ratios, f(samples[i])/base)
			}
		}
		return median(ratios)
	}
	mbits, buyer, agent := func(s sample) float64 { return s.mbits }, func(s sample) float64 { return s.buyer }, func(s sample) float64 { return s.agent }
	rates := mapped(samples, mbits)
	return Transfer{
		Direction: direction, Way: name,
		Mbits: pick(mbits), MbitsLow: slices.Min(rates), MbitsHigh: slices.Max(rates),
		BuyerCPU: pick(buyer), AgentCPU: pick(agent),
		Ratio: ratio(mbits), BuyerRatio: ratio(buyer), AgentRatio: ratio(agent),
	}
}

func mapped[T any](list []T, f func(T) float64) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}

// median is the middle of list, 0 of none.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	if n := len(list); n%2 == 0 {
		return (list[n/2-1] + list[n/2]) / 2
	}
	return list[len(list)/2]
}
