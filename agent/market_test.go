package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// A market is a facilitator, an agent and a wallet with money, on loopback.
type market struct {
	t      *testing.T
	fac    *facilitator.Client
	url    string
	params ledger.Params
	payTo  channel.Address
	wallet *channel.Key
	dir    string
	log    *slog.Logger
	agent  *running
	cfg    seller.Config
}

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

func newMarket(t *testing.T) *market {
	t.Helper()
	m := &market{
		t: t, dir: t.TempDir(), payTo: channel.Address{0xaa}, log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		params: ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor},
	}
	srv, err := server.New(server.Config{Ledger: ledger.NewMemory(m.params), Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(srv)
	t.Cleanup(hs.Close)
	m.url = hs.URL
	if m.fac, err = facilitator.New(facilitator.Config{URL: hs.URL}); err != nil {
		t.Fatal(err)
	}
	if m.wallet, err = channel.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.fac.Faucet(t.Context(), x402.FaucetRequest{Address: m.wallet.Address(), Amount: 10_000_000, Ref: channel.Hash{1}}); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := socket.LocalAddr().String()
	socket.Close()
	m.cfg = seller.Config{
		StateDir: filepath.Join(m.dir, "agent"), Listen: listen, Price: agent.Price{Up: 4_000_000, Down: 4_000_000},
		Payment: agent.Payment{
			Network: m.params.Network(), Facilitator: hs.URL, Asset: m.params.Token,
			AssetName: "USDC", AssetVersion: "2", PayTo: m.payTo,
		},
		Policy: seller.PolicyConfig{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Logger: m.log.With("side", "agent"),
	}
	m.startAgent()
	return m
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

func (m *market) startAgent() {
	m.agent = start(func(ctx context.Context) error { return seller.Run(ctx, m.cfg) })
}

// offer waits for the agent and returns its offer.
func (m *market) offer() agent.Offer {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	o, err := buyer.FetchOffer(ctx, m.cfg.Listen)
	if err != nil {
		m.t.Fatal(err)
	}
	return o
}

// a purchase is a running buyer.
type purchase struct {
	*running
	result buyer.Result
	socks  string
	http   string
	store  channel.Store
}

func (m *market) buy(change func(*buyer.Config)) *purchase {
	m.t.Helper()
	store, err := bolt.Open(filepath.Join(m.dir, "channels.db"))
	if err != nil {
		m.t.Fatal(err)
	}
	p := &purchase{store: store}
	cfg := buyer.Config{
		Key: m.wallet, Store: store, Offer: m.offer(), Budget: 2_000_000, MaxPrice: 5_000_000,
		SOCKS: listen(m.t), HTTP: listen(m.t), Logger: m.log.With("side", "buyer"),
	}
	if change != nil {
		change(&cfg)
	}
	p.socks, p.http = cfg.SOCKS.Addr().String(), cfg.HTTP.Addr().String()
	p.running = start(func(ctx context.Context) (err error) {
		defer store.Close()
		p.result, err = buyer.Run(ctx, cfg)
		return err
	})
	return p
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// web serves n random bytes under /n, and takes uploads.
func web(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			n, _ := io.Copy(io.Discard, r.Body)
			io.WriteString(w, strconv.FormatInt(n, 10))
			return
		}
		n, err := strconv.Atoi(r.URL.Path[1:])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.CopyN(w, rand.NewChaCha8([32]byte{1}), int64(n))
	}))
	t.Cleanup(s.Close)
	return s
}

// through returns a client that uses the purchase's SOCKS5 proxy.
func (p *purchase) through() *http.Client {
	u := &url.URL{Scheme: "socks5h", Host: p.socks}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u), DisableKeepAlives: true}}
}

func fetch(t *testing.T, c *http.Client, url string, want int) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n != int64(want) {
		t.Fatalf("fetched %d of %d bytes: %v", n, want, err)
	}
}

func (m *market) balance(a channel.Address) channel.Amount {
	m.t.Helper()
	info, err := m.fac.Balance(m.t.Context(), m.params.Network(), a)
	if err != nil {
		m.t.Fatal(err)
	}
	return info.Balance
}

func TestPurchase(t *testing.T) {
	m := newMarket(t)
	site := web(t)
	p := m.buy(nil)
	c := p.through()
	fetch(t, c, site.URL+"/5000000", 5_000_000)
	res, err := c.Do(must(http.NewRequest(http.MethodPut, site.URL+"/x", bytes.NewReader(make([]byte, 3_000_000)))))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if string(b) != "3000000" {
		t.Errorf("uploaded %s bytes", b)
	}
	p.stop(t)
	m.agent.stop(t)
	r := p.result
	if r.Owed != r.Signed || r.Signed != r.Claimed {
		t.Errorf("owed %d, signed %d, claimed %d", r.Owed, r.Signed, r.Claimed)
	}
	if r.Down < 5_000_000 || r.Up < 3_000_000 {
		t.Errorf("%d up, %d down", r.Up, r.Down)
	}
	if spent := 10_000_000 - m.balance(m.wallet.Address()); spent != r.Claimed {
		t.Errorf("the payer spent %d, claimed are %d", spent, r.Claimed)
	}
	fee := r.Claimed / 100_000
	if got := m.balance(m.payTo); got != r.Claimed-fee {
		t.Errorf("the receiver has %d, want %d less %d", got, r.Claimed, fee)
	}
}

func TestBudgetEndsPurchase(t *testing.T) {
	m := newMarket(t)
	site := web(t)
	p := m.buy(func(c *buyer.Config) { c.Budget = 50_000 }) // 12.5 MB
	res, err := p.through().Get(site.URL + "/40000000")
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("40 MB came through on a budget for 12.5")
	}
	<-p.done
	if !errors.Is(p.err, buyer.ErrBudget) {
		t.Errorf("ended with %v", p.err)
	}
	if p.result.Signed > 50_000 || p.result.Signed < 45_000 {
		t.Errorf("signed %d on a budget of 50000", p.result.Signed)
	}
	m.agent.stop(t)
	if spent := 10_000_000 - m.balance(m.wallet.Address()); spent != p.result.Signed {
		t.Errorf("spent %d, signed %d", spent, p.result.Signed)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestKeepThenClose leaves the deposit in the channel, uses it again in a
// second run, and has it refunded by a third that buys nothing.
func TestKeepThenClose(t *testing.T) {
	m := newMarket(t)
	site := web(t)
	for range 2 {
		p := m.buy(func(c *buyer.Config) { c.Keep = true })
		fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
		p.stop(t)
		if p.result.Refunded != 0 {
			t.Errorf("refunded %d", p.result.Refunded)
		}
	}
	p := m.buy(func(c *buyer.Config) { c.CloseOnly = true })
	<-p.done
	if p.err != nil {
		t.Fatal(p.err)
	}
	if p.result.Refunded == 0 || p.result.Claimed != p.result.Signed {
		t.Errorf("result %+v", p.result)
	}
	m.agent.stop(t)
	if spent := 10_000_000 - m.balance(m.wallet.Address()); spent != p.result.Signed {
		t.Errorf("spent %d, signed %d", spent, p.result.Signed)
	}
}
