package path

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// counts are a peer's, for one tick. Only differences mean something.
type counts struct {
	received, sent, failed uint32
	packet                 int // size of the packets that QUIC sends
}

// quiet notices that nothing answers.
type quiet struct {
	last    counts
	known   bool      // last is set
	ticks   int       // in which something was sent since something was received
	since   time.Time // when the second of them was
	failing time.Time // since when nothing could be sent
	shown   time.Time // agent: when it last showed itself,
	shows   int       // and how often in this silence
}

// search is what the buyer does about it.
type search struct {
	on      bool
	since   time.Time
	next    time.Time // when to probe all candidates again
	n       int       // how often that was done
	doubted bool      // the socket was, and is another one
	lost    int       // how often the owner was told
}

// tick lets time pass. It is called several times a second.
func (m *mover) tick(now time.Time, c counts) {
	m.inUse = c.packet
	m.watch(now, c)
	if m.search.on {
		m.seek(now)
		return
	}
	for _, c := range m.candidates {
		if !c.next.IsZero() && !now.Before(c.next) {
			m.due(now, c)
		}
	}
}

// watch compares what was sent and what was received. One unanswered batch
// means nothing, since an acknowledgement is not acknowledged; but QUIC repeats
// what it has no answer to (RFC 9002 §6.2), so there will be another.
func (m *mover) watch(now time.Time, c counts) {
	q := &m.quiet
	if !q.known {
		q.last, q.known = c, true
		return
	}
	sent, failed := c.sent != q.last.sent, c.failed != q.last.failed
	if c.received != q.last.received {
		*q = quiet{last: c, known: true, failing: q.failing, shown: q.shown}
		sent = false
	}
	q.last = c
	if sent || failed {
		if q.ticks++; q.ticks == 2 {
			q.since = now
		}
	}
	switch {
	case failed && q.failing.IsZero():
		q.failing = now
	case sent:
		q.failing = time.Time{}
	}
	if failed && now.Sub(q.failing) >= outage {
		q.failing = time.Time{}
		m.events = append(m.events, eventRebind)
	}
	if q.ticks >= 2 && now.Sub(q.since) >= silence {
		m.silent(now)
	}
}

// unanswered says whether something is unanswered, though perhaps not for long.
func (m *mover) unanswered() bool { return m.quiet.ticks > 0 || m.search.on }

// silent is what an end does that hears nothing.
func (m *mover) silent(now time.Time) {
	if m.buyer {
		m.begin(now)
		return
	}
	if q := &m.quiet; now.Sub(q.shown) >= patience<<min(q.shows, 3) { // say where we are
		q.shown = now
		q.shows++
		m.events = append(m.events, eventRefresh)
		for _, c := range m.candidates {
			m.round(now, c)
		}
	}
}

// begin begins a search.
func (m *mover) begin(now time.Time) {
	if m.search.on {
		return
	}
	m.search = search{on: true, since: now, next: now}
	m.route.confirm = 0
	m.events = append(m.events, eventRefresh)
}

// seek probes all candidates, ever more seldom.
func (m *mover) seek(now time.Time) {
	s := &m.search
	age := now.Sub(s.since)
	if age >= doubt && !s.doubted {
		s.doubted = true
		m.events = append(m.events, eventDoubt)
	}
	if age >= patience*(2<<s.lost-1) { // what he named may not lead there either
		s.lost++
		m.events = append(m.events, eventLost)
	}
	if now.Before(s.next) {
		return
	}
	for _, c := range m.candidates {
		m.probe(now, c, m.need(), false)
	}
	wait := pace[min(s.n, len(pace)-1)]
	if over := s.n - len(pace); over >= 0 {
		wait = min(time.Second<<min(over, 4), 10*time.Second)
	}
	s.n++
	s.next = now.Add(wait - rand.N(wait/8))
}

// due sends the next probe of a candidate's round, or ends it.
func (m *mover) due(now time.Time, c *candidate) {
	if m.buyer && c == m.route {
		m.dueRoute(now, c)
		return
	}
	heard := now.Sub(c.answered) < trust && !c.answered.IsZero()
	over := c.tries >= len(pace) || heard && !m.buyer && m.quiet.ticks == 0 ||
		m.buyer && (m.route.direct && c.direct || !c.direct && now.Sub(c.full) < trust)
	if over {
		m.rest(now, c)
		return
	}
	size := MinProbe
	if m.buyer && heard {
		size = m.need()
	}
	if m.buyer && c.tries == 0 && c.direct && !m.route.direct {
		m.probe(now, m.route, MinProbe, false) // tells the agent to punch as well
	}
	m.probe(now, c, size, false)
	wait := pace[c.tries]
	c.tries++
	c.next = now.Add(wait)
}

// rest ends a round. A direct path is tried again, ever more seldom.
func (m *mover) rest(now time.Time, c *candidate) {
	c.tries, c.next = 0, time.Time{}
	if m.buyer && c.direct && !m.route.direct {
		wait := min(30*time.Second<<min(c.rounds, 5), 10*time.Minute)
		c.rounds++
		c.next = now.Add(wait - rand.N(wait/4))
	}
}

// dueRoute repeats a move until it is acknowledged, then measures the route.
func (m *mover) dueRoute(now time.Time, c *candidate) {
	switch {
	case c.confirm >= confirmations:
		m.begin(now)
	case c.confirm > 0:
		m.move(now, c)
	case m.gauged():
		c.next = time.Time{}
	default:
		m.gauge++
		m.probe(now, c, MaxProbe, false)
		c.next = now.Add(500 * time.Millisecond)
	}
}

// stranger says that QUIC's packets of the other end come from an address where
// it was not.
func (m *mover) stranger(now time.Time, from netip.AddrPort) {
	c := m.add(from)
	if now.Sub(c.asked) < askEvery {
		return
	}
	c.asked = now
	if m.buyer {
		m.shown(now, c)
	} else {
		m.probe(now, c, MinProbe, false)
	}
}

// readdressed says that our own address may be another one, and that what the
// NATs knew is void.
func (m *mover) readdressed(now time.Time) {
	for _, c := range m.candidates {
		c.local = netip.Addr{}
	}
	if m.buyer {
		m.begin(now)
		m.search.doubted = true // it is new
		m.search.next = now
		return
	}
	for _, c := range m.candidates {
		c.answered = time.Time{}
		m.round(now, c)
	}
}
