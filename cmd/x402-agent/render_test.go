package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
)

func fixedStatus() seller.Status {
	return seller.Status{
		PID: 4711, Agent: channel.Address{1}, Listen: "[::]:4402", Uptime: 3*3600 + 12*60, Network: "eip155:84532",
		PayTo: channel.Address{2}, Price: agent.Price{Up: 4_000_000, Down: 4_000_000}, OfferSeq: 17,
		Modem: &seller.ModemStatus{
			Port: "/dev/ttyUSB2", Age: 20, Maker: "Quectel", Model: "EC25", IMSI: "imsi(redacted)", MCC: "262", MNC: "01",
			SIM: "ready", Operator: "Testnet", Registration: "home", Technology: "LTE", Signal: modem.Signal{RSSI: -71, RSRP: -95},
		},
		Sessions: []seller.SessionStatus{
			{Buyer: channel.Address{3}, Flows: 12, Up: 1_234_567, Down: 98_765_432, Rate: 1_250_000, Owed: 400_001, Paid: 399_000},
			{Buyer: channel.Address{4}, Owed: 100, Paid: 100},
			{Buyer: channel.Address{5}, Flows: 1, Down: 999, Rate: 5, Owed: 1_234_567_899, Paid: 12, Blocked: true},
		},
		Earnings:    seller.Earnings{Up: 1_234_567, Down: 98_766_431, Owed: 1_234_968_000, Paid: 399_112, Claimed: 100_000, Watched: 250_000},
		FlashWrites: seller.FlashWrites{Syncs: 1, Bytes: 256},
	}
}

func TestRenderStatus(t *testing.T) {
	const want = `selling, up 3 h 12 min, process 4711

agent     0x0100000000000000000000000000000000000000
modem     Quectel EC25 on /dev/ttyUSB2
SIM       ready, imsi(redacted), home network 262-01
network   Testnet, LTE, home, signal good (-95 dBm RSRP)
price     4.00 USD per GB
listens   UDP [::]:4402, offer 17
paid on   eip155:84532
to        0x0200000000000000000000000000000000000000
earned    1234.968 USD, paid 0.399112, claimed 0.10, watched 0.25
carried   1.2 MB up, 98.7 MB down
flash     1 write, 256 B

      BUYER  FLOWS      UP     DOWN      RATE      OWED   PAID    STATE
0x0300…0000     12  1.2 MB  98.7 MB  1.2 MB/s  0.400001  0.399  serving
0x0400…0000      0     0 B      0 B     0 B/s    0.0001  0.0001     idle
0x0500…0000      1     0 B    999 B     5 B/s   1234.56  0.000012    waits
`
	got := renderStatus(fixedStatus())
	// Columns are as wide as their widest cell: compare words.
	if diff := cmp.Diff(words(want), words(got)); diff != "" {
		t.Errorf("%s\n%s", diff, got)
	}
}

// words are the lines of a text without its alignment.
func words(s string) [][]string {
	var lines [][]string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// TestRenderPlan: the plan in a few lines, in the owner's time zone.
func TestRenderPlan(t *testing.T) {
	st := fixedStatus()
	st.Plan = &seller.PlanStatus{
		Interface: "wwan0", Size: 20_000_000_000, Reserve: 5_000_000_000, Used: 12_345_678_901, Entered: 1_000_000_000, Margin: 345_678_901, Correction: 1_000_000_000,
		Household: 5_600_000_000, Sales: 5_000_000_000, Overhead: 300_000_000, Uncounted: 100_000_000, Left: 2_654_321_099, Today: 500_000_000,
		SoldToday: 400_000_000, Price: 125, Reset: 1_796_083_200, Forecast: 4_200_000_000, Zone: "CET-1CEST,M3.5.0,M10.5.0/3",
		Why: "daily", Until: 1_795_906_800,
	}
	got := renderStatus(st)
	_, got, _ = strings.Cut(got, "-95 dBm RSRP)\n")
	got, _, _ = strings.Cut(got, "price     ")
	const want = `plan      12.3 GB of 20.0 GB used on wwan0, until 1 Dec 01:00 CET
          5.6 GB by the household, 5.0 GB by sales, 300 MB overhead, at most 100
          MB uncounted, 345 MB margin
          entered: 1.0 GB more than was counted
          2.6 GB may be sold, 500 MB of it today (400 MB so far); 5.0 GB are
          reserved; the price is at 125%
          the household will use about 4.2 GB more until the reset
          nothing is sold: the day's limit is reached, until 29 Nov 00:00 CET
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRenderProblems(t *testing.T) {
	st := fixedStatus()
	st.Refusing = "the agent has no SIM to sell"
	st.Problems = []seller.Problem{
		{What: "modem: timed out", Do: "try the modem's other ports (it has several), and stop ModemManager, which uses them"},
		{What: "the offer names [::]:4402, which buyers cannot reach"},
	}
	st.Sessions, st.Modem = nil, &seller.ModemStatus{Port: "/dev/ttyUSB2", SIM: "unknown", Error: "modem: timed out"}
	got, _, _ := strings.Cut(renderStatus(st), "price")
	const want = `NOT SELLING, up 3 h 12 min, process 4711

!   modem: timed out
    do: try the modem's other ports (it has several), and stop ModemManager,
    which uses them

!   the offer names [::]:4402, which buyers cannot reach

agent     0x0100000000000000000000000000000000000000
modem     not read yet on /dev/ttyUSB2
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRenderWidth: nothing is wider than a screen, whatever the numbers and
// names are.
func TestRenderWidth(t *testing.T) {
	st := fixedStatus()
	st.Uptime, st.PID, st.Network = 1<<40, 1<<31-1, "eip155:9007199254740992"
	st.Price = agent.Price{Up: agent.MaxPrice, Down: agent.MaxPrice - 1}
	st.Listen = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
	m := st.Modem
	m.Maker, m.Operator = strings.Repeat("Maker ", 20), strings.Repeat("Operator\x1b[2J ", 20)
	m.Age, m.Port = 86400, "/dev/serial/by-id/usb-Quectel_EC25-if02-port0"
	const much = 999_999_999_999
	for i := range st.Sessions {
		s := &st.Sessions[i]
		s.Flows, s.Up, s.Down, s.Rate, s.Owed, s.Paid = 10_000, 99_999_999_999, 99_999_999_999, 99_999_999, much, much
	}
	st.Plan = &seller.PlanStatus{
		Interface: "wwan0", Size: 1 << 60, Reserve: 1 << 59, Used: 1 << 60, Entered: 1 << 60, Correction: -1 << 60, Household: 1 << 60, Sales: 1 << 60, Overhead: 1 << 60, Margin: 1 << 60,
		Uncounted: 1 << 60, Left: 1 << 60, Today: 1 << 60, SoldToday: 1 << 60, Price: 10_000, Reset: 1 << 33, Forecast: 1 << 60, Zone: "x", Why: "clock", Until: 1 << 33,
	}
	e := &st.Earnings
	e.Up, e.Down, e.Owed, e.Paid, e.Claimed, e.Lost = 99_999_999_999, 99_999_999_999, much, much, much, 1<<64-1
	e.Channels = []seller.ChannelEarnings{{Sessions: 99_999_999, Up: e.Up, Down: e.Down, Owed: much, Paid: much, Claimed: much}}
	check := renderCheck([]seller.Finding{{Name: "facilitator", Result: "warning", Text: strings.Repeat("word ", 40), Do: strings.Repeat("do ", 40)}})
	for _, text := range []string{renderStatus(st), renderEarnings(*e), check} {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > columns {
				t.Errorf("%d columns: %s", n, line)
			}
			if strings.Contains(line, "\x1b") {
				t.Errorf("%q steers the terminal", line)
			}
		}
	}
}

// TestRenderEarnings: one row a buyer, whatever channels he had.
func TestRenderEarnings(t *testing.T) {
	a, b := channel.Address{1}, channel.Address{2}
	e := seller.Earnings{
		Channels: []seller.ChannelEarnings{
			{Buyer: a, Sessions: 1, Up: 1, Down: 10, Owed: 100, Paid: 90, Claimed: 80},
			{Buyer: b, Sessions: 2, Up: 2, Down: 20, Owed: 2_000_000, Paid: 1_000_000, Claimed: 0},
			{Buyer: a, Sessions: 4, Up: 4, Down: 40, Owed: 400, Paid: 400, Claimed: 400},
		},
		Up: 7, Down: 70, Owed: 2_000_500, Paid: 1_000_490, Claimed: 480, Lost: 1234,
	}
	const want = `      BUYER  SESSIONS   UP  DOWN  OWED USD  PAID USD  CLAIMED
0x0200…0000         2  2 B  20 B      2.00      1.00     0.00
0x0100…0000         5  5 B  50 B    0.0005   0.00049  0.00048
      total         7  7 B  70 B    2.0005   1.00049  0.00048

Never counted by buyers, and not charged: 1.2 kB
`
	if diff := cmp.Diff(want, renderEarnings(e)); diff != "" {
		t.Error(diff)
	}
}

func TestStrength(t *testing.T) {
	for s, want := range map[modem.Signal]string{
		{}:                      "",
		{RSRP: -80, RSSI: -100}: "signal excellent (-80 dBm RSRP)",
		{RSRP: -106}:            "signal weak (-106 dBm RSRP)",
		{RSRP: -116}:            "signal very weak (-116 dBm RSRP)",
		{RSCP: -90}:             "signal fair (-90 dBm RSCP)",
		{RSSI: -75}:             "signal good (-75 dBm RSSI)",
	} {
		if got := strength(s); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1999: "1.9 kB", 99_999: "99.9 kB", 100_000: "100 kB", 999_999: "999 kB",
		1_000_000: "1.0 MB", 123_456_789_012: "123 GB", 1<<64 - 1: "18.4 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	for n, want := range map[int64]string{0: "0 s", 59: "59 s", 60: "1 min", 3599: "59 min", 3661: "1 h 1 min", 90_000: "1 d 1 h", 1 << 40: "12725829 d 0 h"} {
		if got := ago(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
