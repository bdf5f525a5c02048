package directory

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/tunnel/relay/server"
)

const shippedFile = "../../packaging/relay.toml"

// minimal is the shortest file of a relay.
const minimal = "public = 'relay.example:4433'\n"

func compareConfigs() cmp.Options {
	return cmp.Options{cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}), cmpopts.EquateEmpty()}
}

func TestConfigMinimal(t *testing.T) {
	f, err := parseConfig("/etc/x402/relay.toml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := ConfigFile{Path: "/etc/x402/relay.toml", Config: Config{
		Listen: netip.MustParseAddrPort("[::]:4433"), Host: "relay.example", KeyFile: "/etc/x402/relay.key", Drain: 10 * time.Second,
	}}
	if diff := cmp.Diff(want, f, compareConfigs()); diff != "" {
		t.Error(diff)
	}
}

// TestConfigShipped parses the file that is shipped, as it is and with every
// setting in use, and holds its keys against those that there are.
func TestConfigShipped(t *testing.T) {
	b, err := os.ReadFile(shippedFile)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := parseConfig("/etc/x402/relay.toml", b)
	if err != nil {
		t.Fatal(err)
	}
	if plain.Config.KeyFile != "/var/lib/x402-relay/relay.key" || plain.Config.Host != "relay.example.org" || plain.Warnings != nil {
		t.Errorf("%+v", plain)
	}
	const payTo = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	used := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAll(bytes.Replace(b, []byte("0x…"), []byte(payTo), 1), []byte("$1"))
	full, err := parseConfig("/etc/x402/relay.toml", used)
	if err != nil {
		t.Fatal(err)
	}
	// Where there is a default, it is what is shown: of the server, or ours.
	l := full.Config.Limits
	if l.Requests != (server.Rate{N: 60, Per: 10 * time.Second}) || l.SessionRequests != (server.Rate{N: 20, Per: 10 * time.Second}) ||
		l.Hellos != (server.Rate{N: 300, Per: time.Minute}) || l.Agents != 10_000 || l.SourceAgents != 256 || l.Connections != 10_000 ||
		l.SourceConnections != 256 || l.Sessions != defaultSessions || l.AgentSessions != 128 || l.SourceSessions != 64 {
		t.Errorf("%+v", l)
	}
	if l.SessionBytes != 12_500_000 || l.AgentQuota != 500e9 || l.SourceQuota != 100e9 {
		t.Errorf("%+v", l)
	}
	c := full.Config
	if c.Offers != maxOffers || c.Drain != defaultDrain || c.Metrics != "" || full.Log != plain.Log || c.Listen != plain.Config.Listen ||
		c.Ports != (server.Ports{First: 20000, Last: 29999}) || len(c.Public) != 2 || c.CertFile == "" || c.KeyFile == "" {
		t.Errorf("%+v", c)
	}
	if plain.Config.Toll.Price != 0 || plain.Config.Gateway.Wallet != "" || plain.Config.Watch.Facilitators != nil {
		t.Error("the shipped file charges, has a gateway or keeps claims")
	}
	if w := full.Config.Watch; w.Every != 5*time.Minute || w.Channels != 20_000 || len(w.Facilitators) != 1 {
		t.Errorf("%+v", w)
	}
	toll := full.Config.Toll
	if p := toll.Payment; toll.Price != 200_000 || p.PayTo.String() != payTo || p.AssetName != "USDC" || p.Network != "eip155:84532" || toll.StateDir != "/var/lib/x402-relay" {
		t.Errorf("%+v", toll)
	}
	bare := TollConfig{Price: toll.Price, Payment: toll.Payment, StateDir: toll.StateDir}
	bare.Payment.WithdrawDelay, bare.Payment.MinDeposit = 0, 0
	if diff := cmp.Diff(toll, bare.withDefaults()); diff != "" {
		t.Errorf("what is shown is not the default: %s", diff)
	}
	table, documented := "", []string(nil)
	for line := range strings.Lines(string(b)) {
		if m := regexp.MustCompile(`^\[(.+)\]$`).FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			table = m[1] + "."
		}
		if m := regexp.MustCompile(`^#?([a-z_]+) = `).FindStringSubmatch(line); m != nil {
			documented = append(documented, table+m[1])
		}
	}
	var known []string
	raw := &rawFile{file: &ConfigFile{}}
	for _, k := range slices.Concat(raw.keys(), raw.tollKeys(), raw.gatewayKeys(), raw.watchKeys()) {
		known = append(known, k.name)
	}
	slices.Sort(documented)
	slices.Sort(known)
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("keys and those in the file: %s", diff)
	}
}

func TestConfigValues(t *testing.T) {
	f, err := parseConfig("relay.toml", []byte(`
public = "[2001:db8::1]:443"
listen = "192.0.2.7:443"
addresses = ["2001:db8::1", "192.0.2.1"]
cert_file = "cert.pem"
key_file = "/key.pem"
session_ports = "1000-1009"
drain = "0s"
[limits]
sessions = 7
session_mbits = 8
[metrics]
listen = ":9403"
[log]
level = "warn"
format = "json"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := ConfigFile{Path: "relay.toml", Config: Config{
		Listen: netip.MustParseAddrPort("192.0.2.7:443"), Host: "2001:db8::1",
		Public:   []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")},
		CertFile: "cert.pem", KeyFile: "/key.pem", Ports: server.Ports{First: 1000, Last: 1009},
		Limits: server.Limits{Sessions: 7, SessionBytes: 1_000_000}, Metrics: "[::]:9403",
	}, Log: LogConfig{slog.LevelWarn, true}, Warnings: []string{
		"session_ports: 10 ports are enough for 5 sessions, and limits.sessions is 7: each takes two",
		"metrics.listen: who reaches [::]:9403 sees the relay's figures",
	}}
	if diff := cmp.Diff(want, f, compareConfigs()); diff != "" {
		t.Error(diff)
	}
}

func TestConfigProblems(t *testing.T) {
	for content, want := range map[string][]string{
		"":       {"public: missing; want HOST:PORT such as 'relay.example.org:4433'"},
		"public": {"line 1: "},
		minimal + "publik = 'a'": {
			`unknown key "publik": outside of tables there are listen, public, addresses, key_file, cert_file, networks, session_ports, drain`},
		minimal + "[limit]\nagents = 1":                                 {`unknown key "limit.agents": there is no table "limit"`},
		minimal + "[metrics]\nport = 1":                                 {`unknown key "metrics.port": [metrics] has listen`},
		minimal + "limits = 1":                                          {`unknown key "limits": outside of tables there are listen, `},
		minimal + "'log.level' = 'warn'":                                {"unknown key \"\\\"log.level\\\"\""},
		minimal + "drain = 10":                                          {"drain: want a time from '0s' to '10m'"},
		minimal + "drain = '1h'":                                        {`drain: "1h"; want `},
		minimal + "drain = '-1s'":                                       {`drain: "-1s"; want `},
		minimal + "listen = '4433'":                                     {`listen: "4433"; want `},
		minimal + "listen = 'localhost:4433'":                           {`listen: "localhost" is not an IP address; want `},
		minimal + "listen = ':99999'":                                   {`listen: port "99999"; want `},
		minimal + "listen = ':443'":                                     {"public: port 4433, and listen has port 443; want "},
		minimal + "addresses = ['a']":                                   {`addresses: "a"; want `},
		minimal + "addresses = ['::']":                                  {`addresses: "::"; want `},
		minimal + "addresses = ['192.0.2.1', '192.0.2.2']":              {"addresses: two of one kind; want "},
		minimal + "addresses = '192.0.2.1'":                             {"addresses: want a list "},
		minimal + "session_ports = '9'":                                 {`session_ports: "9"; want `},
		minimal + "session_ports = '9-8'":                               {`session_ports: "9-8"; want `},
		minimal + "session_ports = '4000-5000'":                         {"session_ports: listen's port 4433 is in it; want "},
		minimal + "[limits]\nagents = 0":                                {"limits.agents: 0 is out of range; want a number from 1 to 1000000"},
		minimal + "[limits]\nsource_requests = 100001":                  {"limits.source_requests: 100001 is out of range; want "},
		minimal + "[limits]\nagents = 'many'":                           {"limits.agents: want a number from 1 to 1000000"},
		minimal + "[metrics]\nlisten = 9403":                            {`metrics.listen: ""; want `},
		minimal + "[log]\nlevel = 'loud'":                               {"log.level: want 'debug', 'info', 'warn' or 'error'"},
		minimal + "[log]\nformat = 1":                                   {"log.format: want 'text' or 'json'"},
		"key_file = ''\npublic = 'relay.example'":                       {`public: "relay.example"; want `, "key_file: want "},
		"public = 'relay.example:4433#" + strings.Repeat("0", 64) + "'": {"public: "},
		"public = '0.0.0.0:4433'":                                       {"public: 0.0.0.0 is no address that can be reached; want "},
		"drain = 1\nlisten = 2\n[log]\nlevel = 3\n[x]\ny = 4":           {"listen: ", "drain: ", "log.level: ", `unknown key "x.y"`, "public: missing"},
	} {
		_, err := parseConfig("relay.toml", []byte(content))
		e, ok := errors.AsType[*ConfigError](err)
		if !ok {
			t.Errorf("%q: %v", content, err)
			continue
		}
		if !slices.EqualFunc(e.Problems, want, strings.HasPrefix) {
			t.Errorf("%q:\n%q, want\n%q", content, e.Problems, want)
		}
		if strings.Contains(err.Error(), "\n") || len(want) > 1 != strings.Contains(err.Error(), "`x402-relay check` lists them") {
			t.Errorf("%q", err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile(shippedFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(minimal))
	f.Add([]byte("a.b.c = [{}, 1979-05-27]\n[limits.x]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := parseConfig("relay.toml", content)
		if e, ok := errors.AsType[*ConfigError](err); err != nil && (!ok || len(e.Problems) == 0) {
			t.Fatal(err)
		}
		if err == nil && (c.Config.host() == "" || !c.Config.Listen.IsValid()) {
			t.Fatalf("%+v", c)
		}
	})
}

// results are what Check finds, by name.
func results(t *testing.T, f ConfigFile, err error) map[string]Finding {
	t.Helper()
	found := map[string]Finding{}
	for _, c := range Check(t.Context(), f, err) {
		found[c.Name] = c
	}
	return found
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "relay.toml")
	if err := os.WriteFile(path, []byte("listen = '127.0.0.1:0'\nkey_file = 'a/b/key'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := ReadConfigFile(path)
	found := results(t, f, err)
	for _, name := range []string{"config", "key", "public", "listen"} {
		if found[name].Result != CheckOK {
			t.Errorf("%+v", found[name])
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("checking made something")
	}
	if _, err := f.Config.Name(); err == nil || !strings.Contains(err.Error(), "no name yet") {
		t.Errorf("a name without a port: %v", err)
	}
	f.Config.Listen = netip.MustParseAddrPort("127.0.0.1:4433")
	name, err := f.Config.Name()
	if again, err2 := f.Config.Name(); err != nil || err2 != nil || again != name || !name.Pinned {
		t.Errorf("%v, %v, then %v, %v", name, err, again, err2)
	}
	key := filepath.Join(dir, "a/b/key")
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if k := results(t, f, nil)["key"]; k.Result != CheckOK || !strings.Contains(k.Text, name.String()) {
		t.Errorf("%+v", k)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if k := results(t, f, nil)["key"]; k.Result != CheckWarning || !strings.Contains(k.Do, "chmod 600") {
		t.Errorf("%+v", k)
	}
	if err := os.WriteFile(key, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k := results(t, f, nil)["key"]; k.Result != CheckFailed || strings.Contains(k.Text, "garbage") {
		t.Errorf("%+v", k)
	}

	f.Config.Limits.Sessions = 1 << 30
	f.Config.Host, f.Config.Listen = "192.168.1.1", netip.MustParseAddrPort("192.0.2.1:4433")
	found = results(t, f, nil)
	if found["files"].Result != CheckWarning || found["public"].Result != CheckWarning || found["listen"].Result != CheckFailed {
		t.Errorf("%+v", found)
	}
	f.Config.Host = "2001:db8::1"
	if p := results(t, f, nil)["public"]; p.Result != CheckFailed || !strings.Contains(p.Text, "another kind") {
		t.Errorf("%+v", p)
	}
	l, u := bothPorts(t)
	defer l.Close()
	defer u.Close()
	f.Config.Listen = netip.MustParseAddrPort(l.Addr().String())
	if p := results(t, f, nil)["listen"]; p.Result != CheckWarning {
		t.Errorf("a running relay: %+v", p)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	if p := results(t, f, nil)["listen"]; p.Result != CheckFailed || !strings.Contains(p.Text, "in use") {
		t.Errorf("a port of another program: %+v", p)
	}

	_, err = ReadConfigFile(filepath.Join(dir, "none"))
	if c := results(t, ConfigFile{}, err)["config"]; c.Result != CheckFailed {
		t.Errorf("%+v", c)
	}
}

// bothPorts listens on a TCP and a UDP port of the same number, below those that
// the system gives to programs beside this one.
func bothPorts(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for port := 20_000; port < 30_000; port++ {
		at := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", at)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", at)
		if err == nil {
			return l, u
		}
		l.Close()
	}
	t.Fatal("no port is free")
	return nil, nil
}

// certificate writes a certificate for relay.example and its key.
func certificate(t *testing.T, from, until time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.example"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if err := errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

func TestCheckCertificate(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	c := Config{Listen: netip.MustParseAddrPort("127.0.0.1:4433"), Host: "relay.example"}
	for name, test := range map[string]struct {
		from, until time.Duration
		want, text  string
	}{
		"good":    {-day, 90 * day, CheckOK, "until 2026-04-01; the relay's name is relay.example:4433"},
		"ending":  {-day, 13 * day, CheckWarning, "expires on 2026-01-14"},
		"ended":   {-9 * day, -day, CheckFailed, "expired on 2025-12-31"},
		"too new": {day, 90 * day, CheckFailed, "not valid before 2026-01-02"},
	} {
		c.CertFile, c.KeyFile = certificate(t, now.Add(test.from), now.Add(test.until))
		if got := c.checkCertificate(now); got.Result != test.want || got.Text != test.text {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if name, err := c.Name(); err != nil || name.String() != "relay.example:4433" {
		t.Error(name, err)
	}
	c.Host = "other.example"
	if got := c.checkCertificate(now); got.Result != CheckFailed || !strings.Contains(got.Text, "other.example") {
		t.Errorf("%+v", got)
	}
	c.KeyFile = c.CertFile
	if got := c.checkCertificate(now); got.Result != CheckFailed {
		t.Errorf("%+v", got)
	}
}
