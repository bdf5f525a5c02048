package tunnel

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Strangers bounds the connections of those who have shown neither a channel nor
// a token, on all transports of an agent together. The zero value bounds
// nothing.
//
// Each source, which is an IPv4 address or an IPv6 /64, has a part of the
// places. When all are taken, who has had his for strangerTime gives it to the
// newcomer: that is long enough to say hello, and who is no stranger any more has
// none to lose.
type Strangers struct {
	// Most is how many there may be, a quarter of them of one source. 0: any
	// number.
	Most int

	mu     sync.Mutex
	order  list.List // of *Stranger, the oldest first
	by     map[netip.Prefix]int
	relays map[netip.Addr]bool
}

const (
	strangerTime = 2 * time.Second
	// maxStrangerRelays bounds the addresses of relays that are remembered.
	maxStrangerRelays = 64
)

// A Stranger is one of them.
type Stranger struct {
	all    *Strangers
	place  *list.Element // nil: has left
	source netip.Prefix
	since  time.Time
	end    func()
}

// Relay says that many buyers come from an address, each from a port of his own;
// who relays them bounds their number.
func (s *Strangers) Relay(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.relays == nil {
		s.relays = make(map[netip.Addr]bool)
	}
	if len(s.relays) < maxStrangerRelays {
		s.relays[a.Unmap()] = true
	}
}

// Enter takes a place for a connection; nil if there is none. When the place is
// given to another, end is called, which must not block. Unproven addresses (of
// UDP) may be anybody's: they take no part of a source's. Leave follows.
func (s *Strangers) Enter(end func(), addr net.Addr, proven bool) *Stranger {
	x := &Stranger{all: s, since: time.Now(), end: end}
	s.mu.Lock()
	defer s.mu.Unlock()
	if proven {
		x.source = s.source(addr)
	}
	if s.Most > 0 && (s.by[x.source] >= s.each() || s.order.Len() >= s.Most && !s.makeRoom(x.since)) {
		return nil
	}
	if s.by == nil {
		s.by = make(map[netip.Prefix]int)
	}
	if x.source.IsValid() {
		s.by[x.source]++
	}
	x.place = s.order.PushBack(x)
	return x
}

func (s *Strangers) each() int { return max(s.Most/4, 2) }

// Prove gives an unproven stranger his part of his source's; it is false if the
// source has no more.
func (x *Stranger) Prove(addr net.Addr) bool {
	s := x.all
	s.mu.Lock()
	defer s.mu.Unlock()
	source := s.source(addr)
	if x.place == nil || x.source.IsValid() || !source.IsValid() {
		return true
	}
	if s.Most > 0 && s.by[source] >= s.each() {
		return false
	}
	x.source = source
	s.by[source]++
	return true
}

// makeRoom ends the oldest if he had his time. It is called locked.
func (s *Strangers) makeRoom(now time.Time) bool {
	x, ok := s.order.Front().Value.(*Stranger)
	if !ok || now.Sub(x.since) < strangerTime {
		return false
	}
	s.remove(x)
	x.end()
	return true
}

// Leave gives the place up: he has gone, or is no stranger any more.
func (x *Stranger) Leave() {
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	x.all.remove(x)
}

// remove is called locked.
func (s *Strangers) remove(x *Stranger) {
	if x.place == nil {
		return
	}
	s.order.Remove(x.place)
	x.place = nil
	if !x.source.IsValid() {
		return
	}
	if s.by[x.source]--; s.by[x.source] == 0 {
		delete(s.by, x.source)
	}
}

// Count is how many there are, of the source of addr and in all.
func (s *Strangers) Count(addr net.Addr) (source, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[s.source(addr)], s.order.Len()
}

// source is who an address counts as; not valid: nobody, of whom there may be any
// number. It is called locked.
func (s *Strangers) source(addr net.Addr) netip.Prefix {
	at, ok := hostOf(addr)
	if !ok || s.relays[at] {
		return netip.Prefix{}
	}
	return SourceOf(at)
}

// SourceOf is who an address counts as: an IPv4 address, or the /64 that one IPv6
// customer has at least. That of no address is not valid.
func SourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.WithZone("").Prefix(bits) // an error comes with no prefix
	return p
}

func hostOf(addr net.Addr) (netip.Addr, bool) {
	var ap netip.AddrPort
	switch a := addr.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	default:
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap().WithZone(""), ap.Addr().IsValid()
}
