package tunnel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Capsule types of the tunnel's own. Types of the owners are theirs to choose
// from 0x7402_0010 on.
const (
	capsuleDatagram = 0x00 // RFC 9297 §3.5

	capsulePause  = 0x7402_0001 // buyer → agent: stop sending on a stream
	capsuleResume = 0x7402_0002 // buyer → agent: go on
	capsuleCancel = 0x7402_0003 // buyer → agent: the application has gone
)

// MaxCapsule bounds the value of a capsule on the control stream.
const MaxCapsule = 4096

// maxDatagramCapsule bounds a datagram that travels as a capsule: a UDP
// payload (RFC 768: 65,535 bytes less the header) and its context ID.
const maxDatagramCapsule = 65535 - 8 + 8

var errVarint = errors.New("tunnel: truncated varint")

// appendVarint appends v in the encoding of RFC 9000 §16.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, 0x40|byte(v>>8), byte(v))
	case v < 1<<30:
		return append(b, 0x80|byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	case v < 1<<62:
		return append(b, 0xc0|byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32),
			byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
	panic("tunnel: varint over 62 bits")
}

// cutVarint takes a varint off the front of b.
func cutVarint(b []byte) (v uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errVarint
	}
	n := 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, nil, errVarint
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, b[n:], nil
}

func readVarint(r io.ByteReader) (uint64, error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	v := uint64(first & 0x3f)
	for range 1<<(first>>6) - 1 {
		c, err := r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		v = v<<8 | uint64(c)
	}
	return v, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func appendCapsule(b []byte, typ uint64, value []byte) []byte {
	b = appendVarint(b, typ)
	b = appendVarint(b, uint64(len(value)))
	return append(b, value...)
}

// readCapsule reads the next capsule whose type known accepts and skips all
// others. The value is read into buf if it fits there, and stays valid until
// the next call with the same buf. io.EOF is a clean end between two capsules.
func readCapsule(r *bufio.Reader, buf []byte, limit int, known func(typ uint64) bool) (typ uint64, value []byte, err error) {
	for {
		if typ, err = readVarint(r); err != nil {
			return 0, nil, err
		}
		length, err := readVarint(r)
		if err != nil {
			return 0, nil, unexpected(err)
		}
		if !known(typ) {
			if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
				return 0, nil, unexpected(err)
			}
			continue
		}
		if length > uint64(limit) {
			return 0, nil, fmt.Errorf("tunnel: capsule %#x of %d bytes, at most %d are allowed", typ, length, limit)
		}
		if int(length) > len(buf) {
			buf = make([]byte, length)
		}
		value = buf[:length]
		if _, err := io.ReadFull(r, value); err != nil {
			return 0, nil, unexpected(err)
		}
		return typ, value, nil
	}
}
