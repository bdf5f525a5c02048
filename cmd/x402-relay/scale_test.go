package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// agentsWanted is how many agents the test of scale has: 200, or X402_AGENTS.
func agentsWanted(t *testing.T) int {
	t.Helper()
	s := os.Getenv("X402_AGENTS")
	if s == "" {
		return 200
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 10 {
		t.Fatalf("X402_AGENTS=%q: want a number", s)
	}
	return n
}

// rss is a process's resident memory in bytes.
func rss(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no VmRSS in %s", b)
	}
	n, err := strconv.ParseUint(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// testAgent is the n-th agent's key and its signed offer.
func testAgent(n int, name relay.Name) (*channel.Key, []byte, error) {
	b := make([]byte, 32)
	binary.BigEndian.PutUint32(b[28:], uint32(n)+1)
	k, err := channel.ParseKey(b)
	if err != nil {
		return nil, nil, err
	}
	sims := []agent.SIM{
		{MCC: "262", MNC: "01", Operator: "Telekom.de", Technology: "LTE"}, {MCC: "311", MNC: "480", Operator: "Verizon", Technology: "5G"},
		{MCC: "208", MNC: "10", Operator: "SFR", Technology: "5G NSA"}, {MCC: "440", MNC: "10", Operator: "NTT DOCOMO", Technology: "LTE"},
	}
	var some channel.Address
	some[0] = 1
	offer, err := agent.SignOffer(k, agent.Offer{
		Seq: 1, Relays: []string{name.String()}, Price: agent.Price{Up: 500_000, Down: channel.Amount(500_000 + n%50*10_000)},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "https://facilitator.example", Asset: some, AssetName: "USDC", AssetVersion: "2",
			PayTo: some, WithdrawDelay: 86_400, MinDeposit: 1000,
		},
		SIM: sims[n%len(sims)],
	})
	return k, offer, err
}

// connect brings an agent to the relay; its connection lasts until ctx ends.
func connect(ctx context.Context, wg *sync.WaitGroup, t *quicgo.Transport, n int, name relay.Name) error {
	k, offer, err := testAgent(n, name)
	if err != nil {
		return err
	}
	addr, err := net.ResolveUDPAddr("udp", name.Address())
	if err != nil {
		return err
	}
	c := relay.AgentConfig{
		Name: name, Agent: relay.Address(k.Address()), Offer: func() []byte { return offer },
		Sign:    func(e [32]byte) (relay.Signature, error) { return relay.Signature(k.Sign(agent.RelayDigest(e))), nil },
		Session: func(relay.Allotment) {},
	}
	var a *relay.Agent
	for try := 0; ; try++ { // a relay under load may refuse a handshake
		if a, err = relay.DialQUIC(ctx, t, addr, c); err == nil {
			break
		}
		if try == 5 || ctx.Err() != nil {
			return fmt.Errorf("agent %d: %w", n, err)
		}
	}
	wg.Go(func() { _ = a.Run(ctx) })
	return nil
}

// serve runs a relay as a process until stop.
func serve(t *testing.T, config string) (name relay.Name, r readiness, stop func()) {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready")
	cmd := exec.Command("x402-relay", "run", "--config", config, "--ready-file", ready)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- cmd.Wait() })
	t.Cleanup(func() { cmd.Process.Kill(); wg.Wait() })
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(ready)
		if err == nil && json.Unmarshal(b, &r) == nil {
			break
		}
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("not running: %v: %s", err, &log)
		}
	}
	name, err := relay.ParseName(r.Relay)
	if err != nil {
		t.Fatal(err)
	}
	return name, r, func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("stopped: %v: %s", err, &log)
		}
	}
}

// TestScale connects many agents to a relay of its own process (5,000 with
// X402_AGENTS=5000), asks for offers and for sessions, and holds the relay's
// memory and the time of a query against the limits.
func TestScale(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("a relay needs Linux")
		return
	}
	n := agentsWanted(t)
	config := filepath.Join(t.TempDir(), "relay.toml")
	text := fmt.Sprintf("listen = \"127.0.0.1:0\"\nkey_file = \"relay.key\"\ndrain = \"1s\"\n[limits]\nagents = %d\nsource_agents = %d\n"+
		"source_hellos = 100000\nsource_requests = 100000\nsource_session_requests = 100000\nsessions = %d\nsource_sessions = %d\n[metrics]\nlisten = \"none\"\n",
		2*n, 2*n, n, n)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	name, r, stop := serve(t, config)
	empty := rss(t, r.PID)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	const perSocket = 250
	for from := 0; from < n; from += perSocket {
		u, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		tr := &quicgo.Transport{Conn: u}
		defer u.Close()
		defer tr.Close()
		for i := from; i < min(n, from+perSocket); i++ {
			g.Go(func() error {
				if gctx.Err() != nil {
					return nil
				}
				return connect(ctx, &running, tr, i, name)
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	connected := time.Since(began)

	client := market.New(market.Config{Name: name})
	defer client.Close()
	// Offers arrive a moment after their agents: walk through all pages until
	// everyone is there.
	deadline := time.Now().Add(time.Minute)
	for listed := 0; listed != n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d offers listed", listed, n)
		}
		listed = walk(t, client)
	}
	full := rss(t, r.PID)
	took := ask(t, client)
	sessions := min(n, 2000)
	for i := range sessions {
		k, _, err := testAgent(i%n, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Session(t.Context(), market.Request{Agent: relay.Address(k.Address())}); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	busy := rss(t, r.PID)
	t.Logf("%d agents connected in %s; relay RSS %d MiB empty, %d MiB with them, %d MiB with %d sessions too; query median %s, slowest of 50 %s",
		n, connected.Round(time.Millisecond), empty>>20, full>>20, busy>>20, sessions, took[len(took)/2], took[len(took)-1])
	if busy > 1<<30 {
		t.Errorf("%d MiB", busy>>20)
	}
	// Beside other tests, as in make test, a time says little.
	if median := took[len(took)/2]; os.Getenv("X402_AGENTS") != "" && median > 10*time.Millisecond {
		t.Errorf("a query takes %s", median)
	}
	cancel()
	running.Wait()
	stop()
}

// walk goes through all pages and returns how many offers there are.
func walk(t *testing.T, c *market.Client) (n int) {
	t.Helper()
	for q := (market.Query{Limit: 100}); ; {
		p, err := c.Offers(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		n += len(p.Offers)
		if q.Cursor = p.Next; q.Cursor == "" {
			return n
		}
	}
}

// ask times queries, over HTTPS on one connection, in order of their length.
func ask(t *testing.T, c *market.Client) (took []time.Duration) {
	t.Helper()
	for i := range 50 {
		q := market.Query{Country: []string{"DE", "US", "FR", "JP"}[i%4], MaxPrice: "0.80", Limit: 20}
		began := time.Now()
		p, err := c.Offers(t.Context(), q)
		if err != nil || len(p.Offers) == 0 {
			t.Fatal(errors.Join(err, fmt.Errorf("%d offers", len(p.Offers))))
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}
