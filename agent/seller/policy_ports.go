package seller

import (
	"fmt"
	"strconv"
	"strings"
)

// A PortRange is the ports from First to Last. As text it is "443" or
// "8000-8999".
type PortRange struct{ First, Last uint16 }

func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// MarshalText returns r as text.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads r from text.
func (r *PortRange) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || to < from {
		return fmt.Errorf("ports %q: want a port such as 443, or a range such as 8000-8999", text)
	}
	*r = PortRange{uint16(from), uint16(to)}
	return nil
}

func (r PortRange) contains(port uint16) bool { return r.First <= port && port <= r.Last }

// neverTCP is what no setting opens: mail from server to server, which is spam
// when it comes from a phone line.
func neverTCP() []PortRange { return []PortRange{{25, 25}} }

// DefaultDeniedTCP returns the TCP ports that are closed unless the owner
// lists the open ones. Those of mail submission spend the line's reputation on
// spam through stolen accounts; the others are scanned by worms, which carriers
// answer by closing the line.
func DefaultDeniedTCP() []PortRange {
	return []PortRange{
		{23, 23}, {2323, 2323}, // telnet
		{135, 135}, {137, 139}, {445, 445}, // NetBIOS and SMB
		{465, 465}, {587, 587}, {2525, 2525}, // mail submission
		{7547, 7547}, // remote management of routers, CWMP
	}
}

// DefaultDeniedUDP returns the UDP ports that are closed unless the owner
// lists the open ones: services that answer much to little and so serve floods,
// and those of local networks. Names (53), time (123), QUIC (443) and the
// ports of games and calls are open.
func DefaultDeniedUDP() []PortRange {
	return []PortRange{
		{17, 17}, {19, 19}, // quote of the day, chargen
		{67, 69}, {111, 111}, // DHCP, TFTP, portmapper
		{137, 138}, {161, 162}, // NetBIOS, SNMP
		{389, 389}, {427, 427}, {520, 520}, // CLDAP, SLP, RIP
		{1434, 1434}, {1900, 1900}, // SQL Server browser, SSDP
		{3283, 3283}, {3702, 3702}, // Apple Remote Desktop, WS-Discovery
		{5350, 5351}, {5353, 5353}, // PCP and NAT-PMP, mDNS
		{11211, 11211}, // memcached
	}
}

// A portPolicy judges the ports of one protocol.
type portPolicy struct {
	allow, deny  []PortRange // the owner's; nil allow: all
	usual, never []PortRange
}

// refuses returns why port is closed, "" if it is open.
func (p portPolicy) refuses(port uint16) string {
	in := func(list []PortRange) bool {
		for _, r := range list {
			if r.contains(port) {
				return true
			}
		}
		return false
	}
	switch {
	case port == 0:
		return "port 0"
	case in(p.never):
		return fmt.Sprintf("port %d is never open: it sends spam", port)
	case in(p.deny), p.allow != nil && !in(p.allow):
		return fmt.Sprintf("the owner does not allow port %d", port)
	case in(p.usual):
		return fmt.Sprintf("port %d is closed unless the owner opens it: it mostly serves abuse", port)
	}
	return ""
}
