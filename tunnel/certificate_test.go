package tunnel_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// TestCertificate: what is written by hand is what x509 writes, and its signature
// is good.
func TestCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "agent.x402.invalid", strings.Repeat("long.", 40) + "invalid"} {
		cert, err := tunnel.Certificate(key, name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		template := x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
			DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) {
			t.Errorf("%s:\n%x, x509 has\n%x", name, got.RawTBSCertificate, want.RawTBSCertificate)
		}
		if err := got.CheckSignature(got.SignatureAlgorithm, got.RawTBSCertificate, got.Signature); err != nil {
			t.Error(err)
		}
		info, err := tunnel.PublicKeyInfo(&key.PublicKey)
		if err != nil || !bytes.Equal(info, want.RawSubjectPublicKeyInfo) {
			t.Errorf("%x, %v; want %x", info, err, want.RawSubjectPublicKeyInfo)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []*ecdsa.PrivateKey{nil, other} {
		if _, err := tunnel.Certificate(key, "x"); err == nil {
			t.Errorf("%v", key)
		}
	}
}
