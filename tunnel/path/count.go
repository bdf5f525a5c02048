package path

import (
	"maps"
	"net/netip"
	"sync/atomic"
)

// A Count is what went by relays' ports, in bytes of UDP payload, as this side
// sees it: all that a relay passes on, QUIC's and ours, but not what it answers
// itself. One Count may be for several ports. It only rises.
type Count struct{ sent, received atomic.Uint64 }

// Sent is what was sent to the ports.
func (c *Count) Sent() uint64 { return c.sent.Load() }

// Received is what came from them.
func (c *Count) Received() uint64 { return c.received.Load() }

// AddSent counts what went to the relay another way, by TCP.
func (c *Count) AddSent(n int) { c.sent.Add(uint64(n)) }

// AddReceived counts what came from it.
func (c *Count) AddReceived(n int) { c.received.Add(uint64(n)) }

// count has a relay's port counted from now on, for as long as the socket is
// there: what is under way when the place is given up counts too.
func (st *state) count(r Relay) {
	if r.Count == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.update(func(t *table) {
		counts := maps.Clone(t.counts)
		if counts == nil {
			counts = map[netip.AddrPort]*Count{}
		}
		counts[r.Addr] = r.Count
		t.counts = counts
	})
}

// toRelay says whether a packet is one that a relay takes itself.
func toRelay(b []byte) bool { return len(b) > 1 && b[0] == 0 && b[1]-1 < byte(TypeBound) }

// countSent counts a batch that was sent.
func (s *Socket) countSent(b []byte, to netip.AddrPort) {
	if t := s.table.Load(); t.counts != nil && !toRelay(b) {
		if c := t.counts[to]; c != nil {
			c.sent.Add(uint64(len(b)))
		}
	}
}

// countReceived counts datagrams that came together, each of a size but the last.
func (s *Socket) countReceived(b []byte, size int, from netip.AddrPort) {
	t := s.table.Load()
	if t.counts == nil {
		return
	}
	c := t.counts[from]
	if c == nil {
		return
	}
	n := len(b)
	for at := 0; at < len(b); at += size {
		if one := b[at:min(at+size, len(b))]; toRelay(one) {
			n -= len(one)
		}
	}
	c.received.Add(uint64(n))
}
