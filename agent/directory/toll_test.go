package directory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	facserver "github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// A tollbooth is a relay that charges 1 USD for a GB, a unit for 1,000 bytes,
// with a facilitator, and an agent that is reached by TCP.
type tollbooth struct {
	t      *testing.T
	cfg    Config
	fac    *facilitator.Client
	down   atomic.Bool // the facilitator does not answer
	relay  *running
	toll   *Toll
	client *market.Client
	seller *seller
	tariff toll.Tariff
}

func newTollbooth(t *testing.T, change func(*TollConfig)) *tollbooth {
	t.Helper()
	p := ledger.Params{ChainID: 1<<41 + 9, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
	srv := must(facserver.New(facserver.Config{Ledger: ledger.NewMemory(p), Dev: true}))
	b := &tollbooth{t: t, cfg: loopback(t)}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		srv.ServeHTTP(w, r)
	}))
	t.Cleanup(hs.Close)
	b.fac = must(nethttp.New(nethttp.Config{URL: hs.URL}))
	b.cfg.Toll = TollConfig{Price: 1_000_000, StateDir: filepath.Join(t.TempDir(), "toll"), Payment: agent.Payment{
		Network: p.Network(), Facilitator: hs.URL, Asset: p.Token, AssetName: "USDC", AssetVersion: "2", PayTo: channel.Address{0xbb},
	}}
	if change != nil {
		change(&b.cfg.Toll)
	}
	b.start()
	return b
}

// start starts the relay, again.
func (b *tollbooth) start() {
	b.t.Helper()
	b.relay = runWith(b.t, b.cfg, func(ctx context.Context, c Config) error {
		c.Logger = slog.New(slog.DiscardHandler)
		r, err := c.open(ctx)
		if err != nil {
			return err
		}
		b.toll = r.toll
		return errors.Join(c.run(ctx, r), r.close())
	})
	b.client = market.New(market.Config{Name: b.relay.name})
	b.t.Cleanup(b.client.Close)
	b.seller = b.relay.sell(b.t, 1, 4_000_000)
	listed(b.t, b.client, market.Query{}, 1)
	b.tariff = must(toll.Parse(must(b.client.Toll(b.t.Context()))))
}

// A payer is a buyer of what passes.
type payer struct {
	*tollbooth
	key     *channel.Key
	config  channel.Config
	domain  channel.Domain
	id      channel.ID
	account string
	terms   toll.Opened
}

// payer returns one with a deposit in a channel with the relay.
func (b *tollbooth) payer(n int, deposit channel.Amount) *payer {
	b.t.Helper()
	p := &payer{tollbooth: b, key: testKey(b.t, 100+n), domain: must(b.tariff.Payment.Domain())}
	p.config = b.tariff.Offer(b.relay.name).Channel(p.key.Address())
	p.id = p.domain.ID(p.config)
	if deposit > 0 {
		p.deposit(deposit)
	}
	return p
}

func (p *payer) deposit(amount channel.Amount) {
	p.t.Helper()
	ctx := p.t.Context()
	var ref channel.Hash
	copy(ref[:], newCredential())
	must(p.fac.Faucet(ctx, x402.FaucetRequest{Address: p.key.Address(), Amount: amount, Ref: ref}))
	info := must(p.fac.Channel(ctx, p.tariff.Payment.Network, p.id))
	must(p.fac.Deposit(ctx, p.tariff.Payment.Network, must(p.tariff.Payment.Token()), x402.DepositRequest{
		Domain: p.domain, Token: must(p.tariff.Payment.Token()), Config: p.config, Amount: amount,
		Voucher: p.domain.SignVoucher(p.key, p.id, info.TotalClaimed), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()), Salt: ref,
	}.Sign(p.key)))
}

// hello opens an account.
func (p *payer) hello(change func(*agent.Hello)) error {
	h := agent.Hello{Versions: []int{agent.ProtocolVersion}, Network: p.tariff.Payment.Network, Config: p.config, Price: p.tariff.PriceOf()}
	if change != nil {
		change(&h)
	}
	answer, err := p.client.Account(p.t.Context(), market.AccountPath, "", must(toll.Seal(p.key, p.domain, h)))
	if err != nil {
		return err
	}
	p.terms = toll.Opened{}
	if err := json.Unmarshal(answer, &p.terms); err != nil {
		return err
	}
	p.account = p.terms.Account
	return nil
}

func (p *payer) voucher(max channel.Amount) *channel.Voucher {
	v := p.domain.SignVoucher(p.key, p.id, max)
	return &v
}

func (p *payer) pay(x toll.Payment) (r toll.Reading, err error) {
	answer, err := p.client.Account(p.t.Context(), toll.PayPath, p.account, must(json.Marshal(x)))
	if err == nil {
		err = json.Unmarshal(answer, &r)
	}
	return r, err
}

// close has the channel closed.
func (p *payer) close(x toll.Payment) (c toll.Closed, err error) {
	for {
		answer, err := p.client.Account(p.t.Context(), toll.ClosePath, p.account, must(json.Marshal(toll.Closing{Payment: x, Refund: true})))
		if err != nil {
			return c, err
		}
		c = toll.Closed{}
		if err := json.Unmarshal(answer, &c); err != nil || !c.Pending {
			return c, err
		}
	}
}

// wire opens a session by TCP and returns its ends.
func (p *payer) wire() (buyer, agent net.Conn) {
	p.t.Helper()
	mine, err := p.client.Session(p.t.Context(), market.Request{Agent: relay.Address(p.seller.key.Address()), Transport: "tcp", Account: p.account})
	if err != nil {
		p.t.Fatal(err)
	}
	join := func(a relay.Allotment) net.Conn {
		c := must(net.Dial("tcp", a.Address.String()))
		p.t.Cleanup(func() { c.Close() })
		must(c.Write(relay.Preamble(a.ID, a.Token)))
		return c
	}
	return join(mine), join(<-p.seller.sessions)
}

// send sends n bytes, of which so many arrive and no more.
func send(t *testing.T, from, to net.Conn, n, arrive int) {
	t.Helper()
	_ = from.SetWriteDeadline(time.Now().Add(patience))
	must(from.Write(make([]byte, n)))
	receive(t, to, arrive)
	if arrive < n {
		_ = to.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := to.Read(make([]byte, 1)); n > 0 || !isTimeout(err) {
			t.Errorf("more than %d bytes arrive, or %v", arrive, err)
		}
	}
}

func receive(t *testing.T, from net.Conn, n int) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadFull(from, make([]byte, n)); err != nil {
		t.Fatalf("%d of %d bytes arrive: %v", got, n, err)
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func code(err error) string {
	if e, ok := errors.AsType[*market.RefusedError](err); ok {
		return e.Code
	}
	return ""
}

// record is what the stopped relay has of a channel.
func (p *payer) record() channel.State {
	p.t.Helper()
	if err := p.relay.stop(); err != nil {
		p.t.Error(err)
	}
	store := must(bolt.Open(filepath.Join(p.cfg.Toll.StateDir, tollStoreFile)))
	defer store.Close()
	for _, s := range must(store.Load()) {
		if s.ID == p.id {
			return s
		}
	}
	p.t.Fatal("no record")
	return channel.State{}
}

// TestTollStory: a payer is told, pays, is claimed from and refunded.
func TestTollStory(t *testing.T) {
	b := newTollbooth(t, nil)
	q := market.Request{Agent: relay.Address(b.seller.key.Address())}
	_, err := b.client.Session(t.Context(), q)
	if e, ok := errors.AsType[*market.RefusedError](err); !ok || e.Status != http.StatusPaymentRequired || e.Code != toll.CodePay || must(toll.Parse(e.Toll)) != b.tariff {
		t.Fatalf("without an account: %v", err)
	}
	page := must(b.client.Offers(t.Context(), market.Query{}))
	if must(toll.Parse(page.Toll)) != b.tariff || b.tariff.Price != 1_000_000 {
		t.Errorf("listed with %s", page.Toll)
	}
	p := b.payer(0, 200_000)
	if err := p.hello(nil); err != nil {
		t.Fatal(err)
	}
	if x := p.terms; x.Session != 1 || x.Base != 0 || x.Balance != 200_000 || x.Credit != 132 || x.Voucher.Max != 0 {
		t.Errorf("terms %+v", x)
	}
	buyer, seller := p.wire()
	send(t, seller, buyer, 100_000, 100_000) // on credit
	r := must(p.pay(toll.Payment{Received: 100_000, Voucher: p.voucher(100)}))
	if r.Up != 0 || r.Down != 100_000 || r.Owed != 100 || r.Paid != 100 || r.Notice != "" {
		t.Errorf("reading %+v", r)
	}
	send(t, buyer, seller, 120_500, 120_500)
	r = must(p.pay(toll.Payment{Received: 100_000, Drain: true}))
	if r.Up != 120_500 || r.Owed != 221 { // rounded up once
		t.Errorf("last reading %+v", r)
	}
	last := toll.Payment{Received: 100_000, Voucher: p.voucher(221)}
	for range 2 { // the second is answered alike
		c, err := p.close(last)
		if err != nil || c.Claimed != 221 || c.Refunded != 200_000-221 || c.Error != "" {
			t.Errorf("closed %+v, %v", c, err)
		}
	}
	if s := p.record(); s.Claimed != 221 || s.Phase != channel.Open {
		t.Errorf("record %+v", s)
	}
	account := must(b.fac.Balance(t.Context(), b.tariff.Payment.Network, b.tariff.Payment.PayTo))
	if account.Balance != 221 || account.Unsettled != 0 {
		t.Errorf("the receiver has %+v", account)
	}
}

// TestTollUnpaid: who does not pay gets 128 KiB and no more, and the account
// ends by its name.
func TestTollUnpaid(t *testing.T) {
	b := newTollbooth(t, nil)
	p := b.payer(0, 200_000)
	if err := p.hello(nil); err != nil {
		t.Fatal(err)
	}
	buyer, seller := p.wire()
	send(t, seller, buyer, 300_000, 132_000)
	for name, x := range map[string]toll.Payment{
		"nothing":            {Received: 132_000},
		"a forged voucher":   {Received: 132_000, Voucher: forged(p)},
		"another's channel":  {Received: 132_000, Voucher: &channel.Voucher{Channel: channel.ID{1}, Max: 1_000}},
		"above the deposit":  {Received: 132_000, Voucher: p.voucher(200_001)},
		"nothing by voucher": {Received: 132_000, Voucher: p.voucher(0)},
	} {
		r, err := p.pay(x)
		if err != nil || r.Paid != 0 || r.Owed != 132 || (r.Notice == "") != (x.Voucher == nil || x.Voucher.Max == 0) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := p.pay(toll.Payment{Received: 1}); code(err) != agent.NoticeRefused {
		t.Errorf("a count that went back: %v", err)
	}
	if r := must(p.pay(toll.Payment{Received: 1 << 62})); r.Owed != 132 {
		t.Errorf("a count beyond what was passed on: %+v", r)
	}
	r := must(p.pay(toll.Payment{Received: 1 << 62, Voucher: p.voucher(50)})) // less than is owed
	if r.Paid != 50 {
		t.Errorf("%+v", r)
	}
	receive(t, buyer, 50_000)
	r = must(p.pay(toll.Payment{Received: 1 << 62, Voucher: p.voucher(49)})) // an old one
	if r.Paid != 50 || r.Notice != "" {
		t.Errorf("a replay: %+v", r)
	}
	s := b.find(p)
	until(t, "that it is noticed that something waits", func() bool { // and 30 s later
		s.turn.Lock()
		defer s.turn.Unlock()
		if s.stuck.IsZero() {
			return false
		}
		s.stuck = s.stuck.Add(-stuckTime)
		return true
	})
	until(t, "the end", func() bool {
		_, err := p.pay(toll.Payment{Received: 1 << 62})
		return code(err) == toll.CodeUnpaid
	})
	if _, err := p.client.Session(t.Context(), market.Request{Agent: relay.Address(b.seller.key.Address()), Account: p.account}); code(err) != toll.CodeUnpaid {
		t.Errorf("a session on an account that has ended: %v", err)
	}
	until(t, "the session's end", func() bool { return s.meter.Sessions() == 0 })
}

// forged is a voucher that somebody else signed.
func forged(p *payer) *channel.Voucher {
	v := p.domain.SignVoucher(testKey(p.t, 7), p.id, 1_000)
	return &v
}

// TestTollHello refuses what is no payer's own, and keeps no record of it.
func TestTollHello(t *testing.T) {
	b := newTollbooth(t, nil)
	p := b.payer(0, 200_000)
	poor := b.payer(1, 99_999)
	none := b.payer(2, 0)
	for name, tt := range map[string]struct {
		p      *payer
		change func(*agent.Hello)
		code   string
	}{
		"no deposit":      {none, nil, agent.NoticeDeposit},
		"a small deposit": {poor, nil, agent.NoticeDeposit},
		"a low price":     {p, func(h *agent.Hello) { h.Price.Down-- }, agent.NoticePrice},
		"another network": {p, func(h *agent.Hello) { h.Network = "eip155:1" }, agent.NoticeRefused},
		"somebody else":   {p, func(h *agent.Hello) { h.Config.Receiver[0]++ }, agent.NoticeRefused},
		"another's key":   {p, func(h *agent.Hello) { h.Config.PayerAuthorizer = poor.key.Address() }, agent.NoticeRefused},
		"no version":      {p, func(h *agent.Hello) { h.Versions = []int{9} }, agent.NoticeRefused},
		"a short delay":   {p, func(h *agent.Hello) { h.Config.WithdrawDelay-- }, agent.NoticeRefused},
		"endless totals":  {p, func(h *agent.Hello) { h.Own.Up = 1 << 63 }, agent.NoticeRefused},
	} {
		if err := tt.p.hello(tt.change); code(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := must(toll.Seal(p.key, p.domain, agent.Hello{Versions: []int{1}, Network: b.tariff.Payment.Network, Config: p.config, Price: b.tariff.PriceOf()}))
	for i := range h {
		bad := bytes.Clone(h)
		bad[i] ^= 1
		if _, _, err := toll.Unseal(p.domain, bad); err == nil {
			t.Errorf("a hello with byte %d changed counts", i)
		}
	}
	for _, body := range [][]byte{nil, []byte("{}"), make([]byte, 100), bytes.Repeat([]byte("x"), 5000)} {
		if _, err := b.client.Account(t.Context(), market.AccountPath, "", body); err == nil {
			t.Errorf("%.10q was taken for a hello", body)
		}
	}
	for _, path := range []string{toll.PayPath, toll.ClosePath, "/v1/account/other"} {
		if _, err := b.client.Account(t.Context(), path, "", []byte("{}")); code(err) != toll.CodeUnknown {
			t.Errorf("%s without an account: %v", path, err)
		}
	}
	if err := p.hello(nil); err != nil {
		t.Fatal(err)
	}
	first := p.account
	for _, body := range []string{"", "{", `{"received":"x"}`, `{"received":"1","Received":"2"}`, `{"voucher":{"maxClaimableAmount":"-1"}}`} {
		if _, err := b.client.Account(t.Context(), toll.PayPath, first, []byte(body)); code(err) != agent.NoticeRefused {
			t.Errorf("%s: %v", body, err)
		}
	}
	if err := p.hello(nil); err != nil || p.account == first || p.terms.Session != 2 {
		t.Fatalf("a second hello: %+v, %v", p.terms, err)
	}
	p.account = first
	if _, err := p.pay(toll.Payment{}); code(err) != toll.CodeReplaced {
		t.Errorf("the first account: %v", err)
	}
	if all := b.toll.payee.All(); len(all) != 1 || all[0].ID != p.id {
		t.Errorf("%d channels are on record", len(all))
	}
}

// TestTollWithoutLedger: while the facilitator is down, who is known goes on,
// newcomers wait, and nothing is lost.
func TestTollWithoutLedger(t *testing.T) {
	b := newTollbooth(t, nil)
	p, late := b.payer(0, 200_000), b.payer(1, 200_000)
	if err := p.hello(nil); err != nil {
		t.Fatal(err)
	}
	b.down.Store(true)
	buyer, seller := p.wire()
	send(t, seller, buyer, 50_000, 50_000)
	if r := must(p.pay(toll.Payment{Received: 50_000, Voucher: p.voucher(50)})); r.Paid != 50 {
		t.Errorf("%+v", r)
	}
	if err := late.hello(nil); code(err) != agent.NoticeFacilitator {
		t.Errorf("a newcomer: %v", err)
	}
	if c, err := p.close(toll.Payment{Received: 50_000}); err != nil || !strings.Contains(c.Error, "facilitator unavailable") {
		t.Errorf("closed %+v, %v", c, err)
	}
	if err := p.hello(nil); err != nil || p.terms.Base != 50 || p.terms.Voucher.Max != 50 {
		t.Errorf("terms %+v, %v", p.terms, err)
	}
	b.down.Store(false)
	if c, err := p.close(toll.Payment{}); err != nil || c.Claimed != 50 || c.Refunded != 199_950 {
		t.Errorf("closed %+v, %v", c, err)
	}
	if err := late.hello(nil); err != nil {
		t.Error(err)
	}
}

// TestTollTopUp: a deposit that has grown is noticed when the payer says so.
func TestTollTopUp(t *testing.T) {
	b := newTollbooth(t, nil)
	p := b.payer(0, 100_000)
	if err := p.hello(nil); err != nil {
		t.Fatal(err)
	}
	p.deposit(50_000)
	if r := must(p.pay(toll.Payment{})); r.Balance != 100_000 {
		t.Errorf("balance %d, nobody has asked", r.Balance)
	}
	if r := must(p.pay(toll.Payment{TopUp: true})); r.Balance != 150_000 {
		t.Errorf("balance %d", r.Balance)
	}
	if r := must(p.pay(toll.Payment{Voucher: p.voucher(120_000)})); r.Paid != 120_000 || r.Owed != 0 {
		t.Errorf("%+v", r)
	}
	if c := must(p.close(toll.Payment{})); c.Claimed != 0 || c.Refunded != 150_000 { // nothing was owed
		t.Errorf("%+v", c)
	}
}

// until asks until the answer is yes.
func until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick, end := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never came: %s", what)
		}
	}
}

// find is the account of a payer.
func (b *tollbooth) find(p *payer) *stay {
	b.toll.mu.Lock()
	defer b.toll.mu.Unlock()
	return b.toll.stays[p.account]
}
