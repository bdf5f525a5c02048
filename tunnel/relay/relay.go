// Package relay is how an agent without a public address is found and reached:
// the names of relays, the messages of the control stream, and the agent's end
// of it.
//
// An agent keeps one control connection to each relay of its choice, publishes
// its signed offer there and is told of the sessions that buyers ask for
// ([Agent]). A session is a pair of ports of the relay, or a spliced pair of
// TCP connections, through which the end-to-end handshake of buyer and agent
// runs. The relay copies what it cannot read.
//
// The buyer's client is in the subpackage market, so that routers do not carry
// it; the relay itself is in the subpackage server.
package relay

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/depinsim/x402/tunnel/path"
)

// ALPN names the control protocol, over QUIC and over TLS (RFC 7301).
const ALPN = "x402-relay/1"

// Version is the version of the control messages.
const Version = 1

// ExporterLabel is the label of the TLS exporter (RFC 8446 §7.5) that the
// agent's hello signs, so that it counts on one connection only.
const ExporterLabel = "EXPORTER-x402-relay"

// KeepAlive is how often an agent pings its relay: within the 30 s that common
// carrier NATs keep a UDP mapping.
const KeepAlive = 22 * time.Second

// Silence is when a silent control connection counts as lost: three pings.
const Silence = 70 * time.Second

// A SessionID names a session at its relay. It is not secret.
type SessionID path.ID

// String returns 16 hexadecimal digits.
func (s SessionID) String() string { return hex.EncodeToString(s[:]) }

// MarshalText is String.
func (s SessionID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *SessionID) UnmarshalText(b []byte) error { return decodeHex(s[:], b) }

// A Token is one side's secret of a session. It shows itself only to encoders
// of the wire.
type Token path.Key

// String hides the token, as do Format's other verbs.
func (t Token) String() string { return "token(redacted)" }

// Format implements fmt.Formatter: every verb hides the token.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns 64 hexadecimal digits: the wire's form.
func (t Token) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(t[:])), nil }

// UnmarshalText reads what MarshalText writes.
func (t *Token) UnmarshalText(b []byte) error { return decodeHex(t[:], b) }

// An Address is an agent's: that of its device key.
type Address [20]byte

// String returns 0x and 40 lower-case digits.
func (a Address) String() string { return "0x" + hex.EncodeToString(a[:]) }

// MarshalText is String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads 0x and 40 digits of any case.
func (a *Address) UnmarshalText(b []byte) error {
	if len(b) < 2 || b[0] != '0' || b[1] != 'x' {
		return errors.New("address: want 0x and 40 digits")
	}
	return decodeHex(a[:], b[2:])
}

// A Signature is secp256k1 with recovery: r, s, v.
type Signature [65]byte

// MarshalText returns 0x and 130 digits.
func (s Signature) MarshalText() ([]byte, error) { return []byte("0x" + hex.EncodeToString(s[:])), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Signature) UnmarshalText(b []byte) error {
	if len(b) < 2 || b[0] != '0' || b[1] != 'x' {
		return errors.New("signature: want 0x and 130 digits")
	}
	return decodeHex(s[:], b[2:])
}

func decodeHex(to, b []byte) error {
	if len(b) != 2*len(to) {
		return fmt.Errorf("want %d hexadecimal digits, have %d", 2*len(to), len(b))
	}
	_, err := hex.Decode(to, b)
	return err
}

// magic begins a TCP connection that joins a session. No TLS record begins
// with a zero (RFC 8446 §5.1).
const magic = "\x00x402s"

// PreambleSize is the length of a preamble.
const PreambleSize = len(magic) + len(SessionID{}) + preambleMAC

const preambleMAC = 16

// Preamble is what a side of a TCP session sends first on its connection to
// the relay. It works once.
func Preamble(id SessionID, t Token) []byte {
	b := append(append(make([]byte, 0, PreambleSize), magic...), id[:]...)
	return append(b, preambleSum(b, t)...)
}

// PreambleSession is the session that a preamble names; false if b is none.
func PreambleSession(b []byte) (SessionID, bool) {
	if len(b) != PreambleSize || string(b[:len(magic)]) != magic {
		return SessionID{}, false
	}
	return SessionID(b[len(magic):]), true
}

// PreambleBy says whether the owner of t wrote b.
func PreambleBy(b []byte, t Token) bool {
	at := PreambleSize - preambleMAC
	return len(b) == PreambleSize && hmac.Equal(b[at:], preambleSum(b[:at], t))
}

func preambleSum(b []byte, t Token) []byte {
	h := hmac.New(sha256.New, t[:])
	h.Write(b)
	return h.Sum(nil)[:preambleMAC]
}
