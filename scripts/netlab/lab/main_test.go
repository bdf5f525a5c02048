package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

func needLab(t *testing.T) {
	t.Helper()
	if err := netlab.Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func TestRunCommand(t *testing.T) {
	needLab(t)
	var out bytes.Buffer
	args := []string{"--agent-nat", "symmetric", "--rtt", "1ms", "--", "agent", "ip", "-o", "-4", "address"}
	if err := run(t.Context(), args, strings.NewReader(""), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "192.168.2.2/24") {
		t.Errorf("the agent has\n%s", out.String())
	}
}

func TestRunOrders(t *testing.T) {
	needLab(t)
	orders := `up rate=8 delay=1ms jitter=2ms queue=3ms loss=0.25 reorder=0.5 cut=true
counts
lease agent
move
udp buyer block
udp buyer 443=1000
udp agent pass
nothing
up speed=1
quit
counts
`
	var out bytes.Buffer
	if err := run(t.Context(), nil, strings.NewReader(orders), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ip netns exec x402lab-", "{In:0 ", "\n198.18.2.3\n", "\n192.168.1.3\n", "orders:", `no key "speed"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Count(out.String(), "{In:") != 2 {
		t.Errorf("counts after quit, or none:\n%s", out.String())
	}
}

func TestParse(t *testing.T) {
	s, err := parse([]string{"--buyer-nat", "none", "--agent-nat", "fullcone", "--up", "5", "--down", "20", "--rtt", "60ms", "--jitter", "30ms", "--loss", "0.01"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := netlab.Shape{Rate: 5_000_000, Delay: 30 * time.Millisecond, Jitter: 15 * time.Millisecond, Queue: 100 * time.Millisecond, Loss: 0.01, ReorderBy: 5 * time.Millisecond}
	if s.up != want || s.world.AgentNAT != netlab.FullCone || s.world.BuyerNAT != netlab.NoNAT {
		t.Errorf("%+v", s)
	}
	if want.Rate = 20_000_000; s.down != want {
		t.Errorf("down %+v", s.down)
	}
	for _, args := range [][]string{{"--agent-nat", "cone"}, {"--rtt", "x"}, {"buyer"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

func TestReshape(t *testing.T) {
	got, err := reshape(netlab.Shape{Loss: 0.5}, strings.Fields("rate=8 delay=1ms jitter=2ms queue=3ms reorder=0.5 cut=true"))
	want := netlab.Shape{Rate: 8_000_000, Delay: time.Millisecond, Jitter: 2 * time.Millisecond, Queue: 3 * time.Millisecond, Loss: 0.5, Reorder: 0.5, Down: true}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, word := range []string{"rate=x", "loss=", "delay=3", "cut=perhaps", "x"} {
		if _, err := reshape(netlab.Shape{}, []string{word}); err == nil {
			t.Errorf("%q was taken", word)
		}
	}
}

func TestParsePolicy(t *testing.T) {
	if p, err := parsePolicy("443=1000"); err != nil || p.Throttle[443] != 1000 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, word := range []string{"", "443", "70000=1", "443=-1"} {
		if _, err := parsePolicy(word); err == nil {
			t.Errorf("%q was taken", word)
		}
	}
}
