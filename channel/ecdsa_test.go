package channel

import (
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// TestBaseMult compares with the library's multiples of any point: every bit
// alone, and where a block, a tooth or the order begins and ends.
func TestBaseMult(t *testing.T) {
	g := comb()[0][1]
	var scalars []secp256k1.ModNScalar
	var power secp256k1.ModNScalar
	power.SetInt(1)
	for range 256 {
		var below secp256k1.ModNScalar
		below.SetInt(1)
		below.Negate().Add(&power)
		scalars = append(scalars, power, below)
		power.Add(new(secp256k1.ModNScalar).Set(&power))
	}
	scalars = append(scalars, *new(secp256k1.ModNScalar).SetInt(1).Negate()) // the order less one
	for _, k := range scalars {
		var want secp256k1.JacobianPoint
		secp256k1.ScalarMultNonConst(&k, &g, &want)
		if got := baseMult(&k); !got.EquivalentNonConst(&want) {
			t.Errorf("%x: another point", k.Bytes())
		}
	}
}

// FuzzECDSA holds signatures and what is recovered from any 64 bytes against the
// library's own.
func FuzzECDSA(f *testing.F) {
	f.Add(make([]byte, 32), make([]byte, 32), make([]byte, 64), true)
	k := goldenKey(f)
	digest := Keccak256([]byte("x"))
	sig := k.Sign(digest)
	f.Add(k.Bytes(), digest[:], sig[:64], false)
	f.Add(k.Bytes(), digest[:], sig[:64], true)
	f.Fuzz(func(t *testing.T, secret, hash, rs []byte, odd bool) {
		var digest Hash
		copy(digest[:], hash)
		if k, err := ParseKey(secret); err == nil {
			want := ecdsa.SignCompact(k.secret, digest[:], false) // v||r||s
			if got := k.Sign(digest); Signature(append(want[1:], want[0])) != got {
				t.Errorf("signed %s, want %x", got, want)
			}
			public := k.secret.PubKey().SerializeUncompressed()
			if h := Keccak256(public[1:]); Address(h[12:]) != k.Address() {
				t.Errorf("address %s is not of the public key %x", k.Address(), public)
			}
		}
		var sig Signature
		copy(sig[:64], rs)
		sig[64] = 27
		if odd {
			sig[64] = 28
		}
		got, ok := recoverPoint(digest, sig)
		want, _, err := ecdsa.RecoverCompact(append([]byte{sig[64]}, sig[:64]...), digest[:])
		if ok != (err == nil) || ok && !want.IsEqual(secp256k1.NewPublicKey(&got.X, &got.Y)) {
			t.Errorf("recovered %v, %v, want %v, %v", got, ok, want, err)
		}
	})
}

// BenchmarkSign is what a claim, a hello and a receipt cost.
func BenchmarkSign(b *testing.B) {
	k, digest := goldenKey(b), Keccak256([]byte("x"))
	b.ReportAllocs()
	for b.Loop() {
		k.Sign(digest)
	}
}
