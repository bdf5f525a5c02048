package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newTree is a folder with release.sh and what looks like a build of all, without
// signatures of the feeds, and how to have a release made of it.
func newTree(t *testing.T, key string) (put func(name, text string), dir string, release func() (string, error)) {
	t.Helper()
	dir = t.TempDir()
	put = func(name, text string) { t.Helper(); must(t, write(filepath.Join(dir, name), []byte(text))) }
	read := func(name string, err error) string {
		t.Helper()
		must(t, err)
		b, err := os.ReadFile(name)
		must(t, err)
		return string(b)
	}
	put("scripts/release/release.sh", read("release.sh", nil))
	program := read(os.Executable())
	put("dist/linux_arm64/x402-agent", program)
	put("dist/debian/amd64/x402-relay", program)
	put("dist/debian/x402-agent_1.0_amd64.deb", read(newDeb(t, "1.0", "one"), nil))
	for _, name := range []string{"opkg/mips_24kc/x402-agent_1.0-r1_mips_24kc.ipk", "opkg/mips_24kc/Packages", "apk/mips_24kc/x402-agent-1.0-r1.apk", "apk/mips_24kc/packages.adb"} {
		put("dist/packages/"+name, name)
	}
	// The only thing that the script asks of Go is this program.
	here, err := filepath.Abs(".")
	must(t, err)
	put("go", "#!/bin/sh\ncd "+here+" && exec go build -o "+dir+"/$3 .\n")
	must(t, os.Chmod(filepath.Join(dir, "go"), 0o755))
	return put, dir, func() (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "scripts/release/release.sh"), "v1.0")
		cmd.Env = append(os.Environ(), "GO="+filepath.Join(dir, "go"), "SIGNING_KEY="+key+".key", "SOURCE_DATE_EPOCH=1790000000")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// TestTree makes a release: it is signed as a whole, tells every program and
// package, and is the same the second time.
func TestTree(t *testing.T) {
	need(t, "sh", "dpkg-deb")
	key := newKey(t)
	put, dir, release := newTree(t, key)
	if out, err := release(); err == nil || !strings.Contains(out, "the feeds are not signed") {
		t.Errorf("feeds without signatures in a signed release: %v %s", err, out)
	}
	put("dist/packages/opkg/mips_24kc/Packages.sig", "signature")
	put("dist/packages/apk/x402.pem", "key")
	var first []byte
	for range 2 {
		if out, err := release(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		list, err := os.ReadFile(filepath.Join(dir, "dist/release", sumsName))
		must(t, err)
		if first != nil && !bytes.Equal(list, first) {
			t.Errorf("the second time\n%s\nthe first time\n%s", list, first)
		}
		first = list
	}
	must(t, verify(options{keyring: key + ".pgp", out: io.Discard}, []string{filepath.Join(dir, "dist/release", sumsName)}))
	text, err := os.ReadFile(filepath.Join(dir, "dist/release/x402.cdx.json"))
	must(t, err)
	var doc bom
	must(t, json.Unmarshal(text, &doc))
	told := map[string]bool{}
	for _, c := range doc.Metadata.Component.Components {
		told[c.Name] = true
	}
	for name, both := range map[string]bool{
		"x402-agent_router_linux_arm64": true, "x402-relay_debian_amd64": true, "x402-agent_1.0_amd64.deb": true,
		"openwrt/opkg/mips_24kc/x402-agent_1.0-r1_mips_24kc.ipk": true, "openwrt/apk/mips_24kc/x402-agent-1.0-r1.apk": true,
		"openwrt/apk/mips_24kc/packages.adb": false, "openwrt/opkg/mips_24kc/Packages": false, "NOTICE": false, "x402.cdx.json": false,
	} {
		if told[name] != both || !strings.Contains(string(first), "  "+name+"\n") {
			t.Errorf("%s is missing in\n%s\nor\n%s", name, text, first)
		}
	}
}
