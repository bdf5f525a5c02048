package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/server"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

func testParams() ledger.Params {
	return ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1, 2, 3}, Name: "USDC", Version: "2", FeeDivisor: ledger.FeeDivisor}
}

// A world is a ledger with a facilitator, and a watch that asks it. Nothing goes by
// a network, so that time may be simulated.
type world struct {
	t      testing.TB
	dir    string
	ledger *ledger.Memory
	server *server.Server
	w      *Watch

	mu      sync.Mutex
	fault   func(method, path string) *facilitator.Answer // nil: the facilitator answers itself
	asked   []string                                      // methods and paths
	present map[[20]byte]bool
	told    []agent.Watched
}

func newWorld(t testing.TB) *world {
	t.Helper()
	l := ledger.NewMemory(testParams())
	s, err := server.New(server.Config{Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), ledger: l, server: s, present: map[[20]byte]bool{}}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.w, err = Open(Config{
		Facilitators: []string{"http://facilitator"}, StateDir: w.dir,
		Dial: func(url string) (Facilitator, error) { return facilitator.New(url, w) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// run runs the watch until the function that it returns is called, which closes it.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.w.Run(ctx, w); err != nil {
			w.t.Error(err)
		}
	})
	return func() {
		cancel()
		wg.Wait()
		if err := w.w.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

// Exchange is the facilitator's transport.
func (w *world) Exchange(_ context.Context, method, url string, body []byte) (facilitator.Answer, error) {
	path := strings.TrimPrefix(url, "http://facilitator")
	w.mu.Lock()
	w.asked = append(w.asked, method+" "+path)
	fault := w.fault
	w.mu.Unlock()
	if fault != nil {
		a := fault(method, path)
		if a == nil {
			return facilitator.Answer{}, errors.New("down")
		}
		if a.Status != 0 {
			return *a, nil
		}
	}
	r := httptest.NewRecorder()
	w.server.ServeHTTP(r, httptest.NewRequest(method, path, bytes.NewReader(body)))
	return facilitator.Answer{Status: r.Code, Body: r.Body.Bytes()}, nil
}

func (w *world) breaks(fault func(method, path string) *facilitator.Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = fault
}

// count is how often something was asked whose method and path begin so.
func (w *world) count(prefix string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.asked {
		if strings.HasPrefix(a, prefix) {
			n++
		}
	}
	return n
}

func (w *world) Connected(who [20]byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.present[who]
}

func (w *world) Tell(who [20]byte, text []byte) bool {
	said, err := agent.ParseWatched(text)
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.present[who] {
		w.told = append(w.told, said)
	}
	return w.present[who]
}

func (w *world) GreetAll() {
	text := w.w.Greeting([20]byte{1})
	if text == nil {
		return // the facilitator has no network
	}
	if said := w.said(text); len(said.Networks) != 1 || said.Networks[0] != w.ledger.Params().Network() || said.Kept != 0 {
		w.t.Errorf("all are told %s", text)
	}
}

func (w *world) connect(p *ledgertest.Party, present bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.present[p.Receiver.Address()] = present
}

// party returns one with so much in its channel.
func (w *world) party(n int, deposit channel.Amount) *ledgertest.Party {
	w.t.Helper()
	p := ledgertest.NewParty(w.t, w.ledger.Params(), n)
	if deposit > 0 {
		w.submit(p.Issue(10 * deposit))
		w.submit(p.DepositOp(w.t, deposit))
	}
	return p
}

func (w *world) submit(op ledger.Op) {
	w.t.Helper()
	if _, err := w.ledger.Submit(w.t.Context(), ledger.Tx{Time: uint64(time.Now().Unix()), Op: op}); err != nil {
		w.t.Fatalf("%T: %v", op, err)
	}
}

func (w *world) channel(p *ledgertest.Party) ledger.Channel {
	w.t.Helper()
	s, err := w.ledger.Read(w.t.Context(), ledger.Touch{Channels: []channel.ID{p.ID}})
	if err != nil {
		w.t.Fatal(err)
	}
	return s.Channels[p.ID]
}

func home() netip.Addr { return netip.MustParseAddr("192.0.2.1") }

func handed(p *ledgertest.Party, max, total channel.Amount) []byte {
	b, err := json.Marshal(agent.HandedClaim{Network: p.Params.Network(), Claim: p.Claim(max, total)})
	if err != nil {
		panic(err)
	}
	return b
}

// take hands a claim in as the party's agent.
func (w *world) take(p *ledgertest.Party, max, total channel.Amount) agent.Watched {
	w.t.Helper()
	return w.said(w.w.Take(p.Receiver.Address(), home(), handed(p, max, total)))
}

func (w *world) said(text []byte) agent.Watched {
	w.t.Helper()
	said, err := agent.ParseWatched(text)
	if err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	return said
}

func (w *world) taken(p *ledgertest.Party, max, total channel.Amount) {
	w.t.Helper()
	if said := w.take(p, max, total); said.Channel != p.ID || said.Amount != total || said.Error != "" {
		w.t.Fatalf("%+v", said)
	}
}

// after lets time go by until all is at rest.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// simulated runs a test of a watch that runs, in simulated time.
func simulated(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stop := w.run()
		synctest.Wait()
		f(w)
		stop()
	})
}
