package agent_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/tunnel/relay"
)

// TestExit: a buyer sees where his traffic leaves by asking a relay of his own
// through the tunnel, and believes no SIM that does not fit.
func TestExit(t *testing.T) {
	t.Parallel()
	hub := startRelay(t)
	path := filepath.Join(t.TempDir(), "ip2asn.tsv")
	if err := os.WriteFile(path, []byte("127.0.0.0\t127.255.255.255\t64500\tDE\tVodafone GmbH\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := must(carrier.Read(path))
	m, sim := withModem(t, modemtest.Config{Card: modemtest.Card{IMSI: "262021234567890"}}, func(c *seller.Config) { c.SellNewSIM = true })
	control := seller.DialControl(m.cfg.ControlPath())
	selling := func(mnc string) func() bool {
		return func() bool {
			var st seller.Status
			return control.Get(t.Context(), "status", &st) == nil && st.Refusing == "" && st.Modem.MNC == mnc
		}
	}
	gone := relay.Name{Host: "127.0.0.1", Port: 1, Pinned: true}
	look := func(check buyer.ExitCheck) buyer.Exit {
		t.Helper()
		var on screen
		p := m.buy(func(c *buyer.Config) { c.Exit, c.OnStatus = &check, on.show })
		until(t, "for the exit", func() bool { return on.now().Exit != nil })
		p.stop(t)
		m.settled(p)
		if used := p.result.Up + p.result.Down; used > 20_000 {
			t.Errorf("to look took %d bytes", used)
		}
		return *on.now().Exit
	}
	until(t, "for the SIM", selling("02"))
	e := look(buyer.ExitCheck{Relays: []relay.Name{gone, hub.name}, Networks: table})
	if !e.Confirmed() || e.Address.String() != "127.0.0.1" || e.Network.AS != 64500 || e.Error != "" {
		t.Errorf("%+v", e)
	}
	if e := look(buyer.ExitCheck{Relays: []relay.Name{hub.name}}); e.Confirmed() || e.Evidence != "" || e.Address.String() != "127.0.0.1" {
		t.Errorf("without a table: %+v", e)
	}
	if e := look(buyer.ExitCheck{Relays: []relay.Name{gone}}); e.Error == "" || e.Address.IsValid() {
		t.Errorf("without a relay: %+v", e)
	}
	unplug(t, sim, control, &modemtest.Card{IMSI: "262011234567890"})
	until(t, "for the other SIM", selling("01"))
	until(t, "for its offer", func() bool { return m.offer().SIM.MNC == "01" })
	if e := look(buyer.ExitCheck{Relays: []relay.Name{hub.name}, Networks: table}); e.Confirmed() || e.Reason != carrier.OtherNetwork {
		t.Errorf("of another carrier: %+v", e)
	}
}
