// Package debian_test builds the Debian packages and tries them with Debian's
// own tools.
package debian_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// daemons are the packages with a service, by the folder that describes them.
var daemons = map[string]string{"agent": "x402-agent", "relay": "x402-relay", "facilitator": "x402-facilitator"}

// describe and date are what the packages under test are built with.
const (
	describe = "v1.2.0"
	version  = "1.2.0"
	date     = "1790000000"
)

// need is the commands of Debian's that a test cannot do without.
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

// needRoot is that, for root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("not root")
	}
	t.Skip("not root")
}

// run runs a command and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// top is the repository.
const top = "../.."

// copyTree copies what belongs to the repository, so that the tests write
// nothing into it.
func copyTree(to string) error {
	list, err := exec.Command("git", "-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		b, err := os.ReadFile(filepath.Join(top, name))
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(top, name))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(to, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, info.Mode()); err != nil {
			return err
		}
	}
	return nil
}

// build builds the packages for this machine in a copy of the repository at dir
// and returns their paths.
func build(dir, describe string) ([]string, error) {
	if err := copyTree(dir); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(dir, "packaging/debian/build.sh"), describe)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+date, "ARCHITECTURES="+architecture())
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build.sh: %w\n%s", err, out)
	}
	return filepath.Glob(filepath.Join(dir, "dist/debian/*.deb"))
}

// architecture is Debian's name of this machine's.
func architecture() string {
	if runtime.GOARCH == "arm" {
		return "armhf"
	}
	return runtime.GOARCH
}

// scratch is where the packages are built, once for all tests.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "x402-debian"); err != nil {
		panic("debian_test: " + err.Error())
	}
	status := m.Run()
	if err := os.RemoveAll(scratch); err != nil {
		panic("debian_test: " + err.Error())
	}
	os.Exit(status)
}

var built = sync.OnceValues(func() ([]string, error) { return build(filepath.Join(scratch, "tree"), describe) })

// packages are the packages under test, by name.
func packages(t *testing.T) map[string]string {
	t.Helper()
	need(t, "dpkg-deb", "git")
	debs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]string{}
	for _, deb := range debs {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		byName[name] = deb
	}
	if len(byName) != 4 {
		t.Fatalf("built %q", debs)
	}
	return byName
}

// TestReproducible builds the packages twice, in different folders.
func TestReproducible(t *testing.T) {
	first := packages(t)
	second, err := build(filepath.Join(t.TempDir(), "another/place"), describe)
	if err != nil {
		t.Fatal(err)
	}
	if len(second) != len(first) {
		t.Errorf("built %q the second time", second)
	}
	for _, deb := range second {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		a, err := os.ReadFile(first[name])
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs from build to build", name)
		}
	}
}

// TestContents looks into the packages.
func TestContents(t *testing.T) {
	for name, deb := range packages(t) {
		if got := run(t, "dpkg-deb", "-f", deb, "Version", "Architecture"); got != "Version: "+version+"\nArchitecture: "+architecture()+"\n" {
			t.Errorf("%s: %s", name, got)
		}
		list := run(t, "dpkg-deb", "-c", deb)
		want := []string{
			"./usr/bin/" + name, "/" + name + "\n", "/_" + name + "\n", "/" + name + ".fish\n", "/man/man",
			"/doc/" + name + "/copyright", "/doc/" + name + "/changelog.gz", "/doc/" + name + "/NOTICE.gz",
		}
		if name != "x402" {
			want = append(want, "./usr/lib/systemd/system/"+name+".service", "./usr/lib/sysusers.d/"+name+".conf", "./usr/lib/tmpfiles.d/"+name+".conf")
		}
		for _, file := range want {
			if !strings.Contains(list, file) {
				t.Errorf("%s has no %s:\n%s", name, file, list)
			}
		}
		for line := range strings.Lines(list) {
			if f := strings.Fields(line); f[1] != "root/root" || f[0][8] != '-' || strings.ContainsAny(f[0], "st") {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}

func TestLintian(t *testing.T) {
	need(t, "lintian")
	debs := slices.Collect(maps.Values(packages(t))) // together it takes two thirds of the time
	if out := run(t, "lintian", append([]string{"--allow-root", "--fail-on", "error,warning"}, debs...)...); out != "" {
		t.Error(out)
	}
}

// TestVersions compares the versions of builds as dpkg does.
func TestVersions(t *testing.T) {
	need(t, "dpkg", "sh")
	script, err := os.ReadFile("build.sh")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(script), "\ncase \"$describe\" in\n")
	choice, _, ok := strings.Cut(rest, "\nesac\n")
	if !ok {
		t.Fatal("build.sh does not choose a version")
	}
	var last string
	for _, describe := range []string{"63b83fc", "63b83fc-dirty", "v1.1.0", "v1.1.0-3-g63b83fc", "v1.2.0"} {
		now := run(t, "env", "SOURCE_DATE_EPOCH="+date, "describe="+describe, "sh", "-euc", "case \"$describe\" in\n"+choice+"\nesac\nprintf %s \"$VERSION\"")
		run(t, "dpkg", "--validate-version", now)
		if last != "" {
			run(t, "dpkg", "--compare-versions", last, "lt", now)
		}
		last = now
	}
}

// TestModemRules holds the udev rules against the makers that the agent knows.
func TestModemRules(t *testing.T) {
	rules, err := os.ReadFile("agent/modems.rules")
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile(top + "/modem/usbids.go")
	if err != nil {
		t.Fatal(err)
	}
	numbers := func(text, pattern string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, strings.FieldsFunc(m[1], func(r rune) bool { return r == '|' || r == ' ' })...)
		}
		slices.Sort(all)
		return all
	}
	active := regexp.MustCompile(`(?m)^#.*`).ReplaceAllString(string(rules), "")
	for _, kind := range [][2]string{
		{`\{id: "([0-9a-f]{4})"`, `ATTR\{idVendor\}=="([^"]*)"`}, {`products: "([^"]*)"`, `ATTR\{idProduct\}=="([^"]*)"`},
	} {
		want, got := numbers(string(known), kind[0]), numbers(active, kind[1])
		if len(want) < 10 || !slices.Equal(got, want) {
			t.Errorf("the rules have %q, the agent knows %q", got, want)
		}
	}
}
