package openwrt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/packaging"
	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
)

// shared is a folder of what all devices have: the programs are linked.
var shared string

func TestMain(m *testing.M) {
	var err error
	if shared, err = os.MkdirTemp("", "x402-openwrt"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// buildAgent returns the program for this machine, built once.
var buildAgent = sync.OnceValues(func() ([]byte, error) { return buildFor(runtime.GOARCH, "") })

func buildFor(arch, mips string) ([]byte, error) {
	out := filepath.Join(shared, "x402-agent-"+arch)
	cmd := exec.Command("go", "build", "-tags", "router", "-ldflags", "-s -w -X main.version=packaged", "-o", out, "../../cmd/x402-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOMIPS="+mips)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
}

// A device is a root directory like a router's, with busybox and stand-ins for
// OpenWrt's own scripts, and one of its package managers.
type device struct {
	t       *testing.T
	root    string
	apk     bool   // else opkg
	said    string // by the last script
	steps   int    // that the installer may take before the power is cut; negative: all
	running sync.WaitGroup
}

// managers are both package managers.
var managers = map[string]bool{"opkg": false, "apk": true}

func newDevice(t *testing.T, apk bool) *device {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err == nil && os.Geteuid() != 0 {
		err = errors.New("changing the root takes root")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("%v; and busybox, of Debian's busybox-static", err)
	}
	d := &device{t: t, root: t.TempDir(), apk: apk, steps: -1}
	d.must(os.Chmod(d.root, 0o755))
	for _, dir := range []string{"bin", "dev", "tmp", "etc/config", "etc/rc.d", "var/run", "usr/lib/opkg/info", "lib/apk/packages", "sys"} {
		d.must(os.MkdirAll(d.path(dir), 0o755))
	}
	d.must(os.CopyFS(d.root, os.DirFS("testdata/root")))
	d.must(os.Chmod(d.path("etc/rc.common"), 0o755))
	if err := exec.Command("cp", "-n", busybox, filepath.Join(shared, "busybox")).Run(); err != nil {
		t.Fatal(err)
	}
	d.must(os.Link(filepath.Join(shared, "busybox"), d.path("bin/busybox")))
	applets, err := exec.Command(busybox, "--list").Output()
	d.must(err)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			d.must(os.Symlink("busybox", d.path("bin/"+name)))
		}
	}
	d.write("dev/null", "")
	d.must(os.Chmod(d.path("dev/null"), 0o666))
	d.write("etc/passwd", "root:x:0:0:root:/root:/bin/ash\n")
	d.write("etc/group", "root:x:0:\n")
	d.write("etc/shadow", "root:*:0:0:99999:7:::\n")
	t.Cleanup(d.running.Wait)
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.root, name) }

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) write(name, text string) {
	d.t.Helper()
	d.must(os.MkdirAll(filepath.Dir(d.path(name)), 0o755))
	d.must(os.WriteFile(d.path(name), []byte(text), 0o644))
}

// read returns a file's text, "" if there is none.
func (d *device) read(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(d.path(name))
	if !errors.Is(err, fs.ErrNotExist) {
		d.must(err)
	}
	return string(b)
}

func (d *device) exists(name string) bool {
	_, err := os.Lstat(d.path(name))
	return err == nil
}

// sh runs a command in the device and returns what it printed, and its status.
func (d *device) sh(command string, env ...string) (string, error) {
	return d.shell(command, 0, env...)
}

// shell is sh with namespaces of its own.
func (d *device) shell(command string, unshare uintptr, env ...string) (string, error) {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Dir, cmd.Env = "/", append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: d.root, Unshareflags: unshare}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is sh that must succeed.
func (d *device) run(command string, env ...string) string {
	d.t.Helper()
	out, err := d.sh(command, env...)
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// reboot forgets what is in memory.
func (d *device) reboot() {
	d.t.Helper()
	for _, dir := range []string{"var/run", "tmp"} {
		d.must(os.RemoveAll(d.path(dir)))
		d.must(os.Mkdir(d.path(dir), 0o755))
	}
}

// errCut is a power cut.
var errCut = errors.New("the power was cut")

// step counts what an installer does.
func (d *device) step() error {
	if d.steps == 0 {
		return errCut
	}
	d.steps--
	return nil
}

// put writes a file of a package as its installer does: opkg over what is there,
// and one that is cut off leaves the half of it; apk beside it, to rename it.
func (d *device) put(f packaging.File) error {
	d.must(os.MkdirAll(filepath.Dir(d.path(f.Path)), 0o755))
	if err := d.step(); err != nil {
		half := f.Path
		if d.apk {
			half = filepath.Join(filepath.Dir(half), ".apk.0123456789")
		}
		d.must(os.RemoveAll(d.path(half))) // the program is a link
		d.must(os.WriteFile(d.path(half), f.Data[:len(f.Data)/2], 0o600))
		return err
	}
	d.must(os.RemoveAll(d.path(f.Path)))
	if len(f.Data) > 1<<20 { // the program
		d.must(os.Link(filepath.Join(shared, "x402-agent-"+runtime.GOARCH), d.path(f.Path)))
		return nil
	}
	d.must(os.WriteFile(d.path(f.Path), f.Data, f.Mode))
	return nil
}

// script runs a maintainer script of the package.
func (d *device) script(name string, env ...string) error {
	if err := d.step(); err != nil {
		return err
	}
	place := "usr/lib/opkg/info/x402-agent." + name
	d.must(os.Chmod(d.path(place), 0o755))
	out, err := d.sh("/"+place, env...)
	for busy := 0; busy < 100 && strings.Contains(out, "Text file busy"); busy++ { // a test beside this one has it open, between fork and exec
		out, err = d.sh("/"+place, env...)
	}
	if err != nil {
		d.t.Errorf("%s failed: %v\n%s", name, err, out)
	}
	d.said = out
	return nil
}

// install installs or upgrades to a package as it was written and read back. It
// returns errCut after d.steps.
func (d *device) install(p Package) error {
	d.t.Helper()
	installed := d.exists("usr/lib/opkg/info/x402-agent.control")
	var env []string
	if installed {
		env = []string{"PKG_UPGRADE=1"}
	}
	c := d.unpack(p)
	if installed && !d.apk {
		if err := d.script("prerm", env...); err != nil {
			return err
		}
	}
	for _, f := range c.files {
		place := f
		if shipped := d.read("usr/lib/opkg/info/shipped/" + f.Path); d.keeps(p, f.Path) && d.exists(f.Path) && d.read(f.Path) != shipped {
			place.Path += map[bool]string{false: "-opkg", true: ".apk-new"}[d.apk]
		}
		if err := d.put(place); err != nil {
			return err
		}
		d.write("usr/lib/opkg/info/shipped/"+f.Path, string(f.Data[:min(len(f.Data), 1<<20)])) // to compare settings with
	}
	for name, text := range c.scripts {
		d.write("usr/lib/opkg/info/x402-agent."+name, text)
	}
	d.write("usr/lib/opkg/info/x402-agent.control", "Require-User: "+c.user+"\n")
	if !d.apk {
		var list strings.Builder
		for _, f := range c.files {
			fmt.Fprintf(&list, "/%s\n", f.Path)
		}
		d.write("usr/lib/opkg/info/x402-agent.list", list.String())
		return d.script("postinst", env...)
	}
	if installed {
		return d.script("post-upgrade")
	}
	return d.script("post-install")
}

// keeps says whether the package manager keeps a file that its owner changed.
func (d *device) keeps(p Package, name string) bool {
	return d.apk && strings.HasPrefix(name, "etc/") || slices.Contains(p.ConfFiles, "/"+name)
}

type contents struct {
	files   packaging.Tree
	scripts map[string]string
	user    string
}

// unpack returns what a package of the device's format holds, read from it.
func (d *device) unpack(p Package) contents {
	d.t.Helper()
	// The program is left out meanwhile: to pack it takes half a minute.
	p.Files = slices.Clone(p.Files)
	program := p.Files.Find("usr/bin/x402-agent").Data
	p.Files.Find("usr/bin/x402-agent").Data = []byte("program")
	var c contents
	if d.apk {
		b, _, err := p.WriteAPK()
		d.must(err)
		read, err := apk.Read(bytes.NewReader(b), nil)
		d.must(err)
		c = contents{read.Files, read.Scripts, ""}
	} else {
		b, _, err := p.WriteIPK()
		d.must(err)
		read, err := ipk.Read(bytes.NewReader(b))
		d.must(err)
		c = contents{read.Files, read.Scripts, read.RequireUser}
	}
	c.files.Find("usr/bin/x402-agent").Data = program
	return c
}

// remove removes the package.
func (d *device) remove(env ...string) {
	d.t.Helper()
	d.must(d.script(map[bool]string{false: "prerm", true: "pre-deinstall"}[d.apk], env...))
	shipped := d.path("usr/lib/opkg/info/shipped")
	d.must(filepath.WalkDir(shipped, func(place string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(shipped, place)
		if err == nil && (!strings.HasPrefix(rel, "etc/config/") || d.read(rel) == d.read("usr/lib/opkg/info/shipped/"+rel)) {
			err = os.RemoveAll(d.path(rel))
		}
		return err
	}))
	d.must(os.RemoveAll(d.path("usr/lib/opkg/info")))
	d.must(os.Mkdir(d.path("usr/lib/opkg/info"), 0o755))
}

// An instance is what the service asked procd for.
type instance map[string][]string

// instance returns what was last asked for, nil if nothing is to run.
func (d *device) instance() instance {
	d.t.Helper()
	var in instance
	for line := range strings.Lines(d.read("tmp/procd")) {
		words := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		switch words[0] {
		case "procd_open_instance":
			in = instance{}
		case "procd_set_param":
			if in == nil || in[words[1]] != nil {
				d.t.Errorf("procd: %s is set twice, or outside", words[1])
				continue
			}
			in[words[1]] = words[2:]
		case "procd_add_jail", "procd_add_jail_mount", "procd_add_jail_mount_rw":
			in[strings.TrimPrefix(words[0], "procd_add_")] = words[1:]
		}
	}
	return in
}

// launch runs the instance as procd does, until the process ends.
func (d *device) launch(in instance) *exec.Cmd {
	d.t.Helper()
	cmd := exec.Command(in["command"][0], in["command"][1:]...)
	cmd.Dir, cmd.Env = "/", append([]string{"PATH=/bin"}, in["env"]...)
	log, err := os.OpenFile(d.path("tmp/agent.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	d.must(err)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: d.root, Credential: &syscall.Credential{
		Uid: d.id("passwd", in["user"][0]), Gid: d.id("group", in["group"][0]), Groups: []uint32{d.id("group", "dialout")},
	}}
	d.must(cmd.Start())
	pidfile := d.path(in["pidfile"][0])
	d.must(os.WriteFile(pidfile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644))
	d.running.Go(func() {
		cmd.Wait() // its end is what counts
		log.Close()
		os.Remove(pidfile)
	})
	d.t.Cleanup(func() { cmd.Process.Kill() }) // an error says that it has ended
	return cmd
}

func (d *device) id(file, name string) uint32 {
	d.t.Helper()
	for line := range strings.Lines(d.read("etc/" + file)) {
		if f := strings.Split(line, ":"); f[0] == name {
			n, err := strconv.ParseUint(f[2], 10, 32)
			d.must(err)
			return uint32(n)
		}
	}
	d.t.Fatalf("no %s in /etc/%s:\n%s", name, file, d.read("etc/"+file))
	return 0
}

// await waits for a file of another process.
func (d *device) await(what string, there func() bool) {
	d.t.Helper()
	tick, end := time.NewTicker(10*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !there() {
		select {
		case <-end:
			d.t.Fatalf("no %s; the agent says:\n%s", what, d.read("tmp/agent.log"))
		case <-tick.C:
		}
	}
}

// uci writes /etc/config/x402: options of sections, each with its name as its
// type. A value that begins with "[" is a list, its items between NULs.
func (d *device) uci(sections map[string]map[string]string) {
	d.t.Helper()
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	var b strings.Builder
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		name, kind, _ := strings.Cut(section, ":")
		if kind == "" {
			kind = name
		}
		fmt.Fprintf(&b, "\nconfig %s %s\n", kind, quote(name))
		for _, option := range slices.Sorted(maps.Keys(sections[section])) {
			value := sections[section][option]
			if items, ok := strings.CutPrefix(value, "["); ok {
				for item := range strings.SplitSeq(items, "\x00") {
					fmt.Fprintf(&b, "\tlist %s %s\n", option, quote(item))
				}
				continue
			}
			fmt.Fprintf(&b, "\toption %s %s\n", option, quote(value))
		}
	}
	d.write("etc/config/x402", b.String())
}

// settings are such that the agent starts, and sells by nobody's leave.
func settings() map[string]map[string]string {
	return map[string]map[string]string{
		"agent": {"enabled": "1", "consent": "1", "listen": "127.0.0.1:0"},
		"modem": {"port": "none"},
		"price": {"per_gb": "4.00"},
		"payment": {
			"facilitator": "http://127.0.0.1:1", "network": "eip155:84532", "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
			"asset_name": "USDC", "asset_version": "2", "pay_to": "0x00000000000000000000000000000000000000aa",
		},
	}
}

// pack is the agent's package with the program of this machine.
func pack(t *testing.T, describe string) Package {
	t.Helper()
	program, err := buildAgent()
	if err != nil {
		t.Fatal(err)
	}
	v, err := ParseVersion(describe)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Agent(v, "x86_64", time.Unix(1_790_000_000, 0), program)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
