package modemtest

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// untilPlugged waits for the modem to be plugged in, also by its own restart.
func (m *Modem) untilPlugged(ctx context.Context) {
	for ctx.Err() == nil {
		plugged, _, changed := m.watch()
		if plugged {
			return
		}
		m.mu.Lock()
		back := time.Until(m.away)
		m.mu.Unlock()
		var restarted <-chan time.Time // never, without a restart
		if back > 0 {
			timer := time.NewTimer(back)
			defer timer.Stop()
			restarted = timer.C
		}
		select {
		case <-changed:
		case <-restarted:
		case <-ctx.Done():
		}
	}
}

// restartNow says OK, on the way out.
func (m *Modem) restartNow() reply {
	m.restart()
	return done()
}

// detached says whether the modem has left the network by a command.
func (m *Modem) detached() bool { return m.off || m.left }

// stat is the state of the registration now.
func (m *Modem) stat() int {
	switch {
	case m.simCode() != ok || m.detached():
		return 0
	case time.Since(m.attached) < m.cfg.Attach && (m.cfg.Registration == 1 || m.cfg.Registration == 5):
		return 2
	}
	return m.cfg.Registration
}

// radio answers what switches the radio and asks for the address.
func (m *Modem) radio(name, op string) (reply, bool) {
	switch name + op {
	case "+CFUN?":
		level := 1
		if m.off {
			level = 4
		}
		return done(fmt.Sprintf("+CFUN: %d%s", level, m.dialect().cfun)), true
	case "+CFUN=1,1":
		return m.restartNow(), true
	case "+CFUN=4", "+CFUN=0":
		return m.turn(&m.off, true), true
	case "+CFUN=1":
		return m.turn(&m.off, false), true
	case "+COPS=2":
		return m.turn(&m.left, true), true
	case "+COPS=0":
		if code := m.simCode(); code != ok {
			return fail(code), true
		}
		return m.turn(&m.left, false), true
	case "+CGATT?":
		return done(fmt.Sprintf("+CGATT: %d", m.served())), true
	case "+CGACT?":
		return done(fmt.Sprintf("+CGACT: 1,%d", m.served()), "+CGACT: 2,0"), true
	}
	if name == "+CGPADDR" {
		quote := `"`
		if m.dialect().bareIP {
			quote = ""
		}
		if m.served() == 0 {
			return done("+CGPADDR: 1," + quote + "0.0.0.0" + quote), true
		}
		return done("+CGPADDR: 1,"+quote+m.ip()+quote, `+CGPADDR: 2`), true
	}
	return reply{}, false
}

// turn changes one of the two ways to be away from the network, and gives the
// address back or gets one.
func (m *Modem) turn(how *bool, away bool) reply {
	if m.cfg.Faults.Deaf && m.restarts == 0 {
		return done()
	}
	before := m.detached()
	*how = away
	switch now := m.detached(); {
	case now && !before:
		m.released = time.Now()
	case before && !now:
		m.attached = time.Now()
		if m.cfg.Sticky >= 0 && time.Since(m.released) >= m.cfg.Sticky {
			m.address++
			if m.cfg.Leased != nil {
				m.cfg.Leased()
			}
		}
	}
	return done()
}

// served is 1 when the network carries data for the modem.
func (m *Modem) served() int {
	if stat := m.stat(); stat == 1 || stat == 5 {
		return 1
	}
	return 0
}

func (m *Modem) ip() string { return fmt.Sprintf("10.64.%d.%d", m.address/250, m.address%250+1) }

// Say sends a line that nobody asked for.
func (m *Modem) Say(line string) {
	select {
	case m.said <- "\r\n" + line + "\r\n":
	default:
	}
}

// Deliver puts short messages, as PDUs in hex, into the modem's store and says
// so.
func (m *Modem) Deliver(pdus ...string) {
	m.mu.Lock()
	at := len(m.inbox)
	for _, pdu := range pdus {
		m.inbox, m.seen = append(m.inbox, strings.ToUpper(pdu)), append(m.seen, false)
	}
	m.mu.Unlock()
	for i := range pdus {
		m.Say(fmt.Sprintf(`+CMTI: "SM",%d`, at+i))
	}
}

// Sent are the short messages that went out, as PDUs in hex.
func (m *Modem) Sent() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.sent...)
}
