package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/channel"
)

// table prints the report for people.
func (r Report) table(w io.Writer) error {
	t := &tableWriter{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	sim := r.SIM
	t.title("What the SIM said")
	t.row("modem", sim.Modem)
	t.row("network", fmt.Sprintf("%s, MCC %s, MNC %s, %s", sim.Operator, sim.MCC, sim.MNC, sim.Technology))
	t.row("IMSI", sim.IMSI+": it never leaves the agent")

	t.title("What was counted", "buyer", "agent", "")
	t.row("bytes up", count(r.Buyer.BytesUp), count(r.Agent.BytesUp), same(r.Buyer.BytesUp, r.Agent.BytesUp))
	t.row("bytes down", count(r.Buyer.BytesDown), count(r.Agent.BytesDown), same(r.Buyer.BytesDown, r.Agent.BytesDown))

	t.title("What it cost, in USD (in millionths)", "buyer", "agent", "")
	t.row("owed", money(r.Buyer.Owed), money(r.Agent.Owed), same(r.Buyer.Owed, r.Agent.Owed))
	t.row("signed", money(r.Buyer.Signed), money(r.Agent.Paid), same(r.Buyer.Signed, r.Agent.Paid))
	t.row("claimed", money(r.Buyer.Claimed), money(r.Agent.Claimed), same(r.Buyer.Claimed, r.Agent.Claimed))

	l := r.Ledger
	t.title("What the ledger holds", "before", "after", "difference")
	t.row("payer", money(l.PayerBefore), money(l.PayerAfter), difference(l.PayerBefore, l.PayerAfter))
	t.row("receiver", money(l.ReceiverBefore), money(l.ReceiverAfter), difference(l.ReceiverBefore, l.ReceiverAfter))
	t.row("fee, 0.001% of what is settled", money(0), money(l.Fee), difference(0, l.Fee))
	t.row("escrow", money(0), money(l.Escrow), difference(0, l.Escrow))

	t.title("How it went")
	t.row("file", fmt.Sprintf("%s bytes in %.1f s, %.0f Mbit/s with the crash", count(uint64(r.Transfer.Bytes)), r.Transfer.Seconds, r.Transfer.Mbps))
	t.row("UDP", fmt.Sprintf("%d datagrams there and back, %d of them sent again", r.UDP.Echoed, r.UDP.SentAgain))
	t.row("crash", fmt.Sprintf("SIGKILL of the agent, %.1f s until it sold again; %d sessions", r.Crash.Seconds, r.Agent.Sessions))
	if len(r.Faults) == 0 {
		t.title("Everything adds up to the unit: owed = signed = claimed, the payer paid it, the receiver got it less the fee.")
	}
	return t.Flush()
}

// A tableWriter aligns what is between two titles.
type tableWriter struct{ *tabwriter.Writer }

func (t *tableWriter) title(cells ...string) { fmt.Fprintf(t, "\n%s\n", strings.Join(cells, "\t")) }
func (t *tableWriter) row(cells ...string)   { fmt.Fprintf(t, "  %s\n", strings.Join(cells, "\t")) }

// money is an amount in USD and atomic units.
func money(units uint64) string {
	return fmt.Sprintf("%s (%s)", channel.Amount(units).USD(), count(units))
}

// difference is what an account gained or lost.
func difference(before, after uint64) string {
	switch {
	case after > before:
		return "+" + money(after-before)
	case after < before:
		return "-" + money(before-after)
	}
	return "0"
}

func same(a, b uint64) string {
	if a == b {
		return "equal"
	}
	return "DIFFERENT"
}

// count is a number with its thousands apart.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
