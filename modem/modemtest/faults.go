package modemtest

import (
	"maps"
	"slices"
	"time"
)

// named are the faults that one can ask for by name. A modem with one of them
// can still be understood, if perhaps not at the first try.
var named = map[string]func() Faults{
	"echo":         func() Faults { return Faults{StickyEcho: true} },
	"extra-cr":     func() Faults { return Faults{StickyEcho: true, ExtraCR: true} },
	"numeric":      func() Faults { return Faults{Numeric: true} },
	"text-errors":  func() Faults { return Faults{TextErrors: true} },
	"plain-errors": func() Faults { return Faults{PlainErrors: true} },
	"slow":         func() Faults { return Faults{Delay: 5 * time.Second} },
	"halves":       func() Faults { return Faults{Halves: 700 * time.Millisecond} },
	"torn":         func() Faults { return Faults{Torn: 40} },
	"busy":         func() Faults { return Faults{BusyFor: 20 * time.Second} },
	"fails-first":  func() Faults { return Faults{BusyFor: 20 * time.Second, FailsFirst: true} },
	"busy-plain":   func() Faults { return Faults{BusyFor: 20 * time.Second, PlainErrors: true} },
	"boot":         func() Faults { return Faults{Boot: 20 * time.Second} },
	"extra-error":  func() Faults { return Faults{Extra: "ERROR"} },
	"extra-ok":     func() Faults { return Faults{Extra: "OK"} },
	"late":         func() Faults { return Faults{Late: []string{"+COPS?", "+CIMI", "+CGSN", "+CPIN?"}} },
	"garbage":      func() Faults { return Faults{Garbage: "\x00\xff\x1b\x8e\x00\xfe"} },
	"prompts":      func() Faults { return Faults{Garbage: "> "} },
	"two-step":     func() Faults { return Faults{TwoStep: true} },
	"vanish":       func() Faults { return Faults{Vanish: "+CIMI", Away: 5 * time.Second, Boot: 10 * time.Second} },
	"unsolicited": func() Faults {
		return Faults{URCs: []string{
			"^RSSI:17", "+CREG: 1", `+CREG: 5,"00C3","0000A1B2",7`, "RING", `+CMTI: "SM",3`, "+CGREG: 5,00C3,0000A1B2,7",
			"+CPIN: READY", "^HCSQ:\"LTE\",54,41,151,26", "NO CARRIER", "+QIND: SMS DONE", "PB DONE", "> ", "+ZUSIMR:2",
			"#QSS: 1", "+UREG: 7", `+CUSD: 0,"00480069",72`,
		}}
	},
	"everything": func() Faults {
		return Faults{
			StickyEcho: true, ExtraCR: true, Delay: time.Second, Halves: 100 * time.Millisecond, BusyFor: 10 * time.Second,
			Garbage: "\xfe\xff\x00", URCs: []string{"^RSSI:17", "RING"}, TwoStep: true, Boot: 20 * time.Second,
		}
	},
}

// FaultNames lists the faults that Named knows.
func FaultNames() []string { return slices.Sorted(maps.Keys(named)) }

// Named is the fault with a name, and whether there is one.
func Named(name string) (Faults, bool) {
	make, known := named[name]
	if !known {
		return Faults{}, false
	}
	return make(), true
}
