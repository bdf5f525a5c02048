package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
)

// through is a client that goes through a customer's proxy, a connection for each
// request.
func (r *rig) through(c gateway.Credit) *http.Client {
	r.t.Helper()
	via := must(url.Parse(at("http", r.plain, c, "")))
	return &http.Client{Timeout: 2 * patience, Transport: &http.Transport{Proxy: http.ProxyURL(via), DisableKeepAlives: true}}
}

// metric is one of the gateway's figures.
func (r *rig) metric(name string) float64 {
	r.t.Helper()
	resp, err := http.Get("http://" + r.metrics.String() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	for line := range strings.Lines(string(must(io.ReadAll(resp.Body)))) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			must(fmt.Sscan(rest, &v))
			return v
		}
	}
	r.t.Fatalf("there is no %s", name)
	return 0
}

// TestDrained: customers open flows, read a part of what comes, and go, while exits
// are closed and opened again beside them. In the end the gateway has paid for what
// its customers were billed, to the byte.
func TestDrained(t *testing.T) {
	t.Parallel()
	const (
		price = 100_000_000 // a unit for 10 bytes
		whole = 16 << 20
		slack = 10 // units: each session rounds up once
	)
	r := newRig(t, func(c *gateway.Config) { c.Idle, c.Deposit, c.FeePercent = 400*time.Millisecond, 2_000_000, 0 })
	r.sell("one", "", price)
	customers := make([]gateway.Credit, 3)
	for i := range customers {
		customers[i] = r.give(func(g *gateway.Gift) { g.Amount, g.Price = 10_000_000, price })
	}
	const rounds, flows = 3, 12
	for round := range rounds {
		var wg sync.WaitGroup
		for i := range flows {
			size := []int{1, 5_000, 70_000, 400_000, whole, whole}[i%6]
			most := min(size, rand.IntN(300_000))
			pause := i%6 == 5
			c := customers[i%len(customers)]
			wg.Go(func() {
				client := r.through(c)
				defer client.CloseIdleConnections()
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				resp, err := client.Do(must(http.NewRequestWithContext(ctx, http.MethodGet, r.page(fmt.Sprint(size)), nil)))
				if err != nil {
					t.Errorf("round %d, flow %d: %v", round, i, err)
					return
				}
				if size < whole {
					_, _ = io.Copy(io.Discard, resp.Body)
				} else if n, err := io.CopyN(io.Discard, resp.Body, int64(most)); err != nil {
					t.Errorf("round %d, flow %d: %d bytes: %v", round, i, n, err)
				}
				if pause {
					leave() // at once
				}
				resp.Body.Close()
			})
		}
		wg.Wait()
		if round < rounds-1 { // the last is waited for below
			r.until("for the exit to close", func() bool { return r.metric("x402_gateway_exits") == 0 })
		}
	}
	var up, down uint64
	billed := func() channel.Amount {
		up, down = 0, 0
		for _, c := range customers {
			now, _ := r.api(http.MethodGet, c, "")
			up, down = up+now.Up, down+now.Down
		}
		return channel.Amount((up + down) * price / 1_000_000_000)
	}
	var was, spent channel.Amount
	defer func() { t.Logf("billed %d bytes up and %d down: %d units; spent %d", up, down, was, spent) }()
	r.until("for both accounts to be the same", func() bool {
		was, spent = billed(), wealth-r.balance(r.wallet)
		return spent <= was+slack && was <= spent+slack && r.metric("x402_gateway_purchases_open") == 0
	})
	if got := r.metric(`x402_gateway_bytes_total{direction="down"}`); got != float64(down) {
		t.Errorf("the metrics have %.0f bytes down, the accounts %d", got, down)
	}
}

// TestStopVanished: an agent vanishes under a download, and the gateway is stopped.
// It does not wait for the agent, which is paid at the next start, for all that the
// customer was billed.
func TestStopVanished(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gateway.Config) { c.Idle = time.Hour })
	r.sell("one", "", agentPrice)
	c := r.give(nil)
	client := r.through(c)
	defer client.CloseIdleConnections()
	resp, err := client.Get(r.page("100000000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 2<<20); err != nil {
		t.Fatal(err)
	}
	r.gone["one"].Store(true)
	began := time.Now()
	r.relay.stop(t)
	if took := time.Since(began); took > 30*time.Second { // 4 s, on a machine that does nothing else; it was 80
		t.Errorf("stopping took %v", took)
	}
	resp.Body.Close()
	r.gone["one"].Store(false)
	r.start()
	r.until("for the agent to be paid", func() bool { return r.metric("x402_gateway_purchases_open") == 0 })
	used, _ := r.api(http.MethodGet, c, "")
	if used.Down < 2<<20 {
		t.Errorf("%+v", used)
	}
	r.relay.stop(t)
	r.cfg.Gateway.Gateway.Idle = 200 * time.Millisecond
	r.start()
	r.until("for the agent to come back", func() bool { return r.offers(false) == 1 })
	if out, complaint, code := r.curl(c.Proxies[1], r.page("1000")); len(out) != 1_000 || code != 0 {
		t.Fatalf("%d bytes: %s", len(out), complaint)
	}
	var owed channel.Amount
	r.until("for the deposit", func() bool {
		used, _ = r.api(http.MethodGet, c, "")
		owed = channel.Amount((used.Up+used.Down)*agentPrice/1_000_000_000 + 1)
		return r.balance(r.wallet) > wealth-owed-4
	})
	if now := r.balance(r.wallet); now > wealth-owed+4 {
		t.Errorf("the wallet has %d, and owed are %d", now, owed)
	}
}

// TestMetrics: what is sold, spent, refused and given back is in the relay's
// metrics, and nobody's name.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	s := r.shopper()
	c, _ := s.buy(`{"bytes":100000000}`, nil)
	if _, status := s.buy(`{"bytes":50000000}`, &c); status != 200 {
		t.Fatal(status)
	}
	if out, complaint, code := r.curl(c.Proxies[0], r.page("1000")); len(out) != 1_000 || code != 0 {
		t.Fatalf("%d bytes: %s", len(out), complaint)
	}
	wrong := c
	wrong.Password = "x"
	r.api(http.MethodGet, wrong, "")
	r.curl(at("https", r.secure, c, "-country-us"), r.page("10"))
	const paid = 660_000
	before := r.balance(r.buyer)
	for name, want := range map[string]float64{
		`x402_gateway_sales_total{kind="new"}`: 1, `x402_gateway_sales_total{kind="more"}`: 1, "x402_gateway_sold_units_total": paid,
		`x402_gateway_refused_total{reason="login"}`: 1, `x402_gateway_refused_total{reason="exit"}`: 1, `x402_gateway_refused_total{reason="funds"}`: 0,
		"x402_gateway_exits": 1, "x402_gateway_flows": 0, "x402_gateway_credits": 1, "x402_gateway_refunds_total": 0, "x402_gateway_payments_open": 0,
		"x402_gateway_exits_opened_total": 1,
	} {
		if got := r.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if left := r.metric("x402_gateway_unspent_units"); left >= paid || left < paid-100 {
		t.Errorf("%v units are left", left)
	}
	closed, _ := r.api(http.MethodDelete, c, "")
	if got := r.metric("x402_gateway_refunded_units_total"); got != float64(closed.Refunded) || r.balance(r.buyer) != before+closed.Refunded {
		t.Errorf("%v units came back, %+v", got, closed)
	}
	resp := must(http.Get("http://" + r.metrics.String() + "/metrics"))
	defer resp.Body.Close()
	text := bytes.ToLower(must(io.ReadAll(resp.Body)))
	for _, secret := range []string{c.User, c.Password, c.Payer, "site.test", "127.0.0"} {
		if bytes.Contains(text, bytes.ToLower([]byte(secret))) {
			t.Errorf("the metrics have %s", secret)
		}
	}
}
