package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
)

func walletFund(ctx context.Context, args []string, stdout, _ io.Writer) error {
	var p places
	fs := newFlags("wallet fund")
	fs.StringVar(&p.wallet, "wallet", "", "")
	url := fs.String("facilitator", "", "")
	dev := fs.String("dev", "", "")
	if done, err := parse(fs, fundHelp, args, stdout); done {
		return err
	}
	if err := p.resolve(); err != nil {
		return err
	}
	if *dev != "" && *url == "" {
		return usage("--dev: --facilitator says whose faucet is meant")
	}
	w, err := buyer.LoadWallet(p.wallet)
	if err != nil {
		return err
	}
	if *url == "" {
		return printRows(stdout, [][2]string{
			{"address", w.Address().String()},
			{"how", "pay to this address on the network that the agent's offer names:"},
			{"", "x402 connect prints it, and " + p.given.echo("x402 wallet fund") + " --facilitator URL"},
		})
	}
	fac, err := nethttp.New(nethttp.Config{URL: *url})
	if err != nil {
		return usage("--facilitator: %w", err)
	}
	rows := [][2]string{{"address", w.Address().String()}}
	if *dev != "" {
		amount, err := faucet(ctx, fac, w.Address(), *dev)
		if err != nil {
			return err
		}
		rows = append(rows, [2]string{"faucet", "gave " + amount.USD() + " USD, for trials: they are worth nothing elsewhere"})
	}
	if rows, err = fundHow(ctx, fac, w.Address(), rows); err != nil {
		return err
	}
	if err := p.facilitators().Add(*url); err != nil { // for wallet show
		return err
	}
	if *dev != "" {
		rows = append(rows, [2]string{"next", p.given.echo("x402 connect --agent HOST:PORT --budget USD --max-price USD")})
	} else {
		rows = append(rows, howRows(w.Address())...)
	}
	return printRows(stdout, rows)
}

// faucet takes credit of a facilitator in development mode.
func faucet(ctx context.Context, fac *facilitator.Client, to channel.Address, amount string) (channel.Amount, error) {
	r := x402.FaucetRequest{Address: to}
	var err error
	if r.Amount, err = usd("dev", amount); err != nil {
		return 0, err
	}
	rand.Read(r.Ref[:]) // never fails (Go 1.24)
	_, err = fac.Faucet(ctx, r)
	if _, refused := errors.AsType[*facilitator.RefusedError](err); refused {
		return 0, withHint(fmt.Errorf("faucet: %w", err), "only a facilitator that runs with --dev has one")
	}
	return r.Amount, err
}

// fundHow adds to rows what the facilitator settles on and what is there.
func fundHow(ctx context.Context, fac *facilitator.Client, a channel.Address, rows [][2]string) ([][2]string, error) {
	s, err := fac.Supported(ctx)
	if err != nil {
		return nil, err
	}
	for _, network := range s.Networks() {
		token, err := s.Token(network)
		if err != nil {
			return nil, err
		}
		info, err := fac.Balance(ctx, network, a)
		if err != nil {
			return nil, err
		}
		rows = append(rows,
			[2]string{"network", fmt.Sprintf("%s, %q %s", network, token.Name, token.Address)},
			[2]string{"account", info.Balance.USD() + " USD"})
	}
	return rows, nil
}

// howRows say how to pay.
func howRows(a channel.Address) [][2]string {
	return [][2]string{
		{"how", "pay this asset to the address; a ledger of the facilitator's own has"},
		{"", "its operator take your money and then give you credit, by"},
		{"", "x402-facilitator issue --dir DIR --to " + a.String() + " --amount USD"},
	}
}
