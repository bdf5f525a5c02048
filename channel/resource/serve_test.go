package resource

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// TestCharge: a handler says what a request costs, until its answer begins; a
// failed one costs nothing, and the next request may allow less than this did.
func TestCharge(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		charge  channel.Amount
	}{
		"less":    {func(w http.ResponseWriter, r *http.Request) { noErr(t, Charge(r.Context(), 30)) }, 30},
		"nothing": {func(w http.ResponseWriter, r *http.Request) { noErr(t, Charge(r.Context(), 0)) }, 0},
		"the last": {func(w http.ResponseWriter, r *http.Request) {
			noErr(t, Charge(r.Context(), 90))
			noErr(t, Charge(r.Context(), 10))
		}, 10},
		"too much": {func(w http.ResponseWriter, r *http.Request) {
			if Charge(r.Context(), 101) == nil {
				t.Error("101 of 100 were charged")
			}
		}, 100},
		"too late": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints) // is not the answer
			noErr(t, Charge(r.Context(), 20))
			noErr(t, http.NewResponseController(w).Flush())
			if Charge(r.Context(), 10) == nil {
				t.Error("charged after the answer began")
			}
		}, 20},
		"found elsewhere": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusSeeOther) }, 100},
	} {
		before, _ := s.server.payee.Get(s.id)
		charged, err := chargedOf(before)
		noErr(t, err)
		s.handler = tt.handler
		a := s.pay(s.voucher(charged + 100))
		if a.settled.Extra == nil || *a.settled.Extra.ChargedAmount != tt.charge || *a.settled.Extra.ChannelState.Charged != charged+tt.charge {
			t.Errorf("%s: status %d, %+v", name, a.status, a.settled.Extra)
		}
	}
	s.handler = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) }
	before, _ := s.server.payee.Get(s.id)
	a := s.pay(s.voucher(460))
	after, _ := s.server.payee.Get(s.id)
	if a.status != http.StatusTeapot || *a.settled.Extra.ChargedAmount != 0 || !slices.Equal(before.Note, after.Note) {
		t.Errorf("a failed request: %d %+v", a.status, a.settled.Extra)
	}
	if err := Charge(t.Context(), 1); err == nil {
		t.Error("a request that nobody pays for was charged")
	}
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// TestDear: after a request that may cost much and did not, one that may cost
// little is paid by a voucher below the newest.
func TestDear(t *testing.T) {
	s := newShop(t)
	s.route.Price = 900
	s.serve()
	s.handler = func(w http.ResponseWriter, r *http.Request) { noErr(t, Charge(r.Context(), 1)) }
	s.want(s.pay(s.deposit(1_000, 900)), 1, 1)
	s.route.Price = price
	s.serve()
	s.handler = func(http.ResponseWriter, *http.Request) {}
	s.want(s.pay(s.voucher(101)), 100, 101)
	forged := s.voucher(201)
	forged.Payload.Voucher.Voucher.Signature[3]++
	s.refused(s.pay(forged), 402, x402.ErrVoucherSignature)
	if got, _ := s.server.payee.Get(s.id); got.Max != 900 {
		t.Errorf("the newest voucher is of %d", got.Max)
	}
	a := s.pay(s.refund(101, nil))
	if a.status != 200 || *a.settled.Amount != 899 {
		t.Errorf("refund: %d %s", a.status, a.body)
	}
}

// TestBusy: one channel, one request, and one exact payment likewise; a handler
// that panics leaves nothing taken.
func TestBusy(t *testing.T) {
	s := newShop(t)
	s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
	for name, p := range map[string]x402.PaymentPayload{"channel": s.voucher(200), "exact": s.exact(1)} {
		nested := map[string]string{"channel": x402.ErrChannelBusy, "exact": x402.ErrExactNonceUsed}[name]
		s.handler = func(http.ResponseWriter, *http.Request) {
			s.handler = func(http.ResponseWriter, *http.Request) { t.Error("served twice at once") }
			s.refused(s.pay(p), 402, nested)
			if name == "channel" {
				s.refused(s.pay(s.refund(100, nil)), 402, nested)
			}
			panic(http.ErrAbortHandler)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is gone")
				}
			}()
			s.pay(p)
		}()
		s.handler = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "goods") }
		if a := s.pay(p); a.status != 200 {
			t.Errorf("%s: after the panic %d %s", name, a.status, a.body)
		}
	}
}

// TestExact: the transfer is made when the handler has succeeded.
func TestExact(t *testing.T) {
	s := newShop(t)
	s.handler = func(w http.ResponseWriter, r *http.Request) {
		if Charge(r.Context(), 50) == nil {
			t.Error("half of an exact payment was charged")
		}
		noErr(t, Charge(r.Context(), 0))
	}
	if a := s.pay(s.exact(1)); a.status != 200 || a.settled.Success {
		t.Errorf("for nothing: %+v", a)
	}
	s.handler = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }
	if a := s.pay(s.exact(1)); a.status != 500 || a.settled.Success || len(s.fac.settled) != 0 {
		t.Errorf("a failed request: %+v", a)
	}
	s.handler = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		s.fac.outage(&facilitator.RefusedError{Code: x402.ErrInsufficientFunds})
		if _, err := io.WriteString(w, "goods"); err == nil {
			t.Error("unpaid goods were written")
		}
	}
	a := s.pay(s.exact(1))
	s.refused(a, 402, x402.ErrInsufficientFunds)
	if a.header.Get("Content-Length") != "" || *a.settled.Payer != s.payer.Address() || a.settled.Network != s.params.Network() {
		t.Errorf("failed settlement: %+v, %v", a.settled, a.header)
	}
	s.fac.outage(nil)
	s.handler = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "goods") }
	if a := s.pay(s.exact(1)); a.status != 200 || !a.settled.Success || a.settled.Transaction == "" || a.header.Get("Cache-Control") != "private" {
		t.Errorf("paid: %+v", a)
	}
	s.refused(s.pay(s.exact(1)), 402, x402.ErrExactNonceUsed)
	if seller := s.balance(channel.Address{7}); seller != price {
		t.Errorf("seller has %d", seller)
	}
}

// TestWithdrawal: a payer who begins to withdraw is found out within freshTime,
// served no more, and claimed from at once; the refund ends the withdrawal.
func TestWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { noErr(t, s.server.Run(ctx)) })
		w := x402.Withdraw{Step: x402.WithdrawInitiate, Channel: s.id, Amount: 700}
		if _, err := s.client.Withdraw(t.Context(), w.Sign(s.payer, s.params.Domain())); err != nil {
			t.Fatal(err)
		}
		s.want(s.pay(s.voucher(200)), 100, 200)
		time.Sleep(freshTime)
		a := s.pay(s.voucher(300))
		s.refused(a, 402, string(channel.ReasonFrozen))
		synctest.Wait()
		if seller := s.balance(channel.Address{7}); seller != 200 {
			t.Errorf("seller has %d: it was not claimed at once", seller)
		}
		s.refused(s.pay(s.voucher(300)), 402, string(channel.ReasonFrozen))
		a = s.pay(s.voucher(299)) // to be told how it stands
		if m := a.required.Accepts[0].Extra.ChannelState; m == nil || m.WithdrawRequestedAt == 0 || m.TotalClaimed != 200 {
			t.Errorf("state %+v", m)
		}
		a = s.pay(s.refund(200, nil))
		if a.status != 200 || *a.settled.Amount != 800 || a.settled.Extra.ChannelState.WithdrawRequestedAt != 0 {
			t.Errorf("refund: %d %s", a.status, a.body)
		}
		s.want(s.pay(s.deposit(1_000, 300)), 100, 300)
	})
}

// TestRun settles twice within the time that a withdrawal takes, sooner at
// SettleAt, again after a failure, and at the end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { noErr(t, s.server.Run(ctx)) })
		seller := func(want channel.Amount) {
			t.Helper()
			synctest.Wait()
			if got := s.balance(channel.Address{7}); got != want {
				t.Errorf("seller has %d, want %d", got, want)
			}
		}
		s.want(s.pay(s.deposit(100_000, 100)), 100, 100)
		time.Sleep(11 * time.Hour)
		seller(0)
		s.fac.outage(facilitator.ErrUnavailable)
		time.Sleep(time.Hour)
		s.fac.outage(nil)
		time.Sleep(settleRetry)
		seller(100)
		s.route.Price = 9_999
		s.serve()
		s.want(s.pay(s.voucher(10_099)), 9_999, 10_099)
		seller(100)
		s.want(s.pay(s.voucher(20_098)), 9_999, 20_098)
		seller(20_098)
		s.want(s.pay(s.voucher(30_097)), 9_999, 30_097)
		cancel()
		wg.Wait()
		seller(30_097)
	})
}

// TestGone: a channel whose deposit was taken back while nobody looked does not
// hold up the claims on others.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
		w := x402.Withdraw{Step: x402.WithdrawInitiate, Channel: s.id, Amount: 1_000}
		if _, err := s.client.Withdraw(t.Context(), w.Sign(s.payer, s.params.Domain())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		w = x402.Withdraw{Step: x402.WithdrawFinalize, Channel: s.id, Nonce: 1}
		if _, err := s.client.Withdraw(t.Context(), w.Sign(s.payer, s.params.Domain())); err != nil {
			t.Fatal(err)
		}
		s.config.Salt = channel.Hash{1} // another channel
		s.id = s.params.Domain().ID(s.config)
		s.want(s.pay(s.deposit(1_000, 100)), 100, 100)
		if err := s.server.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if seller := s.balance(channel.Address{7}); seller != 100 {
			t.Errorf("seller has %d", seller)
		}
	})
}

// named gives a payment a name.
func named(p x402.PaymentPayload, id string) x402.PaymentPayload {
	p.Extensions = map[string]json.RawMessage{identifierName: json.RawMessage(fmt.Sprintf(`{"info":{"required":false,"id":%q}}`, id))}
	return p
}

// TestOnce: a named payment is served and charged once, however often it comes.
func TestOnce(t *testing.T) {
	const id = "pay_0123456789abcdef"
	s := newShop(t)
	served := 0
	s.handler = func(w http.ResponseWriter, _ *http.Request) {
		served++
		w.Header().Set("X-Served", fmt.Sprint(served))
		fmt.Fprintf(w, "goods %d", served)
	}
	p := named(s.deposit(1_000, 100), id)
	first := s.pay(p)
	s.want(first, 100, 100)
	again := s.pay(p)
	if again.status != 200 || again.body != "goods 1" || again.header.Get("X-Served") != "1" || again.header.Get(x402.HeaderResponse) != first.header.Get(x402.HeaderResponse) {
		t.Errorf("again: %+v", again)
	}
	s.refused(s.pay(named(s.voucher(200), id)), 409, "")
	r := httptest.NewRequest("GET", "http://shop.test/else", nil)
	text, _ := x402.EncodeHeader(p)
	r.Header.Set(x402.HeaderSignature, text)
	s.refused(s.do(r), 409, "")
	if served != 1 {
		t.Errorf("served %d times", served)
	}
	// What was not served can be tried again under its name.
	s.refused(s.pay(named(s.voucher(300), id+"2")), 402, x402.ErrCumulativeMismatch)
	s.want(s.pay(named(s.voucher(200), id+"2")), 100, 200)
	for _, bad := range []string{"short", strings.Repeat("x", 129), "pay 0123456789abcdef", "pay_0123456789abcde\n"} {
		s.refused(s.pay(named(s.voucher(300), bad)), 400, "")
	}
	p = s.voucher(300)
	p.Extensions = map[string]json.RawMessage{identifierName: json.RawMessage(`[]`)}
	s.refused(s.pay(p), 400, "")
	s.handler = func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxAnswer+1)) }
	p = named(s.voucher(300), id+"3")
	s.want(s.pay(p), 100, 300)
	s.refused(s.pay(p), 409, "")
	s.handler = func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half of the ")
		panic(http.ErrAbortHandler)
	}
	p = named(s.voucher(400), id+"4")
	func() {
		defer func() { _ = recover() }() // as net/http does
		s.pay(p)
	}()
	s.refused(s.pay(p), 409, "")
	s.handler = func(http.ResponseWriter, *http.Request) {}
	s.route.NeedID = true
	s.serve()
	s.refused(s.pay(s.voucher(500)), 400, "")
	s.want(s.pay(named(s.voucher(500), id+"5")), 100, 500)
}

// TestOnceWaits: a repetition that comes while the first is served waits for its
// answer; answers are forgotten after a while, and the oldest of too many.
func TestOnceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		release := make(chan struct{})
		s.handler = func(w http.ResponseWriter, _ *http.Request) {
			<-release
			io.WriteString(w, "goods")
		}
		p := named(s.deposit(1_000, 100), "pay_0123456789abcdef")
		replies := make([]reply, 3)
		var wg sync.WaitGroup
		for i := range replies {
			wg.Go(func() { replies[i] = s.pay(p) })
		}
		synctest.Wait()
		text, _ := x402.EncodeHeader(p)
		r := httptest.NewRequest("GET", "http://shop.test/goods?a=b", nil)
		ctx, cancel := context.WithCancel(r.Context())
		r.Header.Set(x402.HeaderSignature, text)
		wg.Go(func() { s.do(r.WithContext(ctx)) }) // leaves before the answer
		cancel()
		close(release)
		wg.Wait()
		for _, a := range replies {
			if a.status != 200 || a.body != "goods" || *a.settled.Extra.ChannelState.Charged != 100 {
				t.Errorf("%+v", a)
			}
		}
		time.Sleep(answerLife + time.Second)
		s.want(s.pay(named(s.voucher(200), "pay_other_name_0")), 100, 200)
		s.refused(s.pay(p), 402, x402.ErrCumulativeMismatch)

		var a answers
		for i := range maxAnswers + 5 {
			k, mine := a.begin(answerKey{id: fmt.Sprint(i)}, [32]byte{})
			if !mine {
				t.Fatal("not mine")
			}
			k.status, k.header = 200, http.Header{}
			k.header.Set(x402.HeaderResponse, "x")
			a.end(k)
		}
		for i := range maxAnswers {
			k, _ := a.begin(answerKey{id: fmt.Sprint("stranger", i)}, [32]byte{})
			a.end(k)
		}
		if _, mine := a.begin(answerKey{id: "5"}, [32]byte{}); mine || len(a.byKey) != maxAnswers || len(a.order) != maxAnswers {
			t.Errorf("%d answers are kept", len(a.byKey))
		}
	})
}

// TestLongURL: the longest request is told what it costs.
func TestLongURL(t *testing.T) {
	s := newShop(t)
	for _, url := range []string{"/" + strings.Repeat("&", 5_000), "/a?" + strings.Repeat("&", 5_000)} {
		r := httptest.NewRequest("GET", "http://shop.test"+url, nil)
		if a := s.do(r); a.status != 402 || len(a.required.Accepts) != 2 || len(a.required.Resource.URL) > maxURL {
			t.Errorf("%.10s: %d, %d ways", url, a.status, len(a.required.Accepts))
		}
	}
	s.server.cfg.BaseURL = "https://api.example"
	if a := s.get(""); a.required.Resource.URL != "https://api.example/goods?a=b" {
		t.Errorf("called %s", a.required.Resource.URL)
	}
}

// FuzzPayment: whatever a header says, the answer is one of those that the
// standard knows, and nothing is served that was not paid.
func FuzzPayment(f *testing.F) {
	s := &shop{t: f, store: &memory{}, route: Route{Price: price}, payer: newKey(f), seller: newKey(f)}
	s.params.ChainID, s.params.Token, s.params.Name, s.params.Version = 1<<41, channel.Address{1}, "USDC", "2"
	s.handler = func(http.ResponseWriter, *http.Request) { f.Error("served") }
	s.fac = &watched{down: errors.New("not asked")}
	s.open()
	s.config = channel.Config{Payer: s.payer.Address(), PayerAuthorizer: s.payer.Address(), Receiver: channel.Address{7},
		ReceiverAuthorizer: s.seller.Address(), Token: s.params.Token, WithdrawDelay: 24 * 3600}
	s.id = s.params.Domain().ID(s.config)
	for _, p := range []x402.PaymentPayload{s.voucher(100), s.deposit(1_000, 100), s.refund(0, nil), s.exact(1), named(s.voucher(100), "pay_0123456789abcdef")} {
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(x402.HeaderSignature, base64.StdEncoding.EncodeToString(b))
		w := httptest.NewRecorder()
		s.web.ServeHTTP(w, r)
		if !slices.Contains([]int{400, 402, 500}, w.Code) || !bytes.HasPrefix(w.Body.Bytes(), []byte("{")) {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if w.Code == 402 && w.Header().Get(x402.HeaderRequired) == "" {
			t.Error("402 that asks for nothing")
		}
		if len(s.store.states) > 0 || len(s.server.busy) > 0 || len(s.server.answers.byKey) > 0 {
			t.Error("something is left of it")
		}
	})
}

// FuzzNote: a record that is not ours is an error, and ours is what was written.
func FuzzNote(f *testing.F) {
	f.Add(encodeNote(5), uint64(3))
	f.Add([]byte{2}, uint64(0))
	f.Fuzz(func(t *testing.T, note []byte, claimed uint64) {
		s := channel.State{Note: note, Claimed: channel.Amount(claimed)}
		charged, err := chargedOf(s)
		if err != nil {
			return
		}
		if charged < s.Claimed {
			t.Errorf("charged %d, claimed %d", charged, s.Claimed)
		}
		if s.Note = encodeNote(charged); must(chargedOf(s)) != charged {
			t.Error("it reads back as something else")
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// BenchmarkPaid is one metered request on a channel that the facilitator need not
// be asked about, without the store's sync.
func BenchmarkPaid(b *testing.B) {
	const most = 99_000 // that the payer's money lasts for
	s := newShop(b)
	if a := s.pay(s.deposit(9_990_000, 100)); a.status != 200 {
		b.Fatal(a.status, a.body)
	}
	texts := make([]string, min(b.N, most))
	for i := range texts {
		texts[i] = must(x402.EncodeHeader(s.voucher(channel.Amount(i+2) * 100)))
	}
	b.ResetTimer()
	for _, text := range texts {
		if a := s.get(text); a.status != 200 {
			b.Fatal(a.status, a.body)
		}
	}
}
