package modem

import (
	"bufio"
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/warthog618/modem/at"
)

// noise are unsolicited lines that the parsers must look past.
var noise = []string{
	"", "^RSSI:17", `^HCSQ:"LTE",54,41,151,26`, "+CREG: 1", `+CREG: 5,"00C3","0000A1B2",7`, "+CGREG: 5,00C3,0000A1B2,7", "RING", "RDY",
	"+CPIN:", "+COPS:", `+COPS: (2,"x","y","26201",7),(1,"a","b","26202",7),,(0-4),(0-2)`, "+CRSM: ", "+CSQ:", "+CESQ: 1", "+CRSM: x,y",
	"+QPINC:", "^CPIN:", "+SPIC: ", "+CCID:", "8", "\x00", "+CMTI: \"SM\",1", "> ", strings.Repeat("9", 300), `"`,
}

// among puts line between noise.
func among(lines ...string) []string { return slices.Concat(noise, lines, noise) }

func TestParseNumbers(t *testing.T) {
	for line, want := range map[string]string{
		"001010123456789": "001010123456789", "246813579": "246813579", `"001010123456789"`: "001010123456789",
		"+CIMI: 001010123456789": "001010123456789", "0010101234567891": "", "00101": "", "": "", "00101012345678a": "",
	} {
		if got, ok := parseIMSI(among(line)); got != want || ok != (want != "") {
			t.Errorf("IMSI %q: %q", line, got)
		}
	}
	for line, want := range map[string]string{
		"490154203237518": "490154203237518", `+CGSN: "490154203237518"`: "490154203237518", "4901542032375180": "4901542032375180", "4901542": "",
	} {
		if got, _ := parseIMEI(among(line)); got != want {
			t.Errorf("IMEI %q: %q", line, got)
		}
	}
	for line, want := range map[string]string{
		"+QCCID: 8988211000000000011":    "8988211000000000011",
		"+QCCID: 8988211000000000011F":   "8988211000000000011",
		`+ICCID: "89882110000000000112"`: "89882110000000000112",
		"^ICCID: 988812010000000010F1":   "8988211000000000011",
		"8988211000000000011":            "8988211000000000011",
		"898600f0123456789012":           "898600F0123456789012",
		"+CCID: 8988":                    "",
		"12345678901234567890":           "",
		"+CNUM: 8988211000000000011":     "",
	} {
		if got, _ := parseICCID(among(line)); got != want {
			t.Errorf("ICCID %q: %q, want %q", line, got, want)
		}
	}
}

func TestParseText(t *testing.T) {
	for _, test := range []struct{ prefix, line, want string }{
		{"+CGMI", "Quectel", "Quectel"}, {"+CGMR", "+CGMR: LE11B12", "LE11B12"}, {"+CGMI", "huawei\x07", "huawei"},
		{"+CGMM", "004D00540053", "MTS"}, {"+CGMM", "\xff\xfeEC25", "EC25"}, {"+CGMM", strings.Repeat("é", 100), strings.Repeat("é", 64)},
	} {
		if got, ok := parseText([]string{"^RSSI:17", "RDY", test.line, "later"}, test.prefix); got != test.want || !ok {
			t.Errorf("%q: %q", test.line, got)
		}
	}
}

func TestParseCPIN(t *testing.T) {
	for line, want := range map[string]SIMState{
		"+CPIN: READY": SIMReady, "+CPIN:READY": SIMReady, `+CPIN: "SIM PIN"`: SIMPIN, "+CPIN: SIM PUK": SIMPUK, "+CPIN: SIM PIN2": SIMReady,
		"+CPIN: NOT INSERTED": SIMAbsent, "+CPIN: NOT READY": SIMBusy, "+CPIN: PH-NET PIN": SIMLocked, "+CPIN: PH_SIM PIN": SIMLocked, "+CPIN: odd": SIMUnknown,
	} {
		if got, ok := parseCPIN([]string{"+CPIN: NOT READY", line, "RING"}); got != want || !ok {
			t.Errorf("%q: %v", line, got)
		}
		if want.String() == "" {
			t.Errorf("%d has no name", want)
		}
	}
	if _, ok := parseCPIN([]string{"OK", "^CPIN: READY"}); ok {
		t.Error("an answer out of nothing")
	}
}

func TestParseTries(t *testing.T) {
	for line, want := range map[string]int{
		`+QPINC: "SC",3,10`: 3, "^CPIN: SIM PIN,1,10,2,10,3": 2, "^CPIN: READY,,10,3,10,3": 3, "+SPIC: 1,10,3,10": 1, "+CPINR: SIM PIN,0,3": 0,
		"+CPINC: 2,3,10,10": 2, "+UPINCNT: 1,3,10,10": 1, "#PCT: 3": 3, "+ZPINPUK: 2,10": 2, "#PCT: 3,4": -1,
		`+QPINC: "P2",3,10`: -1, "+SPIC: x,1,2,3": -1, "+CPINR: SIM PUK,10": -1, "+QPINC: \"SC\",-1": -1,
	} {
		got, ok := parseTries(among(line))
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %v", line, got, ok)
		}
	}
}

func TestParseCRSM(t *testing.T) {
	for line, want := range map[string]int{
		`+CRSM: 144,0,"00000002"`: 2, "+CRSM: 144,0,00000003": 3, "+CRSM:145,17,\"0000000313\"": 3, `+CRSM: 144,0,"0000000F"`: 0, `+CRSM: 144,0,"000000"`: 0,
		"+CRSM: 106,130": 0, `+CRSM: 159,4,"00000002"`: 2, "+CRSM: 159,4": 0, `+CRSM: 300,0,"00000002"`: 0,
	} {
		r, ok := parseCRSM(among(line))
		got := 0
		if ok && r.ok() {
			got = parseEFAD(r.data)
		}
		if got != want {
			t.Errorf("%q: %d", line, got)
		}
	}
	if r, _ := parseCRSM([]string{"+CRSM: 159,4"}); r.waiting() != 4 {
		t.Error("nothing is waiting")
	}
}

func TestParseCOPS(t *testing.T) {
	for line, want := range map[string]copsReply{
		`+COPS: 0,0,"Vodafone D2",7`: {name: "Vodafone D2", act: 7}, `+COPS: 0,2,"26202",7`: {plmn: "26202", act: 7}, "+COPS: 1,2,310260": {plmn: "310260", act: -1},
		"+COPS: 0": {act: -1}, `+COPS: 0,0,"A, B",2`: {name: "A, B", act: 2}, `+COPS: 0,0,"041C04220421",2`: {name: "МТС", act: 2}, `+COPS: 0,2,"1"`: {act: -1},
	} {
		if got, ok := parseCOPS(among(line)); got != want || !ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestParseRegistration(t *testing.T) {
	type result struct {
		stat, act int
		ok        bool
	}
	for line, want := range map[string]result{
		"+CREG: 0,1": {1, -1, true}, `+CREG: 2,5,"00C3","0000A1B2",7`: {5, 7, true}, "+CREG: 2,1,00C3,0000A1B2,2": {1, 2, true}, "+CREG: 0,0": {0, -1, true},
		"+CREG: 1": {}, `+CREG: 1,"00C3","0000A1B2",7`: {}, `+CREG: 1,"3","2"`: {}, "+CREG: 1,00C3,0000A1B2,7": {}, "+CGREG: 0,5": {},
	} {
		stat, act, ok := parseRegistration(among(line), "+CREG")
		if !ok {
			stat, act = 0, 0
		}
		if got := (result{stat, act, ok}); got != want {
			t.Errorf("%q: %+v", line, got)
		}
	}
	for stat := -1; stat < 20; stat++ {
		if registrationOf(stat).String() == "" || technologyOf(stat).String() == "" {
			t.Errorf("%d has no name", stat)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for line, want := range map[string]Signal{
		"+CSQ: 20,99": {RSSI: -73}, "+CSQ:0,0": {RSSI: -113}, "+CSQ: 31,99": {RSSI: -51}, "+CSQ: 99,99": {}, "+CSQ: 150,99": {RSCP: -66}, "+CSQ: 199,99": {},
	} {
		if got, ok := parseCSQ(among(line)); got != want || !ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
	for line, want := range map[string]Signal{
		"+CESQ: 99,99,255,255,20,46": {RSRP: -95}, "+CESQ: 40,0,255,255,255,255": {RSSI: -71}, "+CESQ: 99,99,50,20,255,255": {RSCP: -71},
		"+CESQ: 99,99,255,255,255,255,70,62,40": {RSRP: -95}, "+CESQ: 99,99,255,255,255,255": {},
	} {
		if got, ok := parseCESQ(among(line)); got != want || !ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestParseTechnology(t *testing.T) {
	for line, want := range map[string]Technology{
		`+QNWINFO: "FDD LTE","26201","LTE BAND 3",1300`: LTE, `^SYSINFOEX: 2,3,0,1,,3,"WCDMA",46,"HSPA+"`: HSPA, "+CPSI: LTE,Online,262-01": LTE, `+QNWINFO: "TDD NR5G"`: NR,
		"+CPSI: NR5G_NSA,Online": NRNSA, "+CPSI: NO SERVICE,Online": NoTechnology, `+QNWINFO: "EDGE"`: EDGE, `+QNWINFO: "WCDMA"`: UMTS, "+CPSI: GSM,Online": GSM, `+QNWINFO: "CAT-NB1"`: NBIoT,
	} {
		if got := parseTechnology([]string{"RING", line}); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestParseCME(t *testing.T) {
	for text, want := range map[string]error{
		"10": ErrNoSIM, "SIM not inserted": ErrNoSIM, "SIM NOT INSERTED": ErrNoSIM, "14": ErrSIMBusy, "SIM busy": ErrSIMBusy, "515": ErrSIMBusy,
		"11": ErrPINRequired, "SIM PIN required": ErrPINRequired, "12": ErrPUKRequired, "16": ErrPINRefused, "Incorrect password": ErrPINRefused,
	} {
		if err := fromAT(at.CMEError(text)); !errors.Is(err, want) || err.Error() == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]CMEError{
		"4": {4, "operation not supported"}, "58": {58, "CME error 58"}, "odd 26201": {-1, "CME error: odd #####"}, "": {-1, "CME error: "}, "-1": {-1, "CME error: -#"},
		strings.Repeat("x", 99): {-1, "CME error: " + strings.Repeat("x", 48)}, "13": {13, "SIM failure"},
	} {
		if got := parseCME(text); got != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
	if soft(ErrTimeout) || soft(ErrGone) || !soft(parseCME("4")) || !soft(errRefused) {
		t.Error("soft")
	}
}

func TestMNCTable(t *testing.T) {
	for imsi, want := range map[string]int{
		"310260123456789": 3, "302720123456789": 3, "262011234567890": 2, "405854123456789": 3, "405041123456789": 2, "208012345678901": 2, "208501234567890": 3, "250811234567890": 3,
		"250991234567890": 2, "722310123456789": 3, "": 2, "24681": 2,
	} {
		if got := tableMNCLength(imsi); got != want {
			t.Errorf("%s: %d", imsi, got)
		}
	}
}

func TestLineFilter(t *testing.T) {
	for in, want := range map[string]string{
		"\r\nOK\r\n":                             "OK\n",
		"AT+CIMI\r\r\n001\r\r\n\r\nOK\r\r\n":     "AT+CIMI\n001\nOK\n",
		"AT\r0\r":                                "AT\n0\n",
		"\x00\xff\x1b\xfeOK \r\n":                "OK\n",
		"COMMAND NOT SUPPORT\r\n":                "+CME ERROR: 4\n",
		"TOO MANY PARAMETERS\r\n":                "+CME ERROR: 50\n",
		"+COPS: \"М\"\r\n":                       "+COPS: \"М\"\n",
		"half":                                   "",
		strings.Repeat("x", 3000) + "\r\nOK\r\n": "OK\n",
	} {
		for size := 1; size < 20; size += 6 {
			var f lineFilter
			var out []byte
			for chunk := range slices.Chunk([]byte(in), size) {
				out = f.feed(out, chunk)
			}
			if string(out) != want {
				t.Errorf("%.40q by %d: %q", in, size, out)
			}
		}
	}
}

// FuzzParseLines feeds what a modem may send to the filter and every parser:
// none fails, and each result is in its range.
func FuzzParseLines(f *testing.F) {
	for _, line := range noise {
		f.Add([]byte(line + "\r\n"))
	}
	f.Add([]byte("+CREG: 2,5,\"00C3\",\"0000A1B2\",7\r\r\n+COPS: 0,2,\"26202\",7\r\n"))
	f.Add([]byte("+CPIN: SIM PIN\r\n+QPINC: \"SC\",3,10\r\n^CPIN: SIM PIN,1,10,2,10,3\r\n"))
	f.Add([]byte("+CRSM: 144,0,\"98882110000000001001\"\r\n^ICCID: 988812\r\n001010123456789\r\n"))
	f.Add([]byte("+CSQ: 20,99\r\n+CESQ: 99,99,255,255,20,46\r\n^SYSINFOEX: 2,3,0,1,,6,\"LTE\",101,\"LTE\"\r\n"))
	f.Add([]byte("+CFUN: 1,0\r\n+CGPADDR: 1,\"10.64.0.1\",\"254.128.0.0.0.0.0.0.0.0.0.0.0.0.0.1\"\r\n+CGPADDR: 2\r\n+CUSD: 0,\"x\",15\r\n"))
	f.Add([]byte("+QCFG: \"band\",0x93,0x1a0080800d5,0x0\r\n+QCFG: \"nwscanmode\",3\r\n+QNWPREFCFG: \"lte_band\",1:3:7\r\n+QNWPREFCFG: \"mode_pref\",NR5G:LTE\r\n"))
	f.Add([]byte("^SYSCFGEX: \"00\",3FFFFFFF,1,2,7FFFFFFFFFFFFFFF\r\n+CNBP: 0x0002000000400183,0x1E0\r\n+GTACT: 20,6,3,1,103,5078\r\n#BND: 1,8,526535\r\n"))
	f.Add([]byte("00, All bands             0002000007C00000 00000100130818DF\r\n!SELRAT: 06, LTE Only\r\n+UBANDMASK: 3,526551,0\r\n+WS46: 28\r\n+ZSNT: 6,0,0\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var filter lineFilter
		out := filter.feed(nil, in)
		if bytes.ContainsAny(out, "\r\x00") || bytes.Contains(out, []byte("\n\n")) {
			t.Errorf("%q", out)
		}
		var lines []string
		for scanner := bufio.NewScanner(bytes.NewReader(out)); scanner.Scan(); {
			lines = append(lines, scanner.Text())
		}
		checkParsers(t, lines)
	})
}

func checkParsers(t *testing.T, lines []string) {
	if imsi, ok := parseIMSI(lines); ok {
		if _, err := ParseIMSI(imsi, mncLength(imsi, 0, "")); err != nil {
			t.Error(err)
		}
	}
	if imei, ok := parseIMEI(lines); ok && (!isDigits(imei) || len(imei) < 14 || len(imei) > 16) {
		t.Errorf("IMEI %q", imei)
	}
	if iccid, ok := parseICCID(lines); ok && (len(iccid) < 18 || len(iccid) > 20 || !strings.HasPrefix(iccid, "89")) {
		t.Errorf("ICCID %q", iccid)
	}
	if text, _ := parseText(lines, "+CGMI"); !utf8.ValidString(text) || utf8.RuneCountInString(text) > 64 {
		t.Errorf("text %q", text)
	}
	if n, _ := parseTries(lines); n < 0 || n > 99 {
		t.Errorf("%d tries", n)
	}
	if r, ok := parseCRSM(lines); ok && r.ok() {
		if n := parseEFAD(r.data); n != 0 && n != 2 && n != 3 {
			t.Errorf("MNC of %d digits", n)
		}
	}
	if r, ok := parseCOPS(lines); ok && (r.plmn != "" && (!isDigits(r.plmn) || len(r.plmn) < 5 || len(r.plmn) > 6) || !utf8.ValidString(r.name)) {
		t.Errorf("%+v", r)
	}
	for _, prefix := range []string{"+CREG", "+CGREG", "+CEREG", "+C5GREG"} {
		if stat, _, ok := parseRegistration(lines, prefix); ok && (stat < 0 || stat > 15) {
			t.Errorf("stat %d", stat)
		}
	}
	for _, parse := range []func([]string) (Signal, bool){parseCSQ, parseCESQ} {
		s, _ := parse(lines)
		for _, dBm := range []int{s.RSSI, s.RSCP, s.RSRP} {
			if dBm > 0 || dBm < -160 {
				t.Errorf("%d dBm", dBm)
			}
		}
	}
	checkSettings(t, lines)
	if parseTechnology(lines).String() == "" {
		t.Error("a technology without name")
	}
	if state, _ := parseCPIN(lines); state.String() == "" {
		t.Error("a state without name")
	}
	for _, line := range lines {
		if e := parseCME(line); len(e.Error()) > 64 || e.Code < -1 {
			t.Errorf("%+v", e)
		}
	}
}

// checkSettings reads lines as every maker's answers about its settings, and
// makes the commands that would follow.
func checkSettings(t *testing.T, lines []string) {
	if n, ok := parseCFUN(lines); ok && (n < 0 || n > 255) {
		t.Errorf("radio at %d", n)
	}
	for _, a := range parseCGPADDR(lines) {
		if !a.IsValid() || a.IsUnspecified() || a.Zone() != "" {
			t.Errorf("address %v", a)
		}
	}
	parseCMGL(lines)
	for _, d := range dialects {
		if mode, ok := d.mode.parse(lines); ok && mode >= modes {
			t.Errorf("%s: mode %d", d.makers, mode)
		}
		if d.bands == nil {
			continue
		}
		b, _ := d.bands.parse(lines)
		for _, n := range slices.Concat(b.LTE, b.NR) {
			if n < 1 || n > maxBand {
				t.Errorf("%s: band %d", d.makers, n)
			}
		}
		for _, want := range []Bands{{}, {LTE: []int{3, 20}}, {NR: []int{78}}, {LTE: []int{71}, NR: []int{1}}} {
			for _, cmd := range d.bands.set(want, lines) {
				if len(cmd) > 4*maxLine || strings.ContainsAny(cmd, "\r\n") {
					t.Errorf("%s: command %q", d.makers, cmd)
				}
			}
		}
	}
}

// FuzzParsePINGuard reads damaged records: what is taken is written back the same.
func FuzzParsePINGuard(f *testing.F) {
	f.Add([]byte("v1 sent "+strings.Repeat("0a", 16)+" "+strings.Repeat("0b", 32)+"\n"), "8988211000000000011", "1234")
	f.Add([]byte("v1 accepted "+strings.Repeat("00", 16)+" "+strings.Repeat("ff", 32)+"\nv2\n"), "", "")
	f.Add([]byte("v1 sent 00"), "89", "0")
	f.Fuzz(func(t *testing.T, text []byte, iccid, digits string) {
		lines, err := parseGuard(text, "pins")
		if err != nil {
			if !errors.Is(err, ErrPINRequired) {
				t.Error(err)
			}
			return
		}
		var again bytes.Buffer
		for _, l := range lines {
			again.WriteString(l.String() + "\n")
		}
		if back, err := parseGuard(again.Bytes(), "pins"); err != nil || !slices.Equal(back, lines) {
			t.Errorf("%q became %q, %v", text, again.Bytes(), err)
		}
		find(lines, iccid, PIN{digits: &digits})
	})
}
