package path

import (
	"net/netip"
	"time"
)

// What Run does with the lock held: it feeds the machines and collects what
// they want done.

// heard passes a control packet to its machine.
func (st *state) heard(now time.Time, h heard) (w work) {
	st.mu.Lock()
	defer st.mu.Unlock()
	t, id, _, ok := Control(h.b)
	if !ok {
		return w
	}
	b := st.bindings[h.from]
	switch t {
	case TypeChallenge, TypeBound:
		if b == nil {
			return w
		}
		was := b.self
		answer, told := b.packet(now, h.b)
		if answer != nil {
			w.send = append(w.send, datagram{to: h.from, b: answer})
		}
		if told {
			st.told(now, b)
			if b.displaced(was) {
				w.doubt(b, true)
			}
			b.rebound = false
		}
		w.next = beat
	case TypeProbe, TypeAck:
		m := st.movers[id]
		if m == nil {
			return w
		}
		h.relay = b != nil
		m.m.packet(now, h)
		st.collect(now, m, &w)
	}
	return w
}

// told passes on where a relay sees the other side.
func (st *state) told(now time.Time, b *Binding) {
	if !b.peer.IsValid() {
		return
	}
	for _, m := range st.movers {
		if m.m.find(b.relay.Addr) != nil {
			m.m.use(now, b.peer, true, false)
		}
	}
}

func (st *state) stranger(now time.Time, x stranger) (w work) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, m := range st.movers {
		if m.peer == x.peer {
			m.m.stranger(now, x.from)
			st.collect(now, m, &w)
		}
	}
	return w
}

// tick lets time pass for all machines.
func (st *state) tick(now time.Time) (w work) {
	st.mu.Lock()
	defer st.mu.Unlock()
	w.next = time.Hour
	if n := st.s.received.Load(); n != st.received {
		st.received, st.heardAt, st.rebinds = n, now, 0
	}
	for _, m := range st.movers {
		p := m.peer
		c := counts{received: p.received.Load(), sent: p.sent.Load(), failed: p.failed.Load(), packet: int(p.segment.Load())}
		if c.packet == 0 {
			c.packet = int(p.single.Load())
		}
		m.m.tick(now, c)
		st.collect(now, m, &w)
		p.keeping.Store(m.m.unanswered())
		w.next = beat
	}
	for _, b := range st.bindings {
		if p := b.due(now); p != nil {
			w.send = append(w.send, datagram{to: b.relay.Addr, b: p})
			if b.doubted() {
				w.doubt(b, false)
			}
		}
		w.next = min(w.next, max(b.next.Sub(now), time.Millisecond))
	}
	return w
}

// collect takes what a machine wants done.
func (st *state) collect(now time.Time, m *Mover, w *work) {
	for len(m.m.events) > 0 {
		events := m.m.events
		m.m.events = nil
		for _, e := range events {
			st.event(now, m, e, w)
		}
	}
	w.send = append(w.send, m.m.out...)
	m.m.out = nil
}

func (st *state) event(now time.Time, m *Mover, e event, w *work) {
	r := m.m.route
	switch e {
	case eventMoved:
		fresh := &route{to: r.addr, local: r.local}
		fresh.rewrite = !m.path.Buyer || r.addr.Addr().Is4() != m.peer.name.Addr().Is4()
		st.update(func(t *table) { t.place(m.peer, fresh) })
		if f := m.path.Moved; f != nil {
			to, direct := r.addr, r.direct
			w.calls = append(w.calls, func() { f(to, direct) })
		}
	case eventAlive:
		m.peer.keeping.Store(false)
		w.again = append(w.again, again{m.peer, m.peer.keep.take()})
	case eventLost:
		if f := m.path.Lost; f != nil {
			w.calls = append(w.calls, f)
		}
	case eventRefresh:
		for _, b := range st.bindings {
			if m.m.find(b.relay.Addr) != nil {
				b.readdressed(now)
			}
		}
		st.s.poke()
	case eventRebind:
		w.rebind = w.rebind || st.mayRebind(now)
	case eventDoubt: // unless somebody is heard
		w.rebind = w.rebind || now.Sub(st.heardAt) >= time.Second && st.mayRebind(now)
	case eventPunch:
		for _, addr := range st.seen(m) {
			m.m.punch(now, addr)
		}
	}
}

// seen returns where relays see a mover's other end.
func (st *state) seen(m *Mover) (addrs []netip.AddrPort) {
	for _, b := range st.bindings {
		if b.peer.IsValid() && m.m.find(b.relay.Addr) != nil {
			addrs = append(addrs, b.peer)
		}
	}
	return addrs
}

// mayRebind says whether another socket may be tried: the last attempt is some
// time ago, longer after each in vain. A fixed port has only one socket to get,
// so that waits for a reader that is stuck.
func (st *state) mayRebind(now time.Time) bool {
	wait := min(2*time.Second<<min(st.rebinds, 5), time.Minute)
	if now.Sub(st.rebound) < wait || st.s.fixed && !st.s.stuck.Load() {
		return false
	}
	st.rebound = now
	st.rebinds++
	return true
}
