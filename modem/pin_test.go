package modem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// TestPIN unlocks a card on every modem, and again after each boot.
func TestPIN(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		for name, faults := range map[string]modemtest.Faults{
			"plain":     {},
			"no count":  {NoTries: true},
			"text":      {TextErrors: true},
			"no CMEE":   {PlainErrors: true},
			"extra":     {Extra: "ERROR"},
			"unwanted":  {URCs: []string{"+CPIN: SIM PIN", "RING"}},
			"slow PIN":  {Slow: map[string]time.Duration{`+CPIN="0042"`: 12 * time.Second}},
			"lost PIN":  {Slow: map[string]time.Duration{`+CPIN="0042"`: 2 * time.Minute}},
			"busy card": {BusyFor: 20 * time.Second},
		} {
			t.Run(profile+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testPIN(t, profile, faults) })
			})
		}
	}
}

func testPIN(t *testing.T, profile string, faults modemtest.Faults) {
	sim, cfg := simulate(t, modemtest.Config{Profile: profile, Card: modemtest.Card{PIN: "0042"}, Faults: faults})
	cfg.PIN, cfg.PINGuard = pin(t, "0042"), filepath.Join(t.TempDir(), "pins")
	for boot := 1; boot <= 3; boot++ {
		m := open(t, cfg)
		identity(t, m)
		identity(t, m)
		if got := sim.PINAttempts(); got != boot {
			t.Errorf("PIN sent %d times in %d boots", got, boot)
		}
		sim.Unplug()
		<-m.Done()
		sim.Replug()
	}
	text, err := os.ReadFile(cfg.PINGuard)
	if err != nil || strings.Count(string(text), "\n") != 1 || strings.Contains(string(text), "0042\n") {
		t.Errorf("record %q, %v", text, err)
	}
	if info, err := os.Stat(cfg.PINGuard); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestPINRefused sends a wrong PIN once and never again: not in the same
// process, not after a boot, not with the record of another card beside it.
func TestPINRefused(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		for name, faults := range map[string]modemtest.Faults{"plain": {}, "text": {TextErrors: true}, "no CMEE": {PlainErrors: true}, "no count": {NoTries: true}} {
			t.Run(profile+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sim, cfg := simulate(t, modemtest.Config{Profile: profile, Card: modemtest.Card{PIN: "1234"}, Faults: faults})
					cfg.PIN, cfg.PINGuard = pin(t, "9999"), filepath.Join(t.TempDir(), "pins")
					for range 3 {
						m := open(t, cfg)
						for range 2 {
							if _, err := m.Identity(t.Context()); !errors.Is(err, modem.ErrPINRefused) {
								t.Fatalf("got %v", err)
							}
						}
						sim.Unplug()
						sim.Replug()
					}
					if got := sim.PINAttempts(); got != 1 {
						t.Errorf("sent %d times", got)
					}
					if err := sim.SwapSIM(&modemtest.Card{ICCID: "8988211000000000029", PIN: "9999"}); err != nil {
						t.Fatal(err)
					}
					identity(t, open(t, cfg))
				})
			})
		}
	}
}

// TestPINTries has cards with few tries left.
func TestPINTries(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		for tries, want := range map[int]error{3: nil, 2: nil, 1: modem.ErrPINRequired, -1: modem.ErrPUKRequired} {
			synctest.Test(t, func(t *testing.T) {
				sim, cfg := simulate(t, modemtest.Config{Profile: profile, Card: modemtest.Card{PIN: "1234", Tries: tries}})
				cfg.PIN, cfg.PINGuard = pin(t, "1234"), filepath.Join(t.TempDir(), "pins")
				_, err := open(t, cfg).Identity(t.Context())
				if !errors.Is(err, want) {
					t.Errorf("%s, %d tries: got %v, want %v", profile, tries, err, want)
				}
				if sent := sim.PINAttempts(); (sent == 1) != (want == nil) {
					t.Errorf("%s, %d tries: sent %d times", profile, tries, sent)
				}
			})
		}
	}
}

// TestPINNotSent has every reason for keeping a PIN back.
func TestPINNotSent(t *testing.T) {
	tests := map[string]struct {
		faults  modemtest.Faults
		prepare func(t *testing.T, dir string) (guard string)
		says    string
	}{
		"card without number": {modemtest.Faults{NoICCID: true}, nil, "which card"},
		"damaged record": {prepare: func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "pins"), "v1 sent 00 00\n")
		}, says: "pins:1 is damaged"},
		"torn record": {prepare: func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "pins"), "v1 sent "+strings.Repeat("0", 32)+" "+strings.Repeat("0", 64))
		}, says: "damaged"},
		"full record": {prepare: func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "pins"), strings.Repeat("v1 sent "+strings.Repeat("0", 32)+" "+strings.Repeat("0", 64)+"\n", 256))
		}, says: "full"},
		"no folder": {prepare: func(t *testing.T, dir string) string { return filepath.Join(dir, "missing", "pins") }, says: "no such file"},
		"a folder":  {prepare: func(t *testing.T, dir string) string { return dir }, says: "is a directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim, cfg := simulate(t, modemtest.Config{Card: modemtest.Card{PIN: "1234"}, Faults: test.faults})
				dir := t.TempDir()
				cfg.PIN, cfg.PINGuard = pin(t, "1234"), filepath.Join(dir, "pins")
				if test.prepare != nil {
					cfg.PINGuard = test.prepare(t, dir)
				}
				_, err := open(t, cfg).Identity(t.Context())
				if !errors.Is(err, modem.ErrPINRequired) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v", err)
				}
				if sim.PINAttempts() != 0 {
					t.Error("sent")
				}
			})
		})
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPINCrash ends the process between sending the PIN and seeing the card
// open: even a right PIN is then not sent again.
func TestPINCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, cfg := simulate(t, modemtest.Config{
			Card:   modemtest.Card{PIN: "1234"},
			Faults: modemtest.Faults{Slow: map[string]time.Duration{`+CPIN="1234"`: 5 * time.Second}},
		})
		cfg.PIN, cfg.PINGuard = pin(t, "1234"), filepath.Join(t.TempDir(), "pins")
		m := open(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		var caller sync.WaitGroup
		caller.Go(func() { m.Identity(ctx) })
		time.Sleep(time.Second) // simulated: the PIN is on its way
		cancel()
		caller.Wait()
		m.Close()
		if sim.PINAttempts() != 1 {
			t.Fatalf("sent %d times", sim.PINAttempts())
		}
		sim.Unplug()
		sim.Replug()
		if _, err := open(t, cfg).Identity(t.Context()); !errors.Is(err, modem.ErrPINRefused) || !strings.Contains(err.Error(), cfg.PINGuard) {
			t.Errorf("got %v", err)
		}
		if sim.PINAttempts() != 1 {
			t.Error("sent again")
		}
	})
}

// TestPINImpatient has the caller leave while the PIN is on its way: it is still
// seen to be right.
func TestPINImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, cfg := simulate(t, modemtest.Config{
			Card:   modemtest.Card{PIN: "1234"},
			Faults: modemtest.Faults{Slow: map[string]time.Duration{`+CPIN="1234"`: 5 * time.Second}},
		})
		cfg.PIN, cfg.PINGuard = pin(t, "1234"), filepath.Join(t.TempDir(), "pins")
		m := open(t, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Identity(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(10 * time.Second) // simulated
		sim.Unplug()
		<-m.Done()
		sim.Replug()
		identity(t, open(t, cfg))
		if got := sim.PINAttempts(); got != 2 {
			t.Errorf("sent %d times in 2 boots", got)
		}
	})
}

// TestPINUnconfirmed cannot record that the PIN was right: that is an error as
// long as it lasts, since the next boot would not send it.
func TestPINUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, cfg := simulate(t, modemtest.Config{
			Card:   modemtest.Card{PIN: "1234"},
			Faults: modemtest.Faults{Slow: map[string]time.Duration{`+CPIN="1234"`: 5 * time.Second}},
		})
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cfg.PIN, cfg.PINGuard = pin(t, "1234"), filepath.Join(dir, "pins")
		m := open(t, cfg)
		var caller sync.WaitGroup
		caller.Go(func() {
			time.Sleep(time.Second) // simulated: the PIN is on its way
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		for range 2 {
			if _, err := m.Identity(t.Context()); err == nil || !strings.Contains(err.Error(), "record that the card took the PIN") {
				t.Errorf("got %v", err)
			}
		}
		caller.Wait()
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		identity(t, m)
	})
}
