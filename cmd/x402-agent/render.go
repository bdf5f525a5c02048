package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
)

// columns is how wide a screen may be taken to be.
const columns = 80

// labelWidth is the width of the left column of the status.
const labelWidth = 10

// renderStatus is the status for people: whether it sells, what is wrong, and
// then the numbers.
func renderStatus(st seller.Status) string {
	var b strings.Builder
	state := "selling"
	if st.Refusing != "" {
		state = "NOT SELLING"
	}
	fmt.Fprintf(&b, "%s, up %s, process %d\n", state, ago(st.Uptime), st.PID)
	for _, p := range st.Problems {
		fmt.Fprintf(&b, "\n!   %s\n", wrap(p.What, 4))
		if p.Do != "" {
			fmt.Fprintf(&b, "    %s\n", wrap("do: "+p.Do, 4))
		}
	}
	b.WriteByte('\n')
	if len(st.SIMs) > 0 {
		b.WriteString(renderSIMs(st))
		return b.String()
	}
	line := lines(&b)
	line("agent", st.Agent.String())
	renderModem(line, st.Modem)
	if st.Interface != "" {
		line("interface", st.Interface)
	}
	renderPlan(line, st.Plan)
	line("price", price(st.Price)+" USD per GB")
	line("listens", fmt.Sprintf("UDP %s, offer %d", st.Listen, st.OfferSeq))
	line("paid on", st.Network)
	line("to", st.PayTo.String())
	if r := st.Recovery; r != nil && (r.Today > 0 || r.Stopped) {
		line("recovery", fmt.Sprintf("%s today; trouble: %s", count(r.Today, "step"), r.Trouble))
	}
	if r := st.Rotation.Last; r != nil {
		line("rotated", fmt.Sprintf("%d times, %d in vain; last %s", st.Rotation.Changed, st.Rotation.Failed, rotation(*r)))
	}
	e := st.Earnings
	line("earned", earned(e))
	line("carried", fmt.Sprintf("%s up, %s down", size(e.Up), size(e.Down)))
	line("flash", fmt.Sprintf("%s, %s", count(int(st.FlashWrites.Syncs), "write"), size(st.FlashWrites.Bytes)))
	b.WriteByte('\n')
	b.WriteString(renderSessions(st.Sessions))
	return b.String()
}

// lines returns a function that adds a labelled line to b.
func lines(b *strings.Builder) func(label, text string) {
	return func(label, text string) { fmt.Fprintf(b, "%-*s%s\n", labelWidth, label, wrap(text, labelWidth)) }
}

func rotation(r seller.Rotation) string {
	if r.Changed {
		return fmt.Sprintf("from %s to %s, by %s", r.Old, r.New, r.By)
	}
	return "by " + r.By + ": " + r.Error
}

// renderSIMs is one row a SIM, and then who buys.
func renderSIMs(st seller.Status) string {
	rows := [][]string{{"SIM", "OPERATOR", "SIGNAL", "BUYERS", "RATE", "UP", "DOWN", "EARNED", "STATE"}}
	for _, sim := range st.SIMs {
		operator, signal, state := "-", "-", "selling"
		if m := sim.Modem; m != nil {
			operator, signal = cmp.Or(m.Operator, "-"), cmp.Or(dBm(m.Signal), "-")
		}
		if sim.Refusing != "" {
			state = "NOT SELLING"
		}
		var rate uint64
		for _, s := range sim.Sessions {
			rate += s.Rate
		}
		e := sim.Earnings
		rows = append(rows, []string{printable(sim.Name), printable(operator), signal, strconv.Itoa(len(sim.Sessions)), size(rate) + "/s",
			size(e.Up), size(e.Down), usd(e.Owed), state})
	}
	return table(rows) + "\nearned " + earned(st.Earnings) + "\n\n" + renderSessions(st.Sessions)
}

func earned(e seller.Earnings) string {
	return fmt.Sprintf("%s USD, paid %s, claimed %s, watched %s", e.Owed.USD(), e.Paid.USD(), e.Claimed.USD(), e.Watched.USD())
}

// dBm is the received power for a table.
func dBm(s modem.Signal) string {
	if d := cmp.Or(s.RSRP, s.RSCP, s.RSSI); d != 0 {
		return strconv.Itoa(d) + " dBm"
	}
	return ""
}

func renderModem(line func(label, text string), m *seller.ModemStatus) {
	if m == nil {
		line("modem", "none; the offer names no SIM")
		return
	}
	name := strings.TrimSpace(m.Maker + " " + m.Model)
	if name == "" {
		name = "not read yet"
	}
	if m.Age >= 180 {
		name += ", read " + ago(m.Age) + " ago"
	}
	line("modem", name+" on "+m.Port)
	if m.IMSI == "" {
		return
	}
	sim := fmt.Sprintf("%s, %s, home network %s-%s", m.SIM, m.IMSI, m.MCC, m.MNC)
	if m.Withheld {
		sim += ", not sold"
	}
	if m.Roaming {
		sim += ", roaming"
	}
	line("SIM", sim)
	var net []string
	for _, s := range []string{m.Operator, m.Technology, m.Registration, strength(m.Signal)} {
		if s != "" {
			net = append(net, s)
		}
	}
	line("network", strings.Join(net, ", "))
}

// strength puts the received power into words. RSRP tells most on LTE and 5G,
// RSCP on 3G.
func strength(s modem.Signal) string {
	for _, m := range []struct {
		dBm  int
		name string
		good int // from here on
	}{{s.RSRP, "RSRP", -95}, {s.RSCP, "RSCP", -85}, {s.RSSI, "RSSI", -75}} {
		if m.dBm == 0 {
			continue
		}
		word := "very weak"
		switch d := m.dBm - m.good; {
		case d >= 10:
			word = "excellent"
		case d >= 0:
			word = "good"
		case d >= -10:
			word = "fair"
		case d >= -20:
			word = "weak"
		}
		return fmt.Sprintf("signal %s (%d dBm %s)", word, m.dBm, m.name)
	}
	return ""
}

// renderCards is one row a SIM, the present one first.
func renderCards(all seller.Cards) string {
	if len(all.Cards) == 0 {
		return "no SIM was read yet\n"
	}
	rows := [][]string{{"SIM", "NETWORK", "CARD", "STATE"}}
	for _, c := range slices.Backward(all.Cards) {
		state := "not sold: x402-agent sim accept"
		switch current := c.Fingerprint == all.Current; {
		case c.Sold && current:
			state = "in the modem, sold"
		case c.Sold:
			state = "sold when it is back"
		case !current:
			state = "not sold"
		}
		rows = append(rows, []string{c.Fingerprint[:min(len(c.Fingerprint), 8)], c.MCC + "-" + c.MNC, cmp.Or(c.ICCID, "-"), state})
	}
	return table(rows)
}

// renderSessions is one row a session.
func renderSessions(all []seller.SessionStatus) string {
	if len(all) == 0 {
		return "no buyer is connected\n"
	}
	rows := [][]string{{"BUYER", "FLOWS", "UP", "DOWN", "RATE", "OWED", "PAID", "STATE"}}
	for _, s := range all {
		state := "serving"
		switch {
		case s.Blocked:
			state = "waits"
		case s.Rate == 0:
			state = "idle"
		}
		rows = append(rows, []string{short(s.Buyer), strconv.Itoa(s.Flows), size(s.Up), size(s.Down), size(s.Rate) + "/s", usd(s.Owed), usd(s.Paid), state})
	}
	return table(rows)
}

// renderEarnings is one row a buyer, those who owe most first, and a total.
func renderEarnings(e seller.Earnings) string {
	if len(e.Channels) == 0 {
		return "no buyer yet\n"
	}
	byBuyer := map[channel.Address]*seller.ChannelEarnings{}
	for _, c := range e.Channels {
		s := byBuyer[c.Buyer]
		if s == nil {
			s = &seller.ChannelEarnings{Buyer: c.Buyer}
			byBuyer[c.Buyer] = s
		}
		s.Sessions += c.Sessions
		s.Up += c.Up
		s.Down += c.Down
		s.Owed += c.Owed
		s.Paid += c.Paid
		s.Claimed += c.Claimed
	}
	buyers := make([]*seller.ChannelEarnings, 0, len(byBuyer))
	for _, s := range byBuyer {
		buyers = append(buyers, s)
	}
	slices.SortFunc(buyers, func(a, b *seller.ChannelEarnings) int {
		return cmp.Or(cmp.Compare(b.Owed, a.Owed), slices.Compare(a.Buyer[:], b.Buyer[:]))
	})
	rows := [][]string{{"BUYER", "SESSIONS", "UP", "DOWN", "OWED USD", "PAID USD", "CLAIMED"}}
	row := func(name string, s *seller.ChannelEarnings) {
		rows = append(rows, []string{name, strconv.FormatUint(s.Sessions, 10), size(s.Up), size(s.Down), usd(s.Owed), usd(s.Paid), usd(s.Claimed)})
	}
	total := &seller.ChannelEarnings{Up: e.Up, Down: e.Down, Owed: e.Owed, Paid: e.Paid, Claimed: e.Claimed}
	for _, s := range buyers {
		row(short(s.Buyer), s)
		total.Sessions += s.Sessions
	}
	row("total", total)
	return table(rows) + fmt.Sprintf("\nNever counted by buyers, and not charged: %s\n", size(e.Lost))
}

// table lines up cells, all to the right.
func table(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)) + cell)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// short is an address to recognise.
func short(a channel.Address) string {
	s := a.String()
	return s[:6] + "…" + s[len(s)-4:]
}

// usd is an amount for a table: to the unit, from 1000 USD on to the cent.
func usd(a channel.Amount) string {
	if a >= 1000_000_000 {
		a -= a % 10_000
	}
	return a.USD()
}

// price is one number when both directions cost the same.
func price(p agent.Price) string {
	if p.Up == p.Down {
		return p.Up.USD()
	}
	return p.Up.USD() + " up, " + p.Down.USD() + " down"
}

// size is a number of bytes in three digits, rounded down.
func size(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatUint(n, 10) + " B"
	}
	unit := uint64(1000)
	i := 0
	for n/unit >= 1000 {
		unit *= 1000
		i++
	}
	s := strconv.FormatUint(n/unit, 10)
	if n/unit < 100 {
		s += "." + strconv.FormatUint(n%unit/(unit/10), 10)
	}
	return s + " " + units[i:i+1] + "B"
}

// ago is a time in its two largest units.
func ago(seconds int64) string {
	switch {
	case seconds < 60:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%d min", seconds/60)
	case seconds < 86400:
		return fmt.Sprintf("%d h %d min", seconds/3600, seconds/60%60)
	}
	return fmt.Sprintf("%d d %d h", seconds/86400, seconds/3600%24)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// wrap breaks text between words so that lines which begin at indent end at
// the last column.
func wrap(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(printable(text)) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case at+1+n > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// printable replaces what could steer a terminal: texts come from modems,
// facilitators and buyers too.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
