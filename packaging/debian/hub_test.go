package debian_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A hub is a machine of its own, as far as systemd, dpkg and the programs see: a
// container with this machine's files, in which what is written stays. It has
// the network of a namespace that the test made.
type hub struct {
	name string
	root string // its files, from here
	pid  string // of its init
}

// patience is how long a hub may take to start, or to stop.
const patience = 2 * time.Minute

// newHub starts a hub in the network namespace.
func newHub(t *testing.T, name, netns string) *hub {
	t.Helper()
	dir := t.TempDir()
	h := &hub{name: name, root: filepath.Join(dir, "root")}
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=/,upperdir=%[1]s/upper,workdir=%[1]s/work", dir), h.root)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", h.root).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	// Nothing of this machine's own runs or is asked for in it.
	run(t, "sh", "-euc", `cd "$1"
		rm -rf etc/systemd/system/*.wants etc/apt/sources.list etc/apt/sources.list.d etc/apt/apt.conf.d/20packagekit srv/* usr/sbin/policy-rc.d
		mkdir etc/apt/sources.list.d
		echo force-unsafe-io >etc/dpkg/dpkg.cfg.d/x402-test
		echo "$2" >etc/hostname
		tr -d - </proc/sys/kernel/random/uuid >etc/machine-id`, "sh", h.root, name)
	h.boot(t, netns)
	return h
}

// boot starts the hub's init and waits until it says that all has started.
func (h *hub) boot(t *testing.T, netns string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("systemd-nspawn", "-q", "-D", h.root, "--machine="+h.name, "--register=no", "--keep-unit", "--console=pipe",
		"--network-namespace-path=/run/netns/"+netns, "--notify-ready=yes", "--boot", "systemd.unit=multi-user.target")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.stop(t, cmd) })
	said := make([]byte, 4096)
	if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	leader := regexp.MustCompile(`(?m)^X_NSPAWN_LEADER_PID=(\d+)$`)
	for ready := false; !ready || h.pid == ""; {
		n, err := notify.Read(said)
		if err != nil {
			text, _ := os.ReadFile(log.Name()) // all that there is to say
			t.Fatalf("%s does not start: %v\n%s", h.name, err, text)
		}
		ready = ready || strings.Contains(string(said[:n]), "READY=1")
		if m := leader.FindSubmatch(said[:n]); m != nil {
			h.pid = string(m[1])
		}
	}
}

// stop has the hub shut down, and ends it if it does not.
func (h *hub) stop(t *testing.T, cmd *exec.Cmd) {
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // it may have ended just now
	defer timer.Stop()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // its exit status is the container's
}

// enter is how a command line is run in a hub.
var enter = []string{"-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}

// do runs a command line in the hub.
func (h *hub) do(t *testing.T, line string) string {
	t.Helper()
	return run(t, "nsenter", append(append([]string{"-t", h.pid}, enter...), "sh", "-euc", line)...)
}

// newNamespace makes a network namespace with a loopback.
func newNamespace(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("x402-debian-%d", os.Getpid())
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	run(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

// needHubs is what hubs take.
func needHubs(t *testing.T) {
	t.Helper()
	needRoot(t)
	need(t, "systemd-nspawn", "nsenter", "ip", "mount", "umount", "dpkg")
}

// ledgerIn starts a facilitator in a namespace and returns its network and asset.
func ledgerIn(t *testing.T, netns, deb string) (network, asset string) {
	t.Helper()
	dir := t.TempDir()
	run(t, "dpkg-deb", "-x", deb, dir)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", netns, filepath.Join(dir, "usr/bin/x402-facilitator"), "run", "--dir", filepath.Join(dir, "ledger"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // ip has become the facilitator
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was told to end
		_ = r.Close()
	})
	_ = w.Close() // the facilitator has it
	var said string
	b := make([]byte, 4096)
	for !strings.Contains(said, "listening on") {
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("facilitator: %v: %s", err, said)
		}
		said += string(b[:n])
	}
	m := regexp.MustCompile(`network=(\S+) asset=(\S+)`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("facilitator: %s", said)
	}
	return m[1], m[2]
}

// TestHub installs, starts, upgrades and removes the services on a machine where
// systemd runs them, within what the units allow.
func TestHub(t *testing.T) {
	needHubs(t)
	debs := packages(t)
	netns := newNamespace(t)
	h := newHub(t, "hub", netns)
	for name, deb := range debs {
		run(t, "cp", deb, filepath.Join(h.root, "srv", name+".deb"))
	}
	h.do(t, "dpkg -i /srv/x402*.deb")

	// The agent as it comes sells nothing, and says why.
	h.do(t, "! systemctl is-enabled x402-agent")
	h.do(t, "systemctl start x402-agent; systemctl start --wait x402-agent || true")
	if got := h.do(t, "systemctl show -p ActiveState,ExecMainStatus,NRestarts x402-agent"); !strings.Contains(got, "ActiveState=failed") ||
		!strings.Contains(got, "ExecMainStatus=2") || !strings.Contains(got, "NRestarts=0") {
		t.Errorf("without a config: %s", got)
	}
	if got := h.do(t, "journalctl -u x402-agent -o cat"); !strings.Contains(got, "payment.facilitator: missing") {
		t.Errorf("without a config it logs %s", got)
	}

	h.do(t, `
		systemctl enable --now x402-facilitator
		until [ -e /run/x402-facilitator/ready ]; do sleep 0.1; done
		said=$(journalctl -u x402-facilitator -o cat)
		network=$(echo "$said" | grep -o 'network=[^ ]*' | cut -d= -f2)
		asset=$(echo "$said" | grep -o 'asset=[^ ]*' | cut -d= -f2)
		sed -i -e 's|^port = .*|port = "none"|' -e 's|^#facilitator = .*|facilitator = "http://127.0.0.1:8402"|' \
			-e "s|^#network = .*|network = \"$network\"|" -e "s|^#asset = .*|asset = \"$asset\"|" -e 's|^#asset_name = .*|asset_name = "x402 credit"|' \
			-e 's|^#asset_version = |asset_version = |' -e 's|^#pay_to = .*|pay_to = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"|' \
			-e 's|^#endpoints = .*|endpoints = ["127.0.0.1:4402"]|' /etc/x402/agent.toml
		sed -i -e 's|^public = .*|public = "127.0.0.1:443"|' -e 's|^#listen = ":4433"|listen = "127.0.0.1:443"|' /etc/x402/relay.toml
		systemctl enable --now x402-agent x402-relay
		until [ -e /run/x402-agent/ready ] && [ -e /run/x402-relay/ready ]; do sleep 0.1; done`)
	if got := h.do(t, "x402-agent status --json"); strings.Contains(got, `"refusing"`) {
		t.Errorf("the agent does not sell: %s", got)
	}
	pid := h.do(t, "systemctl show -p MainPID --value x402-agent")

	// What the unit leaves it.
	if got := h.do(t, "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$(systemctl show -p MainPID --value x402-agent)/status"); got != "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n" {
		t.Errorf("the agent has %s", got)
	}

	// An upgrade starts what ran.
	h.do(t, "dpkg -i /srv/x402*.deb; until [ -e /run/x402-agent/ready ] && x402-agent status >/dev/null; do sleep 0.1; done")
	if now := h.do(t, "systemctl show -p MainPID --value x402-agent"); now == pid {
		t.Error("an upgrade left the old agent running")
	}
	h.do(t, "systemctl is-active x402-agent x402-relay x402-facilitator")

	h.do(t, "dpkg --remove x402-agent x402-relay")
	if got := h.do(t, "ps -eo args | grep -E '^/usr/bin/x402-(agent|relay)' || true"); got != "" {
		t.Errorf("removed and running: %s", got)
	}
	h.do(t, "dpkg --purge x402-agent x402-relay x402-facilitator; [ ! -e /var/lib/x402-agent ]; [ -e /var/lib/x402-facilitator/ledger.db ]")
}
