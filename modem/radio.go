package modem

import "strings"

// Registration says what the modem is to a network (3GPP TS 27.007 clause 7.2).
type Registration uint8

// The states of Registration.
const (
	NotRegistered Registration = iota
	Searching
	Denied
	EmergencyOnly
	Home
	Roaming
)

// Registered says whether the network carries traffic for this SIM.
func (r Registration) Registered() bool { return r == Home || r == Roaming }

func (r Registration) String() string {
	switch r {
	case Searching:
		return "searching"
	case Denied:
		return "denied"
	case EmergencyOnly:
		return "emergency only"
	case Home:
		return "home"
	case Roaming:
		return "roaming"
	}
	return "not registered"
}

// registrationOf maps the standard's numbers. Registered for SMS only, or with
// fallback to circuits, is registered all the same: the others decide on data.
func registrationOf(stat int) Registration {
	switch stat {
	case 1, 6, 9:
		return Home
	case 2:
		return Searching
	case 3:
		return Denied
	case 5, 7, 10:
		return Roaming
	case 8, 11:
		return EmergencyOnly
	}
	return NotRegistered
}

// A Technology is a generation of radio access.
type Technology uint8

// The technologies that are told apart.
const (
	NoTechnology Technology = iota
	GSM
	EDGE
	UMTS
	HSPA
	LTE
	NBIoT
	NRNSA // 5G radio beside an LTE core
	NR    // 5G radio and core
)

func (t Technology) String() string {
	switch t {
	case GSM:
		return "GSM"
	case EDGE:
		return "EDGE"
	case UMTS:
		return "UMTS"
	case HSPA:
		return "HSPA"
	case LTE:
		return "LTE"
	case NBIoT:
		return "NB-IoT"
	case NRNSA:
		return "5G NSA"
	case NR:
		return "5G"
	}
	return "unknown"
}

// technologyOf maps <AcT> of 3GPP TS 27.007 clauses 7.2 and 7.3.
func technologyOf(act int) Technology {
	switch act {
	case 0, 1, 8:
		return GSM
	case 2:
		return UMTS
	case 3:
		return EDGE
	case 4, 5, 6:
		return HSPA
	case 7, 10:
		return LTE
	case 9:
		return NBIoT
	case 11, 12:
		return NR
	case 13:
		return NRNSA
	}
	return NoTechnology
}

// A Signal is the received power in dBm; 0 is what could not be measured.
type Signal struct {
	RSSI int // whole band, any technology
	RSCP int // pilot channel, 3G
	RSRP int // reference signals, LTE and 5G
}

// An Operator is a network. MCC and MNC are empty when it is not known.
type Operator struct {
	Name     string
	MCC, MNC string
}

// A copsReply is one answer to AT+COPS?.
type copsReply struct {
	name string // in formats 0 and 1
	plmn string // in format 2: MCC and MNC, 5 or 6 digits
	act  int    // -1 when the modem does not say
}

// parseCOPS reads "+COPS: mode[,format,oper[,AcT]]". The list of a network scan
// has the same prefix and does not begin with a number.
func parseCOPS(lines []string) (reply copsReply, ok bool) {
	for _, line := range lines {
		rest, is := after(line, "+COPS")
		if !is {
			continue
		}
		f := fields(rest)
		if number(f[0]) < 0 {
			continue
		}
		reply, ok = copsReply{act: -1}, true
		if len(f) >= 3 {
			switch f[1] {
			case "0", "1":
				reply.name = clean(f[2])
			case "2":
				if isDigits(f[2]) && (len(f[2]) == 5 || len(f[2]) == 6) {
					reply.plmn = f[2]
				}
			}
		}
		if len(f) >= 4 {
			reply.act = number(f[3])
		}
	}
	return reply, ok
}

// parseRegistration reads "prefix: n,stat[,area,cell,AcT…]". The unsolicited
// form lacks n: a single number, or the area's code where stat should be.
func parseRegistration(lines []string, prefix string) (stat, act int, ok bool) {
	for _, line := range lines {
		rest, is := after(line, prefix)
		if !is {
			continue
		}
		f := fields(rest)
		if len(f) < 2 || number(f[0]) < 0 || number(f[0]) > 5 || len(f[1]) > 2 || number(f[1]) < 0 || number(f[1]) > 15 {
			continue
		}
		if raw := strings.Split(rest, ","); strings.Contains(raw[1], `"`) {
			continue
		}
		stat, act, ok = number(f[1]), -1, true
		if len(f) >= 5 && len(f[4]) <= 2 {
			act = number(f[4])
		}
	}
	return stat, act, ok
}

// parseCSQ reads "+CSQ: rssi,ber" (3GPP TS 27.007 clause 8.5); 100 to 191 is how
// TD-SCDMA modems say RSCP.
func parseCSQ(lines []string) (s Signal, ok bool) {
	for _, line := range lines {
		rest, is := after(line, "+CSQ")
		if !is {
			continue
		}
		switch n := number(fields(rest)[0]); {
		case n >= 0 && n <= 31:
			s, ok = Signal{RSSI: -113 + 2*n}, true
		case n >= 100 && n <= 191:
			s, ok = Signal{RSCP: -216 + n}, true
		case n == 99, n == 199:
			s, ok = Signal{}, true
		}
	}
	return s, ok
}

// parseCESQ reads "+CESQ: rxlev,ber,rscp,ecno,rsrq,rsrp[,ss_rsrq,ss_rsrp,ss_sinr]"
// (3GPP TS 27.007 clause 8.69).
func parseCESQ(lines []string) (s Signal, ok bool) {
	for _, line := range lines {
		rest, is := after(line, "+CESQ")
		if !is {
			continue
		}
		f := fields(rest)
		if len(f) < 6 {
			continue
		}
		s, ok = Signal{RSSI: level(f[0], 63, -111), RSCP: level(f[2], 96, -121), RSRP: level(f[5], 97, -141)}, true
		if len(f) >= 8 && s.RSRP == 0 {
			s.RSRP = level(f[7], 126, -157)
		}
	}
	return s, ok
}

// level turns an index of 0 to most into dBm, 0 when it is out of range.
func level(s string, most, floor int) int {
	if n := number(s); n >= 0 && n <= most {
		return floor + n
	}
	return 0
}

// parseTechnology reads the vendors' own reports, for modems that leave <AcT>
// out:
//
//	+QNWINFO: "FDD LTE","26201","LTE BAND 3",1300       Quectel
//	^SYSINFOEX: 2,3,0,1,,6,"LTE",101,"LTE"              Huawei
//	+CPSI: LTE,Online,262-01,…                          SIMCom
//	+ZPAS: "LTE","PS_ONLY"                              ZTE
//	#PSNT: 0,4                                          Telit
func parseTechnology(lines []string) Technology {
	for _, line := range lines {
		name, rest, _ := strings.Cut(line, ":")
		f, at := fields(strings.TrimSpace(rest)), -1
		switch {
		case name == "+QNWINFO", name == "+CPSI", name == "+ZPAS":
			at = 0
		case name == "#PSNT" && len(f) >= 2:
			switch f[1] {
			case "0":
				return GSM
			case "1":
				return EDGE
			case "2":
				return UMTS
			case "3":
				return HSPA
			case "4":
				return LTE
			}
		case name == "^SYSINFOEX" && len(f) >= 9:
			at = 8
		}
		if at >= 0 {
			return technologyNamed(strings.ToUpper(f[at]))
		}
	}
	return NoTechnology
}

func technologyNamed(s string) Technology {
	has := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(s, word) {
				return true
			}
		}
		return false
	}
	switch {
	case has("NSA", "EN-DC", "ENDC"):
		return NRNSA
	case has("NR"):
		return NR
	case has("NB-IOT", "NBIOT", "CAT-NB"):
		return NBIoT
	case has("LTE", "EMTC"):
		return LTE
	case has("HSPA", "HSDPA", "HSUPA", "HSPA+"):
		return HSPA
	case has("WCDMA", "UMTS", "TDSCDMA", "TD-SCDMA"):
		return UMTS
	case has("EDGE"):
		return EDGE
	case has("GSM", "GPRS"):
		return GSM
	}
	return NoTechnology
}
