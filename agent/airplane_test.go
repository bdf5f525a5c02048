package agent_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/modem/modemtest"
)

// tell gives an agent a command and returns what it answered.
func tell[T any](t *testing.T, control *seller.Control, name string, args ...string) (v T, err error) {
	t.Helper()
	err = control.Get(t.Context(), name, &v, args...)
	return v, err
}

// TestAirplane: a buyer is told before the radio goes, pays what he owes, finds
// no offer meanwhile, and is served again when the radio is back. One that is off
// for a moment only keeps its buyers.
func TestAirplane(t *testing.T) {
	t.Parallel()
	m, _ := withModem(t, modemtest.Config{}, nil)
	control := seller.DialControl(m.cfg.ControlPath())
	until(t, "for the SIM", func() bool {
		st, err := tell[seller.Status](t, control, "status")
		return err == nil && st.Refusing == ""
	})
	status := func() seller.Status {
		st, err := tell[seller.Status](t, control, "status")
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	site := web(t)
	p := m.buy(nil)
	client := p.through()
	fetch(t, client, site.URL+"/200000", 200_000)

	for _, how := range []string{"on", "1h"} {
		st, err := tell[seller.AirplaneStatus](t, control, "airplane", "for", how)
		if err != nil || !st.On || (st.Left > 0) != (how == "1h") {
			t.Fatalf("%s: %+v %v", how, st, err)
		}
		if _, lives := m.session(p.id); lives {
			t.Error("the session lives on")
		}
		e, err := tell[seller.Earnings](t, control, "earnings")
		if err != nil || e.Paid < e.Owed || e.Owed == 0 {
			t.Errorf("the buyer left without paying: %+v %v", e, err)
		}
		if _, err := os.Stat(m.cfg.OfferPath()); !os.IsNotExist(err) {
			t.Errorf("the offer is there: %v", err)
		}
		if st := status(); !strings.Contains(st.Refusing, "switched its radio off") || !st.Airplane.On || len(st.Problems) == 0 || st.Problems[0].Do != "x402-agent modem airplane off" {
			t.Errorf("%q %+v %+v", st.Refusing, st.Airplane, st.Problems)
		}
		for _, refused := range [][]string{{"rotate"}, {"mode", "to", "4g"}, {"bands", "to", "b3"}, {"reset"}, {"ussd", "code", "*100#"}, {"sms-send", "to", "1234", "text", "x"}} {
			raw, err := tell[json.RawMessage](t, control, refused[0], refused[1:]...)
			if text := fmt.Sprint(string(raw), err); !strings.Contains(text, "the radio is off: x402-agent modem airplane off") {
				t.Errorf("%s: %s", refused[0], text)
			}
		}
		if st, err := tell[seller.AirplaneStatus](t, control, "airplane", "for", "off"); err != nil || st.On {
			t.Fatalf("%+v %v", st, err)
		}
		until(t, "for the buyer to be served", func() bool { _, lives := m.session(p.id); return lives })
		fetch(t, client, site.URL+"/1000", 1000)
	}

	// This flow ends when the radio is back, the session does not.
	resp, err := client.Get(endless(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	before, _ := m.session(p.id)
	if st, err := tell[seller.AirplaneStatus](t, control, "airplane", "for", "500ms"); err != nil || !st.On {
		t.Fatalf("%+v %v", st, err)
	}
	fetch(t, client, site.URL+"/1000", 1000) // it waits
	if status().Airplane.On {
		t.Error("a flow began while the radio was off")
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the download was not cut")
	}
	if now, lives := m.session(p.id); !lives || now.Session != before.Session {
		t.Errorf("session %d is %d now", before.Session, now.Session)
	}
	p.cancel()
	m.settled(p)
}

// TestModemChanges: what takes the modem off its network ends flows and no
// session, and a refusal does nothing.
func TestModemChanges(t *testing.T) {
	t.Parallel()
	m, sim := withModem(t, modemtest.Config{}, nil)
	control := seller.DialControl(m.cfg.ControlPath())
	until(t, "for the SIM", func() bool {
		st, err := tell[seller.Status](t, control, "status")
		return err == nil && st.Refusing == ""
	})
	site := web(t)
	p := m.buy(nil)
	fetch(t, p.through(), site.URL+"/1000", 1000)
	var before seller.SessionStatus
	until(t, "for the session", func() bool { before, _ = m.session(p.id); return before.Session != 0 })
	for _, c := range []struct {
		command []string
		want    string
	}{
		{[]string{"mode", "to", "4g"}, `"mode":"4g"`},
		{[]string{"mode", "to", "5g"}, "not supported by this modem; "},
		{[]string{"mode", "to", "6g"}, "is none of any"},
		{[]string{"bands", "to", "b3 b7"}, `"bands":"b3 b7"`},
		{[]string{"bands"}, `"bands":"b3 b7"`},
		{[]string{"airplane", "for", "soon"}, "neither on nor off"},
		{[]string{"airplane", "for", "721h"}, "up to 720h"},
		{[]string{"reset"}, `"took":`},
		{[]string{"sms-delete", "ids", ""}, `no message ""`},
		{[]string{"signal"}, `"technology":"LTE"`},
	} {
		raw, err := tell[json.RawMessage](t, control, c.command[0], c.command[1:]...)
		if text := fmt.Sprint(string(raw), err); !strings.Contains(text, c.want) {
			t.Errorf("%q: %s, want %s", c.command, text, c.want)
		}
	}
	if n := sim.Restarts(); n != 1 {
		t.Errorf("%d restarts", n)
	}
	fetch(t, p.through(), site.URL+"/1000", 1000)
	if now, lives := m.session(p.id); !lives || now.Session != before.Session {
		t.Errorf("session %d is %d now", before.Session, now.Session)
	}
	p.cancel()
	m.settled(p)
}
