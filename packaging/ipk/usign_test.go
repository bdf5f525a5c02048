package ipk

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

func testKey(t testing.TB, fill byte) Key {
	t.Helper()
	k, err := NewKey(bytes.Repeat([]byte{fill}, 32), [8]byte{fill, 2, 3, 4, 5, 6, 7, 8})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestUsign(t *testing.T) {
	key, other := testKey(t, 1), testKey(t, 2)
	message := []byte("Package: sample\n")
	signature := key.Sign(message)
	secret, err := key.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	same, err := ParseKey(secret)
	if err != nil || !bytes.Equal(same.Sign(message), signature) {
		t.Fatalf("the key read back signs differently: %v", err)
	}
	text, err := key.Public().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublicKey(text)
	if err != nil || public.ID() != "0102030405060708" {
		t.Fatalf("%v, %v", public, err)
	}
	if err := public.Verify(message, signature); err != nil {
		t.Error(err)
	}
	forged := other
	forged.id = key.id
	for what, err := range map[string]error{
		"another message":        public.Verify([]byte("Package: simple\n"), signature),
		"another key":            public.Verify(message, other.Sign(message)),
		"another key's name":     public.Verify(message, forged.Sign(message)),
		"nothing":                public.Verify(message, nil),
		"a cut one":              public.Verify(message, signature[:len(signature)-5]),
		"one without a comment":  public.Verify(message, signature[len(usignComment):]),
		"with a different start": public.Verify(message, bytes.Replace(signature, []byte("\nRW"), []byte("\nRX"), 1)),
	} {
		if err == nil {
			t.Errorf("%s was verified", what)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, key); got != "usign key 0102030405060708" {
			t.Errorf("%s shows %s", verb, got)
		}
	}
}

// TestUsignVector verifies what usign made.
func TestUsignVector(t *testing.T) {
	public, err := ParsePublicKey([]byte(`untrusted comment: public key fd0840b4b87ae399
RWT9CEC0uHrjmV522HPB2PjTgX13hQNeuYggVaMQFdyNdIDdGo6mvN3q
`))
	if err != nil {
		t.Fatal(err)
	}
	signature := []byte(`untrusted comment: signed by key fd0840b4b87ae399
RWT9CEC0uHrjmXyHDg8zg8QTdTzQclK60Be++iBJZnQWA6jgdsUQmEUF7qMd7vKdFR2Ur+F0VsCIRR6/CMCMo32msXtVLtS1WQc=
`)
	if err := public.Verify([]byte("Package: sample\n"), signature); err != nil || public.ID() != "fd0840b4b87ae399" {
		t.Errorf("%v, by %s", err, public.ID())
	}
	if public.Verify([]byte("Package: simple\n"), signature) == nil {
		t.Error("another message was verified")
	}
}

// TestUsignShape holds a secret key against the layout that usign writes.
func TestUsignShape(t *testing.T) {
	secret, _ := testKey(t, 1).MarshalText() // it has no errors
	b, err := base64.StdEncoding.DecodeString(strings.Split(string(secret), "\n")[1])
	if err != nil || len(b) != 104 || string(b[:4]) != "EdBK" {
		t.Fatalf("%d bytes, %q: %v", len(b), b[:4], err)
	}
	for want, change := range map[string]func(b []byte){
		"password":   func(b []byte) { b[7] = 1 },
		"damaged":    func(b []byte) { b[103]++ },
		"begin with": func(b []byte) { b[0] = 'X' },
	} {
		c := bytes.Clone(b)
		change(c)
		if _, err := ParseKey(formatUsign("", c)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := NewKey(b[:31], [8]byte{}); err == nil {
		t.Error("a short seed passed")
	}
}
