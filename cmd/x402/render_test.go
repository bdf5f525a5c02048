package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
)

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 1_009: "1.00 kB", 1_010: "1.01 kB", 9_999: "9.99 kB", 10_000: "10.0 kB",
		99_999: "99.9 kB", 100_000: "100 kB", 999_999: "999 kB", 1_000_000: "1.00 MB", 1_234_567_890: "1.23 GB",
		1 << 63: "9.22 EB", ^uint64(0): "18.4 EB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// running is a status in mid-purchase, of a budget of 2 USD.
func running() buyer.Status {
	return buyer.Status{
		State: "connected", Session: 3, Flows: 12, Rate: 1_234_567, Up: 4_500_000, Down: 1_230_000_000,
		BudgetLeft: 1_508_000, Balance: 750_000,
	}
}

func TestLiveLines(t *testing.T) {
	quiet, troubled := running(), running()
	troubled.State, troubled.Error, troubled.Notice = "reconnecting", "the agent\x1b[2J is\ngone", "an older notice"
	tests := []struct {
		name  string
		s     buyer.Status
		width int
		want  []string
	}{
		{"running", quiet, 100, []string{
			"connected       1.23 MB/s  down 1.23 GB  up 4.50 MB  flows 12",
			"spent 0.492 of 2.00 USD, left 1.508, in the channel 0.75",
		}},
		{"before the terms", buyer.Status{State: "connecting"}, 100, []string{
			"connecting          0 B/s  down 0 B      up 0 B      flows 0",
			"spent 0.00 of 2.00 USD, left 2.00, in the channel 0.00",
		}},
		{"nothing known", buyer.Status{}, 100, []string{
			"starting            0 B/s  down 0 B      up 0 B      flows 0",
			"spent 0.00 of 2.00 USD, left 2.00, in the channel 0.00",
		}},
		{"trouble", troubled, 100, []string{
			"reconnecting    1.23 MB/s  down 1.23 GB  up 4.50 MB  flows 12",
			"spent 0.492 of 2.00 USD, left 1.508, in the channel 0.75 - the agent [2J is gone",
		}},
		{"narrow", troubled, 30, []string{
			"reconnecting    1.23 MB/s  d~",
			"spent 0.492 of 2.00 USD, lef~",
		}},
		{"no room", quiet, 1, []string{"~", "~"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := liveLines(test.s, 2_000_000, test.width)
			for i, l := range got {
				if test.name == "narrow" && len([]rune(l)) >= test.width {
					t.Errorf("%d columns in a terminal of %d", len(l), test.width)
				}
				got[i] = strings.TrimRight(l, " ")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPlainLine(t *testing.T) {
	s := running()
	s.Notice = "cr\redit"
	want := "connected: 1.23 MB/s, down 1.23 GB, up 4.50 MB, spent 0.492 USD, left 1.508, flows 12 - cr edit"
	if got := plainLine(s, 2_000_000); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWayNews(t *testing.T) {
	direct, relayed := way{buyer.QUIC, ""}, way{buyer.QUIC, "r:1"}
	tls, tlsRelayed := way{buyer.TLS, ""}, way{buyer.TLS, "r:1"}
	const blocked = "UDP does not get through here: using TLS; QUIC is tried again; "
	for _, tt := range []struct {
		before, now way
		forced      bool
		want        string
	}{
		{way{}, direct, false, ""},
		{way{}, relayed, false, "the agent is reached by the relay r:1"},
		{relayed, relayed, false, ""},
		{relayed, direct, false, "the agent is reached directly"},
		{direct, way{buyer.QUIC, "s:2"}, false, "the agent is reached by the relay s:2"},
		{way{}, tls, false, blocked + "the agent is reached directly"},
		{way{}, tls, true, ""},
		{way{}, tlsRelayed, true, "the agent is reached by the relay r:1"},
		{relayed, tlsRelayed, false, blocked + "the agent is reached by the relay r:1"},
		{tls, tlsRelayed, false, "the agent is reached by the relay r:1"},
		{tlsRelayed, direct, false, "UDP gets through: using QUIC again; the agent is reached directly"},
	} {
		if got := wayNews(tt.before, tt.now, tt.forced); got != tt.want {
			t.Errorf("%v to %v: got %q, want %q", tt.before, tt.now, got, tt.want)
		}
	}
	s := running()
	s.Transport, s.Relay = buyer.TLS, "r:1"
	if got := plainLine(s, 2_000_000); !strings.HasSuffix(got, ", flows 12, TLS by relay") {
		t.Error(got)
	}
	s.Relay, s.Direct = "", true
	if got := liveLines(s, 2_000_000, 80)[0]; got != "connected       1.23 MB/s  down 1.23 GB  up 4.50 MB  flows 12   TLS direct" {
		t.Error(got)
	}
}

func TestOfferTexts(t *testing.T) {
	sim := agent.SIM{Operator: "Example Mobile", MCC: "262", MNC: "01", Technology: "LTE", Roaming: true, Evidence: agent.EvidenceClaimed}
	boast := agent.SIM{Operator: "Example", Evidence: "carrier"} // its own word
	net := carrier.Network{AS: 64500, Name: "Example GmbH"}
	for _, test := range [][2]string{
		{simText(sim, carrier.Finding{}), "Example Mobile, MCC 262 MNC 01, LTE, roaming; so says the agent, nobody has checked it"},
		{simText(boast, carrier.Finding{}), "Example; so says the agent, nobody has checked it"},
		{simText(boast, carrier.Finding{Evidence: "carrier", Network: net}), "Example; so says the agent, and its relay sees it in AS64500 Example GmbH, the carrier's"},
		{simText(boast, carrier.Finding{Evidence: "claimed", Network: net, Reason: carrier.OtherNetwork}), "Example; so says the agent, and its relay sees it in AS64500 Example GmbH: the network is not the SIM's carrier's"},
		{simText(boast, carrier.Finding{Evidence: "claimed", Reason: carrier.NoNetwork}), "Example; so says the agent, and its relay found nothing for it: the address is in no known network"},
		{simText(agent.SIM{}, carrier.Finding{}), "the agent does not say"},
		{carrierText(sim), "Example Mobile roaming"}, {carrierText(agent.SIM{MCC: "262", MNC: "01"}), "Telekom"}, {carrierText(agent.SIM{MCC: "262", MNC: "99"}), "26299"},
		{priceText(agent.Price{Up: 800_000, Down: 800_000}, 1_000_000), "0.80 USD per GB; at most 1.00 is allowed"},
		{priceText(agent.Price{Up: 1, Down: 800_000}, 1_000_000), "0.80 USD per GB down, 0.000001 up; at most 1.00 is allowed"},
		{budgetText(2_000_000, agent.Price{Up: 1, Down: 800_000}), "2.00 USD, enough for 2.50 GB at least"},
		{budgetText(2_000_000, agent.Price{}), "2.00 USD, and the traffic is free"},
		{duration(86_400), "24 hours"}, {duration(172_800), "2 days"}, {duration(119), "119 seconds"}, {duration(900), "15 minutes"},
	} {
		if test[0] != test[1] {
			t.Errorf("got  %s\nwant %s", test[0], test[1])
		}
	}
}
