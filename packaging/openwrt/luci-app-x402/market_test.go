package luci_test

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A market is what a router needs around it, all on loopback: a facilitator, a
// relay with an agent that sells already, a modem that is played, and a buyer.
type market struct {
	t           *testing.T
	bin, dir    string
	facilitator string // its URL
	relay       string // its name
	tty         string // the modem's
}

// build builds the commands.
func build(t *testing.T) string {
	t.Helper()
	// The go command does not know that the test runs what it builds here: reading
	// the sources makes them part of what a cached result depends on.
	err := filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "dist" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
			_, err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+string(filepath.Separator),
		"./cmd/x402", "./cmd/x402-agent", "./cmd/x402-facilitator", "./cmd/x402-relay")
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the commands: %v\n%s", err, out)
	}
	return dir
}

func (m *market) path(name string) string { return filepath.Join(m.dir, name) }

func (m *market) command(name string) string { return filepath.Join(m.bin, name) }

// run runs a command that ends.
func (m *market) run(name string, args ...string) string {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), m.command(name), args...)
	cmd.Dir = m.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// openMarket starts all but the buyer.
func openMarket(t *testing.T) *market {
	t.Helper()
	m := &market{t: t, bin: build(t), dir: t.TempDir()}
	write(t, m.path("relay.toml"), "public = \"127.0.0.1:0\"\nlisten = \"127.0.0.1:0\"\nkey_file = \"relay.key\"\n")
	f := start(t, m.path("facilitator.log"), m.command("x402-facilitator"), "run", "--ledger", "embedded", "--dir", "ledger", "--listen", "127.0.0.1:0", "--dev", "--ready-file", "facilitator.ready")
	r := start(t, m.path("relay.log"), m.command("x402-relay"), "run", "--config", "relay.toml", "--ready-file", "relay.ready")
	m.tty = m.path("tty")
	modem := start(t, m.path("modem.log"), m.command("x402"), "modemsim", "--profile", "quectel", "--imsi", "262011234567890", "--operator", operator(), "--link", m.tty)
	m.facilitator = f.file(t, m.path("facilitator.ready"))
	var ready struct{ Relay string }
	if err := json.Unmarshal([]byte(r.file(t, m.path("relay.ready"))), &ready); err != nil {
		t.Fatal(err)
	}
	m.relay = ready.Relay
	modem.file(t, m.path("modem.log"))
	var s struct {
		Kinds []struct {
			Network string
			Extra   struct{ Asset, Name, Version string }
		}
	}
	resp, err := http.Get(m.facilitator + "/supported")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	k := s.Kinds[0]
	write(t, m.path("rival.toml"), fmt.Sprintf("state_dir = \"rival\"\nlisten = \"127.0.0.1:0\"\nrelays = [%q]\n[modem]\nport = \"none\"\n[price]\nper_gb = \"3.00\"\n"+
		"[payment]\nfacilitator = %q\nnetwork = %q\nasset = %q\nasset_name = %q\nasset_version = %q\npay_to = %q\n",
		m.relay, m.facilitator, k.Network, k.Extra.Asset, k.Extra.Name, k.Extra.Version, payTo))
	start(t, m.path("rival.log"), m.command("x402-agent"), "run", "--config", "rival.toml", "--ready-file", "rival.ready").file(t, m.path("rival.ready"))
	// What the router's uclient-fetch is asked for, curl does here.
	fetch := "#!/bin/sh\nfor a; do case $a in http*) url=$a ;; --no-check-certificate) k=-k ;; esac; done\nexec curl -sS -f $k -m 10 \"$url\"\n"
	placeLookup(t, m.dir, fetch)
	return m
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newRouter is a router as the package leaves it, but for what loopback needs.
func (m *market) newRouter() *router {
	settings := map[string]section{
		"agent":   {"enabled": "0", "consent": "0", "listen": "127.0.0.1:0"},
		"modem":   {"port": m.tty},
		"price":   {},
		"payment": {},
		"limits":  {},
		"policy":  {"interface": "lo", "allow_networks": []any{"127.0.0.0/8"}},
		"plan":    {"interface": "lo"},
		"rotate":  {"hold": "1s", "tries": "1"},
	}
	for name, s := range settings {
		s[".type"], s[".name"], s[".anonymous"] = name, name, false
	}
	r := &router{bin: m.bin, dir: m.dir, rights: rights(m.t), staged: settings}
	m.t.Cleanup(r.close)
	return r
}

// A buyer is one who is connected.
type buyer struct {
	*process
	client *http.Client
}

// buy connects a buyer to an agent, by the relay.
func (m *market) buy(agent string) *buyer {
	t := m.t
	write(t, m.path("passphrase"), "not a secret\n")
	wallet := []string{"--wallet", m.path("wallet.json")}
	m.run("x402", append([]string{"wallet", "new", "--passphrase-file", m.path("passphrase")}, wallet...)...)
	m.run("x402", append([]string{"wallet", "fund", "--facilitator", m.facilitator, "--dev", "5.00"}, wallet...)...)
	p := start(t, m.path("buyer.log"), m.command("x402"), "connect", "--relay", m.relay, "--agent", agent, "--budget", "2.00", "--max-price", "5.00",
		"--socks", "127.0.0.1:0", "--http", "127.0.0.1:0", "--wallet", m.path("wallet.json"), "--passphrase-file", m.path("passphrase"),
		"--state", m.path("buyer"), "--ready-file", m.path("buyer.ready"))
	var proxies struct{ HTTP string }
	if err := json.Unmarshal([]byte(p.file(t, m.path("buyer.ready"))), &proxies); err != nil {
		t.Fatal(err)
	}
	proxy, err := url.Parse("http://" + proxies.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	return &buyer{p, &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, Timeout: patience}}
}

// fetch downloads so many bytes from a web server on loopback.
func (b *buyer) fetch(t *testing.T, size int64) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.CopyN(w, zeros{}, size) // a client that is gone is told below
	}))
	defer web.Close()
	resp, err := b.client.Get(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		t.Fatalf("%d bytes of %d came: %v", n, size, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// ask asks the router's agent.
func (m *market) ask(command string, v any) error {
	cmd := exec.CommandContext(m.t.Context(), m.command("x402-agent"), command, "--json", "--config", m.path("agent.toml"))
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	return json.Unmarshal(out, v)
}
