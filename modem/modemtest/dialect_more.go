package modemtest

import (
	"fmt"
	"strings"
)

// sierra names its band sets: one is chosen by its index, and index 10 and up
// may be defined. Both need an unlocking command first.
func sierra(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "+ICCID?", "!ICCID?":
		return m.withICCID(name + ": " + m.cfg.ICCID), true
	case "+CPINC?":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf("+CPINC: %d,3,10,10", m.cfg.Tries)), true
		}
	case `!ENTERCND="A710"`:
		m.unlockedCommands = true
		return done(), true
	case "!SELRAT?":
		names := map[string]string{"00": "Automatic", "01": "UMTS 3G Only", "02": "GSM 2G Only", "06": "LTE Only"}
		return done("!SELRAT: " + m.setting(name) + ", " + names[m.setting(name)]), true
	case "!BAND?":
		index := m.setting(name)
		masks := strings.ReplaceAll(m.setting(name+index), ",", "     ")
		return done("Index, Name,              GW Band Mask     L Band Mask", index+", Chosen               "+masks), true
	}
	args := strings.Split(strings.TrimPrefix(op, "="), ",")
	switch {
	case name != "!SELRAT" && name != "!BAND" || !strings.HasPrefix(op, "="):
		return reply{}, false
	case !m.unlockedCommands:
		return fail(unknown), true // plain ERROR
	case len(args) == 1 && hexadecimal(args) && len(args[0]) == 2 && (name == "!SELRAT" || m.setting(name+args[0]) != ""):
		return m.set(name, args[0]), true
	case name == "!BAND" && len(args) == 4 && len(args[0]) == 2 && args[0] >= "10" && hexadecimal(args[2:]):
		return m.set(name+args[0], fmt.Sprintf("%016s,%016s", args[2], args[3])), true
	}
	return fail(parameters), true
}

// fibocom reports its state with the second parameter of AT+CFUN?, and lists
// the bands of all technologies in one line.
func fibocom(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "+CCID", "+ICCID":
		return m.withICCID("+CCID: \"" + m.cfg.ICCID + "\""), true
	case "+CPINR":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf("+CPINR: SIM PIN,%d,3", m.cfg.Tries), "+CPINR: SIM PUK,10,10"), true
		}
	case "+GTACT?":
		return done("+GTACT: " + m.setting(name)), true
	case "+CREG?":
		return done(fmt.Sprintf("+CREG: 0,%d", m.stat())), true // no circuits, yet it says so
	}
	args, assigned := strings.CutPrefix(op, "=")
	if name != "+GTACT" || !assigned {
		return reply{}, false
	}
	now, given := strings.Split(m.setting(name), ","), strings.Split(args, ",")
	if !decimal(given) {
		return fail(parameters), true
	}
	for i := range 3 {
		if i < len(given) && given[i] != "" {
			now[i] = given[i]
		}
	}
	if len(given) > 3 {
		now = append(now[:3], given[3:]...)
	}
	if len(given) == 4 && given[3] == "0" { // all bands
		now = strings.Split(m.setting("all bands"), ",")
	}
	return m.set(name, strings.Join(now, ",")), true
}

func telit(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "#CCID":
		return m.withICCID("#CCID: " + m.cfg.ICCID), true
	case "#PCT":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf("#PCT: %d", m.cfg.Tries)), true
		}
	case "#PSNT?":
		return done("#PSNT: 0,4"), true
	}
	if name == "+WS46" || name == "#BND" {
		return m.kept(name, op, decimal)
	}
	return reply{}, false
}

// ublox takes radio settings only while it is not registered.
func ublox(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "+CCID":
		return m.withICCID("+CCID: " + m.cfg.ICCID), true
	case "+UPINCNT":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf("+UPINCNT: %d,3,10,10", m.cfg.Tries)), true
		}
	}
	if name != "+URAT" && name != "+UBANDMASK" {
		return reply{}, false
	}
	if strings.HasPrefix(op, "=") && !m.detached() {
		return reply{lines: []string{"+CME ERROR: operation not allowed"}, code: silent}, true
	}
	return m.kept(name, op, decimal)
}

func zte(m *Modem, name, op string) (reply, bool) {
	switch name + op {
	case "+ZICCID?":
		return m.withICCID("+ZICCID: " + m.cfg.ICCID), true
	case "+ZPINPUK=?":
		if !m.cfg.Faults.NoTries {
			return done(fmt.Sprintf("+ZPINPUK: %d,10", m.cfg.Tries)), true
		}
	case "+ZPAS?":
		return done(`+ZPAS: "LTE","PS_ONLY"`), true
	}
	if name == "+ZSNT" {
		return m.kept(name, op, decimal)
	}
	return reply{}, false
}
