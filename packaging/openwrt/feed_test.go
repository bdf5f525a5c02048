package openwrt

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/packaging"
)

// feedBuild has make read a Makefile for OpenWrt's own build, with stand-ins for
// what it includes of OpenWrt. It returns the folder that the package goes to, and
// that of the source, which has only what the build is prepared with.
func feedBuild(t *testing.T, folder string) (out, source string) {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	out, source = t.TempDir(), t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "scripts/cross.sh"} {
		b, err := os.ReadFile(filepath.Join(top, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(source, name), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", folder, "TOPDIR="+filepath.Join(top, "packaging/openwrt/testdata/feed"),
		"PKG_BUILD_DIR="+source, "OUT="+out, "ARCH=mipsel")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=") // nothing of a make that runs this
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out, source
}

// installed are a folder's files as a package has them, with which is compared.
func installed(t *testing.T, root string) map[string]fs.FileMode {
	t.Helper()
	all := map[string]fs.FileMode{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		rel, _ := filepath.Rel(root, name) // name is below root
		all[rel] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// modes are a package's files but for some.
func modes(files packaging.Tree, without string) map[string]fs.FileMode {
	all := map[string]fs.FileMode{}
	for _, f := range files {
		if without == "" || !strings.HasSuffix(f.Path, without) {
			all[f.Path] = f.Mode
		}
	}
	return all
}

// TestFeed holds OpenWrt's own build of the agent against the package, and its
// program against that of scripts/cross.sh.
func TestFeed(t *testing.T) {
	p := small(t)
	out, source := feedBuild(t, "x402-agent")
	if diff := cmp.Diff(modes(p.Files, ""), installed(t, filepath.Join(out, "root"))); diff != "" {
		t.Error(diff)
	}
	cmd := exec.CommandContext(t.Context(), "scripts/cross.sh", "flags")
	cmd.Dir = source
	flags, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(flags), "-gcflags=all=-l -gcflags=") || !strings.HasSuffix(string(flags), "/go.mod\n") {
		t.Fatalf("%v: %s", err, flags)
	}
	said, err := os.ReadFile(filepath.Join(out, "build"))
	if err != nil {
		t.Fatal(err)
	}
	want := "cgo=0 pkg=github.com/depinsim/x402/cmd/x402-agent tags=router,tinygo\n-R 0x4000 -s -w\n" + string(flags)
	if diff := cmp.Diff(want, string(said)); diff != "" {
		t.Error(diff)
	}
	makefile, err := os.ReadFile("x402-agent/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"  USERID:=" + p.User + "\n", "+" + strings.Join(p.Depends, " +") + "\n", "conffiles\n" + strings.Join(p.ConfFiles, "\n") + "\n"} {
		if !strings.Contains(string(makefile), line) {
			t.Errorf("no %q", line)
		}
	}
}

// TestFeedLuCI holds that of the pages against the package. LuCI's own build
// makes packages of the translations.
func TestFeedLuCI(t *testing.T) {
	p, err := LuCI(Version{base: "1.0.0"}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	out, _ := feedBuild(t, "luci-app-x402")
	if diff := cmp.Diff(modes(p.Files, ".lmo"), installed(t, filepath.Join(out, "root"))); diff != "" {
		t.Error(diff)
	}
	said, err := os.ReadFile(filepath.Join(out, "package"))
	version, rest, _ := strings.Cut(string(said), "\n")
	if want := "+" + strings.Join(p.Depends, " +") + "\n" + p.Arch + "\n"; err != nil || rest != want || version == "" {
		t.Errorf("%v: %q, want %q", err, said, want)
	}
}
