package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
	"github.com/depinsim/x402/packaging/openwrt"
)

// newJob has a folder with a small program for mipsel, and keys unless unsigned.
func newJob(t *testing.T, signed bool) *job {
	t.Helper()
	v, err := openwrt.ParseVersion("v1.0.0-rc1")
	if err != nil {
		t.Fatal(err)
	}
	j := &job{dist: t.TempDir(), version: v, time: time.Unix(1_790_000_000, 0)}
	target := filepath.Join(j.dist, openwrt.TargetOf(budgetArch))
	if err := errors.Join(os.Mkdir(target, 0o755), os.WriteFile(filepath.Join(target, "x402-agent"), []byte("\x7fELF"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if !signed {
		return j
	}
	u, err := ipk.NewKey(bytes.Repeat([]byte{7}, 32), [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
	if err != nil {
		t.Fatal(err)
	}
	a, err := apk.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	j.usign, j.apk = &u, &a
	return j
}

// files are the paths below a folder.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFeeds(t *testing.T) {
	common := []string{
		"apk/mipsel_24kc/luci-app-x402-1.0.0_rc1-r1.apk", "apk/mipsel_24kc/packages.adb", "apk/mipsel_24kc/x402-agent-1.0.0_rc1-r1.apk",
		"opkg/mipsel_24kc/Packages", "opkg/mipsel_24kc/Packages.gz",
		"opkg/mipsel_24kc/luci-app-x402_1.0.0~rc1-r1_all.ipk", "opkg/mipsel_24kc/x402-agent_1.0.0~rc1-r1_mipsel_24kc.ipk",
	}
	signed := slices.Concat(common[:3], []string{"apk/x402.pem", "opkg/0102030405060708"}, common[3:5], []string{"opkg/mipsel_24kc/Packages.sig"}, common[5:])
	for name, want := range map[string][]string{"unsigned": common, "signed": signed} {
		t.Run(name, func(t *testing.T) {
			j := newJob(t, name == "signed")
			var kept map[string][]byte
			for range 2 { // again, and the same
				sizes, err := j.arch(budgetArch)
				if err == nil {
					err = j.report([]string{budgetArch}, [][2]int{sizes})
				}
				if err != nil {
					t.Fatal(err)
				}
				dir := filepath.Join(j.dist, "packages")
				if diff := cmp.Diff(want, files(t, dir)); diff != "" {
					t.Error(diff)
				}
				made := map[string][]byte{}
				for _, name := range want {
					if made[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
				if kept != nil && !cmp.Equal(kept, made) {
					t.Error("the second time something else was made")
				}
				kept = made
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	j := newJob(t, false)
	if _, err := j.arch("powerpc_8548"); err == nil {
		t.Error("an architecture without a build passed")
	}
	if _, err := j.arch("x86_64"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the program: %v", err)
	}
	if err := j.report([]string{budgetArch}, [][2]int{{budgetIPK + 1, 1}}); err == nil {
		t.Error("a package over the budget passed")
	}
	bad := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(bad, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][2]string{{bad, ""}, {"", bad}, {bad + "s", ""}, {"", bad + "s"}} {
		if err := j.readKeys(names[0], names[1]); err == nil {
			t.Errorf("keys %q passed", names)
		}
	}
}

// TestNewKeys makes keys that sign, once.
func TestNewKeys(t *testing.T) {
	name := filepath.Join(t.TempDir(), "new")
	if err := makeKeys(name); err != nil {
		t.Fatal(err)
	}
	var j job
	if err := j.readKeys(name+".usign", name+".pem"); err != nil || j.usign == nil || j.apk == nil {
		t.Errorf("%v, %v, %v", j.usign, j.apk, err)
	}
	for _, file := range []string{name + ".usign", name + ".pem"} {
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if err := makeKeys(name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over keys that there are: %v", err)
	}
}
