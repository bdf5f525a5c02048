package h2

import (
	"encoding/binary"
	"fmt"

	"github.com/depinsim/x402/tunnel"
)

// Frame types, RFC 9113 §6.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9
)

// Flags of frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings, RFC 9113 §6.5.2 and RFC 8441 §3.
const (
	settingTableSize     = 0x1
	settingPush          = 0x2
	settingMaxStreams    = 0x3
	settingInitialWindow = 0x4
	settingMaxFrame      = 0x5
	settingMaxHeader     = 0x6
	settingConnect       = 0x8
)

// Error codes, RFC 9113 §7.
const (
	codeNo          = 0x0
	codeProtocol    = 0x1
	codeInternal    = 0x2
	codeFlowControl = 0x3
	codeClosed      = 0x5
	codeFrameSize   = 0x6
	codeRefused     = 0x7
	codeCancel      = 0x8
	codeCompression = 0x9
	codeConnect     = 0xa
	codeCalm        = 0xb
)

const (
	headSize  = 9
	maxFrame  = 16 << 10 // what we take; the default of RFC 9113 §6.5.2
	maxWindow = 1<<31 - 1
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 §3.4
)

// A head is the nine bytes that every frame begins with, RFC 9113 §4.1.
type head struct {
	length int
	typ    byte
	flags  byte
	stream uint32
}

func parseHead(b *[headSize]byte) head {
	return head{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    b[3],
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxWindow,
	}
}

func appendHead(b []byte, h head) []byte {
	b = append(b, byte(h.length>>16), byte(h.length>>8), byte(h.length), h.typ, h.flags)
	return binary.BigEndian.AppendUint32(b, h.stream)
}

func appendWindow(b []byte, stream, increment uint32) []byte {
	b = appendHead(b, head{4, frameWindow, 0, stream})
	return binary.BigEndian.AppendUint32(b, increment)
}

func appendReset(b []byte, stream, code uint32) []byte {
	b = appendHead(b, head{4, frameReset, 0, stream})
	return binary.BigEndian.AppendUint32(b, code)
}

func appendPing(b []byte, flags byte, opaque []byte) []byte {
	return append(appendHead(b, head{8, framePing, flags, 0}), opaque...)
}

func appendGoAway(b []byte, last, code uint32, text string) []byte {
	b = appendHead(b, head{8 + len(text), frameGoAway, 0, 0})
	b = binary.BigEndian.AppendUint32(b, last)
	return append(binary.BigEndian.AppendUint32(b, code), text...)
}

// A setting is one parameter of a SETTINGS frame.
type setting struct {
	id    uint16
	value uint32
}

func appendSettings(b []byte, settings ...setting) []byte {
	b = appendHead(b, head{6 * len(settings), frameSettings, 0, 0})
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = binary.BigEndian.AppendUint32(b, s.value)
	}
	return b
}

// appendHeaders frames a header block, in CONTINUATION frames too if it needs
// them.
func appendHeaders(b []byte, stream uint32, flags byte, block []byte) []byte {
	typ := byte(frameHeaders)
	for {
		part := block[:min(len(block), maxFrame)]
		block = block[len(part):]
		if len(block) == 0 {
			flags |= flagEndHeaders
		}
		b = append(appendHead(b, head{len(part), typ, flags, stream}), part...)
		if len(block) == 0 {
			return b
		}
		typ, flags = frameContinuation, 0
	}
}

// parseSettings returns the parameters of a SETTINGS frame.
func parseSettings(b []byte) ([]setting, error) {
	if len(b)%6 != 0 {
		return nil, connError{codeFrameSize, "SETTINGS of odd length"}
	}
	var all []setting
	for ; len(b) > 0; b = b[6:] {
		s := setting{binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])}
		switch {
		case s.id == settingInitialWindow && s.value > maxWindow:
			return nil, connError{codeFlowControl, "initial window too large"}
		case s.id == settingMaxFrame && (s.value < maxFrame || s.value >= 1<<24):
			return nil, connError{codeProtocol, "frame size out of range"}
		case (s.id == settingPush || s.id == settingConnect) && s.value > 1:
			return nil, connError{codeProtocol, "a switch that is neither on nor off"}
		}
		all = append(all, s)
	}
	return all, nil
}

// headerFragment takes padding and priority off a HEADERS frame.
func headerFragment(flags byte, b []byte) ([]byte, error) {
	bad := connError{codeProtocol, "HEADERS shorter than its padding"}
	pad := 0
	if flags&flagPadded != 0 {
		if len(b) == 0 {
			return nil, bad
		}
		pad, b = int(b[0]), b[1:]
	}
	if flags&flagPriority != 0 {
		if len(b) < 5 {
			return nil, bad
		}
		b = b[5:]
	}
	if pad > len(b) {
		return nil, bad
	}
	return b[:len(b)-pad], nil
}

// A connError ends the connection, RFC 9113 §5.4.1.
type connError struct {
	code uint32
	text string
}

func (e connError) Error() string { return fmt.Sprintf("h2: %s (code %#x)", e.text, e.code) }

// A StreamError is why a stream ended that was not closed in order.
type StreamError struct {
	Code   uint64 // of RFC 9114 §8.1, as with the tunnel's other transports
	Remote bool   // the peer ended it
}

func (e *StreamError) Error() string {
	if e.Remote {
		return fmt.Sprintf("h2: stream ended by peer, code %#x", e.Code)
	}
	return fmt.Sprintf("h2: stream ended, code %#x", e.Code)
}

// codes are the tunnel's codes of streams, which are HTTP/3's, and HTTP/2's.
var codes = [...]struct {
	tunnel uint64
	wire   uint32
}{
	{0x10c, codeCancel}, // first: what stands for all others
	{0x100, codeNo}, {0x102, codeInternal}, {0x107, codeCalm}, {0x10b, codeRefused}, {0x10f, codeConnect},
}

func wireCode(code uint64) uint32 {
	for _, c := range codes {
		if c.tunnel == code {
			return c.wire
		}
	}
	return codeCancel
}

func tunnelCode(wire uint32) uint64 {
	for _, c := range codes {
		if c.wire == wire {
			return c.tunnel
		}
	}
	return codes[0].tunnel
}

// goAwayCode is a reason as the error code of a GOAWAY frame, where codes that
// are not HTTP/2's are allowed (RFC 9113 §7).
func goAwayCode(r tunnel.Reason) uint32 {
	if r == tunnel.ReasonDone {
		return codeNo
	}
	return uint32(r)
}

// goneAway reads a GOAWAY frame.
func goneAway(b []byte) (*tunnel.CloseError, error) {
	if len(b) < 8 {
		return nil, connError{codeFrameSize, "GOAWAY too short"}
	}
	code, text := binary.BigEndian.Uint32(b[4:]), printable(string(b[8:min(len(b), 8+maxText)]))
	switch {
	case code == codeNo:
		return &tunnel.CloseError{Reason: tunnel.ReasonDone, Text: text, Remote: true}, nil
	case code >= uint32(tunnel.ReasonProtocol):
		return &tunnel.CloseError{Reason: tunnel.Reason(code), Text: text, Remote: true}, nil
	default:
		return &tunnel.CloseError{Remote: true, Err: connError{code, "closed by peer: " + text}}, nil
	}
}

// maxText bounds the text of a close reason.
const maxText = 200

// printable keeps a peer's text from steering a terminal.
func printable(s string) string {
	b := []byte(s[:min(len(s), maxText)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
