package main

import (
	"net/netip"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
)

func TestExitText(t *testing.T) {
	at, net := netip.MustParseAddr("203.0.113.7"), carrier.Network{AS: 64500, Name: "Example"}
	for _, c := range []struct {
		exit buyer.Exit
		want string
	}{
		{buyer.Exit{Address: at}, "exit 203.0.113.7"},
		{buyer.Exit{Address: at, Finding: carrier.Finding{Evidence: "carrier", Network: net}}, "exit 203.0.113.7 AS64500 Example (carrier)"},
		{buyer.Exit{Address: at, Finding: carrier.Finding{Evidence: "claimed", Network: net, Reason: carrier.OtherNetwork}},
			"exit 203.0.113.7 AS64500 Example (claimed: the network is not the SIM's carrier's)"},
		{buyer.Exit{Address: at, Finding: carrier.Finding{Evidence: "claimed", Reason: carrier.NoNetwork}}, "exit 203.0.113.7 (claimed: the address is in no known network)"},
		{buyer.Exit{Error: "relay \x1b[2J: refused"}, "exit: not known: relay  [2J: refused"},
	} {
		if got := exitText(c.exit); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
