package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
)

// shown is what wallet show prints with --json: one account over all networks.
type shown struct {
	Address  channel.Address `json:"address"`
	File     string          `json:"file"`
	InUse    bool            `json:"inUse,omitempty"` // by another x402
	Blind    bool            `json:"blind,omitempty"` // which alone knows what was signed, and does not answer
	Total    sums            `json:"total"`
	Networks []shownNetwork  `json:"networks"`
	Accounts []shownAccount  `json:"accounts"`
	Channels []shownChannel  `json:"channels"`
	History  []buyer.Event   `json:"history"` // oldest first
}

type shownNetwork struct {
	Network string `json:"network"`
	sums
}

type shownAccount struct {
	Network     string          `json:"network"` // empty: the facilitator did not say
	Facilitator string          `json:"facilitator"`
	Balance     *channel.Amount `json:"balance,omitempty"` // nil: not known
	// Earned is what was ever claimed for the address, by all agents and relays that
	// are paid at it, and Unsettled the part that is not in the account yet.
	Earned    channel.Amount `json:"earned,omitzero"`
	Unsettled channel.Amount `json:"unsettled,omitzero"`
	Same      bool           `json:"same,omitempty"`  // as the one before of the network: another facilitator's word
	Error     string         `json:"error,omitempty"` // why it is not known

	err error
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
	Escrow      channel.Amount  `json:"escrow"`         // what is in it
	Left        *channel.Amount `json:"left,omitempty"` // the wallet's part of that; nil as above
	Withdrawing channel.Amount  `json:"withdrawing"`
	WithdrawAt  uint64          `json:"withdrawAt,omitempty"` // Unix seconds
	Error       string          `json:"error,omitempty"`      // why this is what was known last
}

// sums are those of all accounts and channels of a network, or of all networks.
type sums struct {
	Account   channel.Amount  `json:"account"`
	Deposited channel.Amount  `json:"deposited"`
	Signed    *channel.Amount `json:"signed,omitempty"` // nil: not known of a channel
	Claimed   channel.Amount  `json:"claimed"`
	Escrow    channel.Amount  `json:"escrow"`
	Unsettled channel.Amount  `json:"unsettled"` // claimed for the wallet
	Total     channel.Amount  `json:"total"`     // the wallet's: its accounts, what is left in channels, and Unsettled
	USD       string          `json:"usd"`       // Total
	// AtLeast says that there may be more or less: an account or a channel is not
	// known as it is now.
	AtLeast bool `json:"incomplete,omitempty"`
}

func walletShow(ctx context.Context, args []string, stdout, _ io.Writer) (err error) {
	var p places
	fs := newFlags("wallet show")
	fs.StringVar(&p.wallet, "wallet", "", "")
	p.stateFlag(fs)
	url := fs.String("facilitator", "", "")
	network := fs.String("network", "", "")
	events := fs.Int("history", 20, "")
	asJSON := fs.Bool("json", false, "")
	if done, err := parse(fs, showHelp, args, stdout); done {
		return err
	}
	if _, err := channel.ParseNetwork(*network); *network != "" && err != nil {
		return usage("--network: %w, such as eip155:8453", err)
	}
	if *events < 0 {
		return usage("--history: %d, want how many lines", *events)
	}
	c, err := p.openToLook(ctx, *url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	out, err := c.all(ctx, *network)
	if *asJSON {
		return errors.Join(err, out.printJSON(stdout))
	}
	return errors.Join(err, out.print(stdout, *events))
}

// all is all that the wallet has on a network, or on all if that is empty. A
// facilitator that does not answer is no error: what is not known is marked.
func (c *cupboard) all(ctx context.Context, network string) (shown, error) {
	drawers := slices.DeleteFunc(c.labels("all"), func(d drawer) bool { return network != "" && d.network() != network })
	out := shown{Address: c.wallet.Address(), File: c.places.wallet, InUse: c.inUse, Blind: c.blind}
	var err error
	out.Accounts, err = c.accounts(ctx, drawers, network)
	for _, a := range out.Accounts {
		err = errors.Join(err, unlessDown(a.err))
	}
	c.lookInto(ctx, drawers)
	out.Channels = channelsOf(drawers, !c.blind)
	if err == nil { // else the same is wrong with the channels
		for i := range drawers {
			drawers[i].err = unlessDown(drawers[i].err)
		}
		err = failures(drawers)
	}
	events, historyErr := c.history().Events(out.Address)
	out.History = slices.DeleteFunc(events, func(e buyer.Event) bool { return network != "" && e.Network != network })
	out.add()
	if ctx.Err() != nil {
		return out, errInterrupted
	}
	return out, errors.Join(err, historyErr)
}

// unlessDown is err, unless that says that a facilitator does not answer.
func unlessDown(err error) error {
	if errors.Is(err, facilitator.ErrUnavailable) {
		return nil
	}
	return err
}

// channelsOf are the drawers as they are shown; whole says whether what was
// signed is known.
func channelsOf(drawers []drawer, whole bool) []shownChannel {
	out := []shownChannel{}
	for _, d := range drawers {
		s := d.State
		row := shownChannel{
			Channel: s.ID, Agent: s.Config.ReceiverAuthorizer, Relay: d.relay, Resource: d.resource.URL, Network: d.network(), Facilitator: d.url,
			Deposited: s.Balance, Claimed: s.Claimed, Escrow: s.Balance - min(s.Balance, s.Claimed), Withdrawing: d.Withdrawing, WithdrawAt: d.WithdrawAt,
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

// add adds up each network and all of them.
func (s *shown) add() {
	s.Networks = []shownNetwork{}
	of := func(network string) *sums {
		i := slices.IndexFunc(s.Networks, func(n shownNetwork) bool { return n.Network == network })
		if i < 0 {
			i = len(s.Networks)
			s.Networks = append(s.Networks, shownNetwork{network, sums{Signed: new(channel.Amount)}})
		}
		return &s.Networks[i].sums
	}
	s.Total.Signed = new(channel.Amount)
	for _, a := range s.Accounts {
		switch {
		case a.Network == "":
			s.Total.AtLeast = true
		case !a.Same:
			of(a.Network).account(a)
		}
	}
	for _, c := range s.Channels {
		of(c.Network).channel(c)
	}
	for i := range s.Networks {
		n := &s.Networks[i].sums
		n.USD = n.Total.USD()
		s.Total.more(*n)
	}
	s.Total.USD = s.Total.Total.USD()
}

func (x *sums) account(a shownAccount) {
	if a.Balance == nil {
		x.AtLeast = true
		return
	}
	x.more(sums{Account: *a.Balance, Total: *a.Balance, Signed: new(channel.Amount)})
	x.more(sums{Unsettled: a.Unsettled, Total: a.Unsettled, Signed: new(channel.Amount)})
}

func (x *sums) channel(c shownChannel) {
	m := sums{Deposited: c.Deposited, Signed: c.Signed, Claimed: c.Claimed, Escrow: c.Escrow, AtLeast: c.Left == nil || c.Error != ""}
	if c.Left != nil {
		m.Total = *c.Left
	}
	x.more(m)
}

// more adds o to x. A sum that would overflow, which no ledger holds, stays.
func (x *sums) more(o sums) {
	x.AtLeast = x.AtLeast || o.AtLeast
	plus := func(to *channel.Amount, a channel.Amount) {
		sum, err := to.Add(a)
		if err != nil {
			x.AtLeast = true
			return
		}
		*to = sum
	}
	plus(&x.Account, o.Account)
	plus(&x.Deposited, o.Deposited)
	plus(&x.Claimed, o.Claimed)
	plus(&x.Escrow, o.Escrow)
	plus(&x.Unsettled, o.Unsettled)
	plus(&x.Total, o.Total)
	if x.Signed == nil || o.Signed == nil {
		x.Signed = nil
		return
	}
	plus(x.Signed, *o.Signed)
}

func (s shown) printJSON(w io.Writer) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}
