package main

import (
	"errors"
	"os"
	"strings"
	"testing"
)

const listed = `
{"ImportPath": "vendor/golang.org/x/crypto/chacha20"}
{"ImportPath": "go.etcd.io/bbolt/internal", "Imports": ["unsafe"]}
{"ImportPath": "go.etcd.io/bbolt", "Imports": ["go.etcd.io/bbolt/internal"]}
{"ImportPath": "x/web", "EmbedFiles": ["index.html"]}
{"ImportPath": "x/store", "Imports": ["go.etcd.io/bbolt", "golang.org/x/crypto/chacha20"], "ImportMap": {"golang.org/x/crypto/chacha20": "vendor/golang.org/x/crypto/chacha20"}}
{"ImportPath": "x/cmd", "Imports": ["x/store", "x/web"]}
`

func TestDenied(t *testing.T) {
	g, err := readGraph(strings.NewReader(listed))
	if err != nil {
		t.Fatal(err)
	}
	got := errors.Join(g.denied(parseDenied("# nothing\ngo.etcd.io/bbolt # why\ngo.etcd.io/bb\nvendor/golang.org/x/crypto\nx/absent\n"))...).Error()
	want := "denied: x/cmd → x/store → go.etcd.io/bbolt\n" +
		"denied: x/cmd → x/store → vendor/golang.org/x/crypto/chacha20\n" +
		"embeds a web page: x/cmd → x/web"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReadGraphNothing(t *testing.T) {
	for _, text := range []string{"", "{", "[]"} {
		if _, err := readGraph(strings.NewReader(text)); err == nil {
			t.Errorf("readGraph(%q) found a graph", text)
		}
	}
}

func TestDenyFile(t *testing.T) {
	text, err := os.ReadFile("deny.txt")
	if err != nil {
		t.Fatal(err)
	}
	if denied := parseDenied(string(text)); len(denied) < 10 {
		t.Errorf("deny.txt lists only %q", denied)
	}
}

func TestOverBudget(t *testing.T) {
	tests := map[string]struct {
		sizes []size
		want  string
	}{
		"inside":       {[]size{{budgetTarget, budgetRaw, budgetXZ}, {"linux_arm64", 2 * budgetRaw, 0}}, ""},
		"raw":          {[]size{{budgetTarget, budgetRaw + 1, 1}}, "linux_mipsle_softfloat is 11000001 bytes, budget 11000000"},
		"compressed":   {[]size{{budgetTarget, 1, budgetXZ + 1}}, "linux_mipsle_softfloat is 3200001 bytes as xz, budget 3200000"},
		"not measured": {nil, "linux_mipsle_softfloat was not measured"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := overBudget(test.sizes); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestMegabytes(t *testing.T) {
	for n, want := range map[int64]string{0: "-", 1: "0.01", 10_000: "0.01", 11_000_000: "11.00", 11_000_001: "11.01"} {
		if got := megabytes(n); got != want {
			t.Errorf("megabytes(%d) = %s, want %s", n, got, want)
		}
	}
}
