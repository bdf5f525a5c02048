package seller

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// checkBed is a config that passes every check, and what stands behind it.
type checkBed struct {
	file ConfigFile
	url  string
	sim  *modemtest.Modem
}

func newCheckBed(t *testing.T, card modemtest.Config) *checkBed {
	t.Helper()
	params := ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
	fac, err := server.New(server.Config{Ledger: ledger.NewMemory(params)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(fac)
	t.Cleanup(web.Close)
	sim, err := modemtest.New(card)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running errgroup.Group
	running.Go(func() error { return sim.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := running.Wait(); err != nil {
			t.Error(err)
		}
	})

	b := &checkBed{url: web.URL, sim: sim}
	b.file = ConfigFile{Path: "agent.toml", Config: Config{
		StateDir: filepath.Join(t.TempDir(), "state"), Listen: "127.0.0.1:0",
		Price: agent.Price{Up: 1, Down: 1},
		Payment: agent.Payment{
			Network: params.Network(), Facilitator: web.URL, Asset: params.Token, AssetName: "USDC", AssetVersion: "2",
			PayTo: channel.Address{7},
		},
		Modem: &modem.Config{Port: "/dev/ttyTest", Open: sim.Dial},
		Policy: PolicyConfig{Lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.0.170")}, nil
		}},
	}}
	return b
}

// expect runs the checks and compares: each want is "name result text", where
// text is a part.
func (b *checkBed) expect(t *testing.T, err error, wants ...string) []Finding {
	t.Helper()
	found := Check(t.Context(), b.file, err)
	for _, want := range wants {
		name, rest, _ := strings.Cut(want, " ")
		result, text, _ := strings.Cut(rest, " ")
		if !slices.ContainsFunc(found, func(f Finding) bool {
			return f.Name == name && f.Result == result && strings.Contains(f.Text+" do: "+f.Do, text)
		}) {
			t.Errorf("no %q in %+v", want, found)
		}
	}
	for _, f := range found {
		if f.Result == CheckWarning && f.Do == "" || strings.Contains(f.Text, "context ") {
			t.Errorf("no words for an owner: %+v", f)
		}
	}
	return found
}

func TestCheckWell(t *testing.T) {
	b := newCheckBed(t, modemtest.Config{Card: modemtest.Card{IMSI: "262011234567890"}})
	found := b.expect(t, nil,
		"config ok agent.toml", "key ok will be made", "listen ok UDP 127.0.0.1:", "clock ok ", "dns ok answers in",
		"modem ok on /dev/ttyTest", "sim ok imsi(redacted), home network 262-01", "network ok Test, LTE, home",
		"facilitator ok "+b.url, "asset ok \"USDC\" "+b.file.Config.Payment.Asset.String()+" on "+b.file.Config.Payment.Network+", the facilitator's own network: credit of its operator", "account ok has 0.00 USD",
	)
	for _, f := range found {
		if f.Result == CheckFailed || f.Result == CheckWarning && f.Name != "state" { // which may be in memory here
			t.Errorf("%+v", f)
		}
		if strings.Contains(f.Text, "1234567890") {
			t.Errorf("the IMSI in %+v", f)
		}
	}
	if _, err := os.Stat(b.file.Config.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a check made the state directory")
	}
}

func TestCheckPlaces(t *testing.T) {
	b := newCheckBed(t, modemtest.Config{})
	dir := b.file.Config.StateDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, deviceKeyFile)
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(keyFile, []byte(text), 0o600), os.Chmod(keyFile, mode)); err != nil {
			t.Fatal(err)
		}
	}
	key, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	write(hex.EncodeToString(key.Bytes())+"\n", 0o600)
	b.expect(t, nil, "key ok agent "+key.Address().String())
	write(hex.EncodeToString(key.Bytes()), 0o644)
	b.expect(t, nil, "key warning do: chmod 600 "+keyFile)
	write("secretsecret", 0o600)
	for _, f := range b.expect(t, nil, "key failed do: restore it from a backup") {
		if strings.Contains(f.Text, "secretsecret") {
			t.Errorf("the key in %+v", f)
		}
	}
	write(strings.Repeat("00", 32), 0o600)
	b.expect(t, nil, "key failed do: restore it from a backup")

	b.file.Config.StateDir = keyFile
	b.expect(t, nil, "state failed is not a directory")

	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	b.file.Config.Listen = taken.LocalAddr().String()
	b.expect(t, nil, "listen failed address already in use do: stop what uses the port")
}

func TestCheckClock(t *testing.T) {
	past, now := time.Unix(86400, 0), time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	plain, tls := Config{Payment: agent.Payment{Facilitator: "http://f"}}, Config{Payment: agent.Payment{Facilitator: "https://f"}}
	if got := checkClock(tls, now).Result + checkClock(plain, past).Result + checkClock(tls, past).Result; got != CheckOK+CheckWarning+CheckFailed {
		t.Error(got)
	}
}

func TestCheckModem(t *testing.T) {
	tests := map[string]struct {
		sim  modemtest.Config
		want []string
	}{
		"no SIM":  {modemtest.Config{NoSIM: true}, []string{"modem ok answers", "sim failed SIM not inserted do: insert the SIM"}},
		"no PIN":  {modemtest.Config{Card: modemtest.Card{PIN: "1234"}}, []string{"sim failed PIN required do: set modem.pin"}},
		"PUK":     {modemtest.Config{Card: modemtest.Card{PIN: "1234", Tries: -1}}, []string{"sim failed PUK required do: unlock the SIM in a phone"}},
		"denied":  {modemtest.Config{Registration: 3}, []string{"sim ok ", "network warning refuses this SIM do: ask the carrier"}},
		"search":  {modemtest.Config{Registration: 2}, []string{"network warning is looking for a network"}},
		"weak":    {modemtest.Config{RSSI: -111, RSRP: -125}, []string{"network warning the signal is weak", "network ok Test"}},
		"roaming": {modemtest.Config{Registration: 5}, []string{"network warning roaming", "network ok roaming"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { newCheckBed(t, test.sim).expect(t, nil, test.want...) })
	}

	t.Run("PIN is not sent", func(t *testing.T) {
		b := newCheckBed(t, modemtest.Config{Card: modemtest.Card{PIN: "1234"}})
		pin, err := modem.ParsePIN("4321")
		if err != nil {
			t.Fatal(err)
		}
		b.file.Config.Modem.PIN, b.file.Config.Modem.PINGuard = pin, filepath.Join(t.TempDir(), "pins")
		b.expect(t, nil, "sim ok the agent enters its PIN")
		if n := b.sim.PINAttempts(); n != 0 {
			t.Errorf("%d attempts", n)
		}
	})
	t.Run("none", func(t *testing.T) {
		b := newCheckBed(t, modemtest.Config{})
		b.file.Config.Modem = nil
		b.expect(t, nil, "modem ok none")
	})
	t.Run("no port", func(t *testing.T) {
		b := newCheckBed(t, modemtest.Config{})
		b.file.Config.Modem = &modem.Config{Port: filepath.Join(t.TempDir(), "ttyUSB9")}
		b.expect(t, nil, "modem failed no such file or directory do: plug the modem in, or set modem.port")
	})
}

func TestCheckFacilitator(t *testing.T) {
	paste := func(found []Finding) string {
		for _, f := range found {
			if f.Name == "offer" {
				return strings.Join(f.Paste, "\n")
			}
		}
		return ""
	}
	const offer = `network = "eip155:2199023255559"
asset = "0x0102030000000000000000000000000000000000"
asset_name = "USDC"
asset_version = "2"`

	b := newCheckBed(t, modemtest.Config{})
	b.file.Config.Payment.Network = "eip155:1"
	if got := paste(b.expect(t, nil, "asset failed does not settle channels on eip155:1")); got != offer {
		t.Errorf("got %s", got)
	}
	b = newCheckBed(t, modemtest.Config{})
	b.file.Config.Payment.AssetVersion = "3"
	if got := paste(b.expect(t, nil, `asset failed ("USDC" version "3")`)); got != offer {
		t.Errorf("got %s", got)
	}

	// A file that does not say what is accepted.
	missing := &ConfigError{Path: "agent.toml", Problems: []string{"payment.network: missing"}, Facilitator: b.url}
	if got := paste(b.expect(t, missing, "config failed payment.network: missing", "offer warning settles on eip155:")); got != offer {
		t.Errorf("got %s", got)
	}
	missing.Facilitator = "http://127.0.0.1:1"
	b.expect(t, missing, "config failed payment.network: missing", "facilitator failed facilitator unavailable")
	b.expect(t, os.ErrNotExist, "config failed file does not exist")

	b.file.Config.Payment.Facilitator = "http://127.0.0.1:1"
	b.expect(t, nil, "facilitator failed do: check payment.facilitator")

	// Networks that are none, with what could steer a terminal, are not shown.
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"kinds":[{"x402Version":2,"scheme":"batch-settlement","network":"\u001b[2J"}]}`))
	}))
	defer liar.Close()
	b.file.Config.Payment.Facilitator = liar.URL
	b.expect(t, nil, "asset failed does not settle", "offer failed settles no channels")
}

func TestCheckDNS(t *testing.T) {
	b := newCheckBed(t, modemtest.Config{})
	b.file.Config.Policy.Lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return nil, errors.New("no such host")
	}
	b.expect(t, nil, "dns warning no such host do: check /etc/resolv.conf")
	b.file.Config.Policy.Lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return nil, fmt.Errorf("lookup: %w", context.DeadlineExceeded)
	}
	b.file.Warnings = []Problem{{"endpoints: missing", "set endpoints"}}
	b.expect(t, nil, "dns warning no answer in time", "config warning endpoints: missing do: set endpoints")
}

// TestCheckRunning: a running agent is asked; its modem and its port are not
// touched.
func TestCheckRunning(t *testing.T) {
	b := newCheckBed(t, modemtest.Config{})
	var answer atomic.Value
	answer.Store(`{"pid":4711,"modem":{"port":"/dev/ttyTest","maker":"Quectel","model":"EC25","imsi":"imsi(redacted)","mcc":"001","mnc":"01","sim":"ready"}}`)
	dir, err := os.MkdirTemp("", "x402") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b.file.Config.Control = filepath.Join(dir, "c")
	ln, err := agent.ListenPrivate(b.file.Config.Control)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	wg.Go(func() {
		for conn, err := ln.Accept(); err == nil; conn, err = ln.Accept() {
			io.ReadFull(conn, make([]byte, len("status\n")))
			fmt.Fprintf(conn, `{"result":%s}`, answer.Load())
			conn.Close()
		}
	})
	b.file.Config.Modem.Open = nil
	b.file.Config.Listen = "192.0.2.1:1" // not an address here
	b.expect(t, nil, "agent ok process 4711", "modem ok Quectel EC25 on /dev/ttyTest, used by the running agent", "sim ok imsi(redacted), home network 001-01, ready")

	answer.Store(`{"pid":4711,"modem":{"port":"/dev/ttyTest","error":"modem: timed out","sim":"unknown"},"problems":[{"what":"modem: timed out","do":"try the modem's other ports"}]}`)
	found := b.expect(t, nil, "modem failed timed out do: try the modem's other ports")
	if slices.ContainsFunc(found, func(f Finding) bool { return f.Name == "listen" }) {
		t.Error("the running agent's port was tried")
	}
}
