package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
)

// The sides of a session. Each has its own port and token.
const (
	agentSide = 0
	buyerSide = 1
)

// Lives of a session.
const (
	// unboundLife is how long both sides may take to come.
	unboundLife = 60 * time.Second
	// idleLife is how long a session stays after a side's last packet.
	idleLife = 5 * time.Minute
)

// A session is one allotment. The members above places are fixed when it is
// made.
//
//	allotted ─ both sides bound ─→ in use ─ idleLife without a packet ─→ over
//	    └──────────── unboundLife ────────────────────────────────────────↗
type session struct {
	id                relay.SessionID
	agent             relay.Address
	source            netip.Prefix // of who asked for it
	direct, open, tcp bool
	created           time.Time

	worker  *worker  // nil for TCP; fixed too
	account *Account // that pays; nil at a relay that is free; likewise

	// Of the packet path's worker, but for the tokens, which are fixed.
	places [2]place
	opened opening
	over   bool

	// Written by the packet path and read by the sweep.
	last  [2]atomic.Int64 // when each side sent what was accepted, in Unix nanoseconds
	bytes atomic.Uint64   // passed on, both directions
	// booked is how many of bytes are accounted for. Guarded by the table.
	booked uint64
	// Guarded by the splicer's mutex.
	waiting splice
}

// A place is one side's claim of its port.
type place struct {
	token   relay.Token
	counter uint64         // of the newest Bind that was accepted
	addr    netip.AddrPort // where it came from; zero before
}

// alive notes that a side is there.
func (s *session) alive(side int, now time.Time) { s.last[side].Store(now.UnixNano()) }

// deadline is when the session ends if nothing happens: both sides have to
// come, and both to stay.
func (s *session) deadline() time.Time {
	last := min(s.last[0].Load(), s.last[1].Load())
	if last == 0 {
		return s.created.Add(unboundLife)
	}
	return time.Unix(0, last).Add(idleLife)
}

// cookies make and check the proof that an address receives what is sent to
// it. They hold no state for an address.
type cookies struct{ secret [32]byte }

// cookieEpoch is how long one cookie is made; it is accepted in the next epoch
// too.
const cookieEpoch = 64 * time.Second

func (c *cookies) make(id relay.SessionID, side int, from netip.AddrPort, epoch int64) [path.CookieSize]byte {
	h := hmac.New(sha256.New, c.secret[:])
	ip := from.Addr().As16()
	b := make([]byte, 0, 64)
	b = append(append(b, id[:]...), byte(side))
	b = append(b, ip[:]...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	h.Write(binary.BigEndian.AppendUint64(b, uint64(epoch)))
	return [path.CookieSize]byte(h.Sum(nil))
}

func epoch(now time.Time) int64 { return now.Unix() / int64(cookieEpoch/time.Second) }

func (c *cookies) proves(cookie [path.CookieSize]byte, id relay.SessionID, side int, from netip.AddrPort, now time.Time) bool {
	for _, e := range [...]int64{epoch(now), epoch(now) - 1} {
		if want := c.make(id, side, from, e); subtle.ConstantTimeCompare(cookie[:], want[:]) == 1 {
			return true
		}
	}
	return false
}

// An arrival is a packet that claims to be a Bind.
type arrival struct {
	side   int
	from   netip.AddrPort
	packet []byte
	now    time.Time
}

// bind takes a Bind. The answer goes back to where it came from; it is nil for
// a packet that deserves none, and never longer than the Bind. moved says that
// the side has a new address.
func (s *session) bind(c *cookies, a arrival) (answer []byte, moved bool) {
	if _, id, _, ok := path.Control(a.packet); !ok || relay.SessionID(id) != s.id {
		return nil, false // before it costs a MAC
	}
	p := &s.places[a.side]
	key := path.Key(p.token)
	b, err := path.ParseBind(a.packet, &key)
	if err != nil || b.Counter <= p.counter {
		return nil, false
	}
	if !c.proves(b.Cookie, s.id, a.side, a.from, a.now) {
		// The counter is not taken yet: whoever replays a Bind from elsewhere
		// must not make the owner's own one stale.
		cookie := c.make(s.id, a.side, a.from, epoch(a.now))
		return path.Challenge{Session: b.Session, Counter: b.Counter, Cookie: cookie}.Append(nil, &key), false
	}
	moved = p.addr != a.from
	p.counter, p.addr = b.Counter, a.from
	s.alive(a.side, a.now)
	if a.side == buyerSide {
		s.opened.complete = true
	}
	return s.bound(a.side), moved
}

// bound tells a side the addresses, in answer to its newest Bind.
func (s *session) bound(side int) []byte {
	p := &s.places[side]
	key := path.Key(p.token)
	b := path.Bound{Session: path.ID(s.id), Counter: p.counter, Self: p.addr}
	if s.direct {
		b.Peer = s.places[1-side].addr
	}
	return b.Append(nil, &key)
}

// An opening counts what an open session's buyer sent and was sent before it
// has shown that it hears what it is sent (RFC 9000 §8.1).
type opening struct {
	packets  int
	in, out  uint64
	complete bool
}

const (
	// openPacket is the least size of a QUIC client's first packets (RFC 9000
	// §14.1).
	openPacket = 1200
	// openPackets is how many packets make an address a believed one.
	openPackets = 3
	// openFactor bounds what is sent to an address that is not.
	openFactor = 3
)

// opens takes the first packet of an open session's buyer: whoever sends a
// QUIC long header (RFC 9000 §17.2) in a packet of a client's first size has
// the port. size is of one datagram.
func (s *session) opens(from netip.AddrPort, first byte, size int) bool {
	p := &s.places[buyerSide]
	if !s.open || p.addr.IsValid() || first&0xc0 != 0xc0 || size < openPacket {
		return false
	}
	p.addr = from
	return true
}

// allow says whether n bytes in so many packets may pass from side; it bounds
// what an open session returns to an address that is not believed yet.
func (o *opening) allow(side int, n, packets int) bool {
	if side == buyerSide {
		o.packets += packets
		o.in += uint64(n)
		o.complete = o.packets >= openPackets
		return true
	}
	if o.out+uint64(n) > openFactor*o.in {
		return false
	}
	o.out += uint64(n)
	return true
}
