package debian_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A root is a file system into which dpkg installs without its dependencies;
// maintainer scripts run on this machine with DPKG_ROOT.
type root string

func newRoot(t *testing.T) root {
	t.Helper()
	needRoot(t)
	need(t, "dpkg", "systemd-sysusers", "systemd-tmpfiles")
	r := root(t.TempDir())
	for _, dir := range []string{"var/lib/dpkg", "etc", "usr/lib/systemd/system"} {
		if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.write(t, "var/lib/dpkg/status", "")
	return r
}

func (r root) path(name string) string { return filepath.Join(string(r), name) }

func (r root) has(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

func (r root) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r root) dpkg(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "dpkg", append([]string{
		"--root=" + string(r), "--log=/dev/null", "--force-script-chrootless", "--force-depends", "--force-confdef", "--force-confold",
		"--force-unsafe-io", // nothing here has to survive a power cut
	}, args...)...)
}

func (r root) mode(t *testing.T, name string) os.FileMode {
	t.Helper()
	info, err := os.Stat(r.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// TestInstall follows each service's package from the first installation over
// an upgrade to its end.
func TestInstall(t *testing.T) {
	debs := packages(t)
	for _, name := range daemons {
		t.Run(name, func(t *testing.T) {
			r := newRoot(t)
			state := "var/lib/" + name
			if out := r.dpkg(t, "-i", debs[name]); !strings.Contains(out, name+" does not run yet: see /usr/share/doc/"+name+"/README.Debian") {
				t.Errorf("installing says\n%s", out)
			}
			if !r.has("usr/share/doc/" + name + "/README.Debian") {
				t.Error("there is no README.Debian")
			}
			if mode := r.mode(t, state); mode != 0o700 {
				t.Errorf("%s has mode %o", state, mode)
			}
			if r.has("etc/systemd/system/multi-user.target.wants/" + name + ".service") {
				t.Error("the service is enabled")
			}
			r.write(t, state+"/device.key", "key")
			if out := r.dpkg(t, "-i", debs[name]); strings.Contains(out, "does not run yet") {
				t.Errorf("an upgrade says\n%s", out)
			}
			r.dpkg(t, "--remove", name)
			if !r.has(state + "/device.key") {
				t.Fatal("removing deleted the key")
			}
			if r.has("usr/bin/" + name) {
				t.Error("removing left the program")
			}
			r.dpkg(t, "--purge", name)
			if r.has(state) || r.has("etc/x402") || r.has("etc/default") {
				t.Error("a purge left something")
			}
		})
	}
}

// TestConfigKept is about the file that the owner has written.
func TestConfigKept(t *testing.T) {
	debs, r := packages(t), newRoot(t)
	r.dpkg(t, "-i", debs["x402-agent"])
	const config, text = "etc/x402/agent.toml", "# the owner's\n"
	if mode := r.mode(t, config); mode != 0o640 {
		t.Errorf("it has mode %o", mode)
	}
	r.write(t, config, text)
	r.dpkg(t, "-i", debs["x402-agent"])
	r.dpkg(t, "--remove", "x402-agent")
	if b, err := os.ReadFile(r.path(config)); err != nil || string(b) != text {
		t.Errorf("%q, %v", b, err)
	}
	r.dpkg(t, "--purge", "x402-agent")
	if r.has(config) {
		t.Error("a purge left it")
	}
}

// TestPurgeKeepsMoney purges packages whose state is money.
func TestPurgeKeepsMoney(t *testing.T) {
	debs := packages(t)
	header := strings.Repeat("h", 16) // of a journal without a channel
	for _, test := range []struct {
		name, file, text string
		kept             bool
	}{
		{"x402-agent", "channels/journal", header, false},
		{"x402-agent", "channels/journal", header + "a voucher", true},
		{"x402-agent", "sims/two/channels/journal", header + "a voucher", true},
		{"x402-relay", "relay.key", "key", false},
		{"x402-relay", "channels.db", "", true},
		{"x402-facilitator", "ledger.db", "", true},
	} {
		t.Run(test.name+" "+test.file, func(t *testing.T) {
			r := newRoot(t)
			r.dpkg(t, "-i", debs[test.name])
			file := filepath.Join("var/lib", test.name, test.file)
			if err := os.MkdirAll(filepath.Dir(r.path(file)), 0o700); err != nil {
				t.Fatal(err)
			}
			r.write(t, file, test.text)
			r.write(t, filepath.Join("var/lib", test.name, "device.key"), "key")
			out := r.dpkg(t, "--purge", test.name)
			if r.has(file) != test.kept || r.has(filepath.Join("var/lib", test.name, "device.key")) != test.kept {
				t.Errorf("kept: %v, want %v", r.has(file), test.kept)
			}
			if said := strings.Contains(out, "that is money"); said != test.kept {
				t.Errorf("the purge says\n%s", out)
			}
		})
	}
}

// TestUnits has systemd read the units as they are installed.
func TestUnits(t *testing.T) {
	need(t, "systemd-analyze", "cp")
	debs, r := packages(t), newRoot(t)
	run(t, "cp", "-a", "/usr/lib/systemd/system/.", r.path("usr/lib/systemd/system"))
	for _, name := range daemons {
		r.dpkg(t, "-i", debs[name])
		units := []string{name + ".service"}
		if name == "x402-agent" {
			units = append(units, "x402-agent-update.service", "x402-agent-update.timer")
		}
		if out := run(t, "systemd-analyze", append([]string{"verify", "--man=no", "--root=" + string(r)}, units...)...); out != "" {
			t.Errorf("%s: %s", name, out)
		}
		run(t, "systemd-analyze", "security", "--offline=true", "--threshold=25", "--root="+string(r), name+".service")
	}
}
