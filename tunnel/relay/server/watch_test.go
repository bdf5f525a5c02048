package server

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
)

// A fakeWatch says back what it is handed.
type fakeWatch struct {
	greeting []byte

	mu   sync.Mutex
	from map[relay.Address]netip.Addr
}

func (w *fakeWatch) Greeting([20]byte) []byte { return w.greeting }

func (w *fakeWatch) Take(agent [20]byte, from netip.Addr, text []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.from[agent] = from
	return text
}

// watching brings an agent to a relay and returns it with what it is told.
func watching(t *testing.T, r *rig, n byte) (*relay.Agent, chan string) {
	t.Helper()
	told := make(chan string, 256)
	c := r.config(testAgent(n), make(chan relay.Allotment, 1))
	c.Watch = func(text []byte) { told <- string(text) }
	a, err := relay.DialQUIC(t.Context(), newParty(t, path.Config{}).transport, r.addr(), c)
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, a)
	return a, told
}

func hears(t *testing.T, told chan string, want string) {
	t.Helper()
	select {
	case got := <-told:
		if got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	case <-time.After(hang):
		t.Fatalf("never told %s", want)
	}
}

// TestWatch: agents are told what is kept, hand in, and are answered and told more,
// each what is his.
func TestWatch(t *testing.T) {
	w := &fakeWatch{greeting: []byte(`{"networks":[]}`), from: map[relay.Address]netip.Addr{}}
	r := startRelay(t, func(c *Config) { c.Watch = w })
	a, told := watching(t, r, 1)
	hears(t, told, `{"networks":[]}`)
	if err := a.Watch(t.Context(), []byte(`{"claim":1}`)); err != nil {
		t.Fatal(err)
	}
	hears(t, told, `{"claim":1}`)
	w.mu.Lock()
	if w.from[testAgent(1)] != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("from %v", w.from)
	}
	w.mu.Unlock()
	_, other := watching(t, r, 2)
	hears(t, other, `{"networks":[]}`)
	if !r.Connected(testAgent(1)) || !r.Tell(testAgent(1), []byte(`1`)) || r.Connected(testAgent(3)) || r.Tell(testAgent(3), []byte(`2`)) {
		t.Error("who is there and who is not")
	}
	hears(t, told, `1`)
	r.GreetAll()
	hears(t, told, `{"networks":[]}`)
	hears(t, other, `{"networks":[]}`)
}

// TestWatchRate: what an agent hands in beyond the rate is not looked at, and its
// connection goes on. Nor does one end at a relay that keeps nothing.
func TestWatchRate(t *testing.T) {
	w := &fakeWatch{from: map[relay.Address]netip.Addr{}}
	watched, plain := startRelay(t, func(c *Config) { c.Watch = w }), startRelay(t, nil)
	a, told := watching(t, watched, 1)
	b, never := watching(t, plain, 1)
	for range 2 * claimRate().N {
		if a.Watch(t.Context(), []byte(`7`)) != nil || b.Watch(t.Context(), []byte(`7`)) != nil {
			t.Fatal("the connection has ended")
		}
	}
	if err := a.Publish(t.Context(), []byte(`"later"`)); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), []byte(`"later"`)); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*rig{watched, plain} {
		r.dir.until(t, "the offer behind all that", func() bool { return r.dir.offers[testAgent(1)] == `"later"` })
	}
	for _, r := range []*rig{watched, plain} {
		tick, deadline := time.NewTicker(time.Millisecond), time.After(hang)
		defer tick.Stop()
		for !r.Tell(testAgent(1), []byte(`"end"`)) { // too much may wait for the agent
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal("not told")
			}
		}
	}
	n := 0
	for text := ""; text != `"end"`; n++ {
		select {
		case text = <-told:
		case <-time.After(hang):
			t.Fatal("the end never came")
		}
	}
	if n--; n < claimRate().N/4 || n > claimRate().N+2 {
		t.Errorf("%d answers", n)
	}
	hears(t, never, `"end"`)
}
