package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel/interop/peertest"
	"github.com/depinsim/x402/channel/x402"
)

// TestStockClient: the x402 client on npm, which is not changed, buys credit by
// both schemes, and curl uses it. The relay is behind a web server, as it has no
// certificate here that the client believes.
func TestStockClient(t *testing.T) {
	p := peertest.Start(t)
	r := newRig(t, nil)
	r.sell("one", "de", agentPrice)
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(q *httputil.ProxyRequest) {
			q.SetURL(&url.URL{Scheme: "https", Host: r.name.Address()})
		},
		Transport: r.https().Transport,
	})
	t.Cleanup(front.Close)
	for _, scheme := range []string{x402.SchemeExact, x402.SchemeBatch} {
		t.Run(scheme, func(t *testing.T) {
			p.Must(t, "client", peertest.Object{
				"name": scheme, "scheme": scheme, "key": peertest.Key(r.buyer), "network": r.params.Network(),
				"spendControls": peertest.Object{"allowedAssets": []peertest.Object{{"network": r.params.Network(), "asset": r.params.Token.String()}}},
			}, nil)
			before := r.balance(r.buyer)
			var got struct {
				Status  int
				Body    string
				Settled *x402.SettlementResponse
			}
			p.Must(t, "post", peertest.Object{"name": scheme, "url": front.URL + gateway.CreditPath, "body": peertest.Object{"bytes": 100_000_000, "country": "de"}}, &got)
			var c gateway.Credit
			if err := json.Unmarshal([]byte(got.Body), &c); err != nil || got.Status != http.StatusOK || got.Settled == nil || !got.Settled.Success {
				t.Fatalf("%+v, %v", got, err)
			}
			const price = agentPrice * 11 / 10 / 10
			if c.Paid != price || c.BytesLeft != 100_000_000 || r.balance(r.buyer) > before-price {
				t.Errorf("%+v for %d", c, before-r.balance(r.buyer))
			}
			if out, complaint, code := r.curl(c.Proxies[0], r.page("2000000")); len(out) != 2_000_000 || code != 0 {
				t.Errorf("%d bytes, %d: %s", len(out), code, complaint)
			}
		})
	}
}
