package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

func testParams() ledger.Params {
	return ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
}

// direct carries requests to a handler without a network.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// setup returns a facilitator in development mode on a ledger in memory, its
// client, and a party with 10 USD.
func setup(t *testing.T) (*Server, *facilitator.Client, *ledgertest.Party) {
	t.Helper()
	s, err := New(Config{Ledger: ledger.NewMemory(testParams()), Dev: true, Signer: channel.Address{9}})
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, s)
	p := ledgertest.NewParty(t, s.params, 1)
	_, err = c.Faucet(t.Context(), x402.FaucetRequest{Address: p.Config.Payer, Amount: 10_000_000, Ref: channel.Hash{1}})
	if err != nil {
		t.Fatal(err)
	}
	return s, c, p
}

func client(t *testing.T, h http.Handler) *facilitator.Client {
	t.Helper()
	c, err := nethttp.New(nethttp.Config{URL: "http://facilitator.test/", HTTP: &http.Client{Transport: direct{h}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if r, ok := errors.AsType[*facilitator.RefusedError](err); !ok || r.Code != code {
		t.Errorf("got %v, want refusal %s", err, code)
	}
}

// TestLife is the way every channel should go, each step asked for twice.
func TestLife(t *testing.T) {
	s, c, p := setup(t)
	ctx, network := t.Context(), s.params.Network()
	twice := func(name string, step func() (x402.SettlementResponse, error)) x402.SettlementResponse {
		t.Helper()
		r, err := step()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := step()
		if err != nil {
			t.Fatalf("%s again: %v", name, err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Errorf("%s again (-first +second):\n%s", name, diff)
		}
		return r
	}

	sup, err := c.Supported(ctx)
	if err != nil {
		t.Fatal(err)
	}
	token, err := sup.Token(network)
	if err != nil || token != s.params.Asset() {
		t.Fatalf("token is %+v, %v", token, err)
	}
	dep := p.Deposit(2_000_000, 0)
	r := twice("deposit", func() (x402.SettlementResponse, error) { return c.Deposit(ctx, network, token, dep) })
	if *r.Amount != 2_000_000 || *r.Payer != p.Config.Payer || r.Extra.ChannelState.Balance != 2_000_000 {
		t.Errorf("deposit: %+v", r)
	}
	cl := p.Claim(1_500_000, 1_000_000)
	r = twice("claim", func() (x402.SettlementResponse, error) { return c.Claim(ctx, network, cl) })
	if r.Amount != nil || r.Extra.ChannelState.TotalClaimed != 1_000_000 {
		t.Errorf("claim: %+v", r)
	}
	r = twice("settle", func() (x402.SettlementResponse, error) {
		return c.SettleReceiver(ctx, network, p.Config.Receiver, p.Config.Token)
	})
	if *r.Amount != 999_990 || *r.Extra.Fee != 10 {
		t.Errorf("settle: %+v", r)
	}
	ref := p.Refund(900_000, 0, p.Row(1_500_000, 1_100_000))
	r = twice("refund", func() (x402.SettlementResponse, error) { return c.Refund(ctx, network, ref) })
	if *r.Amount != 900_000 || r.Extra.ChannelState.RefundNonce != 1 || r.Extra.ChannelState.Balance != 1_100_000 {
		t.Errorf("refund: %+v", r)
	}

	payer, err := c.Balance(ctx, network, p.Config.Payer)
	if err != nil || payer.Balance != 8_900_000 {
		t.Errorf("payer: %+v, %v", payer, err)
	}
	receiver, err := c.Balance(ctx, network, p.Config.Receiver)
	want := x402.AccountInfo{Address: p.Config.Receiver, Balance: 999_990, Claimed: 1_100_000, Settled: 1_000_000, Unsettled: 100_000, Fee: 10}
	if err != nil || receiver != want {
		t.Errorf("receiver: %+v, %v, want %+v", receiver, err, want)
	}
	info, err := c.Channel(ctx, network, p.ID)
	if err != nil || !info.Exists || *info.Config != p.Config || info.TotalClaimed != 1_100_000 {
		t.Errorf("channel: %+v, %v", info, err)
	}
	totals, err := c.Totals(ctx, network)
	if err != nil || totals.Fees != 10 || totals.Escrow != 0 || totals.Height != 5 {
		t.Errorf("totals: %+v, %v", totals, err)
	}
	none, err := c.Channel(ctx, network, channel.ID{7})
	if err != nil || none.Exists || none.Balance != 0 {
		t.Errorf("a channel that is not there: %+v, %v", none, err)
	}
	if _, err := s.ledger.Audit(ctx); err != nil {
		t.Error(err)
	}
}

// payment wraps a payload as a stock server sends it.
func payment(p *ledgertest.Party, payload x402.Payload) x402.FacilitatorRequest {
	r := x402.BatchRequirements(p.Params.Network(), p.Params.Asset(), p.Config)
	r.Amount = 100
	if payload.Exact != nil {
		r.Scheme = x402.SchemeExact
	}
	return x402.FacilitatorRequest{
		Version: x402.Version, Requirements: r,
		Payload: x402.PaymentPayload{Version: x402.Version, Accepted: r, Payload: payload},
	}
}

func TestVerify(t *testing.T) {
	_, c, p := setup(t)
	voucher := func(max channel.Amount) x402.Payload {
		return x402.Payload{Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: p.Voucher(max)}}
	}
	deposit := p.Deposit(1000, 100)
	type change func(*x402.FacilitatorRequest)
	check := func(name string, payload x402.Payload, code string, changes ...change) {
		t.Helper()
		req := payment(p, payload)
		for _, change := range changes {
			change(&req)
		}
		v, err := c.Verify(t.Context(), req.Payload, req.Requirements)
		if code == "" {
			if err != nil || !v.IsValid || *v.Payer != p.Config.Payer {
				t.Errorf("%s: %+v, %v", name, v, err)
			}
			return
		}
		if r, ok := errors.AsType[*facilitator.RefusedError](err); !ok || r.Code != code || v.IsValid {
			t.Errorf("%s: got %v, want %s", name, err, code)
		}
	}
	check("no channel", voucher(100), x402.ErrChannelNotFound)
	check("deposit", x402.Payload{Deposit: &deposit}, "")
	over := p.Deposit(1000, 1001)
	check("deposit below its voucher", x402.Payload{Deposit: &over}, x402.ErrExceedsBalance)
	rich := p.Deposit(10_000_001, 1)
	check("deposit above the account", x402.Payload{Deposit: &rich}, x402.ErrInsufficientBalance)
	permit := deposit
	permit.Deposit.Authorization.ERC3009 = nil
	check("permit2", x402.Payload{Deposit: &permit}, x402.ErrERC3009Required)
	forged := deposit
	forged.Voucher.Signature[5] ^= 1
	check("forged voucher", x402.Payload{Deposit: &forged}, x402.ErrVoucherSignature)
	check("no domain", x402.Payload{Deposit: &deposit}, x402.ErrMissingDomain, func(r *x402.FacilitatorRequest) { r.Requirements.Extra.Name = "" })

	if _, err := c.Deposit(t.Context(), p.Params.Network(), p.Params.Asset(), deposit); err != nil {
		t.Fatal(err)
	}
	check("deposit again", x402.Payload{Deposit: &deposit}, x402.ErrDepositFailed)
	check("voucher", voucher(100), "")
	check("voucher above the balance", voucher(1001), x402.ErrExceedsBalance)
	check("voucher of nothing", voucher(0), x402.ErrBelowClaimed)
	zero := p.Refund(1000, 0)
	check("refund", x402.Payload{Refund: &zero}, "")
	check("settle", x402.Payload{Settle: &x402.Settle{}}, x402.ErrPayloadType)
	other := voucher(100)
	other.Voucher.Voucher.Channel[0] ^= 1
	check("another channel", other, x402.ErrChannelID)

	check("version", voucher(100), x402.ErrInvalidVersion, func(r *x402.FacilitatorRequest) { r.Payload.Version = 1 })
	check("scheme", voucher(100), x402.ErrUnsupportedScheme, func(r *x402.FacilitatorRequest) { r.Requirements.Scheme = "upto" })
	check("other scheme", voucher(100), x402.ErrBatchScheme, func(r *x402.FacilitatorRequest) { r.Payload.Accepted.Scheme = x402.SchemeExact })
	check("network", voucher(100), x402.ErrNetworkMismatch, func(r *x402.FacilitatorRequest) { r.Requirements.Network = "eip155:1" })
	check("receiver", voucher(100), x402.ErrReceiver, func(r *x402.FacilitatorRequest) { r.Requirements.PayTo = channel.Address{1} })
	check("authorizer", voucher(100), x402.ErrReceiverAuthorizer, func(r *x402.FacilitatorRequest) { r.Requirements.Extra.ReceiverAuthorizer = nil })
	check("asset", voucher(100), x402.ErrToken, func(r *x402.FacilitatorRequest) { r.Requirements.Asset = channel.Address{1} })
	check("delay", voucher(100), x402.ErrWithdrawDelayMismatch, func(r *x402.FacilitatorRequest) { r.Requirements.Extra.WithdrawDelay = new(uint64(900)) })

	exact := p.Transfer(100)
	check("exact", x402.Payload{Exact: &exact}, "")
	check("exact, another amount", x402.Payload{Exact: &exact}, x402.ErrExactValue, func(r *x402.FacilitatorRequest) { r.Requirements.Amount = 99 })
	check("exact, another recipient", x402.Payload{Exact: &exact}, x402.ErrExactRecipient, func(r *x402.FacilitatorRequest) { r.Requirements.PayTo = channel.Address{1} })
	req := payment(p, x402.Payload{Exact: &exact})
	if r, err := c.Settle(t.Context(), req.Payload, req.Requirements); err != nil || *r.Amount != 100 {
		t.Errorf("exact: %+v, %v", r, err)
	}
	check("exact, spent", x402.Payload{Exact: &exact}, x402.ErrExactNonceUsed)
}

// TestStockServer sends what the reference server's channel manager sends: bare
// requirements without extra.
func TestStockServer(t *testing.T) {
	_, c, p := setup(t)
	dep := p.Deposit(1000, 500)
	if _, err := c.Deposit(t.Context(), p.Params.Network(), p.Params.Asset(), dep); err != nil {
		t.Fatal(err)
	}
	bare := x402.Requirements{Scheme: x402.SchemeBatch, Network: p.Params.Network(), Asset: p.Params.Token, PayTo: p.Config.Receiver}
	cl, ref := p.Claim(500, 400), p.Refund(600, 0)
	for _, payload := range []x402.Payload{
		{Claim: &cl}, {Settle: &x402.Settle{Receiver: p.Config.Receiver, Token: p.Params.Token}}, {Refund: &ref},
	} {
		if _, err := c.Settle(t.Context(), x402.PaymentPayload{Version: 2, Accepted: bare, Payload: payload}, bare); err != nil {
			t.Errorf("%s: %v", payload.Type(), err)
		}
	}
	unsigned := p.Claim(500, 500)
	unsigned.Signature = nil
	_, err := c.Claim(t.Context(), p.Params.Network(), unsigned)
	wantCode(t, err, x402.ErrAuthorizerMissing)
	_, err = c.SettleReceiver(t.Context(), p.Params.Network(), channel.Address{5}, p.Params.Token)
	wantCode(t, err, x402.ErrNothingToSettle)
}

// TestRepeatedMuchLater: the answer to a deposit whose channel has been used up
// since is still the deposit's.
func TestRepeatedMuchLater(t *testing.T) {
	_, c, p := setup(t)
	ctx, network, token := t.Context(), p.Params.Network(), p.Params.Asset()
	dep := p.Deposit(1000, 0)
	first, err := c.Deposit(ctx, network, token, dep)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Refund(ctx, network, p.Refund(1000, 0, p.Row(700, 600))); err != nil {
		t.Fatal(err)
	}
	again, err := c.Deposit(ctx, network, token, dep)
	if err != nil || again.Transaction != first.Transaction || *again.Amount != 1000 {
		t.Errorf("got %+v, %v, want transaction %s", again, err, first.Transaction)
	}
}

func TestConcurrent(t *testing.T) {
	_, c, p := setup(t)
	dep := p.Deposit(1000, 0)
	hashes := make([]string, 20)
	var wg sync.WaitGroup
	for i := range hashes {
		wg.Go(func() {
			r, err := c.Deposit(t.Context(), p.Params.Network(), p.Params.Asset(), dep)
			if err != nil {
				t.Error(err)
			}
			hashes[i] = r.Transaction
		})
	}
	wg.Wait()
	for _, h := range hashes {
		if h != hashes[0] {
			t.Errorf("one deposit has transactions %s and %s", hashes[0], h)
		}
	}
	totals, err := c.Totals(t.Context(), p.Params.Network())
	if err != nil || totals.Escrow != 1000 {
		t.Errorf("%+v, %v", totals, err)
	}
}

// TestWithdraw runs a timed withdrawal of a day in simulated time.
func TestWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, p := setup(t)
		ctx, network := t.Context(), p.Params.Network()
		_, err := c.Withdraw(ctx, p.Withdraw(x402.WithdrawInitiate, 10, 0))
		wantCode(t, err, x402.ErrChannelNotFound)
		if _, err := c.Deposit(ctx, network, p.Params.Asset(), p.Deposit(1000, 0)); err != nil {
			t.Fatal(err)
		}
		w := p.Withdraw(x402.WithdrawInitiate, 1000, 0)
		began := uint64(time.Now().Unix())
		for range 2 {
			if r, err := c.Withdraw(ctx, w); err != nil || r.Amount != nil || r.Extra.ChannelState.WithdrawRequestedAt != began {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		info, err := c.Channel(ctx, network, p.ID)
		if err != nil || info.WithdrawNonce != 1 || info.FinalizeAfter != began+ledgertest.Delay || info.Time != began {
			t.Errorf("%+v, %v", info, err)
		}
		end := p.Withdraw(x402.WithdrawFinalize, 0, 1)
		_, err = c.Withdraw(ctx, end)
		wantCode(t, err, x402.ErrWithdrawDelay)
		time.Sleep(ledgertest.Delay * time.Second)
		for range 2 {
			if r, err := c.Withdraw(ctx, end); err != nil || *r.Amount != 1000 {
				t.Errorf("%+v, %v", r, err)
			}
		}
		w.Network = "eip155:1"
		_, err = c.Withdraw(ctx, w)
		wantCode(t, err, x402.ErrInvalidNetwork)
		w = p.Withdraw("keep", 0, 1)
		_, err = c.Withdraw(ctx, w)
		wantCode(t, err, x402.ErrPayloadType)
	})
}

func TestFaucetNeedsDev(t *testing.T) {
	s, err := New(Config{Ledger: ledger.NewMemory(testParams())})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client(t, s).Faucet(t.Context(), x402.FaucetRequest{Address: channel.Address{1}, Amount: 1})
	wantCode(t, err, x402.ErrNotFound)
	if _, err := New(Config{}); err == nil {
		t.Error("a facilitator without a ledger was made")
	}
}

// TestMalformed: no body may do more than get an answer.
func TestMalformed(t *testing.T) {
	s, _, p := setup(t)
	dep := p.Deposit(1000, 0)
	good, err := json.Marshal(payment(p, x402.Payload{Deposit: &dep}))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		body   string
		status int
	}{
		"empty":         {"", 400},
		"not json":      {"<html>", 400},
		"trailing":      {string(good) + "{}", 400},
		"twice":         {strings.Replace(string(good), `"amount":"1000"`, `"amount":"1000","Amount":"1"`, 1), 400},
		"negative":      {strings.Replace(string(good), `"amount":"1000"`, `"amount":"-1000"`, 1), 400},
		"fraction":      {strings.Replace(string(good), `"amount":"1000"`, `"amount":1000.5`, 1), 400},
		"overflow":      {strings.Replace(string(good), `"amount":"1000"`, `"amount":"18446744073709551616"`, 1), 400},
		"unknown type":  {strings.Replace(string(good), `"type":"deposit"`, `"type":"gift"`, 1), 400},
		"nested":        {strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), 400},
		"large":         {`{"x":"` + strings.Repeat("x", x402.MaxBody) + `"}`, 413},
		"unknown field": {strings.Replace(string(good), `{`, `{"new":{"amount":1.5},`, 1), 200},
	} {
		for _, path := range []string{"/verify", "/settle"} {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(tt.body)))
			if w.Code != tt.status {
				t.Errorf("%s %s: status %d, want %d: %s", path, name, w.Code, tt.status, w.Body)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s: answer is no JSON: %s", path, name, w.Body)
			}
		}
	}
	for path, status := range map[string]int{
		"/v1/channels/eip155:1/" + p.ID.String():          404,
		"/v1/channels/" + p.Params.Network() + "/0x12":    400,
		"/v1/accounts/" + p.Params.Network() + "/0xzz":    400,
		"/v1/accounts/bitcoin/" + p.Config.Payer.String(): 404,
		"/v1/totals/eip155:1":                             404,
		"/nothing":                                        404,
		"/settle":                                         405,
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != status {
			t.Errorf("GET %s: status %d, want %d", path, w.Code, status)
		}
	}
}

// broken is a ledger on a disk that fails.
type broken struct {
	*ledger.Memory
	reads, writes error
}

func (b *broken) Submit(ctx context.Context, tx ledger.Tx) (ledger.Receipt, error) {
	if b.writes != nil {
		return ledger.Receipt{}, b.writes
	}
	return b.Memory.Submit(ctx, tx)
}

func (b *broken) Read(ctx context.Context, t ledger.Touch) (ledger.State, error) {
	if b.reads != nil {
		return ledger.State{}, b.reads
	}
	return b.Memory.Read(ctx, t)
}

// TestBroken: a failing disk is an unavailable facilitator, never a refused
// payment, and it is well again by itself.
func TestBroken(t *testing.T) {
	l := &broken{Memory: ledger.NewMemory(testParams())}
	s, err := New(Config{Ledger: l, Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, s)
	p := ledgertest.NewParty(t, s.params, 1)
	health := func() int {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		return w.Code
	}
	order := x402.FaucetRequest{Address: p.Config.Payer, Amount: 5000, Ref: channel.Hash{1}}
	l.writes = errors.New("no space left on device")
	if _, err := c.Faucet(t.Context(), order); !errors.Is(err, facilitator.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if health() != http.StatusServiceUnavailable {
		t.Error("healthy on a full disk")
	}
	l.writes = nil
	s.fault.Load().when = time.Now().Add(-faultTime) // nobody has tried since
	if health() != http.StatusOK {
		t.Error("not healthy a minute later")
	}
	if _, err := c.Faucet(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	if health() != http.StatusOK {
		t.Error("not healthy again")
	}

	l.reads = errors.New("input/output error")
	dep := p.Deposit(1000, 1)
	req := payment(p, x402.Payload{Deposit: &dep})
	_, verify := c.Verify(t.Context(), req.Payload, req.Requirements)
	_, settle := c.Settle(t.Context(), req.Payload, req.Requirements)
	_, chanErr := c.Channel(t.Context(), s.params.Network(), p.ID)
	_, withdraw := c.Withdraw(t.Context(), p.Withdraw(x402.WithdrawInitiate, 1, 0))
	for _, err := range []error{verify, settle, chanErr, withdraw} {
		if !errors.Is(err, facilitator.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	}
	if health() != http.StatusServiceUnavailable {
		t.Error("healthy without a ledger")
	}
}

func TestMetrics(t *testing.T) {
	s, c, p := setup(t)
	if _, err := c.Deposit(t.Context(), s.params.Network(), s.params.Asset(), p.Deposit(1000, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SettleReceiver(t.Context(), s.params.Network(), p.Config.Receiver, s.params.Token); err == nil {
		t.Fatal("settled nothing")
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`x402_facilitator_transactions_total{kind="deposit"} 1`,
		`x402_facilitator_refused_total{code="invalid_batch_settlement_evm_nothing_to_settle"} 1`,
		`x402_facilitator_requests_total{route="POST /settle",status="200"} 2`,
		`x402_ledger_height{network="eip155:2199023255559"} 2`,
		`x402_ledger_units{network="eip155:2199023255559",where="escrow"} 1000`,
		`x402_ledger_balanced{network="eip155:2199023255559"} 1`,
		"go_goroutines ",
	} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("no line %s", line)
		}
	}
}

// TestBusy: beyond the limit, requests are turned away and not queued.
func TestBusy(t *testing.T) {
	s, _, _ := setup(t)
	for range maxInFlight {
		s.slots <- struct{}{}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("status %d", w.Code)
	}
	<-s.slots
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != http.StatusOK {
		t.Errorf("status %d", w.Code)
	}
}

// FuzzSettle throws bodies at every call that takes one. Whatever they are, the
// answer is JSON and no failure of ours, and the ledger still adds up.
func FuzzSettle(f *testing.F) {
	s, err := New(Config{Ledger: ledger.NewMemory(testParams()), Dev: true})
	if err != nil {
		f.Fatal(err)
	}
	p := ledgertest.NewParty(f, s.params, 1)
	dep, cl, ref, exact := p.Deposit(1000, 0), p.Claim(100, 90), p.Refund(10, 0, p.Row(100, 95)), p.Transfer(100)
	add := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(x402.FaucetRequest{Address: p.Config.Payer, Amount: 1_000_000})
	for _, payload := range []x402.Payload{
		{Deposit: &dep}, {Claim: &cl}, {Refund: &ref}, {Exact: &exact}, {Settle: &x402.Settle{Receiver: p.Config.Receiver, Token: p.Params.Token}},
		{Voucher: &x402.VoucherPayment{Config: p.Config, Voucher: p.Voucher(5)}},
	} {
		add(payment(p, payload))
	}
	add(p.Withdraw(x402.WithdrawInitiate, 1, 0))
	f.Add([]byte(`{"x402Version":2,"paymentPayload":{"payload":{"type":"refund"}},"paymentRequirements":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/v1/faucet", "/verify", "/settle", "/v1/withdraw"} {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest("POST", path, bytes.NewReader(body)))
			if w.Code >= 500 {
				t.Errorf("%s: status %d: %s", path, w.Code, w.Body)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: answer is no JSON: %s", path, w.Body)
			}
		}
		st, err := s.ledger.Read(t.Context(), ledger.Touch{})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Totals.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

func payloadExact(p *ledgertest.Party) x402.Payload {
	exact := p.Transfer(100)
	return x402.Payload{Exact: &exact}
}
