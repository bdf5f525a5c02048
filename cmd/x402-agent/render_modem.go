package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/depinsim/x402/agent/seller"
)

func renderAirplane(st seller.AirplaneStatus) string {
	switch {
	case !st.On:
		return "the radio is on"
	case st.Left > 0:
		return "the radio is off for " + ago(st.Left) + " more, and nothing is sold"
	}
	return "the radio is off, and nothing is sold: x402-agent modem airplane off"
}

// The signal's history is drawn in so many columns of equal time, by eight
// heights.
const signalColumns = 60

var heights = [8]string{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}

// renderSignals draws the signal from the oldest sample to now, each column its
// mean, and says how strong it was on each technology.
func renderSignals(all []seller.SignalSample) string {
	if len(all) == 0 {
		return "the modem was not read yet\n"
	}
	span := max(all[0].Age, signalColumns) + 1
	var sums, counts [signalColumns]int
	low, high := 0, 0
	for _, x := range all {
		d := cmp.Or(x.Signal.RSRP, x.Signal.RSCP, x.Signal.RSSI)
		if d == 0 || x.Age < 0 || x.Age >= span {
			continue
		}
		at := signalColumns - 1 - int(x.Age*signalColumns/span)
		sums[at] += d
		counts[at]++
		if low == 0 || d < low {
			low = d
		}
		if high == 0 || d > high {
			high = d
		}
	}
	var drawn strings.Builder
	for i, n := range counts {
		if n == 0 {
			drawn.WriteByte(' ')
			continue
		}
		drawn.WriteString(heights[(sums[i]/n-low)*(len(heights)-1)/max(high-low, 1)])
	}
	var b strings.Builder
	line := lines(&b)
	last := all[len(all)-1]
	line("now", strings.Join([]string{cmp.Or(strength(last.Signal), "signal unknown"), last.Technology, last.Registration}, ", "))
	if high != 0 {
		fmt.Fprintf(&b, "%-*s%s\n", labelWidth, ago(span-1), drawn.String())
		line("", fmt.Sprintf("from %d to %d dBm", low, high))
	}
	return b.String() + technologies(all)
}

// technologies is a row for each technology: how long, and how strong.
func technologies(all []seller.SignalSample) string {
	rows := [][]string{{"TECHNOLOGY", "SAMPLES", "LOWEST", "MEAN", "HIGHEST"}}
	for i, x := range all {
		known := false
		for _, before := range all[:i] {
			known = known || before.Technology == x.Technology
		}
		if known {
			continue
		}
		n, measured, sum, low, high := 0, 0, 0, 0, -1000
		for _, y := range all[i:] {
			if y.Technology != x.Technology {
				continue
			}
			n++
			if d := cmp.Or(y.Signal.RSRP, y.Signal.RSCP, y.Signal.RSSI); d != 0 {
				measured, sum, low, high = measured+1, sum+d, min(low, d), max(high, d)
			}
		}
		row := []string{printable(x.Technology), strconv.Itoa(n), "-", "-", "-"}
		if measured > 0 {
			row = append(row[:2], strconv.Itoa(low)+" dBm", strconv.Itoa(sum/measured)+" dBm", strconv.Itoa(high)+" dBm")
		}
		rows = append(rows, row)
	}
	return table(rows)
}

// renderMessages is a heading and the text of each message.
func renderMessages(all []seller.ShortMessage) string {
	if len(all) == 0 {
		return "no messages\n"
	}
	var b strings.Builder
	for _, m := range all {
		what := ""
		if !m.Read {
			what = ", new"
		}
		if m.Missing > 0 {
			what += ", " + count(m.Missing, "part") + " missing"
		}
		if m.Binary {
			what += ", binary"
		}
		fmt.Fprintf(&b, "%d  %s  %s%s\n%s", m.ID, m.Time.Format("2006-01-02 15:04"), printable(m.From), what, text(m.Text))
	}
	return b.String()
}

// text is what somebody else wrote, indented, line by line.
func text(s string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(s, "\n") {
		b.WriteString("    " + wrap(line, 4) + "\n")
	}
	return b.String()
}
