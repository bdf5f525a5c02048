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
	"slices"
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
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// wealth is what a market's wallet begins with.
const wealth = 10_000_000

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

// newMarket returns a market that ends with the test.
func newMarket(t *testing.T) *market {
	t.Helper()
	return newMarketOf(t, nil)
}

// newMarketOf returns a market whose agent is set up differently.
func newMarketOf(t *testing.T, change func(*seller.Config)) *market {
	t.Helper()
	params := ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
	m := newMarketOn(t, ledger.NewMemory(params), change)
	if _, err := m.fac.Faucet(t.Context(), x402.FaucetRequest{Address: m.wallet.Address(), Amount: wealth, Ref: channel.Hash{1}}); err != nil {
		t.Fatal(err)
	}
	return m
}

// newMarketOn returns a market on a ledger, whose wallet is empty yet.
func newMarketOn(t *testing.T, l server.Ledger, change func(*seller.Config)) *market {
	t.Helper()
	m := &market{
		t: t, dir: t.TempDir(), payTo: channel.Address{0xaa}, log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		params: l.Params(),
	}
	srv, err := server.New(server.Config{Ledger: l, Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewServer(srv)
	t.Cleanup(hs.Close)
	m.url = hs.URL
	if m.fac, err = nethttp.New(nethttp.Config{URL: hs.URL}); err != nil {
		t.Fatal(err)
	}
	if m.wallet, err = channel.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	socket := listenUDP(t) // held all the time: tests beside this one would be given a port that is free
	m.cfg = seller.Config{
		StateDir: filepath.Join(m.dir, "agent"), Listen: socket.LocalAddr().String(), Socket: borrowed(socket), Price: agent.Price{Up: 4_000_000, Down: 4_000_000},
		Payment: agent.Payment{
			Network: m.params.Network(), Facilitator: hs.URL, Asset: m.params.Token,
			AssetName: "USDC", AssetVersion: "2", PayTo: m.payTo,
		},
		Policy: seller.PolicyConfig{
			AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Lookup: lookup,
		},
		Logger: m.log.With("side", "agent"),
	}
	if change != nil {
		change(&m.cfg)
	}
	m.startAgent()
	t.Cleanup(func() { m.agent.stop(t) })
	return m
}

// borrowed opens a copy of a socket, so that the port stays taken when the copy
// is closed. What is no socket of the kernel's is not copied and stays open.
func borrowed(socket net.PacketConn) func(context.Context, string) (net.PacketConn, error) {
	return func(context.Context, string) (net.PacketConn, error) {
		udp, ok := socket.(*net.UDPConn)
		if !ok {
			return lent{socket}, nil
		}
		f, err := udp.File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return net.FilePacketConn(f)
	}
}

type lent struct{ net.PacketConn }

func (lent) Close() error { return nil }

// lookup is the agent's resolver: it knows a name for this machine, which is
// in the certificate of httptest too, and one of a private address.
func lookup(_ context.Context, _, host string) ([]netip.Addr, error) {
	switch host {
	case "example.com.":
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	case "inside.test.":
		return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

func (m *market) startAgent() {
	cfg := m.cfg // tests change m.cfg for the next start
	m.agent = start(func(ctx context.Context) error { return seller.Run(ctx, cfg) })
}

// offer waits for the agent and returns its offer.
func (m *market) offer() agent.Offer {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	o, err := buyer.FetchOffer(ctx, m.cfg.Listen, buyer.ReachConfig{})
	if err != nil {
		m.t.Fatal(err)
	}
	return o
}

// a purchase is a running buyer.
type purchase struct {
	*running
	id     channel.ID
	result buyer.Result // once it is done
	socks  string
	http   string
	store  channel.Store
}

// buy starts a purchase that ends with the test.
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
	p.id = must(cfg.Offer.Payment.Domain()).ID(cfg.Offer.Channel(cfg.Key.Address()))
	p.socks, p.http = cfg.SOCKS.Addr().String(), cfg.HTTP.Addr().String()
	p.running = start(func(ctx context.Context) (err error) {
		defer store.Close()
		p.result, err = buyer.Run(ctx, cfg)
		return err
	})
	m.t.Cleanup(func() {
		p.cancel()
		<-p.done
	})
	return p
}

// settled holds all there is about a purchase that has ended in order against
// each other: both sides' counts, what is owed, signed and claimed, and where
// the money went. All purchases of the market have been on the same channel.
func (m *market) settled(p *purchase) {
	m.t.Helper()
	m.settledBut(p, 0)
}

// settledBut lets up to most be owed and not signed, or signed in advance. Of
// what is signed only what is owed is claimed.
func (m *market) settledBut(p *purchase, most channel.Amount) {
	m.t.Helper()
	<-p.done
	control := seller.DialControl(m.cfg.ControlPath())
	if _, err := control.Settle(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	var all seller.Earnings
	if err := control.Get(m.t.Context(), "earnings", &all); err != nil {
		m.t.Fatal(err)
	}
	r := p.result
	i := slices.IndexFunc(all.Channels, func(c seller.ChannelEarnings) bool { return c.Channel == r.Channel })
	if i < 0 {
		m.t.Fatalf("the agent does not know channel %s", r.Channel)
	}
	e := all.Channels[i]
	if r.Up != e.Up || r.Down != e.Down {
		m.t.Errorf("the buyer counts %d up and %d down, the agent %d and %d", r.Up, r.Down, e.Up, e.Down)
	}
	if r.Owed != e.Owed || max(r.Owed, r.Signed)-min(r.Owed, r.Signed) > most {
		m.t.Errorf("owed are %d to the buyer and %d to the agent, signed %d", r.Owed, e.Owed, r.Signed)
	}
	if claimed := min(r.Owed, r.Signed); r.Signed != e.Paid || r.Claimed != claimed || e.Claimed != claimed {
		m.t.Errorf("signed are %d, claimed %d to the buyer, %d and %d to the agent", r.Signed, r.Claimed, e.Paid, e.Claimed)
	}
	if spent := wealth - m.balance(m.wallet.Address()); spent != r.Claimed {
		m.t.Errorf("the payer spent %d, claimed are %d", spent, r.Claimed)
	}
	fee := r.Claimed / 100_000
	if got := m.balance(m.payTo); got != r.Claimed-fee {
		m.t.Errorf("the receiver has %d, want %d less %d", got, r.Claimed, fee)
	}
	totals, err := m.fac.Totals(m.t.Context(), m.params.Network())
	if err != nil {
		m.t.Fatal(err)
	}
	if totals.Escrow != 0 || totals.Unsettled != 0 || totals.Fees != fee {
		m.t.Errorf("the ledger has %+v, want a fee of %d", totals, fee)
	}
}

// session is what the agent says of a channel's session now.
func (m *market) session(id channel.ID) (x seller.SessionStatus, ok bool) {
	m.t.Helper()
	var all []seller.SessionStatus
	if err := seller.DialControl(m.cfg.ControlPath()).Get(m.t.Context(), "sessions", &all); err != nil {
		m.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(x seller.SessionStatus) bool { return x.Channel == id })
	if i < 0 {
		return x, false
	}
	return all[i], true
}

// until asks until the answer is yes.
func until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !yes() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func listenUDP(t *testing.T) net.PacketConn {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return socket
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// web is a server of pages.
func web(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(pages))
	t.Cleanup(s.Close)
	return s
}

// pages serves n bytes of page under /n, and takes uploads.
func pages(w http.ResponseWriter, r *http.Request) {
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
	io.CopyN(w, page(), int64(n))
}

// endless returns a site whose page comes slowly, for ever.
func endless(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for err := error(nil); err == nil; <-tick.C {
			_, err = io.CopyN(w, page(), 10_000)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// page is a long text that nothing can compress.
func page() io.Reader { return rand.NewChaCha8([32]byte{1}) }

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

func upload(t *testing.T, c *http.Client, url string, n int) {
	t.Helper()
	res, err := c.Do(must(http.NewRequest(http.MethodPut, url, io.LimitReader(page(), int64(n)))))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); string(b) != strconv.Itoa(n) || err != nil {
		t.Fatalf("uploaded %s of %d bytes: %v", b, n, err)
	}
}

func TestPurchase(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	p := m.buy(nil)
	fetch(t, p.through(), site.URL+"/5000000", 5_000_000)
	upload(t, p.through(), site.URL+"/", 3_000_000)
	p.stop(t)
	if r := p.result; r.Down < 5_000_000 || r.Up < 3_000_000 || r.Owed != channel.Amount(4*(r.Up+r.Down)+999)/1000 {
		t.Errorf("result %+v", r)
	}
	m.settled(p)
}

// TestFee is at a price at which the ledger's fee is something, and different
// for the two directions.
func TestFee(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { c.Price = agent.Price{Up: 700_000_000, Down: 300_000_000} })
	site := web(t)
	p := m.buy(func(c *buyer.Config) { c.MaxPrice, c.Budget, c.Deposit = 700_000_000, 5_000_000, 2_000_000 })
	fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	upload(t, p.through(), site.URL+"/", 1_000_000)
	p.stop(t)
	if r := p.result; r.Claimed < 1_000_000 {
		t.Errorf("result %+v", r)
	}
	m.settled(p)
}

func TestBudgetEndsPurchase(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ budget, unpaid channel.Amount }{
		// The deposit is the budget, so the agent stops by itself.
		"as deposit": {200_000, 0},
		// The least deposit is more, so what is under way when the buyer
		// stops is the agent's loss, up to its credit.
		"below the least deposit": {50_000, 50_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t)
			p := m.buy(func(c *buyer.Config) { c.Budget = tt.budget })
			res, err := p.through().Get(web(t).URL + "/60000000") // 240,000
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			if err == nil {
				t.Error("60 MB came through")
			}
			<-p.done
			if !errors.Is(p.err, buyer.ErrBudget) {
				t.Errorf("ended with %v", p.err)
			}
			if s := p.result.Signed; s > tt.budget || s < tt.budget*9/10 {
				t.Errorf("signed %d on a budget of %d", s, tt.budget)
			}
			m.settledBut(p, tt.unpaid)
		})
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
	t.Parallel()
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
	if p.result.Refunded == 0 {
		t.Errorf("result %+v", p.result)
	}
	m.settled(p)
}
