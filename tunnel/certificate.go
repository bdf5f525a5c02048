package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"slices"
)

// An agent's certificate is written by hand: what x509 needs to make any is 30 kB
// on the router.

// Tags of DER (ITU-T X.690 §8) that a certificate has.
const (
	tagBits   = 0x03
	tagOctets = 0x04
	tagSeq    = 0x30
)

// der is a value of DER: tag, length, and the parts after each other.
func der(tag byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	switch n := len(body); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, body...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	}
}

// Parts of a certificate (RFC 5280 §4.1) of a key of P-256 (RFC 5480).
const (
	derKeyType = "\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" // id-ecPublicKey, secp256r1
	derSigned  = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"                                     // ecdsa-with-SHA256
	derFirst   = "\xa0\x03\x02\x01\x02\x02\x01\x01"                                                     // v3, number 1
	derNobody  = "\x30\x00"
	derAlways  = "\x30\x20\x17\x0d700101000000Z\x18\x0f99991231235959Z" // RFC 5280 §4.1.2.5: no end
	derSigns   = "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80"
	derNames   = "\x06\x03\x55\x1d\x11\x01\x01\xff" // subjectAltName, critical since the subject is empty
)

// PublicKeyInfo is the SubjectPublicKeyInfo of a key of P-256.
func PublicKeyInfo(pub *ecdsa.PublicKey) ([]byte, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, errors.New("not a P-256 key")
	}
	point, err := pub.Bytes()
	if err != nil {
		return nil, err
	}
	return der(tagSeq, []byte(derKeyType), der(tagBits, []byte{0}, point)), nil
}

// Certificate returns a certificate of a key of P-256, signed by itself, for a
// name that names nobody: what counts is the key.
func Certificate(key *ecdsa.PrivateKey, name string) (tls.Certificate, error) {
	if key == nil {
		return tls.Certificate{}, errors.New("no key")
	}
	spki, err := PublicKeyInfo(&key.PublicKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	san := der(tagSeq, []byte(derNames), der(tagOctets, der(tagSeq, der(0x82, []byte(name)))))
	tbs := der(tagSeq, []byte(derFirst+derSigned+derNobody+derAlways+derNobody), spki, der(0xa3, der(tagSeq, []byte(derSigns), san)))
	sum := sha256.Sum256(tbs)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := der(tagSeq, tbs, []byte(derSigned), der(tagBits, []byte{0}, sig))
	return tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key}, nil
}
