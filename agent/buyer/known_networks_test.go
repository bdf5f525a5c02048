package buyer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/tunnel/relay"
)

func TestKnownNetworks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "networks")
	k, err := LoadNetworks(path)
	if err != nil || k.Transport("192.0.2.0/24") != "" {
		t.Fatalf("%q, %v", k.Transport("192.0.2.0/24"), err)
	}
	for i := range maxNetworks + 5 {
		if err := k.Remember(fmt.Sprintf("10.0.%d.0/24", i), TLS); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Remember("10.0.7.0/24", QUIC); err != nil { // the newest by now
		t.Fatal(err)
	}
	again, err := LoadNetworks(path)
	if err != nil {
		t.Fatal(err)
	}
	for network, want := range map[string]string{"10.0.4.0/24": "", "10.0.5.0/24": TLS, "10.0.7.0/24": QUIC, "10.0.68.0/24": TLS} {
		for _, x := range []*KnownNetworks{k, again} {
			if got := x.Transport(network); got != want {
				t.Errorf("%s: %q, want %q", network, got, want)
			}
		}
	}
	b, err := os.ReadFile(path)
	if n := strings.Count(string(b), "\n"); err != nil || n != maxNetworks || !strings.HasSuffix(string(b), "\n10.0.7.0/24 quic\n") {
		t.Errorf("%d lines, %v:\n%s", n, err, b)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestBrokenNetworks forgets a file that makes no sense, and writes a new one.
func TestBrokenNetworks(t *testing.T) {
	for _, text := range []string{
		"192.0.2.0/24", "192.0.2.1/24 tls", "192.0.2.0/24 kcp", "host tls", "\x00", "192.0.2.0/24 tls\nx", strings.Repeat("\n", 3) + "x y",
		strings.Repeat("192.0.2.0/24 tls\n", maxNetworksFile/16), strings.Repeat("x", maxKnown+1),
	} {
		path := filepath.Join(t.TempDir(), "networks")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := LoadNetworks(path)
		if err == nil || !strings.HasPrefix(err.Error(), path+": ") || k.Transport("192.0.2.0/24") != "" {
			t.Errorf("%.20q: %q, %v", text, k.Transport("192.0.2.0/24"), err)
		}
		if err := k.Remember("2001:db8::/64", QUIC); err != nil {
			t.Fatal(err)
		}
		if k, err = LoadNetworks(path); err != nil || k.Transport("2001:db8::/64") != QUIC {
			t.Errorf("%.20q: not replaced: %v", text, err)
		}
	}
}

func FuzzParseNetworks(f *testing.F) {
	f.Add("192.0.2.0/24 tls\n2001:db8::/64 quic")
	f.Add("\n\n 10.0.0.0/8\tquic ")
	f.Add("192.0.2.1/24 tls")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseNetworks(text)
		if err != nil {
			return
		}
		if len(all) > maxNetworks {
			t.Fatalf("%d networks", len(all))
		}
		var lines []string
		for _, n := range all {
			lines = append(lines, n.prefix+" "+n.transport)
		}
		again, err := parseNetworks(strings.Join(lines, "\n"))
		if err != nil || len(again) != len(all) {
			t.Fatalf("%v reads back as %v, %v", all, again, err)
		}
		for i := range all {
			if all[i] != again[i] {
				t.Errorf("%v reads back as %v", all[i], again[i])
			}
		}
	})
}

func TestKnownRelays(t *testing.T) {
	k := KnownRelays{Path: filepath.Join(t.TempDir(), "new", "relays")}
	pin := func(digit string) string { return "192.0.2.1:443#" + strings.Repeat(digit, 64) }
	name := func(text string) relay.Name {
		n, err := relay.ParseName(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if known, err := k.Remove(name("a.example:1")); known || err != nil {
		t.Errorf("%t, %v", known, err)
	}
	for _, text := range []string{pin("0"), "A.example:1", pin("1"), "a.example:2"} {
		if err := k.Add(name(text)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(k.Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "\n# by hand\n  b.example:3  ")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if known, err := k.Remove(name("a.example:2")); !known || err != nil {
		t.Errorf("%t, %v", known, err)
	}
	all, err := k.All()
	if diff := cmp.Diff([]relay.Name{name("a.example:1"), name(pin("1")), name("b.example:3")}, all); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	b, err := os.ReadFile(k.Path)
	if want := "a.example:1\n" + pin("1") + "\n\n# by hand\n  b.example:3  \n"; string(b) != want || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.WriteFile(k.Path, []byte("#\nnowhere"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.All(); err == nil || !strings.Contains(err.Error(), "relays:2: relay \"nowhere\"") {
		t.Errorf("got %v", err)
	}
}
