package buyer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel"
)

// A course is where races are run by ways that only take time.
type course struct {
	began time.Time

	mu     sync.Mutex
	starts []string // of tries, and when
	closed []string // connections
	ended  []string // and what comes after them
}

func (c *course) log(list *[]string, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*list = append(*list, text)
}

type fakeConn struct {
	tunnel.ClientConn // nil: nothing else is called
	closed            func()
}

func (f fakeConn) Close(tunnel.Reason, string) error { f.closed(); return nil }

// A runner is a try that connects after a time, or fails.
type runner struct {
	name         string
	after, takes time.Duration
	err          error
	deaf         bool // it connects even if it was told that it has lost
}

func (c *course) try(r runner) try {
	return try{QUIC, r.name, r.after, func(ctx context.Context) (*link, error) {
		c.log(&c.starts, fmt.Sprint(r.name, " ", time.Since(c.began)))
		done := ctx.Done()
		if r.deaf {
			done = nil
		}
		select {
		case <-time.After(r.takes):
		case <-done:
			return nil, ctx.Err()
		}
		if r.err != nil {
			return nil, r.err
		}
		return &link{
			ClientConn: fakeConn{closed: func() { c.log(&c.closed, r.name) }}, by: r.name,
			ends: []func(){func() { c.log(&c.ended, r.name) }},
		}, nil
	}}
}

const (
	ms    = time.Millisecond
	never = time.Hour
)

var errNo = errors.New("no")

func TestRace(t *testing.T) {
	for name, tt := range map[string]struct {
		runners []runner
		wins    string
		takes   time.Duration
		starts  []string
		closed  []string
		err     string
	}{
		"head start": {
			runners: []runner{{name: "tls", after: 400 * ms, takes: 10 * ms}, {name: "quic", takes: 300 * ms}},
			wins:    "quic", takes: 300 * ms, starts: []string{"quic 0s"},
		},
		"fallback": {
			runners: []runner{{name: "quic", takes: never}, {name: "tls", after: 400 * ms, takes: 100 * ms}},
			wins:    "tls", takes: 500 * ms, starts: []string{"quic 0s", "tls 400ms"},
		},
		"a slow first one still wins": {
			runners: []runner{{name: "quic", takes: 450 * ms}, {name: "tls", after: 400 * ms, takes: 100 * ms}},
			wins:    "quic", takes: 450 * ms, starts: []string{"quic 0s", "tls 400ms"},
		},
		"the loser's connection is closed": {
			runners: []runner{{name: "quic", takes: 500 * ms, deaf: true}, {name: "tls", after: 400 * ms, takes: 10 * ms}},
			wins:    "tls", takes: 500 * ms, starts: []string{"quic 0s", "tls 400ms"}, closed: []string{"quic"},
		},
		"in order, one for each that fails": {
			runners: []runner{
				{name: "a", takes: 50 * ms, err: errNo}, {name: "c", after: 300 * ms, takes: never},
				{name: "b", after: 250 * ms, takes: 50 * ms, err: errNo}, {name: "d", after: 600 * ms, takes: 10 * ms},
			},
			wins: "d", takes: 610 * ms, starts: []string{"a 0s", "b 50ms", "c 100ms", "d 600ms"},
		},
		"all fail": {
			runners: []runner{{name: "a", takes: 50 * ms, err: errNo}, {name: "b", after: 400 * ms, takes: 50 * ms, err: errors.New("neither")}},
			takes:   100 * ms, starts: []string{"a 0s", "b 50ms"}, err: "no; neither",
		},
		"one that fails lets another begin": {
			runners: []runner{{name: "a", takes: never}, {name: "b", after: 400 * ms, takes: 50 * ms, err: errNo}, {name: "c", after: never}},
			wins:    "c", takes: 450 * ms, starts: []string{"a 0s", "b 400ms", "c 450ms"},
		},
		"silence": {
			runners: []runner{{name: "a", takes: never}, {name: "b", after: 400 * ms, takes: never}},
			takes:   10 * time.Second, starts: []string{"a 0s", "b 400ms"}, err: "a does not answer by QUIC; b does not answer by QUIC",
		},
		"nothing to try": {err: "the offer names no way to the agent that may be used"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &course{began: time.Now()}
				var tries []try
				for _, r := range tt.runners {
					tries = append(tries, c.try(r))
				}
				ctx, cancel := context.WithTimeout(t.Context(), dialTime)
				defer cancel()
				l, err := race(ctx, tries)
				wins, said := "", ""
				if err != nil {
					said = err.Error()
				} else {
					wins = l.by
				}
				if wins != tt.wins || said != tt.err || time.Since(c.began) != tt.takes {
					t.Errorf("%q wins after %v, %q; want %q after %v, %q", wins, time.Since(c.began), said, tt.wins, tt.takes, tt.err)
				}
				if diff := cmp.Diff(tt.starts, c.starts); diff != "" {
					t.Error("begun:", diff)
				}
				if diff := cmp.Diff([2][]string{tt.closed, tt.closed}, [2][]string{c.closed, c.ended}); diff != "" {
					t.Error("closed and ended:", diff)
				}
			})
		})
	}
}

// memo is a memory of networks for tests, which knows one.
type memo struct {
	transport string
	noted     []string
}

func (m *memo) Transport(string) string { return m.transport }

func (m *memo) Remember(_, transport string) error {
	m.transport = transport
	m.noted = append(m.noted, transport)
	return nil
}

func TestTries(t *testing.T) {
	offer := agent.Offer{Endpoints: []string{"127.0.0.1:1", "127.0.0.1:2"}, Relays: []string{"127.0.0.1:3", "127.0.0.1:4"}}
	relayed := agent.Offer{Relays: offer.Relays}
	const at, behind = "the agent at 127.0.0.1", "the agent behind the relay 127.0.0.1"
	for name, tt := range map[string]struct {
		offer agent.Offer
		cfg   ReachConfig
		want  string
	}{
		"all": {offer, ReachConfig{}, "quic @1 0s, tls @1 400ms, quic @2 250ms, tls @2 650ms, " +
			"quic >3 300ms, tls >3 700ms, quic >4 600ms, tls >4 1s"},
		"relays only":          {relayed, ReachConfig{}, "quic >3 0s, tls >3 400ms, quic >4 300ms, tls >4 700ms"},
		"no direct":            {offer, ReachConfig{NoDirect: true}, "quic >3 0s, tls >3 400ms, quic >4 300ms, tls >4 700ms"},
		"forced QUIC":          {relayed, ReachConfig{Transport: QUIC}, "quic >3 0s, quic >4 300ms"},
		"forced TLS":           {offer, ReachConfig{Transport: TLS}, "tls @1 0s, tls @2 250ms, tls >3 300ms, tls >4 600ms"},
		"forced KCP":           {relayed, ReachConfig{Transport: KCP}, "kcp >3 0s, kcp >4 300ms"},
		"TLS remembered":       {relayed, ReachConfig{Networks: &memo{transport: TLS}}, "quic >3 0s, tls >3 0s, quic >4 300ms, tls >4 300ms"},
		"QUIC remembered":      {relayed, ReachConfig{Networks: &memo{transport: QUIC}}, "quic >3 0s, tls >3 400ms, quic >4 300ms, tls >4 700ms"},
		"forced, not remember": {relayed, ReachConfig{Transport: QUIC, Networks: &memo{transport: TLS}}, "quic >3 0s, quic >4 300ms"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := openReach(t.Context(), Config{Offer: tt.offer, Reach: tt.cfg, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer r.close()
			var got []string
			for _, x := range r.tries() {
				to := strings.NewReplacer(at+":", "@", behind+":", ">").Replace(x.to)
				got = append(got, fmt.Sprint(x.transport, " ", to, " ", x.after))
			}
			if diff := cmp.Diff(strings.Split(tt.want, ", "), got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := openReach(t.Context(), Config{Offer: agent.Offer{Endpoints: offer.Endpoints}, Reach: ReachConfig{NoDirect: true}}); err == nil {
		t.Error("an agent without a relay cannot be kept from seeing the address")
	}
}

// TestRemember is about what a dial notes: what got through, and only if it is
// news and nothing was forced.
func TestRemember(t *testing.T) {
	offer := agent.Offer{Endpoints: []string{"127.0.0.1:1"}}
	for name, tt := range map[string]struct {
		transport, known string
		want             []string
	}{
		"unknown": {"", "", []string{QUIC}},
		"same":    {"", QUIC, nil},
		"news":    {"", TLS, []string{QUIC}},
		"forced":  {QUIC, TLS, nil},
	} {
		m := &memo{transport: tt.known}
		cfg := Config{Offer: offer, Reach: ReachConfig{Transport: tt.transport, Networks: m}, Logger: slog.New(slog.DiscardHandler)}
		err := withReach(t.Context(), cfg, func(r *reach) error {
			win := func(context.Context) (*link, error) { return &link{transport: QUIC}, nil }
			_, err := r.dial(t.Context(), []try{{QUIC, "", 0, win}})
			return err
		})
		if diff := cmp.Diff(tt.want, m.noted); diff != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}
