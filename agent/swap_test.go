package agent_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// withModem gives a market's agent a scripted modem, which runs as long as the
// test.
func withModem(t *testing.T, cfg modemtest.Config, change func(*seller.Config)) (*market, *modemtest.Modem) {
	t.Helper()
	sim, err := modemtest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := start(func(ctx context.Context) error {
		sim.Run(ctx)
		return nil
	})
	t.Cleanup(func() { r.stop(t) })
	return newMarketOf(t, func(c *seller.Config) {
		c.Modem = &modem.Config{Open: sim.Dial, Logger: c.Logger}
		if change != nil {
			change(c)
		}
	}), sim
}

// TestSwapEndsSessions: another SIM ends what was bought of the one before, at
// once and with both sides' counts alike, and when its owner sells it the buyer
// is served again.
func TestSwapEndsSessions(t *testing.T) {
	t.Parallel()
	m, sim := withModem(t, modemtest.Config{Card: modemtest.Card{IMSI: "262011234567890"}}, nil)
	control := seller.DialControl(m.cfg.ControlPath())
	sells := func(want bool) func() bool {
		return func() bool {
			var st seller.Status
			err := control.Get(t.Context(), "status", &st)
			return err == nil && (st.Refusing == "") == want && st.Modem.IMSI != ""
		}
	}
	until(t, "for the SIM", sells(true))
	site := web(t)
	p := m.buy(nil)
	client := p.through()
	resp, err := client.Get(endless(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 100_000); err != nil {
		t.Fatal(err)
	}
	sim.Unplug() // as whoever changes a SIM does; then the modem is looked for at once
	until(t, "for the modem to be missed", func() bool {
		var st seller.Status
		return control.Get(t.Context(), "status", &st) == nil && st.Modem.Error != ""
	})
	if err := sim.SwapSIM(&modemtest.Card{IMSI: "262021234567890"}); err != nil {
		t.Fatal(err)
	}
	sim.Replug()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the download was not cut")
	}
	until(t, "for the session to end", func() bool { _, lives := m.session(p.id); return !lives })
	until(t, "for the SIM to be withheld", sells(false))
	for _, command := range []string{"airplane for=on", "mode to=4g", "bands to=b3", "reset", "sms-list", "sms-send to=1234", "ussd code=1"} {
		if _, err := tell[struct{}](t, control, command); err == nil || !strings.HasSuffix(err.Error(), "x402-agent sim accept") {
			t.Errorf("%s by another SIM: %v", command, err)
		}
	}
	for _, command := range []string{"airplane for=off", "airplane", "mode", "bands", "signal"} {
		if _, err := tell[struct{}](t, control, command); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	card, err := control.AcceptSIM(t.Context(), "")
	if err != nil || card.MNC != "02" || !card.Sold {
		t.Fatalf("%+v %v", card, err)
	}
	until(t, "for the buyer to be served", func() bool { _, lives := m.session(p.id); return lives })
	if o := m.offer(); o.SIM.MNC != "02" || o.SIM.Evidence != agent.EvidenceClaimed {
		t.Errorf("%+v", o.SIM)
	}
	fetch(t, client, site.URL+"/1000", 1000)
	p.cancel()
	m.settled(p)
}
