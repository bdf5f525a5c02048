package openwrt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
)

func small(t *testing.T) Package {
	t.Helper()
	p, err := Agent(Version{base: "1.0.0", pre: "rc1"}, "mipsel_24kc", time.Unix(1_790_000_000, 0), []byte("\x7fELF"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestContents looks into both packages as they were written.
func TestContents(t *testing.T) {
	want := map[string]fs.FileMode{
		"etc/config/x402": 0o600, "etc/init.d/x402-agent": 0o755, "usr/bin/x402-agent": 0o755,
		"etc/hotplug.d/tty/30-x402-agent": 0o644, "etc/hotplug.d/wwan/30-x402-agent": 0o644, "etc/uci-defaults/90-x402-agent": 0o644,
		"lib/upgrade/keep.d/x402-agent": 0o644, "usr/share/x402-agent/agent.sh": 0o644, "usr/share/x402-agent/risks.txt": 0o644,
	}
	b, _, err := small(t).WriteIPK()
	if err != nil {
		t.Fatal(err)
	}
	i, err := ipk.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]fs.FileMode{}
	for _, f := range i.Files {
		got[f.Path] = f.Mode
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if name := i.Filename(); name != "x402-agent_1.0.0~rc1-r1_mipsel_24kc.ipk" || i.RequireUser != "x402:x402:dialout" {
		t.Error(name, i.RequireUser)
	}
	if keep := string(i.Files.Find("lib/upgrade/keep.d/x402-agent").Data); keep != "/etc/x402/\n" {
		t.Errorf("a firmware upgrade keeps %q", keep)
	}

	b, _, err = small(t).WriteAPK()
	if err != nil {
		t.Fatal(err)
	}
	a, err := apk.Read(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if name := a.Filename(); name != "x402-agent-1.0.0_rc1-r1.apk" || a.Arch != "mipsel_24kc" {
		t.Error(name, a.Arch)
	}
	list := "/" + strings.Join(slices.Sorted(func(yield func(string) bool) {
		for name := range want {
			if !yield(name) {
				return
			}
		}
	}), "\n/")
	list = strings.Replace(list, "/lib/upgrade", "/lib/apk/packages/x402-agent.rusers\n/lib/upgrade", 1) + "\n"
	config := sha256.Sum256(a.Files.Find("etc/config/x402").Data)
	for ending, want := range map[string]string{
		"list": list, "rusers": "x402:x402:dialout\n", "conffiles": "/etc/config/x402\n",
		"conffiles_static": "/etc/config/x402 " + hex.EncodeToString(config[:]) + "\n",
	} {
		f := a.Files.Find("lib/apk/packages/x402-agent." + ending)
		if f == nil {
			t.Errorf("no %s", ending)
		} else if diff := cmp.Diff(want, string(f.Data)); diff != "" {
			t.Errorf("%s: %s", ending, diff)
		}
	}
	if n := len(a.Files) - len(i.Files); n != 4 {
		t.Errorf("the .apk has %d files more than the .ipk", n)
	}
}

// TestAnyArch is what packages without programs are called.
func TestAnyArch(t *testing.T) {
	p, err := LuCI(Version{base: "1.0.0"}, time.Unix(1_790_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if i, a := p.IPK(), p.APK(); i.Arch != "all" || a.Arch != "noarch" || a.Check() != nil || i.Check() != nil {
		t.Error(i.Arch, a.Arch, i.Check(), a.Check())
	}
	b, _, err := p.WriteIPK()
	if err != nil {
		t.Fatal(err)
	}
	i, err := ipk.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"usr/libexec/x402-lookup": 0o755, "www/luci-static/resources/view/x402/setup.js": 0o644} {
		if f := i.Files.Find(name); f == nil || f.Mode != mode {
			t.Errorf("%s: %v, want mode %v", name, f, mode)
		}
	}
}

func TestVersion(t *testing.T) {
	for in, want := range map[string][2]string{
		"v1.0.0":                       {"1.0.0-r1", "1.0.0-r1"},
		"1.2":                          {"1.2-r1", "1.2-r1"},
		"v1.0.0-rc1":                   {"1.0.0~rc1-r1", "1.0.0_rc1-r1"},
		"v1.0.0-dirty":                 {"1.0.0-r1", "1.0.0-r1"},
		"v1.0.0-beta-3-gabcdef0-dirty": {"1.0.0~beta+3.abcdef0-r1", "1.0.0_beta_p3~abcdef0-r1"},
		"v1.0.0-12-gabcdef0":           {"1.0.0+12.abcdef0-r1", "1.0.0_p12~abcdef0-r1"},
		"63b83fc":                      {"0.0.0+63b83fc-r1", "0.0.0~63b83fc-r1"},
	} {
		v, err := ParseVersion(in)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, [2]string{v.IPK(), v.APK()}); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
		p := small(t)
		p.Version = v
		if err := p.IPK().Check(); err != nil {
			t.Error(err)
		}
		if err := p.APK().Check(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "unknown", "v1", "v1.0.0-rc1-r1", "v1.0.0\n", "1.0.0;reboot"} {
		if v, err := ParseVersion(bad); err == nil {
			t.Errorf("%q is %s", bad, v.APK())
		}
	}
}

// TestTargets holds the architectures against what is built.
func TestTargets(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ROUTERS := ((?:.*\\\n)*.*)$`).FindSubmatch(makefile)
	if m == nil {
		t.Fatal("the Makefile lists no ROUTERS")
	}
	built := strings.Fields(strings.ReplaceAll(string(m[1]), "\\\n", " "))
	seen := map[string]bool{}
	for _, target := range Targets {
		if !slices.Contains(built, target.Build) {
			t.Errorf("%s is not built", target.Build)
		}
		for _, arch := range target.Archs {
			if seen[arch] {
				t.Errorf("%s is there twice", arch)
			}
			seen[arch] = true
			if TargetOf(arch) != target.Build {
				t.Errorf("%s is of %s", arch, TargetOf(arch))
			}
		}
	}
	if len(Targets) != len(built) || TargetOf("powerpc_8548") != "" {
		t.Errorf("%d targets, %d are built", len(Targets), len(built))
	}
}

// TestSyntax has ash and shellcheck read all scripts.
func TestSyntax(t *testing.T) {
	scripts := map[string]string{}
	maps.Copy(scripts, small(t).IPK().Scripts)
	maps.Copy(scripts, small(t).APK().Scripts)
	for _, f := range small(t).Files {
		if strings.Contains(f.Path, "x402-agent") && !strings.HasPrefix(f.Path, "usr/bin/") && !strings.HasPrefix(f.Path, "lib/") && !strings.HasSuffix(f.Path, ".txt") {
			scripts[f.Path] = string(f.Data)
		}
	}
	if len(scripts) < 9 {
		t.Fatalf("only %d scripts", len(scripts))
	}
	for _, checker := range [][]string{{"busybox", "ash", "-n"}, {"shellcheck", "--shell=dash", "--exclude=SC1090,SC1091"}} {
		if _, err := exec.LookPath(checker[0]); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		for name, text := range scripts {
			file := filepath.Join(t.TempDir(), filepath.Base(name))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(checker[0], append(checker[1:], file)...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	}
}

// TestMipsel runs the program that is in a package for the commonest routers.
func TestMipsel(t *testing.T) {
	qemu, err := exec.LookPath("qemu-mipsel-static")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("%v: apt-get install qemu-user-static", err)
	}
	program, err := buildFor("mipsle", "softfloat")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Agent(Version{base: "1.0.0"}, "mipsel_24kc", time.Unix(1_790_000_000, 0), program)
	if err != nil {
		t.Fatal(err)
	}
	i, _, err := p.WriteIPK()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ipk.Read(bytes.NewReader(i))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x402-agent")
	if err := os.WriteFile(file, read.Files.Find("usr/bin/x402-agent").Data, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(qemu, file, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "x402-agent packaged go1.") || !strings.HasSuffix(string(out), " linux/mipsle\n") {
		t.Errorf("%v: %s", err, out)
	}
}
