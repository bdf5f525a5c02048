package main

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/scripts/netlab"
)

// TestMain lets the test's program play the roles, like the real one.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" && len(os.Args) == 3 && os.Args[1] == roleArg {
		os.Exit(roleMain(os.Args[2]))
	}
	os.Exit(m.Run())
}

// TestSmoke runs every group that needs no build, at sizes that mean nothing.
func TestSmoke(t *testing.T) {
	c := config{
		rounds: 1, length: 100 * time.Millisecond, loopback: true, inside: true, flows: []int{5},
		only: []string{"transfer", "flash", "latency", "memory", "relay", "paused", "idle", "datagrams"}, profiles: t.TempDir(), log: io.Discard,
		idleFlows: 20,
	}
	r, err := c.measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Transfers) != 6 || len(r.Latencies) != 3 || len(r.Memory) != 2 || r.Serving == nil || r.FullSpeed == nil {
		t.Fatalf("incomplete: %+v", r)
	}
	for _, x := range r.Transfers {
		if x.Mbits <= 0 || x.MbitsLow > x.Mbits || x.MbitsHigh < x.Mbits || math.IsNaN(x.Ratio) {
			t.Errorf("%+v", x)
		}
	}
	if p := r.Paid; p.BytesDown == 0 || p.BytesUp == 0 || p.Claimed == 0 {
		t.Errorf("not counted or not paid: %+v", p)
	}
	for _, l := range r.Latencies {
		rtt, least := milliseconds(2*oneWay), milliseconds(4*oneWay)
		if l.Way == wayEarly {
			least = rtt
		}
		if l.Warm < rtt || l.Cold < least || l.Started <= 0 {
			t.Errorf("%s: %.1f ms warm, %.1f cold, %.1f of it to start, on a path of %.0f", l.Way, l.Warm, l.Cold, l.Started, rtt)
		}
	}
	for _, m := range r.Memory {
		if m.MiB < 1 {
			t.Errorf("%+v", m)
		}
	}
	if len(r.Paused) != 2 || len(r.Idle) != 4 || len(r.Datagrams) != 4 { // rates in 100 ms are no more than chance
		t.Errorf("incomplete: %+v %+v %+v", r.Paused, r.Idle, r.Datagrams)
	}
	links := 1
	if netlab.Missing() == nil {
		links++
	}
	if len(r.Relays) != 6*links || len(r.Left) != 2-links {
		t.Errorf("%d rows of relays, left out: %q", len(r.Relays), r.Left)
	}
	for _, x := range r.Relays {
		if x.Mbits <= 0 || x.Ratio <= 0 || (x.FreeRatio > 0) != (x.Way == wayToll) || (x.MiB > 1) != (x.Way != wayDirectly) {
			t.Errorf("%+v", x)
		}
	}
	for _, name := range []string{"ours-agent", "ours-buyer", "bare-agent", "bare-buyer"} {
		if info, err := os.Stat(c.profiles + "/" + name + ".pprof"); err != nil || info.Size() == 0 {
			t.Errorf("no profile of %s: %v", name, err)
		}
	}
	for _, want := range []string{"up, direct TCP", "signed and claimed", "one download, agent's CPU", "no limit, up, ours, by a relay that charges", "one upload by a relay, no limit, its CPU"} {
		if !strings.Contains(r.table(), want) {
			t.Errorf("%q is not in\n%s", want, r.table())
		}
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

// TestSmokeLinks runs the groups that need emulated links, likewise.
func TestSmokeLinks(t *testing.T) {
	if err := netlab.Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c := config{rounds: 1, length: 100 * time.Millisecond, inside: true, only: onLink(), log: io.Discard}
	r, err := c.measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ways := 2
	for _, x := range r.Links {
		if x.Mbits <= 0 || x.Wire < 1 {
			t.Errorf("%+v", x)
		}
		if x.Way == wayCubic && x.Loss == 0 {
			ways++
		}
		if x.Way == wayBBR && x.Loss == 0 && x.Direction == "down" && x.Link == r.Links[0].Link {
			ways++
		}
	}
	if len(r.SetUp) != 3 || len(r.Blackouts) != ways || len(r.Sharing) == 0 || len(r.Floods) != len(floods()) || len(r.Left) != 0 {
		t.Errorf("incomplete: %+v", r)
	}
	for _, x := range r.SetUp {
		if rtt := milliseconds(2 * oneWay); x.Warm < rtt || x.Cold < rtt {
			t.Errorf("%+v on a path of %.0f ms", x, rtt)
		}
	}
	var text struct {
		XMLName xml.Name `xml:"svg"`
	}
	if err := xml.Unmarshal([]byte(r.plot()), &text); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"wire/goodput", "after a blackout", "20 flows in one tunnel"} {
		if !strings.Contains(r.table(), want) {
			t.Errorf("%q is not in\n%s", want, r.table())
		}
	}
}

func TestPeers(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var p peers
	if err := p.Set("hysteria=" + self); err != nil || len(p) != 1 || p[0].path != self {
		t.Errorf("%v, %v", p, err)
	}
	for _, text := range []string{"", "hysteria", "hysteria=" + t.TempDir(), "other=" + self, "hysteria=" + self + "x"} {
		if err := p.Set(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestJain(t *testing.T) {
	for _, test := range []struct {
		each []uint64
		want float64
	}{{nil, 0}, {[]uint64{0, 0}, 0}, {[]uint64{7, 7, 7}, 1}, {[]uint64{9, 0, 0}, 1.0 / 3}, {[]uint64{1, 3}, 0.8}} {
		if got := jain(test.each); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("jain(%v) = %v", test.each, got)
		}
	}
}

func TestHalves(t *testing.T) {
	for label, want := range map[string][]string{
		"":                          {""},
		"one":                       {"one"},
		"a, b":                      {"a,", "b"},
		"50 Mbit/s, 40 ms, 1% loss": {"50 Mbit/s,", "40 ms, 1% loss"},
	} {
		if got := halves(label); !slices.Equal(got, want) {
			t.Errorf("%q: %q", label, got)
		}
	}
}

func TestGridStep(t *testing.T) {
	for highest, want := range map[float64]float64{0: 1, 1.2: 0.2, 8: 1, 47: 10, 50: 10, 120: 20, 452: 100} {
		if got := gridStep(highest); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: %v", highest, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	list := []float64{5, 1, 4, 2, 3}
	for share, want := range map[float64]float64{0: 1, 0.5: 3, 0.95: 5, 1: 5} {
		if got := quantile(list, share); got != want {
			t.Errorf("%v: %v", share, got)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("of none")
	}
}

// TestJudgeLinks holds the targets of links against figures on both sides.
func TestJudgeLinks(t *testing.T) {
	r := Report{
		SetUp: []Latency{{wayOurs, 42.1, 85, 0}, {wayBare, 99, 99, 0}},
		Links: []Link{
			{Way: wayOurs, Loss: 0.01, Mbits: 46, Wire: 1.09},
			{Way: wayOurs, Loss: 0.05, Mbits: 44.4, Wire: 1.12},
			{Way: wayBare, Loss: 0.05, Mbits: 1, Wire: 2},
		},
		Sharing:   []Sharing{{Case: "a", Way: wayOurs, Jain: 0.79}, {Case: "b", Way: wayOurs, Jain: 0.8}, {Way: "hysteria"}},
		Paused:    []Paused{{Way: wayOurs, Flows: 50, Ratio: 0.95}, {Way: wayBare}},
		Datagrams: []Datagrams{{"down", wayOurs, 0.51, 22, 23}, {"up", wayUDP, 9, 0, 0}},
	}
	r.judge()
	var missed []string
	for _, x := range r.Targets {
		if !x.Met {
			missed = append(missed, x.Name)
		}
	}
	want := []string{
		"first byte on a 40 ms link, warm", "first byte on a 40 ms link, cold with 0-RTT", "one download, 1% loss", "one download, 5% loss", "a", "datagrams down", "datagrams down, agent",
	}
	if !slices.Equal(missed, want) {
		t.Errorf("missed %q\nwant %q", missed, want)
	}
	if len(r.Targets) != 12 {
		t.Errorf("%d targets", len(r.Targets))
	}
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"--only", "transfer,speed"}, {"--rounds", "0"}, {"--seconds", "0"}, {"--seconds", "x"}, {"now"},
		{"--peer", "hysteria"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

func TestParseStat(t *testing.T) {
	const text = "17 (a) b (c) S 1 17 17 0 -1 4194560 2 0 0 0 250 75 0 0 20 0 8 0 5 1 1"
	got, err := parseStat(text)
	if err != nil || got != 3250*time.Millisecond {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "17 (a)", "17 (a) S 1 2", strings.Replace(text, "250", "x", 1)} {
		if d, err := parseStat(bad); err == nil {
			t.Errorf("%q: %v", bad, d)
		}
	}
}

func TestParseStatus(t *testing.T) {
	got, err := parseStatus("Name:\tx\nVmHWM:\t   20000 kB\nVmRSS:\t   12345 kB\n")
	if err != nil || got != 12345<<10 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := parseStatus("Name:\tx\n"); err == nil {
		t.Error("found an RSS where there is none")
	}
}

func TestParseBenchmarks(t *testing.T) {
	found, err := parseBenchmarks(`goos: linux
BenchmarkPacket-2   	96061342	        12.38 ns/op	       0 B/op	       0 allocs/op
BenchmarkPacket-2   	96061342	        11.00 ns/op	       0 B/op	       0 allocs/op
BenchmarkJournalSave   	    9000	    131000 ns/op	       241.5 B-written/op	         1.000 syncs/op
PASS
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := found[benchPacket]["ns/op"]; !slices.Equal(got, []float64{12.38, 11}) {
		t.Errorf("packets: %v", got)
	}
	if got := found[benchJournal]["B-written/op"]; !slices.Equal(got, []float64{241.5}) {
		t.Errorf("journal: %v", got)
	}
	if _, err := parseBenchmarks("BenchmarkPacket-2 10 x ns/op\n"); err == nil {
		t.Error("x was taken as a number")
	}
}

func TestSummarise(t *testing.T) {
	bare := []sample{{1000, 2, 3}, {2000, 2, 3}, {100, 2, 3}}
	ours := []sample{{900, 3, 3}, {2200, 3, 6}, {100, 1, 6}}
	got := summarise("down", wayOurs, ours, bare)
	want := Transfer{
		Direction: "down", Way: wayOurs, Mbits: 900, MbitsLow: 100, MbitsHigh: 2200, BuyerCPU: 3, AgentCPU: 6,
		Ratio: 1, BuyerRatio: 1.5, AgentRatio: 2, // medians of the rounds' ratios
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestAgree(t *testing.T) {
	moved := map[string]uint64{"down": 100, "up": 50}
	for name, test := range map[string]struct {
		change func(*buyer.Result, *seller.Earnings)
		ok     bool
	}{
		"all":         {func(*buyer.Result, *seller.Earnings) {}, true},
		"not counted": {func(r *buyer.Result, e *seller.Earnings) { r.Up, e.Up = 49, 49 }, false},
		"differently": {func(_ *buyer.Result, e *seller.Earnings) { e.Down++ }, false},
		"not signed":  {func(r *buyer.Result, _ *seller.Earnings) { r.Signed-- }, false},
		"not claimed": {func(r *buyer.Result, _ *seller.Earnings) { r.Claimed-- }, false},
		"not taken":   {func(_ *buyer.Result, e *seller.Earnings) { e.Paid-- }, false},
	} {
		r := buyer.Result{Down: 110, Up: 55, Owed: 9, Signed: 9, Claimed: 9}
		e := seller.Earnings{Down: 110, Up: 55, Paid: 9}
		test.change(&r, &e)
		if err := agree(r, e, moved); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		list []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(test.list); got != test.want {
			t.Errorf("median(%v) = %v", test.list, got)
		}
	}
}

// TestJudge holds the targets against figures on both sides of them.
func TestJudge(t *testing.T) {
	r := Report{
		Transfers: []Transfer{{Direction: "down", Way: wayOurs, Ratio: 0.99, BuyerCPU: 4, AgentCPU: 4.1}, {Direction: "down", Way: wayBare, Ratio: 1}},
		Serving:   &Flash{Mbits: 50, SyncsMinute: 60, BytesMinute: 50_000},
		Latencies: []Latency{{wayOurs, 41.5, 86, 5}, {wayBare, 41, 84, 5}, {wayEarly, 41, 46, 5}},
		Memory:    []Memory{{MiB: 14}, {Flows: 48, MiB: 18.1}, {Flows: 7, MiB: 1000}},
		Micro:     &Micro{PacketNanos: 5.1, VoucherMicros: 150},
	}
	r.judge()
	var missed []string
	for _, x := range r.Targets {
		if !x.Met {
			missed = append(missed, x.Name)
		}
	}
	want := []string{
		"one download", "one download, agent's CPU", "flash writes, serving 50 Mbit/s", "first byte at 40 ms, cold",
		"first byte at 40 ms, cold with 0-RTT", "agent's RSS, 48 busy flows", "metering a packet",
	}
	if !slices.Equal(missed, want) {
		t.Errorf("missed %q\nwant %q", missed, want)
	}
	if len(r.Targets) != 13 {
		t.Errorf("%d targets", len(r.Targets))
	}
}

func TestWish(t *testing.T) {
	w := wish{opDown, time.Minute, 1 << 40}
	if got := parseWish([wishSize]byte(w.bytes())); got != w {
		t.Errorf("got %+v", got)
	}
}
