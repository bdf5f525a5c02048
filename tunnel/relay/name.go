package relay

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxHost bounds a host name (RFC 1035 §2.3.4, as text).
const maxHost = 253

// MaxName bounds a relay's name as text: host, port and pin.
const MaxName = maxHost + len("[]:65535#") + 2*sha256.Size

// A Name says where a relay is and how it is known: "host:port#pin", where the
// pin is the SHA-256 hash of its key's SubjectPublicKeyInfo in hexadecimal, or
// "host:port", when its certificate is one that browsers accept.
type Name struct {
	Host   string // lower case; an IPv6 address has no brackets
	Port   uint16
	Pin    [32]byte
	Pinned bool
}

// ParseName reads a relay's name.
func ParseName(s string) (Name, error) {
	if len(s) > MaxName {
		return Name{}, fmt.Errorf("relay name of %d characters, at most %d are allowed", len(s), MaxName)
	}
	var n Name
	at, pin, pinned := strings.Cut(s, "#")
	if n.Pinned = pinned; pinned {
		if err := decodeHex(n.Pin[:], []byte(pin)); err != nil {
			return Name{}, fmt.Errorf("relay %q: pin: %w", s, err)
		}
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return Name{}, fmt.Errorf("relay %q, want HOST:PORT or HOST:PORT#PIN", s)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return Name{}, fmt.Errorf("relay %q: port %q", s, port)
	}
	n.Port = uint16(p)
	if n.Host = strings.ToLower(host); !validHost(n.Host) {
		return Name{}, fmt.Errorf("relay %q: host %q", s, host)
	}
	return n, nil
}

// validHost accepts an address without a zone, and a name of letters, digits,
// hyphens, underscores and dots.
func validHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" && a.String() == s
	}
	if s == "" || len(s) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// Address is "host:port".
func (n Name) Address() string { return net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port))) }

// String is what ParseName reads.
func (n Name) String() string {
	if !n.Pinned {
		return n.Address()
	}
	return n.Address() + "#" + hex.EncodeToString(n.Pin[:])
}

// ErrWrongKey says that another answered than the relay that the name means.
var ErrWrongKey = errors.New("the relay's key is not the one that its name ends in")

// TLS is the client's configuration for the relay. With a pin the certificate's
// names and dates mean nothing: routers have no clock at boot.
func (n Name) TLS(alpn ...string) *tls.Config {
	c := &tls.Config{ServerName: n.Host, NextProtos: alpn, MinVersion: tls.VersionTLS13}
	if n.Pinned {
		c.InsecureSkipVerify = true // the key is verified instead
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 || sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo) != n.Pin {
				return ErrWrongKey
			}
			return nil
		}
	}
	return c
}
