package modem

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The default alphabet of 3GPP TS 23.038 clause 6.2.1 in the order of its codes;
// 0x1b leads to the extension of clause 6.2.1.1, which gsm7Extension has as
// pairs of code and character.
const (
	gsm7Basic = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?" +
		"¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
	gsm7Extension = "\x0a\f\x14^\x28{\x29}\x2f\\\x3c[\x3d~\x3e]\x40|\x65€"
	gsm7Escape    = 0x1b
)

var gsm7Runes = []rune(gsm7Basic)

// gsm7Decode turns septets into text. What is not in the tables shows as
// U+FFFD; an escape that leads nowhere as the character after it, as the
// standard asks for.
func gsm7Decode(septets []byte) string {
	var out strings.Builder
	escaped := false
	for _, c := range septets {
		switch {
		case c >= 128:
			out.WriteRune(utf8.RuneError)
		case escaped:
			out.WriteRune(gsm7Extended(c))
			escaped = false
		case c == gsm7Escape:
			escaped = true
		default:
			out.WriteRune(gsm7Runes[c])
		}
	}
	return out.String()
}

func gsm7Extended(c byte) rune {
	for i := 0; i < len(gsm7Extension); {
		r, n := utf8.DecodeRuneInString(gsm7Extension[i+1:])
		if gsm7Extension[i] == c {
			return r
		}
		i += 1 + n
	}
	if c == gsm7Escape {
		return ' '
	}
	return gsm7Runes[c]
}

// gsm7Encode turns text into septets, or says that the alphabet lacks some of
// its characters.
func gsm7Encode(text string) (septets []byte, ok bool) {
	for _, r := range text {
		if r == gsm7Escape {
			return nil, false
		}
		if i := indexRune(r); i >= 0 {
			septets = append(septets, byte(i))
			continue
		}
		code, ok := gsm7Code(r)
		if !ok {
			return nil, false
		}
		septets = append(septets, gsm7Escape, code)
	}
	return septets, true
}

func indexRune(r rune) int {
	for i, have := range gsm7Runes {
		if have == r {
			return i
		}
	}
	return -1
}

func gsm7Code(r rune) (byte, bool) {
	for i := 0; i < len(gsm7Extension); {
		have, n := utf8.DecodeRuneInString(gsm7Extension[i+1:])
		if have == r {
			return gsm7Extension[i], true
		}
		i += 1 + n
	}
	return 0, false
}

// pack7 puts septets into octets, the first into the lowest bits (3GPP TS 23.038
// clause 6.1.2.1), after so many bits that are left empty.
func pack7(septets []byte, fill int) []byte {
	out := make([]byte, (fill+7*len(septets)+7)/8)
	for i, c := range septets {
		at := fill + 7*i
		wide := uint16(c&0x7f) << (at % 8)
		out[at/8] |= byte(wide)
		if wide > 0xff {
			out[at/8+1] |= byte(wide >> 8)
		}
	}
	return out
}

// unpack7 takes n septets out of octets, or as many as there are.
func unpack7(octets []byte, n, fill int) []byte {
	n = max(0, min(n, (8*len(octets)-fill)/7))
	septets := make([]byte, n)
	for i := range septets {
		at := fill + 7*i
		wide := uint16(octets[at/8])
		if at/8+1 < len(octets) {
			wide |= uint16(octets[at/8+1]) << 8
		}
		septets[i] = byte(wide>>(at%8)) & 0x7f
	}
	return septets
}

// ucs2Decode reads UTF-16 in big-endian order, which is what phones send where
// the standard says UCS2. An odd octet at the end is dropped.
func ucs2Decode(octets []byte) string {
	units := make([]uint16, len(octets)/2)
	for i := range units {
		units[i] = uint16(octets[2*i])<<8 | uint16(octets[2*i+1])
	}
	return string(utf16.Decode(units))
}

// printable makes text from outside fit for being shown: line ends stay, other
// control characters go.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r', r < ' ', r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return -1 // also what turns the direction of writing, and with it the meaning
		}
		return r
	}, s)
}
