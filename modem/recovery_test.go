package modem

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/depinsim/x402/modem/modemtest"
)

var _ interface {
	encoding.TextMarshaler
	encoding.TextUnmarshaler
} = (*Ladder)(nil)

var allSteps = []Step{Register, Cycle, Restart, Reauthorize, PowerCycle}

// climb follows a ladder for a time in which the modem is as state says, asked
// every half minute, and lists the steps with the minutes at which they came.
func climb(l Ladder, length time.Duration, can []Step, state func(time.Duration) Trouble) (Ladder, []string) {
	start := time.Unix(1_700_000_000, 0)
	var out []string
	stopped := false
	for at := time.Duration(0); at < length; at += 30 * time.Second {
		var v Verdict
		l, v = l.Next(Look{Now: start.Add(at), Trouble: state(at), Can: can})
		if v.Step != NoStep {
			out = append(out, fmt.Sprintf("%v %v", at.Minutes(), v.Step))
		}
		if v.Stopped && !stopped {
			out = append(out, fmt.Sprintf("%v stopped", at.Minutes()))
		}
		stopped = v.Stopped
	}
	return l, out
}

func always(t Trouble) func(time.Duration) Trouble { return func(time.Duration) Trouble { return t } }

func TestLadder(t *testing.T) {
	for name, test := range map[string]struct {
		state func(time.Duration) Trouble
		can   []Step
		want  string
	}{
		"no network": {always(Unregistered), allSteps, "3 register, 5 radio off and on, 7 restart, 10 USB off and on, 13 power off and on, 17 stopped"},
		"no power":   {always(Unregistered), allSteps[:4], "3 register, 5 radio off and on, 7 restart, 10 USB off and on, 13 stopped"},
		"refused":    {always(Refused), allSteps, "10 register, 12 radio off and on, 14 stopped"},
		"silent":     {always(NoAnswer), allSteps, "1 USB off and on, 4 power off and on, 8 stopped"},
		"vanished":   {always(Vanished), []Step{PowerCycle}, "2 power off and on, 6 stopped"},
		"nothing":    {always(Vanished), nil, "2 stopped"},
		"no card":    {always(NoCard), allSteps, ""},
		"locked":     {always(CardLocked), allSteps, ""},
		"broken":     {always(CardFailed), allSteps, ""},
		"held":       {always(NotOurs), allSteps, ""},
		"well":       {always(NoTrouble), allSteps, ""},
		"a gap": {func(at time.Duration) Trouble {
			if at%(20*time.Minute) < 2*time.Minute {
				return Unregistered
			}
			return NoTrouble
		}, allSteps, ""},
		"restart helps": {func(at time.Duration) Trouble {
			switch {
			case at <= 7*time.Minute:
				return Unregistered
			case at < 9*time.Minute:
				return Vanished // while it restarts
			}
			return NoTrouble
		}, allSteps, "3 register, 5 radio off and on, 7 restart"},
		"falters": {func(at time.Duration) Trouble { // well for five minutes after each step
			if at%(10*time.Minute) < 5*time.Minute {
				return NoTrouble
			}
			return Unregistered
		}, allSteps, "8 register, 18 radio off and on, 28 restart, 38 USB off and on, 48 power off and on, 58 stopped, 65 stopped, 75 stopped, 85 stopped, 95 stopped, 105 stopped, 115 stopped"},
	} {
		if _, got := climb(Ladder{}, 2*time.Hour, test.can, test.state); strings.Join(got, ", ") != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, strings.Join(got, ", "), test.want)
		}
	}
}

// TestLadderMonth has modems be broken in many ways for a month: no hour and no
// day has more steps than the bounds, and a dead modem is climbed for once a day.
func TestLadderMonth(t *testing.T) {
	const month = 30 * 24 * time.Hour
	for name, state := range map[string]func(time.Duration) Trouble{
		"dead":   always(Unregistered),
		"silent": always(NoAnswer),
		"falters": func(at time.Duration) Trouble {
			return Trouble(at / (7 * time.Minute) % 2 * time.Duration(Unregistered))
		},
		"heals and fails": func(at time.Duration) Trouble {
			if at%(20*time.Minute) < 11*time.Minute {
				return NoTrouble
			}
			return NoData
		},
		"anything": func(at time.Duration) Trouble { return Trouble(at / (4 * time.Minute) * 7 % time.Duration(troubles)) },
	} {
		_, out := climb(Ladder{}, month, allSteps, state)
		at := map[Step][]float64{}
		for _, line := range out {
			minute, what, _ := strings.Cut(line, " ")
			for _, s := range allSteps {
				if s.String() == what {
					var m float64
					fmt.Sscan(minute, &m)
					at[s] = append(at[s], m)
				}
			}
		}
		for s, times := range at {
			for i := range times {
				within := func(minutes float64) (n int) {
					for _, other := range times[i:] {
						if other-times[i] < minutes {
							n++
						}
					}
					return n
				}
				if within(60) > bounds[s].hour || within(24*60) > bounds[s].day {
					t.Fatalf("%s: %v too often, at %v", name, s, times)
				}
			}
		}
		if n := len(at[PowerCycle]); name == "dead" && (n < 28 || n > 30) {
			t.Errorf("dead: the power was cut %d times in a month", n)
		}
	}
}

// TestLadderKept has the machine restart after every step, as one that is cut off
// with its modem does, and with a clock that is wrong: it ends all the same.
func TestLadderKept(t *testing.T) {
	for name, clock := range map[string]time.Duration{"right": time.Minute, "years behind": -5 * 365 * 24 * time.Hour, "stands still": 0} {
		var l Ladder
		now, cuts := time.Unix(1_700_000_000, 0), 0
		for range 100 {
			var again Ladder
			text, err := l.MarshalText()
			if err == nil {
				err = again.UnmarshalText(text)
			}
			if err != nil {
				t.Fatal(err)
			}
			l, now = again, now.Add(clock)
			for minute := range 10 { // as long as it runs
				var v Verdict
				l, v = l.Next(Look{Now: now.Add(time.Duration(minute) * time.Minute), Trouble: NoAnswer, Can: []Step{PowerCycle}})
				if v.Step == PowerCycle {
					cuts++
					break
				}
			}
		}
		if cuts != 1 {
			t.Errorf("%s: the power was cut %d times", name, cuts)
		}
	}
}

// TestLadderClock has the clock be set back while a step is waited for.
func TestLadderClock(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	l, _ := Ladder{}.Next(Look{Now: now, Trouble: Unregistered, Can: allSteps})
	_, v := l.Next(Look{Now: now.Add(-24 * 365 * time.Hour), Trouble: Unregistered, Can: allSteps})
	if v.Wait > restTime || v.Step != NoStep {
		t.Errorf("%+v", v)
	}
	l, _ = climb(Ladder{}, time.Hour, allSteps, always(Unregistered))
	if _, again := climb(l.Again(), time.Hour, allSteps, always(Unregistered)); len(again) == 0 || !strings.Contains(again[0], "register") {
		t.Errorf("again: %s", again)
	}
}

func TestTroubleOf(t *testing.T) {
	ready := Status{SIM: SIMReady, Registration: Home}
	for _, test := range []struct {
		status Status
		err    error
		want   Trouble
	}{
		{ready, nil, NoTrouble},
		{Status{SIM: SIMReady, Registration: Roaming}, nil, NoTrouble},
		{Status{SIM: SIMReady, Registration: Denied}, nil, Refused},
		{Status{SIM: SIMReady, Registration: Searching}, nil, Unregistered},
		{Status{SIM: SIMAbsent}, nil, NoCard},
		{Status{SIM: SIMPIN}, nil, CardLocked},
		{Status{SIM: SIMPUK}, nil, CardLocked},
		{Status{SIM: SIMFailed}, nil, CardFailed},
		{ready, ErrNoSIM, NoCard},
		{ready, fmt.Errorf("x: %w", ErrPINRefused), CardLocked},
		{ready, ErrPUKRequired, CardLocked},
		{ready, parseCME("13"), CardFailed},
		{ready, parseCME("15"), CardFailed},
		{ready, parseCME("30"), Unregistered},
		{ready, ErrSIMBusy, Unregistered},
		{ready, ErrTimeout, NoAnswer},
		{ready, ErrGone, Vanished},
		{ready, fs.ErrNotExist, Vanished},
		{ready, ErrUnauthorized, Unauthorized},
		{ready, HeldError{Port: "/dev/ttyUSB2", Holder: Holder{1, "pppd"}}, NotOurs},
		{ready, fmt.Errorf("x: %w", syscall.EACCES), NotOurs},
		{ready, context.Canceled, NoTrouble},
	} {
		if got := TroubleOf(test.status, test.err); got != test.want {
			t.Errorf("%+v, %v: %v, want %v", test.status, test.err, got, test.want)
		}
	}
}

func FuzzLadder(f *testing.F) {
	f.Add([]byte("v1 5 1700000000 1@1700000000 5@1700000300"), []byte{1, 1, 1, 0, 9, 4})
	f.Add([]byte("v1 0 0"), []byte{0, 5})
	f.Fuzz(func(t *testing.T, text, life []byte) {
		var l, again Ladder
		if l.UnmarshalText(text) == nil {
			back, err := l.MarshalText()
			if err != nil || again.UnmarshalText(back) != nil {
				t.Errorf("%q became %q, %v", text, back, err)
			}
		}
		now := time.Unix(1_700_000_000, 0)
		for _, b := range life {
			now = now.Add(time.Duration(int8(b)) * time.Minute)
			trouble := Trouble(b % byte(troubles))
			var v Verdict
			l, v = l.Next(Look{Now: now, Trouble: trouble, Can: allSteps, Jitter: float64(b) / 200})
			if v.Step != NoStep && !slices.Contains(trouble.rungs(), v.Step) || v.Wait < 0 || v.Wait > restTime || len(l.taken) > maxTaken {
				t.Errorf("%+v for %v", v, trouble)
			}
			if text := fmt.Sprint(slog.AnyValue(v).Resolve()); !strings.Contains(text, "trouble="+trouble.String()) {
				t.Errorf("logged as %s", text)
			}
		}
	})
}

// attend asks a Recovery until it takes a step or says that it stops.
func attend(t *testing.T, r *Recovery, m *Modem, f Found, trouble Trouble) (Verdict, error) {
	t.Helper()
	for range 100 {
		v, err := r.Attend(t.Context(), m, f, trouble)
		if v.Step != NoStep || v.Stopped || v.Reported || err != nil {
			return v, err
		}
		<-time.After(v.Wait + time.Second) // simulated
	}
	t.Fatal("never an end")
	return Verdict{}, nil
}

// TestRecovery climbs the whole ladder on a modem that does not register, with
// real files for what the kernel has.
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, cfg := newBench(t, "usb 1-1 2c7c:0125 4\n 2 ff/00/00 ttyUSB2\n")
		sim := b.plug(t, "ttyUSB2", modemtest.Config{Registration: 2, Faults: modemtest.Faults{Away: 5 * time.Second}})
		open := func() *Modem {
			m, err := Open(t.Context(), Config{Open: sim.Dial})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		found, err := Find(t.Context(), cfg)
		if err != nil || len(found) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
		value, kept := filepath.Join(t.TempDir(), "value"), filepath.Join(t.TempDir(), "recovery")
		if err := os.WriteFile(value, []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := NewRecovery(RecoveryConfig{Root: cfg.Root, Power: Power{File: value}, File: kept})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		m := open()
		defer func() { m.Close() }()
		for _, want := range []Step{Register, Cycle} {
			if v, err := attend(t, r, m, found[0], Unregistered); v.Step != want || err == nil { // it still searches
				t.Errorf("%+v, %v", v, err)
			}
		}
		if v, err := attend(t, r, m, found[0], Unregistered); v.Step != Restart || err != nil || sim.Restarts() != 1 {
			t.Errorf("%+v, %v", v, err)
		}
		m.Close()
		time.Sleep(time.Minute) // simulated
		m = open()

		authorized := filepath.Join(cfg.Root, "bus/usb/devices/1-1/authorized")
		var during string
		var look sync.WaitGroup
		watch := func(file string) {
			during = ""
			look.Go(func() {
				for range 400 {
					<-time.After(time.Second)
					if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == "0" {
						during = "0"
					}
				}
			})
		}
		watch(authorized)
		if v, err := attend(t, r, m, found[0], Unregistered); v.Step != Reauthorize || err != nil {
			t.Errorf("%+v, %v", v, err)
		}
		look.Wait()
		if text, err := os.ReadFile(authorized); err != nil || string(text) != "1" || during != "0" {
			t.Errorf("authorized %q, %q meanwhile, %v", text, during, err)
		}
		watch(value)
		if v, err := attend(t, r, m, found[0], Unregistered); v.Step != PowerCycle || err != nil || v.Today != 5 {
			t.Errorf("%+v, %v", v, err)
		}
		look.Wait()
		if text, err := os.ReadFile(value); err != nil || string(text) != "1" || during != "0" {
			t.Errorf("value %q, %q meanwhile, %v", text, during, err)
		}
		if v, err := attend(t, r, m, found[0], Unregistered); !v.Stopped || err != nil {
			t.Errorf("%+v, %v", v, err)
		}
		// Another process would not begin again.
		again, err := NewRecovery(RecoveryConfig{Root: cfg.Root, File: kept})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := attend(t, again, m, found[0], Unregistered); !v.Stopped || v.Today != 5 || err != nil {
			t.Errorf("%+v, %v", v, err)
		}
		if v, err := attend(t, again, m, found[0], CardLocked); !v.Reported || err != nil {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// TestRecoveryUnrecorded has the disk refuse: then nothing is done.
func TestRecoveryUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ran := filepath.Join(dir, "ran")
		r, err := NewRecovery(RecoveryConfig{Root: dir, Power: Power{Command: []string{"/bin/sh", "-c", "touch " + ran}}, File: filepath.Join(dir, "missing", "file")})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := attend(t, r, nil, Found{}, Vanished); err == nil || v.Step != NoStep {
			t.Errorf("%+v, %v", v, err)
		}
		if _, err := os.Stat(ran); err == nil {
			t.Error("the command ran")
		}
	})
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("v1 9 9"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRecovery(RecoveryConfig{File: bad}); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestPower(t *testing.T) {
	for name, p := range map[string]Power{
		"one of":     {File: "x", Chip: "y"},
		"Line":       {Chip: "x", Line: -1},
		"OffTime":    {File: "x", OffTime: time.Hour},
		"whole path": {Command: []string{"true"}},
	} {
		if _, err := NewRecovery(RecoveryConfig{Power: p}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx := t.Context()
	for script, want := range map[string]string{"exit 0": "", "exit 3": "exit status 3", "kill -9 $$": "killed"} {
		if err := run(ctx, []string{"/bin/sh", "-c", script}); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
	if err := run(ctx, []string{filepath.Join(t.TempDir(), "nothing")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := run(ctx, []string{"/bin/sh", "-c", "sleep 1000 & wait"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that never ends: %v", err)
	}
	for _, p := range []Power{{Chip: os.DevNull}, {Chip: "/dev/no-such-chip"}, {File: "/nowhere/value"}} {
		p, err := p.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.cycle(t.Context(), nil); err == nil {
			t.Errorf("%+v worked", p)
		}
	}
}

// TestGPIOLayout compares with what the kernel's header says on every machine.
func TestGPIOLayout(t *testing.T) {
	var r lineRequest
	if unsafe.Sizeof(r) != 592 || unsafe.Offsetof(r.flags) != 288 || unsafe.Offsetof(r.attr) != 320 || unsafe.Offsetof(r.lines) != 560 || unsafe.Offsetof(r.fd) != 588 {
		t.Errorf("request: %d, %d, %d, %d, %d", unsafe.Sizeof(r), unsafe.Offsetof(r.flags), unsafe.Offsetof(r.attr), unsafe.Offsetof(r.lines), unsafe.Offsetof(r.fd))
	}
	if unsafe.Sizeof(lineAttribute{}) != 24 || unsafe.Sizeof(lineValues{}) != 16 {
		t.Error("attribute, values")
	}
}
