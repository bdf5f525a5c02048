package spend

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/resource"
	"github.com/depinsim/x402/channel/x402"
)

// A memory is a Store that can be told to fail.
type memory struct {
	mu     sync.Mutex
	states []channel.State
	broken error
}

func (m *memory) Load() ([]channel.State, error) { return slices.Clone(m.states), nil }
func (m *memory) Close() error                   { return nil }

func (m *memory) Save(s channel.State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	i := slices.IndexFunc(m.states, func(o channel.State) bool { return o.ID == s.ID })
	if i < 0 {
		m.states = append(m.states, s)
	} else {
		m.states[i] = s
	}
	return nil
}

// A wire carries requests to a handler without a network, counts payments, and
// can lose or change what comes back.
type wire struct {
	mu       sync.Mutex
	handler  http.Handler
	payments []x402.PaymentPayload
	// lose says whether a request's answer is lost: "before" or "after" it was
	// handled.
	lose string
	lie  func(h http.Header) // changes the answer to a payment; nil: none
}

var errLost = errors.New("connection reset")

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	paid := r.Header.Get(x402.HeaderSignature)
	w.mu.Lock()
	lose, lie := w.lose, w.lie
	if paid != "" {
		var p x402.PaymentPayload
		if err := x402.DecodeHeader(paid, &p); err != nil {
			panic(err)
		}
		w.payments = append(w.payments, p)
		w.lose = ""
	}
	w.mu.Unlock()
	if paid != "" && lose == "before" {
		return nil, errLost
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	if paid != "" && lose == "after" {
		return nil, errLost
	}
	resp := rec.Result()
	if paid != "" && lie != nil {
		lie(resp.Header)
	}
	return resp, nil
}

// A trade is a server of ours, and a client that pays it over a wire.
type trade struct {
	t       *testing.T
	params  ledger.Params
	client  *facilitator.Client
	payer   *channel.Key
	store   *memory
	wire    *wire
	server  *resource.Server
	config  Config
	spender *Transport
	paid    []Payment
}

func newTrade(t *testing.T) *trade {
	t.Helper()
	x := &trade{t: t, store: &memory{}, payer: newKey(t), wire: &wire{},
		params: ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2"}}
	f, err := server.New(server.Config{Ledger: ledger.NewMemory(x.params), Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	x.client, err = nethttp.New(nethttp.Config{URL: "http://facilitator.test", HTTP: &http.Client{Transport: &wire{handler: f}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.client.Faucet(t.Context(), x402.FaucetRequest{Address: x.payer.Address(), Amount: 10_000_000}); err != nil {
		t.Fatal(err)
	}
	x.server, err = resource.New(resource.Config{
		Key: newKey(t), PayTo: channel.Address{7}, Token: x.params.Asset(), Store: &memory{}, Facilitator: x.client, MinDeposit: 1_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, route := range map[string]resource.Route{
		"/goods":      {Price: 100, Schemes: []string{x402.SchemeBatch}},
		"POST /goods": {Price: 100, Schemes: []string{x402.SchemeBatch}},
		"/dear":       {Price: 900, Schemes: []string{x402.SchemeBatch}},
		"/either":     {Price: 100},
	} {
		h, err := x.server.Handler(route, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("cheap") {
				if err := resource.Charge(r.Context(), 1); err != nil {
					t.Error(err)
				}
			}
			io.Copy(w, r.Body)
			io.WriteString(w, "goods")
		}))
		if err != nil {
			t.Fatal(err)
		}
		mux.Handle(pattern, h)
	}
	x.wire.handler = mux
	x.config = Config{
		Key: x.payer, Store: x.store, MaxPrice: 1_000, Budget: 10_000, Base: x.wire,
		Assets:    []Asset{{Token: x.params.Asset(), Ledger: x.client}},
		OnPayment: func(p Payment) { x.paid = append(x.paid, p) },
	}
	x.open()
	return x
}

// open starts the client on what its store holds.
func (x *trade) open() {
	x.t.Helper()
	var err error
	if x.spender, err = New(x.config); err != nil {
		x.t.Fatal(err)
	}
}

func newKey(t testing.TB) *channel.Key {
	t.Helper()
	k, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// try fetches a path; what is no error is the status.
func (x *trade) try(path string) (int, error) {
	resp, err := (&http.Client{Transport: x.spender}).Get("http://shop.test" + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode == 200 && string(b) != "goods" {
		x.t.Errorf("answered %q", b)
	}
	return resp.StatusCode, err
}

func (x *trade) get(path string) {
	x.t.Helper()
	if status, err := x.try(path); err != nil || status != 200 {
		x.t.Errorf("%s: status %d, %v", path, status, err)
	}
}

// fails expects an error, and that no more than some payments left in all.
func (x *trade) fails(path string, want error, payments int) {
	x.t.Helper()
	if status, err := x.try(path); !errors.Is(err, want) {
		x.t.Errorf("%s: status %d, %v, want %v", path, status, err, want)
	}
	if len(x.wire.payments) != payments {
		x.t.Errorf("%s: %d payments have left, want %d", path, len(x.wire.payments), payments)
	}
}

func (x *trade) balance(a channel.Address) channel.Amount {
	x.t.Helper()
	info, err := x.client.Balance(context.Background(), x.params.Network(), a)
	if err != nil {
		x.t.Fatal(err)
	}
	return info.Balance
}

// record is what the store says.
func (x *trade) record() record {
	x.t.Helper()
	r, err := parseRecord(x.store.states[0].Note)
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

// TestLife: a channel is opened, topped up, used for little after much, and
// refunded; another run goes on where this one ended.
func TestLife(t *testing.T) {
	x := newTrade(t)
	for range 9 {
		x.get("/goods")
	}
	x.get("/dear?cheap")
	x.get("/goods")
	if got := x.record(); got.charged != 1_001 || got.signed != 1_800 || got.open || x.spender.Spent() != 1_001 {
		t.Errorf("record %+v, spent %d", got, x.spender.Spent())
	}
	if len(x.paid) != 11 || x.paid[0].Deposited != 1_000 || x.paid[9].Deposited == 0 || x.paid[9].Charged != 1 {
		t.Errorf("payments %+v", x.paid)
	}
	resp, err := (&http.Client{Transport: x.spender}).Post("http://shop.test/goods", "text/plain", strings.NewReader("more "))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if resp.Body.Close(); string(b) != "more goods" {
		t.Errorf("posted: %q, %v", b, err)
	}
	x.open()
	x.get("/goods")
	if x.spender.Spent() != 100 {
		t.Errorf("spent %d in another run", x.spender.Spent())
	}
	back, err := x.spender.RefundAll(t.Context())
	if payer := x.balance(x.payer.Address()); err != nil || payer != 10_000_000-1_201 || back == 0 {
		t.Errorf("refunded %d, %v, payer has %d", back, err, payer)
	}
	if back, err := x.spender.Refund(t.Context(), "GET", "http://shop.test/goods"); err != nil || back != 0 {
		t.Errorf("refunded %d again, %v", back, err)
	}
	x.get("/goods") // by a new deposit
	if _, err := x.spender.Refund(t.Context(), "GET", "http://shop.test/nothing"); err == nil {
		t.Error("who asks for nothing gave something back")
	}
}

// TestScheme: of equal prices the scheme that is named first.
func TestScheme(t *testing.T) {
	x := newTrade(t)
	x.get("/either")
	x.config.Schemes = []string{x402.SchemeExact, x402.SchemeBatch}
	x.open()
	x.get("/either")
	if x.paid[0].Channel == nil || x.paid[1].Channel != nil || x.paid[1].Transaction == "" || x.balance(channel.Address{7}) != 100 {
		t.Errorf("%+v", x.paid)
	}
}

// TestLimits: what is not allowed is not signed for.
func TestLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   error
	}{
		"price":   {func(c *Config) { c.MaxPrice = 99 }, ErrPrice},
		"budget":  {func(c *Config) { c.Budget = 99 }, ErrBudget},
		"deposit": {func(c *Config) { c.MaxDeposit = 999 }, nil},
		"scheme":  {func(c *Config) { c.Schemes = []string{x402.SchemeExact} }, ErrOffer},
		"asset":   {func(c *Config) { c.Assets[0].Token.Address[0]++ }, ErrOffer},
		"network": {func(c *Config) { c.Assets[0].Token.ChainID++ }, ErrOffer},
		"name":    {func(c *Config) { c.Assets[0].Token.Name = "USD Coin" }, ErrOffer},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTrade(t)
			x.config.Assets = slices.Clone(x.config.Assets)
			tt.change(&x.config)
			x.open()
			status, err := x.try("/goods")
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || len(x.wire.payments) > 0 {
				t.Errorf("status %d, %v, %d payments", status, err, len(x.wire.payments))
			}
			if x.balance(x.payer.Address()) != 10_000_000 {
				t.Error("something was paid")
			}
		})
	}
	x := newTrade(t)
	x.config.MaxLocked = 1_500
	x.open()
	for range 31 {
		x.get("/goods") // from one channel, topped up
	}
	c, err := x.spender.allow(x.wire.payments[0].Accepted)
	if err != nil {
		t.Fatal(err)
	}
	c.Extra.ReceiverAuthorizer = &channel.Address{9} // which would be another channel
	l, err := x.spender.enter(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.spender.lock(l, 1_000); !errors.Is(err, ErrBudget) {
		t.Errorf("a deposit in another channel: %v", err)
	}
	x = newTrade(t)
	x.config.Budget = 250
	x.open()
	x.get("/goods")
	x.get("/goods")
	x.fails("/goods", ErrBudget, 2)
	x.config.Schemes = []string{x402.SchemeExact}
	x.open()
	x.get("/either")
	x.get("/either")
	x.fails("/either", ErrBudget, 4)
	for _, c := range []Config{{}, {Key: x.payer, Store: x.store}, {Key: x.payer, Store: x.store, Assets: []Asset{{}}}, {Key: x.payer, Store: x.store, Assets: x.config.Assets}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// TestLost: answers are lost, before the server heard of the request and after;
// each request is paid for once, and a deposit made once.
func TestLost(t *testing.T) {
	for _, lose := range []string{"before", "after"} {
		for _, restart := range []bool{false, true} {
			x := newTrade(t)
			x.wire.lose = lose
			x.fails("/goods", errLost, 1) // with a deposit
			if restart {
				x.open()
			}
			x.get("/goods")
			x.wire.lose = lose
			if _, err := x.try("/goods"); !errors.Is(err, errLost) {
				t.Error(err)
			}
			if restart {
				x.open()
			}
			x.get("/goods")
			want := channel.Amount(200)
			if lose == "after" {
				want = 400
			}
			r := x.record()
			if payer := x.balance(x.payer.Address()); r.charged != want || payer != 10_000_000-1_000 || r.draft != (draft{}) {
				t.Errorf("lost %s: charged %d, want %d; payer has %d", lose, r.charged, want, payer)
			}
			if !restart && x.spender.Spent() != want {
				t.Errorf("lost %s: spent %d, want %d", lose, x.spender.Spent(), want)
			}
			x.wire.lose = lose
			if _, err := x.spender.RefundAll(t.Context()); !errors.Is(err, errLost) {
				t.Error(err)
			}
			x.spender.RefundAll(t.Context())
			if payer := x.balance(x.payer.Address()); payer != 10_000_000-want {
				t.Errorf("lost %s: after the refund the payer has %d", lose, payer)
			}
		}
	}
}

// TestDisk: no voucher leaves that is not stored.
func TestDisk(t *testing.T) {
	x := newTrade(t)
	x.get("/goods")
	x.store.broken = errors.New("disk full")
	x.fails("/goods", x.store.broken, 1)
	x.store.broken = nil
	x.get("/goods")
}

// TestBody: a body that cannot be sent again is not paid for.
func TestBody(t *testing.T) {
	x := newTrade(t)
	req, err := http.NewRequest("POST", "http://shop.test/goods", io.NopCloser(strings.NewReader("x")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&http.Client{Transport: x.spender}).Do(req); err == nil || !strings.Contains(err.Error(), "GetBody") || len(x.wire.payments) > 0 {
		t.Errorf("%v", err)
	}
}

// TestTogether: requests at once follow each other on their channel, also when
// another client uses it.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrade(t)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { x.get("/goods") })
		}
		wg.Wait()
		if got := x.record().charged; got != 2_000 || len(x.paid) != 20 {
			t.Errorf("charged %d, %d payments", got, len(x.paid))
		}
		// The channel is busy at first.
		tries := 0
		handler := x.wire.handler
		x.wire.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(x402.HeaderSignature) != "" {
				if tries++; tries == 1 {
					text, _ := x402.EncodeHeader(x402.PaymentRequired{Version: 2, Error: x402.ErrChannelBusy})
					w.Header().Set(x402.HeaderRequired, text)
					w.WriteHeader(402)
					return
				}
			}
			handler.ServeHTTP(w, r)
		})
		x.get("/goods")
		if tries != 2 {
			t.Errorf("%d tries", tries)
		}
	})
}

// TestWithdrawal: a channel whose deposit is being taken back is not paid from.
func TestWithdrawal(t *testing.T) {
	x := newTrade(t)
	x.get("/goods")
	w := x402.Withdraw{Step: x402.WithdrawInitiate, Channel: x.store.states[0].ID, Amount: 900}
	if _, err := x.client.Withdraw(t.Context(), w.Sign(x.payer, x.store.states[0].Domain)); err != nil {
		t.Fatal(err)
	}
	x.open()
	if _, err := x.try("/goods"); err == nil || !strings.Contains(err.Error(), "withdrawal") || len(x.wire.payments) != 1 {
		t.Errorf("%v", err)
	}
}
