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
		if m.ucs2 {
			return fail(parameters), true // no code here is in hex
		}
		code := strings.Trim(args[1], `"`)
		if m.dialect().packedUSSD {
			code = unpacked(code)
		}
		return m.dial(code), true
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
	if before, text, after := quoted(answer); m.dialect().packedUSSD && strings.HasSuffix(after, ",15") {
		answer = before + `"` + packed(text) + `"` + after
	}
	return reply{code: ok, after: []string{"+CUSD: " + answer}}
}

// quoted takes what is between the first and the last quote out.
func quoted(s string) (before, text, after string) {
	first, last := strings.IndexByte(s, '"'), strings.LastIndexByte(s, '"')
	if first < 0 || last == first {
		return s, "", ""
	}
	return s[:first], s[first+1 : last], s[last+1:]
}

// packed puts seven bits of each character, the lowest first, into octets in
// hex; characters that differ in the GSM alphabet are not for it.
func packed(text string) string {
	var bits strings.Builder // the first bit of each octet comes first
	for i := range len(text) {
		for bit := range 7 {
			bits.WriteByte('0' + text[i]>>bit&1)
		}
	}
	var hex strings.Builder
	for s := bits.String(); s != ""; s = s[min(8, len(s)):] {
		octet := 0
		for bit, digit := range s[:min(8, len(s))] {
			octet |= int(digit-'0') << bit
		}
		fmt.Fprintf(&hex, "%02X", octet)
	}
	return hex.String()
}

// unpacked is the way back; a carriage return at the end is padding.
func unpacked(hex string) string {
	var bits strings.Builder
	for ; len(hex) >= 2; hex = hex[2:] {
		octet, _ := strconv.ParseUint(hex[:2], 16, 8)
		for bit := range 8 {
			bits.WriteByte('0' + byte(octet>>bit&1))
		}
	}
	var text strings.Builder
	for s := bits.String(); len(s) >= 7; s = s[7:] {
		c := byte(0)
		for bit := range 7 {
			c |= (s[bit] - '0') << bit
		}
		text.WriteByte(c)
	}
	return strings.TrimRight(text.String(), "\r\x00")
}
