package modem_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
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

// simulate starts a scripted modem in the caller's bubble and returns it with a
// config that opens it.
func simulate(t *testing.T, cfg modemtest.Config) (*modemtest.Modem, modem.Config) {
	t.Helper()
	sim, err := modemtest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { sim.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return sim, modem.Config{Open: sim.Dial}
}

func open(t *testing.T, cfg modem.Config) *modem.Modem {
	t.Helper()
	m, err := modem.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func identity(t *testing.T, m *modem.Modem) modem.Identity {
	t.Helper()
	id, err := m.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func pin(t *testing.T, digits string) modem.PIN {
	t.Helper()
	p, err := modem.ParsePIN(digits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// through has call succeed as a patient caller would: a modem that timed out is
// asked again, one that is gone is opened again. m may be nil.
func through(t *testing.T, m *modem.Modem, cfg modem.Config, call func(*modem.Modem) error) *modem.Modem {
	t.Helper()
	for try := range 8 {
		var err error
		if m == nil {
			m, err = modem.Open(t.Context(), cfg)
		}
		if err == nil {
			err = call(m)
		}
		switch {
		case err == nil:
			t.Cleanup(func() { m.Close() })
			return m
		case errors.Is(err, modem.ErrTimeout):
		case errors.Is(err, modem.ErrGone), errors.Is(err, modemtest.ErrUnplugged):
			if m != nil {
				m.Close()
			}
			m = nil
			<-time.After(5 * time.Second) // simulated
		default:
			t.Fatalf("try %d: %v", try, err)
		}
	}
	t.Fatal("does not come through")
	return nil
}

// TestIdentity reads the same card through every dialect and every fault that a
// modem may have and still be understood.
func TestIdentity(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		for _, name := range append(modemtest.FaultNames(), "none") {
			faults, _ := modemtest.Named(name)
			t.Run(profile+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testIdentity(t, profile, faults) })
			})
		}
	}
}

func testIdentity(t *testing.T, profile string, faults modemtest.Faults) {
	sim, cfg := simulate(t, modemtest.Config{
		Profile:  profile,
		Card:     modemtest.Card{IMSI: "310260123456789", ICCID: "8901260123456789012", MNCLength: 3},
		Operator: modemtest.Operator{Name: "Vodafone D2", PLMN: "26202"}, Registration: 5,
		Faults: faults,
	})
	var id modem.Identity
	m := through(t, nil, cfg, func(m *modem.Modem) (err error) {
		id, err = m.Identity(t.Context())
		return err
	})
	if got := id.IMSI.Digits(); got != "310260123456789" {
		t.Errorf("IMSI %s", got)
	}
	if mcc, mnc := id.IMSI.MCC(), id.IMSI.MNC(); mcc != "310" || mnc != "260" {
		t.Errorf("MCC %s MNC %s", mcc, mnc)
	}
	if id.ICCID != "8901260123456789012" || id.IMEI != "490154203237518" {
		t.Errorf("ICCID %s IMEI %s", id.ICCID, id.IMEI)
	}
	if got := id.Maker + " " + id.Model; got != modemtest.Model(profile) || id.Revision == "" {
		t.Errorf("%s, revision %q", got, id.Revision)
	}

	want := modem.Status{
		SIM:          modem.SIMReady,
		Operator:     modem.Operator{Name: "Vodafone D2", MCC: "262", MNC: "02"},
		Registration: modem.Roaming,
		Technology:   modem.LTE,
		Signal:       modem.Signal{RSSI: -71, RSRP: -95},
		Roaming:      true,
	}
	if profile == modemtest.Huawei || profile == modemtest.ZTE {
		want.Signal.RSRP = 0 // no AT+CESQ
	}
	var got modem.Status
	status := func(m *modem.Modem) (err error) {
		got, err = m.Status(t.Context())
		return err
	}
	for range 2 {
		if m = through(t, m, cfg, status); got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
	sim.Register(3)
	if through(t, m, cfg, status); got.Registration != modem.Denied || got.Roaming || got.Operator != (modem.Operator{}) {
		t.Errorf("denied: got %+v", got)
	}
}

func TestStatus(t *testing.T) {
	tests := map[string]struct {
		cfg  modemtest.Config
		want modem.Status
	}{
		"5G": {
			modemtest.Config{Technology: 11},
			modem.Status{SIM: modem.SIMReady, Operator: modem.Operator{Name: "Test", MCC: "001", MNC: "01"}, Registration: modem.Home, Technology: modem.NR, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
		"3G": {
			modemtest.Config{Technology: 6, Registration: 5},
			modem.Status{SIM: modem.SIMReady, Operator: modem.Operator{Name: "Test", MCC: "001", MNC: "01"}, Registration: modem.Roaming, Roaming: true, Technology: modem.HSPA, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
		"no AcT, Huawei": {
			modemtest.Config{Technology: -1, Profile: modemtest.Huawei},
			modem.Status{SIM: modem.SIMReady, Operator: modem.Operator{Name: "Test", MCC: "001", MNC: "01"}, Registration: modem.Home, Technology: modem.LTE, Signal: modem.Signal{RSSI: -71}},
		},
		"no AcT, SIMCom": {
			modemtest.Config{Technology: -1, Profile: modemtest.SIMCom, Operator: modemtest.Operator{Name: "МТС", PLMN: "310260"}},
			modem.Status{SIM: modem.SIMReady, Operator: modem.Operator{Name: "МТС", MCC: "310", MNC: "260"}, Registration: modem.Home, Technology: modem.LTE, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
		"searching": {
			modemtest.Config{Registration: 2},
			modem.Status{SIM: modem.SIMReady, Registration: modem.Searching, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
		"no SIM": {
			modemtest.Config{NoSIM: true},
			modem.Status{SIM: modem.SIMAbsent, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
		"PIN": {
			modemtest.Config{Card: modemtest.Card{PIN: "1234"}},
			modem.Status{SIM: modem.SIMPIN, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
		"PUK": {
			modemtest.Config{Card: modemtest.Card{PIN: "1234", Tries: -1}},
			modem.Status{SIM: modem.SIMPUK, Signal: modem.Signal{RSSI: -71, RSRP: -95}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, cfg := simulate(t, test.cfg)
				got, err := open(t, cfg).Status(t.Context())
				if err != nil || got != test.want {
					t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
				}
			})
		})
	}
}

// TestMNCLength has card, network and table disagree.
func TestMNCLength(t *testing.T) {
	tests := map[string]struct {
		imsi string
		ad   int
		cfg  modemtest.Config
		want string
	}{
		"card":                      {"310260123456789", 3, modemtest.Config{Registration: 5}, "260"},
		"card against table":        {"262011234567890", 3, modemtest.Config{Registration: 5}, "011"},
		"network against card":      {"310260123456789", 2, modemtest.Config{Operator: modemtest.Operator{PLMN: "310260"}}, "260"},
		"no card, network":          {"405041123456789", -1, modemtest.Config{Operator: modemtest.Operator{PLMN: "405041"}}, "041"},
		"no card, foreign network":  {"310260123456789", -1, modemtest.Config{Operator: modemtest.Operator{PLMN: "26201"}, Registration: 5}, "260"},
		"no card, one in the table": {"405854123456789", -1, modemtest.Config{Registration: 5}, "854"},
		"no card, unknown":          {"246813579", -1, modemtest.Config{Registration: 5}, "81"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.cfg.Card = modemtest.Card{IMSI: test.imsi, MNCLength: test.ad}
				_, cfg := simulate(t, test.cfg)
				id := identity(t, open(t, cfg))
				if id.IMSI.Digits() != test.imsi || id.IMSI.MNC() != test.want {
					t.Errorf("MNC %s of %s, want %s", id.IMSI.MNC(), id.IMSI.Digits(), test.want)
				}
			})
		})
	}
}

func TestSIMErrors(t *testing.T) {
	tests := map[string]struct {
		cfg  modemtest.Config
		want error
		in   time.Duration
	}{
		"no SIM":      {modemtest.Config{NoSIM: true}, modem.ErrNoSIM, time.Second},
		"busy":        {modemtest.Config{Faults: modemtest.Faults{BusyFor: time.Hour}}, modem.ErrSIMBusy, 35 * time.Second},
		"PIN":         {modemtest.Config{Card: modemtest.Card{PIN: "1234"}}, modem.ErrPINRequired, time.Second},
		"PUK":         {modemtest.Config{Card: modemtest.Card{PIN: "1234", Tries: -1}}, modem.ErrPUKRequired, time.Second},
		"no SIM text": {modemtest.Config{NoSIM: true, Faults: modemtest.Faults{TextErrors: true}}, modem.ErrNoSIM, time.Second},
	}
	for name, test := range tests {
		for _, profile := range modemtest.Profiles() {
			t.Run(profile+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					test.cfg.Profile = profile
					_, cfg := simulate(t, test.cfg)
					m, start := open(t, cfg), time.Now()
					_, err := m.Identity(t.Context())
					if !errors.Is(err, test.want) {
						t.Errorf("got %v, want %v", err, test.want)
					}
					if took := time.Since(start); took > test.in {
						t.Errorf("after %v, want %v", took, test.in)
					}
				})
			})
		}
	}
}

// TestSwap changes card and network under an open Modem.
func TestSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, cfg := simulate(t, modemtest.Config{})
		m := open(t, cfg)
		first := identity(t, m)
		if err := sim.SwapSIM(nil); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Identity(t.Context()); !errors.Is(err, modem.ErrNoSIM) {
			t.Errorf("without card: %v", err)
		}
		if err := sim.SwapSIM(&modemtest.Card{IMSI: "262011234567890"}); err != nil {
			t.Fatal(err)
		}
		if second := identity(t, m); second.IMSI.Equal(first.IMSI) || second.IMSI.MCC() != "262" {
			t.Error("the new card has the old IMSI")
		}
		sim.Roam(modemtest.Operator{Name: "Orange F", PLMN: "20801"})
		if s, err := m.Status(t.Context()); err != nil || !s.Roaming || s.Operator.MNC != "01" || s.Operator.Name != "Orange F" {
			t.Errorf("abroad: %+v, %v", s, err)
		}
	})
}

// TestLateAnswer has an answer come after its time-out: it must not become the
// answer to the next command, and the modem works again.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, cfg := simulate(t, modemtest.Config{Faults: modemtest.Faults{Slow: map[string]time.Duration{"+CIMI": 12 * time.Second}}})
		m := open(t, cfg)
		if _, err := m.Identity(t.Context()); !errors.Is(err, modem.ErrTimeout) {
			t.Fatalf("slow: %v", err)
		}
		sim.Break(func(f *modemtest.Faults) { f.Slow = nil })
		if id := identity(t, m); id.IMSI.Digits() != "001010123456789" {
			t.Errorf("IMSI %s", id.IMSI.Digits())
		}
	})
}

// A cable is a port that stays the same line when it is closed and opened, as a
// tty does: what the modem says late arrives at whoever has it open then.
type cable struct {
	conn io.ReadWriteCloser
	out  chan []byte // closed by the test
	mu   sync.Mutex
	open *io.PipeWriter
}

func (c *cable) send() {
	for text := range c.out {
		c.conn.Write(text) // fails when the modem is gone, as it should
	}
}

func (c *cable) receive() {
	buf := make([]byte, 256)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			return
		}
		c.mu.Lock()
		open := c.open
		c.mu.Unlock()
		if open != nil {
			open.Write(buf[:n]) // fails when it was closed: nobody has the port
		}
	}
}

type cableEnd struct {
	*io.PipeReader
	out chan<- []byte // holds more than a test sends
}

func (c cableEnd) Write(p []byte) (int, error) {
	c.out <- bytes.Clone(p)
	return len(p), nil
}

func (c *cable) Open(context.Context) (io.ReadWriteCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var r *io.PipeReader
	r, c.open = io.Pipe()
	return cableEnd{r, c.out}, nil
}

// TestLateCable is TestLateAnswer where the late answer does arrive, at any
// moment of the next commands, and the card was swapped meanwhile: the old IMSI
// must not come back.
func TestLateCable(t *testing.T) {
	for late := 10 * time.Second; late < 30*time.Second; late += 370 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			sim, cfg := simulate(t, modemtest.Config{})
			conn, err := cfg.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			line := &cable{conn: conn, out: make(chan []byte, 1000)}
			var ends sync.WaitGroup
			ends.Go(line.send)
			ends.Go(line.receive)
			defer ends.Wait()
			defer conn.Close()
			defer close(line.out)
			m, err := modem.Open(t.Context(), modem.Config{Open: line.Open})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			identity(t, m)
			sim.Break(func(f *modemtest.Faults) { f.Slow = map[string]time.Duration{"+CIMI": late} })
			if _, err := m.Identity(t.Context()); late > 10*time.Second && !errors.Is(err, modem.ErrTimeout) {
				t.Fatalf("%v late: %v", late, err)
			}
			sim.Break(func(f *modemtest.Faults) { f.Slow = nil })
			if err := sim.SwapSIM(&modemtest.Card{IMSI: "262011234567890"}); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				id, err := m.Identity(t.Context())
				if errors.Is(err, modem.ErrTimeout) {
					continue
				}
				if err != nil || id.IMSI.Digits() != "262011234567890" {
					t.Errorf("%v late: %s, %v", late, id.IMSI.Digits(), err)
				}
				return
			}
			t.Errorf("%v late: never again", late)
		})
	}
}

// TestStaleDigits has the answer to AT+CGSN arrive as that to AT+CIMI.
func TestStaleDigits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, cfg := simulate(t, modemtest.Config{Faults: modemtest.Faults{Answers: map[string][]string{"+CIMI": {"490154203237518", "OK"}}}})
		m := open(t, cfg)
		if id, err := m.Identity(t.Context()); err == nil {
			t.Errorf("IMEI taken for IMSI %s", id.IMSI.Digits())
		}
		sim.Break(func(f *modemtest.Faults) { f.Answers = nil })
		identity(t, m)
	})
}

// TestSilentCommand has a modem that never answers some commands which are not
// needed.
func TestSilentCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, cfg := simulate(t, modemtest.Config{Faults: modemtest.Faults{Answers: map[string][]string{"+QCCID": nil, "+CGMR": {"UNKNOWN COMMAND"}}}})
		m := open(t, cfg)
		if id := identity(t, m); id.ICCID != "8988211000000000011" || id.Revision != "" {
			t.Errorf("%+v", id)
		}
		start := time.Now()
		identity(t, m)
		if took := time.Since(start); took > time.Second {
			t.Errorf("asked again for %v", took)
		}
	})
}

// TestHang has the modem stop in the middle: calls end with their context, and
// it works again when the modem does.
func TestHang(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		t.Run(profile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testHang(t, profile) })
		})
	}
}

func testHang(t *testing.T, profile string) {
	sim, cfg := simulate(t, modemtest.Config{Profile: profile})
	m := open(t, cfg)
	sim.Break(func(f *modemtest.Faults) { f.Hang = true })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	start := time.Now()
	if _, err := m.Status(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if _, err := m.Status(t.Context()); !errors.Is(err, modem.ErrTimeout) {
		t.Errorf("hung: %v", err)
	}
	sim.Break(func(f *modemtest.Faults) { f.Hang = false })
	if s, err := m.Status(t.Context()); err != nil || s.SIM != modem.SIMReady {
		t.Errorf("awake: %+v, %v", s, err)
	}
}

// A stuckPort takes no byte and gives none; Close hangs as long as a kernel's.
type stuckPort struct {
	release   chan struct{}
	closeTime time.Duration
	once      sync.Once
}

func (p *stuckPort) Read([]byte) (int, error)  { <-p.release; return 0, io.EOF }
func (p *stuckPort) Write([]byte) (int, error) { <-p.release; return 0, io.ErrClosedPipe }
func (p *stuckPort) Close() error {
	timer := time.NewTimer(p.closeTime)
	defer timer.Stop()
	<-timer.C
	p.once.Do(func() { close(p.release) })
	return nil
}

func TestOpenHangs(t *testing.T) {
	t.Run("write and close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := modem.Open(ctx, modem.Config{Open: func(context.Context) (io.ReadWriteCloser, error) {
				return &stuckPort{release: make(chan struct{}), closeTime: 30 * time.Second}, nil
			}})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
			time.Sleep(time.Minute) // simulated: nothing is left after the kernel has let go
		})
	})
	t.Run("open", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start, late := time.Now(), &stuckPort{release: make(chan struct{})}
			_, err := modem.Open(ctx, modem.Config{Open: func(context.Context) (io.ReadWriteCloser, error) {
				timer := time.NewTimer(time.Minute)
				defer timer.Stop()
				<-timer.C
				return late, nil
			}})
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
			<-late.release // the port that came too late was closed
		})
	})
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer server.Close()
			var reader sync.WaitGroup
			reader.Go(func() { io.Copy(io.Discard, server) })
			_, err := modem.Open(t.Context(), modem.Config{Open: func(context.Context) (io.ReadWriteCloser, error) { return client, nil }})
			if !errors.Is(err, modem.ErrTimeout) {
				t.Errorf("got %v", err)
			}
			reader.Wait()
		})
	})
}

// TestUnplug has the port vanish: idle, and during a command.
func TestUnplug(t *testing.T) {
	for name, faults := range map[string]modemtest.Faults{"idle": {}, "busy": {Delay: time.Second}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim, cfg := simulate(t, modemtest.Config{Faults: faults})
				m := open(t, cfg)
				var caller sync.WaitGroup
				if faults.Delay > 0 {
					caller.Go(func() {
						if _, err := m.Identity(t.Context()); !errors.Is(err, modem.ErrGone) {
							t.Errorf("during a command: %v", err)
						}
					})
					synctest.Wait()
				}
				sim.Unplug()
				<-m.Done()
				caller.Wait()
				_, err := m.Status(t.Context())
				if !errors.Is(err, modem.ErrGone) || !errors.Is(err, net.ErrClosed) {
					t.Errorf("unplugged: %v", err)
				}
				if _, err := modem.Open(t.Context(), cfg); err == nil {
					t.Error("opened an unplugged modem")
				}
				sim.Replug()
				identity(t, open(t, cfg))
			})
		})
	}
}

// TestGoneAfterTimeout has the modem vanish before it is opened anew.
func TestGoneAfterTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, cfg := simulate(t, modemtest.Config{})
		m := open(t, cfg)
		sim.Break(func(f *modemtest.Faults) { f.Answers = map[string][]string{"+CPIN?": nil} })
		if _, err := m.Status(t.Context()); !errors.Is(err, modem.ErrTimeout) {
			t.Fatal(err)
		}
		sim.Unplug()
		if _, err := m.Status(t.Context()); !errors.Is(err, modem.ErrGone) {
			t.Errorf("got %v", err)
		}
		<-m.Done()
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, cfg := simulate(t, modemtest.Config{Faults: modemtest.Faults{Delay: time.Second}})
		m := open(t, cfg)
		var caller sync.WaitGroup
		caller.Go(func() {
			if _, err := m.Identity(t.Context()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed during a command: %v", err)
			}
		})
		synctest.Wait()
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		caller.Wait()
		<-m.Done()
	})
}

func TestConfig(t *testing.T) {
	p := pin(t, "1234")
	tests := map[string]modem.Config{
		"Port":     {},
		"Baud":     {Port: "x", Baud: -1},
		"PINGuard": {Port: "x", PIN: p},
		"Timeout":  {Port: "x", Timeout: -1},
		"no such":  {Port: filepath.Join(t.TempDir(), "ttyUSB2")},
		"terminal": {Port: os.DevNull},
	}
	for name, cfg := range tests {
		if _, err := modem.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) && name != "terminal" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNothingLeaks reads a card through everything that logs or fails and looks
// for its numbers in what was said.
func TestNothingLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const imsi, secretDigits = "262019876543210", "7077126352"
		var said bytes.Buffer
		sim, cfg := simulate(t, modemtest.Config{Card: modemtest.Card{IMSI: imsi, PIN: "48151623"}})
		cfg.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.PIN, cfg.PINGuard = pin(t, "48151623"), filepath.Join(t.TempDir(), "pins")
		m := open(t, cfg)
		cfg.Logger.Info("all", "id", identity(t, m), "config", cfg)
		for _, answer := range [][]string{
			{imsi}, {"+CME ERROR: " + imsi}, {"+CMS ERROR: " + imsi}, {"+CME ERROR: SIM " + imsi + " 48151623 busy"}, {"ERROR " + imsi},
			{imsi + "x", "OK"}, {"AT+CIMI" + imsi, "OK"},
		} {
			sim.Break(func(f *modemtest.Faults) { f.Answers = map[string][]string{"+CIMI": answer} })
			_, err := m.Identity(t.Context())
			if err == nil {
				t.Errorf("%q was taken", answer)
			}
			cfg.Logger.Error("identity", "err", err)
		}
		sim.Break(func(f *modemtest.Faults) { f.Answers = nil })
		if _, err := m.SendSMS(t.Context(), "+49170"+secretDigits, "voucher "+secretDigits); err != nil {
			t.Error(err)
		}
		if _, err := m.USSD(t.Context(), "*104*"+secretDigits+"#"); err == nil {
			t.Error("an unknown code has an answer")
		} else {
			cfg.Logger.Error("USSD", "err", err)
		}
		if !strings.Contains(said.String(), "+CUSD=") || !strings.Contains(said.String(), "+CMGS=") {
			t.Errorf("nothing was said: %s", said.String())
		}
		if !strings.Contains(said.String(), "+CIMI") || !strings.Contains(said.String(), "+CPIN=") {
			t.Errorf("nothing was said: %s", said.String())
		}
		for _, secret := range []string{imsi, imsi[5:], "48151623", secretDigits, "0777216325"} {
			if strings.Contains(said.String(), secret) {
				t.Errorf("%s in %s", secret, said.String())
			}
		}
	})
}
