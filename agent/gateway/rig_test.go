package gateway_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
	relayserver "github.com/depinsim/x402/tunnel/relay/server"
)

const (
	patience   = 40 * time.Second
	passphrase = "correct horse"
	wealth     = 20_000_000
	// agentPrice is what agents ask for 1e9 bytes: 4 USD.
	agentPrice = 4_000_000
)

// A rig is a facilitator, a relay with a gateway, and agents, on loopback.
type rig struct {
	t      *testing.T
	dir    string
	fac    *facilitator.Client
	url    string // of the facilitator
	params ledger.Params
	wallet *channel.Key // the gateway's
	buyer  *channel.Key // a customer's
	cfg    directory.Config
	relay  *running
	name   relay.Name
	port   uint16              // of all sites
	agents map[string]*running // by name
	gone   map[string]*atomic.Bool
	fault  atomic.Int32 // of the facilitator
	log    *slog.Logger

	secure, plain, socks string // addresses of the proxies
	metrics              net.Addr
}

// Faults of the facilitator: it does nothing, does what it is asked and the answer
// is lost, or settles nothing, or the answer to that is lost.
const (
	down       = 1
	mute       = 2
	noSettle   = 3
	muteSettle = 4
	muteOnce   = 5 // the answer to one settlement
)

// running is something with a Run, until it is stopped.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func start(run func(context.Context) error) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(r.done)
		r.err = run(ctx)
	})
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	<-r.done
	if r.err != nil {
		t.Errorf("run: %v", r.err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var ports atomic.Uint32 // that were given

// freePort is the address of a port that stays free: below those that the system
// gives to others, and given once.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		at := fmt.Sprintf("127.0.0.1:%d", 20_000+(uint32(os.Getpid())*64+ports.Add(1))%10_000)
		if ln, err := net.Listen("tcp", at); err == nil {
			ln.Close()
			return at
		}
	}
	t.Fatal("no free port")
	return ""
}

// testWriter writes to a test's log until the test ends.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// newRig starts all but agents; change sets the gateway up differently.
func newRig(t *testing.T, change func(*gateway.Config)) *rig {
	t.Helper()
	return newRigOn(t, 1<<41+7, change)
}

// newRigOn is newRig on a chain.
func newRigOn(t *testing.T, chain uint64, change func(*gateway.Config)) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), agents: map[string]*running{}, gone: map[string]*atomic.Bool{}, wallet: must(channel.GenerateKey()), buyer: must(channel.GenerateKey()),
		params: ledger.Params{ChainID: chain, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor},
		secure: freePort(t), plain: freePort(t), socks: freePort(t),
		log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	settles := must(server.New(server.Config{Ledger: ledger.NewMemory(r.params), Dev: true}))
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch fault := r.fault.Load(); {
		case fault == down, fault == noSettle && q.URL.Path == "/settle":
			http.Error(w, "down", http.StatusBadGateway)
		case fault == mute, fault >= muteSettle && q.URL.Path == "/settle":
			r.fault.CompareAndSwap(muteOnce, 0)
			settles.ServeHTTP(httptest.NewRecorder(), q)
			http.Error(w, "lost", http.StatusBadGateway)
		default:
			settles.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(hs.Close)
	r.url, r.fac = hs.URL, must(nethttp.New(nethttp.Config{URL: hs.URL}))
	for i, k := range []*channel.Key{r.wallet, r.buyer} {
		must(r.fac.Faucet(t.Context(), x402.FaucetRequest{Address: k.Address(), Amount: wealth, Ref: channel.Hash{byte(i + 1)}}))
	}
	here := netip.MustParseAddr("127.0.0.1")
	write := func(name, text string) string {
		path := filepath.Join(r.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	often := relayserver.Rate{N: 100_000, Per: time.Second} // who waits asks again and again
	r.cfg = directory.Config{
		Listen: netip.MustParseAddrPort(freePort(t)), Public: []netip.Addr{here}, KeyFile: filepath.Join(r.dir, "relay.key"), Metrics: "127.0.0.1:0", Logger: r.log.With("side", "relay"),
		Limits: relayserver.Limits{Requests: often, Handshakes: often},
		Gateway: directory.GatewayConfig{
			Wallet: write("wallet.json", keystore(r.wallet)), PassphraseFile: write("passphrase", passphrase),
			Gateway: gateway.Config{
				StateDir: filepath.Join(r.dir, "gateway"), Payment: r.payment(), FeePercent: 10,
				Secure: r.secure, HTTP: r.plain, SOCKS: r.socks,
			},
		},
	}
	if change != nil {
		change(&r.cfg.Gateway.Gateway)
	}
	r.start()
	t.Cleanup(func() { r.relay.stop(t) })
	return r
}

func (r *rig) payment() agent.Payment {
	return agent.Payment{
		Network: r.params.Network(), Facilitator: r.url, Asset: r.params.Token, AssetName: r.params.Name, AssetVersion: r.params.Version,
	}
}

// start runs the relay. Ports that another process has for a moment, which draws
// its own likewise, are waited for.
func (r *rig) start() {
	r.t.Helper()
	r.until("for the relay's ports", func() bool {
		ready := make(chan relay.Name, 1)
		cfg := r.cfg
		cfg.Ready = func(n relay.Name, metrics net.Addr) error {
			r.metrics = metrics
			ready <- n
			return nil
		}
		r.relay = start(func(ctx context.Context) error { return directory.Run(ctx, cfg) })
		select {
		case r.name = <-ready:
			return true
		case <-r.relay.done:
			if !errors.Is(r.relay.err, syscall.EADDRINUSE) {
				r.t.Fatal(r.relay.err)
			}
			return false
		}
	})
}

// cards are in the modems of agents, by country.
var cards = map[string]modemtest.Card{"de": {IMSI: "262011234567890"}, "fr": {IMSI: "208011234567890"}}

// keystore is a Web3 Secret Storage file with one round of PBKDF2.
func keystore(key *channel.Key) string {
	derived := must(pbkdf2.Key(sha256.New, passphrase, []byte{1}, 1, 32))
	sealed, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	cipher.NewCTR(must(aes.NewCipher(derived[:16])), iv).XORKeyStream(sealed, key.Bytes())
	mac := channel.Keccak256(derived[16:], sealed)
	return fmt.Sprintf(`{"address":"%s","crypto":{"cipher":"aes-128-ctr","ciphertext":"%x","cipherparams":{"iv":"%x"},
		"kdf":"pbkdf2","kdfparams":{"dklen":32,"c":1,"prf":"hmac-sha256","salt":"01"},"mac":"%x"},"id":"0","version":3}`,
		key.Address().String()[2:], sealed, iv, mac[:])
}

// page is the URL of a path at a site.
func (r *rig) page(path string) string { return fmt.Sprintf("http://site.test:%d/%s", r.port, path) }

// serveBytes answers /N with N bytes, and says how much was uploaded.
func serveBytes(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
		return
	}
	n, err := strconv.Atoi(r.URL.Path[1:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for chunk := make([]byte, 64<<10); n > 0 && err == nil; n -= len(chunk) {
		_, err = w.Write(chunk[:min(n, len(chunk))])
	}
}

// sell starts an agent with one of cards, or without a modem, and waits until it
// is listed. It resolves every name to a site of its own, which answers /who with
// the agent's name.
func (r *rig) sell(name, card string, price channel.Amount) {
	r.t.Helper()
	here := netip.AddrFrom4([4]byte{127, 0, 0, byte(11 + len(r.agents))})
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/who" {
			fmt.Fprint(w, name)
			return
		}
		serveBytes(w, q)
	}))
	site.Listener.Close()
	site.Listener = must(net.Listen("tcp", netip.AddrPortFrom(here, r.port).String()))
	site.Start()
	r.t.Cleanup(site.Close)
	r.port = site.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	cfg := seller.Config{
		StateDir: filepath.Join(r.dir, name), Listen: "127.0.0.1:0", Relays: []relay.Name{r.name}, Price: agent.Price{Up: price, Down: price},
		Payment: r.payment(),
		Policy: seller.PolicyConfig{
			AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Lookup:        func(context.Context, string, string) ([]netip.Addr, error) { return []netip.Addr{here}, nil },
		},
		Logger: r.log.With("side", name),
	}
	gone := new(atomic.Bool)
	r.gone[name] = gone
	cfg.Socket = func(ctx context.Context, at string) (net.PacketConn, error) {
		c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", at)
		return vanishing{c, gone}, err
	}
	cfg.Payment.PayTo = channel.Address{0xaa, name[0], name[1]}
	if card != "" {
		sim := must(modemtest.New(modemtest.Config{Card: cards[card]}))
		m := start(func(ctx context.Context) error { sim.Run(ctx); return nil })
		r.t.Cleanup(func() { m.stop(r.t) })
		cfg.Modem = &modem.Config{Open: sim.Dial, Logger: cfg.Logger}
	}
	before := r.offers(card != "")
	r.agents[name] = start(func(ctx context.Context) error { return seller.Run(ctx, cfg) })
	a := r.agents[name]
	r.t.Cleanup(func() { a.cancel(); <-a.done })
	r.until("for the agent to be listed", func() bool { return r.offers(card != "") > before })
}

// A vanishing socket hears and says nothing once it is gone.
type vanishing struct {
	net.PacketConn
	gone *atomic.Bool
}

func (v vanishing) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := v.PacketConn.ReadFrom(b)
		if err != nil || !v.gone.Load() {
			return n, from, err
		}
	}
}

func (v vanishing) WriteTo(b []byte, to net.Addr) (int, error) {
	if v.gone.Load() {
		return len(b), nil
	}
	return v.PacketConn.WriteTo(b, to)
}

// restart stops the relay in order and starts it again.
func (r *rig) restart() {
	r.t.Helper()
	r.relay.stop(r.t)
	r.start()
}

// offers counts those that are listed, with a SIM or without.
func (r *rig) offers(sim bool) (n int) {
	c := market.New(market.Config{Name: r.name})
	defer c.Close()
	p, err := c.Offers(r.t.Context(), market.Query{Limit: 100})
	if err != nil {
		return 0
	}
	for _, o := range p.Offers {
		if !sim || o.Country != "" {
			n++
		}
	}
	return n
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick, end := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			r.t.Fatal("waited in vain " + what)
		}
	}
}

// give has the operator make credit.
func (r *rig) give(change func(*gateway.Gift)) gateway.Credit {
	r.t.Helper()
	g := gateway.Gift{Amount: 1_000_000, Price: 2 * agentPrice, Life: time.Hour}
	if change != nil {
		change(&g)
	}
	c, err := gateway.NewOperator(r.cfg.Gateway.Gateway.StateDir).Give(r.t.Context(), g)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// api asks the relay's HTTPS name.
func (r *rig) api(method string, c gateway.Credit, body string) (gateway.Credit, int) {
	r.t.Helper()
	client := r.https()
	defer client.CloseIdleConnections()
	req := must(http.NewRequestWithContext(r.t.Context(), method, "https://"+r.name.Address()+gateway.CreditPath, strings.NewReader(body)))
	if c.User != "" {
		req.SetBasicAuth(c.User, c.Password)
	}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text := must(io.ReadAll(resp.Body))
	var out gateway.Credit
	if err := json.Unmarshal(text, &out); err != nil {
		r.t.Fatalf("%s: %v", text, err)
	}
	if resp.StatusCode >= 400 {
		r.t.Logf("%s: %s", resp.Status, text)
	}
	return out, resp.StatusCode
}

// curl runs curl through a proxy, with a user name, and returns what it printed,
// what it complained of, and its exit code.
func (r *rig) curl(proxy string, args ...string) (out, complaint string, code int) {
	r.t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			r.t.Fatal(err)
		}
		r.t.Skip(err)
	}
	args = append([]string{"-q", "-sS", "--max-time", "40", "--proxy-insecure", "--proxy", proxy, "--noproxy", ""}, args...)
	cmd := exec.CommandContext(r.t.Context(), path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // no proxy of the machine's
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			r.t.Fatal(err)
		}
		code = exit.ExitCode()
	}
	return stdout.String(), stderr.String(), code
}

// at is a proxy's URL with a user name that has words behind the token.
func at(scheme, address string, c gateway.Credit, words string) string {
	return scheme + "://" + c.User + words + ":" + c.Password + "@" + address
}

func gatewayAmount(n uint64) channel.Amount { return channel.Amount(n) }

// https is a client of the relay's HTTPS name.
func (r *rig) https() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: r.name.TLS()}}
}
