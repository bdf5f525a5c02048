package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxName is the longest domain name in text form (RFC 1035 section 2.3.4).
const maxName = 253

// A target is where a flow goes: a checked name or IP address, and a port.
type target struct {
	host string
	port uint16
}

func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// newTarget checks what a program asked for, so that a host can be put into a
// request as it is. Names beyond ASCII become A-labels (RFC 5891); no name is
// looked up.
func newTarget(host string, port uint16) (target, error) {
	if port == 0 {
		return target{}, errors.New("port 0 cannot be connected to")
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return target{}, fmt.Errorf("host %q: a zone means nothing at the far end", host)
		}
		return target{addr.String(), port}, nil
	}
	if !isASCII(host) {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil || !utf8.ValidString(host) {
			return target{}, fmt.Errorf("host %q is not a domain name", host)
		}
		host = ascii
	}
	if host == "" || len(host) > maxName {
		return target{}, fmt.Errorf("host of %d bytes, want 1 to %d", len(host), maxName)
	}
	for _, c := range []byte(host) {
		// The underscore is no host name's by RFC 952, but it is in use.
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' {
			continue
		}
		return target{}, fmt.Errorf("host %q is not a domain name", host)
	}
	return target{host, port}, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// parseTarget reads host:port as in RFC 9110 section 7.2. An empty port is
// zeroPort; without a default it is an error.
func parseTarget(authority string, zeroPort uint16) (target, error) {
	host, text, err := net.SplitHostPort(authority)
	if err != nil {
		if zeroPort == 0 {
			return target{}, fmt.Errorf("%q: want host:port", authority)
		}
		host, text = authority, ""
	}
	if text == "" {
		return newTarget(host, zeroPort)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return target{}, fmt.Errorf("port %q, want 1 to 65535", text)
	}
	return newTarget(host, uint16(port))
}
