package ipk

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Keys and signatures are those of usign, which OpenWrt has of OpenBSD's
// signify: a line of comment and one of base64. The bytes begin with "Ed", the
// algorithm, and name the key by 8 bytes that were drawn with it.
const (
	usignAlgorithm = "Ed"
	usignKDF       = "BK" // of the password; there is none
	usignComment   = "untrusted comment: "
	idSize         = 8
	saltSize       = 16
)

// A Key signs indexes of feeds.
type Key struct {
	id  [idSize]byte
	key ed25519.PrivateKey
}

// A PublicKey verifies them.
type PublicKey struct {
	id  [idSize]byte
	key ed25519.PublicKey
}

// NewKey returns the key of a seed of 32 bytes, by the name id.
func NewKey(seed []byte, id [idSize]byte) (Key, error) {
	if len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("usign: a seed of %d bytes", len(seed))
	}
	return Key{id, ed25519.NewKeyFromSeed(seed)}, nil
}

// ParseKey reads what `usign -G -s` writes.
func ParseKey(text []byte) (Key, error) {
	const kdf = len(usignAlgorithm)
	const salt = kdf + len(usignKDF) + 4
	const sum = salt + saltSize
	const id = sum + 8
	const key = id + idSize
	b, err := parseUsign(text, key+ed25519.PrivateKeySize)
	if err != nil {
		return Key{}, fmt.Errorf("usign secret key: %w", err)
	}
	digest := sha512.Sum512(b[key:])
	switch {
	case string(b[kdf:kdf+len(usignKDF)]) != usignKDF || binary.BigEndian.Uint32(b[salt-4:]) != 0:
		return Key{}, errors.New("usign secret key: it has a password: make one without")
	case !bytes.Equal(digest[:8], b[sum:id]):
		return Key{}, errors.New("usign secret key: damaged")
	}
	k, err := NewKey(b[key:key+ed25519.SeedSize], [idSize]byte(b[id:]))
	if err == nil && !bytes.Equal(k.key, b[key:]) {
		err = errors.New("usign secret key: its halves do not fit")
	}
	return k, err
}

// ParsePublicKey reads what `usign -G -p` writes, and /etc/opkg/keys holds.
func ParsePublicKey(text []byte) (PublicKey, error) {
	const key = len(usignAlgorithm) + idSize
	b, err := parseUsign(text, key+ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, fmt.Errorf("usign public key: %w", err)
	}
	return PublicKey{[idSize]byte(b[len(usignAlgorithm):]), b[key:]}, nil
}

// MarshalText is what `usign -G -s` writes.
func (k Key) MarshalText() ([]byte, error) {
	digest := sha512.Sum512(k.key)
	b := append([]byte(usignAlgorithm+usignKDF), make([]byte, 4+saltSize)...)
	b = append(append(append(b, digest[:8]...), k.id[:]...), k.key...)
	return formatUsign("private key "+k.Public().ID(), b), nil
}

// String hides the key.
func (k Key) String() string { return "usign key " + k.Public().ID() }

// Format hides the key.
func (k Key) Format(s fmt.State, _ rune) { fmt.Fprint(s, k.String()) }

// Public returns the key's public half.
func (k Key) Public() PublicKey { return PublicKey{k.id, k.key.Public().(ed25519.PublicKey)} }

// ID is the name of the key's file in /etc/opkg/keys.
func (k PublicKey) ID() string { return hex.EncodeToString(k.id[:]) }

// MarshalText is what `usign -G -p` writes.
func (k PublicKey) MarshalText() ([]byte, error) {
	return formatUsign("public key "+k.ID(), append(append([]byte(usignAlgorithm), k.id[:]...), k.key...)), nil
}

// Sign is what `usign -S` writes for a message: Packages.sig for Packages.
func (k Key) Sign(message []byte) []byte {
	b := append([]byte(usignAlgorithm), k.id[:]...)
	return formatUsign("signed by key "+k.Public().ID(), append(b, ed25519.Sign(k.key, message)...))
}

// Verify checks a signature like `usign -V`.
func (k PublicKey) Verify(message, signature []byte) error {
	const at = len(usignAlgorithm) + idSize
	b, err := parseUsign(signature, at+ed25519.SignatureSize)
	switch {
	case err != nil:
		return fmt.Errorf("usign signature: %w", err)
	case !bytes.Equal(b[len(usignAlgorithm):at], k.id[:]):
		return fmt.Errorf("usign signature: by the key %x, not %x", b[len(usignAlgorithm):at], k.id)
	case !ed25519.Verify(k.key, message, b[at:]):
		return errors.New("usign signature: not of this message")
	}
	return nil
}

func formatUsign(comment string, b []byte) []byte {
	return []byte(usignComment + comment + "\n" + base64.StdEncoding.EncodeToString(b) + "\n")
}

func parseUsign(text []byte, size int) ([]byte, error) {
	comment, rest, ok := strings.Cut(string(text), "\n")
	if !ok || !strings.HasPrefix(comment, usignComment) {
		return nil, errors.New("the first line is no comment")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(rest, "\n"))
	if err != nil || len(b) != size || string(b[:2]) != usignAlgorithm {
		return nil, fmt.Errorf("the second line is not %d bytes in base64 that begin with %q", size, usignAlgorithm)
	}
	return b, nil
}
