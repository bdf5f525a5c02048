package chaos

import (
	"net/netip"
	"testing"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// by is the condition that the buyer says by what it is connected, from now on.
func (s *stage) by(transport string) func(*hub) bool {
	return s.hub.line(s.buyer.name, `msg=connected by="`+transport+" by relay ")
}

// TestLabBlockedUDP: where no UDP passes, at either side, the buyer gets through
// by TLS.
func TestLabBlockedUDP(t *testing.T) {
	blocked := netlab.Policy{BlockUDP: true}
	for name, c := range map[string]casting{
		"buyer": {buyerPolicy: blocked},
		"agent": {agentPolicy: blocked},
	} {
		t.Run(name, func(t *testing.T) {
			c.buyerNAT, c.agentNAT, c.relays, c.rate = netlab.Symmetric, netlab.Symmetric, 1, 20e6
			s := newStage(t, c)
			by := s.by("tls")
			took := s.startBuyer()
			if !s.hub.saw(by) {
				t.Fatalf("not by TLS\n%s", s.hub.tails())
			}
			t.Logf("connected by TLS in %v", took)
			s.curl(1_000_000)
			s.end(s.flows())
			s.settle()
		})
	}
}

// slowQUIC lets little through of what looks like QUIC: its fixed bit is set
// (RFC 9000 §17), and that of no packet of ours or KCP's.
const slowQUIC = `table ip slow
delete table ip slow
table ip slow { chain through { type filter hook forward priority -5
	meta l4proto udp @th,64,8 & 0x40 == 0x40 limit rate over 4000 bytes/second burst 8000 bytes drop
}
}
`

// TestLabThrottledQUIC: where QUIC hardly gets through, KCP does.
func TestLabThrottledQUIC(t *testing.T) {
	s := newStage(t, casting{buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric, relays: 1, rate: 20e6, agent: "kcp = true"})
	s.nft(s.w.BuyerRouter.Namespace, slowQUIC)
	if quic, others := s.passes(0x40), s.passes(0); quic > shots/2 || others < shots/2 {
		t.Fatalf("of %d packets %d pass that look like QUIC, and %d others", shots, quic, others)
	}
	by := s.by("kcp")
	took := s.startBuyer("--transport", "kcp")
	if !s.hub.saw(by) {
		t.Fatalf("not by KCP\n%s", s.hub.tails())
	}
	t.Logf("connected by KCP in %v", took)
	s.curl(1_000_000)
	s.end(s.flows())
	s.settle()
}

// shots is how many packets passes sends.
const shots = 100

// passes says how many packets with this first byte pass from the buyer to the
// world.
func (s *stage) passes(first byte) (n int) {
	s.t.Helper()
	at, err := s.w.WAN.ListenPacket("udp4", netip.AddrPortFrom(s.w.Relay(2), 0).String())
	s.must(err)
	defer at.Close()
	from, err := s.w.Buyer.ListenPacket("udp4", "0.0.0.0:0")
	s.must(err)
	defer from.Close()
	s.must(at.SetReadDeadline(time.Now().Add(soon)))
	b := make([]byte, 1000)
	b[0] = first
	for range shots {
		_, err := from.WriteTo(b, at.LocalAddr())
		s.must(err)
	}
	_, err = from.WriteTo([]byte("end"), at.LocalAddr())
	s.must(err)
	for {
		k, _, err := at.ReadFrom(b)
		s.must(err)
		if k < len(b) {
			return n
		}
		n++
	}
}
