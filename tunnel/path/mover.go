package path

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// A mover decides where one connection goes. It is a pure machine: time, packets
// and counts come in, packets and events go out.
//
//	            silence of 2 s, or a move that is not acknowledged
//	┌─ settled ──────────────────────────────▶ searching ─┐ after 3 s: lost,
//	│     ▲  ▲        first answer of any path     │  ▲   │ and on with a
//	│     │  └─────────────────────────────────────┘  └───┘ growing interval
//	└─────┘ a direct path answered while on a relay
//
// That is the buyer's end, which decides. The agent's answers, punches, shows
// itself when it hears nothing, and follows.
type mover struct {
	buyer      bool
	id         ID
	send, recv Key

	counter uint64 // of our newest probe
	window  window // of the other end's
	moved   uint64 // counter of the newest move that was taken

	candidates []*candidate
	route      *candidate
	goal       *candidate // agent: asked to move there, which has yet to answer
	verified   time.Time  // buyer: when it last moved because the agent asked
	gauge      int        // buyer: probes of full size that were sent on the route
	inUse      int        // size of the packets that QUIC sends

	credit   float64 // probes to addresses that never answered
	creditAt time.Time

	quiet  quiet
	search search
	out    []datagram
	events []event
}

// A candidate is an address where the other end may be.
type candidate struct {
	addr     netip.AddrPort
	local    netip.Addr // our address that it last wrote to
	direct   bool       // not a relay's port
	named    bool       // by our owner, who answers for it
	answered time.Time  // when it last acknowledged a probe
	full     time.Time  // likewise one of full size
	sent     [8]probe   // the newest probes
	n        int        // how many there were
	tries    int        // in this round; see pace
	rounds   int        // that led nowhere
	next     time.Time  // when to probe again
	confirm  int        // moves that were not acknowledged
	asked    time.Time  // when it was probed as a stranger
}

// A probe is one that was sent.
type probe struct {
	counter uint64
	size    int
	move    bool
}

// A datagram is to be sent.
type datagram struct {
	to    netip.AddrPort
	local netip.Addr
	b     []byte
}

// An event is something that the mover's owner has to do.
type event int

const (
	eventMoved   event = iota // the route is another one
	eventAlive                // the route answers after a silence: send again what was kept
	eventLost                 // no path answers
	eventRebind               // the socket cannot send
	eventDoubt                // the socket may be broken
	eventRefresh              // our address may be another one: bind at the relays again
	eventPunch                // the other end is about to punch: aim where the relays see it
)

const (
	silence   = 2 * time.Second // without an answer
	patience  = 3 * time.Second // of a search, before the owner is told
	doubt     = patience / 2    // of a search, before the socket is
	outage    = time.Second     // of writes that all fail
	candidacy = 8               // candidates at once
	trust     = time.Minute     // that an answer is good for

	confirmations = 5 // moves that may go without an answer
	fullTries     = 4 // likewise probes of full size

	askEvery = 200 * time.Millisecond // between questions to or from somebody who moved

	minPacket = 1280 // what QUIC begins with (quic-go's protocol.InitialPacketSize)

	creditMax    = 32 // probes to addresses that never answered, at once
	creditSecond = 2  // and a second
)

// pace is the time between the probes of a round. A NAT lets a packet in after
// one went out, so both ends send until both have.
var pace = [...]time.Duration{
	100 * time.Millisecond, 150 * time.Millisecond, 250 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	500 * time.Millisecond, 500 * time.Millisecond, time.Second, time.Second,
}

func newMover(secret [32]byte, buyer bool, now time.Time) *mover {
	id, b, a := derive(secret)
	m := &mover{buyer: buyer, id: id, send: b, recv: a, credit: creditMax, creditAt: now}
	if !buyer {
		m.send, m.recv = a, b
	}
	return m
}

// start says where the connection is.
func (m *mover) start(now time.Time, addr netip.AddrPort, direct bool) {
	c := m.add(addr)
	c.direct, c.named, c.answered = direct, true, now // the handshake came by here
	m.route = c
	if m.buyer {
		c.next = now // for its size
	}
}

func (m *mover) find(addr netip.AddrPort) *candidate {
	for _, c := range m.candidates {
		if c.addr == addr {
			return c
		}
	}
	return nil
}

// add returns the candidate of an address. When there are too many the one that
// answered longest ago goes.
func (m *mover) add(addr netip.AddrPort) *candidate {
	if c := m.find(addr); c != nil {
		return c
	}
	c := &candidate{addr: addr, direct: true}
	if len(m.candidates) < candidacy {
		m.candidates = append(m.candidates, c)
		return c
	}
	worst := -1
	for i, old := range m.candidates {
		if old != m.route && old != m.goal && (worst < 0 || old.worth() < m.candidates[worst].worth()) {
			worst = i
		}
	}
	m.candidates[worst] = c
	return c
}

// worth orders candidates: what the owner named, then by their last answer.
func (c *candidate) worth() int64 {
	if c.named {
		return 1<<62 + c.answered.Unix()
	}
	return c.answered.Unix()
}

// use adds a candidate: one that the owner names, or that a relay told.
func (m *mover) use(now time.Time, addr netip.AddrPort, direct, named bool) {
	known := m.find(addr) != nil
	c := m.add(addr)
	if named {
		c.named, c.direct = true, direct
	}
	if !known {
		m.round(now, c)
	}
	if m.search.on {
		m.search.next = now
		if named && !known { // where the other end may come a moment later
			m.search.n = 0
		}
	}
}

// punch begins a round to where a relay sees the other end, who is about to do
// the same.
func (m *mover) punch(now time.Time, addr netip.AddrPort) {
	if c := m.add(addr); c.idle() && c != m.route {
		m.round(now, c)
	}
}

// idle says that no round is under way.
func (c *candidate) idle() bool { return c.tries == 0 || c.tries >= len(pace) }

// round begins a round of probes.
func (m *mover) round(now time.Time, c *candidate) { c.tries, c.next = 0, now }

// probe sends one.
func (m *mover) probe(now time.Time, c *candidate, size int, move bool) {
	if !c.named && c.answered.IsZero() { // whoever named it may lie
		m.credit = min(creditMax, m.credit+now.Sub(m.creditAt).Seconds()*creditSecond)
		m.creditAt = now
		if m.credit < 1 {
			return
		}
		m.credit--
		size = MinProbe
	}
	m.counter++
	c.sent[c.n%len(c.sent)] = probe{m.counter, size, move}
	c.n++
	b := Probe{m.id, m.counter, move}.Append(nil, &m.send, size)
	m.out = append(m.out, datagram{c.addr, c.local, b})
}

// packet takes a Probe or an Ack for this connection.
func (m *mover) packet(now time.Time, h heard) {
	if p, err := ParseProbe(h.b, &m.recv); err == nil {
		if m.window.fresh(p.Counter) {
			m.probed(now, h, p)
		}
	} else if a, err := ParseAck(h.b, &m.recv); err == nil {
		m.acked(now, h, a)
	}
}

// probed answers a fresh probe. The agent acknowledges a move when it has moved.
func (m *mover) probed(now time.Time, h heard, p Probe) {
	c := m.add(h.from)
	c.local = h.local
	if h.relay {
		c.direct = false
	}
	trusted := !c.answered.IsZero() && now.Sub(c.answered) < trust
	if p.Move {
		if m.buyer || p.Counter <= m.moved {
			return
		}
		m.moved, m.goal = p.Counter, c
		if trusted {
			m.follow(now, c)
		}
	}
	if trusted || !p.Move {
		b := Ack{m.id, p.Counter, p.Move, h.from}.Append(nil, &m.send, len(h.b))
		m.out = append(m.out, datagram{h.from, h.local, b})
	}
	switch {
	case m.buyer:
		m.shown(now, c)
	case !trusted:
		m.probe(now, c, MinProbe, false)
	}
	if h.relay && !m.buyer && !p.Move {
		m.events = append(m.events, eventPunch)
	}
}

// follow is the agent's move.
func (m *mover) follow(now time.Time, c *candidate) {
	m.goal = nil
	m.set(now, c)
}

// set changes the route.
func (m *mover) set(now time.Time, c *candidate) {
	m.quiet = quiet{}
	if m.route != c {
		m.route = c
		m.events = append(m.events, eventMoved)
		for _, d := range m.candidates { // a direct path that died may come back
			if m.buyer && !c.direct && d.direct {
				m.rest(now, d)
			}
		}
	}
	m.events = append(m.events, eventAlive)
}

// shown is what the buyer makes of a probe of the agent's: it is there, and may
// not hear us where we think that it is.
func (m *mover) shown(now time.Time, c *candidate) {
	if c != m.route && c.answered.IsZero() && c.idle() {
		m.round(now, c)
	}
	if !m.search.on && m.route.confirm == 0 && now.Sub(m.verified) >= askEvery {
		m.verified = now
		m.move(now, m.route)
	}
}

// acked takes the answer to one of our probes.
func (m *mover) acked(now time.Time, h heard, a Ack) {
	c := m.find(h.from)
	if c == nil {
		return
	}
	for i := range c.sent {
		p := &c.sent[i]
		if p.counter == a.Counter && p.counter != 0 && p.size == len(h.b) && p.move == a.Move {
			c.answered, c.local = now, h.local
			if p.size >= MaxProbe && c == m.route {
				m.gauge = 0
			}
			if p.size >= m.need() {
				c.full = now
			}
			size, move := p.size, p.move
			*p = probe{}
			m.answer(now, c, size, move)
			return
		}
	}
}

// answer is what an answered probe leads to.
func (m *mover) answer(now time.Time, c *candidate, size int, move bool) {
	enough := size >= m.need()
	switch {
	case !m.buyer:
		if c == m.goal {
			m.follow(now, c)
			b := Ack{m.id, m.moved, true, c.addr}.Append(nil, &m.send, MinProbe)
			m.out = append(m.out, datagram{c.addr, c.local, b})
		}
	case move && c == m.route:
		c.confirm, c.next = 0, now // for its size
	case m.search.on && enough, c.direct && !m.route.direct && enough:
		m.settle(now, c)
	case c != m.route && enough:
		c.tries, c.next = 0, time.Time{}
	case c.direct && !m.route.direct && size < m.need(): // it hears us: now packets of full size
		c.tries, c.next = len(pace)-fullTries, now
	}
}

// gauged says whether it is known if the route takes packets of full size.
func (m *mover) gauged() bool { return !m.route.full.IsZero() || m.gauge >= fullTries }

// need is the size of packets that a path must take: any that QUIC may come to
// send, or where the first path did not take those, what it sends now.
func (m *mover) need() int {
	if m.gauge < fullTries {
		return MaxProbe
	}
	return max(minPacket, m.inUse)
}

// settle is the buyer's move.
func (m *mover) settle(now time.Time, c *candidate) {
	m.search = search{}
	c.rounds, c.confirm = 0, 0
	m.set(now, c)
	m.move(now, c)
}

// move asks the agent to send here, until it says so.
func (m *mover) move(now time.Time, c *candidate) {
	c.confirm++
	c.next = now.Add(250*time.Millisecond<<min(c.confirm-1, 2) + rand.N(25*time.Millisecond))
	m.probe(now, c, MinProbe, true)
}

// A window lets every counter pass once, and none that is far behind (the
// method of RFC 4303 §3.4.3): probes of different paths overtake each other.
type window struct {
	top  uint64
	bits uint64 // of top, top-1, …
}

func (w *window) fresh(n uint64) bool {
	switch {
	case n == 0:
		return false
	case n > w.top:
		if d := n - w.top; d < 64 {
			w.bits = w.bits<<d | 1
		} else {
			w.bits = 1
		}
		w.top = n
		return true
	case w.top-n >= 64 || w.bits>>(w.top-n)&1 == 1:
		return false
	}
	w.bits |= 1 << (w.top - n)
	return true
}
