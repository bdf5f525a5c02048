package seller

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// watching runs body in simulated time beside a seller that watches the SIM of
// a scripted modem.
func watching(t *testing.T, sim modemtest.Config, pin string, body func(s *Seller, m *modemtest.Modem)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, err := modemtest.New(sim)
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{
			StateDir: dir, Endpoints: []string{"agent.example:4402"}, Price: agent.Price{Up: 1, Down: 1},
			Payment: agent.Payment{
				Network: "eip155:84532", Facilitator: "http://facilitator.example", Asset: channel.Address{1}, PayTo: channel.Address{2},
			},
			Modem: &modem.Config{Open: m.Dial},
		}
		if pin != "" {
			cfg.Modem.PINGuard = filepath.Join(dir, pinGuardFile)
			if cfg.Modem.PIN, err = modem.ParsePIN(pin); err != nil {
				t.Fatal(err)
			}
		}
		s, err := open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.journal.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { m.Run(ctx) })
		wg.Go(func() { s.watchSIM(ctx) })
		body(s, m)
	})
}

// TestLostModem: a modem that has gone is sold on for a while, then nothing is
// sold, and when it is back it is sold again by itself.
func TestLostModem(t *testing.T) {
	watching(t, modemtest.Config{}, "", func(s *Seller, m *modemtest.Modem) {
		time.Sleep(10 * time.Second)
		if n := s.sim.refuses(); n != nil {
			t.Fatalf("refuses although the SIM was read: %+v", n)
		}
		for range 3 {
			m.Unplug()
			time.Sleep(simGrace / 2)
			if n := s.sim.refuses(); n != nil {
				t.Errorf("refuses within the grace: %+v", n)
			}
			time.Sleep(simEvery + simGrace)
			if n := s.sim.refuses(); n == nil || n.Code != agent.NoticeSIM || n.Text != "the agent has lost its modem" {
				t.Errorf("after the grace: %+v", n)
			}
			m.Replug()
			time.Sleep(simRetryMax + simRetryMax/4 + 10*time.Second)
			if n := s.sim.refuses(); n != nil {
				t.Errorf("the modem is back: %+v", n)
			}
		}
	})
}

// TestWrongPIN: it is sent once, however long the agent runs, is unplugged and
// plugged in again, and started anew; and the owner is told.
func TestWrongPIN(t *testing.T) {
	sim := modemtest.Config{Card: modemtest.Card{PIN: "1234"}}
	watching(t, sim, "9999", func(s *Seller, m *modemtest.Modem) {
		for range 5 {
			time.Sleep(20 * time.Minute)
			m.Unplug()
			time.Sleep(time.Minute)
			m.Replug()
		}
		time.Sleep(20 * time.Minute)
		if n := m.PINAttempts(); n != 1 {
			t.Errorf("the PIN was sent %d times", n)
		}
		n := s.sim.refuses()
		if n == nil || n.Code != agent.NoticeSIM || !strings.Contains(n.Text, "PIN") || strings.Contains(n.Text, "9999") {
			t.Errorf("the buyer hears %+v", n)
		}
		s.sim.mu.Lock()
		err := s.sim.err
		s.sim.mu.Unlock()
		if !errors.Is(err, modem.ErrPINRefused) || !strings.Contains(modemAdvice(err), "modem.pin") {
			t.Errorf("the owner hears %v: %s", err, modemAdvice(err))
		}
	})
}
