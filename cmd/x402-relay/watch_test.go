package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
)

// A killer is a facilitator that kills the relay when it claims: the first time
// before the claim is booked, the second time behind that and before the answer.
type killer struct {
	inner  http.Handler
	victim atomic.Pointer[os.Process]
	killed chan struct{}
	claims atomic.Int64
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int64(0)
	if r.URL.Path == "/settle" {
		n = k.claims.Add(1)
	}
	if n == 2 {
		k.inner.ServeHTTP(httptest.NewRecorder(), r)
	}
	if n == 1 || n == 2 {
		_ = k.victim.Load().Signal(syscall.SIGKILL)
		k.killed <- struct{}{}
		panic(http.ErrAbortHandler)
	}
	k.inner.ServeHTTP(w, r)
}

// TestKilledWatch kills a relay that keeps a claim, behind its answer, before the
// claim is booked, and after that: it is booked, and once.
func TestKilledWatch(t *testing.T) {
	params := ledger.Params{ChainID: 1<<41 + 11, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
	l := ledger.NewMemory(params)
	k := &killer{inner: must(server.New(server.Config{Ledger: l})), killed: make(chan struct{}, 2)}
	hs := httptest.NewServer(k)
	t.Cleanup(hs.Close)
	party := ledgertest.NewParty(t, params, 1)
	submit := func(op ledger.Op) {
		t.Helper()
		must(l.Submit(t.Context(), ledger.Tx{Time: uint64(time.Now().Unix()), Op: op}))
	}
	submit(party.Issue(1_000))
	submit(party.DepositOp(t, 1_000))
	p := &relayProcess{t: t, dir: t.TempDir()}
	config := "listen = '127.0.0.1:0'\n[watch]\nfacilitators = ['" + hs.URL + "']\nstate_dir = 'watch'\nevery = '1s'\n[metrics]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'error'\n"
	if err := os.WriteFile(filepath.Join(p.dir, "relay.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() {
		p.start()
		k.victim.Store(p.cmd.Process)
	}
	start()
	handIn(p, party, 700)
	p.kill()

	submit(party.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
	claimed := func() channel.Amount {
		return must(l.Read(t.Context(), ledger.Touch{Channels: []channel.ID{party.ID}})).Channels[party.ID].Claimed
	}
	for _, want := range []channel.Amount{0, 700} {
		start()
		select {
		case <-k.killed:
		case <-time.After(patience):
			t.Fatal("it never claimed")
		}
		p.kill()
		if got := claimed(); got != want {
			t.Errorf("claimed are %d, want %d", got, want)
		}
	}
	before := must(l.Read(t.Context(), ledger.Touch{})).Totals.Height
	start()
	p.until("for the relay to see that it is claimed", func() bool {
		text := p.metrics()
		return strings.Contains(text, "x402_relay_watch_looks_total 1\n") && strings.Contains(text, "x402_relay_watch_channels 0\n")
	})
	p.kill()
	if got := must(l.Read(t.Context(), ledger.Touch{})).Totals.Height; got != before || k.claims.Load() != 2 {
		t.Errorf("%d claims, and %d transactions after them", k.claims.Load(), got-before)
	}
}

// metrics is what the relay tells Prometheus.
func (p *relayProcess) metrics() string {
	p.t.Helper()
	var r readiness
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(p.dir, "ready"))), &r); err != nil {
		p.t.Fatal(err)
	}
	res := must(http.Get("http://" + r.Metrics + "/metrics"))
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body)))
}

// handIn hands a claim of the party's channel in as its agent, and returns when the
// relay has answered that it keeps it.
func handIn(p *relayProcess, party *ledgertest.Party, total channel.Amount) {
	p.t.Helper()
	told := make(chan agent.Watched, 8)
	a := must(relay.DialTCP(p.t.Context(), must(net.Dial("tcp", p.name.Address())), relay.AgentConfig{
		Name: p.name, Agent: relay.Address(party.Receiver.Address()),
		Sign: func(e [32]byte) (relay.Signature, error) {
			return relay.Signature(party.Receiver.Sign(agent.RelayDigest(e))), nil
		},
		Session: func(relay.Allotment) {},
		Watch:   func(text []byte) { told <- must(agent.ParseWatched(text)) },
	}))
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = a.Run(ctx) })
	claim := must(json.Marshal(agent.HandedClaim{Network: party.Params.Network(), Claim: party.Claim(total, total)}))
	for end := time.After(patience); ; {
		select {
		case said := <-told:
			switch {
			case said.Networks != nil:
				if err := a.Watch(ctx, claim); err != nil {
					p.t.Fatal(err)
				}
			case said.Channel == party.ID && said.Amount == total:
				return
			default:
				p.t.Fatalf("%+v", said)
			}
		case <-end:
			p.t.Fatal("it is not kept")
		}
	}
}
