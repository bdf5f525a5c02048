package interop

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/interop/peertest"
	"github.com/depinsim/x402/channel/spend"
	"github.com/depinsim/x402/channel/x402"
)

// A wallet is our client with its store.
type wallet struct {
	*spend.Transport
	payments []spend.Payment
}

// ours makes a client of ours on a store at path.
func (m *market) ours(t *testing.T, path string, change func(*spend.Config)) (*wallet, func()) {
	t.Helper()
	store, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &wallet{}
	cfg := spend.Config{
		Key: m.payer, Store: store, MaxPrice: 1_000, Budget: 100_000,
		Assets:    []spend.Asset{{Token: m.params.Asset(), Ledger: m.fac}},
		OnPayment: func(p spend.Payment) { w.payments = append(w.payments, p) },
	}
	if change != nil {
		change(&cfg)
	}
	if w.Transport, err = spend.New(cfg); err != nil {
		t.Fatal(err)
	}
	closed := false
	end := func() {
		if !closed {
			closed = true
			store.Close()
		}
	}
	t.Cleanup(end)
	return w, end
}

// get fetches a URL count times, and fails when one is not answered.
func (w *wallet) get(t *testing.T, url string, count int) (last string) {
	t.Helper()
	for range count {
		resp, err := (&http.Client{Transport: w}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			var why x402.PaymentRequired
			_ = x402.DecodeHeader(resp.Header.Get(x402.HeaderRequired), &why) // there may be none
			t.Fatalf("%s: status %d, %v: %s, %s after %d payments", url, resp.StatusCode, err, b, why.Error, len(w.payments))
		}
		last = string(b)
	}
	return last
}

// serve starts their server.
func (m *market) serve(t *testing.T, p *peertest.Peer, charge string) string {
	t.Helper()
	var out struct{ URL string }
	p.Must(t, "serve", peertest.Object{
		"name": "shop", "facilitator": m.url, "key": peertest.Key(m.seller), "network": m.network(), "asset": m.asset(),
		"payTo": m.payTo.String(), "price": "100", "charge": charge, "extra": peertest.Object{"name": m.params.Name, "version": m.params.Version},
	}, &out)
	return out.URL
}

// theirServer: our client pays their server from a channel, tops it up, and
// gets back what is left, to the unit.
func theirServer(t *testing.T, p *peertest.Peer, m *market) {
	url := m.serve(t, p, "70")
	w, _ := m.ours(t, filepath.Join(t.TempDir(), "channels.db"), nil)
	if got := w.get(t, url+"/batch", 60); got != `{"served":60}` {
		t.Errorf("answered %s", got)
	}
	deposited, deposits := channel.Amount(0), 0
	for _, p := range w.payments {
		if p.Charged != 70 {
			t.Fatalf("charged %+v", p)
		}
		if p.Deposited > 0 {
			deposits++
			deposited += p.Deposited
		}
	}
	if payer, _ := m.balances(t); w.Spent() != 4_200 || deposits < 2 || payer != wealth-deposited {
		t.Errorf("spent %d, %d deposits of %d in all, payer has %d", w.Spent(), deposits, deposited, payer)
	}
	resp, err := (&http.Client{Transport: w}).Post(url+"/batch", "text/plain", strings.NewReader("x"))
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("a request with a body: %v, %v", resp, err)
	}
	resp.Body.Close()
	back, err := w.Refund(t.Context(), "GET", url+"/batch")
	if err != nil || back != deposited-4_270 {
		t.Errorf("refunded %d, %v", back, err)
	}
	if payer, _ := m.balances(t); payer != wealth-4_270 {
		t.Errorf("payer has %d", payer)
	}
	if back, err := w.RefundAll(t.Context()); err != nil || back != 0 {
		t.Errorf("refunded %d again, %v", back, err)
	}
	m.audit(t)
}

// theirServerExact pays one transfer a request, within the budget.
func theirServerExact(t *testing.T, p *peertest.Peer, m *market) {
	url := m.serve(t, p, "")
	w, _ := m.ours(t, filepath.Join(t.TempDir(), "channels.db"), func(c *spend.Config) { c.Budget = 250 })
	w.get(t, url+"/exact", 2)
	if _, err := (&http.Client{Transport: w}).Get(url + "/exact"); !errors.Is(err, spend.ErrBudget) {
		t.Errorf("beyond the budget: %v", err)
	}
	if payer, seller := m.balances(t); payer != wealth-200 || seller != 200 || w.Spent() != 200 || w.payments[1].Transaction == "" {
		t.Errorf("payer has %d, seller %d, spent %d: %+v", payer, seller, w.Spent(), w.payments)
	}
}

// ourClientForgets: a wallet that was restored from a backup, or lost its
// record, goes on without paying twice; a claim in between is seen.
func ourClientForgets(t *testing.T, p *peertest.Peer, m *market) {
	url := m.serve(t, p, "70")
	dir := t.TempDir()
	w, end := m.ours(t, filepath.Join(dir, "channels.db"), nil)
	w.get(t, url+"/batch", 2)
	end()
	backup, err := os.ReadFile(filepath.Join(dir, "channels.db"))
	if err != nil {
		t.Fatal(err)
	}
	w, end = m.ours(t, filepath.Join(dir, "channels.db"), nil)
	w.get(t, url+"/batch", 2)
	end()
	if err := os.WriteFile(filepath.Join(dir, "older.db"), backup, 0o600); err != nil {
		t.Fatal(err)
	}
	w, end = m.ours(t, filepath.Join(dir, "older.db"), nil)
	w.get(t, url+"/batch", 1)
	end()
	p.Must(t, "claim", peertest.Object{"name": "shop"}, nil)
	w, end = m.ours(t, filepath.Join(dir, "empty.db"), nil)
	w.get(t, url+"/batch", 1)
	end()
	w, _ = m.ours(t, filepath.Join(dir, "empty2.db"), nil)
	if back, err := w.Refund(t.Context(), "GET", url+"/batch"); err != nil || back != 1_000-420 {
		t.Errorf("refunded %d, %v", back, err)
	}
	if payer, _ := m.balances(t); payer != wealth-420 {
		t.Errorf("payer has %d", payer)
	}
}

// theirServerForgets: a server that lost its records starts from what it has
// claimed, to our advantage.
func theirServerForgets(t *testing.T, p *peertest.Peer, m *market) {
	url := m.serve(t, p, "70")
	w, _ := m.ours(t, filepath.Join(t.TempDir(), "channels.db"), nil)
	w.get(t, url+"/batch", 3)
	p.Must(t, "lose", peertest.Object{"name": "shop"}, nil)
	w.get(t, url+"/batch", 3)
	info, err := m.fac.Channel(context.Background(), m.network(), *w.payments[0].Channel)
	if err != nil || info.TotalClaimed != 0 {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := w.RefundAll(t.Context()); err != nil {
		t.Error(err)
	}
	if payer, _ := m.balances(t); payer < wealth-420 || payer > wealth-210 {
		t.Errorf("payer has %d", payer)
	}
}
