package path

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"net/netip"
)

// A Type is the second byte of a control packet. The first is zero, which no
// QUIC packet has: the demultiplexing of RFC 9443 gives 0 to 3 to STUN, whose
// messages are not spoken here.
type Type byte

// The control packets.
const (
	TypeBind      Type = 1 // a side claims its place at a relay's port
	TypeChallenge Type = 2 // the relay wants the cookie returned
	TypeBound     Type = 3 // the relay tells the addresses
	TypeProbe     Type = 4 // end to end: can you hear me here?
	TypeAck       Type = 5 // end to end: yes
)

// An ID names a relay's session, in Bind, Challenge and Bound, or a
// connection's paths, in Probe and Ack.
type ID [8]byte

// A Key authenticates control packets: a side's token at a relay, or a
// direction of a connection.
type Key [32]byte

const (
	headSize = 2 + 8 + 8 // zero, type, ID, counter
	macSize  = 16
	addrSize = 16 + 2

	// CookieSize is the length of a relay's cookie.
	CookieSize = 16
	// BindSize is the length of a Bind and of a Bound: an answer is never
	// longer than its question, so a relay amplifies nothing.
	BindSize = headSize + 2*addrSize + macSize
	// ChallengeSize is the length of a Challenge.
	ChallengeSize = headSize + CookieSize + macSize
	// MinProbe is the length of the shortest Probe and Ack. The answer to a
	// probe has the probe's length.
	MinProbe = headSize + 1 + addrSize + macSize
	// MaxProbe is the length of the longest: quic-go sends none longer
	// (protocol.MaxPacketBufferSize).
	MaxProbe = 1452
)

// ErrPacket says that a control packet is not one: of a wrong length, type or
// MAC. Whoever gets it drops the packet.
var ErrPacket = errors.New("path: not an authentic control packet")

// A Bind claims a side of a relay's session for the address that it comes
// from. Counter rises with each; the cookie is zero until the relay gave one.
type Bind struct {
	Session ID
	Counter uint64
	Cookie  [CookieSize]byte
}

// A Challenge answers a Bind whose cookie does not prove its address. Counter
// is the Bind's.
type Challenge struct {
	Session ID
	Counter uint64
	Cookie  [CookieSize]byte
}

// A Bound answers a Bind that was accepted. Self is the address that it came
// from. Peer is the other side's, the zero AddrPort if it is unknown or not to
// be told. Counter is the Bind's.
type Bound struct {
	Session    ID
	Counter    uint64
	Self, Peer netip.AddrPort
}

// A Probe asks the other end of a connection for an Ack on the way that it
// took. Move asks it to send to this address from now on. Counter rises with
// each probe of a direction.
type Probe struct {
	Path    ID
	Counter uint64
	Move    bool
}

// An Ack answers a Probe, whose Counter and Move it repeats. Observed is the
// address that the probe came from.
type Ack struct {
	Path     ID
	Counter  uint64
	Move     bool
	Observed netip.AddrPort
}

// Control tells what kind of control packet b claims to be and for whom. It is
// false for anything else; the MAC is not checked.
func Control(b []byte) (t Type, id ID, counter uint64, ok bool) {
	if len(b) < ChallengeSize || b[0] != 0 || b[1] < byte(TypeBind) || b[1] > byte(TypeAck) {
		return 0, ID{}, 0, false
	}
	return Type(b[1]), ID(b[2:10]), binary.BigEndian.Uint64(b[10:]), true
}

// Append appends the packet to b.
func (p Bind) Append(b []byte, k *Key) []byte {
	start := len(b)
	b = appendHead(b, TypeBind, p.Session, p.Counter)
	b = append(b, p.Cookie[:]...)
	return pad(appendMAC(b, start, k), start+BindSize)
}

// Append appends the packet to b.
func (p Challenge) Append(b []byte, k *Key) []byte {
	start := len(b)
	b = appendHead(b, TypeChallenge, p.Session, p.Counter)
	b = append(b, p.Cookie[:]...)
	return appendMAC(b, start, k)
}

// Append appends the packet to b.
func (p Bound) Append(b []byte, k *Key) []byte {
	start := len(b)
	b = appendHead(b, TypeBound, p.Session, p.Counter)
	b = appendAddr(appendAddr(b, p.Self), p.Peer)
	return appendMAC(b, start, k)
}

// Append appends the packet to b, padded to size, which is brought between
// [MinProbe] and [MaxProbe].
func (p Probe) Append(b []byte, k *Key, size int) []byte {
	start := len(b)
	b = append(appendHead(b, TypeProbe, p.Path, p.Counter), flags(p.Move))
	return pad(appendMAC(b, start, k), start+probeSize(size))
}

// Append appends the packet to b, padded to size like a Probe.
func (p Ack) Append(b []byte, k *Key, size int) []byte {
	start := len(b)
	b = append(appendHead(b, TypeAck, p.Path, p.Counter), flags(p.Move))
	b = appendAddr(b, p.Observed)
	return pad(appendMAC(b, start, k), start+probeSize(size))
}

// ParseBind parses and authenticates a Bind.
func ParseBind(b []byte, k *Key) (Bind, error) {
	id, counter, err := parse(b, TypeBind, k, headSize+CookieSize)
	if err != nil || len(b) != BindSize {
		return Bind{}, ErrPacket
	}
	return Bind{id, counter, [CookieSize]byte(b[headSize:])}, nil
}

// ParseChallenge parses and authenticates a Challenge.
func ParseChallenge(b []byte, k *Key) (Challenge, error) {
	id, counter, err := parse(b, TypeChallenge, k, headSize+CookieSize)
	if err != nil || len(b) != ChallengeSize {
		return Challenge{}, ErrPacket
	}
	return Challenge{id, counter, [CookieSize]byte(b[headSize:])}, nil
}

// ParseBound parses and authenticates a Bound.
func ParseBound(b []byte, k *Key) (Bound, error) {
	id, counter, err := parse(b, TypeBound, k, headSize+2*addrSize)
	if err != nil || len(b) != BindSize {
		return Bound{}, ErrPacket
	}
	return Bound{id, counter, addr(b[headSize:]), addr(b[headSize+addrSize:])}, nil
}

// ParseProbe parses and authenticates a Probe.
func ParseProbe(b []byte, k *Key) (Probe, error) {
	id, counter, err := parse(b, TypeProbe, k, headSize+1)
	if err != nil || len(b) < MinProbe || len(b) > MaxProbe || b[headSize] > flagMove {
		return Probe{}, ErrPacket
	}
	return Probe{id, counter, b[headSize] == flagMove}, nil
}

// ParseAck parses and authenticates an Ack.
func ParseAck(b []byte, k *Key) (Ack, error) {
	id, counter, err := parse(b, TypeAck, k, headSize+1+addrSize)
	if err != nil || len(b) > MaxProbe || b[headSize] > flagMove {
		return Ack{}, ErrPacket
	}
	return Ack{id, counter, b[headSize] == flagMove, addr(b[headSize+1:])}, nil
}

const flagMove = 1

func flags(move bool) byte {
	if move {
		return flagMove
	}
	return 0
}

func probeSize(size int) int { return min(max(size, MinProbe), MaxProbe) }

// pad fills b with zeros up to length n. What is behind a MAC means nothing.
func pad(b []byte, n int) []byte { return append(b, make([]byte, n-len(b))...) }

func appendHead(b []byte, t Type, id ID, counter uint64) []byte {
	b = append(b, 0, byte(t))
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint64(b, counter)
}

func appendMAC(b []byte, start int, k *Key) []byte {
	sum := mac(b[start:], k)
	return append(b, sum[:macSize]...)
}

func mac(b []byte, k *Key) [sha256.Size]byte {
	h := hmac.New(sha256.New, k[:])
	h.Write(b)
	return [sha256.Size]byte(h.Sum(nil))
}

// parse checks the type and the MAC, which stands at b[at:].
func parse(b []byte, want Type, k *Key, at int) (ID, uint64, error) {
	t, id, counter, ok := Control(b)
	if !ok || t != want || len(b) < at+macSize {
		return ID{}, 0, ErrPacket
	}
	if sum := mac(b[:at], k); subtle.ConstantTimeCompare(sum[:macSize], b[at:at+macSize]) != 1 {
		return ID{}, 0, ErrPacket
	}
	return id, counter, nil
}

// appendAddr appends an address as IPv6 with IPv4 mapped into it (RFC 4291
// §2.5.5.2) and its port; the zero AddrPort is all zero. Zones stay here.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, make([]byte, addrSize)...)
	}
	ip := a.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, ip[:]...), a.Port())
}

func addr(b []byte) netip.AddrPort {
	ip, port := netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:])
	if ip.IsUnspecified() || port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, port)
}
