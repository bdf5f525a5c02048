package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

// closeTime bounds how long one agent may take to claim and refund.
const closeTime = 3 * time.Minute

func walletRefund(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var p places
	fs := newFlags("wallet refund")
	p.walletFlags(fs)
	p.stateFlag(fs)
	var f reachFlags
	f.add(fs)
	match := fs.String("channel", "all", "")
	timeout := fs.Duration("timeout", 10*time.Second, "")
	level := slog.LevelError
	fs.TextVar(&level, "log-level", level, "")
	if done, err := parse(fs, refundHelp, args, stdout); done {
		return err
	}
	if *timeout <= 0 {
		return usage("--timeout: %v, want more than 0", *timeout)
	}
	if err := channelFlag(*match); err != nil {
		return err
	}
	c, err := p.openCupboard("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	reach, err := f.reach(c.places, stderr)
	if err != nil {
		return err
	}
	drawers, err := c.drawers(ctx, *match)
	if err != nil {
		return err
	}
	// Relays last: an agent may be reached by one, and is paid to be.
	slices.SortStableFunc(drawers, func(a, b drawer) int { return cmp.Compare(min(len(a.relay), 1), min(len(b.relay), 1)) })
	r := refunder{c, map[channel.ID]bool{}, reach, stdout, *timeout, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))}
	done := 0
	for i := range drawers {
		d := &drawers[i]
		if d.err == nil && d.State.Balance == d.State.Claimed || r.closed[d.State.ID] {
			continue // nothing in it
		}
		done++
		if d.err == nil {
			d.err = r.refund(ctx, *d)
		}
	}
	if done == 0 {
		_, err := fmt.Fprintln(stdout, "nothing to refund: no deposit is in a channel")
		return err
	}
	return failures(drawers)
}

// A refunder has agents close channels.
type refunder struct {
	*cupboard
	closed  map[channel.ID]bool // with relays by which an agent was reached: it closed them too
	ways    buyer.ReachConfig
	stdout  io.Writer
	timeout time.Duration
	log     *slog.Logger
}

// refund has one channel closed.
func (r refunder) refund(ctx context.Context, d drawer) error {
	if d.WithdrawAt != 0 {
		return withHint(fmt.Errorf("a withdrawal of %s USD is under way and can be finished from %s", d.Withdrawing.USD(), clock(d.WithdrawAt)),
			"x402 wallet withdraw finishes it then")
	}
	if d.relay != "" {
		return r.refundRelay(ctx, d)
	}
	if d.resource.URL != "" {
		return r.refundResource(ctx, d)
	}
	offer, err := r.reach(ctx, d.offer)
	if err != nil {
		return withHint(fmt.Errorf("the agent cannot be reached: %w", err),
			"try again later, or take the rest back without it after %s: x402 wallet withdraw --channel %s", duration(d.State.Config.WithdrawDelay), d.short())
	}
	if err := r.unlock(); err != nil {
		return err
	}
	rctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	tolls, err := r.tollConfig(r.wallet, nil)
	if err != nil {
		return err
	}
	result, err := buyer.Run(rctx, buyer.Config{Key: r.key, Store: r.store, Offer: offer, Salt: d.State.Config.Salt, CloseOnly: true, Reach: r.ways, Tolls: tolls, Receipts: r.places.receipts(), Logger: r.log})
	if err != nil {
		return err
	}
	for _, x := range result.Relays {
		if x.Refunded > 0 {
			r.closed[x.Channel] = true
			fmt.Fprintf(r.stdout, "channel %.10s: claimed %s USD, refunded %s USD\n", x.Channel, x.Claimed.USD(), x.Refunded.USD())
		}
	}
	_, err = fmt.Fprintf(r.stdout, "channel %s: claimed %s USD, refunded %s USD\n", d.short(), result.Claimed.USD(), result.Refunded.USD())
	return err
}

// refundRelay has a relay close its channel.
func (r refunder) refundRelay(ctx context.Context, d drawer) error {
	if err := r.unlock(); err != nil {
		return err
	}
	result, err := buyer.RefundRelay(ctx, buyer.Config{Key: r.key, Store: r.store, Offer: d.offer, Logger: r.log})
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return withHint(err, "try again later, or take the rest back without the relay after %s: x402 wallet withdraw --channel %s", duration(d.State.Config.WithdrawDelay), d.short())
	}
	_, err = fmt.Fprintf(r.stdout, "channel %s: claimed %s USD, refunded %s USD\n", d.short(), result.Claimed.USD(), result.Refunded.USD())
	return err
}

// reach asks the agent where the offer says it is for its present offer, and
// returns the channel's own with what may have changed since.
func (r refunder) reach(ctx context.Context, o agent.Offer) (agent.Offer, error) {
	fctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	fresh, err := buyer.RefreshOffer(fctx, o, r.ways)
	if ctx.Err() != nil {
		return o, errInterrupted
	}
	if buyer.Unpaid(err) { // by a relay that charges the agent is not asked for nothing
		return o, nil
	}
	if err == nil {
		o.Endpoints, o.Relays, o.TunnelKey, o.Price = union(o.Endpoints, fresh.Endpoints), union(fresh.Relays, o.Relays), fresh.TunnelKey, fresh.Price
	}
	return o, err
}

// union is a, then what only b has.
func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
