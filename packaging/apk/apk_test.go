package apk

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/packaging"
)

func sample() Package {
	return Package{
		Name: "sample-agent", Version: "1.0.0_rc1-r1", Arch: "mipsel_24kc", Depends: []string{"ca-bundle", "libc"},
		License: "Apache-2.0", Maintainer: "Some Body <some@body.example>", Origin: "sample", URL: "https://example.org", Description: "sells air",
		Scripts: map[string]string{"post-install": "#!/bin/sh\nexit 0\n", "pre-deinstall": "#!/bin/sh\n" + strings.Repeat(": long\n", 100)},
		Time:    time.Unix(1_79_000_000, 0),
		Files: packaging.Tree{
			{Path: "etc/config/sample", Mode: 0o600, Data: []byte("config sample\n")},
			{Path: "usr/bin/empty", Mode: 0o755},
			{Path: "usr/bin/sample", Mode: 0o755, Data: bytes.Repeat([]byte("\x7fELF"), 9_000)},
		},
	}
}

func testKey(t testing.TB) Key {
	t.Helper()
	k, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func write(t testing.TB, p Package, keys ...Key) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b, keys...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// plain takes the compression off a file.
func plain(t testing.TB, b []byte) []byte {
	t.Helper()
	rest, ok := bytes.CutPrefix(b, []byte("ADBd"))
	if !ok {
		t.Fatalf("begins with %q", b[:4])
	}
	out, err := io.ReadAll(flate.NewReader(bytes.NewReader(rest)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	key := testKey(t)
	public := key.Public()
	b := write(t, sample(), testKey(t), key)
	for what, file := range map[string][]byte{"compressed": b, "plain": plain(t, b)} {
		got, err := Read(bytes.NewReader(file), &public)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(sample(), got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	if !bytes.Equal(write(t, sample(), key), write(t, sample(), key)) {
		t.Error("the same package was written differently")
	}
	if name := sample().Filename(); name != "sample-agent-1.0.0_rc1-r1.apk" {
		t.Error(name)
	}
}

// TestGolden holds a small package against bytes that were worked out by hand
// from the format: the blocks, and each value of the tree.
func TestGolden(t *testing.T) {
	p := Package{Name: "ab", Version: "1", Arch: "noarch", Time: time.Unix(0x20000001, 0),
		Files: packaging.Tree{{Path: "d/f", Mode: 0o644, Data: []byte("xyz")}}}
	b := plain(t, write(t, p))
	if got := string(b[:8]); got != "ADB.pckg" {
		t.Fatalf("begins with %q", got)
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	size := int(word(8)) // kind 0 is in the upper bits
	db := b[12 : 8+size]
	if db[0] != 0 || db[1] != 0 || binary.LittleEndian.Uint32(db[4:])>>28 != 0xe {
		t.Errorf("the database begins with % x", db[:8])
	}
	// The package's name of 20 bytes comes first, then the info's leaves.
	if got := db[8]; got != 20 {
		t.Errorf("the first blob has %d bytes", got)
	}
	if got := string(db[29:41]); got != "\x02ab\x011\x06noarch" {
		t.Errorf("then comes %q", got)
	}
	// The data block: kind 2, directory 2 of 2 since the root is 1, file 1.
	at := (8 + size + 7) &^ 7
	want := append([]byte{15, 0, 0, 2 << 6, 2, 0, 0, 0, 1, 0, 0, 0}, "xyz\x00"...)
	if !bytes.Equal(b[at:], want) {
		t.Errorf("the data is % x, want % x", b[at:], want)
	}
}

// signedByAPK is the package of TestGolden after apk-tools 3.0.6 (adbsign) took it
// apart, signed it with a key whose public half is below, and compressed it.
const signedByAPK = "QURCZHN0cdIrSM5OF2BkgABGhgciy1zjbryY7rHsrNaDO6denDT/phPJwZSYxGjIlpefWJScAVbGoMALpGUZGBoUgJgDiEHalaA0OtABqmdmYBBgKcrPLwHy" +
	"WYD4LSODQApQPQgzQ9XlMDA8YEyDyC9Bklcw49iz8InfsiOXMl7nblBKUJsx6cAW7bbdH59X5S/MsZnUBFTPBsQdQLU9QDNAdoHsnAPkMwINYALKHQCKg8y9" +
	"ARQD2XOHgeECyN4aIPsJRA+DAZD+AhSPZWBwYGDZeTbmUFNi28wfYm2TJgcX3zdwZVJk2P+Q+1tq8eHnUYa9jKrmzbHSN3iXH6qaUTFvv66eqkL8CyYF9615" +
	"599V8xTvkDDNdBHZtFYh9ll4r/Cyqxv+93Mbb3SRANrDD3QDEyQcGSoqqxgA"

const signedByAPKKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAED/A4C38hLbbblJW6TAdWL2lHkVHa
lgK37VwYO6UjiW37Ia6893AnxXSK18tMrjuaH+Pp7B3YhNh7oMMOnuJ4iw==
-----END PUBLIC KEY-----
`

func TestVector(t *testing.T) {
	b, err := base64.StdEncoding.DecodeString(signedByAPK)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublicKey([]byte(signedByAPKKey))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Read(bytes.NewReader(b), &public)
	if err != nil || p.Name != "ab" || len(p.Files) != 1 || string(p.Files[0].Data) != "xyz" {
		t.Errorf("%v, %v", p, err)
	}
	stranger := testKey(t).Public()
	if _, err := Read(bytes.NewReader(b), &stranger); err == nil {
		t.Error("another's signature passed")
	}
}

func TestWriteRefuses(t *testing.T) {
	for want, change := range map[string]func(*Package){
		`name "a b"`:       func(p *Package) { p.Name = "a b" },
		"version":          func(p *Package) { p.Version = "1.0.0-rc1" },
		"architecture":     func(p *Package) { p.Arch = "../x" },
		"dependency":       func(p *Package) { p.Depends = []string{"libc>=1"} },
		`script "postinst`: func(p *Package) { p.Scripts["postinst"] = "#!/bin/sh\n" },
		"not for /bin/sh":  func(p *Package) { p.Scripts["trigger"] = "exit 0\n" },
		"time":             func(p *Package) { p.Time = time.Time{} },
		"below the root":   func(p *Package) { p.Files[0].Path = "../a" },
	} {
		p := sample()
		change(&p)
		if err := p.Write(io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for _, good := range []string{"1", "1.0.0", "1.0.0-r1", "1.0.0_rc1-r1", "1.0.0_alpha", "1.2b_p3", "0.0.0~0123abcdef-r0", "1.0.0_rc1_p12~0abc-r1"} {
		if err := CheckVersion(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "1.0.0-rc1", "1.0.0~rc1-r1", "1.0.0-1", "v1.0.0", "1..0", "1.0.0-r", "1.0.0 ", "1.0.0_beta-", "1.0.0\n"} {
		if CheckVersion(bad) == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// TestReadRefuses changes each byte of a package in turn: whatever is not
// padding must be noticed, by the signature at the latest.
func TestReadRefuses(t *testing.T) {
	key := testKey(t)
	public := key.Public()
	small := sample()
	small.Files[2].Data = small.Files[2].Data[:100]
	b := plain(t, write(t, small, key))
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 0x10
		if p, err := Read(bytes.NewReader(changed), &public); err == nil && !cmp.Equal(small, p, cmpopts.EquateEmpty()) {
			t.Errorf("byte %d of %d was changed, and made another package", i, len(b))
		}
	}
	for n := range b {
		if _, err := Read(bytes.NewReader(b[:n]), nil); err == nil {
			t.Errorf("the first %d bytes of %d passed", n, len(b))
		}
	}
	if _, err := Read(bytes.NewReader(append(b, b[len(b)-16:]...)), &public); err == nil {
		t.Error("what follows the last file passed")
	}
	if _, err := Read(strings.NewReader("ADBc\x02\x00"), nil); err == nil || !strings.Contains(err.Error(), `"ADBc"`) {
		t.Error(err)
	}
}

func TestSigned(t *testing.T) {
	key, other := testKey(t), testKey(t)
	public := key.Public()
	for what, file := range map[string][]byte{"unsigned": write(t, sample()), "signed by another": write(t, sample(), other)} {
		if _, err := Read(bytes.NewReader(file), &public); err == nil {
			t.Errorf("%s: passed", what)
		} else if _, ok := errors.AsType[SignedError](err); !ok {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := Read(bytes.NewReader(file), nil); err != nil {
			t.Errorf("%s, and nobody asks: %v", what, err)
		}
	}
	// A package's signature is not one of an index with the same block.
	db := sample().database()
	sig, err := key.sign(schemaPackage, db)
	if err != nil {
		t.Fatal(err)
	}
	if err := public.verify(schemaPackage, db, sig); err != nil {
		t.Error(err)
	}
	if public.verify(schemaIndex, db, sig) == nil {
		t.Error("a package's signature passed as an index's")
	}
	text, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	same, err := ParsePublicKey(text)
	if err != nil || same.verify(schemaPackage, db, sig) != nil {
		t.Errorf("the public key read back does not verify: %v", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, key); got != "apk key" {
			t.Errorf("%s shows %s", verb, got)
		}
	}
}

// TestOpenSSLKeys reads keys as their owners make them, and has openssl agree
// about a signature.
func TestOpenSSLKeys(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("openssl is missing: apt-get install openssl")
	}
	dir := t.TempDir()
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
		return out
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	run("ecparam", "-name", "prime256v1", "-genkey", "-out", "old.pem")
	run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "new.pem")
	run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", "wrong.pem")
	if _, err := ParseKey(read("wrong.pem")); err == nil {
		t.Error("a key of P-384 passed")
	}
	for _, name := range []string{"old.pem", "new.pem"} {
		key, err := ParseKey(read(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		run("ec", "-in", name, "-pubout", "-out", "public.pem")
		public, err := ParsePublicKey(read("public.pem"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Read(bytes.NewReader(write(t, sample(), key)), &public); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		db := sample().database()
		sig, err := key.sign(schemaPackage, db)
		if err != nil {
			t.Fatal(err)
		}
		const head = 2 + idSize
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "sig"), sig[head:], 0o600),
			os.WriteFile(filepath.Join(dir, "hash"), signed(schemaPackage, sig[:head], db), 0o600)); err != nil {
			t.Fatal(err)
		}
		run("pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-in", "hash", "-sigfile", "sig")
	}
	for _, bad := range []string{"", "-----BEGIN PUBLIC KEY-----\n", string(read("public.pem"))} {
		if _, err := ParseKey([]byte(bad)); err == nil {
			t.Errorf("%.30q passed", bad)
		}
	}
}

func TestIndex(t *testing.T) {
	key := testKey(t)
	public := key.Public()
	other := sample()
	other.Name, other.Arch, other.Depends = "luci-app-sample", "noarch", nil
	entries := []Entry{EntryOf(sample(), 12345), EntryOf(other, 678)}
	var b bytes.Buffer
	if err := WriteIndex(&b, "a feed", entries, key); err != nil {
		t.Fatal(err)
	}
	description, got, err := ReadIndex(bytes.NewReader(b.Bytes()), &public)
	if err != nil || description != "a feed" {
		t.Fatalf("%q, %v", description, err)
	}
	if diff := cmp.Diff([]Entry{entries[1], entries[0]}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if _, err := Read(bytes.NewReader(b.Bytes()), &public); err == nil {
		t.Error("an index passed as a package")
	}
	if _, _, err := ReadIndex(bytes.NewReader(write(t, sample(), key)), &public); err == nil {
		t.Error("a package passed as an index")
	}
	stranger := testKey(t).Public()
	if _, _, err := ReadIndex(bytes.NewReader(b.Bytes()), &stranger); err == nil {
		t.Error("another's signature passed")
	}
}

func FuzzRead(f *testing.F) {
	small := sample()
	small.Files[2].Data = small.Files[2].Data[:100]
	f.Add(plain(f, write(f, small)))
	f.Add(write(f, small, testKey(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Read(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		again, err := Read(bytes.NewReader(write(t, p)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	var b bytes.Buffer
	if err := WriteIndex(&b, "a feed", []Entry{EntryOf(sample(), 12345)}); err != nil {
		f.Fatal(err)
	}
	f.Add(plain(f, b.Bytes()))
	f.Fuzz(func(t *testing.T, b []byte) {
		description, entries, err := ReadIndex(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		if err := WriteIndex(io.Discard, description, entries); err != nil {
			t.Error(err)
		}
	})
}
