package plan

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"time"
)

// ParseZone reads a time zone: "UTC"; an offset from it, such as "+02:00"; a
// POSIX TZ string (IEEE Std 1003.1 §8.3) such as "CET-1CEST,M3.5.0,M10.5.0/3",
// which OpenWrt has in /etc/TZ and as system.@system[0].timezone; or a name
// such as "Europe/Berlin" where the device has the data of zones. That data is
// 0.45 MB, too much to bring along.
func ParseZone(s string) (*time.Location, error) {
	if s == "UTC" {
		return time.UTC, nil
	}
	if t, err := time.Parse("-07:00", s); err == nil {
		_, offset := t.Zone()
		return time.FixedZone(s, offset), nil
	}
	if loc := posixZone(s); loc != nil {
		return loc, nil
	}
	if !strings.Contains(s, "/") { // no name of a place; "Local" least of all
		return nil, fmt.Errorf("time zone %.60q: want such as '+02:00', 'CET-1CEST,M3.5.0,M10.5.0/3' or 'Europe/Berlin'", s)
	}
	loc, err := time.LoadLocation(s)
	if err != nil {
		return nil, fmt.Errorf("time zone %.60q is not known to this device: write it as /etc/TZ has it, such as 'CET-1CEST,M3.5.0,M10.5.0/3'", s)
	}
	return loc, nil
}

// LocalZone is the device's: that of /etc/TZ, which Go does not read, or else
// what the system has.
func LocalZone() *time.Location {
	if b, err := os.ReadFile("/etc/TZ"); err == nil {
		if loc := posixZone(strings.TrimSpace(string(b))); loc != nil {
			return loc
		}
	}
	return time.Local
}

// unread is the abbreviation of a zone whose rule was not understood.
const unread = "?"

// posixZone returns the zone of a POSIX TZ string, nil if it is none. Package
// time reads such a string at the end of a zone's data (RFC 8536 §3.3); here
// the data is nothing else.
func posixZone(s string) *time.Location {
	if len(s) < 4 || len(s) > 64 || strings.ContainsAny(s, "\n\x00") {
		return nil
	}
	// One header and body of version 1, one of version 2: no transitions, one
	// type of local time, whose abbreviation stands for a rule that is wrong.
	header := append([]byte("TZif2"), make([]byte, 15)...)
	for _, n := range []uint32{0, 0, 0, 0, 1, uint32(len(unread) + 1)} {
		header = binary.BigEndian.AppendUint32(header, n)
	}
	body := append(header, 0, 0, 0, 0, 0, 0)
	body = append(body, unread+"\x00"...)
	data := append(append([]byte(nil), body...), body...)
	loc, err := time.LoadLocationFromTZData(s, append(data, "\n"+s+"\n"...))
	if err != nil {
		return nil
	}
	for _, month := range []time.Month{time.January, time.July} {
		if name, _ := time.Date(2026, month, 1, 0, 0, 0, 0, time.UTC).In(loc).Zone(); name == unread {
			return nil
		}
	}
	return loc
}
