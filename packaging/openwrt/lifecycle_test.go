package openwrt

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// start starts the service and the agent, and waits until it has all its files.
func (d *device) start() *exec.Cmd {
	d.t.Helper()
	said := d.run("/etc/init.d/x402-agent start")
	in := d.instance()
	if in == nil {
		d.t.Fatalf("the service does not start: %s", said)
	}
	cmd := d.launch(in)
	d.await("control socket", func() bool { return d.exists("var/run/x402-agent/control/agent.sock") })
	return cmd
}

// cut ends the agent and forgets the memory.
func (d *device) cut(cmd *exec.Cmd) {
	d.t.Helper()
	cmd.Process.Kill() // an error says that it has ended
	d.await("end of the agent", func() bool { return !d.exists("var/run/x402-agent/agent.pid") })
	d.reboot()
}

// state is what must survive: the key, and the journal of vouchers.
func (d *device) state() [2]string {
	return [2]string{d.read("etc/x402/state/device.key"), d.read("etc/x402/state/channels/journal")}
}

// TestLifecycle installs, sells, upgrades, removes, installs again and purges.
func TestLifecycle(t *testing.T) {
	for name, apk := range managers {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, apk)
			d.must(d.install(pack(t, "v1.0.0")))
			d.uci(settings())
			d.start()
			want := d.state()
			if len(want[0]) != 65 || len(want[1]) == 0 {
				t.Fatalf("the first start made %q", want)
			}
			address := d.run("x402-agent check --offline | grep 'agent 0x'")

			mine := d.read("etc/config/x402")
			next := pack(t, "v1.1.0")
			next.Files.Find("etc/config/x402").Data = append([]byte("# new\n"), next.Files.Find("etc/config/x402").Data...)
			d.must(d.install(next))
			// procd starts what it stopped, or restarts what has a changed file.
			if running := d.exists("var/run/x402-agent/agent.pid"); running != apk || d.instance() == nil {
				t.Errorf("after the upgrade the old one runs: %t; new: %v", running, d.instance())
			}
			beside := "etc/config/x402" + map[bool]string{false: "-opkg", true: ".apk-new"}[apk]
			if d.read("etc/config/x402") != mine || !strings.HasPrefix(d.read(beside), "# new\n") {
				t.Errorf("the settings are now %s, the new ones %s", d.read("etc/config/x402"), d.read(beside))
			}
			if !apk {
				d.start()
			}
			if diff := cmp.Diff(want, d.state()); diff != "" {
				t.Errorf("the upgrade changed %s", diff)
			}

			d.remove("STUB_PRERM=1") // what OpenWrt's part fails with is not passed on
			if d.exists("usr/bin/x402-agent") || d.exists("etc/rc.d/S95x402-agent") || d.exists("var/run/x402-agent/agent.pid") {
				t.Error("something is left, or runs")
			}
			if !strings.Contains(d.said, "keys and vouchers stay in /etc/x402.") || !strings.Contains(d.read("tmp/agent.log"), "msg=stopped") {
				t.Errorf("the removal says %q, the agent %s", d.said, d.read("tmp/agent.log"))
			}
			if diff := cmp.Diff(want, d.state()); diff != "" {
				t.Errorf("the removal changed %s", diff)
			}
			if d.read("etc/config/x402") != mine {
				t.Error("the removal changed the settings")
			}

			d.must(d.install(pack(t, "v1.1.0")))
			if again := d.run("x402-agent check --offline | grep 'agent 0x'"); again != address {
				t.Errorf("installed again it is %s, was %s", again, address)
			}
			if out, err := d.sh("x402-agent purge"); err != nil || d.exists("etc/x402/state/device.key") {
				t.Errorf("purge: %v: %s", err, out)
			}
		})
	}
}

// TestUpgradeCut cuts the power at every step of an upgrade, in the middle of a
// file. The router comes up, and after another try all is as it should be.
func TestUpgradeCut(t *testing.T) {
	for name, apk := range managers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, next := pack(t, "v1.0.0"), pack(t, "v1.1.0")
			finished := false
			for steps := 0; !finished; steps++ {
				if steps > 40 {
					t.Fatal("an upgrade of more than 40 steps")
				}
				d := newDevice(t, apk)
				d.must(d.install(old))
				d.uci(settings())
				cmd := d.start()
				want := d.state()
				d.steps = steps
				finished = d.install(next) == nil
				d.steps = -1
				d.cut(cmd)
				if d.exists("etc/rc.d/S95x402-agent") {
					d.sh("/etc/init.d/x402-agent start") // with half a program it says so, with half a script nothing
				}
				d.must(d.install(next))
				d.start()
				if diff := cmp.Diff(want, d.state()); diff != "" {
					t.Errorf("after %d steps: %s", steps, diff)
				}
			}
		})
	}
}

// TestInstallCut is the same for the first installation.
func TestInstallCut(t *testing.T) {
	for name, apk := range managers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pack(t, "v1.0.0")
			finished := false
			for steps := 0; !finished; steps++ {
				d := newDevice(t, apk)
				d.steps = steps
				finished = d.install(p) == nil
				d.steps = -1
				d.reboot()
				d.must(d.install(p))
				d.uci(settings())
				d.start()
			}
		})
	}
}

// TestStartCut cuts the power before every command that the service's script
// changes something by. The next start finds its way.
func TestStartCut(t *testing.T) {
	t.Parallel()
	p := pack(t, "v1.0.0")
	for n := 0; ; n++ {
		d := newDevice(t, false)
		d.must(d.install(p))
		d.must(os.RemoveAll(d.path("etc/x402")))
		d.write("etc/passwd", "root:x:0:0:root:/root:/bin/ash\n")
		d.write("etc/group", "root:x:0:\n")
		d.reboot()
		d.uci(settings())
		d.write("tmp/cut", fmt.Sprintln(n))
		out, err := d.sh("/etc/init.d/x402-agent start")
		if err == nil {
			if n < 8 || d.instance() == nil {
				t.Errorf("the start took %d steps: %v, %s", n, d.instance(), out)
			}
			break
		}
		d.reboot()
		d.start()
		info, err := os.Stat(d.path("etc/x402/state"))
		d.must(err)
		if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o700 || st.Uid != d.id("passwd", "x402") {
			t.Errorf("after %d steps: %v of %d", n, info.Mode(), st.Uid)
		}
	}
}

// TestFirstFilesCut kills the agent while it makes its first files.
func TestFirstFilesCut(t *testing.T) {
	t.Parallel()
	p := pack(t, "v1.0.0")
	for n := range 6 {
		d := newDevice(t, false)
		d.must(d.install(p))
		d.uci(settings())
		d.run("/etc/init.d/x402-agent start")
		cmd := d.launch(d.instance())
		d.await("file", func() bool {
			entries, err := os.ReadDir(d.path("etc/x402/state"))
			d.must(err)
			return len(entries) > n || d.exists("var/run/x402-agent/control/agent.sock")
		})
		d.cut(cmd)
		before := d.read("etc/x402/state/device.key")
		d.start()
		if key := d.read("etc/x402/state/device.key"); len(key) != 65 || before != "" && key != before {
			t.Errorf("the key is %d bytes, the same: %t", len(key), key == before)
		}
	}
}

// TestRestored is a backup that root put back: the files become the user's again,
// those with a second name do not.
func TestRestored(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	d.uci(settings())
	cmd := d.start()
	want := d.state()
	d.cut(cmd)
	d.run("chown -R 0:0 /etc/x402; echo root:x:0:0:root:/root:/bin/ash >/etc/passwd; echo secret >/etc/secret; ln /etc/secret /etc/x402/state/a; ln -s /etc/secret /etc/x402/state/b")
	d.start()
	if diff := cmp.Diff(want, d.state()); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(d.path("etc/secret"))
	d.must(err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 {
		t.Error("another's file was given away")
	}
}

// TestTrouble: each has a message that its owner understands.
func TestTrouble(t *testing.T) {
	const full = "the flash is read-only or full. OpenWrt mounts full flash read-only: remove a package or some files, then restart the router"
	stand := func(finding string) string {
		return "rm /usr/bin/x402-agent; cat >/usr/bin/x402-agent <<'END'\n#!/bin/sh\ncat <<'FOUND'\nok       config       agent.toml\n" + finding + "\nFOUND\nEND\nchmod 755 /usr/bin/x402-agent"
	}
	for what, test := range map[string]struct {
		before, says string
		starts       bool
		change       func(map[string]map[string]string)
	}{
		"read-only":        {before: "rm -rf /etc/x402; mkdir /etc/x402; mount -t tmpfs -o ro none /etc/x402", says: "/etc/x402/state cannot be made: " + full},
		"full":             {before: "rm -rf /etc/x402; mkdir /etc/x402; mount -t tmpfs -o size=4k,nr_inodes=1 none /etc/x402", says: "/etc/x402/state cannot be made: " + full},
		"read-only root":   {before: "echo root:x:0:0:root:/root:/bin/ash >/etc/passwd; mkdir /proc; mount -t proc none /proc; mount -o bind /etc /etc; mount -o remount,ro,bind /etc", says: "the user x402 cannot be made: " + full},
		"memory full":      {before: "rm -rf /var/run; mkdir /var/run; mount -t tmpfs -o size=4k,nr_inodes=1 none /var/run", says: "/var/run/x402-agent cannot be made: the memory is full"},
		"another's build":  {before: "rm /usr/bin/x402-agent; printf '\\177ELF\\1\\1\\1' >/usr/bin/x402-agent; chmod 755 /usr/bin/x402-agent", says: "/usr/bin/x402-agent does not run here: is the package that of this router's architecture, and whole?"},
		"in memory":        {before: "rm -rf /etc/x402; mkdir /etc/x402; mount -t tmpfs none /etc/x402", says: "state /etc/x402/state is in memory: keys and vouchers are lost at a reboot", starts: true},
		"damaged key":      {before: "echo garbage >/etc/x402/state/device.key", says: "key /etc/x402/state/device.key is not a hexadecimal key do: restore it from a backup"},
		"nearly full":      {before: stand("failed   state        /etc/x402/state: only 12 KiB free\n                      do: make room"), says: "state /etc/x402/state: only 12 KiB free do: make room"},
		"1970":             {before: stand("failed   clock        1970-01-01 00:00 UTC is in the past: the\n                      facilitator's certificate is not valid yet"), says: "clock 1970-01-01 00:00 UTC is in the past: the facilitator's certificate is not valid yet", starts: true},
		"no modem":         {says: "no modem is there, or its driver is missing (kmod-usb-serial-option for most): nothing is sold until it is", starts: true, change: func(s map[string]map[string]string) { s["modem"]["port"] = "auto" }},
		"another port":     {says: "there is no /dev/ttyUSB2: modem.port may be another one, or auto", starts: true, change: func(s map[string]map[string]string) { s["modem"]["port"] = "/dev/ttyUSB2" }},
		"no settings file": {before: "rm /etc/config/x402", says: "off: nothing is sold. To begin read: service x402-agent risks"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, false)
			d.must(d.install(pack(t, "v1.0.0")))
			s := settings()
			if test.change != nil {
				test.change(s)
			}
			d.uci(s)
			d.reboot()
			said, err := d.shell(test.before+"\n/etc/init.d/x402-agent start", syscall.CLONE_NEWNS)
			if err != nil || !strings.Contains(said, test.says) || (d.instance() != nil) != test.starts {
				t.Errorf("%v, instance %v, says %q\nwant %q", err, d.instance(), said, test.says)
			}
		})
	}
}

// TestGrant: who runs the agent may open a modem's ports, and no other device.
func TestGrant(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	usb := "/sys/devices/usb1/1-1"
	d.run("mkdir -p " + usb + "/1-1:1.2/ttyUSB2 /sys/class/tty/ttyUSB2; echo 1 >" + usb + "/authorized; echo 2c7c >" + usb + "/idVendor; echo 1 >" + usb + "/1-1:1.2/authorized;" +
		"chmod 644 " + usb + "/authorized " + usb + "/1-1:1.2/authorized; ln -s ../../../devices/usb1/1-1/1-1:1.2/ttyUSB2 /sys/class/tty/ttyUSB2/device")
	for _, name := range []string{"ttyUSB2", "ttyS0", "wwan0at0"} {
		if err := syscall.Mknod(d.path("dev/"+name), syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
			t.Fatal(err)
		}
	}
	for name, subsystem := range map[string]string{"ttyUSB2": "tty", "ttyS0": "tty", "wwan0at0": "wwan"} {
		d.run(". /lib/functions.sh; . /etc/hotplug.d/"+subsystem+"/30-x402-agent", "ACTION=add", "DEVICENAME="+name)
	}
	d.run(". /lib/functions.sh; . /etc/hotplug.d/tty/30-x402-agent", "ACTION=remove", "DEVICENAME=ttyUSB2")
	d.run(". /lib/functions.sh; . /etc/hotplug.d/tty/30-x402-agent", "ACTION=add", "DEVICENAME=../etc/shadow")
	for name, want := range map[string]string{"dev/ttyUSB2": "crw-rw---- dialout", "dev/wwan0at0": "crw-rw---- dialout", "dev/ttyS0": "crw------- root", usb + "/authorized": "-rw-rw-r-- dialout", usb + "/1-1:1.2/authorized": "-rw-r--r-- root"} {
		f := strings.Fields(d.run("ls -ld /" + name))
		if got := f[0] + " " + f[3]; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
