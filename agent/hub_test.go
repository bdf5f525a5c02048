package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// TestTwoSIMs: one agent sells two SIMs by two offers to one buyer each. What
// they bring is told apart, and one whose modem is missing is nothing to the
// other. Started again with one line less, the other's vouchers are claimed.
func TestTwoSIMs(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	var lines [2]net.PacketConn
	m := newMarketOf(t, func(c *seller.Config) {
		base := *c
		c.Socket = nil
		for i, name := range []string{"berlin", "paris"} {
			sim, err := modemtest.New(modemtest.Config{Card: modemtest.Card{IMSI: []string{"262011234567890", "208011234567890"}[i]}})
			if err != nil {
				t.Fatal(err)
			}
			running.Go(func() { sim.Run(ctx) })
			l := base
			l.Name, l.ID, l.StateDir = name, name, filepath.Join(base.StateDir, "sims", name)
			lines[i] = listenUDP(t)
			l.Listen, l.Socket = lines[i].LocalAddr().String(), borrowed(lines[i])
			l.Modem = &modem.Config{Open: sim.Dial}
			c.SIMs = append(c.SIMs, l)
		}
		lost := base
		lost.Name, lost.ID, lost.StateDir, lost.Listen = "lost", "lost", filepath.Join(base.StateDir, "sims", "lost"), "127.0.0.1:0"
		lost.Socket = nil
		lost.Modem = &modem.Config{Port: filepath.Join(base.StateDir, "ttyUSB9")}
		c.SIMs = append(c.SIMs, lost)
	})
	site := web(t)
	var ids [2]channel.ID
	for i, mcc := range []string{"262", "208"} {
		m.cfg.Listen = lines[i].LocalAddr().String()
		var offer agent.Offer
		until(t, "the offer names the SIM", func() bool {
			offer = m.offer()
			return offer.SIM.MCC != ""
		})
		if offer.SIM.MCC != mcc {
			t.Fatalf("line %d offers %+v", i, offer.SIM)
		}
		p := m.buy(func(c *buyer.Config) { c.Offer = offer })
		fetch(t, p.through(), fmt.Sprintf("%s/%d", site.URL, 100_000*(i+1)), 100_000*(i+1))
		p.stop(t)
		ids[i] = p.id
	}
	if ids[0] == ids[1] {
		t.Error("both lines are paid on one channel")
	}
	control := seller.DialControl(m.cfg.ControlPath())
	var st seller.Status
	if err := control.Get(t.Context(), "status", &st); err != nil {
		t.Fatal(err)
	}
	if len(st.SIMs) != 3 || st.Refusing != "" || st.SIMs[0].Earnings.Down < 100_000 || st.SIMs[1].Earnings.Down < 200_000 ||
		st.SIMs[2].Refusing == "" || st.Earnings.Down != st.SIMs[0].Earnings.Down+st.SIMs[1].Earnings.Down {
		t.Errorf("status: %+v", st)
	}
	for i, name := range []string{"berlin", "paris"} {
		var one seller.Status
		if err := control.Of(name).Get(t.Context(), "status", &one); err != nil || one.Name != name || one.SIMs != nil || one.Agent != st.SIMs[i].Agent {
			t.Errorf("%s: %v, %+v", name, err, one)
		}
		var e seller.Earnings
		if err := control.Of(name).Get(t.Context(), "earnings", &e); err != nil || len(e.Channels) != 1 || e.Channels[0].Channel != ids[i] || e.Channels[0].SIM != name {
			t.Errorf("%s: %v, %+v", name, err, e)
		}
	}
	if err := control.Of("oslo").Get(t.Context(), "status", new(seller.Status)); err == nil || err.Error() != `no SIM "oslo": there is berlin, paris, lost` {
		t.Errorf("a SIM that is none: %v", err)
	}
	if _, err := control.Settle(t.Context()); err != nil {
		t.Errorf("settle: %v", err)
	}
	m.forgetsALine(st.SIMs[1])
}

// forgetsALine starts the agent without its second line, which sells no more and
// is shown for what it has earned.
func (m *market) forgetsALine(paris seller.Status) {
	m.t.Helper()
	m.agent.stop(m.t)
	m.cfg.SIMs = m.cfg.SIMs[:1]
	m.startAgent()
	var st seller.Status
	until(m.t, "the agent is back", func() bool {
		err := seller.DialControl(m.cfg.ControlPath()).Get(m.t.Context(), "status", &st)
		return err == nil && len(st.SIMs) == 2
	})
	former := st.SIMs[1]
	if former.Name != "paris" || former.Agent != paris.Agent || former.Refusing == "" || former.Earnings.Owed != paris.Earnings.Owed {
		m.t.Errorf("the line of before: %+v", former)
	}
	if _, err := os.Stat(filepath.Join(m.cfg.StateDir, "sims", "paris", "device.key")); !errors.Is(err, fs.ErrNotExist) {
		m.t.Errorf("a line has a key on disk: %v", err)
	}
}
