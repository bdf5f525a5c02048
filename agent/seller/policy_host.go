package seller

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Limits of RFC 1035 section 2.3.4, for the text form without the last dot.
const (
	maxHostName  = 253
	maxHostLabel = 63
)

const (
	reasonName  = "not a domain name"
	reasonASCII = "a domain name that is not in ASCII: write it with xn--"
	reasonZone  = "an address with a zone"
	// Programs read these as addresses, each in its own way.
	reasonSpelling = "an unusual spelling of an IPv4 address: write it as four decimal numbers"
)

// parseHost reads a host as a buyer names it: an IP address, or a domain name,
// which comes out in ASCII and lower case without a dot at the end. Of addr,
// name and reason one is set; reason is why the host is refused.
func parseHost(host string) (addr netip.Addr, name, reason string) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return netip.Addr{}, "", reasonZone
		}
		return addr, "", ""
	}
	if strings.ContainsRune(host, ':') { // an IPv6 address that is none
		return netip.Addr{}, "", reasonName
	}
	// The buyer's end makes A-labels of others (RFC 5891 section 4.4); an
	// authority in HTTP is ASCII (RFC 3986 section 3.2.2). The tables of IDNA
	// would be 0.16 MB on the router.
	if strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return netip.Addr{}, "", reasonASCII
	}
	name = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(name); err == nil { // with a dot behind it
		return addr, "", ""
	}
	if !isName(name) {
		return netip.Addr{}, "", reasonName
	}
	if endsInNumber(name) {
		return netip.Addr{}, "", reasonSpelling
	}
	return netip.Addr{}, name, ""
}

// isName checks length and letters. An underscore is no host name's by RFC
// 952, but it is in use.
func isName(name string) bool {
	if name == "" || len(name) > maxHostName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxHostLabel {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// endsInNumber says whether inet_aton or a browser would take name for an
// IPv4 address: decimal, octal, or hexadecimal, in one to four parts. No top
// level domain looks like that (RFC 1123 section 2.1).
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}
