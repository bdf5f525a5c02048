package modemtest

import "fmt"

// A dialect is what one maker does in its own way.
type dialect struct {
	maker, model, revision string
	bareHex                bool // AT+CRSM without quotes
	// own answers the commands that only this maker has, or has differently.
	own func(m *Modem, name, op string) (reply, bool)
}

func (m *Modem) dialect() dialect {
	switch m.cfg.Profile {
	case Huawei:
		return dialect{"huawei", "E3372", "21.200.07.01.00", false, huawei}
	case SIMCom:
		return dialect{"SIMCOM INCORPORATED", "SIMCOM_SIM7600E-H", "+CGMR: LE11B12SIM7600M22", true, simcom}
	}
	return dialect{"Quectel", "EC25", "EC25EFAR06A06M4G", false, quectel}
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
	case "+CESQ":
		return done(fmt.Sprintf("+CESQ: 99,99,255,255,20,%d", m.cfg.RSRP+141)), true
	}
	return reply{}, false
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
	case "+C5GREG?":
		return fail(tooMany), true
	}
	return reply{}, false
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
	case "+CESQ":
		return done(fmt.Sprintf("+CESQ: 99,99,255,255,20,%d", m.cfg.RSRP+141)), true
	}
	return reply{}, false
}
