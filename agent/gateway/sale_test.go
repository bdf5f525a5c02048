package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/spend"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// A shopper is an x402 client that buys credit.
type shopper struct {
	*rig
	client *http.Client
	base   http.RoundTripper
	pays   *spend.Transport
	paid   []spend.Payment
	sent   string // the last payment, as it was sent
}

// RoundTrip remembers what is paid.
func (s *shopper) RoundTrip(req *http.Request) (*http.Response, error) {
	if text := req.Header.Get(x402.HeaderSignature); text != "" {
		s.sent = text
	}
	return s.base.RoundTrip(req)
}

func (r *rig) shopper(schemes ...string) *shopper {
	r.t.Helper()
	s := &shopper{rig: r}
	store := must(bolt.Open(filepath.Join(r.t.TempDir(), "channels.db")))
	r.t.Cleanup(func() { store.Close() })
	s.base = r.https().Transport
	r.t.Cleanup(s.base.(*http.Transport).CloseIdleConnections)
	token := channel.Token{ChainID: r.params.ChainID, Address: r.params.Token, Name: r.params.Name, Version: r.params.Version}
	s.pays = must(spend.New(spend.Config{
		Key: r.buyer, Store: store, Assets: []spend.Asset{{Token: token, Ledger: r.fac}}, MaxPrice: 5_000_000, MaxDeposit: 5_000_000, Budget: 10_000_000,
		Schemes: schemes, Base: s, OnPayment: func(p spend.Payment) { s.paid = append(s.paid, p) },
	}))
	s.client = &http.Client{Transport: s.pays, Timeout: patience}
	return s
}

// buy posts an order; with a credit it is for more of that.
func (s *shopper) buy(body string, c *gateway.Credit) (out gateway.Credit, status int) {
	s.t.Helper()
	req := must(http.NewRequestWithContext(s.t.Context(), http.MethodPost, "https://"+s.name.Address()+gateway.CreditPath, strings.NewReader(body)))
	if c != nil {
		req.SetBasicAuth(c.User, c.Password)
	}
	return s.do(s.client, req)
}

// buyAgain posts an order with a payment that was sent before.
func (s *shopper) buyAgain(payment string, c *gateway.Credit) (out gateway.Credit, status int) {
	s.t.Helper()
	req := must(http.NewRequestWithContext(s.t.Context(), http.MethodPost, "https://"+s.name.Address()+gateway.CreditPath, strings.NewReader(`{"bytes":100000000}`)))
	req.Header.Set(x402.HeaderSignature, payment)
	if c != nil {
		req.SetBasicAuth(c.User, c.Password)
	}
	return s.do(&http.Client{Transport: s.base, Timeout: patience}, req)
}

func (s *shopper) do(client *http.Client, req *http.Request) (out gateway.Credit, status int) {
	s.t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text := must(io.ReadAll(resp.Body))
	if err := json.Unmarshal(text, &out); err != nil {
		s.t.Fatalf("%s: %v", text, err)
	}
	if resp.StatusCode >= 400 {
		s.t.Logf("%s: %s", resp.Status, text)
	}
	return out, resp.StatusCode
}

func (r *rig) balance(k *channel.Key) channel.Amount {
	return must(r.fac.Balance(r.t.Context(), r.params.Network(), k.Address())).Balance
}

// TestBuy buys credit by both schemes, uses it, adds to it, and has the rest
// given back: to the unit.
func TestBuy(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{x402.SchemeExact, x402.SchemeBatch} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.sell("one", "de", agentPrice)
			s := r.shopper(scheme)
			c, status := s.buy(`{"bytes":100000000,"country":"de","allow":["127.0.0.0/8"]}`, nil)
			const price = agentPrice * 11 / 10
			if status != 200 || c.Price != price || c.Paid != price/10 || c.BytesLeft != 100_000_000 || c.Payer != r.buyer.Address().String() {
				t.Fatalf("%d %+v", status, c)
			}
			if len(s.paid) != 1 || s.paid[0].Scheme != scheme || s.paid[0].Charged != price/10 {
				t.Errorf("%+v", s.paid)
			}
			if out, complaint, code := r.curl(c.Proxies[0], r.page("2000000")); len(out) != 2_000_000 || code != 0 {
				t.Fatalf("%d bytes, %d: %s", len(out), code, complaint)
			}
			more, status := s.buy(`{"bytes":50000000}`, &c)
			if status != 200 || more.Paid != price/10+price/20 || more.Password != "" {
				t.Errorf("%d %+v", status, more)
			}
			if out, complaint, code := r.curl(c.Proxies[2], r.page("1000")); len(out) != 1000 || code != 0 {
				t.Fatalf("%d bytes, %d: %s", len(out), code, complaint)
			}
			used, _ := r.api(http.MethodGet, c, "")
			before := r.balance(r.buyer)
			closed, status := r.api(http.MethodDelete, c, "")
			if status != 200 || !closed.Closed || closed.Refunded != used.Left || closed.Left != 0 || used.Left == 0 {
				t.Errorf("%d %+v of %+v", status, closed, used)
			}
			if got := r.balance(r.buyer) - before; got != used.Left {
				t.Errorf("%d units came back, want %d", got, used.Left)
			}
			if again, status := r.api(http.MethodDelete, c, ""); status != 200 || again.Refunded != closed.Refunded || r.balance(r.buyer)-before != used.Left {
				t.Errorf("given back twice: %d %+v", status, again)
			}
			if out, _, _ := r.curl(c.Proxies[0], "-w", "%{http_code}", "-o", "/dev/null", r.page("10")); out != "403" {
				t.Errorf("closed credit: %s", out)
			}
			if _, status := s.buy(`{"bytes":50000000}`, &c); status != 403 {
				t.Errorf("more of a closed credit: %d", status)
			}
		})
	}
}

// TestRefusedOrders are answered before they are paid for.
func TestRefusedOrders(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.shopper()
	if _, status := s.buy(`{"bytes":100000000}`, nil); status != 503 {
		t.Errorf("without agents: %d", status)
	}
	r.sell("one", "", agentPrice)
	r.until("for the agent to be sold", func() bool { // what is listed is kept for some seconds
		_, status := s.buy(`{"bytes":1000000}`, nil)
		return status == 200
	})
	for body, want := range map[string]int{
		"": 400, "{": 400, `{"bytes":999999}`: 400, `{"bytes":1000000000001}`: 400, `{"bytes":1000000,"shoe":42}`: 400, `{"bytes":1000000}{}`: 400,
		`{"bytes":1000000,"country":"germany"}`: 400, `{"bytes":1000000,"allow":["here"]}`: 400, `{"bytes":1000000,"country":"us"}`: 503,
		`{"bytes":-1}`: 400, strings.Repeat(" ", 5_000): 400,
	} {
		if _, got := s.buy(body, nil); got != want {
			t.Errorf("%.40s: %d, want %d", body, got, want)
		}
	}
	gift := r.give(nil)
	if _, got := s.buy(`{"bytes":1000000}`, &gift); got != 409 {
		t.Errorf("more of a gift: %d", got)
	}
	bought, _ := s.buy(`{"bytes":1000000}`, nil)
	r.buyer = must(channel.GenerateKey())
	must(r.fac.Faucet(t.Context(), x402.FaucetRequest{Address: r.buyer.Address(), Amount: wealth, Ref: channel.Hash{9}}))
	other := r.shopper(x402.SchemeExact)
	if _, got := other.buy(`{"bytes":1000000}`, &bought); got != 409 {
		t.Errorf("more of another's: %d", got)
	}
	for range 30 { // asking without a password is no guess
		if _, got := r.api(http.MethodGet, gateway.Credit{}, ""); got != 401 {
			t.Fatalf("without a password: %d", got)
		}
	}
	if len(s.paid) != 2 || len(other.paid) != 0 {
		t.Errorf("%+v %+v", s.paid, other.paid)
	}
}

// TestPoor refuses to sell what the gateway could not pay for.
func TestPoor(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gateway.Config) { c.Deposit = wealth + 1 })
	r.sell("one", "", agentPrice)
	s := r.shopper()
	if _, status := s.buy(`{"bytes":1000000}`, nil); status != 503 || len(s.paid) > 0 {
		t.Errorf("%d %+v", status, s.paid)
	}
	c := r.give(nil)
	if out, complaint, _ := r.curl(at("https", r.secure, c, ""), "-w", "%{http_code}", r.page("10")); !strings.HasSuffix(out, "503") || !strings.Contains(out, "no money") {
		t.Errorf("%s %s", out, complaint)
	}
}

// TestDiscovery finds what is sold where the standard has resources listed.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "de", agentPrice)
	client := r.https()
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + r.name.Address() + "/discovery/resources?limit=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct {
		Items []struct {
			Resource   string
			Type       string
			Accepts    []x402.Requirements
			Extensions map[string]json.RawMessage
			Metadata   struct {
				Bytes, FeePercent uint64
				Countries         []string
			}
		}
		Pagination struct{ Total int }
	}
	if err := x402.Unmarshal(must(io.ReadAll(resp.Body)), &list); err != nil || len(list.Items) != 1 || list.Pagination.Total != 2 {
		t.Fatal(err, list)
	}
	i := list.Items[0]
	if i.Resource != "https://"+r.name.Address()+gateway.CreditPath || i.Type != "http" || len(i.Accepts) != 2 || i.Accepts[0].Amount != agentPrice*11/10 ||
		i.Accepts[0].PayTo != r.wallet.Address() || i.Metadata.Bytes != 1e9 || i.Metadata.FeePercent != 10 || len(i.Metadata.Countries) != 1 || i.Metadata.Countries[0] != "DE" {
		t.Errorf("%+v", i)
	}
	for _, want := range []string{`"bodyType":"json"`, `"bytes":1000000000`, `"method":"POST"`, `"$schema"`} {
		if !strings.Contains(string(i.Extensions["bazaar"]), want) {
			t.Errorf("no %s in %s", want, i.Extensions["bazaar"])
		}
	}
	c := market.New(market.Config{Name: r.name})
	defer c.Close()
	if p, err := c.Offers(t.Context(), market.Query{}); err != nil || len(p.Offers) != 1 {
		t.Errorf("the offers are %d, %v", len(p.Offers), err)
	}
}
