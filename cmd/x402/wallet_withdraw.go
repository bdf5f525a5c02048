package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strings"

	"github.com/depinsim/x402/agent/buyer"
)

func walletWithdraw(ctx context.Context, args []string, stdout, _ io.Writer) (err error) {
	var p places
	fs := newFlags("wallet withdraw")
	p.walletFlags(fs)
	p.stateFlag(fs)
	match := fs.String("channel", "", "")
	url := fs.String("facilitator", "", "")
	rpc := fs.String("rpc", "", "")
	maxGas := fs.String("max-gas", "0.005", "")
	if done, err := parse(fs, withdrawHelp, args, stdout); done {
		return err
	}
	if err := channelFlag(*match); err != nil {
		return err
	}
	node, err := nodeOf(*rpc, *maxGas)
	if err != nil {
		return err
	}
	c, err := p.openCupboard(*url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	c.node = node
	named := *match != ""
	if !named {
		*match = "all"
	}
	drawers, err := c.drawers(ctx, *match)
	if err != nil {
		return err
	}
	if !named {
		if drawers, err = obvious(drawers); err != nil {
			return err
		}
	}
	done := 0
	for i := range drawers {
		d := &drawers[i]
		if d.err == nil && d.WithdrawAt == 0 && d.Left() == 0 {
			continue
		}
		done++
		if d.err == nil {
			d.err = c.withdraw(ctx, *d, stdout)
		}
	}
	if done == 0 {
		_, err := fmt.Fprintln(stdout, "nothing to withdraw: what is in the channels is signed away")
		return err
	}
	return failures(drawers)
}

// ether is a number of whole coins, down to one wei.
var ether = regexp.MustCompile(`^([0-9]{1,9})(?:\.([0-9]{1,18}))?$`)

// nodeOf reads --rpc and --max-gas: a chain's node, or nil, and how many coins a
// transaction may cost.
func nodeOf(rpc, most string) (*buyer.Node, error) {
	m := ether.FindStringSubmatch(most)
	if m == nil {
		return nil, usage("--max-gas: %.40q, want a number of ether such as 0.005", most)
	}
	wei, _ := new(big.Int).SetString(m[1]+m[2]+strings.Repeat("0", 18-len(m[2])), 10)
	if path, ok := strings.CutPrefix(rpc, "@"); ok {
		var err error
		if rpc, err = readSecret(path); err != nil {
			return nil, usage("--rpc: %w", err)
		}
	}
	if rpc == "" {
		return nil, nil
	}
	node, err := buyer.NewNode(rpc, wei)
	if err != nil {
		return nil, usage("--rpc: %w", err)
	}
	return node, nil
}

// obvious are the channels that a withdrawal without --channel is about: those
// where one was begun. It begins none, since that locks the channel for a day.
func obvious(drawers []drawer) ([]drawer, error) {
	var begun, full []drawer
	for _, d := range drawers {
		switch {
		case d.WithdrawAt != 0:
			begun = append(begun, d)
		case d.err != nil || d.Left() > 0:
			full = append(full, d)
		}
	}
	if len(begun) > 0 {
		return begun, nil
	}
	if len(full) > 0 {
		return nil, withHint(usage("to begin a withdrawal, name a channel with --channel, or all: %d have something left", len(full)),
			"an agent that answers gives it back at once: x402 wallet refund")
	}
	return nil, nil
}

// withdraw takes the next step with one channel.
func (c *cupboard) withdraw(ctx context.Context, d drawer, stdout io.Writer) error {
	h := d.Holding
	if h.WithdrawAt != 0 && !h.Due() {
		_, err := fmt.Fprintf(stdout, "channel %s: %s USD can be withdrawn from %s, in %s\n", d.short(), h.Withdrawing.USD(), clock(h.WithdrawAt), duration(h.WithdrawAt-h.Now))
		return err
	}
	if err := c.unlock(); err != nil {
		return err
	}
	x, err := c.holdings(d)
	if err != nil {
		return err
	}
	if h.WithdrawAt == 0 {
		if h, err = x.Begin(ctx, h); err != nil {
			return err
		}
		_, err = io.WriteString(stdout, c.given.echo(fmt.Sprintf("channel %s: the withdrawal of %s USD was begun; finish it with x402 wallet withdraw from %s, in %s\n",
			d.short(), h.Withdrawing.USD(), clock(h.WithdrawAt), duration(h.WithdrawAt-min(h.WithdrawAt, h.Now)))))
		return err
	}
	before := h.State.Balance
	if h, err = x.Finish(ctx, h); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "channel %s: withdrew %s USD\n", d.short(), (before - min(before, h.State.Balance)).USD())
	return err
}
