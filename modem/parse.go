package modem

import (
	"encoding/hex"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The functions here read the lines of one answer. Unsolicited lines may stand
// among them anywhere, so each takes only what has the form of the answer and
// leaves the rest alone. They never fail on input: what is not there is false.

// after returns what follows "prefix:" in line.
func after(line, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(line, prefix)
	if !ok || !strings.HasPrefix(rest, ":") {
		return "", false
	}
	return strings.TrimSpace(rest[1:]), true
}

// fields splits at commas outside quotes, and takes spaces and quotes off.
func fields(s string) []string {
	var out []string
	quoted, start := false, 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i < len(s) && s[i] == '"':
			quoted = !quoted
		case i == len(s), s[i] == ',' && !quoted:
			out = append(out, strings.Trim(s[start:i], ` "`))
			start = i + 1
		}
	}
	return out
}

// number reads a small decimal number, -1 for anything else.
func number(s string) int {
	if !isDigits(s) || len(s) > 6 {
		return -1
	}
	n, _ := strconv.Atoi(s)
	return n
}

// parseDigits finds the line of an answer that is one number of shortest to
// longest digits, bare or after the command's own prefix, quoted or not.
func parseDigits(lines []string, prefix string, shortest, longest int) (string, bool) {
	for _, line := range lines {
		if rest, ok := after(line, prefix); ok {
			line = rest
		}
		line = strings.Trim(line, ` "`)
		if isDigits(line) && len(line) >= shortest && len(line) <= longest {
			return line, true
		}
	}
	return "", false
}

func parseIMSI(lines []string) (string, bool) { return parseDigits(lines, "+CIMI", 6, 15) }

// parseIMEI accepts 14 to 16 digits: without the check digit, with it, and with
// a software version in its place (3GPP TS 23.003 clause 6).
func parseIMEI(lines []string) (string, bool) { return parseDigits(lines, "+CGSN", 14, 16) }

// parseICCID reads the answers to all the commands for a card's number. The
// number begins with 89 (ITU-T E.118) and has 18 to 20 digits; some issuers use
// letters A to F in it. Padding is taken off and swapped nibbles are put right.
func parseICCID(lines []string) (string, bool) {
	for _, line := range lines {
		if name, rest, ok := strings.Cut(line, ":"); ok {
			switch name {
			case "+CCID", "+QCCID", "+ICCID", "^ICCID", "+CICCID", "ICCID", "!ICCID", "#CCID", "+ZICCID":
				line = rest
			default:
				continue
			}
		}
		if iccid, ok := iccidOf(strings.Trim(line, ` "`)); ok {
			return iccid, true
		}
	}
	return "", false
}

func iccidOf(s string) (string, bool) {
	s = strings.ToUpper(s)
	for i := range len(s) {
		if !strings.Contains("0123456789ABCDEF", s[i:i+1]) {
			return "", false
		}
	}
	if strings.HasPrefix(s, "98") && len(s)%2 == 0 {
		s = swapNibbles(s)
	}
	s = strings.TrimRight(s, "F")
	return s, strings.HasPrefix(s, "89") && len(s) >= 18 && len(s) <= 20
}

// swapNibbles turns the order of digits on a card into that of reading, and
// back; s has an even length.
func swapNibbles(s string) string {
	b := []byte(s)
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}

// parseText reads maker, model or revision: the line with the command's prefix,
// else the first that does not look like an unsolicited one.
func parseText(lines []string, prefix string) (string, bool) {
	first := ""
	for _, line := range lines {
		if rest, ok := after(line, prefix); ok {
			return clean(rest), rest != ""
		}
		if first == "" && !unsolicited(line) {
			first = clean(line)
		}
	}
	return first, first != ""
}

// unsolicited says whether a line without the command's prefix is one that
// modems send on their own: another prefix, or a well-known word.
func unsolicited(line string) bool {
	if strings.ContainsAny(line[:min(1, len(line))], "+^*%$#&!") {
		return true
	}
	switch strings.ToUpper(line) {
	case "", "RDY", "RING", "SMS DONE", "PB DONE", "SMS READY", "CALL READY", "NO CARRIER", "POWERED DOWN", "NORMAL POWER DOWN":
		return true
	}
	return false
}

// clean makes a name fit for being shown: printable, at most 64 characters, and
// decoded when the modem's character set was left at UCS2 (3GPP TS 27.007
// clause 5.5), which shows as four hex digits a character.
func clean(s string) string {
	s = strings.Trim(s, ` "`)
	if name, ok := fromUCS2(s); ok {
		s = name
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "")
	}
	n := 0
	return strings.Map(func(r rune) rune {
		if n++; n > 64 || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

func fromUCS2(s string) (string, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) < 4 || len(b)%2 != 0 {
		return "", false
	}
	var out strings.Builder
	for i := 0; i < len(b); i += 2 {
		r := rune(b[i])<<8 | rune(b[i+1])
		if !unicode.IsPrint(r) || !utf8.ValidRune(r) {
			return "", false
		}
		out.WriteRune(r)
	}
	return out.String(), true
}

// parseCPIN reads the SIM's state. The last line counts: an earlier one was sent
// by the modem on its own.
func parseCPIN(lines []string) (state SIMState, ok bool) {
	for _, line := range lines {
		if rest, is := after(line, "+CPIN"); is {
			state, ok = simStateOf(strings.Trim(rest, ` "`)), true
		}
	}
	return state, ok
}

func simStateOf(s string) SIMState {
	switch s = strings.ToUpper(s); {
	// The second PIN guards features nobody uses; the card itself is open.
	case s == "READY", s == "SIM PIN2", s == "SIM PUK2":
		return SIMReady
	case s == "SIM PIN":
		return SIMPIN
	case s == "SIM PUK":
		return SIMPUK
	case s == "NOT INSERTED", s == "SIM NOT INSERTED", s == "SIM REMOVED":
		return SIMAbsent
	case s == "NOT READY", s == "SIM BUSY":
		return SIMBusy
	case strings.HasPrefix(s, "PH-"), strings.HasPrefix(s, "PH_"):
		return SIMLocked
	}
	return SIMUnknown
}

// parseTries reads how often the first PIN may still be tried, in the dialects
//
//	+QPINC: "SC",3,10                      Quectel
//	^CPIN: SIM PIN,3,10,3,10,3             Huawei: code, now, PUK, PIN, PUK2, PIN2
//	+SPIC: 3,10,3,10                       SIMCom
//	+CPINC: 3,3,10,10                      Sierra
//	#PCT: 3                                Telit, of the code it asks for
//	+UPINCNT: 3,3,10,10                    u-blox
//	+ZPINPUK: 3,10                         ZTE
//	+CPINR: SIM PIN,3,3                    3GPP TS 27.007 clause 8.65
func parseTries(lines []string) (int, bool) {
	for _, line := range lines {
		name, rest, _ := strings.Cut(line, ":")
		f, at := fields(rest), -1
		switch {
		case name == "+QPINC" && len(f) >= 2 && f[0] == "SC":
			at = 1
		case name == "^CPIN" && len(f) >= 4:
			at = 3
		case (name == "+SPIC" || name == "+CPINC" || name == "+UPINCNT") && len(f) >= 4,
			name == "#PCT" && len(f) == 1, name == "+ZPINPUK" && len(f) >= 2:
			at = 0
		case name == "+CPINR" && len(f) >= 2 && f[0] == "SIM PIN":
			at = 1
		}
		if at >= 0 {
			if n := number(f[at]); n >= 0 && n < 100 {
				return n, true
			}
		}
	}
	return 0, false
}

// A cardReply is what a card answered to AT+CRSM (3GPP TS 27.007 clause 8.18).
type cardReply struct {
	sw1, sw2 int
	data     []byte
}

// waiting returns how many bytes the card holds ready for GET RESPONSE.
func (r cardReply) waiting() int {
	if len(r.data) == 0 && (r.sw1 == 0x61 || r.sw1 == 0x9f) {
		return r.sw2
	}
	return 0
}

// ok says whether the card did what it was asked (3GPP TS 31.101 clause 10.2.1).
func (r cardReply) ok() bool {
	return r.sw1 == 0x90 || r.sw1 == 0x91 || len(r.data) > 0 && (r.sw1 == 0x61 || r.sw1 == 0x9f)
}

func parseCRSM(lines []string) (cardReply, bool) {
	for _, line := range lines {
		rest, ok := after(line, "+CRSM")
		if !ok {
			continue
		}
		f := fields(rest)
		if len(f) < 2 || number(f[0]) < 0 || number(f[0]) > 255 || number(f[1]) < 0 || number(f[1]) > 255 {
			continue
		}
		r := cardReply{sw1: number(f[0]), sw2: number(f[1])}
		if len(f) > 2 {
			data, err := hex.DecodeString(f[2])
			if err != nil {
				continue
			}
			r.data = data
		}
		return r, true
	}
	return cardReply{}, false
}

// parseEFAD reads the length of the network code from EF_AD (3GPP TS 31.102
// clause 4.2.18), 0 when the card does not say.
func parseEFAD(data []byte) int {
	if len(data) < 4 {
		return 0
	}
	if n := int(data[3] & 0x0f); n == 2 || n == 3 {
		return n
	}
	return 0
}
