package channel

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

func TestKeyRoundTrip(t *testing.T) {
	k, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKey(k.Bytes())
	if err != nil || again.Address() != k.Address() || !bytes.Equal(again.Bytes(), k.Bytes()) {
		t.Errorf("ParseKey of Bytes: %v", err)
	}
	digest := Keccak256([]byte("x"))
	if k.Sign(digest) != again.Sign(digest) {
		t.Error("signatures are not deterministic")
	}
	for i := range 200 {
		digest = Keccak256(digest[:], []byte{byte(i)})
		sig := k.Sign(digest)
		if a, err := Recover(digest, sig); err != nil || a != k.Address() {
			t.Fatalf("Recover of %s = %s, %v", sig, a, err)
		}
	}
	if k.Derive("a") != again.Derive("a") || k.Derive("a") == k.Derive("b") {
		t.Error("Derive")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	order, _ := hex.DecodeString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
	for _, b := range [][]byte{nil, make([]byte, 31), make([]byte, 33), make([]byte, 32), order, bytes.Repeat([]byte{0xff}, 32)} {
		if _, err := ParseKey(b); err == nil {
			t.Errorf("ParseKey(%x) succeeded", b)
		}
	}
	order[31]--
	if _, err := ParseKey(order); err != nil {
		t.Errorf("order-1: %v", err)
	}
}

func TestRecoverRefuses(t *testing.T) {
	k := goldenKey(t)
	digest := Keccak256([]byte("x"))
	good := k.Sign(digest)
	change := func(f func(*Signature)) Signature {
		s := good
		f(&s)
		return s
	}
	order, _ := hex.DecodeString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141")
	var s secp256k1.ModNScalar
	s.SetByteSlice(good[32:64])
	upper := s.Negate().Bytes()
	for name, sig := range map[string]Signature{
		"v 0":      change(func(s *Signature) { s[64] = 0 }),
		"v 1":      change(func(s *Signature) { s[64] = 1 }),
		"v 26":     change(func(s *Signature) { s[64] = 26 }),
		"v 29":     change(func(s *Signature) { s[64] = 29 }),
		"v 31":     change(func(s *Signature) { s[64] += 4 }),
		"r zero":   change(func(s *Signature) { clear(s[:32]) }),
		"s zero":   change(func(s *Signature) { clear(s[32:64]) }),
		"r order":  change(func(s *Signature) { copy(s[:32], order) }),
		"s order":  change(func(s *Signature) { copy(s[32:64], order) }),
		"upper s":  change(func(s *Signature) { copy(s[32:64], upper[:]); s[64] ^= 7 }),
		"all zero": {},
		"all ones": Signature(bytes.Repeat([]byte{0xff}, 65)),
	} {
		if a, err := Recover(digest, sig); !errors.Is(err, ErrSignature) || !a.IsZero() {
			t.Errorf("%s: %s, %v", name, a, err)
		}
	}
	if a, err := Recover(Keccak256([]byte("y")), good); err == nil && a == k.Address() {
		t.Error("a signature fits another digest")
	}
}

func TestKeyIsRedacted(t *testing.T) {
	k := goldenKey(t)
	type owner struct {
		Name   string
		Key    *Key
		hidden *Key
		value  Key
	}
	o := owner{"x", k, k, *k}
	var out strings.Builder
	for _, v := range []any{k, *k, o, &o, []*Key{k}, []Key{*k}, map[string]*Key{"k": k}, any(k)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%t", "%08.3f"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "key", v)
	}
	fmt.Fprint(&out, fmt.Errorf("wrapped %v", k))
	text := strings.ToLower(out.String())
	if !strings.Contains(text, redactedKey) {
		t.Error("nothing says that it is a key")
	}
	// The secret in hexadecimal, decimal bytes and the library's words.
	secret := k.Bytes()
	words := fmt.Sprint(k.secret.Key)
	for _, leak := range []string{goldenKeyHex[:16], goldenKeyHex[48:], fmt.Sprintf("%d %d %d", secret[0], secret[1], secret[2]),
		strings.Trim(words, "{}[]"), string(secret[:8])} {
		if strings.Contains(text, strings.ToLower(leak)) {
			t.Errorf("%q leaks in\n%s", leak, text)
		}
	}
}

func BenchmarkRecoverVoucher(b *testing.B) {
	d, k := goldenDomain(), goldenKey(b)
	id := d.ID(goldenConfig(b))
	v := d.SignVoucher(k, id, 100)
	b.ReportAllocs()
	for b.Loop() {
		a, err := Recover(d.VoucherDigest(v.Channel, v.Max), v.Signature)
		if err != nil || a != k.Address() {
			b.Fatal(a, err)
		}
	}
}
