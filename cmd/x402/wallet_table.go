package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
)

// print writes what the wallet has as a table, and the newest events of its
// history as another.
func (s shown) print(w io.Writer, events int) error {
	rows := [][2]string{{"address", s.Address.String()}, {"file", s.File}}
	switch {
	case s.Blind:
		rows = append(rows, [2]string{"note", "x402 is running with these channels, and does not answer: only it knows what it has signed, and which channels have paid for HTTP"})
	case s.InUse:
		rows = append(rows, [2]string{"note", "x402 is running with these channels, and says how they are"})
	}
	for _, text := range s.faults() {
		rows = append(rows, [2]string{"note", text})
	}
	if len(s.Channels) == 0 {
		rows = append(rows, [2]string{"channels", "none"})
	}
	if err := printRows(w, rows); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(s.Networks) > 0 || len(s.Accounts) > 0 {
		s.table(t)
	}
	if n := min(events, len(s.History)); n > 0 {
		if err := t.Flush(); err != nil {
			return err
		}
		t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\nTIME\tNETWORK\tCHANNEL\tEVENT\tUSD\tUNITS")
		for _, e := range s.History[len(s.History)-n:] {
			line(t, eventCells(e)...)
		}
		if more := len(s.History) - n; more > 0 {
			fmt.Fprintf(t, "and %d before: --history %d shows them\n", more, len(s.History))
		}
	}
	return t.Flush()
}

// faults are why something is not shown as it is now, each once.
func (s shown) faults() []string {
	var all []string
	for _, a := range s.Accounts {
		if a.Error != "" {
			all = append(all, plain(printable(a.Error)))
		}
	}
	for _, c := range s.Channels {
		if c.Error != "" {
			all = append(all, plain(printable(c.Error)))
		}
	}
	return unique(all)
}

func line(w io.Writer, cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }

// table writes each network's accounts, channels and sum, and the sum of all.
func (s shown) table(w io.Writer) {
	fmt.Fprintln(w, "\nNETWORK\tCHANNEL\tWITH\tDEPOSITED\tSIGNED\tCLAIMED\tESCROW\tLEFT\tUNITS\tSTATE")
	names := make([]string, 0, len(s.Networks)+1)
	for _, n := range s.Networks {
		names = append(names, n.Network)
	}
	for _, network := range unique(append(names, "")) { // last who does not say which
		for _, a := range s.Accounts {
			if a.Network == network {
				line(w, accountCells(a)...)
				if a.Earned > 0 && !a.Same {
					line(w, network, "earned", printable(a.Facilitator), "-", "-", a.Earned.USD(), "-", a.Unsettled.USD(), a.Unsettled.String(), earnedState(a))
				}
			}
		}
		for _, c := range s.Channels {
			if c.Network == network {
				line(w, channelCells(c)...)
			}
		}
		if i := slices.Index(names, network); i >= 0 {
			line(w, sumCells(network, s.Networks[i].sums)...)
		}
	}
	line(w, sumCells("all", s.Total)...)
}

func accountCells(a shownAccount) []string {
	network, usd, units, state := a.Network, "?", "?", "-"
	if network == "" {
		network = "?"
	}
	switch {
	case errors.Is(a.err, facilitator.ErrUnavailable):
		state = "unreachable"
	case a.err != nil:
		state = "not known"
	default:
		usd, units = a.Balance.USD(), a.Balance.String()
	}
	if a.Same && a.err == nil {
		state = "the same account"
	}
	return []string{network, "account", printable(a.Facilitator), "-", "-", "-", "-", usd, units, state}
}

// earnedState says what is to become of what was earned.
func earnedState(a shownAccount) string {
	if a.Unsettled > 0 {
		return "not settled yet"
	}
	return "settled to the account"
}

func channelCells(c shownChannel) []string {
	state := "-"
	switch {
	case c.Error != "":
		state = "as known last"
	case c.WithdrawAt != 0:
		state = "withdrawing " + c.Withdrawing.USD() + " from " + clock(c.WithdrawAt)
	}
	with := c.Agent.String()
	if c.Relay != "" {
		with = "relay " + printable(c.Relay)
	}
	if c.Resource != "" {
		with = printable(c.Resource)
	}
	left, units := "?", "?"
	if c.Left != nil {
		left, units = c.Left.USD(), c.Left.String()
	}
	return []string{c.Network, c.Channel.String()[:10], with, c.Deposited.USD(), usdOr(c.Signed), c.Claimed.USD(), c.Escrow.USD(), left, units, state}
}

func sumCells(network string, x sums) []string {
	state := "-"
	if x.AtLeast {
		state = "as far as known"
	}
	return []string{network, "total", "-", x.Deposited.USD(), usdOr(x.Signed), x.Claimed.USD(), x.Escrow.USD(), x.USD, x.Total.String(), state}
}

// usdOr is an amount that may not be known.
func usdOr(a *channel.Amount) string {
	if a == nil {
		return "?"
	}
	return a.USD()
}

func eventCells(e buyer.Event) []string {
	at, what, usd, units := clock(e.Time), string(e.What), e.Amount.USD(), e.Amount.String()
	if e.Before {
		at = "before " + at
	}
	if e.What == buyer.Withdrawal {
		what, usd, units = "withdrawal until "+clock(e.Until), "-", "-"
	}
	return []string{at, e.Network, e.Channel.String()[:10], what, usd, units}
}
