package kcp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	kcpgo "github.com/xtaci/kcp-go/v5"
)

// A packet is a prefix and then segments of KCP, whose first field is the
// conversation (conv), or, with a conversation of zero, one of the messages
// below. All integers are little-endian, as KCP's are.
//
//	0x01 ‖ conv u32 cmd u8 frg u8 wnd u16 ts u32 sn u32 una u32 len u32 data …
//	0x01 ‖ 0 u32 ‖ 1 ‖ nonce[8] ‖ zeros            hello: buyer → agent, helloSize
//	0x01 ‖ 0 u32 ‖ 2 ‖ nonce[8] ‖ conv u32         welcome: the answer
//	0x01 ‖ 0 u32 ‖ 3 ‖ conv u32                    gone: no such conversation
const (
	prefix = 0x01 // neither QUIC (RFC 9443) nor a control packet of tunnel/path

	// packetSize is what a packet has at most as UDP payload: as QUIC begins,
	// and what fits the tunnels of mobile networks.
	packetSize  = 1280
	segmentMost = packetSize - 1 - segmentHead
	segmentHead = kcpgo.IKCP_OVERHEAD
	cmdPush     = kcpgo.IKCP_CMD_PUSH

	typeHello   = 1
	typeWelcome = 2
	typeGone    = 3

	helloSize   = 64 // more than the answer has, so that nothing is amplified
	welcomeSize = 1 + 4 + 1 + 8 + 4
	goneSize    = 1 + 4 + 1 + 4
)

func appendHello(b []byte, nonce [8]byte) []byte {
	b = append(append(b, prefix, 0, 0, 0, 0, typeHello), nonce[:]...)
	return append(b, make([]byte, helloSize-len(b))...)
}

func appendWelcome(b []byte, nonce [8]byte, conv uint32) []byte {
	b = append(append(b, prefix, 0, 0, 0, 0, typeWelcome), nonce[:]...)
	return binary.LittleEndian.AppendUint32(b, conv)
}

func appendGone(b []byte, conv uint32) []byte {
	return binary.LittleEndian.AppendUint32(append(b, prefix, 0, 0, 0, 0, typeGone), conv)
}

// A message is what a packet is that has no segments.
type message struct {
	typ   byte
	nonce [8]byte
	conv  uint32
}

// parseMessage parses a packet of the conversation zero, without its prefix.
// Garbage has type 0.
func parseMessage(b []byte) (m message) {
	switch size := len(b) + 1; {
	case size < goneSize:
	case b[4] == typeHello && size == helloSize:
		m.typ = typeHello
		copy(m.nonce[:], b[5:])
	case b[4] == typeWelcome && size == welcomeSize:
		m.typ, m.conv = typeWelcome, binary.LittleEndian.Uint32(b[13:])
		copy(m.nonce[:], b[5:])
	case b[4] == typeGone && size == goneSize:
		m.typ, m.conv = typeGone, binary.LittleEndian.Uint32(b[5:])
	}
	return m
}

// A segment is the head of one segment, as far as it is looked at here.
type segment struct {
	cmd         byte
	ts, sn, una uint32
	length      int
}

// nextSegment takes a segment off b.
func nextSegment(b []byte) (segment, []byte) {
	s := segment{
		cmd: b[4], ts: binary.LittleEndian.Uint32(b[8:]), sn: binary.LittleEndian.Uint32(b[12:]),
		una: binary.LittleEndian.Uint32(b[16:]), length: int(binary.LittleEndian.Uint32(b[20:])),
	}
	return s, b[segmentHead+s.length:]
}

// wellFormed says whether the segments b can be handed to KCP, which trusts
// lengths that do not fit 31 bits, or its own buffers, and then panics.
func wellFormed(b []byte, conv uint32) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		if len(b) < segmentHead || binary.LittleEndian.Uint32(b) != conv || b[5] != 0 {
			return false // a message in fragments is none of ours
		}
		length := binary.LittleEndian.Uint32(b[20:])
		switch b[4] {
		case cmdPush:
			if length == 0 || length > segmentMost {
				return false
			}
		case kcpgo.IKCP_CMD_ACK, kcpgo.IKCP_CMD_WASK, kcpgo.IKCP_CMD_WINS:
			if length != 0 {
				return false
			}
		default:
			return false
		}
		if int(length) > len(b)-segmentHead {
			return false
		}
		b = b[segmentHead+int(length):]
	}
	return true
}

// cookie is the conversation that an address may open: one cannot be begun
// from a forged address, and cannot be guessed by who does not see it. index
// tells conversations of one address apart.
func cookie(secret *[32]byte, addr netip.AddrPort, index byte, epoch uint32) uint32 {
	index |= 0x80 // zero is no conversation
	mac := hmac.New(sha256.New, secret[:])
	var b [16 + 2 + 1 + 4]byte
	ip := addr.Addr().As16()
	copy(b[:], ip[:])
	binary.LittleEndian.PutUint16(b[16:], addr.Port())
	b[18] = index
	binary.LittleEndian.PutUint32(b[19:], epoch)
	_, _ = mac.Write(b[:]) // a hash takes all
	sum := mac.Sum(nil)
	return uint32(index)<<24 | uint32(sum[0])<<16 | uint32(sum[1])<<8 | uint32(sum[2])
}
