package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

var when = time.Unix(1_790_000_000, 0).UTC()

func need(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newKey makes a key and returns its name.
func newKey(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "test")
	must(t, makeKeys(options{when: when, out: io.Discard}, []string{name}))
	return name
}

// newDeb has dpkg-deb build a small package.
func newDeb(t *testing.T, version, text string) string {
	t.Helper()
	need(t, "dpkg-deb")
	dir := t.TempDir()
	must(t, write(filepath.Join(dir, "DEBIAN/control"), []byte("Package: x402-agent\nVersion: "+version+
		"\nArchitecture: amd64\nMaintainer: X <x@x.example>\nDescription: short\n and long\n")))
	must(t, write(filepath.Join(dir, "usr/share/x"), []byte(text)))
	must(t, os.Chmod(dir, 0o755))
	file := filepath.Join(t.TempDir(), "x.deb")
	command(t, "dpkg-deb", "--root-owner-group", "-Zgzip", "-b", dir, file)
	return file
}

func TestKeys(t *testing.T) {
	name := newKey(t)
	if info, err := os.Stat(name + ".key"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := makeKeys(options{when: when, out: io.Discard}, []string{name}); err == nil {
		t.Error("a key was overwritten")
	}
	if _, err := readKey(name + ".pgp"); err == nil {
		t.Error("a public key signs")
	}
}

// TestSign checks signatures with Debian's gpgv and with verify, on files that
// are and are not what was signed.
func TestSign(t *testing.T) {
	name, dir := newKey(t), t.TempDir()
	file := filepath.Join(dir, "a/program")
	must(t, write(file, []byte("text")))
	must(t, sums(options{}, []string{dir}))
	list := filepath.Join(dir, sumsName)
	o := options{key: name + ".key", keyring: name + ".pgp", when: when, out: io.Discard}
	must(t, sign(o, []string{list}))
	first, err := os.ReadFile(list + ".asc")
	must(t, err)
	must(t, sign(o, []string{list}))
	if second, err := os.ReadFile(list + ".asc"); err != nil || !bytes.Equal(first, second) {
		t.Errorf("another signature the second time, %v", err)
	}
	must(t, verify(o, []string{list}))
	t.Run("gpgv", func(t *testing.T) {
		need(t, "gpgv", "sha256sum")
		command(t, "gpgv", "--keyring", name+".pgp", list+".asc", list)
		command(t, "sh", "-c", "cd "+dir+" && sha256sum --strict -c SHA256SUMS")
	})
	other := newKey(t)
	if err := verify(options{keyring: other + ".pgp"}, []string{list}); err == nil {
		t.Error("another's key verifies it")
	}
	must(t, write(file, []byte("other")))
	if err := verify(o, []string{list}); err == nil || !strings.Contains(err.Error(), "a/program is not what was released") {
		t.Error(err)
	}
	must(t, write(list, []byte("")))
	if err := verify(o, []string{list}); err == nil {
		t.Error("another list verifies")
	}
}

func TestCheckSums(t *testing.T) {
	for _, line := range []string{"x", "00  ../../etc/passwd\n", "00  /etc/passwd\n", "00  none\n"} {
		if err := checkSums(t.TempDir(), []byte(line)); err == nil {
			t.Errorf("%q is right", line)
		}
	}
}

// TestApt has apt read a repository, install from it in thought, and refuse one
// that was changed.
func TestApt(t *testing.T) {
	need(t, "apt-get", "apt-cache")
	key, repository := newKey(t), t.TempDir()
	o := options{root: repository, key: key + ".key", phase: 100, when: when}
	must(t, apt(o, []string{newDeb(t, "1.0", "one")}))
	must(t, apt(o, []string{newDeb(t, "1.1", "two")}))
	if err := apt(o, []string{newDeb(t, "1.1", "three")}); err == nil || !strings.Contains(err.Error(), "raise the version") {
		t.Errorf("a version changed: %v", err)
	}

	home := t.TempDir()
	for _, dir := range []string{"etc/apt/apt.conf.d", "etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"} {
		must(t, os.MkdirAll(filepath.Join(home, dir), 0o755))
	}
	must(t, write(filepath.Join(home, "status"), nil))
	must(t, write(filepath.Join(home, "etc/apt/sources.list"),
		[]byte("deb [arch=amd64 signed-by="+filepath.Join(repository, keyringName)+"] copy:"+repository+" stable main\n")))
	flags := []string{
		"-o", "Dir::Etc=" + home + "/etc/apt", "-o", "Dir::State=" + home + "/state", "-o", "Dir::State::status=" + home + "/status",
		"-o", "Dir::Cache=" + home + "/cache", "-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=", "-o", "APT::Update::Error-Mode=any",
	}
	command(t, "apt-get", append(flags, "update")...)
	if out := command(t, "apt-cache", append(flags, "policy", "x402-agent")...); !strings.Contains(out, "Candidate: 1.1") || !strings.Contains(out, " 1.0 ") {
		t.Error(out)
	}
	command(t, "apt-get", append(flags, "install", "--download-only", "-y", "x402-agent")...)

	// A phase is a matter of the list, and can be changed.
	list := filepath.Join(repository, "dists/stable/main/binary-amd64/Packages")
	later := newDeb(t, "1.2", "later")
	for _, phase := range []string{"10", "100"} {
		o.phase, _ = strconv.Atoi(phase)
		must(t, apt(o, []string{later}))
		b, err := os.ReadFile(list)
		must(t, err)
		if want := map[string]string{"10": "Phased-Update-Percentage: 10\n"}[phase]; strings.Contains(string(b), "Phased-") != (want != "") || !strings.Contains(string(b), want) {
			t.Errorf("phase %s: %s", phase, b)
		}
	}
	o.phase = 101
	if err := apt(o, []string{later}); err == nil {
		t.Error("101%")
	}

	release := filepath.Join(repository, "dists/stable/InRelease")
	b, err := os.ReadFile(release)
	must(t, err)
	must(t, write(release, bytes.Replace(b, []byte("Label: X402"), []byte("Label: X403"), 1)))
	if out, err := exec.Command("apt-get", append(flags, "update")...).CombinedOutput(); err == nil {
		t.Errorf("a changed repository is taken: %s", out)
	}
}

func TestReadDeb(t *testing.T) {
	good, err := os.ReadFile(newDeb(t, "1.0", "one"))
	must(t, err)
	file := filepath.Join(t.TempDir(), "x.deb")
	for n := range len(good) { // cut short at any place
		must(t, os.WriteFile(file, good[:n], 0o600))
		if _, err := readDeb(file); err == nil && n < 200 {
			t.Fatalf("%d bytes are a package", n)
		}
	}
	for _, bad := range []string{"", "!<arch>\n", arMagic + strings.Repeat("x", arHeader), arMagic + "control.tar.gz  0           0     0     100644  9999999999`\n"} {
		must(t, os.WriteFile(file, []byte(bad), 0o600))
		if _, err := readDeb(file); err == nil {
			t.Errorf("%.20q is a package", bad)
		}
	}
}

// TestContents looks at what this test itself is linked with.
func TestContents(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	print := func(f func(options, []string) error) string {
		var text bytes.Buffer
		must(t, f(options{name: "x402", version: "1.0", when: when, out: &text}, []string{self}))
		return text.String()
	}
	first := print(sbom)
	var doc bom
	must(t, json.Unmarshal([]byte(first), &doc))
	if doc.Format != "CycloneDX" || doc.Spec != "1.5" || len(doc.Components) < 4 || !strings.Contains(first, `"pkg:golang/github.com/ProtonMail/go-crypto@v`) {
		t.Errorf("%.2000s", first)
	}
	if second := print(sbom); second != first {
		t.Error("another list the second time")
	}
	if text := print(notice); !strings.Contains(text, "═══ github.com/ProtonMail/go-crypto v") || !strings.Contains(text, "═══ std go") {
		t.Errorf("%.2000s", text)
	}
}

func TestLinked(t *testing.T) {
	itself := debug.Module{Path: "example.org/a", Version: "v1.0.0"}
	other := debug.Module{Path: "example.org/b", Version: "v2.0.0"}
	for name, test := range map[string]struct {
		replace *debug.Module
		want    debug.Module
	}{
		"as it is":         {nil, itself},
		"another module":   {&debug.Module{Path: other.Path, Version: other.Version, Sum: "h1:="}, other},
		"a folder with it": {&debug.Module{Path: "./dist/a", Version: "(devel)"}, itself},
	} {
		if got := linked(&debug.Module{Path: itself.Path, Version: itself.Version, Sum: "h1:=", Replace: test.replace}); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSourceDate(t *testing.T) {
	if got, err := sourceDate("1790000000"); err != nil || !got.Equal(when) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"x", "-1", "1.5"} {
		if _, err := sourceDate(bad); err == nil {
			t.Errorf("%q is a time", bad)
		}
	}
}
