// Package interop holds our HTTP binding against the x402 packages on npm, which
// are not changed: their client pays our server, our client pays theirs, over our
// own embedded ledger and on a chain, there by our facilitator and by theirs.
package interop

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/facilitatortest"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/interop/peertest"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/embedded"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/resource"
	"github.com/depinsim/x402/channel/x402"
)

// wealth is what a market's payer begins with.
const wealth = 10_000_000

// A market is money, on a ledger or a chain, a payer who has some, and a seller.
type market struct {
	params        ledger.Params
	ledger        server.Ledger
	fac           *facilitator.Client // ours, which everything is looked at by
	url           string              // of the facilitator that servers are paid through
	rpc           string              // where clients look at the chain
	known         bool                // their client pays in this asset without being told of it
	many          int                 // requests of a long purchase
	payer, seller *channel.Key
	payTo         channel.Address
}

// newMarket returns a market on a ledger, with our facilitator.
func newMarket(t *testing.T, l server.Ledger) *market {
	t.Helper()
	s, err := server.New(server.Config{Ledger: l, Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	m := &market{
		params: l.Params(), ledger: l, url: web.URL, rpc: web.URL + "/rpc", many: 400,
		payer: newKey(t), seller: newKey(t), payTo: newKey(t).Address(),
	}
	m.fac = dial(t, web.URL)
	return m
}

func dial(t *testing.T, url string) *facilitator.Client {
	t.Helper()
	c, err := nethttp.New(nethttp.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// onLedger returns a market on an embedded ledger.
func onLedger(t *testing.T, _ *peertest.Peer) *market {
	t.Helper()
	l, err := embedded.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	m := newMarket(t, l)
	if _, err := m.fac.Faucet(t.Context(), x402.FaucetRequest{Address: m.payer.Address(), Amount: wealth}); err != nil {
		t.Fatal(err)
	}
	return m
}

// onChain returns a market on a chain.
func onChain(t *testing.T, _ *peertest.Peer) *market {
	t.Helper()
	m, _ := newChain(t)
	return m
}

func newChain(t *testing.T) (*market, *evmtest.Chain) {
	t.Helper()
	chain := evmtest.Anvil(t, evmtest.Config{})
	m := newMarket(t, facilitatortest.OnChain(t, chain, nil))
	m.rpc, m.known = chain.URL, true
	chain.Mint(m.payer.Address(), wealth)
	return m, chain
}

// onTheirs returns a market on a chain whose servers are paid through their
// facilitator; it makes a transaction of each claim and settlement.
func onTheirs(t *testing.T, p *peertest.Peer) *market {
	t.Helper()
	m, chain := newChain(t)
	m.url, m.many = p.Facilitate(t, chain), 40
	return m
}

func newKey(t *testing.T) *channel.Key {
	t.Helper()
	k, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// network is the ledger's name, and asset what is paid in.
func (m *market) network() string { return m.params.Network() }
func (m *market) asset() string   { return m.params.Token.String() }

// A shop is our server with some routes.
type shop struct {
	*resource.Server
	url    string
	store  *bolt.Store
	served map[string]int
}

// open opens our server on a store at path. It is closed with the test, or
// before.
func (m *market) open(t *testing.T, path string) (*shop, func()) {
	t.Helper()
	store, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := resource.New(resource.Config{
		Key: m.seller, PayTo: m.payTo, Token: m.params.Asset(), Store: store, Facilitator: dial(t, m.url), MinDeposit: 50_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	out := &shop{Server: s, store: store, served: map[string]int{}}
	mux := http.NewServeMux()
	serve := func(pattern string, route resource.Route, charge func(n int) channel.Amount) {
		h, err := s.Handler(route, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out.served[pattern]++
			if charge != nil {
				if err := resource.Charge(r.Context(), charge(out.served[pattern])); err != nil {
					t.Error(err)
				}
			}
			fmt.Fprintf(w, "answer %d", out.served[pattern])
		}))
		if err != nil {
			t.Fatal(err)
		}
		mux.Handle(pattern, h)
	}
	batch, exact := []string{x402.SchemeBatch}, []string{x402.SchemeExact}
	serve("/metered", resource.Route{Price: 100, Schemes: batch, Description: "costs up to 100"}, func(n int) channel.Amount {
		if n%2 == 0 {
			return 70
		}
		return 100
	})
	serve("/fixed", resource.Route{Price: 100, Schemes: batch}, nil)
	serve("/dear", resource.Route{Price: 5_000, Schemes: batch}, func(int) channel.Amount { return 1 })
	serve("/costly", resource.Route{Price: 1_000_001, Schemes: batch}, nil)
	serve("/once", resource.Route{Price: 100, Schemes: exact, Discovery: &resource.Discovery{
		Query: map[string]string{"city": "Bern"}, OutputType: "json", Output: []byte(`{"weather":"fog"}`),
	}}, nil)
	web := httptest.NewServer(mux)
	out.url = web.URL
	closed := false
	end := func() {
		if !closed {
			closed = true
			web.Close()
			store.Close()
		}
	}
	t.Cleanup(end)
	return out, end
}

// balances are what the ledger says of the payer, and of the seller's account.
func (m *market) balances(t *testing.T) (payer, seller channel.Amount) {
	t.Helper()
	ask := func(a channel.Address) channel.Amount {
		info, err := m.fac.Balance(context.Background(), m.network(), a)
		if err != nil {
			t.Fatal(err)
		}
		return info.Balance
	}
	return ask(m.payer.Address()), ask(m.payTo)
}

// audit has the ledger recompute its books.
func (m *market) audit(t *testing.T) {
	t.Helper()
	if _, err := m.ledger.Audit(t.Context()); err != nil {
		t.Error(err)
	}
}
