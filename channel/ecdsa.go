package channel

import (
	"slices"
	"sync"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// ECDSA on secp256k1 by the library's numbers and points, with multiples of the
// base point by a table of 122 kB that is computed at first use. The library's
// own is 0.7 MB of the program, packed, and 1 MB of memory; router builds leave
// it out (scripts/cross.sh). Nothing here runs in constant time, as nothing of
// the library does. Signatures are the library's bit for bit: FuzzECDSA.

// The table is a comb (Lim and Lee, 1994): a scalar's 32 bytes are four blocks of
// eight teeth, and each of eight steps takes one bit of every tooth.
const (
	combBlocks = 4
	combTeeth  = 8
	combSteps  = 8
)

// A combTable has for each block the sums of its teeth's lowest powers of two
// times the base point: the bits of an index say which. The first is infinity.
type combTable [combBlocks][1 << combTeeth]secp256k1.JacobianPoint

var comb = sync.OnceValue(newComb)

func newComb() *combTable {
	params := secp256k1.Params()
	var power secp256k1.JacobianPoint
	power.X.SetByteSlice(params.Gx.Bytes())
	power.Y.SetByteSlice(params.Gy.Bytes())
	power.Z.SetInt(1)
	t := new(combTable)
	for block := range t {
		for tooth := range combTeeth {
			bit := 1 << tooth
			t[block][bit] = power
			for i := 1; i < bit; i++ {
				sum := &t[block][bit|i]
				secp256k1.AddNonConst(&power, &t[block][i], sum)
				sum.ToAffine() // makes adding it cheaper
			}
			for range combSteps {
				secp256k1.DoubleNonConst(&power, &power)
			}
			power.ToAffine()
		}
	}
	return t
}

// baseMult returns k times the base point, normalized.
func baseMult(k *secp256k1.ModNScalar) (p secp256k1.JacobianPoint) {
	table, teeth := comb(), k.Bytes()
	slices.Reverse(teeth[:]) // the lowest first
	for step := combSteps - 1; step >= 0; step-- {
		secp256k1.DoubleNonConst(&p, &p)
		for block := range table {
			var bits byte
			for i, tooth := range teeth[block*combTeeth:][:combTeeth] {
				bits |= tooth >> step & 1 << i
			}
			secp256k1.AddNonConst(&p, &table[block][bits], &p)
		}
	}
	return p
}

// sign signs by a nonce (SEC 1, 4.1.3), with the lower s. It has no signature
// for a few nonces in 2^127.
func sign(secret, nonce *secp256k1.ModNScalar, digest Hash) (sig Signature, ok bool) {
	p := baseMult(nonce)
	p.ToAffine()
	var r, e, s secp256k1.ModNScalar
	if overflow := r.SetBytes(p.X.Bytes()); overflow != 0 || r.IsZero() {
		return sig, false
	}
	e.SetByteSlice(digest[:])
	s.Mul2(secret, &r).Add(&e).Mul(new(secp256k1.ModNScalar).InverseValNonConst(nonce))
	if s.IsZero() {
		return sig, false
	}
	odd := p.Y.IsOdd()
	if s.IsOverHalfOrder() {
		s.Negate()
		odd = !odd
	}
	r.PutBytesUnchecked(sig[:32])
	s.PutBytesUnchecked(sig[32:64])
	sig[64] = 27
	if odd {
		sig[64] = 28
	}
	return sig, true
}

// recoverPoint returns the public key that signed digest (SEC 1, 4.1.6), affine;
// v is 27 or 28.
func recoverPoint(digest Hash, sig Signature) (q secp256k1.JacobianPoint, ok bool) {
	var r, s, e, u secp256k1.ModNScalar
	if r.SetByteSlice(sig[:32]) || s.SetByteSlice(sig[32:64]) || r.IsZero() || s.IsZero() {
		return q, false
	}
	var p secp256k1.JacobianPoint
	p.X.SetByteSlice(sig[:32]) // below the order, which is below the field's prime
	if !secp256k1.DecompressY(&p.X, sig[64] == 28, &p.Y) {
		return q, false
	}
	p.Z.SetInt(1)
	r.InverseNonConst()
	e.SetByteSlice(digest[:])
	base := baseMult(u.Mul2(&e, &r).Negate())
	secp256k1.ScalarMultNonConst(s.Mul(&r), &p, &q)
	secp256k1.AddNonConst(&base, &q, &q)
	if q.Z.IsZero() { // infinity
		return q, false
	}
	q.ToAffine()
	return q, true
}
