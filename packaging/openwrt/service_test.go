package openwrt

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// TestFirstStart: an installed agent sells nothing before its owner has said so
// twice, and says how.
func TestFirstStart(t *testing.T) {
	for name, apk := range managers {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, apk)
			d.must(d.install(pack(t, "v1.0.0")))
			if !strings.Contains(d.said, "sells nothing before you agree: service x402-agent risks") {
				t.Errorf("the installation says %q", d.said)
			}
			if d.instance() != nil || !d.exists("etc/rc.d/S95x402-agent") || d.exists("etc/uci-defaults/90-x402-agent") {
				t.Errorf("after the installation: %v", d.instance())
			}
			if !strings.Contains(d.run("/etc/init.d/x402-agent risks"), "Strangers will use your internet access") {
				t.Error("the risks are not shown")
			}
			config := d.read("etc/config/x402")
			d.write("etc/config/x402", strings.Replace(config, "enabled '0'", "enabled '1'", 1))
			if said := d.run("/etc/init.d/x402-agent start"); d.instance() != nil || !strings.Contains(said, "you have not agreed to what that means. Read: service x402-agent risks") {
				t.Errorf("without consent: %v, %s", d.instance(), said)
			}
			d.write("etc/config/x402", strings.Replace(strings.Replace(config, "enabled '0'", "enabled '1'", 1), "consent '0'", "consent '1'", 1))
			if said := d.run("/etc/init.d/x402-agent start"); d.instance() != nil || !strings.Contains(said, "config price.per_gb: missing") {
				t.Errorf("without settings: %v, %s", d.instance(), said)
			}
			s := settings()
			s["agent"]["memlimit"], s["agent"]["gc"] = "40", "30"
			d.uci(s)
			d.run("/etc/init.d/x402-agent start")
			want := instance{
				"command": {"/usr/bin/x402-agent", "run", "--config", "/var/run/x402-agent/agent.toml"}, "user": {"x402"}, "group": {"x402"},
				"file": {"/etc/config/x402", "/var/run/x402-agent/agent.toml", "/usr/bin/x402-agent"},
				"env":  {"GOMEMLIMIT=40MiB", "GOGC=30"}, "limits": {"core=0", "nofile=16384 16384"},
				"respawn": {"3600", "5", "0"}, "term_timeout": {"25"}, "pidfile": {"/var/run/x402-agent/agent.pid"}, "stdout": {"1"}, "stderr": {"1"},
			}
			if diff := cmp.Diff(want, d.instance()); diff != "" {
				t.Error(diff)
			}
			for _, trigger := range []string{"procd_add_reload_trigger|x402\n", "procd_add_raw_trigger|interface.*.up|3000|/etc/init.d/x402-agent|reload\n"} {
				if !strings.Contains(d.read("tmp/procd"), trigger) {
					t.Errorf("no trigger %s", trigger)
				}
			}
		})
	}
}

// TestCheck: what the facilitator settles in is shown as commands, of which none
// has anything that a shell would run.
func TestCheck(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	d.must(os.Remove(d.path("usr/bin/x402-agent")))
	d.write("usr/bin/x402-agent", `#!/bin/sh
cat <<'END'
warning  offer        settles on eip155:1
                      do: put this under [payment] if you trust it
    network = "eip155:1"
    asset = "0xB0536BAD46D034aB13A2416D49204094770DbB28"
    asset_name = "x402 credit"
    asset_version = "2"
    asset_name = "a'; reboot; '"
    asset_name = "$(reboot)"
x402-agent: 1 of 2 checks failed
END
exit 1
`)
	d.must(os.Chmod(d.path("usr/bin/x402-agent"), 0o755))
	d.uci(settings())
	said, err := d.sh("/etc/init.d/x402-agent check")
	want := `warning  offer        settles on eip155:1
                      do: copy this if you trust it, and uci commit x402
    uci set x402.payment.network='eip155:1'
    uci set x402.payment.asset='0xB0536BAD46D034aB13A2416D49204094770DbB28'
    uci set x402.payment.asset_name='x402 credit'
    uci set x402.payment.asset_version='2'
    asset_name = "a'; reboot; '"
    asset_name = "$(reboot)"
x402-agent: 1 of 2 checks failed
`
	if diff := cmp.Diff(want, said); err == nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// TestJail: who asks for a jail gets one where there is one, with what the agent
// needs in it.
func TestJail(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	s := settings()
	s["agent"]["jail"] = "1"
	s["modem"] = map[string]string{"port": "auto", "pin_file": "/etc/pin"}
	d.write("etc/pin", "1234\n")
	d.uci(s)
	said := d.run("/etc/init.d/x402-agent start")
	if in := d.instance(); in == nil || in["jail"] != nil || in["no_new_privs"] != nil || !strings.Contains(said, "this router has no procd-ujail") {
		t.Errorf("without ujail: %v, %s", in, said)
	}
	d.write("sbin/ujail", "")
	d.must(os.Chmod(d.path("sbin/ujail"), 0o755))
	d.run("/etc/init.d/x402-agent start")
	in, want := d.instance(), instance{
		"jail": {"x402-agent", "procfs"}, "jail_mount": {"/etc/TZ", "/etc/ssl/certs", "/usr/share/zoneinfo", "/etc/pin"},
		"jail_mount_rw": {"/dev", "/sys", "/etc/x402", "/var/run/x402-agent"}, "no_new_privs": {"1"},
	}
	for key := range want {
		if diff := cmp.Diff(want[key], in[key]); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	s["recovery"] = map[string]string{"power_command": "[/usr/sbin/cycle"}
	d.uci(s)
	if said := d.run("/etc/init.d/x402-agent start"); d.instance() != nil || !strings.Contains(said, "x402.agent.jail: cannot be 1 together with recovery.power_command") {
		t.Errorf("with a command: %v, %s", d.instance(), said)
	}
}

// TestSettings renders every option that the agent has, and reads the file with
// another reader of TOML.
func TestSettings(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	odd := `it's "$(touch /tmp/pwned)" ` + "`touch /tmp/pwned`" + ` \ \n \" %s %n * ? [ ] # ; & | < > ü USD₮0`
	s := settings()
	s["agent"]["kcp"], s["agent"]["log_level"] = "1", "warn"
	s["agent"]["endpoints"] = "[192.0.2.1:4402\x00agent.example:4402"
	s["payment"]["asset_name"] = odd
	s["policy"] = map[string]string{"deny_tcp": "[22\x006660-6669", "deny_networks": "198.51.100.0/24"}
	s["plan"] = map[string]string{"size": "20 GB", "reset_day": "1", "roaming": "off", "interface": "wwan0", "schedule": "[mon-fri 22:00-06:00", "used": ""}
	s["settle"] = map[string]string{"every": "12h"}
	s["one:sim"] = map[string]string{"name": "one", "listen": ":4403", "bind_tunnel": "0", "modem_port": "/dev/ttyUSB2", "price_per_gb": "3.00", "policy_interface": "wwan1", "limits_mbits": "20", "plan_size": "5 GB", "plan_reset_day": "3", "recovery_power_command": "[/usr/sbin/cycle\x00two words"}
	delete(s, "modem")
	d.uci(s)
	if said := d.run("/etc/init.d/x402-agent start"); d.instance() == nil {
		t.Fatalf("%s\n%s", said, d.read("var/run/x402-agent/agent.toml"))
	}
	if d.exists("tmp/pwned") {
		t.Error("a value was run")
	}
	var got map[string]any
	if _, err := toml.Decode(d.read("var/run/x402-agent/agent.toml"), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"state_dir": "/etc/x402/state", "control": "/var/run/x402-agent/control/agent.sock", "listen": "127.0.0.1:0", "kcp": true,
		"endpoints": []any{"192.0.2.1:4402", "agent.example:4402"}, "log": map[string]any{"level": "warn"},
		"price": map[string]any{"per_gb": "4.00"}, "settle": map[string]any{"every": "12h"},
		"payment": map[string]any{
			"facilitator": "http://127.0.0.1:1", "network": "eip155:84532", "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
			"asset_name": odd, "asset_version": "2", "pay_to": "0x00000000000000000000000000000000000000aa",
		},
		"policy": map[string]any{"deny_tcp": []any{"22", "6660-6669"}, "deny_networks": []any{"198.51.100.0/24"}},
		"plan":   map[string]any{"size": "20 GB", "reset_day": int64(1), "roaming": false, "interface": "wwan0", "schedule": []any{"mon-fri 22:00-06:00"}},
		"sim": []map[string]any{{
			"name": "one", "listen": ":4403", "bind_tunnel": false, "modem": map[string]any{"port": "/dev/ttyUSB2"}, "price": map[string]any{"per_gb": "3.00"},
			"policy": map[string]any{"interface": "wwan1"}, "limits": map[string]any{"mbits": int64(20)}, "plan": map[string]any{"size": "5 GB", "reset_day": int64(3)},
			"recovery": map[string]any{"power_command": []any{"/usr/sbin/cycle", "two words"}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(d.path("var/run/x402-agent/agent.toml"))
	d.must(err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o640 || st.Uid != 0 || st.Gid != d.id("group", "x402") {
		t.Errorf("agent.toml has mode %v, %d:%d: a PIN may be in it", info.Mode(), st.Uid, st.Gid)
	}
}

// TestHostileSettings: what cannot be written is refused by the option's name, and
// its value, which may be a PIN, shows nowhere.
func TestHostileSettings(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	for want, change := range map[string]func(map[string]map[string]string){
		"x402.price.per_gb: has a line break":           func(s map[string]map[string]string) { s["price"]["per_gb"] = "4\"\nstate_dir = \"/secret" },
		"x402.modem.pin: has a line break":              func(s map[string]map[string]string) { s["modem"]["pin"] = "secret\r" },
		"x402.modem.pin: has a line break or":           func(s map[string]map[string]string) { s["modem"]["pin"] = "secret\x1b[2J" },
		"x402.payment.asset_name: is longer than":       func(s map[string]map[string]string) { s["payment"]["asset_name"] = strings.Repeat("secret", 200) },
		"x402.price.per_bg: there is no such":           func(s map[string]map[string]string) { s["price"]["per_bg"] = "secret" },
		"x402.agent.price: there is no such option":     func(s map[string]map[string]string) { s["agent"]["price"] = "secret" },
		"x402.agent.memlimit: is not a number":          func(s map[string]map[string]string) { s["agent"]["memlimit"] = "1;secret" },
		"x402.limits.mbits: is not a number":            func(s map[string]map[string]string) { s["limits"] = map[string]string{"mbits": "-1secret"} },
		"x402.agent.kcp: is neither 1 nor 0":            func(s map[string]map[string]string) { s["agent"]["kcp"] = "secret" },
		"x402.price.per_gb: is one value, not a list":   func(s map[string]map[string]string) { s["price"]["per_gb"] = "[secret" },
		"x402.agent.relays: has a line break":           func(s map[string]map[string]string) { s["agent"]["relays"] = "[ok\x00secret\n" },
		"x402.odd: there are no sections of the type":   func(s map[string]map[string]string) { s["odd"] = map[string]string{"a": "secret"} },
		"x402.price2: is a second section of the":       func(s map[string]map[string]string) { s["price2:price"] = map[string]string{"per_gb": "secret"} },
		"x402.one.payment_pay_to: there is no such":     func(s map[string]map[string]string) { s["one:sim"] = map[string]string{"payment_pay_to": "secret"} },
		"config limits.mbits: 0 is out of range":        func(s map[string]map[string]string) { s["limits"] = map[string]string{"mbits": "0"} },
		"config line 3: not UTF-8":                      func(s map[string]map[string]string) { s["agent"]["listen"] = "\xff\xfe" },
		"config payment.pay_to: nobody's address; want": func(s map[string]map[string]string) { s["payment"]["pay_to"] = "0x" + strings.Repeat("0", 40) },
	} {
		s := settings()
		change(s)
		d.uci(s)
		said := d.run("/etc/init.d/x402-agent start")
		if d.instance() != nil || !strings.Contains(said, want) {
			t.Errorf("want %q, said %q: %v", want, said, d.instance())
		}
		if strings.Contains(said, "secret") || strings.Contains(d.read("tmp/log"), "secret") {
			t.Errorf("a value is in the log: %s", said)
		}
	}
}

// TestWrongSettingsLater: an agent that runs goes on when its settings become
// wrong, and ends when it is switched off.
func TestWrongSettingsLater(t *testing.T) {
	d := newDevice(t, false)
	d.must(d.install(pack(t, "v1.0.0")))
	d.uci(settings())
	d.run("/etc/init.d/x402-agent start")
	d.launch(d.instance())
	d.await("control socket", func() bool { return d.exists("var/run/x402-agent/control/agent.sock") })
	before := d.read("tmp/procd")
	s := settings()
	s["price"]["per_gb"] = "free"
	d.uci(s)
	if out, err := d.sh("/etc/init.d/x402-agent reload"); err == nil || !strings.Contains(out, "config price.per_gb") {
		t.Errorf("%v: %s", err, out)
	}
	if diff := cmp.Diff(before, d.read("tmp/procd")); diff != "" {
		t.Errorf("procd was told: %s", diff)
	}
	s = settings()
	s["agent"]["enabled"] = "0"
	d.uci(s)
	d.run("/etc/init.d/x402-agent reload")
	if d.instance() != nil {
		t.Errorf("switched off it runs: %v", d.instance())
	}
}

// TestOptions holds the options of UCI against the keys of agent.toml, which
// explains every key, and against the table in the documentation.
func TestOptions(t *testing.T) {
	keys := configKeys(t)
	if len(keys) < 60 {
		t.Fatalf("only %d keys in agent.toml", len(keys))
	}
	docs, err := os.ReadFile("../../docs/openwrt.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for key, kind := range keys {
		out, _ := exec.Command("busybox", "ash", "-c", `. files/usr/share/x402-agent/agent.sh; x402_as=none; x402_kind "$1"; echo $x402_as`, "ash", key).Output()
		switch got := strings.TrimSpace(string(out)); {
		case key == "agent.state_dir" || key == "agent.control" || key == "log.format" || key == "log.level": // the service's own
			if got != "none" {
				t.Errorf("%s is %s", key, got)
			}
		case got != kind:
			t.Errorf("%s is %s, want %s", key, got, kind)
		case !strings.Contains(string(docs), "`"+strings.TrimPrefix(key[strings.IndexByte(key, '.'):], ".")+"`"):
			t.Errorf("docs/openwrt.md does not name %s", key)
		}
	}
}

// configKeys are the keys of packaging/agent.toml and how each is written.
func configKeys(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../agent.toml")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	table := "agent"
	line := regexp.MustCompile(`^#?(?:\[([a-z]+)\]|([a-z_]+) = (.).*)$`)
	for text := range strings.Lines(string(text)) {
		m := line.FindStringSubmatch(strings.TrimSuffix(text, "\n"))
		switch {
		case m == nil:
		case m[1] != "":
			table = m[1]
		default:
			keys[table+"."+m[2]] = map[string]string{`"`: "text", "[": "list", "t": "bool", "f": "bool"}[m[3]]
			if m[3][0] >= '0' && m[3][0] <= '9' {
				keys[table+"."+m[2]] = "number"
			}
		}
	}
	return keys
}
