package channel

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Address is an account: the last 20 bytes of the Keccak-256 of a public key.
type Address [20]byte

// Hash is a Keccak-256 hash, or any 32-byte word of the standard.
type Hash [32]byte

// ID names a channel: the EIP-712 hash of its Config under its Domain.
type ID [32]byte

// Signature is a recoverable secp256k1 signature, r||s||v with v 27 or 28.
type Signature [65]byte

// ParseAddress reads 0x and 40 hexadecimal digits. All lower or all upper
// case is accepted as it is; mixed case must carry a right EIP-55 checksum.
func ParseAddress(s string) (Address, error) {
	var a Address
	if err := parseHex(a[:], s); err != nil {
		return Address{}, fmt.Errorf("address %q: %w", clip(s), err)
	}
	var lower, upper bool
	for _, c := range []byte(s[2:]) {
		lower = lower || 'a' <= c && c <= 'f'
		upper = upper || 'A' <= c && c <= 'F'
	}
	if lower && upper && a.String() != s {
		return Address{}, fmt.Errorf("address %q: wrong checksum (EIP-55)", s)
	}
	return a, nil
}

// String returns the EIP-55 form.
func (a Address) String() string {
	text := appendHex(nil, a[:])
	sum := Keccak256(text[2:])
	for i, c := range text[2:] {
		nibble := sum[i/2] >> (4 * (1 - i%2)) & 0xf
		if c >= 'a' && nibble >= 8 {
			text[i+2] = c - 'a' + 'A'
		}
	}
	return string(text)
}

// IsZero reports whether the address is all zeros, which nobody owns.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText writes the EIP-55 form.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what ParseAddress reads.
func (a *Address) UnmarshalText(text []byte) error {
	v, err := ParseAddress(string(text))
	if err != nil {
		return err
	}
	*a = v
	return nil
}

// String returns 0x and 64 lower-case digits.
func (h Hash) String() string { return string(appendHex(nil, h[:])) }

// MarshalText writes what String returns.
func (h Hash) MarshalText() ([]byte, error) { return appendHex(nil, h[:]), nil }

// UnmarshalText reads 0x and 64 hexadecimal digits of any case.
func (h *Hash) UnmarshalText(text []byte) error { return unmarshalHex("hash", h[:], text) }

// ParseID reads 0x and 64 hexadecimal digits of any case.
func ParseID(s string) (ID, error) {
	var id ID
	err := id.UnmarshalText([]byte(s))
	return id, err
}

// String returns 0x and 64 lower-case digits.
func (id ID) String() string { return string(appendHex(nil, id[:])) }

// MarshalText writes what String returns.
func (id ID) MarshalText() ([]byte, error) { return appendHex(nil, id[:]), nil }

// UnmarshalText reads 0x and 64 hexadecimal digits of any case.
func (id *ID) UnmarshalText(text []byte) error { return unmarshalHex("channel id", id[:], text) }

// String returns 0x and 130 lower-case digits.
func (s Signature) String() string { return string(appendHex(nil, s[:])) }

// MarshalText writes what String returns.
func (s Signature) MarshalText() ([]byte, error) { return appendHex(nil, s[:]), nil }

// UnmarshalText reads 0x and 130 hexadecimal digits of any case. Whether the
// bytes are a signature, Recover says.
func (s *Signature) UnmarshalText(text []byte) error { return unmarshalHex("signature", s[:], text) }

func appendHex(dst, b []byte) []byte { return hex.AppendEncode(append(dst, '0', 'x'), b) }

// unmarshalHex leaves dst as it was unless the whole text is right.
func unmarshalHex(what string, dst, text []byte) error {
	tmp := make([]byte, len(dst))
	if err := parseHex(tmp, string(text)); err != nil {
		return fmt.Errorf("%s %q: %w", what, clip(string(text)), err)
	}
	copy(dst, tmp)
	return nil
}

func parseHex(dst []byte, s string) error {
	if len(s) < 2 || s[0] != '0' || s[1] != 'x' {
		return errors.New("does not start with 0x")
	}
	if len(s) != 2+2*len(dst) {
		return fmt.Errorf("has %d hexadecimal digits, want %d", len(s)-2, 2*len(dst))
	}
	if _, err := hex.Decode(dst, []byte(s[2:])); err != nil {
		return errors.New("not hexadecimal")
	}
	return nil
}
