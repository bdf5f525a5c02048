package spend

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// settlement changes what PAYMENT-RESPONSE says.
func settlement(t *testing.T, change func(*x402.SettlementResponse)) func(http.Header) {
	return func(h http.Header) {
		var s x402.SettlementResponse
		if err := x402.DecodeHeader(h.Get(x402.HeaderResponse), &s); err != nil {
			t.Error(err)
		}
		change(&s)
		text, err := x402.EncodeHeader(s)
		if err != nil {
			t.Error(err)
		}
		h.Set(x402.HeaderResponse, text)
	}
}

// TestOvercharge: an answer that does not fit what was signed is the last that is
// paid for.
func TestOvercharge(t *testing.T) {
	amount := func(n channel.Amount) *channel.Amount { return &n }
	for name, change := range map[string]func(*x402.SettlementResponse){
		"charge": func(s *x402.SettlementResponse) { s.Extra.ChargedAmount = amount(101) },
		"total":  func(s *x402.SettlementResponse) { s.Extra.ChannelState.Charged = amount(150) },
		"wraps":  func(s *x402.SettlementResponse) { s.Extra.ChargedAmount = amount(1<<64 - 1) },
		"other":  func(s *x402.SettlementResponse) { s.Extra.ChannelState.Channel[0]++ },
	} {
		x := newTrade(t)
		x.wire.lie = settlement(t, change)
		x.get("/goods") // what was got was got
		x.fails("/goods", ErrCount, 1)
		if x.spender.Spent() != 100 {
			t.Errorf("%s: spent %d", name, x.spender.Spent())
		}
	}
}

// A cheat refuses each payment with a count of its own.
type cheat struct {
	charged channel.Amount
	voucher *x402.VoucherState
	id      *channel.ID // nil: the right one
	silent  bool        // says nothing of a channel
}

// lie replaces the answer by the cheat's.
func (c cheat) lie(x *trade) func(http.Header) {
	return func(h http.Header) {
		h.Del(x402.HeaderResponse)
		p := x.wire.payments[len(x.wire.payments)-1]
		r := p.Accepted
		if !c.silent {
			id := p.Payload.Voucher.Voucher.Channel
			if c.id != nil {
				id = *c.id
			}
			r.Extra.ChannelState = &x402.ChannelState{Channel: id, Balance: 1_000, Charged: &c.charged}
			r.Extra.VoucherState = c.voucher
		}
		text, err := x402.EncodeHeader(x402.PaymentRequired{Version: 2, Error: x402.ErrCumulativeMismatch, Accepts: []x402.Requirements{r}})
		if err != nil {
			x.t.Error(err)
		}
		h.Set(x402.HeaderRequired, text)
	}
}

// refusing turns every answer to a payment into a 402.
type refusing struct{ *trade }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.wire.RoundTrip(req)
	if err == nil && req.Header.Get(x402.HeaderSignature) != "" {
		resp.StatusCode = 402
	}
	return resp, err
}

// TestCheats: a corrective 402 is believed as far as our own vouchers and our own
// count allow, and leads to one more payment at most.
func TestCheats(t *testing.T) {
	stranger := newKey(t)
	setup := func(t *testing.T) *trade {
		x := newTrade(t)
		x.get("/goods")
		x.get("/goods")
		x.config.Base = refusing{x}
		x.open()
		return x
	}
	state := func(x *trade) channel.State { return x.store.states[0] }
	sign := func(k *channel.Key, x *trade, top channel.Amount) *x402.VoucherState {
		s := state(x)
		return &x402.VoucherState{SignedMaxClaimable: top, Signature: s.Domain.SignVoucher(k, s.ID, top).Signature}
	}
	for name, tt := range map[string]struct {
		cheat    func(x *trade) cheat
		payments int // that leave in all, of which 2 are good
		charged  channel.Amount
	}{
		"more, unproven":     {func(x *trade) cheat { return cheat{charged: 300} }, 3, 200},
		"more than signed":   {func(x *trade) cheat { return cheat{charged: 301, voucher: sign(x.payer, x, 300)} }, 3, 200},
		"answered, more":     {func(x *trade) cheat { return cheat{charged: 300, voucher: sign(x.payer, x, 300)} }, 3, 200},
		"forged":             {func(x *trade) cheat { return cheat{charged: 300, voucher: sign(stranger, x, 300)} }, 3, 200},
		"the same":           {func(x *trade) cheat { return cheat{charged: 200, voucher: sign(x.payer, x, 200)} }, 3, 200},
		"other channel":      {func(x *trade) cheat { return cheat{charged: 100, id: &channel.ID{9}} }, 3, 200},
		"less":               {func(x *trade) cheat { return cheat{charged: 100, voucher: sign(x.payer, x, 100)} }, 4, 100},
		"less, unproven":     {func(x *trade) cheat { return cheat{charged: 0} }, 4, 0},
		"nothing is known":   {func(x *trade) cheat { return cheat{silent: true} }, 4, 0},
		"a voucher unknown":  {func(x *trade) cheat { return cheat{charged: 350, voucher: sign(x.payer, x, 400)} }, 4, 350},
		"beyond the unknown": {func(x *trade) cheat { return cheat{charged: 401, voucher: sign(x.payer, x, 400)} }, 3, 200},
	} {
		t.Run(name, func(t *testing.T) {
			x := setup(t)
			x.wire.lie = tt.cheat(x).lie(x)
			status, err := x.try("/goods")
			if (err == nil) != (tt.payments == 4) || err == nil && status != 402 {
				t.Errorf("status %d, %v", status, err)
			}
			r := x.record()
			if len(x.wire.payments) != tt.payments || r.charged != tt.charged || r.open {
				t.Errorf("%d payments, record %+v", len(x.wire.payments), r)
			}
			last := x.wire.payments[len(x.wire.payments)-1].Payload.Voucher.Voucher
			if top := x.record().charged + 100; err == nil && last.Max != top {
				t.Errorf("the last voucher is of %d, want %d", last.Max, top)
			}
		})
	}
}

// TestClaimedMore: a server that has claimed more than our count is not paid any
// more, however it answers.
func TestClaimedMore(t *testing.T) {
	x := newTrade(t)
	x.get("/dear?cheap") // it holds a voucher for 900
	x.config.Base = refusing{x}
	x.open()
	x.wire.lie = cheat{charged: 900}.lie(x)
	if _, err := x.try("/goods"); err == nil {
		t.Error("899 more were believed")
	}
	if x.record().charged != 1 {
		t.Errorf("charged %d", x.record().charged)
	}
}

// TestNonsense: what is no x402 is handed on, and what is malformed an error.
func TestNonsense(t *testing.T) {
	x := newTrade(t)
	for name, tt := range map[string]struct {
		header string
		status int
	}{
		"none":    {"", 402},
		"base64":  {"%", 0},
		"JSON":    {"e30x", 0},
		"version": {base64.StdEncoding.EncodeToString([]byte(`{"x402Version":1,"accepts":[]}`)), 0},
		"nothing": {base64.StdEncoding.EncodeToString([]byte(`{"x402Version":2,"accepts":[]}`)), 0},
	} {
		x.wire.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tt.header != "" {
				w.Header().Set(x402.HeaderRequired, tt.header)
			}
			w.WriteHeader(402)
		})
		if status, err := x.try("/"); status != tt.status || (err == nil) != (tt.status == 402) {
			t.Errorf("%s: status %d, %v", name, status, err)
		}
	}
}

// TestLongExtensions: what a server says beside its price does not keep it from
// being paid.
func TestLongExtensions(t *testing.T) {
	x := newTrade(t)
	handler := x.wire.handler
	x.wire.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		if text := rec.Header().Get(x402.HeaderRequired); text != "" {
			var p x402.PaymentRequired
			if err := x402.DecodeHeader(text, &p); err != nil {
				t.Error(err)
			}
			p.Extensions = map[string]json.RawMessage{"x": json.RawMessage(`"` + strings.Repeat("x", x402.MaxHeader-900) + `"`)}
			text, err := x402.EncodeHeader(p)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set(x402.HeaderRequired, text)
		}
		w.Header().Set(x402.HeaderResponse, rec.Header().Get(x402.HeaderResponse))
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	})
	x.get("/goods")
	if p := x.wire.payments[0]; p.Extensions != nil {
		t.Error("all of it was repeated")
	}
}

// TestUndecidedDeposit: a deposit that failed in a way which tells nothing of what
// came of it is sent again as it was; of one that was refused another is signed.
func TestUndecidedDeposit(t *testing.T) {
	token := channel.Token{ChainID: 5, Address: channel.Address{1}, Name: "USDC", Version: "2"}
	required := x402.BatchRequirements("eip155:5", token, channel.Config{
		Receiver: channel.Address{7}, ReceiverAuthorizer: channel.Address{8}, Token: token.Address, WithdrawDelay: 900})
	required.Amount = 100
	asks, err := x402.EncodeHeader(x402.PaymentRequired{Version: 2, Accepts: []x402.Requirements{required}})
	if err != nil {
		t.Fatal(err)
	}
	const batch = "invalid_batch_settlement_evm_"
	for code, same := range map[string]bool{
		x402.ErrUnexpectedSettle: true, batch + "deposit_transaction_failed": true, batch + "wait_for_receipt_failed": true,
		x402.ErrPending: true, x402.ErrDepositFailed: false, x402.ErrInsufficientBalance: false, x402.ErrValidBefore: false,
	} {
		var sent []x402.ERC3009Authorization
		no, err := x402.EncodeHeader(x402.SettlementResponse{ErrorReason: code, Network: "eip155:5"})
		if err != nil {
			t.Fatal(err)
		}
		spender, err := New(Config{
			Key: newKey(t), Store: &memory{}, MaxPrice: 500, Budget: 700,
			Assets: []Asset{{token, ledgerOf(func(id channel.ID) x402.ChannelInfo {
				return x402.ChannelInfo{ChannelState: x402.ChannelState{Channel: id}}
			})}},
			Base: roundTrip(func(req *http.Request) (*http.Response, error) {
				resp := &http.Response{StatusCode: 402, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(nil))}
				resp.Header.Set(x402.HeaderRequired, asks)
				if text := req.Header.Get(x402.HeaderSignature); text != "" {
					var p x402.PaymentPayload
					if err := x402.DecodeHeader(text, &p); err != nil || p.Payload.Deposit == nil {
						t.Errorf("%s: %+v, %v", code, p.Payload, err)
					} else {
						sent = append(sent, *p.Payload.Deposit.Deposit.Authorization.ERC3009)
					}
					resp.Header.Del(x402.HeaderRequired)
					resp.Header.Set(x402.HeaderResponse, no)
				}
				return resp, nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			resp, err := (&http.Client{Transport: spender}).Get("http://shop.test/")
			if err != nil || resp.StatusCode != 402 {
				t.Errorf("%s: %+v, %v", code, resp, err)
			}
		}
		if len(sent) != 2 || (sent[0] == sent[1]) != same {
			t.Errorf("%s: sent %d, the same is %t, want %t", code, len(sent), len(sent) == 2 && sent[0] == sent[1], same)
		}
	}
}

// FuzzRequired: whatever is asked for, nothing is signed beyond the limits or for
// another asset, and nothing panics.
func FuzzRequired(f *testing.F) {
	token := channel.Token{ChainID: 5, Address: channel.Address{1}, Name: "USDC", Version: "2"}
	r := x402.BatchRequirements("eip155:5", token, channel.Config{
		Receiver: channel.Address{7}, ReceiverAuthorizer: channel.Address{8}, Token: token.Address, WithdrawDelay: 900})
	r.Amount = 100
	exact := r
	exact.Scheme = x402.SchemeExact
	for _, r := range []x402.Requirements{r, exact} {
		b, err := json.Marshal(x402.PaymentRequired{Version: 2, Accepts: []x402.Requirements{r}, Extensions: map[string]json.RawMessage{identifierName: []byte(`{"info":{}}`)}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte(`{"success":true,"network":"eip155:5","transaction":"","extra":{"chargedAmount":"100"}}`))
		f.Add(b, []byte(`{"x402Version":2,"error":"`+x402.ErrCumulativeMismatch+`"}`))
	}
	key := newKey(f)
	f.Fuzz(func(t *testing.T, required, answer []byte) {
		ledger := ledgerOf(func(id channel.ID) x402.ChannelInfo {
			return x402.ChannelInfo{ChannelState: x402.ChannelState{Channel: id, Balance: 1_000}}
		})
		store := &memory{}
		sent := 0
		spender, err := New(Config{Key: key, Store: store, MaxPrice: 500, Budget: 700, Assets: []Asset{{token, ledger}}, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: 402, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(nil))}
			resp.Header.Set(x402.HeaderRequired, base64.StdEncoding.EncodeToString(required))
			if text := req.Header.Get(x402.HeaderSignature); text != "" {
				sent++
				check(t, token, text)
				resp.Header.Set(x402.HeaderResponse, base64.StdEncoding.EncodeToString(answer))
				resp.Header.Set(x402.HeaderRequired, base64.StdEncoding.EncodeToString(answer))
			}
			return resp, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if resp, err := (&http.Client{Transport: spender}).Get("http://shop.test/"); err == nil {
				resp.Body.Close()
			}
		}
		if spender.Spent() > 700 || sent > 6 {
			t.Errorf("spent %d by %d payments", spender.Spent(), sent)
		}
		for _, s := range store.states {
			if len(s.Note) == 0 {
				continue
			}
			if r, err := parseRecord(s.Note); err != nil || r.signed > 1_200 {
				t.Errorf("record %+v, %v", r, err)
			}
		}
	})
}

// check looks at a payment that has left.
func check(t *testing.T, token channel.Token, text string) {
	var p x402.PaymentPayload
	if err := x402.DecodeHeader(text, &p); err != nil {
		t.Fatal(err)
	}
	a := p.Accepted
	if a.Asset != token.Address || a.Network != "eip155:5" || a.Amount > 500 {
		t.Errorf("paid %+v", a)
	}
	if e := p.Payload.Exact; e != nil && e.Authorization.Value > 500 {
		t.Errorf("signed %+v", e)
	}
	if d := p.Payload.Deposit; d != nil && d.Deposit.Amount > 250_000 {
		t.Errorf("deposited %d", d.Deposit.Amount)
	}
}

// ledgerOf is a ledger that answers by a function.
type ledgerOf func(channel.ID) x402.ChannelInfo

func (f ledgerOf) Channel(_ context.Context, _ string, id channel.ID) (x402.ChannelInfo, error) {
	return f(id), nil
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzRecord: a record reads back as what was written.
func FuzzRecord(f *testing.F) {
	f.Add(record{charged: 1, signed: 2, open: true, draft: draft{3, 4}}.marshal())
	f.Add([]byte("nothing"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err == nil && !bytes.Equal(r.marshal(), b) {
			t.Errorf("%x reads back as %x", b, r.marshal())
		}
	})
}
