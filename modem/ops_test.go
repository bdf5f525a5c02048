package modem_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// everyProfile runs a test against each maker's modem in simulated time.
func everyProfile(t *testing.T, cfg modemtest.Config, test func(*testing.T, *modemtest.Modem, *modem.Modem)) {
	t.Helper()
	for _, profile := range modemtest.Profiles() {
		t.Run(profile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := cfg
				cfg.Profile = profile
				sim, c := simulate(t, cfg)
				test(t, sim, open(t, c))
			})
		})
	}
}

func TestRotate(t *testing.T) {
	everyProfile(t, modemtest.Config{Attach: 3 * time.Second, Sticky: 3 * time.Second}, func(t *testing.T, sim *modemtest.Modem, m *modem.Modem) {
		time.Sleep(time.Minute) // simulated: it has found its network
		r, err := m.Rotate(t.Context(), 0)
		if err != nil || len(r.Before) != 1 || len(r.After) != 1 || r.Before[0] == r.After[0] {
			t.Errorf("%+v, %v", r, err)
		}
		if r.Away < modem.HoldTime || r.Back < 3*time.Second || r.Back > 10*time.Second || r.Registration != modem.Home {
			t.Errorf("%+v", r)
		}
		if r, err = m.Rotate(t.Context(), time.Second); err != nil || r.Before[0] != r.After[0] {
			t.Errorf("too short for another address: %+v, %v", r, err)
		}
		// The network does not take it back: that is an error, and the radio is on.
		sim.Register(3)
		_, err = m.Rotate(t.Context(), time.Second)
		if u, ok := errors.AsType[modem.UnverifiedError](err); !ok || u.Got != "denied" {
			t.Errorf("denied: %v", err)
		}
		if on, err := m.Radio(t.Context()); err != nil || !on {
			t.Errorf("the radio: %v, %v", on, err)
		}
	})
}

// TestRotateLeft has the caller leave while the modem is off the network, and
// then close it: it comes back all the same.
func TestRotateLeft(t *testing.T) {
	for name, leave := range map[string]func(context.CancelFunc, *modem.Modem){
		"cancel": func(cancel context.CancelFunc, _ *modem.Modem) { cancel() },
		"close":  func(_ context.CancelFunc, m *modem.Modem) { m.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, cfg := simulate(t, modemtest.Config{Attach: time.Second})
				m := open(t, cfg)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var caller sync.WaitGroup
				caller.Go(func() {
					if _, err := m.Rotate(ctx, time.Minute); err == nil {
						t.Error("rotated")
					}
				})
				time.Sleep(10 * time.Second) // simulated: off the network
				leave(cancel, m)
				caller.Wait()
				m.Close()
				again := open(t, cfg)
				if on, err := again.Radio(t.Context()); err != nil || !on {
					t.Errorf("the radio: %v, %v", on, err)
				}
			})
		})
	}
}

func TestAirplane(t *testing.T) {
	everyProfile(t, modemtest.Config{Attach: time.Second}, func(t *testing.T, sim *modemtest.Modem, m *modem.Modem) {
		for _, off := range []bool{true, true, false, false} {
			if err := m.Airplane(t.Context(), off); err != nil {
				t.Errorf("off %v: %v", off, err)
			}
			if on, err := m.Radio(t.Context()); err != nil || on == off {
				t.Errorf("off %v: %v, %v", off, on, err)
			}
		}
		sim.Break(func(f *modemtest.Faults) { f.Deaf = true })
		_, unverified := errors.AsType[modem.UnverifiedError](m.Airplane(t.Context(), true))
		if !unverified {
			t.Error("a modem that does nothing was believed")
		}
		sim.Break(func(f *modemtest.Faults) {
			f.Answers = map[string][]string{"+CFUN=4": {"+CME ERROR: 3"}, "+CFUN=0": {"+CME ERROR: 3"}}
		})
		if _, cme := errors.AsType[modem.CMEError](m.Airplane(t.Context(), true)); !cme {
			t.Error("refused, and no such error")
		}
	})
}

func TestRegister(t *testing.T) {
	everyProfile(t, modemtest.Config{Attach: 5 * time.Second}, func(t *testing.T, sim *modemtest.Modem, m *modem.Modem) {
		if err := m.Register(t.Context()); err != nil {
			t.Error(err)
		}
		sim.Register(2)
		_, unverified := errors.AsType[modem.UnverifiedError](m.Register(t.Context()))
		if !unverified {
			t.Error("searching for ever is not registered")
		}
	})
}

func TestReset(t *testing.T) {
	everyProfile(t, modemtest.Config{}, func(t *testing.T, sim *modemtest.Modem, m *modem.Modem) {
		sim.Break(func(f *modemtest.Faults) { f.Away, f.Boot = 5*time.Second, 20*time.Second })
		time.Sleep(time.Minute) // simulated: it has booted
		if err := m.Reset(t.Context()); err != nil || sim.Restarts() != 1 {
			t.Errorf("%v after %d restarts", err, sim.Restarts())
		}
		<-m.Done()
	})
}

// TestResetDeaf has a modem say OK and not restart, and one whose port stays.
func TestResetDeaf(t *testing.T) {
	for name, test := range map[string]struct {
		answers map[string][]string
		want    bool
	}{
		"nothing happens":  {map[string][]string{"+CFUN=1,1": {"OK"}}, false},
		"settings are new": {map[string][]string{"+CFUN=1,1": {"OK"}, "+CMEE?": {"+CMEE: 2", "OK"}}, true},
		"silence":          {map[string][]string{"+CFUN=1,1": {"OK"}, "+CMEE?": nil}, true},
		"refused":          {map[string][]string{"+CFUN=1,1": {"+CME ERROR: 3"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim, cfg := simulate(t, modemtest.Config{})
				m := open(t, cfg)
				sim.Break(func(f *modemtest.Faults) { f.Answers = test.answers })
				var wake sync.WaitGroup
				wake.Go(func() {
					<-time.After(20 * time.Second)
					sim.Break(func(f *modemtest.Faults) { delete(f.Answers, "+CMEE?") })
				})
				err := m.Reset(t.Context())
				if (err == nil) != test.want {
					t.Error(err)
				}
				wake.Wait()
			})
		})
	}
}

// modesOf are the modes that each profile can be locked to besides any.
var modesOf = map[string][]modem.Mode{
	modemtest.Quectel:  {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly},
	modemtest.Quectel5: {modem.UMTSOnly, modem.LTEOnly, modem.NROnly, modem.LTEAndNR},
	modemtest.Huawei:   {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly, modem.NROnly, modem.LTEAndNR},
	modemtest.SIMCom:   {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly, modem.NROnly, modem.LTEAndNR},
	modemtest.Sierra:   {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly},
	modemtest.Fibocom:  {modem.UMTSOnly, modem.LTEOnly, modem.NROnly, modem.LTEAndNR},
	modemtest.Telit:    {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly, modem.NROnly, modem.LTEAndNR},
	modemtest.UBlox:    {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly},
	modemtest.ZTE:      {modem.GSMOnly, modem.UMTSOnly, modem.LTEOnly},
}

func TestMode(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		t.Run(profile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testMode(t, profile) })
		})
	}
}

func testMode(t *testing.T, profile string) {
	sim, cfg := simulate(t, modemtest.Config{Profile: profile})
	m := open(t, cfg)
	if mode, err := m.Mode(t.Context()); err != nil || mode != modem.AnyMode {
		t.Fatalf("%v, %v", mode, err)
	}
	for mode := modem.AnyMode; mode <= modem.LTEAndNR; mode++ {
		err := m.SetMode(t.Context(), mode)
		if !slices.Contains(append(modesOf[profile], modem.AnyMode), mode) {
			if !errors.Is(err, modem.ErrUnsupported) {
				t.Errorf("%v: %v", mode, err)
			}
			continue
		}
		got, err2 := m.Mode(t.Context())
		if err != nil || err2 != nil || got != mode {
			t.Errorf("%v: %v, then %v, %v", mode, err, got, err2)
		}
	}
	sim.Break(func(f *modemtest.Faults) { f.Forgets = true })
	u, unverified := errors.AsType[modem.UnverifiedError](m.SetMode(t.Context(), modem.AnyMode))
	if !unverified || u.Got == "any" || u.Want != "any" {
		t.Errorf("a modem that forgets was believed: %+v", u)
	}
}

func TestBands(t *testing.T) {
	for _, profile := range modemtest.Profiles() {
		t.Run(profile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testBands(t, profile) })
		})
	}
}

func testBands(t *testing.T, profile string) {
	sim, cfg := simulate(t, modemtest.Config{Profile: profile})
	m := open(t, cfg)
	before, err := m.Bands(t.Context())
	if profile == modemtest.ZTE {
		if _, set := m.SetBands(t.Context(), modem.Bands{LTE: []int{3}}); !errors.Is(err, modem.ErrUnsupported) || !errors.Is(set, modem.ErrUnsupported) {
			t.Errorf("%v, %v", err, set)
		}
		return
	}
	if err != nil || !slices.Contains(before.LTE, 3) || len(before.LTE) < 4 {
		t.Fatalf("%v, %v", before, err)
	}
	got, err := m.SetBands(t.Context(), modem.Bands{LTE: []int{20, 3, 3}})
	if err != nil || !slices.Equal(got.LTE, []int{3, 20}) || !slices.Equal(got.NR, before.NR) {
		t.Errorf("locked to %v, %v", got, err)
	}
	got, err = m.SetBands(t.Context(), modem.Bands{NR: []int{78}})
	switch has5G := profile == modemtest.Quectel5 || profile == modemtest.Fibocom; {
	case has5G && (err != nil || got.String() != "b3 b20 n78"):
		t.Errorf("5G: %v, %v", got, err)
	case !has5G && !errors.Is(err, modem.ErrUnsupported):
		t.Errorf("5G: %v", err)
	}
	sim.Break(func(f *modemtest.Faults) { f.Forgets = true })
	for _, want := range []modem.Bands{{LTE: []int{7}}, {}} {
		_, err = m.SetBands(t.Context(), want)
		if _, unverified := errors.AsType[modem.UnverifiedError](err); !unverified && !errors.Is(err, modem.ErrUnsupported) {
			t.Errorf("%v: a modem that forgets was believed: %v", want, err)
		}
	}
	sim.Break(func(f *modemtest.Faults) { f.Forgets = false })
	got, err = m.SetBands(t.Context(), modem.Bands{})
	if profile == modemtest.Telit || profile == modemtest.UBlox {
		if !errors.Is(err, modem.ErrUnsupported) {
			t.Errorf("all: %v", err)
		}
	} else if err != nil || len(got.LTE) < 4 {
		t.Errorf("all: %v, %v", got, err)
	}
}

func TestParseBands(t *testing.T) {
	for text, want := range map[string]string{
		"all": "all", "b3": "b3", "B20, b3 n78,n1,b3": "b3 b20 n1 n78", "": "!", "3": "!", "b": "!", "n0": "!", "b999": "!", "x3": "!", ",": "!",
	} {
		got, err := modem.ParseBands(text)
		if err != nil && want != "!" || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for mode := modem.AnyMode; mode <= modem.LTEAndNR; mode++ {
		if got, err := modem.ParseMode(mode.String()); err != nil || got != mode {
			t.Errorf("%v: %v, %v", mode, got, err)
		}
	}
	if _, err := modem.ParseMode("other"); err == nil {
		t.Error("other")
	}
}

// texts are messages as phones sent them, in both alphabets.
var pdus = []string{
	"07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07",                 // the example that every guide to PDUs has
	"0791947101670000040C91947117320596000842118251325180" + "0E0042006100640020263A" + "D83DDE00", // UCS2 with a surrogate pair
	"0791947101670000440C919471173205960000421182513251800A" + "0500030A0201" + "C2E231",           // part 1 of 2
	"0791947101670000040DD0C2303BEC1E970100421182513251800631D98C56B301",                           // from a name
	"0791947101670000040C9194711732059600044211825132518003DEADBF",                                 // binary
	"079194710167000006030C9194711732059642118251325180421182513251800000",                         // a report
}

func TestSMS(t *testing.T) {
	everyProfile(t, modemtest.Config{Faults: modemtest.Faults{URCs: []string{"^RSSI:17", "RING", `+CMTI: "SM",3`}}}, func(t *testing.T, sim *modemtest.Modem, m *modem.Modem) {
		sim.Deliver(pdus...)
		messages, err := m.Messages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		byText := map[string]modem.Message{}
		for _, msg := range messages {
			byText[msg.Text] = msg
		}
		if msg := byText["How are you?"]; msg.From != "+31641600986" || !msg.Time.Equal(time.Date(2002, 8, 26, 19, 37, 41, 0, time.UTC)) || msg.Read {
			t.Errorf("%+v", msg)
		}
		if msg := byText["Bad ☺😀"]; msg.From != "+491771235069" || msg.Binary {
			t.Errorf("%+v of %+v", msg, messages)
		}
		if msg := byText["abc"]; msg.Missing != 1 {
			t.Errorf("half of it: %+v", messages)
		}
		if msg := byText["deadbf"]; !msg.Binary {
			t.Errorf("binary: %+v", messages)
		}
		if len(messages) != 5 {
			t.Errorf("%d messages: %+v", len(messages), messages)
		}
		if again, err := m.Messages(t.Context()); err != nil || !again[0].Read {
			t.Errorf("%+v, %v", again, err)
		}
		if err := m.DeleteSMS(t.Context(), 0, 1); err != nil {
			t.Error(err)
		}
		if left, err := m.Messages(t.Context()); err != nil || len(left) != 3 {
			t.Errorf("%+v, %v", left, err)
		}
		sim.Break(func(f *modemtest.Faults) { f.Forgets = true })
		if _, unverified := errors.AsType[modem.UnverifiedError](m.DeleteSMS(t.Context(), 4)); !unverified {
			t.Error("a modem that forgets was believed")
		}
	})
}

// TestSendSMS sends what needs one and several messages, and reads it back.
func TestSendSMS(t *testing.T) {
	everyProfile(t, modemtest.Config{Faults: modemtest.Faults{StickyEcho: true, URCs: []string{"^RSSI:17"}}}, func(t *testing.T, sim *modemtest.Modem, m *modem.Modem) {
		for text, want := range map[string]int{
			"STATUS": 1, "": 1, strings.Repeat("a", 160): 1, strings.Repeat("b", 161): 2, strings.Repeat("€", 100): 2,
			strings.Repeat("😀", 35): 1, strings.Repeat("😀", 36): 2, "Привет": 1,
		} {
			before := len(sim.Sent())
			n, err := m.SendSMS(t.Context(), "+49170123456", text)
			if err != nil || n != want || len(sim.Sent())-before != want {
				t.Errorf("%.20q: %d, %v, sent %d", text, n, err, len(sim.Sent())-before)
			}
		}
		for _, bad := range []string{"", "12", "+4917x", "+123456789012345678901", "1;2"} {
			if _, err := m.SendSMS(t.Context(), bad, "x"); err == nil {
				t.Errorf("sent to %q", bad)
			}
		}
		if _, err := m.SendSMS(t.Context(), "1234", strings.Repeat("я", 600)); err == nil {
			t.Error("sent too long a text")
		}
		if err := m.Airplane(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if n, err := m.SendSMS(t.Context(), "1234", "x"); err == nil || n != 0 {
			t.Errorf("without a network: %d, %v", n, err)
		}
		if s, err := m.Status(t.Context()); err != nil || s.SIM != modem.SIMReady {
			t.Errorf("afterwards: %+v, %v", s, err)
		}
	})
}

// TestSendSMSUnsure has no answer come: it may have been sent, and is not again.
func TestSendSMSUnsure(t *testing.T) {
	for name, answers := range map[string][]string{"silence": nil, "OK only": {"OK"}, "refused": {"+CMS ERROR: 38"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim, cfg := simulate(t, modemtest.Config{})
				m := open(t, cfg)
				sim.Break(func(f *modemtest.Faults) { f.Answers = map[string][]string{"+CMGS=19": answers} })
				_, err := m.SendSMS(t.Context(), "+49170123456", "STATUS")
				if _, unverified := errors.AsType[modem.UnverifiedError](err); unverified == (name == "refused") || err == nil {
					t.Error(err)
				}
				if s, err := m.Status(t.Context()); err != nil || s.SIM != modem.SIMReady || len(sim.Sent()) != 0 {
					t.Errorf("afterwards: %+v, %v", s, err)
				}
			})
		})
	}
}

func TestUSSD(t *testing.T) {
	codes := map[string]string{
		"*100#":  `0,"Balance: 5.00 EUR",15`,
		"*101#":  "0,\"Used 1.5 GB\r\nof 10 GB\r\nOK\r\nbye\",15",
		"*102#":  `1,"1 Buy` + "\n" + `2 Exit",15`,
		"*103#":  `0,"00420061006C00200035002020AC",72`,
		"*104#":  "2",
		"*105#":  "5",
		"*106#":  "",
		"*107#":  `2,"Thank you",15`,
		"*108#":  "1,\"unfinished",
		"2":      `0,"Bye",15`,
		"*1000#": `0,"1234",15`,
	}
	want := map[string]modem.USSDReply{
		"*100#":  {Text: "Balance: 5.00 EUR"},
		"*101#":  {Text: "Used 1.5 GB\nof 10 GB\nOK\nbye"},
		"*102#":  {Text: "1 Buy\n2 Exit", More: true},
		"*103#":  {Text: "Bal 5 €"},
		"*107#":  {Text: "Thank you"},
		"2":      {Text: "Bye"},
		"*1000#": {Text: "1234"},
	}
	failures := map[string]error{"*104#": modem.ErrReleased, "*105#": modem.ErrNoAnswer, "*106#": modem.ErrNoAnswer, "*108#": modem.ErrNoAnswer}
	everyProfile(t, modemtest.Config{USSD: codes, Faults: modemtest.Faults{UCS2: true}}, func(t *testing.T, _ *modemtest.Modem, m *modem.Modem) {
		for code, reply := range want {
			if got, err := m.USSD(t.Context(), code); err != nil || got != reply {
				t.Errorf("%s: %+v, %v", code, got, err)
			}
		}
		for code, failure := range failures {
			start := time.Now()
			if got, err := m.USSD(t.Context(), code); !errors.Is(err, failure) || time.Since(start) > 70*time.Second {
				t.Errorf("%s: %+v, %v", code, got, err)
			}
		}
		for _, bad := range []string{"", "*1\"#", "*1\r#", "\x1a", strings.Repeat("1", 183), "я"} {
			if _, err := m.USSD(t.Context(), bad); err == nil {
				t.Errorf("sent %q", bad)
			}
		}
		if _, err := m.USSD(t.Context(), "*999#"); err == nil {
			t.Error("an unknown code has an answer")
		}
		if err := m.CancelUSSD(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestHistory(t *testing.T) {
	h := modem.NewHistory(3)
	var zero modem.History
	for i := range 5 {
		s := modem.Status{Signal: modem.Signal{RSRP: -90 - i}}
		h.Add(time.Unix(int64(i), 0), s)
		zero.Add(time.Unix(0, 0), s)
		if got := h.Samples(); len(got) != min(i+1, 3) || got[len(got)-1].Signal.RSRP != -90-i || !got[0].At.Equal(time.Unix(int64(max(0, i-2)), 0)) {
			t.Errorf("after %d: %+v", i, got)
		}
	}
	if len(zero.Samples()) != 0 {
		t.Error("the zero History keeps samples")
	}
}
