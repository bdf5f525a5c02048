package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/tunnel"
)

// A front stands before the facilitator and breaks it.
type front struct {
	url   string
	inner *httputil.ReverseProxy

	mu    sync.Mutex
	fault func(http.ResponseWriter, *http.Request) bool // true: answered
	hits  int                                           // requests that fault answered
}

// newFront makes the market's agent, and so its buyers, use the front.
func (m *market) newFront() *front {
	m.t.Helper()
	u, err := url.Parse(m.url)
	if err != nil {
		m.t.Fatal(err)
	}
	f := &front{inner: httputil.NewSingleHostReverseProxy(u)}
	s := httptest.NewServer(http.HandlerFunc(f.serve))
	m.t.Cleanup(s.Close)
	f.url = s.URL
	m.agent.stop(m.t)
	m.cfg.Payment.Facilitator = f.url
	m.startAgent()
	return f
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		f.mu.Lock()
		f.hits++
		f.mu.Unlock()
		return
	}
	f.inner.ServeHTTP(w, r)
}

// set breaks the facilitator, or mends it with nil.
func (f *front) set(fault func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.hits = fault, 0
}

func (f *front) hit() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// down closes the connection without an answer.
func down(w http.ResponseWriter, _ *http.Request) bool {
	if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
		c.Close()
	}
	return true
}

// nonsense answers with a page for people.
func nonsense(w http.ResponseWriter, _ *http.Request) bool {
	_, _ = io.WriteString(w, "<html>Welcome to the hotel's wireless network</html>")
	return true
}

// broken answers as a gateway does.
func broken(w http.ResponseWriter, _ *http.Request) bool {
	http.Error(w, "upstream connect error", http.StatusBadGateway)
	return true
}

// faults are the ways in which a facilitator fails.
func faults() map[string]func(http.ResponseWriter, *http.Request) bool {
	return map[string]func(http.ResponseWriter, *http.Request) bool{"down": down, "nonsense": nonsense, "broken": broken}
}

// only lets fault have the settlements of a type, n of them.
func only(typ string, n int, fault func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) bool {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(b))
		if !strings.Contains(string(b), `"type":"`+typ+`"`) {
			return false
		}
		mu.Lock()
		n--
		left := n >= 0
		mu.Unlock()
		return left && fault(w, r)
	}
}

// notices collects what a buyer's status says, each text once.
type notices struct {
	mu    sync.Mutex
	texts []string
	last  buyer.Status
}

func (n *notices) hear(s buyer.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = s
	for _, text := range []string{s.Notice, s.Error} {
		if text != "" && (len(n.texts) == 0 || n.texts[len(n.texts)-1] != text) {
			n.texts = append(n.texts, text)
		}
	}
}

func (n *notices) has(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Contains(strings.Join(n.texts, "\n"), text)
}

func (n *notices) status() buyer.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

// TestFacilitatorGoneAtHello: whose deposit is known is served all the same, and
// all is settled when it is back.
func TestFacilitatorGoneAtHello(t *testing.T) {
	t.Parallel()
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t)
			f := m.newFront()
			site := web(t)
			p := m.buy(func(c *buyer.Config) { c.Keep = true })
			fetch(t, p.through(), site.URL+"/300000", 300_000)
			p.stop(t)

			f.set(fault)
			p = m.buy(nil)
			fetch(t, p.through(), site.URL+"/300000", 300_000)
			p.cancel()
			<-p.done
			if p.err == nil || !strings.Contains(p.err.Error(), "facilitator unavailable") || !strings.Contains(p.err.Error(), "your deposit is safe") {
				t.Errorf("the buyer ends with %v", p.err)
			}
			f.set(nil)
			p = m.buy(func(c *buyer.Config) { c.CloseOnly = true })
			<-p.done
			if p.err != nil {
				t.Error(p.err)
			}
			m.settled(p)
		})
	}
}

// TestFacilitatorGoneForStranger: a deposit that cannot be seen is not trusted,
// and none can be made. Both say why.
func TestFacilitatorGoneForStranger(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	f := m.newFront()
	f.set(down)
	stranger := newCheat(m, 100_000)
	stranger.connect(nil)
	if n := stranger.notice(); !strings.Contains(n.Text, "the channel's deposit cannot be checked now: facilitator unavailable") {
		t.Errorf("a stranger hears %+v", n)
	}
	p := m.buy(nil)
	<-p.done
	if !errors.Is(p.err, facilitator.ErrUnavailable) {
		t.Errorf("ended with %v", p.err)
	}
}

// TestTopUp fails a few times, each in another way, while the session goes on
// with what there is; the agent claims in between.
func TestTopUp(t *testing.T) {
	t.Parallel()
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarketOf(t, func(c *seller.Config) { c.Payment.MinDeposit, c.SettleAt = 1_000, 1_500 })
			f := m.newFront()
			site := web(t)
			p := m.buy(func(c *buyer.Config) { c.Deposit = 4_000 }) // 1 MB
			fetch(t, p.through(), site.URL+"/400000", 400_000)
			f.set(only("deposit", 2, fault))
			fetch(t, p.through(), site.URL+"/3000000", 3_000_000)
			if f.hit() != 2 {
				t.Errorf("%d deposits were in vain, want 2", f.hit())
			}
			f.set(nil)
			fetch(t, p.through(), site.URL+"/3000000", 3_000_000)
			p.stop(t)
			m.settled(p)
		})
	}
}

// TestSlowFacilitator: nobody waits for a settlement but who asked for it.
func TestSlowFacilitator(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { c.SettleAt = 1_000 })
	f := m.newFront()
	site := web(t)
	release := make(chan struct{})
	f.set(only("claim", 1, func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return false
	}))
	p := m.buy(nil)
	for range 5 {
		fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	}
	close(release)
	p.stop(t)
	m.settled(p)
}

// TestClaimFails: vouchers are kept, the owner hears why, and everything is
// claimed when the facilitator is back.
func TestClaimFails(t *testing.T) {
	t.Parallel()
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarketOf(t, func(c *seller.Config) { c.SettleAt = 1_000 })
			f := m.newFront()
			site := web(t)
			p := m.buy(func(c *buyer.Config) { c.Keep = true })
			fetch(t, p.through(), site.URL+"/100000", 100_000)
			f.set(fault)
			for range 3 {
				fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
			}
			p.stop(t)
			control := seller.DialControl(m.cfg.ControlPath())
			if _, err := control.Settle(t.Context()); err == nil || !strings.Contains(err.Error(), "claim: facilitator unavailable") {
				t.Errorf("settle: %v", err)
			}
			f.set(nil)
			if _, err := control.Settle(t.Context()); err != nil {
				t.Error(err)
			}
			p = m.buy(func(c *buyer.Config) { c.CloseOnly = true })
			<-p.done
			m.settled(p)
		})
	}
}

// TestRefundWithoutAnswer: the facilitator gives the deposit back and is gone
// before it says so. Until the ledger can be read again neither side goes by the
// deposit that was there.
func TestRefundWithoutAnswer(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	f := m.newFront()
	site := web(t)
	p := m.buy(nil)
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	lost := only("refund", 1, func(w http.ResponseWriter, r *http.Request) bool {
		f.inner.ServeHTTP(httptest.NewRecorder(), r)
		f.set(down)
		return down(w, r)
	})
	f.set(lost)
	p.cancel()
	<-p.done
	if p.err == nil || !strings.Contains(p.err.Error(), "facilitator unavailable") {
		t.Errorf("ended with %v", p.err)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			m.agent.stop(t)
			m.startAgent()
		}
		var n notices
		p = m.buy(func(c *buyer.Config) { c.OnStatus, c.Keep = n.hear, true })
		until(t, "the buyer hears that the channel is being settled", func() bool { return n.has("the channel is being settled") })
		if s := n.status(); s.Session != 0 {
			t.Errorf("a session was opened on a deposit that is gone: %+v", s)
		}
		p.cancel()
		<-p.done
	}
	f.set(nil)
	var n notices
	p = m.buy(func(c *buyer.Config) { c.OnStatus = n.hear })
	until(t, "the session is open", func() bool { return n.status().State == "connected" }) // it may be refused at first
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	p.stop(t)
	m.settled(p)
}

// A failing store is full while it has an error.
type failing struct {
	channel.Store
	mu  sync.Mutex
	err error
}

func (f *failing) Save(s channel.State) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.Store.Save(s)
}

func (f *failing) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// TestBuyersDiskFull: what cannot be stored is not signed. The buyer says so,
// the agent waits, and it goes on when there is room.
func TestBuyersDiskFull(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.ENOSPC, syscall.EROFS} {
		t.Run(fault.Error(), func(t *testing.T) {
			t.Parallel()
			m := newMarket(t)
			site := web(t)
			var n notices
			var store *failing
			p := m.buy(func(c *buyer.Config) {
				store = &failing{Store: c.Store}
				c.Store, c.OnStatus = store, n.hear
			})
			until(t, "the session is open", func() bool { return n.status().State == "connected" })
			fetch(t, p.through(), site.URL+"/100000", 100_000)
			store.set(fault)
			var wg sync.WaitGroup
			wg.Go(func() {
				res, err := p.through().Get(site.URL + "/3000000")
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if got, err := io.Copy(io.Discard, res.Body); got != 3_000_000 || err != nil {
					t.Errorf("fetched %d bytes: %v", got, err)
				}
			})
			until(t, "the buyer says why it does not pay", func() bool { return n.has(fault.Error()) })
			if s := n.status(); s.Signed > s.Accepted+1_000 {
				t.Errorf("signed %d, accepted %d", s.Signed, s.Accepted)
			}
			store.set(nil)
			wg.Wait()
			p.stop(t)
			m.settled(p)
		})
	}
}

// TestModemComesAndGoes: without a SIM nothing is sold, and the buyer hears why;
// when the modem is there it goes on by itself.
func TestModemComesAndGoes(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	m.agent.stop(t)
	sim, err := modemtest.New(modemtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	plays := start(sim.Run)
	sim.Unplug()
	m.cfg.Modem = &modem.Config{Port: "scripted", Open: sim.Dial}
	m.startAgent()
	site := web(t)
	var n notices
	p := m.buy(func(c *buyer.Config) { c.OnStatus = n.hear })
	until(t, "the buyer hears why it is not served", func() bool { return n.has("the agent has no SIM to sell: ") })
	sim.Replug()
	until(t, "the session is open", func() bool { return n.status().State == "connected" })
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	if o := m.offer(); o.SIM.MCC != "001" {
		t.Errorf("the offer names the SIM %+v", o.SIM)
	}
	sim.Unplug() // not noticed by who is being served
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	p.stop(t)
	m.settled(p)
	m.agent.stop(t)
	plays.stop(t)
}

// A late ledger's clock is ahead of everybody's.
type late struct {
	server.Ledger
	by atomic.Uint64 // seconds
}

func (l *late) Submit(ctx context.Context, tx ledger.Tx) (ledger.Receipt, error) {
	tx.Time += l.by.Load()
	return l.Ledger.Submit(ctx, tx)
}

// newLate puts the market on a late ledger.
func (m *market) newLate() *late {
	m.t.Helper()
	l := &late{Ledger: ledger.NewMemory(m.params)}
	srv, err := server.New(server.Config{Ledger: l, Dev: true})
	if err != nil {
		m.t.Fatal(err)
	}
	s := httptest.NewServer(srv)
	m.t.Cleanup(s.Close)
	if m.fac, err = nethttp.New(nethttp.Config{URL: s.URL}); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.fac.Faucet(m.t.Context(), x402.FaucetRequest{Address: m.wallet.Address(), Amount: wealth, Ref: channel.Hash{1}}); err != nil {
		m.t.Fatal(err)
	}
	m.url = s.URL
	return l
}

// TestBuyersClock: a buyer whose clock is far behind the facilitator's is told
// to set it.
func TestBuyersClock(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	l := m.newLate()
	m.newFront()
	l.by.Store(20 * 365 * 24 * 60 * 60)
	p := m.buy(nil)
	<-p.done
	if p.err == nil || !strings.Contains(p.err.Error(), "the clock of this computer says") || !strings.Contains(p.err.Error(), "set it") {
		t.Errorf("ended with %v", p.err)
	}
}

// TestPayerTookDepositBack while the agent was away for longer than the delay.
// What he owes is lost; what another owes is claimed all the same.
func TestPayerTookDepositBack(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	l := m.newLate()
	f := m.newFront()
	site := web(t)
	gone := newCheat(m, 200_000)
	gone.connect(nil)
	gone.terms()
	got := gone.download(site.URL, 10_000_000)
	gone.reading(got)
	gone.pay(gone.domain.SignVoucher(gone.key, gone.id, channel.Amount(got*4/1000)))
	gone.download(site.URL, 10_000_000)
	gone.conn.Close(tunnel.ReasonDone, "")
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	p.stop(t)
	f.set(down) // the agent is cut off: it cannot claim at its end
	m.agent.stop(t)
	f.set(nil)

	network := m.params.Network()
	withdraw := func(step string, nonce x402.Decimal) {
		t.Helper()
		w := x402.Withdraw{Network: network, Step: step, Channel: gone.id, Amount: 200_000, Nonce: nonce}
		if _, err := m.fac.Withdraw(t.Context(), w.Sign(gone.key, gone.domain)); err != nil {
			t.Fatal(err)
		}
	}
	withdraw(x402.WithdrawInitiate, 0)
	l.by.Store(3 * 24 * 60 * 60)
	withdraw(x402.WithdrawFinalize, 1)
	m.startAgent()
	m.offer()
	if _, err := seller.DialControl(m.cfg.ControlPath()).Settle(t.Context()); err != nil {
		t.Errorf("settle: %v", err)
	}
	if got, want := m.balance(m.payTo), p.result.Signed; want == 0 || got != want {
		t.Errorf("the receiver has %d, the honest buyer signed %d", got, want)
	}
}
