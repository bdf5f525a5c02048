package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
)

// shown is what wallet show prints with --json.
type shown struct {
	Address  channel.Address `json:"address"`
	File     string          `json:"file"`
	InUse    bool            `json:"inUse,omitempty"` // by another x402, which alone knows what was signed
	Accounts []shownAccount  `json:"accounts"`
	Channels []shownChannel  `json:"channels"`
}

type shownAccount struct {
	Network     string         `json:"network"`
	Facilitator string         `json:"facilitator"`
	Balance     channel.Amount `json:"balance"`
}

type shownChannel struct {
	Channel     channel.ID      `json:"channel"`
	Agent       channel.Address `json:"agent"`              // or the relay's key
	Relay       string          `json:"relay,omitempty"`    // that the channel is with
	Resource    string          `json:"resource,omitempty"` // that it paid for by HTTP
	Network     string          `json:"network"`
	Facilitator string          `json:"facilitator,omitempty"`
	Deposited   channel.Amount  `json:"deposited"`        // less what came back
	Signed      *channel.Amount `json:"signed,omitempty"` // nil: only the x402 that uses it knows
	Claimed     channel.Amount  `json:"claimed"`
	Left        *channel.Amount `json:"left,omitempty"` // likewise
	Withdrawing channel.Amount  `json:"withdrawing"`
	WithdrawAt  uint64          `json:"withdrawAt,omitempty"` // Unix seconds
	Error       string          `json:"error,omitempty"`      // why this is what was known last
}

func walletShow(ctx context.Context, args []string, stdout, _ io.Writer) (err error) {
	var p places
	fs := newFlags("wallet show")
	fs.StringVar(&p.wallet, "wallet", "", "")
	p.stateFlag(fs)
	url := fs.String("facilitator", "", "")
	asJSON := fs.Bool("json", false, "")
	if done, err := parse(fs, showHelp, args, stdout); done {
		return err
	}
	c, err := p.openToLook(*url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	drawers, err := c.drawers(ctx, "all")
	if err != nil {
		return err
	}
	accounts, accountErr := c.accounts(ctx, drawers)
	out := shown{Address: c.wallet.Address(), File: c.places.wallet, InUse: c.inUse, Accounts: accounts, Channels: channelsOf(drawers, !c.inUse)}
	print := out.print
	if *asJSON {
		print = out.printJSON
	}
	if accountErr == nil { // else the same is wrong with the channels
		accountErr = failures(drawers)
	}
	return errors.Join(accountErr, print(stdout))
}

// accounts asks each facilitator that is known what is in the wallet's account.
func (c *cupboard) accounts(ctx context.Context, drawers []drawer) ([]shownAccount, error) {
	accounts := []shownAccount{}
	var errs []error
	seen, down := map[[2]string]bool{}, map[string]bool{}
	ask := func(url, network string) {
		if url == "" || down[url] || seen[[2]string{url, network}] {
			return
		}
		seen[[2]string{url, network}] = true
		fac, err := c.client(url)
		if err == nil {
			var info x402.AccountInfo
			if info, err = fac.Balance(ctx, network, c.wallet.Address()); err == nil {
				accounts = append(accounts, shownAccount{network, url, info.Balance})
			}
		}
		errs = append(errs, err)
	}
	urls, err := c.facilitators().All()
	errs = append(errs, err)
	if c.extra != "" && !slices.Contains(urls, c.extra) {
		urls = append(urls, c.extra)
	}
	for _, url := range urls {
		fac, err := c.client(url)
		var s x402.Supported
		if err == nil {
			s, err = fac.Supported(ctx)
		}
		if err != nil {
			errs = append(errs, err)
			down[url] = true
		}
		for _, network := range s.Networks() {
			ask(url, network)
		}
	}
	for _, d := range drawers {
		ask(d.url, channel.NetworkName(d.State.Domain.ChainID))
	}
	return accounts, errors.Join(errs...)
}

// channelsOf are the drawers as they are shown; whole says whether what was
// signed is known.
func channelsOf(drawers []drawer, whole bool) []shownChannel {
	out := []shownChannel{}
	for _, d := range drawers {
		s := d.State
		row := shownChannel{
			Channel: s.ID, Agent: s.Config.ReceiverAuthorizer, Relay: d.relay, Resource: d.resource.URL, Network: channel.NetworkName(s.Domain.ChainID), Facilitator: d.url,
			Deposited: s.Balance, Claimed: s.Claimed, Withdrawing: d.Withdrawing, WithdrawAt: d.WithdrawAt,
		}
		if left := d.Left(); whole {
			row.Signed, row.Left = &s.Max, &left
		}
		if d.err != nil {
			row.Error = d.err.Error()
		}
		out = append(out, row)
	}
	return out
}

func (s shown) printJSON(w io.Writer) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

func (s shown) print(w io.Writer) error {
	rows := [][2]string{{"address", s.Address.String()}, {"file", s.File}}
	for _, a := range s.Accounts {
		rows = append(rows, [2]string{"account", fmt.Sprintf("%s USD on %s, kept by %s", a.Balance.USD(), a.Network, a.Facilitator)})
	}
	if s.InUse {
		rows = append(rows, [2]string{"note", "x402 is running with these channels: only it knows what it has signed"})
	}
	if len(s.Channels) == 0 {
		return printRows(w, append(rows, [2]string{"channels", "none"}))
	}
	if err := printRows(w, rows); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nCHANNEL\tAGENT\tDEPOSITED\tSIGNED\tCLAIMED\tLEFT\tWITHDRAWAL")
	for _, c := range s.Channels {
		withdrawal := "-"
		switch {
		case c.Error != "":
			withdrawal = "as known last"
		case c.WithdrawAt != 0:
			withdrawal = c.Withdrawing.USD() + " from " + clock(c.WithdrawAt)
		}
		signed, left := "?", "?"
		if c.Signed != nil {
			signed, left = c.Signed.USD(), c.Left.USD()
		}
		with := c.Agent.String()
		if c.Relay != "" {
			with = "relay " + c.Relay
		}
		if c.Resource != "" {
			with = printable(c.Resource)
		}
		fmt.Fprintln(t, strings.Join([]string{
			c.Channel.String()[:10], with, c.Deposited.USD(), signed, c.Claimed.USD(), left, withdrawal,
		}, "\t"))
	}
	return t.Flush()
}

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
