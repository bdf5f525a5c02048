package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// protocols of extended CONNECT requests.
const (
	protocolUDP     = "connect-udp"  // RFC 9298 §3.4
	protocolControl = "x402-channel" // docs/PROTOCOL.md §3
)

// ControlPath is the path of the control stream's request.
const ControlPath = "/.well-known/x402/channel"

// UDPTemplate is the default URI template of RFC 9298 §3, behind the authority.
const UDPTemplate = udpPath + "{target_host}/{target_port}/"

// udpPath is what its expansions begin with.
const udpPath = "/.well-known/masque/udp/"

// maxHost is the longest name of RFC 1035 §2.3.4 in text form; an IPv6
// address is shorter.
const maxHost = 253

func udpTarget(host string, port uint16) string {
	// RFC 9298 §3: colons of an IPv6 address are percent-encoded.
	return udpPath + strings.ReplaceAll(url.PathEscape(host), ":", "%3A") + "/" + strconv.Itoa(int(port)) + "/"
}

// parseUDPTarget returns the target of a CONNECT-UDP request's escaped path.
func parseUDPTarget(path string) (host string, port uint16, err error) {
	rest, ok := strings.CutPrefix(path, udpPath)
	if !ok {
		return "", 0, fmt.Errorf("tunnel: path %.64q is not under %s", path, udpPath)
	}
	h, p, ok := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if !ok {
		return "", 0, fmt.Errorf("tunnel: path %.64q names no port", path)
	}
	if host, err = url.PathUnescape(h); err != nil {
		return "", 0, fmt.Errorf("tunnel: host %.64q: %w", h, err)
	}
	return checkTarget(host, p)
}

// parseAuthority returns the target of a CONNECT request (RFC 9110 §7.1).
func parseAuthority(authority string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(authority)
	if err != nil {
		return "", 0, fmt.Errorf("tunnel: authority %.64q: want host:port", authority)
	}
	return checkTarget(host, p)
}

func checkTarget(host, port string) (string, uint16, error) {
	if host == "" || len(host) > maxHost {
		return "", 0, fmt.Errorf("tunnel: host of %d bytes, want 1 to %d", len(host), maxHost)
	}
	if err := checkHost(host); err != nil {
		return "", 0, err
	}
	if len(port) == 0 || len(port) > 5 || port[0] < '1' || port[0] > '9' {
		return "", 0, fmt.Errorf("tunnel: port %.16q, want 1 to 65535", port)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("tunnel: port %.16q, want 1 to 65535", port)
	}
	return host, uint16(n), nil
}

// checkHost accepts names as resolvers know them (RFC 1123 §2.1, and the
// underscore of RFC 8552) and addresses without a zone, which would be one of
// the agent's own links.
func checkHost(host string) error {
	if strings.Contains(host, ":") {
		if a, err := netip.ParseAddr(host); err != nil || a.Zone() != "" {
			return fmt.Errorf("tunnel: host %.64q is not an IPv6 address", host)
		}
		return nil
	}
	for _, c := range []byte(host) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("tunnel: host %.64q has a forbidden character", host)
		}
	}
	return nil
}
