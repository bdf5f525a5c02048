package modemtest

import (
	"fmt"
	"slices"
	"strings"
)

// The profiles, and the modem each plays.
const (
	Quectel  = "quectel"  // EC25, no 5G
	Quectel5 = "quectel5" // RM500Q, 5G
	Huawei   = "huawei"   // E3372, stick firmware
	SIMCom   = "simcom"   // SIM7600E-H
	Sierra   = "sierra"   // MC7455
	Fibocom  = "fibocom"  // FM150
	Telit    = "telit"    // LE910C4
	UBlox    = "ublox"    // LARA-R6
	ZTE      = "zte"      // MF79U, stick firmware with a serial port
)

// A dialect is what one maker does in its own way.
type dialect struct {
	profile                string
	maker, model, revision string
	bareHex                bool   // AT+CRSM without quotes
	bareIP                 bool   // AT+CGPADDR without quotes
	unknown, tooMany       string // final lines, ERROR when empty
	cfun                   string // what follows the number in the answer to AT+CFUN?
	noCESQ                 bool
	packedUSSD             bool
	// restart are commands that restart the modem, besides AT+CFUN=1,1.
	restart []string
	// settings are the modem's kept settings, as the maker names and prints
	// them, with their factory values.
	settings map[string]string
	// own answers the commands that only this maker has, or has differently.
	own func(m *Modem, name, op string) (reply, bool)
}

// dialects are all makers, in the order in which they are listed.
var dialects = []dialect{
	{
		profile: Quectel, maker: "Quectel", model: "EC25", revision: "EC25EFAR06A06M4G", own: quectel,
		settings: map[string]string{`"nwscanmode"`: "0", `"band"`: "0x93,0x1a0080800d5,0x0"},
	}, {
		profile: Quectel5, maker: "Quectel", model: "RM500Q-GL", revision: "RM500QGLABR11A06M4G", own: quectel5,
		settings: map[string]string{
			`"mode_pref"`: "AUTO", `"lte_band"`: "1:3:7:8:20:28:38:40", `"nsa_nr5g_band"`: "1:3:28:78", `"nr5g_band"`: "1:3:28:78",
			`all "lte_band"`: "1:3:7:8:20:28:38:40", `all "nsa_nr5g_band"`: "1:3:28:78", `all "nr5g_band"`: "1:3:28:78",
		},
	}, {
		profile: Huawei, maker: "huawei", model: "E3372", revision: "21.200.07.01.00", own: huawei, bareIP: true, noCESQ: true, packedUSSD: true,
		unknown: "COMMAND NOT SUPPORT", tooMany: "TOO MANY PARAMETERS", restart: []string{"^RESET"},
		settings: map[string]string{"^SYSCFGEX": `"00",3FFFFFFF,1,2,7FFFFFFFFFFFFFFF`},
	}, {
		profile: SIMCom, maker: "SIMCOM INCORPORATED", model: "SIMCOM_SIM7600E-H", revision: "+CGMR: LE11B12SIM7600M22", bareHex: true, bareIP: true, own: simcom,
		restart:  []string{"+CRESET"},
		settings: map[string]string{"+CNMP": "2", "+CNBP": "0x0002000000400183,0x000001E000000095,0x0000000000000021"},
	}, {
		profile: Sierra, maker: "Sierra Wireless, Incorporated", model: "MC7455", revision: "SWI9X30C_02.33.03.00", bareIP: true, own: sierra,
		restart:  []string{"!RESET"},
		settings: map[string]string{"!SELRAT": "00", "!BAND": "00", "!BAND00": "0002000007C00000,00000100130818DF"},
	}, {
		profile: Fibocom, maker: "Fibocom Wireless Inc.", model: "FM150-AE", revision: "89602.1000.00.04.01.06", cfun: ",0", own: fibocom,
		unknown: "+CME ERROR: 58",
		settings: map[string]string{
			"+GTACT": "20,6,3,1,8,101,103,107,120,501,5078", "all bands": "20,6,3,1,8,101,103,107,120,501,5078",
		},
	}, {
		profile: Telit, maker: "Telit", model: "LE910C4-EU", revision: "25.21.660", own: telit,
		restart:  []string{"#REBOOT"},
		settings: map[string]string{"+WS46": "25", "#BND": "1,8,526535"},
	}, {
		profile: UBlox, maker: "u-blox", model: "LARA-R6001", revision: "00.13", own: ublox,
		unknown:  "+CME ERROR: unknown", // whatever AT+CMEE says
		restart:  []string{"+CFUN=16"},
		settings: map[string]string{"+URAT": "4", "+UBANDMASK": "3,526551,0,0,0"},
	}, {
		profile: ZTE, maker: "ZTE CORPORATION", model: "MF79U", revision: "BD_PLKMF79UV1.0.0B03", own: zte, noCESQ: true,
		restart:  []string{"+ZRST"},
		settings: map[string]string{"+ZSNT": "0,0,0"},
	},
}

// Profiles lists them all.
func Profiles() []string {
	names := make([]string, len(dialects))
	for i, d := range dialects {
		names[i] = d.profile
	}
	return names
}

// Model is the maker and the model that a profile plays, "" for none.
func Model(profile string) string {
	if d, ok := dialectOf(profile); ok {
		return d.maker + " " + d.model
	}
	return ""
}

func dialectOf(profile string) (dialect, bool) {
	i := slices.IndexFunc(dialects, func(d dialect) bool { return d.profile == profile })
	if i < 0 {
		return dialect{}, false
	}
	return dialects[i], true
}

func (m *Modem) dialect() dialect {
	d, _ := dialectOf(m.cfg.Profile)
	return d
}

// setting is the value that the modem keeps under a name; set changes it,
// unless a fault has the modem say OK and forget.
func (m *Modem) setting(name string) string { return m.settings[name] }

func (m *Modem) set(name, value string) reply {
	if !m.cfg.Faults.Forgets {
		m.settings[name] = value
	}
	return done()
}

// kept answers "name?" and "name=value" for a setting that is printed as it is
// set, for a value that looks right to fit.
func (m *Modem) kept(name, op string, fit func(args []string) bool) (reply, bool) {
	if op == "?" {
		return done(name + ": " + m.setting(name)), true
	}
	value, assigned := strings.CutPrefix(op, "=")
	switch {
	case !assigned:
		return reply{}, false
	case !fit(strings.Split(value, ",")):
		return fail(parameters), true
	}
	return m.set(name, value), true
}

// decimal and hexadecimal say whether all of args are numbers; an empty one
// leaves a value as it is.
func decimal(args []string) bool { return written(args, "0123456789") }

func hexadecimal(args []string) bool { return written(args, "0123456789abcdefABCDEF") }

func written(args []string, with string) bool {
	return !slices.ContainsFunc(args, func(a string) bool { return strings.Trim(strings.TrimPrefix(a, "0x"), with) != "" })
}

func quectel(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "+QCCID":
		return m.withICCID("+QCCID: " + m.cfg.ICCID), true
	case "+CCID":
		return m.withICCID("+CCID: " + m.cfg.ICCID), true
	case "+QPINC?":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf(`+QPINC: "SC",%d,10`, m.cfg.Tries), `+QPINC: "P2",3,10`), true
		}
	case "+QNWINFO":
		return done(`+QNWINFO: "FDD LTE","` + m.cfg.Operator.PLMN + `","LTE BAND 3",1300`), true
	}
	if name != "+QCFG" || !strings.HasPrefix(op, "=") {
		return reply{}, false
	}
	// The masks are set without 0x and read with it; 0 keeps one.
	args := strings.Split(op[1:], ",")
	switch key := args[0]; {
	case m.setting(key) == "":
		return fail(parameters), true
	case len(args) == 1:
		return done("+QCFG: " + key + "," + m.setting(key)), true
	case key == `"nwscanmode"` && decimal(args[1:]):
		return m.set(key, args[1]), true
	case key == `"band"` && len(args) >= 4 && hexadecimal(args[1:]):
		masks := strings.Split(m.setting(key), ",")
		for i, mask := range args[1:4] {
			if strings.Trim(mask, "0") != "" {
				masks[i] = "0x" + strings.TrimLeft(strings.ToLower(mask), "0")
			}
		}
		return m.set(key, strings.Join(masks, ",")), true
	}
	return fail(parameters), true
}

func quectel5(m *Modem, name, op string) (reply, bool) {
	if name != "+QNWPREFCFG" || !strings.HasPrefix(op, "=") {
		if name == "+QCFG" {
			return fail(unknown), true
		}
		return quectel(m, name, op)
	}
	key, value, assigned := strings.Cut(op[1:], ",")
	switch {
	case op == `="all_band_reset"`:
		for _, list := range []string{`"lte_band"`, `"nsa_nr5g_band"`, `"nr5g_band"`} {
			m.set(list, m.setting("all "+list))
		}
		return done(), true
	case m.setting(key) == "":
		return fail(parameters), true
	case !assigned:
		return done("+QNWPREFCFG: " + key + "," + m.setting(key)), true
	case key == `"mode_pref"` && strings.Trim(value, ":ADEGLMNORTUWC5") == "",
		key != `"mode_pref"` && decimal(strings.Split(value, ":")):
		return m.set(key, value), true
	}
	return fail(parameters), true
}

func huawei(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "^ICCID?":
		return m.withICCID("^ICCID: " + m.cfg.ICCID), true
	case "^CPIN?":
		if m.cfg.Faults.NoTries {
			break
		}
		switch code := m.simCode(); code {
		case ok:
			return done(fmt.Sprintf("^CPIN: READY,,10,%d,10,3", m.cfg.Tries)), true
		case needsPIN:
			return done(fmt.Sprintf("^CPIN: SIM PIN,%d,10,%d,10,3", m.cfg.Tries, m.cfg.Tries)), true
		case needsPUK:
			return done("^CPIN: SIM PUK,10,10,0,10,3"), true
		default:
			return fail(code), true
		}
	case "^SYSINFOEX":
		return done(`^SYSINFOEX: 2,3,0,1,,6,"LTE",101,"LTE"`), true
	case "^SYSCFGEX?":
		return done("^SYSCFGEX: " + m.setting("^SYSCFGEX")), true
	case "+C5GREG?":
		return fail(tooMany), true
	}
	if name != "^SYSCFGEX" || !strings.HasPrefix(op, "=") {
		return reply{}, false
	}
	// 99, 40000000 and the like keep a value; two empty ones end the command.
	args, now := strings.Split(op[1:], ","), strings.Split(m.setting(name), ",")
	if len(args) != 7 || !hexadecimal([]string{strings.Trim(args[0], `"`), args[1], args[2], args[3], args[4]}) {
		return fail(parameters), true
	}
	for i, keep := range []string{`"99"`, "40000000", "2", "4", "40000000"} {
		if args[i] != keep {
			now[i] = args[i]
		}
	}
	return m.set(name, strings.Join(now, ",")), true
}

func simcom(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "+CICCID":
		return m.withICCID("+ICCID: " + m.cfg.ICCID), true
	case "+CGSN=1":
		return done(`+CGSN: "` + m.cfg.IMEI + `"`), true
	case "+SPIC":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf("+SPIC: %d,10,3,10", m.cfg.Tries)), true
		}
	case "+CPSI?":
		plmn := m.cfg.Operator.PLMN
		return done(fmt.Sprintf("+CPSI: LTE,Online,%s-%s,0x1A2B,29613077,12,EUTRAN-BAND3,1300,5,5,-107,-950,-640,14", plmn[:3], plmn[3:])), true
	}
	switch name {
	case "+CNMP":
		return m.kept(name, op, decimal)
	case "+CNBP":
		return m.kept(name, op, hexadecimal)
	}
	return reply{}, false
}
