package modem

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// A part is one short message as the network carries it: 3GPP TS 23.040 clause
// 9.2.2.1 for those that come in.
type part struct {
	from    string
	time    time.Time // of the centre; zero when it is not one
	text    string    // hex digits when binary
	binary  bool
	ref     int    // of the message that it is a part of
	seq, of int    // this part and how many; 1 of 1 for a whole one
	septets []byte // of the default alphabet, to be joined before they are read
}

var errPDU = errors.New("not a message that was delivered")

// A cursor reads octets from the front. Reading past the end sets short.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.short = true
		c.b = nil
		return make([]byte, max(0, min(n, 256)))
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) octet() int { return int(c.take(1)[0]) }

// decodePart reads a PDU in hex with the centre's number before it, as AT+CMGL
// prints it. Messages that were sent, and reports, are errPDU.
func decodePart(pdu string) (p part, err error) {
	raw, err := hex.DecodeString(pdu)
	if err != nil || len(raw) > 300 {
		return p, errPDU
	}
	c := &cursor{b: raw}
	c.take(c.octet()) // the centre
	first := c.octet()
	if c.short || first&3 != 0 {
		return p, errPDU
	}
	p.from = c.address()
	c.octet() // protocol
	coding := codingOf(c.octet())
	p.time = timestamp(c.take(7))
	length := c.octet()
	if c.short {
		return p, errPDU
	}
	p.seq, p.of = 1, 1
	data, header := c.b, 0
	if first&0x40 != 0 {
		if len(data) < 1 || len(data) < 1+int(data[0]) {
			return p, errPDU
		}
		header = 1 + int(data[0])
		p.userHeader(data[1:header])
	}
	switch coding {
	case septets:
		fill := (7 - header*8%7) % 7
		p.septets = unpack7(data[header:], length-(header*8+fill)/7, fill)
		p.text = printable(gsm7Decode(p.septets))
	case ucs2:
		p.text = printable(ucs2Decode(data[header:max(header, min(length, len(data)))]))
	default:
		p.binary = true
		p.text = hex.EncodeToString(data[header:max(header, min(length, len(data)))])
	}
	return p, nil
}

type coding uint8

const (
	septets coding = iota
	octets
	ucs2
)

// codingOf reads the data coding scheme of 3GPP TS 23.038 clause 4. What is
// compressed is as good as binary.
func codingOf(dcs int) coding {
	switch {
	case dcs&0xc0 != 0xc0 && dcs&0x20 != 0:
		return octets
	case dcs&0xc0 != 0xc0 && dcs&0x0c == 8, dcs&0xf0 == 0xe0:
		return ucs2
	case dcs&0xc0 != 0xc0 && dcs&0x0c == 4, dcs&0xf4 == 0xf4:
		return octets
	}
	return septets
}

// address reads a number (3GPP TS 23.040 clause 9.1.2.5), or the name that stands
// for one.
func (c *cursor) address() string {
	digits, kind := c.octet(), c.octet()
	value := c.take((digits + 1) / 2)
	if c.short || digits > 20 {
		c.short = true
		return ""
	}
	if kind&0x70 == 0x50 {
		return strings.TrimSpace(printable(gsm7Decode(unpack7(value, digits*4/7, 0))))
	}
	number := ""
	for i := range digits {
		number += "0123456789*#abc?"[value[i/2]>>(4*(i%2))&0xf:][:1]
	}
	if kind&0x70 == 0x10 {
		number = "+" + number
	}
	return number
}

// timestamp reads clause 9.2.3.11: swapped digits, the zone in quarters of an
// hour with a sign.
func timestamp(b []byte) time.Time {
	var n [7]int
	for i, v := range b {
		lo, hi := int(v&0xf), int(v>>4)
		if i == 6 {
			lo &= 7
		}
		if hi > 9 || lo > 9 {
			return time.Time{}
		}
		n[i] = 10*lo + hi
	}
	zone := n[6] * 15 * 60
	if b[6]&8 != 0 {
		zone = -zone
	}
	if n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 31 || n[3] > 23 || n[4] > 59 || n[5] > 59 || zone > 14*3600 || zone < -12*3600 {
		return time.Time{}
	}
	return time.Date(2000+n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.FixedZone("", zone))
}

// userHeader reads what says of which message this is a part (clause 9.2.3.24).
func (p *part) userHeader(b []byte) {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		kind, value := b[0], b[2:2+int(b[1])]
		b = b[2+int(b[1]):]
		switch {
		case kind == 0 && len(value) == 3:
			p.ref, p.of, p.seq = int(value[0]), int(value[1]), int(value[2])
		case kind == 8 && len(value) == 4:
			p.ref, p.of, p.seq = int(value[0])<<8|int(value[1]), int(value[2]), int(value[3])
		}
	}
	if p.of < 1 || p.seq < 1 || p.seq > p.of {
		p.seq, p.of = 1, 1
	}
}

// maxParts bounds a message that is sent: each part is paid for.
const maxParts = 8

// encodeParts makes the PDUs of a message to be sent (clause 9.2.2.2), in hex
// and without a centre, whose number the modem adds. ref tells its parts from
// those of others.
func encodeParts(to, text string, ref byte) ([]string, error) {
	address, err := encodeAddress(to)
	if err != nil {
		return nil, err
	}
	units, septet := gsm7Encode(text)
	size, whole, each, dcs := 1, 160, 153, byte(0)
	if !septet {
		units, size, whole, each, dcs = nil, 2, 140, 134, 8
		for _, u := range utf16.Encode([]rune(text)) {
			units = append(units, byte(u>>8), byte(u))
		}
	}
	chunks := [][]byte{units}
	if len(units) > whole {
		chunks = nil
		for rest := units; len(rest) > 0; {
			n := cut(rest, each, size)
			chunks = append(chunks, rest[:n])
			rest = rest[n:]
		}
	}
	if len(chunks) > maxParts {
		return nil, fmt.Errorf("SMS: the text takes %d messages, limit %d", len(chunks), maxParts)
	}
	var pdus []string
	for i, chunk := range chunks {
		var header []byte
		first := byte(0x01) // SUBMIT, no validity period
		if len(chunks) > 1 {
			first |= 0x40
			header = []byte{5, 0, 3, ref, byte(len(chunks)), byte(i + 1)}
		}
		length, data := len(header)+len(chunk), append(slices.Clone(header), chunk...)
		if septet {
			fill := (7 - len(header)*8%7) % 7
			length = (len(header)*8+fill)/7 + len(chunk)
			data = append(header, pack7(chunk, fill)...)
		}
		pdu := append([]byte{0, first, 0}, address...)
		pdu = append(append(pdu, 0, dcs, byte(length)), data...)
		pdus = append(pdus, strings.ToUpper(hex.EncodeToString(pdu)))
	}
	return pdus, nil
}

// cut is how much of units goes into a message: at most most, and neither an
// escape nor the first half of a surrogate pair stands last.
func cut(units []byte, most, size int) int {
	if len(units) <= most {
		return len(units)
	}
	n := most
	switch last := units[n-size]; {
	case size == 1 && last == gsm7Escape, size == 2 && last&0xfc == 0xd8:
		n -= size
	}
	return n
}

// encodeAddress writes a number of 3 to 20 digits, international with a plus.
func encodeAddress(to string) ([]byte, error) {
	digits, international := strings.CutPrefix(to, "+")
	if !isDigits(digits) || len(digits) < 3 || len(digits) > 20 {
		return nil, fmt.Errorf("SMS: number %s: want 3 to 20 digits, with + before a country code", strconv.Quote(to))
	}
	kind := byte(0x81)
	if international {
		kind = 0x91
	}
	out := []byte{byte(len(digits)), kind}
	if len(digits)%2 == 1 {
		digits += "F"
	}
	value, err := hex.DecodeString(swapNibbles(digits))
	return append(out, value...), err
}
