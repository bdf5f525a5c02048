package directory

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/tunnel/relay/server"
)

// TestShippedConfig reads the file that is shipped: as it is, and with every
// default in it set, which must change nothing.
func TestShippedConfig(t *testing.T) {
	b, err := os.ReadFile("../../packaging/relay.toml")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := parseConfig("/etc/x402/relay.toml", string(b))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Listen: netip.MustParseAddrPort("[::]:4433"), Public: []netip.Addr{netip.MustParseAddr("203.0.113.7")},
		KeyFile: "/etc/x402/relay.key", Drain: 10 * time.Second,
	}
	compare := []cmp.Option{cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}), cmpopts.IgnoreFields(Config{}, "Logger", "Ready")}
	if diff := cmp.Diff(want, plain.Config, compare...); diff != "" {
		t.Error(diff)
	}
	set := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(string(b), "$1")
	full, err := parseConfig("/etc/x402/relay.toml", set)
	if err != nil {
		t.Fatal(err)
	}
	want = full.Config
	if want.Host != "relay.example.org" || want.CertFile != "/etc/x402/fullchain.pem" || want.Metrics != "127.0.0.1:9402" ||
		want.Ports != (server.Ports{First: 40000, Last: 49999}) || want.Limits.Hellos != (server.Rate{N: 300, Per: time.Minute}) {
		t.Errorf("%+v", want)
	}
	if n := (server.Limits{}).Files(); want.Limits.Files() != n {
		t.Errorf("the file's limits need %d files, the defaults %d", want.Limits.Files(), n)
	}
	if full.Level != slog.LevelInfo || full.JSON {
		t.Errorf("%+v", full)
	}
}

func TestBadConfigs(t *testing.T) {
	const base = "listen = \"192.0.2.1:4433\"\n"
	if _, err := parseConfig("relay.toml", base); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"listen = \"4433\"":       "listen: ",
		"listen = \":99999\"":     "listen: ",
		"listen = \":4433\"":      "public: missing",
		"Listen2 = 1":             "Listen2: there is no such key",
		"[limits]\nagent = 1":     "limits.agent: there is no such key",
		"listen = 5":              "incompatible types",
		"listen = ":               "line 1: ",
		base + "public = [\"x\"]": "public: \"x\"",
		base + "public = [\"192.0.2.1\", \"192.0.2.2\"]": "one address of IPv4",
		base + "public = [\"0.0.0.0\"]":                  "public: ",
		base + "host = \"a b\"":                          "host: ",
		base + "host = \"relay:1\"":                      "host: ",
		base + "cert_file = \"c.pem\"":                   "host: missing",
		base + "key_file = \"\"":                         "key_file: ",
		base + "session_ports = \"1-99999\"":             "session_ports: ",
		base + "session_ports = \"7\"":                   "session_ports: ",
		base + "drain = \"-1s\"":                         "drain: ",
		base + "metrics = \"9402\"":                      "metrics: ",
		base + "[log]\nlevel = \"loud\"":                 "log.level: ",
		base + "[log]\nformat = \"xml\"":                 "log.format: ",
		base + "[limits]\nsessions = -1":                 "limits.sessions: ",
		base + "[limits]\nsessions = 99999999":           "limits.sessions: ",
		base + "[limits]\nhellos = \"0/1s\"":             "limits.hellos: ",
		base + "[limits]\nhellos = \"5/1ms\"":            "limits.hellos: ",
		base + "[limits]\nsource_gb_per_day = -5":        "limits.source_gb_per_day: ",
	} {
		_, err := parseConfig("relay.toml", text)
		e, ok := errors.AsType[*ConfigError](err)
		if !ok || !strings.Contains(strings.Join(e.Problems, "\n"), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("listen = \"192.0.2.1:4433\"\n[limits]\nrequests = \"5/1s\"\n")
	f.Add("session_ports = \"1-2\"")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConfig("relay.toml", text)
		if err != nil {
			if _, ok := errors.AsType[*ConfigError](err); !ok {
				t.Error(err)
			}
			return
		}
		if len(c.Config.Public) == 0 && c.Config.Listen.Addr().IsUnspecified() || c.Config.KeyFile == "" {
			t.Errorf("%+v", c.Config)
		}
	})
}

// TestKey: the relay's key is made once, for its owner alone, and its name
// does not change.
func TestKey(t *testing.T) {
	c := Config{Listen: netip.MustParseAddrPort("192.0.2.1:4433"), KeyFile: filepath.Join(t.TempDir(), "relay.key")}
	if _, err := c.Name(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
	cert, _, err := c.certificate(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	name, err := c.Name()
	pin, perr := server.Pin(cert)
	if err != nil || perr != nil || !name.Pinned || name.Pin != pin || name.Address() != "192.0.2.1:4433" {
		t.Errorf("%s, %v, %v", name, err, perr)
	}
	if info, err := os.Stat(c.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, text := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(c.KeyFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.certificate(ownKey); err == nil {
			t.Errorf("a key of %q", text)
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
