package apk

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// A Key signs packages and indexes: P-256.
type Key struct{ key *ecdsa.PrivateKey }

// A PublicKey verifies them.
type PublicKey struct{ key *ecdsa.PublicKey }

// GenerateKey makes a key.
func GenerateKey() (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return Key{k}, err
}

// ParseKey reads a private key in PEM, as `openssl ecparam -genkey` and `openssl
// genpkey` write it.
func ParseKey(text []byte) (Key, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default: // "EC PARAMETERS" may come first
			continue
		}
		if err != nil {
			return Key{}, fmt.Errorf("apk private key: %w", err)
		}
		if k, ok := key.(*ecdsa.PrivateKey); ok && k.Curve == elliptic.P256() {
			return Key{k}, nil
		}
		return Key{}, errors.New("apk private key: want one of P-256")
	}
	return Key{}, errors.New("apk private key: no PEM of a private key without a password")
}

// ParsePublicKey reads what /etc/apk/keys holds.
func ParsePublicKey(text []byte) (PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return PublicKey{}, errors.New("apk public key: no PEM of a public key")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("apk public key: %w", err)
	}
	k, ok := key.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return PublicKey{}, errors.New("apk public key: want one of P-256")
	}
	return PublicKey{k}, nil
}

// String hides the key.
func (k Key) String() string { return "apk key" }

// Format hides the key.
func (k Key) Format(s fmt.State, _ rune) { fmt.Fprint(s, k.String()) }

// Public returns the key's public half.
func (k Key) Public() PublicKey { return PublicKey{&k.key.PublicKey} }

// MarshalText is the key in PEM, as [ParseKey] reads it.
func (k Key) MarshalText() ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(k.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// MarshalText is the PEM for /etc/apk/keys.
func (k PublicKey) MarshalText() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// idSize is how many bytes of the hash of a key name it.
const idSize = 16

func (k PublicKey) id() ([]byte, error) {
	point, err := k.key.Bytes() // uncompressed
	if err != nil {
		return nil, err
	}
	hash := sha512.Sum512(point)
	return hash[:idSize], nil
}

// The head of a signature: its version, the hash's number and the key's name.
const (
	signatureVersion = 0
	hashSHA512       = 4
)

// signed is the hash that is signed.
func signed(schema string, head, database []byte) []byte {
	inner := sha512.Sum512(database)
	outer := sha512.Sum512(bytes.Join([][]byte{[]byte(schema), head, inner[:]}, nil))
	return outer[:]
}

// sign is the content of a signature's block.
func (k Key) sign(schema string, database []byte) ([]byte, error) {
	id, err := k.Public().id()
	if err != nil {
		return nil, err
	}
	head := append([]byte{signatureVersion, hashSHA512}, id...)
	sig, err := k.key.Sign(nil, signed(schema, head, database), crypto.SHA512) // without a source of chance it is RFC 6979's
	return append(head, sig...), err
}

func (k PublicKey) verify(schema string, database, signature []byte) error {
	id, err := k.id()
	const head = 2 + idSize
	switch {
	case err != nil:
		return err
	case len(signature) <= head || signature[0] != signatureVersion || signature[1] != hashSHA512:
		return errors.New("a signature of another kind")
	case !bytes.Equal(signature[2:head], id):
		return fmt.Errorf("a signature by the key %x, not %x", signature[2:head], id)
	case !ecdsa.VerifyASN1(k.key, signed(schema, signature[:head], database), signature[head:]):
		return errors.New("the signature is not of this file")
	}
	return nil
}

// writeSigned writes what a file begins with: its head, the database, and
// signatures.
func writeSigned(w io.Writer, schema string, database []byte, keys []Key) error {
	if _, err := io.WriteString(w, magicPlain+schema); err != nil {
		return err
	}
	if err := writeBlock(w, blockADB, database); err != nil {
		return err
	}
	for _, k := range keys {
		sig, err := k.sign(schema, database)
		if err != nil {
			return err
		}
		if err := writeBlock(w, blockSig, sig); err != nil {
			return err
		}
	}
	return nil
}
