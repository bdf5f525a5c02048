package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

const (
	// oneWay is half of the round trip that first bytes are measured on.
	oneWay = 20 * time.Millisecond
	// warmTries is how many warm first bytes there are in a round.
	warmTries = 5
)

// A coming is one way of coming to an agent whose first bytes are measured.
type coming struct {
	way    string
	forget func() error                                             // before it begins; nil: nothing
	start  func(ctx context.Context) (p *process, j job, err error) // until its proxy listens
	// of each round, in milliseconds; started is what there was of cold until then
	cold, started, warm []float64
}

// latency measures the time to the first byte on a path of 40 ms: of a new
// flow through a tunnel that stands, and from the start of the buyer's process.
// The market's first buyer opens the channel; those that are measured find it
// funded, as one who comes back does. Of ours one has forgotten the last
// session, and one comes back by its ticket.
func (b *bench) latency(ctx context.Context) error {
	m, err := b.openMarket(ctx, "latency", b.agent)
	if err != nil {
		return err
	}
	_, bareAddr, err := b.startBareAgent(ctx, m.ready.Target)
	if err != nil {
		return err
	}
	loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return err
	}
	ours, err := b.startDelay(ctx, m.listen)
	if err != nil {
		return err
	}
	bare, err := b.startDelay(ctx, bareAddr)
	if err != nil {
		return err
	}
	buy := func(ctx context.Context) (*process, job, error) {
		p, socks, err := m.buy(ctx, ours, true)
		return p, job{Dial: m.ready.Target, SOCKS: socks}, err
	}
	all := []*coming{
		{way: wayOurs, forget: func() error { return os.RemoveAll(m.tickets()) }, start: buy},
		{way: wayEarly, start: buy},
		{way: wayBare, start: func(ctx context.Context) (*process, job, error) {
			p, forward, err := b.startBareBuyer(ctx, bare)
			return p, job{Dial: forward}, err
		}},
	}
	for round := range b.rounds + 1 { // the first opens the channel
		for _, c := range all {
			if err := c.come(ctx, loader, round > 0); err != nil {
				return fmt.Errorf("%s: %w", c.way, err)
			}
		}
	}
	for _, c := range all {
		b.report.Latencies = append(b.report.Latencies, Latency{c.way, median(c.warm), median(c.cold), median(c.started)})
	}
	return nil
}

// come measures once.
func (c *coming) come(ctx context.Context, loader *process, counts bool) error {
	if c.forget != nil {
		if err := c.forget(); err != nil {
			return err
		}
	}
	began := time.Now()
	p, j, err := c.start(ctx)
	if err != nil {
		return err
	}
	started := milliseconds(time.Since(began))
	cold, warm, err := firstBytes(ctx, loader, began, j)
	if err != nil {
		return err
	}
	var kept struct {
		Resumed bool `json:"resumed"`
	}
	var last any // the bare buyer says nothing at the end
	if c.way != wayBare {
		last = &kept
	}
	if err := p.stop(last); err != nil {
		return err
	}
	if kept.Resumed != (c.way == wayEarly) {
		return fmt.Errorf("came back by a ticket: %t", kept.Resumed)
	}
	if counts {
		c.cold, c.started, c.warm = append(c.cold, cold), append(c.started, started), append(c.warm, warm...)
	}
	return nil
}

// firstBytes has the load fetch first bytes and returns, in milliseconds, when
// the first came after began, and how long each of the others took.
func firstBytes(ctx context.Context, loader *process, began time.Time, j job) (cold float64, warm []float64, err error) {
	j.Op = "first"
	y, err := doJob(ctx, loader, j)
	if err != nil {
		return 0, nil, err
	}
	cold = milliseconds(y.At.Sub(began))
	j.Repeat = warmTries
	if y, err = doJob(ctx, loader, j); err != nil {
		return 0, nil, err
	}
	return cold, mapped(y.First, milliseconds), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// startDelay starts a path to an agent with a delay and returns its near end.
func (b *bench) startDelay(ctx context.Context, to string) (string, error) {
	p, err := b.startRole(ctx, buyerSide, "delay", delaySettings{"127.0.0.1:0", to, oneWay})
	if err != nil {
		return "", err
	}
	var ready bareReady
	err = p.answer(ctx, &ready, answerTime)
	return ready.Addr, err
}
