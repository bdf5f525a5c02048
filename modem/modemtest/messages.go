package modemtest

import (
	"fmt"
	"strconv"
	"strings"
)

// messages answers the commands for short messages in PDU mode (3GPP TS 27.005
// clause 4) and for USSD (3GPP TS 27.007 clause 7.15).
func (m *Modem) messages(name, op string) (reply, bool) {
	if !strings.HasPrefix(name, "+CM") && name != "+CUSD" || strings.HasPrefix(name, "+CMEE") {
		return reply{}, false
	}
	if code := m.simCode(); code != ok {
		return fail(code), true
	}
	args := strings.Split(strings.TrimPrefix(op, "="), ",")
	switch {
	case name+op == "+CMGF=0":
		return done(), true
	case name+op == "+CMGL=4":
		return m.list(), true
	case name == "+CMGS":
		if n, err := strconv.Atoi(args[0]); err != nil || n < 1 || n > 164 {
			return fail(parameters), true
		}
		m.prompting = true
		return reply{code: prompt}, true
	case name == "+CMGD":
		i, err := strconv.Atoi(args[0])
		if err != nil || i < 0 || i >= len(m.inbox) {
			return reply{lines: []string{"+CMS ERROR: 321"}, code: silent}, true // invalid memory index
		}
		if !m.cfg.Faults.Forgets {
			m.inbox[i] = ""
		}
		return done(), true
	case name+op == "+CUSD=2":
		return done(), true
	case name == "+CUSD" && len(args) >= 2 && args[0] == "1":
		return m.dial(strings.Trim(args[1], `"`)), true
	}
	return reply{}, false
}

func (m *Modem) list() reply {
	var lines []string
	for i, pdu := range m.inbox {
		if pdu == "" {
			continue
		}
		stat := 0
		if m.seen[i] {
			stat = 1
		}
		m.seen[i] = true
		lines = append(lines, fmt.Sprintf("+CMGL: %d,%d,,%d", i, stat, tpduLength(pdu)), pdu)
	}
	return done(lines...)
}

// tpduLength is the length of a PDU without the centre's number before it.
func tpduLength(pdu string) int {
	if len(pdu) < 2 {
		return 0
	}
	n, _ := strconv.ParseUint(pdu[:2], 16, 8)
	return len(pdu)/2 - 1 - int(n)
}

// accept takes a message that was sent after a prompt.
func (m *Modem) accept(pdu string) reply {
	if m.detached() {
		return reply{lines: []string{"+CMS ERROR: 331"}, code: silent} // no network service
	}
	m.sent = append(m.sent, pdu)
	return done("+CMGS: " + strconv.Itoa(len(m.sent)))
}

// dial answers a USSD code: OK at once, the network's word a second later.
func (m *Modem) dial(code string) reply {
	answer, known := m.cfg.USSD[code]
	switch {
	case !known:
		return reply{code: ok, after: []string{"+CUSD: 4"}}
	case answer == "":
		return done()
	}
	return reply{code: ok, after: []string{"+CUSD: " + answer}}
}
