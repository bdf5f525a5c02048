package seller

import (
	"fmt"
	"net/netip"
)

// A special is one row of IANA's special-purpose address registries, or a
// block that is not unicast.
type special struct {
	prefix netip.Prefix
	specialText
}

type specialText struct {
	text   string // of the prefix
	name   string
	source string
	global bool // globally reachable, and safe to hand to strangers
}

// specials are parsed from data: a table of calls is 11 kB of code.
var specials = func() (list []special) {
	for _, s := range specialTexts {
		list = append(list, special{netip.MustParsePrefix(s.text), s})
	}
	return list
}()

// specialTexts are the IANA IPv4 and IPv6 Special-Purpose Address Registries
// (RFC 6890, RFC 8190) as of 2025. The longest prefix counts. Where the
// registry says "globally reachable" and this table does not, the reason stands
// beside the row. Blocks that carry an IPv4 address are global here: the address
// inside decides.
var specialTexts = []specialText{
	{"0.0.0.0/8", "this network", "RFC 791", false},
	{"0.0.0.0/32", "this host", "RFC 1122", false},
	{"10.0.0.0/8", "private use", "RFC 1918", false},
	{"100.64.0.0/10", "shared address space of carriers", "RFC 6598", false},
	{"127.0.0.0/8", "loopback", "RFC 1122", false},
	{"169.254.0.0/16", "link local", "RFC 3927", false},
	{"172.16.0.0/12", "private use", "RFC 1918", false},
	{"192.0.0.0/24", "IETF protocol assignments", "RFC 6890", false},
	{"192.0.0.0/29", "IPv4 service continuity", "RFC 7335", false},
	{"192.0.0.8/32", "IPv4 dummy address", "RFC 7600", false},
	// Global in the registry, but it reaches the nearest server: here the one
	// that opens ports in the owner's own NAT.
	{"192.0.0.9/32", "Port Control Protocol anycast", "RFC 7723", false},
	{"192.0.0.10/32", "TURN anycast", "RFC 8155", false}, // likewise
	{"192.0.0.170/32", "NAT64/DNS64 discovery", "RFC 8880", false},
	{"192.0.0.171/32", "NAT64/DNS64 discovery", "RFC 8880", false},
	{"192.0.2.0/24", "documentation", "RFC 5737", false},
	{"192.31.196.0/24", "AS112", "RFC 7535", true},
	{"192.52.193.0/24", "AMT", "RFC 7450", true},
	{"192.88.99.0/24", "deprecated 6to4 relay anycast", "RFC 7526", false},
	{"192.88.99.2/32", "6a44 relay anycast", "RFC 6751", false},
	{"192.168.0.0/16", "private use", "RFC 1918", false},
	{"192.175.48.0/24", "AS112", "RFC 7534", true},
	{"198.18.0.0/15", "benchmarking", "RFC 2544", false},
	{"198.51.100.0/24", "documentation", "RFC 5737", false},
	{"203.0.113.0/24", "documentation", "RFC 5737", false},
	{"224.0.0.0/4", "multicast", "RFC 5771", false},
	{"240.0.0.0/4", "reserved", "RFC 1112", false},
	{"255.255.255.255/32", "limited broadcast", "RFC 919", false},

	// All of IPv6 that is no global unicast, whatever becomes of it.
	{"::/0", "not global unicast", "RFC 4291", false},
	{"2000::/3", "global unicast", "RFC 4291", true},
	{"::/128", "unspecified", "RFC 4291", false},
	{"::1/128", "loopback", "RFC 4291", false},
	{"::ffff:0:0/96", "IPv4-mapped", "RFC 4291", false}, // is unmapped before
	{"64:ff9b::/96", "NAT64", "RFC 6052", true},
	{"64:ff9b:1::/48", "NAT64 for local use", "RFC 8215", false}, // but see surroundings.refuses
	{"100::/64", "discard only", "RFC 6666", false},
	{"100:0:0:1::/64", "dummy prefix", "RFC 9780", false},
	{"2001::/23", "IETF protocol assignments", "RFC 2928", false},
	{"2001::/32", "Teredo", "RFC 4380", true},
	{"2001:1::1/128", "Port Control Protocol anycast", "RFC 7723", false}, // as for IPv4
	{"2001:1::2/128", "TURN anycast", "RFC 8155", false},                  // likewise
	{"2001:1::3/128", "service registration anycast", "RFC 9665", false},  // likewise
	{"2001:2::/48", "benchmarking", "RFC 5180", false},
	{"2001:3::/32", "AMT", "RFC 7450", true},
	{"2001:4:112::/48", "AS112", "RFC 7535", true},
	{"2001:10::/28", "deprecated ORCHID", "RFC 4843", false},
	{"2001:20::/28", "ORCHIDv2", "RFC 7343", true},
	{"2001:30::/28", "drone remote identification", "RFC 9374", true},
	{"2001:db8::/32", "documentation", "RFC 3849", false},
	{"2002::/16", "6to4", "RFC 3056", true},
	{"2620:4f:8000::/48", "AS112", "RFC 7534", true},
	{"3fff::/20", "documentation", "RFC 9637", false},
	{"5f00::/16", "segment routing", "RFC 9602", false},
	{"fc00::/7", "unique local", "RFC 4193", false},
	{"fe80::/10", "link local", "RFC 4291", false},
	{"fec0::/10", "deprecated site local", "RFC 3879", false},
	{"ff00::/8", "multicast", "RFC 4291", false},
}

// nat64Local may be used by an operator for its NAT64, and nothing else.
var nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")

// surroundings are what the verdict on an address depends on besides the
// registries.
type surroundings struct {
	own   []netip.Prefix // networks of this device's interfaces
	nat64 []netip.Prefix // learned by RFC 7050
	known bool           // nat64 could be learned
}

// refuses returns why addr, which is not IPv4-mapped, must not be dialled; an
// IPv4 address inside it is not looked at.
func (s surroundings) refuses(addr netip.Addr) string {
	if contains(s.own, addr) {
		return "a network of the agent's own"
	}
	if nat64Local.Contains(addr) && contains(s.nat64, addr) {
		return ""
	}
	var match special
	for _, r := range specials {
		if r.prefix.Contains(addr) && (!match.prefix.IsValid() || r.prefix.Bits() > match.prefix.Bits()) {
			match = r
		}
	}
	if match.prefix.IsValid() && !match.global {
		return fmt.Sprintf("not a public address: %s (%s)", match.name, match.source)
	}
	return ""
}

var (
	teredo      = netip.MustParsePrefix("2001::/32")
	sixToFour   = netip.MustParsePrefix("2002::/16")
	nat64Public = netip.MustParsePrefix("64:ff9b::/96")
)

// embedded returns the IPv4 addresses that packets to addr may end up at.
func (s surroundings) embedded(addr netip.Addr) []netip.Addr {
	if addr.Is4() {
		return nil
	}
	b := addr.As16()
	var inner []netip.Addr
	add := func(v4 []byte) { inner = append(inner, netip.AddrFrom4([4]byte(v4))) }
	switch {
	case teredo.Contains(addr): // RFC 4380 section 4: server, and client's address inverted
		add(b[4:8])
		add([]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case sixToFour.Contains(addr): // RFC 3056 section 2
		add(b[2:6])
	case nat64Public.Contains(addr): // RFC 6052 section 2.1
		add(b[12:16])
	}
	for _, prefix := range s.nat64 {
		if prefix.Contains(addr) {
			inner = append(inner, nat64Inner(b, prefix.Bits()))
		}
	}
	return inner
}

// nat64Lengths are the prefix lengths of RFC 6052 section 2.2.
var nat64Lengths = []int{32, 40, 48, 56, 64, 96}

// nat64Inner returns the IPv4 address behind a prefix of that many bits. Octet
// 8 is skipped (RFC 6052 section 2.2).
func nat64Inner(b [16]byte, bits int) netip.Addr {
	var v4 [4]byte
	at := bits / 8
	for i := range v4 {
		if at == 8 {
			at++
		}
		v4[i] = b[at]
		at++
	}
	return netip.AddrFrom4(v4)
}

// nat64Prefixes returns the prefixes under which the addresses of
// ipv4only.arpa hide one of its two IPv4 addresses (RFC 7050 section 3).
func nat64Prefixes(addrs []netip.Addr) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, addr := range addrs {
		addr = addr.WithZone("")
		if !addr.Is6() || addr.Is4In6() {
			continue
		}
		for _, bits := range nat64Lengths {
			inner := nat64Inner(addr.As16(), bits)
			if inner != netip.AddrFrom4([4]byte{192, 0, 0, 170}) && inner != netip.AddrFrom4([4]byte{192, 0, 0, 171}) {
				continue
			}
			if bits < 96 && addr.As16()[8] != 0 {
				continue
			}
			prefixes = append(prefixes, netip.PrefixFrom(addr, bits).Masked())
		}
	}
	return prefixes
}
