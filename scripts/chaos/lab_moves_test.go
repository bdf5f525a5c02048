package chaos

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/scripts/netlab"
	"github.com/depinsim/x402/tunnel/relay"
	ask "github.com/depinsim/x402/tunnel/relay/market"
)

// found waits until somebody who asks a relay for the agent reaches it there,
// and returns how long that took.
func (s *stage) found(i int) time.Duration {
	s.t.Helper()
	began := time.Now()
	name, err := relay.ParseName(s.names[i])
	s.must(err)
	b, err := os.ReadFile(s.path("agent", "offer.json"))
	s.must(err)
	offer, err := agent.ParseOffer(b)
	s.must(err)
	client := ask.New(ask.Config{Name: name, Dial: s.w.WAN.DialContext})
	defer client.Close()
	for time.Since(began) < soon {
		told := s.hub.line(s.agent.name, `msg="a buyer comes" relay=`+s.relayAddr(i))
		_, err = client.Session(s.ctx, ask.Request{Agent: relay.Address(offer.Agent)})
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		ok := s.hub.reach(ctx, 0, func(h *hub) bool { return told(h) })
		cancel()
		if ok {
			return time.Since(began).Round(time.Millisecond)
		}
	}
	s.t.Fatalf("nobody finds the agent at %s: %v\n%s", name.Address(), err, s.hub.tails())
	return 0
}

// TestLabMobility: agent and buyer are given other public addresses while flows
// are in progress, which go on, in the same session.
func TestLabMobility(t *testing.T) {
	for nat, times := range map[netlab.NAT]int{netlab.Symmetric: 3, netlab.PortRestricted: 1} {
		t.Run(nat.String(), func(t *testing.T) {
			s := newStage(t, casting{buyerNAT: nat, agentNAT: nat, relays: 1, rate: 12e6, near: true})
			s.startBuyer("--transport", "quic")
			all := s.flows()
			again := s.hub.line(s.buyer.name, "msg=connected session=2")
			for range times {
				s.moves("agent", s.w.AgentRouter, all)
				t.Logf("the agent is found at the relay again %v later", s.found(0))
			}
			for range times {
				s.moves("buyer", s.w.BuyerRouter, all)
			}
			s.end(all)
			if s.hub.saw(again) {
				t.Errorf("there was a second session\n%s", s.hub.tails())
			}
			s.settle()
		})
	}
}

// moves gives a router another address, and waits until flows go on.
func (s *stage) moves(who string, r *netlab.Router, all []*flow) {
	s.t.Helper()
	s.rested(all)
	_, err := r.Lease(s.ctx)
	s.must(err)
	took := s.steady(soon, "flows go on after the "+who+" has moved", all)
	s.t.Logf("the %s has moved: flows went on after %v; %s", who, took, s.rested(all))
}

// rested is how long each flow had to wait for a byte at most since it was last
// asked.
func (s *stage) rested(all []*flow) (text string) {
	for _, f := range all {
		text += fmt.Sprintf(" %v without a byte %s", f.pulse.rest(), f.name)
	}
	return text
}

// TestLabRelayDies: the relay that is used dies, and flows go on by the other
// one. When it is back, the agent is there again.
func TestLabRelayDies(t *testing.T) {
	s := newStage(t, casting{buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric, relays: 2, rate: 12e6})
	by := [2]func(*hub) bool{}
	for i := range by {
		by[i] = s.hub.line(s.buyer.name, `msg=connected by="quic by relay `+s.relayAddr(i))
	}
	s.startBuyer("--transport", "quic")
	used := 0
	if s.hub.saw(by[1]) {
		used = 1
	}
	again := s.hub.line(s.buyer.name, "msg=connected session=2")
	all := s.flows()
	s.relays[used].kill()
	took := s.steady(10*time.Second, "flows go on by the other relay", all)
	t.Logf("flows went on %v after the relay died;%s", took, s.rested(all))
	known := s.hub.line(s.agent.name, `msg="known at the relay" relay=`+s.relayAddr(used))
	s.startRelay(used)
	t.Logf("the agent is known at the new relay after %v", s.within(time.Minute, "the agent is back", known))
	s.found(used)
	s.steady(soon, "flows go on", all)
	s.end(all)
	if s.hub.saw(again) {
		t.Errorf("there was a second session\n%s", s.hub.tails())
	}
	s.settle()
}

// TestLabAgentKilled: the agent is killed in the middle of transfers by the
// relay. The buyer comes back when the agent does, and both agree in the end.
func TestLabAgentKilled(t *testing.T) {
	s := newStage(t, casting{buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric, relays: 1, rate: 12e6})
	s.startBuyer("--transport", "quic")
	all := s.flows()
	s.steady(soon, "flows", all)
	again := s.hub.line(s.buyer.name, "msg=connected session=2")
	s.agent.kill()
	t.Logf("the agent is known at the relay %v after it was started again", s.startAgent())
	t.Logf("the buyer is back %v later", s.within(time.Minute, "the buyer comes back", again))
	for _, f := range all {
		s.within(soon, "the flow "+f.name+" is broken", func(*hub) bool { return f.ended() })
	}
	s.end(s.flows())
	e := s.finish()
	r, c := s.result, e.Channels[0]
	if r.Up > s.site.in.Load() || r.Down > s.site.out.Load() {
		t.Errorf("the buyer is billed %d up and %d down, the site says: %s", r.Up, r.Down, s.site)
	}
	if got := s.site.in.Load() + s.site.down.count(); r.Claimed+2*creditA < cost(got) {
		t.Errorf("%d bytes arrived, which cost %d, and %d is claimed", got, cost(got), r.Claimed)
	}
	t.Logf("%d bytes were lost with the agent", c.Lost)
}
