package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Numbers of RFC 1928 and RFC 1929.
const (
	socksVersion = 5

	methodNone     = 0x00
	methodPassword = 0x02
	methodRefused  = 0xff

	passwordVersion = 1

	commandConnect   = 1
	commandAssociate = 3

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4

	replyOK              = 0
	replyFailure         = 1
	replyNotAllowed      = 2
	replyNetUnreachable  = 3
	replyHostUnreachable = 4
	replyRefused         = 5
	replyNoCommand       = 7
	replyNoAddressType   = 8
)

var (
	errNotSOCKS5   = errors.New("not SOCKS version 5")
	errAddressType = errors.New("unknown address type")
	errShort       = errors.New("datagram header cut short")
	errFragment    = errors.New("fragmented datagram")
)

// readGreeting reads the methods that a client offers (RFC 1928 section 3).
func readGreeting(r io.Reader) ([]byte, error) {
	var head [2]byte
	// The first byte alone tells HTTP and SOCKS4 from SOCKS5.
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return nil, err
	}
	if head[0] != socksVersion {
		return nil, fmt.Errorf("%w: first byte %#02x", errNotSOCKS5, head[0])
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return nil, err
	}
	methods := make([]byte, head[1])
	_, err := io.ReadFull(r, methods)
	return methods, err
}

// chooseMethod picks one of the offered methods. A client that insists on a
// password where none is asked for may send any.
func chooseMethod(offered []byte, wantPassword bool) byte {
	chosen := byte(methodRefused)
	for _, m := range offered {
		switch {
		case m == methodNone && !wantPassword:
			return methodNone
		case m == methodPassword:
			chosen = methodPassword
		}
	}
	return chosen
}

// readPassword reads user and password (RFC 1929 section 2).
func readPassword(r io.Reader) (user, password string, err error) {
	var buf [255]byte
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return "", "", err
	}
	if buf[0] != passwordVersion {
		return "", "", fmt.Errorf("password negotiation version %d, want 1", buf[0])
	}
	n := int(buf[1])
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return "", "", err
	}
	user = string(buf[:n])
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return "", "", err
	}
	n = int(buf[0])
	_, err = io.ReadFull(r, buf[:n])
	return user, string(buf[:n]), err
}

// readRequest reads a request (RFC 1928 section 4) and not a byte more. The
// address is as on the wire, from ATYP to DST.PORT.
func readRequest(r io.Reader) (command byte, address []byte, err error) {
	var buf [3 + maxAddress]byte
	const start = 3 + 2 // ATYP and the byte after it tell how long the rest is
	if _, err := io.ReadFull(r, buf[:start]); err != nil {
		return 0, nil, err
	}
	if buf[0] != socksVersion {
		return 0, nil, fmt.Errorf("%w: request of version %d", errNotSOCKS5, buf[0])
	}
	n, err := addressLen(buf[3:start])
	if err != nil {
		return buf[1], nil, err
	}
	_, err = io.ReadFull(r, buf[start:3+n])
	return buf[1], buf[3 : 3+n], err
}

// maxAddress is the longest address on the wire: type, length, name, port.
const maxAddress = 1 + 1 + 255 + 2

// addressLen returns how long an address is, from its first two bytes.
func addressLen(b []byte) (int, error) {
	switch b[0] {
	case addressIPv4:
		return 1 + 4 + 2, nil
	case addressIPv6:
		return 1 + 16 + 2, nil
	case addressName:
		return 1 + 1 + int(b[1]) + 2, nil
	default:
		return 0, fmt.Errorf("%w %d", errAddressType, b[0])
	}
}

// parseAddress reads a whole address as addressLen measured it.
func parseAddress(b []byte) (host string, port uint16) {
	port = binary.BigEndian.Uint16(b[len(b)-2:])
	body := b[1 : len(b)-2]
	if b[0] == addressName {
		return string(body[1:]), port
	}
	addr, _ := netip.AddrFromSlice(body)
	return addr.String(), port
}

// appendReply appends a reply (RFC 1928 section 6) with the address that the
// server is bound to; the zero one is 0.0.0.0:0.
func appendReply(b []byte, code byte, bound netip.AddrPort) []byte {
	b = append(b, socksVersion, code, 0)
	addr := bound.Addr().Unmap()
	switch {
	case !addr.IsValid():
		b = append(b, addressIPv4, 0, 0, 0, 0)
	case addr.Is4():
		b = append(append(b, addressIPv4), addr.AsSlice()...)
	default:
		b = append(append(b, addressIPv6), addr.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, bound.Port())
}

// parseDatagram splits a datagram of a client (RFC 1928 section 7) into its
// address on the wire and its payload; both are parts of b.
func parseDatagram(b []byte) (address, payload []byte, err error) {
	const start = 3 // RSV, RSV, FRAG
	if len(b) < start+2 {
		return nil, nil, errShort
	}
	if b[2] != 0 {
		return nil, nil, errFragment // an implementation may drop them: same section
	}
	n, err := addressLen(b[start:])
	if err != nil {
		return nil, nil, err
	}
	if len(b) < start+n {
		return nil, nil, errShort
	}
	return b[start : start+n : start+n], b[start+n:], nil
}
