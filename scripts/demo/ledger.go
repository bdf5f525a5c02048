package demo

import (
	"context"
	"fmt"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
)

// A bank is the facilitator, for those who want to look into its ledger.
type bank struct {
	prog    *program
	client  *facilitator.Client
	url     string
	network string // its CAIP-2 name
	token   channel.Token
}

// openBank asks the facilitator p at url for its network and asset.
func openBank(ctx context.Context, p *program, url string) (*bank, error) {
	c, err := nethttp.New(nethttp.Config{URL: url})
	if err != nil {
		return nil, err
	}
	s, err := c.Supported(ctx)
	if err != nil {
		return nil, err
	}
	networks := s.Networks()
	if len(networks) != 1 {
		return nil, fmt.Errorf("the facilitator settles on %d networks, want one", len(networks))
	}
	t, err := s.Token(networks[0])
	return &bank{prog: p, client: c, url: url, network: networks[0], token: t}, err
}

// before reads the accounts into the report's left column.
func (b *bank) before(ctx context.Context, l *Ledger, payer, receiver channel.Address) error {
	p, err := b.client.Balance(ctx, b.network, payer)
	if err != nil {
		return err
	}
	r, err := b.client.Balance(ctx, b.network, receiver)
	if err != nil {
		return err
	}
	l.Network = b.network
	l.PayerBefore, l.ReceiverBefore = uint64(p.Balance), uint64(r.Balance)
	return nil
}

// after reads them into its right column.
func (b *bank) after(ctx context.Context, l *Ledger, payer, receiver channel.Address) error {
	p, err := b.client.Balance(ctx, b.network, payer)
	if err != nil {
		return err
	}
	r, err := b.client.Balance(ctx, b.network, receiver)
	if err != nil {
		return err
	}
	l.PayerAfter, l.ReceiverAfter = uint64(p.Balance), uint64(r.Balance)
	l.Fee, l.Unsettled = uint64(r.Fee), uint64(r.Unsettled)
	return nil
}

// totalsAfter reads what else has to be zero on a whole ledger.
func (b *bank) totalsAfter(ctx context.Context, l *Ledger) error {
	t, err := b.client.Totals(ctx, b.network)
	l.Escrow, l.Unsettled = uint64(t.Escrow), uint64(t.Unsettled)
	return err
}

// chainAfter reads what is left in the demo's own channel, since nobody knows a
// whole chain's.
func (b *bank) chainAfter(ctx context.Context, l *Ledger, id channel.ID) error {
	c, err := b.client.Channel(ctx, b.network, id)
	l.Escrow = uint64(c.Balance - c.TotalClaimed)
	return err
}
