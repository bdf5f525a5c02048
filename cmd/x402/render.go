package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/channel"
)

// bytesText is n in decimal units with three significant digits: "1.23 GB".
func bytesText(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	units := "kMGTPE"
	div := uint64(1000)
	for n/div >= 1000 && len(units) > 1 {
		div *= 1000
		units = units[1:]
	}
	whole, rest := n/div, n%div
	switch {
	case whole >= 100:
		return fmt.Sprintf("%d %cB", whole, units[0])
	case whole >= 10:
		return fmt.Sprintf("%d.%d %cB", whole, rest/(div/10), units[0])
	}
	return fmt.Sprintf("%d.%02d %cB", whole, rest/(div/100), units[0])
}

// stateText is what the user is told of a state.
func stateText(s buyer.Status) string {
	if s.State == "" {
		return "starting"
	}
	return s.State
}

// trouble is the newest thing that the user should know, if any.
func trouble(s buyer.Status) string {
	if s.Error != "" {
		return s.Error
	}
	return s.Notice
}

// spent is how much of the budget is used. Before the agent has named its
// terms the status does not know.
func spent(s buyer.Status, budget channel.Amount) (spent, left channel.Amount) {
	if s.Session == 0 {
		return 0, budget
	}
	left = min(s.BudgetLeft, budget)
	return budget - left, left
}

// liveLines are what a terminal of a width shows, redrawn in place.
func liveLines(s buyer.Status, budget channel.Amount, width int) []string {
	used, left := spent(s, budget)
	lines := []string{
		fmt.Sprintf("%-12s %10s/s  down %-8s up %-8s flows %-4d %s", stateText(s), bytesText(s.Rate), bytesText(s.Down), bytesText(s.Up), s.Flows, wayText(s)),
		fmt.Sprintf("spent %s of %s USD, left %s, in the channel %s", used.USD(), budget.USD(), left.USD(), s.Balance.USD()),
	}
	if t := trouble(s); t != "" {
		lines[1] += " - " + t
	}
	for i, l := range lines {
		lines[i] = clip(l, width)
	}
	return lines
}

// clip makes text one line of less than width columns: a full last column
// wraps on some terminals.
func clip(text string, width int) string {
	r := []rune(printable(text))
	if len(r) >= width {
		r = append(r[:max(width-2, 0)], '~')
	}
	return string(r)
}

// printable takes out what could steer a terminal: errors and notices may
// repeat what others sent.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, text)
}

// plainLine is what is printed where lines cannot be redrawn.
func plainLine(s buyer.Status, budget channel.Amount) string {
	used, left := spent(s, budget)
	line := fmt.Sprintf("%s: %s/s, down %s, up %s, spent %s USD, left %s, flows %d",
		stateText(s), bytesText(s.Rate), bytesText(s.Down), bytesText(s.Up), used.USD(), left.USD(), s.Flows)
	if way := wayText(s); way != "" {
		line += ", " + way
	}
	if t := trouble(s); t != "" {
		line += " - " + printable(t)
	}
	return line
}

// wayText is how the agent is reached, in a few words.
func wayText(s buyer.Status) string {
	switch {
	case s.Transport == "":
		return ""
	case s.Direct:
		return strings.ToUpper(s.Transport) + " direct"
	}
	for _, r := range s.Relays {
		if r.Relay == s.Relay {
			return strings.ToUpper(s.Transport) + " by relay for " + r.Owed.USD() + " USD"
		}
	}
	return strings.ToUpper(s.Transport) + " by relay"
}

// A way is what there is to tell of how the agent is reached.
type way struct{ transport, relay string }

// wayNews is what to tell of a way after the one before, "" for nothing. forced
// says that the user chose the transport.
func wayNews(before, now way, forced bool) string {
	by := "the agent is reached directly"
	if now.relay != "" {
		by = "the agent is reached by the relay " + now.relay
	}
	switch {
	case now == before, before == way{} && now == way{transport: now.transport} && (now.transport != buyer.TLS || forced):
		return "" // nothing that the next line does not say
	case now.transport == buyer.TLS && before.transport != buyer.TLS && !forced:
		return "UDP does not get through here: using TLS; QUIC is tried again; " + by
	case before.transport == buyer.TLS && now.transport == buyer.QUIC:
		return "UDP gets through: using QUIC again; " + by
	}
	return by
}

// simText says what an agent says of its SIM, and how much that is worth by
// what relays found.
func simText(s agent.SIM, f carrier.Finding) string {
	if s == (agent.SIM{}) {
		return "the agent does not say"
	}
	var parts []string
	add := func(text string, ok bool) {
		if ok {
			parts = append(parts, text)
		}
	}
	add(s.Operator, s.Operator != "")
	add(strings.TrimSpace("MCC "+s.MCC+" MNC "+s.MNC), s.MCC != "")
	add(s.Technology, s.Technology != "")
	add("roaming", s.Roaming)
	said := strings.Join(parts, ", ") + "; so says the agent, "
	switch {
	case f.Evidence == "":
		return said + "nobody has checked it"
	case f.Evidence == agent.EvidenceCarrier:
		return said + "and its relay sees it in " + networkText(f.Network) + ", the carrier's"
	case f.Network.AS == 0:
		return said + "and its relay found nothing for it: " + f.Reason.String()
	}
	return said + "and its relay sees it in " + networkText(f.Network) + ": " + f.Reason.String()
}

// priceText says what a GB costs and what is allowed.
func priceText(p agent.Price, most channel.Amount) string {
	text := p.Down.USD() + " USD per GB"
	if p.Up != p.Down {
		text = p.Down.USD() + " USD per GB down, " + p.Up.USD() + " up"
	}
	return text + "; at most " + most.USD() + " is allowed"
}

// budgetText says what the budget is enough for.
func budgetText(budget channel.Amount, p agent.Price) string {
	text := budget.USD() + " USD"
	if p.Max() == 0 {
		return text + ", and the traffic is free"
	}
	return text + ", enough for " + bytesText(agent.Price{Up: p.Max()}.Limit(budget)) + " at least"
}

// duration is a number of seconds in the largest unit that is exact enough.
func duration(seconds uint64) string {
	switch {
	case seconds >= 48*3600:
		return fmt.Sprintf("%d days", seconds/(24*3600))
	case seconds >= 2*3600:
		return fmt.Sprintf("%d hours", seconds/3600)
	case seconds >= 120:
		return fmt.Sprintf("%d minutes", seconds/60)
	}
	return fmt.Sprintf("%d seconds", seconds)
}

// clock is a Unix time for people.
func clock(unix uint64) string { return time.Unix(int64(unix), 0).Format(time.RFC3339) }

// printRows writes pairs of a name and what it is, aligned. An empty value is
// left out.
func printRows(w io.Writer, rows [][2]string) error {
	var b strings.Builder
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(&b, "%-10s %s\n", r[0], r[1])
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
