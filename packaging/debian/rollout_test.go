package debian_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A fleet is some hubs, a Debian repository that they can read, and Ansible,
// which enters the hubs in the place of ssh. The first hubs are hub1, where a
// rollout begins, and hub2, which has a price and a plan of its own.
type fleet struct {
	hubs      map[string]*hub
	tool, key string // of scripts/release
	deb       string // the agent's package
	inventory string
	config    map[string]any
	retries   int // how often it is asked whether a hub is well
}

const owner = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

// hubsVar is how many hubs the fleet has: at least 2, which are enough to see
// that one is looked at before another is touched.
const hubsVar = "X402_HUBS"

// hubNames are the names of the fleet's hubs, which are also their order.
func hubNames(t *testing.T) (names []string) {
	t.Helper()
	n := 2
	if s := os.Getenv(hubsVar); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 2 || n > 99 {
			t.Fatalf("%s=%s: want 2 to 99", hubsVar, s)
		}
	}
	for i := range n {
		names = append(names, fmt.Sprintf("hub%d", i+1))
	}
	return names
}

// listenOf is where a hub's agent listens: all hubs are in one network namespace.
func listenOf(name string) string {
	n, _ := strconv.Atoi(name[len("hub"):]) // of hubNames
	return fmt.Sprintf("127.0.0.1:%d", 4400+n)
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	needHubs(t)
	need(t, "ansible-playbook", "dpkg-deb")
	debs, netns, dir := packages(t), newNamespace(t), t.TempDir()
	network, asset := ledgerIn(t, netns, debs["x402-facilitator"])
	f := &fleet{hubs: map[string]*hub{}, deb: debs["x402-agent"], tool: filepath.Join(dir, "release"), key: filepath.Join(dir, "test"), inventory: filepath.Join(dir, "hubs.json"), retries: 30}
	run(t, "env", "CGO_ENABLED=0", "go", "build", "-o", f.tool, top+"/scripts/release")
	run(t, f.tool, "key", f.key)
	began := time.Now()
	for _, name := range hubNames(t) {
		f.hubs[name] = newHub(t, name, netns)
	}
	t.Logf("%d hubs run after %.0f s", len(f.hubs), time.Since(began).Seconds())
	f.config = map[string]any{
		"modem":   map[string]any{"port": "none"},
		"price":   map[string]any{"per_gb": "4.00"},
		"payment": map[string]any{"facilitator": "http://127.0.0.1:8402", "network": network, "asset": asset, "asset_name": "x402 credit", "asset_version": "2", "pay_to": owner},
	}
	var ssh strings.Builder
	ssh.WriteString("#!/bin/sh\n# ssh OPTION... HOST COMMAND\nwhile [ $# -gt 2 ]; do shift; done\ncase $1 in\n")
	for name, h := range f.hubs {
		ssh.WriteString(name + ") exec nsenter -t " + h.pid + " " + strings.Join(enter, " ") + " sh -c \"$2\" ;;\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(ssh.String()+"esac\nexit 255\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.publish(t, f.deb)
	return f
}

// publish puts a package into the hubs' repository.
func (f *fleet) publish(t *testing.T, deb string, flags ...string) {
	t.Helper()
	for _, h := range f.hubs {
		run(t, f.tool, append(append([]string{"apt", "-root", filepath.Join(h.root, "srv/apt"), "-key", f.key + ".key"}, flags...), deb)...)
	}
}

// roll runs the playbook and returns what it says.
func (f *fleet) roll(t *testing.T) (string, error) {
	t.Helper()
	hosts := map[string]any{}
	for name := range f.hubs {
		config := map[string]any{"listen": listenOf(name), "endpoints": []string{listenOf(name)}}
		if name == "hub2" {
			config["price"], config["plan"] = map[string]any{"per_gb": "3.00"}, map[string]any{"size": "50 GB", "reset_day": 15, "interface": "lo"}
		}
		hosts[name] = map[string]any{"x402_agent_host_config": config}
	}
	b, err := json.Marshal(map[string]any{"hubs": map[string]any{
		"hosts": hosts,
		"vars": map[string]any{
			"ansible_ssh_executable": filepath.Join(filepath.Dir(f.inventory), "ssh"), "ansible_ssh_transfer_method": "piped",
			"ansible_become": false, "ansible_python_interpreter": "/usr/bin/python3",
			"x402_apt_url": "file:/srv/apt", "x402_apt_key": f.key + ".pgp", "x402_agent_config": f.config,
			"x402_agent_health_retries": f.retries, "x402_agent_health_delay": 1,
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.inventory, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ansible-playbook", "-i", f.inventory, "site.yml")
	cmd.Dir = top + "/packaging/ansible"
	cmd.Env = append(os.Environ(), "ANSIBLE_NOCOLOR=1", "ANSIBLE_LOCAL_TEMP="+t.TempDir(), "LC_ALL=C.UTF-8")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("the playbook took %.0f s for %d hubs", time.Since(began).Seconds(), len(f.hubs))
	return string(out), err
}

// state is what a hub's agent says when it sells, or after a minute what it says
// then, and its version.
func (f *fleet) state(t *testing.T, name string) (version string, s status) {
	t.Helper()
	said := f.hubs[name].do(t, `n=0
		until said=$(x402-agent status --json 2>&1) && ! echo "$said" | grep -q '"refusing"' || [ $((n += 1)) -gt 300 ]; do sleep 0.2; done
		echo "$said"`)
	if err := json.Unmarshal([]byte(said), &s); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return f.hubs[name].do(t, "dpkg-query -W -f '${Version}' x402-agent"), s
}

type status struct {
	Refusing string
	PID      int
	PayTo    string
	Listen   string
	Price    struct{ Up, Down string }
	Plan     *struct{ Size uint64 }
}

// repack is the agent's package with another version, and changed by a script
// that runs in its files.
func (f *fleet) repack(t *testing.T, version, script string) string {
	t.Helper()
	dir, deb := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "x402-agent.deb")
	run(t, "dpkg-deb", "-R", f.deb, dir)
	run(t, "sh", "-euc", `cd "$1"; sed -i "s/^Version: .*/Version: $2/" DEBIAN/control; `+script, "sh", dir, version)
	run(t, "dpkg-deb", "-Zgzip", "-z1", "-b", dir, deb)
	return deb
}

// TestRollout rolls the agent out with the playbook, and then what goes wrong:
// each hub is looked at before the next one is touched, and gets back what it
// had.
func TestRollout(t *testing.T) {
	f := newFleet(t)
	out, err := f.roll(t)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pids := map[string]int{}
	for name := range f.hubs {
		price := map[bool]string{false: "4000000", true: "3000000"}[name == "hub2"]
		v, s := f.state(t, name)
		if v != version || s.Refusing != "" || !strings.EqualFold(s.PayTo, owner) || s.Listen != listenOf(name) || s.Price.Down != price || (s.Plan != nil) != (name == "hub2") {
			t.Errorf("%s: %s %+v", name, v, s)
		}
		pids[name] = s.PID
	}
	if out, err := f.roll(t); err != nil || strings.Count(out, "changed=0 ") != len(f.hubs) {
		t.Errorf("the second time: %v\n%s", err, out)
	}

	// What is bad does not become well by waiting.
	retries := f.retries
	f.retries = 2
	t.Run("bad config", func(t *testing.T) {
		price := f.config["price"]
		defer func() { f.config["price"] = price }()
		f.config["price"] = map[string]any{"per_gb": "cheap"}
		if out, err := f.roll(t); err == nil || !strings.Contains(out, "version and config are as before") {
			t.Errorf("%v\n%s", err, out)
		}
		for name := range f.hubs {
			if _, s := f.state(t, name); s.Refusing != "" || name != "hub1" && s.PID != pids[name] {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
	t.Run("bad version", func(t *testing.T) {
		f.publish(t, f.repack(t, "1.3.0", `printf '#!/bin/sh\nexit 1\n' >usr/bin/x402-agent`))
		if out, err := f.roll(t); err == nil || !strings.Contains(out, "version and config are as before") {
			t.Errorf("%v\n%s", err, out)
		}
		for name := range f.hubs {
			if v, s := f.state(t, name); v != version || s.Refusing != "" || name != "hub1" && s.PID != pids[name] {
				t.Errorf("%s: %s %+v", name, v, s)
			}
		}
	})
	f.retries = retries
	t.Run("good version", func(t *testing.T) {
		f.publish(t, f.repack(t, "1.4.0", ":"))
		if out, err := f.roll(t); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		for name := range f.hubs {
			if v, s := f.state(t, name); v != "1.4.0" || s.Refusing != "" || s.PID == pids[name] {
				t.Errorf("%s: %s %+v", name, v, s)
			}
		}
	})
	t.Run("by themselves", f.upgradeThemselves)
}

// upgradeThemselves has a hub run what its timer would.
func (f *fleet) upgradeThemselves(t *testing.T) {
	h := f.hubs["hub1"]
	update := func(want, failed string) {
		t.Helper()
		h.do(t, "systemctl start x402-agent-update || [ -n '"+failed+"' ]")
		if v, s := f.state(t, "hub1"); v != want || s.Refusing != "" {
			t.Errorf("version %s, want %s; %+v", v, want, s)
		}
		if got := h.do(t, "systemctl show -p Result --value x402-agent-update"); (got == "success\n") != (failed == "") {
			t.Errorf("the update's result is %s", got)
		}
	}
	update("1.4.0", "") // there is nothing new
	bad := f.repack(t, "1.5.0", `printf '#!/bin/sh\nexit 1\n' >usr/bin/x402-agent`)
	f.publish(t, bad, "-phase", "0")
	update("1.4.0", "") // not for this hub yet
	h.do(t, "mkdir -p /etc/systemd/system/x402-agent-update.service.d; printf '[Service]\nExecStart=\nExecStart=/usr/lib/x402-agent/update 5\n' >/etc/systemd/system/x402-agent-update.service.d/test.conf; systemctl daemon-reload")
	f.publish(t, bad)
	update("1.4.0", "it is taken back")
	update("1.4.0", "") // and not tried again
	f.publish(t, f.repack(t, "1.6.0", ":"))
	update("1.6.0", "")
}
