package gateway_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// older makes all payments in the gateway's file as old as d. It is not open.
func (r *rig) older(d time.Duration) {
	r.t.Helper()
	db := must(bbolt.Open(filepath.Join(r.cfg.Gateway.Gateway.StateDir, "credit.db"), 0o600, nil))
	defer db.Close()
	err := db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("payments"))
		changed := map[string][]byte{}
		err := b.ForEach(func(k, v []byte) error {
			var p map[string]json.RawMessage
			if err := json.Unmarshal(v, &p); err != nil {
				return err
			}
			p["created"] = must(json.Marshal(time.Now().Add(-d).Unix()))
			changed[string(k)] = must(json.Marshal(p))
			return nil
		})
		for k, v := range changed {
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// unnamed is a payment without its extensions.
func unnamed(t *testing.T, text string) string {
	t.Helper()
	var p x402.PaymentPayload
	if err := x402.DecodeHeader(text, &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Extensions) == 0 {
		t.Fatal("the payment has no name")
	}
	p.Extensions = nil
	return must(x402.EncodeHeader(p))
}

// TestLostSale: the answer of the facilitator is lost, and the payment was made.
// Whoever sends the same again gets the credit, before and after a restart, and
// pays once.
func TestLostSale(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	s := r.shopper(x402.SchemeExact)
	const price = agentPrice * 11 / 100
	r.fault.Store(muteSettle)
	if c, status := s.buy(`{"bytes":100000000}`, nil); status != 503 || c.User != "" {
		t.Fatalf("%d %+v", status, c)
	}
	if has := r.balance(r.buyer); has != wealth-price {
		t.Fatalf("the buyer has %d", has)
	}
	if _, status := s.buyAgain(s.sent, nil); status != 503 {
		t.Errorf("while the facilitator does not answer: %d", status)
	}
	r.restart()
	r.until("for the agent to come back", func() bool { return r.offers(false) == 1 })
	r.fault.Store(0)
	c, status := s.buyAgain(s.sent, nil)
	if status != 200 || c.User == "" || c.Password == "" || c.Paid != price || c.BytesLeft != 100_000_000 || len(c.Proxies) != 3 {
		t.Fatalf("%d %+v", status, c)
	}
	if out, complaint, code := r.curl(c.Proxies[0], r.page("1000")); len(out) != 1_000 || code != 0 {
		t.Fatalf("%d bytes: %s", len(out), complaint)
	}
	r.restart()
	if again, status := s.buyAgain(s.sent, nil); status != 200 || again.User != c.User || again.Password != c.Password || again.Paid != price || again.Down == 0 {
		t.Errorf("%d %+v", status, again)
	}
	if _, status := s.buyAgain(unnamed(t, s.sent), nil); status != 409 {
		t.Errorf("by another name: %d", status)
	}
	if _, status := s.buyAgain(s.sent, &c); status != 409 {
		t.Errorf("as more of the credit: %d", status)
	}
	before := r.balance(r.buyer)
	if before != wealth-price {
		t.Errorf("the buyer has %d", before)
	}
	left, _ := r.api("DELETE", c, "")
	if now, status := s.buyAgain(s.sent, nil); status != 200 || !now.Closed || now.Refunded != left.Refunded || r.balance(r.buyer) != before+left.Refunded {
		t.Errorf("after it was given back: %d %+v", status, now)
	}
}

// TestLostOnce: a client of ours asks again by itself, and hears what it bought.
func TestLostOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	s := r.shopper(x402.SchemeExact)
	const price = agentPrice * 11 / 100
	r.fault.Store(muteOnce)
	c, status := s.buy(`{"bytes":100000000}`, nil)
	if status != 200 || c.User == "" || len(s.paid) != 1 || s.paid[0].Charged != price || s.paid[0].Transaction == "" {
		t.Fatalf("%d %+v, %+v", status, c, s.paid)
	}
	r.fault.Store(muteOnce)
	more, status := s.buy(`{"bytes":100000000}`, &c)
	if status != 200 || more.Paid != 2*price || r.balance(r.buyer) != wealth-2*price || s.pays.Spent() != 2*price {
		t.Errorf("%d %+v", status, more)
	}
}

// TestLostSaleBack: nobody comes for a credit that was paid. It is given back, once,
// and what was to be added to a credit is added.
func TestLostSaleBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	s := r.shopper(x402.SchemeExact)
	c, _ := s.buy(`{"bytes":100000000}`, nil)
	const price = agentPrice * 11 / 100
	r.fault.Store(muteSettle)
	if _, status := s.buy(`{"bytes":100000000}`, &c); status != 503 {
		t.Errorf("more: %d", status)
	}
	more := s.sent
	if _, status := s.buy(`{"bytes":100000000}`, nil); status != 503 {
		t.Errorf("another: %d", status)
	}
	r.fault.Store(noSettle)
	if _, status := s.buy(`{"bytes":100000000}`, nil); status != 503 {
		t.Errorf("one that is not paid: %d", status)
	}
	if has := r.balance(r.buyer); has != wealth-3*price {
		t.Fatalf("the buyer has %d", has)
	}
	r.fault.Store(0)
	r.restart() // it is too early
	if now, _ := r.api("GET", c, ""); now.Paid != price {
		t.Errorf("%+v", now)
	}
	r.relay.stop(t)
	r.older(2 * time.Hour)
	r.start()
	r.until("for what was lost", func() bool {
		now, _ := r.api("GET", c, "")
		return now.Paid == 2*price
	})
	// The third was not made before it was looked into: then it was, and given back.
	r.until("for it to come back", func() bool { return r.balance(r.buyer) == wealth-2*price })
	if now, status := s.buyAgain(more, &c); status != 200 || now.Paid != 2*price {
		t.Errorf("more again: %d %+v", status, now)
	}
	if _, status := s.buyAgain(s.sent, nil); status != 409 {
		t.Errorf("what was given back: %d", status)
	}
	r.restart()
	if has := r.balance(r.buyer); has != wealth-2*price {
		t.Errorf("the buyer has %d", has)
	}
	for _, l := range must(gateway.NewOperator(r.cfg.Gateway.Gateway.StateDir).List(t.Context())) {
		if l.Pending {
			t.Errorf("%+v", l)
		}
	}
}

// TestLostSaleInPublic: on a chain that everybody reads a payment without a name
// buys credit for who sends it first, and for nobody after.
func TestLostSaleInPublic(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, 84532, nil)
	r.sell("one", "", agentPrice)
	s := r.shopper(x402.SchemeExact)
	const price = agentPrice * 11 / 100
	r.fault.Store(noSettle)
	if _, status := s.buy(`{"bytes":100000000}`, nil); status != 503 {
		t.Fatal(status)
	}
	named := s.sent
	var p x402.PaymentPayload
	if err := x402.DecodeHeader(named, &p); err != nil {
		t.Fatal(err)
	}
	p.Payload.Exact.Authorization.Nonce = channel.Hash{7}
	p.Payload.Exact.Signature = r.buyer.Sign(r.params.Asset().TransferDigest(p.Payload.Exact.Authorization.Standard()))
	p.Extensions = nil
	bare := must(x402.EncodeHeader(p))
	r.fault.Store(muteSettle)
	if _, status := s.buyAgain(bare, nil); status != 500 {
		t.Fatal(status)
	}
	r.fault.Store(0)
	if c, status := s.buyAgain(bare, nil); status != 409 || c.User != "" {
		t.Errorf("%d %+v", status, c)
	}
	r.until("for it to come back", func() bool { return r.balance(r.buyer) == wealth })
	if c, status := s.buyAgain(named, nil); status != 200 || c.User == "" || r.balance(r.buyer) != wealth-price {
		t.Errorf("with a name: %d %+v", status, c)
	}
	p.Payload.Exact.Authorization.Nonce = channel.Hash{8}
	p.Payload.Exact.Signature = r.buyer.Sign(r.params.Asset().TransferDigest(p.Payload.Exact.Authorization.Standard()))
	bare = must(x402.EncodeHeader(p))
	if c, status := s.buyAgain(bare, nil); status != 200 || c.User == "" {
		t.Errorf("%d %+v", status, c)
	}
	if c, status := s.buyAgain(bare, nil); status != 409 || c.User != "" {
		t.Errorf("%d %+v", status, c)
	}
	if now := r.balance(r.buyer); now != wealth-2*price {
		t.Errorf("the buyer has %d", now)
	}
}

// TestPaymentFile: what is stored of payments lets nobody spend.
func TestPaymentFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c, status := r.shopper(x402.SchemeExact).buy(`{"bytes":100000000}`, nil)
	if status != 200 {
		t.Fatal(status)
	}
	r.relay.stop(t)
	db := must(bbolt.Open(filepath.Join(r.cfg.Gateway.Gateway.StateDir, "credit.db"), 0o600, nil))
	var all bytes.Buffer
	if err := db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error { all.Write(k); all.Write(v); return nil })
		})
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if text := all.String(); strings.Contains(text, c.User) || strings.Contains(text, c.Password) || !strings.Contains(text, r.buyer.Address().String()) {
		t.Error("the file has the login, or not the payer")
	}
	r.start()
}
