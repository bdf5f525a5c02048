package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// gatewayKills is how often TestGatewayKilled kills the relay.
const gatewayKills = 3

// least is how many bytes come before each.
const least = 4_000_000

// A resold is a relay with a gateway, as a process that is killed, an agent, and a
// site that sends for ever.
type resold struct {
	relayProcess
	fac    *facilitator.Client
	url    string // of the facilitator
	params ledger.Params
	wallet channel.Address
	site   *httptest.Server
	proxy  string // where it listens
	credit gateway.Credit
}

func newResold(t *testing.T) *resold {
	t.Helper()
	g := &resold{relayProcess: relayProcess{t: t, dir: t.TempDir()}, params: ledger.Params{ChainID: 1<<41 + 12, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}}
	hs := httptest.NewServer(must(server.New(server.Config{Ledger: ledger.NewMemory(g.params), Dev: true})))
	t.Cleanup(hs.Close)
	g.url, g.fac = hs.URL, must(nethttp.New(nethttp.Config{URL: hs.URL}))
	g.wallet = must(buyer.CreateWallet(filepath.Join(g.dir, "wallet.json"), "secret")).Address()
	must(g.fac.Faucet(t.Context(), x402.FaucetRequest{Address: g.wallet, Amount: 10_000_000, Ref: channel.Hash{1}}))
	g.site = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for b, err := make([]byte, 64<<10), error(nil); err == nil; {
			_, err = w.Write(b)
		}
	}))
	t.Cleanup(g.site.Close)
	var ports [2]string
	for i := range ports {
		probe := must(net.Listen("tcp", "127.0.0.1:0"))
		ports[i] = probe.Addr().String()
		probe.Close()
	}
	g.proxy = ports[1]
	files := map[string]string{"passphrase": "secret", "relay.toml": fmt.Sprintf(`listen = %q
[payment]
facilitator = %q
network = %q
asset = %q
asset_name = "USDC"
asset_version = "2"
[gateway]
wallet = "wallet.json"
passphrase_file = "passphrase"
state_dir = "gateway"
http_listen = %q
listen = "none"
[limits]
source_requests = 100000
[log]
level = "error"
`, ports[0], hs.URL, g.params.Network(), g.params.Token, ports[1])}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// listed waits for the agent.
func (g *resold) listed() {
	g.t.Helper()
	c := market.New(market.Config{Name: g.name})
	defer c.Close()
	g.until("for the agent to be listed", func() bool {
		p, err := c.Offers(g.t.Context(), market.Query{})
		return err == nil && len(p.Offers) == 1
	})
}

// token runs `x402-relay token`.
func (g *resold) token(args ...string) []byte {
	g.t.Helper()
	var out, complaint strings.Builder
	args = append(append([]string{"token"}, args...), "--config", filepath.Join(g.dir, "relay.toml"))
	if code := execute(g.t.Context(), args, stdio{&out, &complaint}); code != exitOK {
		g.t.Fatalf("%v: %s", args, complaint.String())
	}
	return []byte(out.String())
}

// look is the account as its owner sees it.
func (g *resold) look() (c gateway.Credit) {
	g.t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: g.name.TLS(), DisableKeepAlives: true}}
	req := must(http.NewRequestWithContext(g.t.Context(), http.MethodGet, "https://"+g.name.Address()+gateway.CreditPath, nil))
	req.SetBasicAuth(g.credit.User, g.credit.Password)
	resp := must(client.Do(req))
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatal(resp.Status, err)
	}
	return c
}

// use downloads, kills the relay after so long, but not before some of it has
// come, and returns how many bytes came.
func (g *resold) use(kill time.Duration) uint64 {
	g.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword(g.credit.User, g.credit.Password), Host: g.proxy}),
	}}
	resp, err := client.Get(g.site.URL)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		g.t.Fatalf("%s: %s", resp.Status, must(io.ReadAll(resp.Body)))
	}
	began := time.Now()
	n, err := io.CopyN(io.Discard, resp.Body, least)
	if err != nil {
		g.t.Error(err)
	}
	timer := time.AfterFunc(kill-time.Since(began), func() { _ = g.cmd.Process.Signal(syscall.SIGKILL) })
	rest, _ := io.Copy(io.Discard, resp.Body) // it was cut
	timer.Stop()
	g.kill()
	return uint64(n + rest)
}

// TestGatewayKilled kills the relay again and again under a download: credit is
// never forgotten, and no more than the bound was carried and not counted. Then
// the operator closes the credit.
func TestGatewayKilled(t *testing.T) {
	const bound = 4<<20 + 64<<10
	g := newResold(t)
	g.start()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	cfg := seller.Config{
		StateDir: filepath.Join(g.dir, "agent"), Listen: "127.0.0.1:0", Relays: []relay.Name{g.name}, Price: agent.Price{Up: 1_000_000, Down: 1_000_000},
		Payment: agent.Payment{
			Network: g.params.Network(), Facilitator: g.url, Asset: g.params.Token, AssetName: "USDC", AssetVersion: "2", PayTo: channel.Address{0xaa},
		},
		Policy: seller.PolicyConfig{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	}
	wg.Go(func() {
		if err := seller.Run(ctx, cfg); err != nil {
			t.Error(err)
		}
	})
	if err := json.Unmarshal(g.token("create", "--usd", "9.00", "--max-price", "2.00", "--memo", "a friend", "--json"), &g.credit); err != nil {
		t.Fatal(err)
	}
	var came, counted uint64
	for range gatewayKills {
		g.listed()
		got := g.use(time.Second + rand.N(time.Second))
		came += got
		g.start()
		now := g.look()
		// What a customer got was counted before, but for the bound of each kill; what
		// was counted and did not come was under way.
		if now.Down+bound < counted+got {
			t.Errorf("%d bytes came, %d are counted, %d were before", got, now.Down, counted)
		}
		if now.Paid != 9_000_000 || now.Down < counted {
			t.Errorf("%+v, %d bytes were counted before", now, counted)
		}
		counted = now.Down
	}
	t.Logf("%d bytes came, %d are counted", came, counted)
	if list := string(g.token("list")); !strings.Contains(list, g.credit.ID) || !strings.Contains(list, "given a friend") {
		t.Error(list)
	}
	g.token("close", "--id", g.credit.ID)
	if list := string(g.token("list")); !strings.Contains(list, "closed") {
		t.Error(list)
	}
}
