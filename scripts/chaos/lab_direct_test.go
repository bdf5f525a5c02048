package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// apart keeps the two sites' networks from each other, so that only relays join
// them, or joins them again.
func (s *stage) apart(yes bool) {
	s.t.Helper()
	script := "table ip apart\ndelete table ip apart\n"
	if yes {
		script += `table ip apart { chain through { type filter hook forward priority 0
			ip saddr 198.18.1.0/24 ip daddr 198.18.2.0/24 drop
			ip saddr 198.18.2.0/24 ip daddr 198.18.1.0/24 drop
		}
		}
		`
	}
	s.nft(s.w.WAN, script)
}

// reached is the condition that the buyer says that it goes another way, direct
// or not, from now on.
func (s *stage) reached(direct bool) func(*hub) bool {
	text := map[bool]string{true: "direct=true", false: "direct=false"}[direct]
	return s.hub.line(s.buyer.name, text)
}

// TestLabDirect: what can go around the relay does. A direct path that dies is
// left and a flow in progress goes on, and so it does when the path comes back.
func TestLabDirect(t *testing.T) {
	for _, nat := range []netlab.NAT{netlab.PortRestricted, netlab.FullCone} {
		t.Run(nat.String(), func(t *testing.T) {
			s := newStage(t, casting{buyerNAT: nat, agentNAT: nat, relays: 1, rate: 12e6})
			direct := s.reached(true)
			s.startBuyer("--transport", "quic")
			t.Logf("direct %v after the session was open", s.within(10*time.Second, "the direct path", direct))
			all := s.flows()
			relayed := s.reached(false)
			s.apart(true)
			t.Logf("by the relay %v after the direct path died", s.within(10*time.Second, "the relay is used again", relayed))
			s.steady(soon, "flows go on by the relay", all)
			t.Logf("without a byte for %v down, %v up", all[0].pulse.rest(), all[1].pulse.rest())
			if nat == netlab.PortRestricted { // it takes half a minute
				direct = s.reached(true)
				s.apart(false)
				t.Logf("direct %v after the path came back", s.within(time.Minute, "the direct path again", direct))
				s.steady(soon, "flows go on directly", all)
				t.Logf("without a byte for %v down, %v up", all[0].pulse.rest(), all[1].pulse.rest())
			}
			s.end(all)
			s.settle()
		})
	}
}

// meetings counts, where the agent is, what comes from a network or goes there,
// and what names an address of the buyer's: of the packets of package path only
// Bound does, in the last 4 bytes of the other side's address.
const meetings = `table ip meetings
delete table ip meetings
table ip meetings {
	counter met { }
	counter named { }
	chain in { type filter hook prerouting priority -400
		ip saddr 198.18.1.0/24 counter name met
		meta l4proto udp @th,64,16 == 0x0003 @th,448,32 == %#x counter name named
	}
	chain out { type filter hook postrouting priority 400
		ip daddr 198.18.1.0/24 counter name met
	}
}
`

// met is what meetings has counted: packets between agent and buyer, and those
// that name the buyer.
func (s *stage) met() (n [2]int) {
	s.t.Helper()
	for i, name := range []string{"met", "named"} {
		out, err := s.w.Agent.Command(s.ctx, "nft", "list", "counter", "ip", "meetings", name).Output()
		s.must(err)
		_, text, _ := strings.Cut(string(out), "packets ")
		_, err = fmt.Sscan(text, &n[i])
		s.must(err)
	}
	return n
}

// TestLabNoDirect: with --no-direct no packet passes between agent and buyer
// but by the relay, which does not name the buyer to the agent. Without it they
// meet, by the same count.
func TestLabNoDirect(t *testing.T) {
	s := newStage(t, casting{buyerNAT: netlab.PortRestricted, agentNAT: netlab.PortRestricted, relays: 1, rate: 20e6})
	address := s.w.BuyerRouter.Outside()
	said := s.hub.line(s.agent.name, address.String())
	s.nft(s.w.Agent, fmt.Sprintf(meetings, address.As4()))
	s.startBuyer("--transport", "quic", "--no-direct", "--keep")
	s.end(s.flows())
	s.buyer.stop(s.ctx, t)
	if n := s.met(); n != [2]int{} || s.hub.saw(said) {
		t.Errorf("%d packets passed between agent and buyer, %d named the buyer, and the agent's log does: %v", n[0], n[1], s.hub.saw(said))
	}
	direct := s.reached(true)
	s.startBuyer("--transport", "quic")
	s.within(soon, "the direct path", direct)
	s.end(s.flows())
	if n := s.met(); n[0] == 0 || n[1] == 0 || !s.hub.saw(said) {
		t.Errorf("%d packets passed between agent and buyer, %d named the buyer: nothing is found where there is something", n[0], n[1])
	}
	s.settle()
}
