package openwrt

import (
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/packaging"
	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
)

// A feed is what a package manager is given: packages, indexes and keys.
type feed struct {
	usign ipk.Key
	apk   apk.Key
}

// write makes the feed of a version, with what the agent's package depends on.
func (f feed) write(d *device, describe string) {
	d.t.Helper()
	bundle := pack(d.t, "v1.0.0")
	bundle.Name, bundle.Depends, bundle.User, bundle.ConfFiles, bundle.Installed, bundle.Remove = "ca-bundle", nil, "", nil, "", ""
	bundle.Files = packaging.Tree{{Path: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Data: []byte("none\n")}}
	var ipks []ipk.Entry
	var apks []apk.Entry
	for _, p := range []Package{bundle, pack(d.t, describe)} {
		b, ientry, err := p.WriteIPK()
		d.must(err)
		d.write("feed/"+ientry.Filename, string(b))
		b, aentry, err := p.WriteAPK(f.apk)
		d.must(err)
		d.write("feed/"+p.APK().Filename(), string(b))
		ipks, apks = append(ipks, ientry), append(apks, aentry)
	}
	var index, packed bytes.Buffer
	d.must(apk.WriteIndex(&index, "a feed", apks, f.apk))
	d.write("feed/packages.adb", index.String())
	z := gzip.NewWriter(&packed)
	_, err := z.Write(ipk.Index(ipks))
	d.must(err)
	d.must(z.Close())
	d.write("feed/Packages.gz", packed.String())
	d.write("feed/Packages.sig", string(f.usign.Sign(ipk.Index(ipks))))
}

// TestRealManagers is TestLifecycle with the programs that X402_APK and X402_OPKG
// name, as built for this machine from OpenWrt's sources.
func TestRealManagers(t *testing.T) {
	for name, isAPK := range managers {
		program := os.Getenv("X402_" + strings.ToUpper(name))
		if program == "" {
			continue // no package of Debian's has it, so that CI cannot ask for it
		}
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, isAPK)
			f := feed{apk: newAPKKey(t)}
			var err error
			f.usign, err = ipk.NewKey(bytes.Repeat([]byte{7}, 32), [8]byte{1, 2, 3, 4, 5, 6, 7, 8})
			d.must(err)
			manager := d.manager(program, f)
			f.write(d, "v1.0.0")
			manager("install")
			if !d.exists("etc/rc.d/S95x402-agent") || d.instance() != nil || d.id("passwd", "x402") == 0 {
				t.Fatalf("after the installation: %v", d.instance())
			}
			d.uci(settings())
			d.start()
			want := d.state()
			f.write(d, "v1.1.0")
			manager("upgrade")
			if running := d.exists("var/run/x402-agent/agent.pid"); running != isAPK || d.instance() == nil {
				t.Errorf("after the upgrade the old one runs: %t; new: %v", running, d.instance())
			}
			if !isAPK {
				d.start()
			}
			if out := manager("remove"); !strings.Contains(out, "keys and vouchers stay in /etc/x402.") {
				t.Errorf("the removal says %s", out)
			}
			if d.exists("usr/bin/x402-agent") || d.exists("var/run/x402-agent/agent.pid") || !d.exists("etc/config/x402") {
				t.Error("after the removal something is left, or runs, or is missing")
			}
			if diff := cmp.Diff(want, d.state()); diff != "" {
				t.Errorf("keys and vouchers changed: %s", diff)
			}
		})
	}
}

func newAPKKey(t *testing.T) apk.Key {
	t.Helper()
	k, err := apk.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// manager prepares the root for a package manager and returns how to have it do
// something with the agent's package.
func (d *device) manager(program string, f feed) func(what string) string {
	d.t.Helper()
	public, err := f.apk.Public().MarshalText()
	d.must(err)
	d.write("etc/apk/keys/x402.pem", string(public))
	d.write("etc/apk/repositories", d.path("feed/packages.adb")+"\n")
	d.write("etc/apk/arch", "x86_64\n")
	if d.apk {
		commands := map[string][]string{"install": {"add", "--initdb", "x402-agent"}, "upgrade": {"upgrade", "--update-cache"}, "remove": {"del", "x402-agent"}}
		return func(what string) string {
			d.t.Helper()
			out, err := exec.Command(program, append([]string{"--root", d.root}, commands[what]...)...).CombinedOutput()
			if err != nil {
				d.t.Fatalf("%s: %v\n%s", what, err, out)
			}
			return string(out)
		}
	}
	d.write("etc/opkg.conf", "dest root /\nlists_dir ext /var/opkg-lists\narch all 1\narch x86_64 10\nsrc/gz x402 file:///feed\n")
	d.must(os.Symlink("run", d.path("var/lock")))
	d.must(exec.Command("cp", program, d.path("bin/opkg")).Run()) // a static one, for its scripts run in its root
	commands := map[string]string{"install": "opkg update && opkg install x402-agent", "upgrade": "opkg update && opkg upgrade x402-agent", "remove": "opkg remove x402-agent"}
	return func(what string) string {
		d.t.Helper()
		return d.run(commands[what])
	}
}
