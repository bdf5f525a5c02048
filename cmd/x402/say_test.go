package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestSentences(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newSentences(&out, slog.LevelWarn, given{state: "st"})).With("side", "buyer")
	log.Info("connected")
	log.Warn("the tunnel is down; trying again", "err", errors.New("dial a:1: context deadline exceeded"), "after", 212*time.Millisecond)
	log.Warn("the agent says", "code", "channel_busy", "text", "busy\x1b[2J")
	log.Error("store", "err", errors.New("full: x402 wallet refund later"), "amount", 7)
	want := `the tunnel is down; trying again: dial a:1: no answer in time (side buyer); again in 200ms
the agent says: busy [2J (side buyer)
store: full: x402 wallet refund --state st later (side buyer, amount 7)
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestEcho(t *testing.T) {
	for _, tt := range []struct {
		given      given
		text, want string
	}{
		{given{}, "x402 wallet show lists them", "x402 wallet show lists them"},
		{given{wallet: "w"}, "x402 wallet new; then x402 wallet fund", "x402 wallet new --wallet w; then x402 wallet fund --wallet w"},
		{given{state: "s"}, "x402 wallet new; x402 wallet show", "x402 wallet new; x402 wallet show --state s"},
		{given{"a b", "it's"}, "x402 connect --keep", `x402 connect --wallet 'a b' --state 'it'\''s' --keep`},
		{given{state: "s"}, "x402 wallet show --help explains", "x402 wallet show --help explains"},
		{given{state: "s"}, "x402-facilitator issue, x402 demo", "x402-facilitator issue, x402 demo"},
		{given{state: "s"}, "x402 connected", "x402 connected"},
	} {
		if got := tt.given.echo(tt.text); got != tt.want {
			t.Errorf("%+v %q: got %q, want %q", tt.given, tt.text, got, tt.want)
		}
	}
}

func TestGivenBy(t *testing.T) {
	for args, want := range map[string]given{
		"wallet show":                          {},
		"wallet show --state s":                {state: "s"},
		"connect -state=s --wallet=w --keep":   {"w", "s"},
		"connect --state":                      {},
		"wallet show --wallet w --json":        {wallet: "w"},
		"connect --agent a --wallet w x state": {wallet: "w"},
	} {
		if got := givenBy(strings.Fields(args)); got != want {
			t.Errorf("%s: got %+v, want %+v", args, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"a: context deadline exceeded": "a: no answer in time",
		"read udp 1: i/o timeout":      "read udp 1: no answer in time",
		"b: context deadline exceeded (Client.Timeout exceeded while awaiting headers)": "b: no answer in time",
	} {
		if got := plain(text); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
}
