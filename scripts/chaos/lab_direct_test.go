package chaos

import (
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
