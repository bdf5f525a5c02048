package directory

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/tunnel/relay/server"
)

// TestKey: the relay's key is made once, for its owner alone, and its name
// does not change.
func TestKey(t *testing.T) {
	c := Config{Listen: netip.MustParseAddrPort("192.0.2.1:4433"), Host: "192.0.2.1", KeyFile: filepath.Join(t.TempDir(), "new", "key")}
	id, name, err := c.identity()
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Name()
	pin, perr := server.Pin(id.Certificate)
	if err != nil || perr != nil || again != name || !name.Pinned || name.Pin != pin || name.Address() != "192.0.2.1:4433" {
		t.Errorf("%s, then %s, %v, %v", name, again, err, perr)
	}
	if info, err := os.Stat(c.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, text := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(c.KeyFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.identity(); err == nil {
			t.Errorf("a key of %q", text)
		}
		if b, err := os.ReadFile(c.KeyFile); err != nil || string(b) != text {
			t.Errorf("%q was replaced by %q, %v", text, b, err)
		}
	}
}

// TestRenewal: a certificate that was replaced in its files is shown within a
// minute, and one that is half written is not.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := &renewal{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
		if _, err := r.current(nil); err == nil {
			t.Error("no files, no error")
		}
		time.Sleep(lookEvery)
		put := func(n int) tls.Certificate {
			c, err := makeKey(r.key)
			if err != nil {
				t.Fatal(err)
			}
			b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
			if err := os.WriteFile(r.cert, b, 0o600); err != nil {
				t.Fatal(err)
			}
			at := time.Unix(int64(n), 0)
			if err := os.Chtimes(r.cert, at, at); err != nil {
				t.Fatal(err)
			}
			return c
		}
		shown := func() *x509.Certificate {
			c, err := r.current(nil)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(c.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			return leaf
		}
		first := put(1)
		if !cmp.Equal(shown().Raw, first.Certificate[0]) {
			t.Error("not the first")
		}
		second := put(2)
		if !cmp.Equal(shown().Raw, first.Certificate[0]) {
			t.Error("looked at the files at every handshake")
		}
		time.Sleep(lookEvery)
		if !cmp.Equal(shown().Raw, second.Certificate[0]) {
			t.Error("not the second")
		}
		put(3)
		if err := os.WriteFile(r.cert, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		if !cmp.Equal(shown().Raw, second.Certificate[0]) {
			t.Error("a broken file took the certificate away")
		}
	})
}
