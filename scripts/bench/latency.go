package main

import (
	"context"
	"time"
)

const (
	// oneWay is half of the round trip that first bytes are measured on.
	oneWay = 20 * time.Millisecond
	// warmTries is how many warm first bytes there are in a round.
	warmTries = 5
)

// latency measures the time to the first byte on a path of 40 ms: of a new
// flow through a tunnel that stands, and from the start of the buyer's process.
// The market's first buyer opens the channel; those that are measured find it
// funded, as one who comes back does.
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
	var oursCold, oursWarm, bareCold, bareWarm []float64
	for round := range b.rounds + 1 { // the first opens the channel
		began := time.Now()
		p, socks, err := m.buy(ctx, ours, true)
		if err != nil {
			return err
		}
		cold, warm, err := firstBytes(ctx, loader, began, job{Dial: m.ready.Target, SOCKS: socks})
		if err != nil {
			return err
		}
		var kept struct{}
		if err := p.stop(&kept); err != nil {
			return err
		}
		if round > 0 {
			oursCold, oursWarm = append(oursCold, cold), append(oursWarm, warm...)
		}

		began = time.Now()
		p, forward, err := b.startBareBuyer(ctx, bare)
		if err != nil {
			return err
		}
		if cold, warm, err = firstBytes(ctx, loader, began, job{Dial: forward}); err != nil {
			return err
		}
		if err := p.stop(nil); err != nil {
			return err
		}
		if round > 0 {
			bareCold, bareWarm = append(bareCold, cold), append(bareWarm, warm...)
		}
	}
	b.report.Latencies = []Latency{
		{wayOurs, median(oursWarm), median(oursCold)}, {wayBare, median(bareWarm), median(bareCold)},
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
