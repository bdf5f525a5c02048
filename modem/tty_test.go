package modem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// plugIn serves sim on a pseudo-terminal for the length of the test. The
// returned channel gets a value each time link is there.
func plugIn(t *testing.T, sim *modemtest.Modem, link string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan string, 8) // more than a test replugs
	var running sync.WaitGroup
	running.Go(func() {
		if err := sim.RunPTY(ctx, link, func(tty string) { ready <- tty }); err != nil {
			t.Errorf("pty: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if _, err := os.Lstat(link); err == nil {
			t.Error("the link is still there")
		}
	})
	return ready
}

// TestTTY does on a real terminal what the other tests do in simulated time:
// open, read, unplug, replug.
func TestTTY(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		t.Run(profile, func(t *testing.T) {
			sim, err := modemtest.New(modemtest.Config{
				Profile: profile,
				Card:    modemtest.Card{IMSI: "262019876543210", PIN: "1234"},
				Faults:  modemtest.Faults{StickyEcho: true, ExtraCR: true, URCs: []string{"^RSSI:17", "RING"}, Garbage: "\x00\xff"},
			})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			link := filepath.Join(dir, "ttyUSB2")
			ready := plugIn(t, sim, link)
			<-ready
			cfg := modem.Config{Port: link, PIN: pin(t, "1234"), PINGuard: filepath.Join(dir, "pins")}
			m := open(t, cfg)
			if id := identity(t, m); id.IMSI.Digits() != "262019876543210" || id.IMSI.MNC() != "01" {
				t.Errorf("IMSI %s", id.IMSI.Digits())
			}
			if s, err := m.Status(t.Context()); err != nil || s.Registration != modem.Home || s.Technology != modem.LTE {
				t.Errorf("%+v, %v", s, err)
			}
			sim.Unplug()
			<-m.Done()
			if _, err := m.Identity(t.Context()); !errors.Is(err, modem.ErrGone) {
				t.Errorf("unplugged: %v", err)
			}
			sim.Replug()
			<-ready
			identity(t, open(t, cfg))
		})
	}
}

// TestTTYReopen has a terminal closed and opened anew after a time-out, and by
// one Modem after the other. The time-out is short, so on a busy machine it may
// hit other commands too; then the Modem must come round again.
func TestTTYReopen(t *testing.T) {
	sim, err := modemtest.New(modemtest.Config{Faults: modemtest.Faults{Answers: map[string][]string{"+CPIN?": nil}}})
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "ttyUSB2")
	<-plugIn(t, sim, link)
	var m *modem.Modem
	for err = modem.ErrTimeout; errors.Is(err, modem.ErrTimeout); {
		m, err = modem.Open(t.Context(), modem.Config{Port: link, Timeout: 300 * time.Millisecond})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Status(t.Context()); !errors.Is(err, modem.ErrTimeout) {
		t.Errorf("silent: %v", err)
	}
	sim.Break(func(f *modemtest.Faults) { f.Answers = nil })
	for err = modem.ErrTimeout; errors.Is(err, modem.ErrTimeout); {
		_, err = m.Identity(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	m.Close()
	identity(t, open(t, modem.Config{Port: link}))
}
