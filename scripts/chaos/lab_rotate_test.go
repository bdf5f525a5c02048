package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/scripts/netlab"
)

// rotating is a stage whose agent has a modem that gives its address back. The
// carrier gives another one if it says so.
func rotating(t *testing.T, other bool, more string) *stage {
	t.Helper()
	var at atomic.Pointer[stage] // the modem is there first
	c := modemtest.Config{Attach: 300 * time.Millisecond, Sticky: -1}
	if other {
		c.Sticky = 0
		c.Leased = func() {
			if s := at.Load(); s != nil {
				if _, err := s.w.AgentRouter.Lease(s.ctx); err != nil {
					t.Error(err)
				}
			}
		}
	}
	_, tty := onTerminal(t, c)
	s := newStage(t, casting{
		time: time.Duration(rotations()) * 10 * time.Second, relays: 1, rate: 12e6, buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric,
		sims: fmt.Sprintf("[modem]\nport = %q\n[rotate]\nhold = \"1s\"\ntries = 2\n%s", tty, more),
	})
	at.Store(s)
	return s
}

// rotate runs the command in the agent's network.
func (s *stage) rotate() (r seller.Rotation, err error) {
	s.t.Helper()
	cmd := s.w.Agent.Command(s.ctx, filepath.Join(os.Getenv(binVar), "x402-agent"), "rotate", "--json", "--config", "agent.toml")
	cmd.Dir = s.dir
	out, err := cmd.Output()
	if jerr := json.Unmarshal(out, &r); jerr != nil {
		s.t.Fatalf("rotate: %v: %s\n%s", err, out, s.hub.tails())
	}
	return r, err
}

// rotations is how many the test asks for.
func rotations() int {
	if os.Getenv("X402_SOAK") != "" {
		return 100
	}
	return 5
}

// TestLabRotate: the address changes as often as it is asked for, each time it is
// the one that the world sees, and the buyer stays on one session.
func TestLabRotate(t *testing.T) {
	s := rotating(t, true, "")
	book := s.openGuestBook()
	s.startBuyer("--transport", "quic")
	again := s.hub.line(s.buyer.name, "msg=connected session=2")
	times := rotations()
	var slowest time.Duration
	for i := range times {
		old := s.w.AgentRouter.Outside()
		before, err := s.guest(book, socksAddr)
		s.must(err)
		if from, err := before.from(); err != nil || from != old.String() {
			t.Fatalf("before rotation %d: from %s, %v, want %s", i, from, err, old)
		}
		r, err := s.rotate()
		if now := s.w.AgentRouter.Outside(); err != nil || !r.Changed || r.Old != old || r.New != now || now == old {
			t.Fatalf("rotation %d, from %s to %s: %+v, %v\n%s", i, old, now, r, err, s.hub.tails())
		}
		slowest = max(slowest, time.Duration(r.Took)*time.Millisecond)
		if from, err := before.from(); err == nil {
			t.Errorf("a flow from before rotation %d goes on from %s", i, from)
		}
		after, err := s.guest(book, socksAddr)
		s.must(err)
		if from, err := after.from(); err != nil || from != r.New.String() {
			t.Fatalf("after rotation %d: from %s, %v, want %s\n%s", i, from, err, r.New, s.hub.tails())
		}
	}
	t.Logf("%d of %d rotations, the slowest in %v", times, times, slowest)
	if s.hub.saw(again) {
		t.Errorf("there was a second session\n%s", s.hub.tails())
	}
	s.finish()
}

// TestLabRotateInVain: a carrier that gives the same address is found out, and
// what was going on goes on.
func TestLabRotateInVain(t *testing.T) {
	s := rotating(t, false, "")
	book := s.openGuestBook()
	s.startBuyer("--transport", "quic")
	flow, err := s.guest(book, socksAddr)
	s.must(err)
	at := s.w.AgentRouter.Outside()
	r, err := s.rotate()
	if err == nil || r.Changed || r.Tries != 2 || r.Old != at || r.New != at || r.Error != "the carrier gave the same address again" {
		t.Errorf("%+v, %v\n%s", r, err, s.hub.tails())
	}
	if from, err := flow.from(); err != nil || from != at.String() {
		t.Errorf("the flow: from %s, %v", from, err)
	}
	s.finish()
}

// TestLabRotateBought: a buyer has the address changed and pays for it once; what
// came of it in vain costs nothing.
func TestLabRotateBought(t *testing.T) {
	const price = 20_000 // atomic units
	for name, other := range map[string]bool{"changed": true, "in vain": false} {
		t.Run(name, func(t *testing.T) {
			s := rotating(t, other, "price = \"0.02\"\nbetween = \"1h\"\n")
			book := s.openGuestBook()
			answer := s.hub.line(s.buyer.name, "msg=\"the address was not changed\"")
			if other {
				answer = s.hub.line(s.buyer.name, "msg=\"the agent has another address\"")
			}
			s.startBuyer("--transport", "quic", "--rotate-every", "5s", "--rotate-price", "0.05")
			before := s.w.AgentRouter.Outside()
			s.within(time.Minute, "the buyer hears of a rotation", answer)
			after := s.w.AgentRouter.Outside()
			if (before != after) != other {
				t.Errorf("from %s to %s", before, after)
			}
			flow, err := s.guest(book, socksAddr)
			s.must(err)
			if from, err := flow.from(); err != nil || from != after.String() {
				t.Errorf("from %s, %v, want %s", from, err, after)
			}
			// A second one is not to be had so soon, and not charged.
			s.within(2*time.Minute, "the second is refused", s.hub.line(s.buyer.name, "the address was asked for a moment ago"))
			s.buyer.stop(s.ctx, t)
			r, e := s.result, s.earnings()
			if r == nil || r.Error != "" || len(e.Channels) != 1 {
				t.Fatalf("%+v, %+v\n%s", r, e, s.hub.tails())
			}
			traffic := r.Owed
			if other {
				traffic -= price
			}
			least := cost(r.Up + r.Down)
			if traffic < least || traffic > least+1 || e.Channels[0].Owed != r.Owed || r.Claimed != r.Owed || e.Channels[0].Claimed != r.Owed {
				t.Errorf("up %d, down %d: owed %d and %d, claimed %d, signed %d", r.Up, r.Down, r.Owed, e.Channels[0].Owed, r.Claimed, r.Signed)
			}
			s.agent.stop(s.ctx, t)
			s.bank.stop(s.ctx, t)
			s.command(s.w.WAN, "x402-facilitator", "audit", "--dir", "ledger")
		})
	}
}
