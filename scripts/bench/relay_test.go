package main

import (
	"slices"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
)

func TestSummariseRelay(t *testing.T) {
	direct := []passed{{1000, 0, 3, 0}, {2000, 0, 3, 0}, {100, 0, 3, 0}}
	free := []passed{{1000, 1, 3, 20}, {1000, 1, 3, 20}, {100, 1, 3, 20}}
	paid := []passed{{900, 2, 4, 22}, {1000, 1, 5, 25}, {70, 3, 6, 24}}
	got := summariseRelay(paid, direct, free)
	want := Relay{Mbits: 900, MbitsLow: 70, MbitsHigh: 1000, Ratio: 0.7, FreeRatio: 0.9, CPU: 2, AgentCPU: 5, MiB: 25} // medians of the rounds' ratios
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestJudgeRelays holds the targets of relays against figures on both sides.
func TestJudgeRelays(t *testing.T) {
	r := Report{Relays: []Relay{
		{Link: "a", Direction: "down", Way: wayDirectly, Ratio: 1},
		{Link: "a", Direction: "down", Way: wayRelay, Ratio: 0.95, CPU: 2.51},
		{Link: "a", Direction: "up", Way: wayRelay, Ratio: 0.94, CPU: 2.5},
		{Link: "a", Direction: "up", Way: wayToll, Ratio: 0.1, CPU: 9},
	}}
	r.judge()
	var missed []string
	for _, x := range r.Targets {
		if !x.Met {
			missed = append(missed, x.Name)
		}
	}
	if want := []string{"one download by a relay, a, its CPU", "one upload by a relay, a"}; !slices.Equal(missed, want) || len(r.Targets) != 4 {
		t.Errorf("%d targets, missed %q\nwant %q", len(r.Targets), missed, want)
	}
}

func TestAgreeRelay(t *testing.T) {
	paid := buyer.RelayResult{Down: 110, Up: 55, Owed: 9, Signed: 9, Claimed: 9}
	for name, test := range map[string]struct {
		charges bool
		change  func(*buyer.RelayResult)
		ok      bool
	}{
		"all":         {true, func(*buyer.RelayResult) {}, true},
		"free":        {false, nil, true},
		"paid a free": {false, func(*buyer.RelayResult) {}, false},
		"none paid":   {true, nil, false},
		"less down":   {true, func(x *buyer.RelayResult) { x.Down = 99 }, false},
		"less up":     {true, func(x *buyer.RelayResult) { x.Up = 49 }, false},
		"not signed":  {true, func(x *buyer.RelayResult) { x.Signed-- }, false},
		"not claimed": {true, func(x *buyer.RelayResult) { x.Claimed-- }, false},
		"nothing":     {true, func(x *buyer.RelayResult) { x.Owed, x.Signed, x.Claimed = 0, 0, 0 }, false},
	} {
		r := buyer.Result{Down: 100, Up: 50}
		if test.change != nil {
			x := paid
			test.change(&x)
			r.Relays = []buyer.RelayResult{x}
		}
		if err := agreeRelay(r, test.charges); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
