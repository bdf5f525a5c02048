package modemtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A reply is an answer before it gets line ends and faults. Code is the CME
// error, ok or one of the others.
type reply struct {
	lines []string
	code  int
	after []string // lines that come after the final one
}

// Outcomes beside the CME errors, which are 0 and up.
const (
	ok = -1 - iota
	unknown
	tooMany
	silent // no final line: the lines have it
	prompt // a short message may follow
)

// answer is what the modem sends for one command, without its "AT".
func (m *Modem) answer(cmd string) []chunk {
	m.mu.Lock()
	defer m.mu.Unlock()
	faults := m.cfg.Faults
	if faults.Vanish != "" && cmd == faults.Vanish {
		m.cfg.Faults.Vanish = ""
		m.restart()
		return nil
	}
	end := "\r\n"
	if faults.ExtraCR && m.echo {
		end = "\r\r\n"
	}
	var lines, after []string
	if fixed, given := faults.Answers[cmd]; given {
		if lines = fixed; len(lines) == 0 {
			return nil
		}
	} else {
		r := m.run(cmd)
		if lines = r.lines; r.code == prompt {
			return []chunk{{faults.Delay, "\r\n> "}}
		} else if r.code != silent {
			lines = append(lines, m.final(r.code))
		}
		after = r.after
	}
	lines = m.holdBack(cmd, lines)
	if faults.Extra != "" {
		lines = append(lines, faults.Extra)
	}
	var text strings.Builder
	text.WriteString(faults.Garbage)
	for i, line := range lines {
		if i == len(lines)/2 && len(faults.URCs) > 0 {
			text.WriteString(end + faults.URCs[m.urc%len(faults.URCs)] + end)
			m.urc++
		}
		if m.verbose {
			text.WriteString(end + line + end)
		} else {
			text.WriteString(line + "\r")
		}
	}
	delay := max(faults.Delay, faults.Slow[cmd])
	whole := m.greeting() + text.String()
	m.answers++
	switch {
	case faults.Torn > 0 && m.answers%faults.Torn == 0:
		return []chunk{{delay, whole[:len(whole)/2]}}
	case faults.Halves > 0:
		return []chunk{{delay, whole[:len(whole)/2]}, {faults.Halves, whole[len(whole)/2:]}}
	}
	chunks := []chunk{{delay, whole}}
	for _, line := range after {
		chunks = append(chunks, chunk{time.Second, end + line + end})
	}
	return chunks
}

// greeting is what a modem says when it has booted.
func (m *Modem) greeting() string {
	if m.greeted || m.cfg.Faults.Boot == 0 {
		return ""
	}
	m.greeted = true
	return "\r\nRDY\r\n\r\n+CFUN: 1\r\n\r\n+CPIN: READY\r\n"
}

// holdBack takes the lines of an answer that comes late, all but the last, and
// puts those of the one before in the middle.
func (m *Modem) holdBack(cmd string, lines []string) []string {
	late := m.late
	m.late = ""
	if slices.Contains(m.cfg.Faults.Late, cmd) && len(lines) > 1 {
		m.late, lines = lines[0], lines[len(lines)-1:]
	}
	if late != "" {
		lines = slices.Insert(slices.Clone(lines), len(lines)-1, late)
	}
	return lines
}

// final is the line that ends an answer.
func (m *Modem) final(code int) string {
	faults := m.cfg.Faults
	switch {
	case !m.verbose && code == ok:
		return "0"
	case !m.verbose:
		return "4"
	case code == ok:
		return "OK"
	case code == unknown && m.dialect().unknown != "" && !faults.PlainErrors:
		return m.dialect().unknown
	case code == tooMany && m.dialect().tooMany != "":
		return m.dialect().tooMany
	case code == unknown, code == tooMany, faults.PlainErrors, m.cmee == 0 && !faults.TextErrors:
		return "ERROR"
	case m.cmee == 2 || faults.TextErrors:
		return "+CME ERROR: " + cmeText(code)
	}
	return "+CME ERROR: " + strconv.Itoa(code)
}

// CME errors (3GPP TS 27.007 clause 9.2).
const (
	notAllowed = 3
	noSIM      = 10
	needsPIN   = 11
	needsPUK   = 12
	failure    = 13
	busy       = 14
	password   = 16
	notFound   = 22
	parameters = 50
)

func cmeText(code int) string {
	switch code {
	case notAllowed:
		return "operation not allowed"
	case noSIM:
		return "SIM not inserted"
	case needsPIN:
		return "SIM PIN required"
	case needsPUK:
		return "SIM PUK required"
	case failure:
		return "SIM failure"
	case busy:
		return "SIM busy"
	case password:
		return "incorrect password"
	case notFound:
		return "not found"
	case parameters:
		return "Incorrect parameters"
	}
	return "unknown"
}

func done(lines ...string) reply { return reply{lines: lines, code: ok} }
func fail(code int) reply        { return reply{code: code} }

// run executes one command. Basic ones may be strung together (ITU-T V.250
// clause 5.2.1).
func (m *Modem) run(cmd string) reply {
	for cmd != "" && !strings.ContainsAny(cmd[:1], "+^*$#%!\x1a") {
		n := 1
		for n < len(cmd) && cmd[n] >= '0' && cmd[n] <= '9' {
			n++
		}
		if r := m.basic(strings.ToUpper(cmd[:n])); r.code != ok || len(r.lines) > 0 {
			return r
		}
		cmd = cmd[n:]
	}
	if cmd == "" {
		return done()
	}
	if pdu, sends := strings.CutPrefix(cmd, "\x1a"); sends {
		return m.accept(pdu)
	}
	name := cmd
	if i := strings.IndexAny(cmd, "=?"); i >= 0 {
		name = cmd[:i]
	}
	return m.extended(strings.ToUpper(name), cmd[len(name):])
}

func (m *Modem) basic(cmd string) reply {
	switch cmd {
	case "E", "E0":
		m.echo = m.cfg.Faults.StickyEcho
	case "E1":
		m.echo = true
	case "V", "V0":
		m.verbose = false
	case "V1":
		m.verbose = true
	case "Q", "Q0", "Z", "Z0":
	case "I":
		d := m.dialect()
		return done(d.maker, d.model, "Revision: "+d.revision)
	default:
		return fail(unknown)
	}
	return done()
}

// extended answers what begins with a sign; op is "", "?", or "=" and what
// follows it.
func (m *Modem) extended(name, op string) reply {
	d := m.dialect()
	if slices.Contains(d.restart, name+op) {
		return m.restartNow()
	}
	if r, mine := d.own(m, name, op); mine {
		return r
	}
	if r, mine := m.radio(name, op); mine {
		return r
	}
	if r, mine := m.messages(name, op); mine {
		return r
	}
	switch name + op {
	case "+CGMI":
		return done(d.maker)
	case "+CGMM":
		return done(d.model)
	case "+CGMR":
		return done(d.revision)
	case "+CGSN":
		return done(m.cfg.IMEI)
	case "+CPIN?":
		return m.pinState()
	case "+CIMI":
		return m.withSIM(m.cfg.IMSI)
	case "+CESQ":
		if !d.noCESQ {
			return done(fmt.Sprintf("+CESQ: 99,99,255,255,20,%d", m.cfg.RSRP+141))
		}
	case "+CSQ":
		return done(fmt.Sprintf("+CSQ: %d,99", (m.cfg.RSSI+113)/2))
	case "+CEREG?", "+CGREG?", "+CREG?":
		return m.registration(name)
	case "+C5GREG?":
		if m.cfg.Technology >= 11 {
			return m.registration(name)
		}
	case "+COPS?":
		return m.operator()
	case "+CMEE?":
		if !m.cfg.Faults.PlainErrors {
			return done("+CMEE: " + strconv.Itoa(m.cmee))
		}
	}
	args, assigned := strings.CutPrefix(op, "=")
	switch {
	case !assigned:
	case name == "+CPIN":
		return m.enterPIN(strings.Trim(args, `"`))
	case name == "+CRSM":
		return m.card(args)
	case name == "+COPS" && (args == "3,2" || args == "3,0"):
		m.byNumber = args == "3,2"
		return done()
	case name == "+CSCS" && (args == `"GSM"` || args == `"UCS2"`):
		m.ucs2 = args == `"UCS2"`
		return done()
	case name == "+CMEE" && !m.cfg.Faults.PlainErrors && (args == "0" || args == "1" || args == "2"):
		m.cmee, _ = strconv.Atoi(args)
		return done()
	}
	return fail(unknown)
}

// simCode is the error that keeps the card from being read, ok when it is open.
func (m *Modem) simCode() int {
	switch {
	case m.cfg.NoSIM:
		return noSIM
	case time.Since(m.since) < m.cfg.Faults.BusyFor && m.cfg.Faults.FailsFirst:
		return failure
	case time.Since(m.since) < m.cfg.Faults.BusyFor:
		return busy
	case m.cfg.PIN == "" || m.unlocked:
		return ok
	case m.cfg.Tries == 0:
		return needsPUK
	}
	return needsPIN
}

// withSIM answers with line if the card is open.
func (m *Modem) withSIM(line string) reply {
	if code := m.simCode(); code != ok {
		return fail(code)
	}
	return done(line)
}

// withICCID answers with line whether or not the card is open.
func (m *Modem) withICCID(line string) reply {
	switch code := m.simCode(); {
	case code == needsPIN || code == needsPUK:
		if m.cfg.Faults.NoICCID {
			return fail(code)
		}
	case code != ok:
		return fail(code)
	}
	return done(line)
}

func (m *Modem) pinState() reply {
	switch code := m.simCode(); code {
	case ok:
		return done("+CPIN: READY")
	case needsPIN:
		return done("+CPIN: SIM PIN")
	case needsPUK:
		return done("+CPIN: SIM PUK")
	default:
		return fail(code)
	}
}

func (m *Modem) enterPIN(pin string) reply {
	if code := m.simCode(); code != needsPIN {
		return fail(notAllowed)
	}
	m.attempts++
	switch {
	case pin == m.cfg.PIN:
		m.cfg.Tries, m.unlocked = 3, true
		return done()
	case m.cfg.Tries == 1:
		m.cfg.Tries = 0
		return fail(needsPUK)
	}
	m.cfg.Tries--
	return fail(password)
}

// registration has area and cell, as with the second setting of each command.
func (m *Modem) registration(name string) reply {
	stat := m.stat()
	circuits := name == "+CREG" || name == "+CGREG"
	if stat == 0 || m.cfg.Technology < 0 || circuits != (m.cfg.Technology < 7) {
		return done(fmt.Sprintf("%s: 2,%d", name, stat))
	}
	return done(fmt.Sprintf(`%s: 2,%d,"1A2B","01C3D4E5",%d`, name, stat, m.cfg.Technology))
}

func (m *Modem) operator() reply {
	if code := m.simCode(); code != ok {
		return fail(code)
	}
	if stat := m.stat(); stat != 1 && stat != 5 {
		return done("+COPS: 0")
	}
	line := fmt.Sprintf(`+COPS: 0,0,"%s"`, m.cfg.Operator.Name)
	if m.byNumber {
		line = fmt.Sprintf(`+COPS: 0,2,"%s"`, m.cfg.Operator.PLMN)
	}
	if m.cfg.Technology >= 0 {
		line += "," + strconv.Itoa(m.cfg.Technology)
	}
	return done(line)
}

// card answers AT+CRSM: READ BINARY of the files that a reader of identities
// asks for, and GET RESPONSE.
func (m *Modem) card(args string) reply {
	f := strings.Split(args, ",")
	if len(f) != 5 {
		return fail(parameters)
	}
	if f[0] == "192" && m.held != "" {
		data := m.held
		m.held = ""
		return m.crsm(data)
	}
	data := ""
	switch f[1] {
	case "12258": // EF_ICCID
		if r := m.withICCID(""); r.code != ok {
			return r
		}
		data = swapped(m.cfg.ICCID, 20)
	case "28589": // EF_AD
		if m.cfg.MNCLength < 0 {
			return done("+CRSM: 106,130") // file not found
		}
		data = fmt.Sprintf("000000%02X", m.cfg.MNCLength)
	case "28423": // EF_IMSI: the first nibble says whether the length is odd
		parity := []string{"1", "9"}[len(m.cfg.IMSI)%2]
		data = fmt.Sprintf("%02X%s", len(m.cfg.IMSI)/2+1, swapped(parity+m.cfg.IMSI, 16))
	}
	if code := m.simCode(); code != ok && f[1] != "12258" {
		return fail(code)
	}
	switch {
	case f[0] != "176" || data == "":
		return done("+CRSM: 106,130")
	case m.cfg.Faults.TwoStep:
		m.held = data
		return done(fmt.Sprintf("+CRSM: 159,%d", len(data)/2))
	}
	return m.crsm(data)
}

func (m *Modem) crsm(data string) reply {
	if m.dialect().bareHex {
		return done("+CRSM: 144,0," + data)
	}
	return done(`+CRSM: 144,0,"` + data + `"`)
}

// swapped pads digits with F to length and swaps each two, as cards store them.
func swapped(digits string, length int) string {
	b := []byte(digits + strings.Repeat("F", max(0, length-len(digits))))
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}
