package main

import (
	"context"
	"time"

	"github.com/depinsim/x402/agent/seller"
)

// servingRate is how fast the flash group's buyer downloads, in bytes a
// second: 50 Mbit/s, what a good cellular link carries.
const servingRate = 50_000_000 / 8

// flash measures what the agent writes while it serves at that rate.
func (b *bench) flash(ctx context.Context) error {
	m, err := b.openMarket(ctx, "flash", b.agent)
	if err != nil {
		return err
	}
	_, socks, err := m.buy(ctx, "", false)
	if err != nil {
		return err
	}
	loader, err := b.startRole(ctx, buyerSide, "load", struct{}{})
	if err != nil {
		return err
	}
	j := job{Op: "down", Dial: m.ready.Target, SOCKS: socks, Rate: servingRate}
	j.Lasts = b.length // the channel is opened and the credit grown meanwhile
	if _, err := doJob(ctx, loader, j); err != nil {
		return err
	}
	before, err := m.status(ctx)
	if err != nil {
		return err
	}
	j.Lasts = time.Duration(b.rounds) * b.length
	y, err := doJob(ctx, loader, j)
	if err != nil {
		return err
	}
	after, err := m.status(ctx)
	if err != nil {
		return err
	}
	after.FlashWrites.Syncs -= before.FlashWrites.Syncs
	after.FlashWrites.Bytes -= before.FlashWrites.Bytes
	b.report.Serving = flashOf(after, y.Took)
	b.report.Serving.Mbits = float64(y.Bytes) * 8 / 1e6 / y.Took.Seconds()
	return nil
}

// flashOf is what was written in a time, by the minute.
func flashOf(s seller.Status, in time.Duration) *Flash {
	minutes := in.Minutes()
	if minutes <= 0 {
		return &Flash{}
	}
	return &Flash{SyncsMinute: float64(s.FlashWrites.Syncs) / minutes, BytesMinute: float64(s.FlashWrites.Bytes) / minutes}
}
