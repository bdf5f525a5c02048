package carrier

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadKinds(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, packed bool) string {
		b := []byte(text)
		if packed {
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			b = z.Bytes()
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tsv := write("ip2asn.tsv.gz", "1.0.0.0\t1.0.0.255\t64500\tAU\tEXAMPLE-AS Example, Inc.\n1.0.1.0\t1.0.3.255\t0\tNone\tNot routed\n", true)
	csv := write("asn-ipv4.csv", "# by hand\n2.0.0.0,2.0.0.255,64501,\"Two, Inc.\"\r\n2.0.1.0,2.0.1.255,64502,Three \"B\" Ltd\n", false)
	six := write("asn-ipv6.csv", "2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,64501,\"Two, Inc.\"\n2001:db8:1::,2001:db8:1::ffff,64503,Fine\n2001:db8:1::1:0,2001:db8:1::1:ffff,64504,Finer\n", false)
	where := write("asn-country.csv", "2.0.0.0,2.0.0.255,NZ\n1.0.0.0,1.0.0.127,FJ\n2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,NZ\n2.0.1.0,2.0.1.255,ZZZ\n", false)
	n, err := Read(tsv, csv, six, where)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"1.0.0.0": "AS64500 EXAMPLE-AS Example, Inc. FJ", "1.0.0.128": "AS64500 EXAMPLE-AS Example, Inc. AU", "1.0.0.255": "AS64500 EXAMPLE-AS Example, Inc. AU",
		"1.0.2.0": "", "0.255.255.255": "", "2.0.0.255": "AS64501 Two, Inc. NZ", "2.0.1.0": `AS64502 Three "B" Ltd `, "255.255.255.255": "",
		"2001:db8::1": "AS64501 Two, Inc. NZ", "2001:db8:1::1": "", "2001:db7::": "", "::": "", "ffff::": "",
	} {
		got := ""
		if found, ok := n.Of(netip.MustParseAddr(at)); ok {
			got = found.String() + " " + found.Country
		}
		if got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
}

func TestReadWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "no range of addresses",
		"1.0.0.0,1.0.0.9,DE\n": "no range of addresses with the number",
		"1.0.0.0\t1.0.0.9\t0\tNone\tNot routed\n": "no range of addresses",
		"hello\n":                        "line 1: want the first",
		"1.0.0.0,1.0.0.9,1,a,b,c\n":      "line 1: want the first",
		"a,b,1,c\n":                      "line 1: want the first",
		"1.0.0.0,x,1,c\n":                "line 1: \"1.0.0.0\" to \"x\" is no range",
		"1.0.0.9,1.0.0.0,1,c\n":          "is no range",
		"1.0.0.0,::1,1,c\n":              "is no range",
		"fe80::%a,fe80::%b,1,c\n":        "is no range",
		"1.0.0.0,1.0.0.9,AS1,c\n":        "\"AS1\" is not the number of an AS",
		"1.0.0.0,1.0.0.9,4294967296,c\n": "is not the number",
		"1.0.0.0\t1.0.0.9\t1\t" + strings.Repeat("x", 17) + "\tn\n": "is no country",
		"1.0.0.0,1.0.0.9,1,c\n" + strings.Repeat("x", maxLine+1):    "line 2: ",
		"\x1f\x8bnot gzip": "gzip",
	} {
		path := filepath.Join(t.TempDir(), "n")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was read")
	}
	if n := nameOf("a\x1b[2J\u202eb\u200f\x7f\xff" + strings.Repeat("é", 60)); strings.ContainsAny(n, "\x1b\u202e\u200f\x7f") || len(n) > maxName || !utf8.ValidString(n) {
		t.Errorf("%q", n)
	}
}

// TestOverlap compares with a plain table of a small space: an address that
// lines disagree about is nobody's.
func TestOverlap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var of ranges
		plain := make([]map[uint32]bool, 64)
		for range 1 + r.IntN(8) {
			first := r.IntN(64)
			last := first + r.IntN(64-first)
			what := uint32(r.IntN(3))
			of.add(uint64(first), uint64(last), what)
			for i := first; i <= last; i++ {
				if plain[i] == nil {
					plain[i] = map[uint32]bool{}
				}
				plain[i][what] = true
			}
		}
		of.arrange()
		for i, all := range plain {
			what, ok := of.find(uint64(i))
			if ok != (len(all) == 1) || ok && !all[what] {
				t.Fatalf("%d: %d %v, want %v; %+v", i, what, ok, all, of)
			}
		}
	}
	var whole ranges
	whole.add(0, ^uint64(0), 1)
	whole.add(5, ^uint64(0), 2)
	whole.add(0, 3, 1)
	whole.arrange()
	for key, want := range map[uint64]bool{0: true, 4: true, 5: false, ^uint64(0): false} {
		if _, ok := whole.find(key); ok != want {
			t.Errorf("%d: %v", key, ok)
		}
	}
}

// TestSize: a routing table of half a million ranges and 90,000 networks takes
// no more than 40 MB.
func TestSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ip2asn-v4.tsv")
	var b bytes.Buffer
	at := uint32(1 << 24)
	for i := range 500_000 {
		first := at
		at += 256 + uint32(i%5)*256
		fmt.Fprintf(&b, "%s\t%s\t%d\tDE\tEXAMPLE-%d Example Networks %d GmbH\n", dotted(first), dotted(at-1), 1+i%90_000, i%90_000, i%90_000)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	b = bytes.Buffer{}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	n, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if took := heap() - before; took > 40_000_000 {
		t.Errorf("%d bytes", took)
	}
	if n.Len() != 500_000 || len(n.known) != 90_000 {
		t.Errorf("%d ranges of %d networks", n.Len(), len(n.known))
	}
	runtime.KeepAlive(n)
}

func dotted(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// FuzzLines: whatever a file says, reading it ends with an error that has a
// line or with ranges in order.
func FuzzLines(f *testing.F) {
	f.Add([]byte("1.0.0.0\t1.0.0.255\t64500\tAU\tEXAMPLE\n1.0.0.128\t1.0.1.9\t64501\tAU\tB\n"))
	f.Add([]byte("2001:db8::,2001:db8::ff,64501,\"Two, \"\"Inc.\"\"\"\n::,ffff::,7,x\n1.0.0.0,1.0.0.1,DE\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := reader{networks: make(map[Network]uint32), countries: make(map[string]uint32)}
		if err := r.lines(bytes.NewReader(in)); err != nil {
			if !strings.Contains(err.Error(), "line ") {
				t.Error(err)
			}
			return
		}
		for _, each := range []*ranges{&r.out.four, &r.out.six, &r.out.whereFour, &r.out.whereSix} {
			each.arrange()
			for i := range each.Len() {
				if each.first[i] > each.last[i] || i > 0 && each.first[i] <= each.last[i-1] {
					t.Fatalf("%+v", each)
				}
			}
		}
		for _, n := range r.out.known {
			if len(n.Name) > maxName || len(n.Country) != 0 && len(n.Country) != 2 {
				t.Errorf("%+v", n)
			}
		}
		r.out.Of(netip.MustParseAddr("1.0.0.1"))
	})
}
