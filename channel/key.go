package channel

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"golang.org/x/crypto/sha3"
)

// Keccak256 returns the hash of the parts laid end to end.
func Keccak256(parts ...[]byte) Hash {
	d := sha3.NewLegacyKeccak256()
	for _, p := range parts {
		d.Write(p)
	}
	var h Hash
	d.Sum(h[:0])
	return h
}

// Key is a secp256k1 private key. Every fmt verb, slog and JSON print
// "key(redacted)"; Bytes is the only way out. It may be used by many
// goroutines.
type Key struct {
	// The secret is behind a pointer so that a struct that embeds a Key in an
	// unexported field, where fmt calls no method, prints an address.
	secret  *secp256k1.PrivateKey
	address Address
}

// GenerateKey draws a key from the system's random source.
func GenerateKey() (*Key, error) {
	secret, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return newKey(secret), nil
}

// ParseKey reads the 32 big-endian bytes of a key. It refuses zero and values
// outside the group's order, which would be another key than the one meant.
func ParseKey(b []byte) (*Key, error) {
	if len(b) != 32 {
		return nil, fmt.Errorf("key: %d bytes, want 32", len(b))
	}
	var n secp256k1.ModNScalar
	if overflow := n.SetByteSlice(b); overflow || n.IsZero() {
		return nil, errors.New("key: not in the range of secp256k1")
	}
	return newKey(secp256k1.NewPrivateKey(&n)), nil
}

func newKey(secret *secp256k1.PrivateKey) *Key {
	public := baseMult(&secret.Key)
	public.ToAffine()
	return &Key{secret, publicAddress(&public)}
}

// Address returns the account of the key.
func (k *Key) Address() Address { return k.address }

// Bytes returns the secret itself, for the file that keeps it.
func (k *Key) Bytes() []byte { return k.secret.Serialize() }

// Sign signs a digest: deterministic (RFC 6979), with the lower s (EIP-2).
func (k *Key) Sign(digest Hash) Signature {
	secret := k.secret.Key.Bytes()
	for i := uint32(0); ; i++ {
		if sig, ok := sign(&k.secret.Key, secp256k1.NonceRFC6979(secret[:], digest[:], nil, nil, i), digest); ok {
			return sig
		}
	}
}

// Derive returns a subkey for another purpose, such as a MAC: HMAC-SHA256 of
// the label under the key. Two labels never share a subkey.
func (k *Key) Derive(label string) [32]byte {
	secret := k.secret.Key.Bytes()
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(label))
	var sub [32]byte
	mac.Sum(sub[:0])
	return sub
}

const redactedKey = "key(redacted)"

// Format prints "key(redacted)" whatever the verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, redactedKey) }

// String returns "key(redacted)".
func (Key) String() string { return redactedKey }

// LogValue logs "key(redacted)".
func (Key) LogValue() slog.Value { return slog.StringValue(redactedKey) }

// MarshalText writes "key(redacted)", for JSON and the like.
func (Key) MarshalText() ([]byte, error) { return []byte(redactedKey), nil }

// ErrSignature is returned for bytes that are no valid signature of anyone.
var ErrSignature = errors.New("invalid signature")

// Recover returns the account that signed digest. It refuses what an EVM
// contract would: v other than 27 and 28, r or s zero or beyond the order, and
// the upper s, so that one signature has one form.
func Recover(digest Hash, sig Signature) (Address, error) {
	if v := sig[64]; v != 27 && v != 28 {
		return Address{}, fmt.Errorf("%w: v is %d", ErrSignature, v)
	}
	var s secp256k1.ModNScalar
	if overflow := s.SetByteSlice(sig[32:64]); overflow || s.IsOverHalfOrder() {
		return Address{}, fmt.Errorf("%w: s is too large", ErrSignature)
	}
	public, ok := recoverPoint(digest, sig)
	if !ok {
		return Address{}, fmt.Errorf("%w: no such point", ErrSignature)
	}
	return publicAddress(&public), nil
}

// publicAddress is the account of a public key, an affine point.
func publicAddress(p *secp256k1.JacobianPoint) Address {
	h := Keccak256(p.X.Bytes()[:], p.Y.Bytes()[:])
	return Address(h[12:])
}
