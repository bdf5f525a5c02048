package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
)

// TestSums: a network's account counts once, whoever is asked; what is not known
// is left out and said; no sum wraps.
func TestSums(t *testing.T) {
	s := shown{
		Accounts: counted([]shownAccount{
			{Network: "eip155:1", Facilitator: "down", err: facilitator.ErrUnavailable, Error: "down"},
			{Network: "eip155:1", Facilitator: "a", Balance: new(channel.Amount(100)), Earned: 70, Unsettled: 7},
			{Network: "eip155:1", Facilitator: "b", Balance: new(channel.Amount(999)), Earned: 999, Unsettled: 999},
			{Network: "eip155:2", Facilitator: "b", Balance: new(channel.Amount(1<<64 - 1))},
			{Network: "eip155:3", Facilitator: "c", err: facilitator.ErrUnavailable, Error: "down"},
		}),
		Channels: []shownChannel{
			{Network: "eip155:1", Deposited: 50, Signed: new(channel.Amount(20)), Claimed: 10, Escrow: 40, Left: new(channel.Amount(30))},
			{Network: "eip155:1", Deposited: 5, Signed: new(channel.Amount(5)), Claimed: 5, Left: new(channel.Amount(0))},
			{Network: "eip155:3", Deposited: 7, Claimed: 1, Escrow: 6},
		},
	}
	s.add()
	want := []shownNetwork{
		{"eip155:1", sums{Account: 100, Deposited: 55, Signed: new(channel.Amount(25)), Claimed: 15, Escrow: 40, Unsettled: 7, Total: 137, USD: "0.000137"}},
		{"eip155:2", sums{Account: 1<<64 - 1, Signed: new(channel.Amount(0)), Total: 1<<64 - 1, USD: "18446744073709.551615"}},
		{"eip155:3", sums{Deposited: 7, Claimed: 1, Escrow: 6, USD: "0.00", AtLeast: true}},
	}
	if diff := cmp.Diff(want, s.Networks, cmp.AllowUnexported(shownNetwork{})); diff != "" {
		t.Error(diff)
	}
	total := sums{Account: 100, Deposited: 62, Claimed: 16, Escrow: 46, Unsettled: 7, Total: 137, USD: "0.000137", AtLeast: true}
	if diff := cmp.Diff(total, s.Total); diff != "" {
		t.Error(diff)
	}
	var out bytes.Buffer
	if err := s.print(&out, 0); err != nil || !regexp.MustCompile(`(?m)^eip155:1 +earned +a +- +- +0\.00007 +- +0\.000007 +7 +not settled yet$`).MatchString(out.String()) ||
		strings.Count(out.String(), "earned") != 1 {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestKeeperIsBounded: a facilitator that names no networks, too many or none of
// this kind is asked for those that count, and waited for once.
func TestKeeperIsBounded(t *testing.T) {
	var kinds strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&kinds, `,{"x402Version":2,"scheme":"batch-settlement","network":"eip155:%d"}`, i+1)
	}
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/supported" {
			fmt.Fprintf(w, `{"kinds":[{"x402Version":2,"scheme":"batch-settlement","network":"\u001b[2Jx"}%s]}`, &kinds)
			return
		}
		asked++
		if asked == 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, `{"address":"%s","balance":"5"}`, channel.Address{1})
	}))
	defer srv.Close()
	fac, err := nethttp.New(nethttp.Config{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	k := keeper{url: srv.URL, fac: fac, wallet: channel.Address{1}, met: []string{"eip155:7777"}}
	k.ask(t.Context())
	if asked != 3 || len(k.accounts) != maxLedgers || k.accounts[0].Network != "eip155:7777" || k.accounts[1].Network != "eip155:1" || k.accounts[1].Balance == nil {
		t.Errorf("asked %d times, %d accounts: %+v", asked, len(k.accounts), k.accounts[:min(len(k.accounts), 3)])
	}
	for _, a := range k.accounts[2:] {
		if a.Balance != nil || !errors.Is(a.err, facilitator.ErrUnavailable) {
			t.Fatalf("%+v", a)
		}
	}
	var out bytes.Buffer
	s := shown{Accounts: counted(k.accounts)}
	s.add()
	if err := s.print(&out, 0); err != nil || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%v: %q", err, out.String())
	}
	asked = 0
	k = keeper{url: srv.URL, fac: fac, wallet: channel.Address{1}, network: "eip155:20"}
	if k.ask(t.Context()); asked != 1 || len(k.accounts) != 1 || k.accounts[0].Network != "eip155:20" {
		t.Errorf("asked %d times for one: %+v", asked, k.accounts)
	}
}
