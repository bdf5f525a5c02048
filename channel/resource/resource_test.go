package resource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
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

// direct carries requests to a handler without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// A watched facilitator can be out of order, and counts what is asked of it.
type watched struct {
	Facilitator
	answered func() // called when a payment was verified; nil: nothing

	mu       sync.Mutex // guards all below
	down     error
	verified int
	settled  []string // types of payloads
}

// outage begins one, or ends it.
func (f *watched) outage(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// ask counts a question, and returns why it is not answered.
func (f *watched) ask(settle string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if settle == "" {
		f.verified++
	} else {
		f.settled = append(f.settled, settle)
	}
	return f.down
}

func (f *watched) Verify(ctx context.Context, p x402.PaymentPayload, r x402.Requirements) (x402.VerifyResponse, error) {
	if err := f.ask(""); err != nil {
		return x402.VerifyResponse{}, err
	}
	v, err := f.Facilitator.Verify(ctx, p, r)
	if f.answered != nil {
		f.answered()
	}
	return v, err
}

func (f *watched) Settle(ctx context.Context, p x402.PaymentPayload, r x402.Requirements) (x402.SettlementResponse, error) {
	if err := f.ask(p.Payload.Type()); err != nil {
		return x402.SettlementResponse{}, err
	}
	return f.Facilitator.Settle(ctx, p, r)
}

// A shop is a server with one route, and a payer who builds his payments by hand.
type shop struct {
	t             testing.TB
	params        ledger.Params
	client        *facilitator.Client
	fac           *watched
	store         *memory
	server        *Server
	payer, seller *channel.Key
	config        channel.Config
	id            channel.ID
	route         Route
	handler       http.HandlerFunc // what is sold
	web           http.Handler     // it, behind the payment
	accepts       []x402.Requirements
	nonce         byte
}

const price = 100

func newShop(t testing.TB) *shop {
	t.Helper()
	s := &shop{
		t: t, store: &memory{}, route: Route{Price: price},
		params: ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor},
		payer:  newKey(t), seller: newKey(t),
		handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "goods") },
	}
	f, err := server.New(server.Config{Ledger: ledger.NewMemory(s.params), Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	s.client, err = nethttp.New(nethttp.Config{URL: "http://facilitator.test", HTTP: &http.Client{Transport: direct{f}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Faucet(t.Context(), x402.FaucetRequest{Address: s.payer.Address(), Amount: 10_000_000}); err != nil {
		t.Fatal(err)
	}
	s.fac = &watched{Facilitator: s.client}
	s.open()
	s.config = channel.Config{
		Payer: s.payer.Address(), PayerAuthorizer: s.payer.Address(), Receiver: channel.Address{7},
		ReceiverAuthorizer: s.seller.Address(), Token: s.params.Token, WithdrawDelay: 24 * 3600,
	}
	s.id = s.params.Domain().ID(s.config)
	return s
}

func newKey(t testing.TB) *channel.Key {
	t.Helper()
	k, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// open starts the server on what its store holds.
func (s *shop) open() {
	s.t.Helper()
	var err error
	s.server, err = New(Config{
		Key: s.seller, PayTo: channel.Address{7}, Token: s.params.Asset(), Store: s.store, Facilitator: s.fac,
		MinDeposit: 1_000, SettleAt: 10_000,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.serve()
}

// serve puts the route up.
func (s *shop) serve() {
	s.t.Helper()
	var err error
	s.web, err = s.server.Handler(s.route, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handler(w, r) }))
	if err != nil {
		s.t.Fatal(err)
	}
	s.accepts = s.web.(*handler).accepts
}

// A reply is what a request got.
type reply struct {
	status   int
	body     string
	header   http.Header
	settled  x402.SettlementResponse
	required x402.PaymentRequired
}

// get sends a request with a value of PAYMENT-SIGNATURE, or without.
func (s *shop) get(text string) reply {
	s.t.Helper()
	r := httptest.NewRequest("GET", "http://shop.test/goods?a=b", nil)
	if text != "" {
		r.Header.Set(x402.HeaderSignature, text)
	}
	return s.do(r)
}

func (s *shop) do(r *http.Request) reply {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.web.ServeHTTP(w, r)
	a := reply{status: w.Code, body: w.Body.String(), header: w.Header()}
	for name, v := range map[string]any{x402.HeaderResponse: &a.settled, x402.HeaderRequired: &a.required} {
		if text := w.Header().Get(name); text != "" {
			if err := x402.DecodeHeader(text, v); err != nil {
				s.t.Errorf("%s: %v", name, err)
			}
		}
	}
	return a
}

// pay sends a payment.
func (s *shop) pay(p x402.PaymentPayload) reply {
	s.t.Helper()
	text, err := x402.EncodeHeader(p)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.get(text)
}

func (s *shop) payload(scheme string, p x402.Payload) x402.PaymentPayload {
	i := slices.IndexFunc(s.accepts, func(r x402.Requirements) bool { return r.Scheme == scheme })
	return x402.PaymentPayload{Version: x402.Version, Accepted: s.accepts[i], Payload: p}
}

func (s *shop) sign(top channel.Amount) channel.Voucher {
	return s.params.Domain().SignVoucher(s.payer, s.id, top)
}

func (s *shop) voucher(top channel.Amount) x402.PaymentPayload {
	return s.payload(x402.SchemeBatch, x402.Payload{Voucher: &x402.VoucherPayment{Config: s.config, Voucher: s.sign(top)}})
}

func (s *shop) deposit(amount, top channel.Amount) x402.PaymentPayload {
	s.nonce++
	d := x402.DepositRequest{
		Domain: s.params.Domain(), Token: s.params.Asset(), Config: s.config, Amount: amount, Voucher: s.sign(top),
		ValidBefore: uint64(time.Now().Add(time.Hour).Unix()), Salt: channel.Hash{s.nonce},
	}.Sign(s.payer)
	return s.payload(x402.SchemeBatch, x402.Payload{Deposit: &d})
}

func (s *shop) refund(top channel.Amount, amount *channel.Amount) x402.PaymentPayload {
	return s.payload(x402.SchemeBatch, x402.Payload{Refund: &x402.Refund{Config: s.config, Voucher: s.sign(top), Amount: amount}})
}

func (s *shop) exact(nonce byte) x402.PaymentPayload {
	a := x402.Authorization{From: s.payer.Address(), To: channel.Address{7}, Value: price,
		ValidBefore: x402.Decimal(time.Now().Add(time.Hour).Unix()), Nonce: channel.Hash{nonce}}
	sig := s.payer.Sign(s.params.Asset().TransferDigest(a.Standard()))
	return s.payload(x402.SchemeExact, x402.Payload{Exact: &x402.Exact{Signature: sig, Authorization: a}})
}

// want checks that a payment was taken, and what is charged then.
func (s *shop) want(a reply, charge, total channel.Amount) {
	s.t.Helper()
	if a.status != 200 || !a.settled.Success || *a.settled.Extra.ChargedAmount != charge || *a.settled.Extra.ChannelState.Charged != total {
		s.t.Errorf("want a charge of %d to %d, got status %d: %s %+v", charge, total, a.status, a.body, a.settled.Extra)
	}
}

// refused checks that one was not.
func (s *shop) refused(a reply, status int, code string) {
	s.t.Helper()
	got := a.required.Error
	if got == "" {
		got = a.settled.ErrorReason
	}
	if status != 402 {
		got = code // only the body says it
	}
	if a.status != status || got != code || a.settled.Success || a.body == "goods" {
		s.t.Errorf("want status %d %s, got %d %s: %s", status, code, a.status, got, a.body)
	}
}

func (s *shop) balance(a channel.Address) channel.Amount {
	s.t.Helper()
	info, err := s.client.Balance(context.Background(), s.params.Network(), a)
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Balance
}

// TestLife is the way that a channel goes, by the fewest questions to the
// facilitator.
func TestLife(t *testing.T) {
	s := newShop(t)
	a := s.get("")
	s.refused(a, 402, "Payment required")
	r := a.required
	if r.Resource.URL != "http://shop.test/goods?a=b" || len(r.Accepts) != 2 || *r.Accepts[0].Extra.MinDeposit != 1_000 || r.Accepts[1].Scheme != x402.SchemeExact {
		t.Errorf("asked for %+v", r)
	}
	a = s.pay(s.deposit(1_000, 100))
	s.want(a, 100, 100)
	if a.settled.Transaction == "" || *a.settled.Amount != 1_000 || a.settled.Extra.ChannelState.Balance != 1_000 {
		t.Errorf("deposit: %+v", a.settled)
	}
	for i := channel.Amount(2); i <= 10; i++ {
		s.want(s.pay(s.voucher(i*100)), 100, i*100)
	}
	if s.fac.verified != 1 || len(s.fac.settled) != 1 {
		t.Errorf("asked for %d checks and %v", s.fac.verified, s.fac.settled)
	}
	s.refused(s.pay(s.voucher(1_100)), 402, x402.ErrExceedsBalance)
	s.want(s.pay(s.deposit(1_000, 1_100)), 100, 1_100)
	if err := s.server.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.want(s.pay(s.voucher(1_200)), 100, 1_200)
	part := channel.Amount(300)
	a = s.pay(s.refund(1_200, &part))
	if a.status != 200 || *a.settled.Amount != 300 || a.settled.Extra.ChannelState.Balance != 1_700 {
		t.Errorf("refund of a part: %d %s %+v", a.status, a.body, a.settled)
	}
	s.want(s.pay(s.voucher(1_300)), 100, 1_300)
	a = s.pay(s.refund(1_300, nil))
	if a.status != 200 || *a.settled.Amount != 400 || a.settled.Extra.ChannelState.TotalClaimed != 1_300 {
		t.Errorf("refund: %d %s %+v", a.status, a.body, a.settled)
	}
	s.refused(s.pay(s.refund(1_300, nil)), 402, x402.ErrRefundNoBalance)
	s.want(s.pay(s.deposit(1_000, 1_400)), 100, 1_400)
	if err := s.server.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if payer, seller := s.balance(s.payer.Address()), s.balance(channel.Address{7}); payer != 10_000_000-1_300-1_000 || seller != 1_400 {
		t.Errorf("payer has %d, seller %d", payer, seller)
	}
	if err := s.server.Settle(t.Context()); err != nil {
		t.Errorf("nothing to settle: %v", err)
	}
}

// TestRefusals: whatever a payer sends, the goods are not given away, the code
// says why, and the channel can be used as before.
func TestRefusals(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	stranger := newKey(t)
	config := func(change func(*channel.Config)) x402.PaymentPayload {
		c := s.config
		change(&c)
		v := s.params.Domain().SignVoucher(s.payer, s.params.Domain().ID(c), 100)
		return s.payload(x402.SchemeBatch, x402.Payload{Voucher: &x402.VoucherPayment{Config: c, Voucher: v}})
	}
	change := func(p x402.PaymentPayload, f func(*x402.PaymentPayload)) x402.PaymentPayload {
		f(&p)
		return p
	}
	zero, much := channel.Amount(0), channel.Amount(901)
	forged := s.voucher(200)
	forged.Payload.Voucher.Voucher = s.params.Domain().SignVoucher(stranger, s.id, 200)
	late := s.deposit(1_000, 200)
	late.Payload.Deposit.Deposit.Authorization.ERC3009.ValidBefore = 1
	for name, tt := range map[string]struct {
		p      x402.PaymentPayload
		status int
		code   string
	}{
		"version":          {change(s.voucher(200), func(p *x402.PaymentPayload) { p.Version = 1 }), 400, ""},
		"a claim":          {s.payload(x402.SchemeBatch, x402.Payload{Claim: &x402.Claim{}}), 400, ""},
		"a settle":         {s.payload(x402.SchemeBatch, x402.Payload{Settle: &x402.Settle{}}), 400, ""},
		"other scheme":     {s.payload(x402.SchemeExact, s.voucher(200).Payload), 400, ""},
		"old price":        {change(s.voucher(200), func(p *x402.PaymentPayload) { p.Accepted.Amount = 99 }), 402, x402.ErrRequirements},
		"other network":    {change(s.voucher(200), func(p *x402.PaymentPayload) { p.Accepted.Network = "eip155:1" }), 402, x402.ErrRequirements},
		"other receiver":   {change(s.voucher(200), func(p *x402.PaymentPayload) { p.Accepted.PayTo = channel.Address{8} }), 402, x402.ErrRequirements},
		"id":               {change(s.voucher(200), func(p *x402.PaymentPayload) { p.Payload.Voucher.Config.Salt = channel.Hash{1} }), 402, x402.ErrChannelID},
		"receiver":         {config(func(c *channel.Config) { c.Receiver = channel.Address{8} }), 402, x402.ErrReceiver},
		"authorizer":       {config(func(c *channel.Config) { c.ReceiverAuthorizer = channel.Address{8} }), 402, x402.ErrReceiverAuthorizer},
		"token":            {config(func(c *channel.Config) { c.Token = channel.Address{8} }), 402, x402.ErrToken},
		"delay":            {config(func(c *channel.Config) { c.WithdrawDelay = 900 }), 402, x402.ErrWithdrawDelayMismatch},
		"contract wallet":  {config(func(c *channel.Config) { c.PayerAuthorizer = channel.Address{} }), 402, x402.ErrVoucherSignature},
		"other channel":    {config(func(c *channel.Config) { c.Salt = channel.Hash{1} }), 402, x402.ErrChannelNotFound},
		"forged":           {forged, 402, x402.ErrVoucherSignature},
		"again":            {s.voucher(100), 402, x402.ErrCumulativeMismatch},
		"too much":         {s.voucher(201), 402, x402.ErrCumulativeMismatch},
		"too little":       {s.voucher(199), 402, x402.ErrCumulativeMismatch},
		"small deposit":    {s.deposit(999, 200), 402, x402.ErrDepositBelowMin},
		"deposit, count":   {s.deposit(1_000, 300), 402, x402.ErrCumulativeMismatch},
		"deposit, late":    {late, 402, x402.ErrValidBefore},
		"deposit, poor":    {s.deposit(50_000_000, 200), 402, x402.ErrInsufficientBalance},
		"refund of zero":   {s.refund(100, &zero), 402, x402.ErrRefundAmount},
		"refund, much":     {s.refund(100, &much), 402, x402.ErrRefundAmount},
		"refund, count":    {s.refund(200, nil), 402, x402.ErrCumulativeMismatch},
		"exact, receiver":  {change(s.exact(1), func(p *x402.PaymentPayload) { p.Payload.Exact.Authorization.To = channel.Address{8} }), 402, x402.ErrExactRecipient},
		"exact, amount":    {change(s.exact(1), func(p *x402.PaymentPayload) { p.Payload.Exact.Authorization.Value = 99 }), 402, x402.ErrExactValue},
		"exact, signature": {change(s.exact(1), func(p *x402.PaymentPayload) { p.Payload.Exact.Signature = channel.Signature{} }), 402, x402.ErrExactSignature},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.refused(s.pay(tt.p), tt.status, tt.code)
		})
	}
	s.t = t
	for _, text := range []string{"x", "{}", "e30=", "bnVsbA=="} {
		s.refused(s.get(text), 400, "")
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header[x402.HeaderSignature] = []string{"a", "b"}
	r.Header["Payment-Signature"] = []string{"a", "b"}
	s.refused(s.do(r), 400, "")
	s.want(s.pay(s.voucher(200)), 100, 200)
	if payer := s.balance(s.payer.Address()); payer != 9_999_000 {
		t.Errorf("payer has %d", payer)
	}
}

// TestCorrection shows the newest voucher to a payer who counts differently, and
// only one that proves the count.
func TestCorrection(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	s.want(s.pay(s.voucher(200)), 100, 200)
	for _, p := range []x402.PaymentPayload{s.voucher(100), s.deposit(1_000, 100), s.refund(0, nil)} {
		a := s.pay(p)
		s.refused(a, 402, x402.ErrCumulativeMismatch)
		e := a.required.Accepts[0].Extra
		if e.ChannelState == nil || e.ChannelState.Channel != s.id || *e.ChannelState.Charged != 200 || e.ChannelState.Balance != 1_000 {
			t.Errorf("%s: state %+v", p.Payload.Type(), e.ChannelState)
		}
		if e.VoucherState == nil || e.VoucherState.SignedMaxClaimable != 200 || e.VoucherState.Signature != s.sign(200).Signature {
			t.Errorf("%s: voucher %+v", p.Payload.Type(), e.VoucherState)
		}
		if a.required.Accepts[1].Extra.ChannelState != nil {
			t.Error("exact was corrected")
		}
	}
	// An older record than what was claimed since: the ledger's claim counts.
	old := slices.Clone(s.store.states)
	s.want(s.pay(s.voucher(300)), 100, 300)
	if err := s.server.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.store.states = old
	s.open()
	a := s.pay(s.voucher(250))
	s.refused(a, 402, x402.ErrBelowClaimed)
	if e := a.required.Accepts[0].Extra; e.ChannelState != nil {
		t.Errorf("state %+v", e.ChannelState)
	}
	s.want(s.pay(s.voucher(400)), 100, 400)
	// Without any record the payer's count is taken, as his voucher proves it.
	s.store.states = nil
	s.open()
	s.want(s.pay(s.voucher(600)), 100, 600)
	if got := s.store.states[0]; got.Max != 600 || claimable(got, 600) != 600 {
		t.Errorf("stored %+v", got)
	}
}

// TestOutage: without a facilitator a known channel is served for a while, and
// what cannot be checked is no payment.
func TestOutage(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	s.fac.outage(fmt.Errorf("%w: it is off", facilitator.ErrUnavailable))
	s.want(s.pay(s.voucher(200)), 100, 200)
	for _, p := range []x402.PaymentPayload{s.deposit(1_000, 300), s.refund(200, nil), s.exact(1)} {
		s.refused(s.pay(p), 500, "")
	}
	s.server.forget(s.id)
	s.refused(s.pay(s.voucher(300)), 500, "")
	if err := s.server.Settle(t.Context()); !errors.Is(err, facilitator.ErrUnavailable) {
		t.Errorf("settled: %v", err)
	}
	s.fac.outage(nil)
	s.want(s.pay(s.voucher(300)), 100, 300)
}

// TestClaimMeanwhile: what is claimed while a request is paid for is known to the
// next one, though the facilitator was asked before the claim.
func TestClaimMeanwhile(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	s.server.forget(s.id)
	s.fac.answered = func() {
		s.fac.answered = nil
		noErr(t, s.server.Settle(t.Context()))
	}
	s.want(s.pay(s.voucher(200)), 100, 200)
	if a := s.pay(s.voucher(300)); a.status != 200 || a.settled.Extra.ChannelState.TotalClaimed != 100 {
		t.Errorf("the next payer is told %+v", a.settled.Extra)
	}
}

// TestDisk: what cannot be stored is not served, and the same voucher is good
// again when it can.
func TestDisk(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	s.store.broken = errors.New("disk full")
	ran := false
	s.handler = func(w http.ResponseWriter, _ *http.Request) {
		ran = true
		w.Header().Set("ETag", "x")
		if _, err := io.WriteString(w, "goods"); err == nil {
			t.Error("the answer was written")
		}
	}
	a := s.pay(s.voucher(200))
	s.refused(a, 500, "")
	if !ran || a.header.Get("ETag") != "" {
		t.Errorf("ran %t, header %v", ran, a.header)
	}
	s.store.broken = nil
	s.handler = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "goods") }
	s.want(s.pay(s.voucher(200)), 100, 200)
}

func TestConfig(t *testing.T) {
	s := newShop(t)
	good := s.server.cfg
	for name, change := range map[string]func(*Config){
		"key":         func(c *Config) { c.Key = nil },
		"store":       func(c *Config) { c.Store = nil },
		"facilitator": func(c *Config) { c.Facilitator = nil },
		"nobody":      func(c *Config) { c.PayTo = channel.Address{} },
		"token":       func(c *Config) { c.Token.Name = "" },
		"delay":       func(c *Config) { c.WithdrawDelay = time.Minute },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, r := range map[string]Route{
		"free":      {},
		"scheme":    {Price: 1, Schemes: []string{"upto"}},
		"no JSON":   {Price: 1, Discovery: &Discovery{OutputType: "json", Output: []byte("{")}},
		"half":      {Price: 1, Discovery: &Discovery{OutputType: "json"}},
		"body type": {Price: 1, Discovery: &Discovery{BodyType: "xml", Body: []byte("{}")}},
		"long":      {Price: 1, Description: string(make([]byte, 10_000))},
	} {
		if _, err := s.server.Handler(r, http.NotFoundHandler()); err == nil {
			t.Errorf("a route %s was accepted", name)
		}
	}
}
