package path

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Path says how a connection is kept reachable.
type Path struct {
	// Addr is where QUIC thinks that the other end is: the connection's
	// RemoteAddr. Until now it was there.
	Addr net.Addr
	// Secret is from the connection's TLS exporter; see [ExporterLabel].
	Secret [32]byte
	// Buyer is the end that decides. The other one is the agent.
	Buyer bool
	// Moved is called when the connection goes another way, which has its own
	// bandwidth and delay. Lost is called when nothing answered for 3 s after a
	// silence of 2 s, and again after 6 s more, 12, and so on; the buyer may then
	// name another relay by Use, and the search goes on either way. Both are
	// called by Run and must not block.
	Moved func(to netip.AddrPort, direct bool)
	Lost  func()
}

// A Mover keeps one connection reachable.
type Mover struct {
	s    *Socket
	path Path
	peer *peer
	m    *mover // under the socket's state.mu
}

// state is what Run and the callers of a socket share. The packet path comes
// here only for the first packet of somebody new at a known address.
type state struct {
	s *Socket

	mu       sync.Mutex
	movers   map[ID]*Mover
	bindings map[netip.AddrPort]*Binding
	guests   []*peer // the oldest first
	named    int     // guests so far
	rebound  time.Time
	rebinds  int // that did not help
	received uint32
	heardAt  time.Time // when something arrived
}

func (st *state) init(s *Socket) {
	st.s, st.movers, st.bindings = s, map[ID]*Mover{}, map[netip.AddrPort]*Binding{}
}

// update replaces the table. The caller holds mu.
func (st *state) update(f func(*table)) {
	old := st.s.table.Load()
	t := &table{maps.Clone(old.in), maps.Clone(old.out), make(map[ID]bool, len(st.movers)+len(st.bindings)), old.counts}
	for id := range st.movers {
		t.own[id] = true
	}
	for _, b := range st.bindings {
		t.own[b.relay.Session] = true
	}
	f(t)
	st.s.table.Store(t)
}

// ErrPath says that a path's address is no UDP address.
var ErrPath = errors.New("path: not a UDP address")

// Attach begins to keep a connection reachable, after its handshake and until
// Close. Another connection at the same address, or of the same secret, is no
// longer kept.
func (s *Socket) Attach(p Path) (*Mover, error) {
	name := addrPort(p.Addr)
	if !name.IsValid() {
		return nil, fmt.Errorf("%w: %v", ErrPath, p.Addr)
	}
	now := time.Now()
	st := &s.state
	st.mu.Lock()
	defer st.mu.Unlock()
	m := &Mover{s: s, path: p, m: newMover(p.Secret, p.Buyer, now)}
	for _, old := range st.movers {
		if old.m.id == m.m.id || old.peer.name == name {
			st.detach(old)
		}
	}
	at := name
	if guest := s.table.Load().out[name]; guest != nil { // see guest
		m.peer, at = guest, guest.route.Load().to
		st.adopt(guest)
	} else {
		m.peer = &peer{virtual: net.UDPAddrFromAddrPort(name), name: name}
	}
	b := st.bindings[at]
	m.m.start(now, at, b == nil)
	st.movers[m.m.id] = m
	st.update(func(t *table) { t.place(m.peer, &route{to: at}) })
	if b != nil && b.peer.IsValid() {
		m.m.use(now, b.peer, true, false)
	}
	s.poke()
	return m, nil
}

// Use names another way to the other end: a relay's port that this socket is
// bound to, or the end's own address.
func (m *Mover) Use(addr netip.AddrPort) {
	st := &m.s.state
	st.mu.Lock()
	defer st.mu.Unlock()
	addr = unmap(addr)
	b := st.bindings[addr]
	m.m.use(time.Now(), addr, b == nil, true)
	if b != nil && b.peer.IsValid() {
		m.m.use(time.Now(), b.peer, true, false)
	}
	m.s.poke()
}

// Route is where the connection goes, and whether no relay is between.
func (m *Mover) Route() (to netip.AddrPort, direct bool) {
	st := &m.s.state
	st.mu.Lock()
	defer st.mu.Unlock()
	return m.m.route.addr, m.m.route.direct
}

// Close ends the mover, after its connection.
func (m *Mover) Close() {
	st := &m.s.state
	st.mu.Lock()
	defer st.mu.Unlock()
	st.detach(m)
}

func (st *state) detach(m *Mover) {
	if st.movers[m.m.id] != m {
		return
	}
	delete(st.movers, m.m.id)
	st.update(func(t *table) { t.drop(m.peer) })
}

func (st *state) bind(b *Binding) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.bindings[b.relay.Addr] = b
	st.update(func(*table) {})
}

func (st *state) unbind(b *Binding) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.bindings[b.relay.Addr] == b {
		delete(st.bindings, b.relay.Addr)
		st.update(func(*table) {})
	}
}

// maxGuests bounds the peers that are known by an invented address.
const maxGuests = 64

// guest names a newcomer at an address by which QUIC knows another one, who has
// moved from there: relays use their ports again. The name is of a block that
// nobody has (240.0.0.0/4, RFC 1112 §4; 100::/64, RFC 6666), in the address's
// family, since quic-go chooses its control messages by that.
func (st *state) guest(at netip.AddrPort) *peer {
	st.mu.Lock()
	defer st.mu.Unlock()
	if p := st.s.table.Load().in[at]; p != nil {
		return p
	}
	st.named++
	n := st.named
	ip := netip.AddrFrom4([4]byte{240, byte(n >> 16), byte(n >> 8), byte(n)})
	if at.Addr().Is6() {
		ip = netip.AddrFrom16([16]byte{0: 1, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	}
	name := netip.AddrPortFrom(ip, at.Port())
	p := &peer{virtual: net.UDPAddrFromAddrPort(name), name: name}
	st.guests = append(st.guests, p)
	st.update(func(t *table) {
		if len(st.guests) > maxGuests {
			t.drop(st.guests[0])
			st.guests = st.guests[1:]
		}
		t.place(p, &route{to: at})
	})
	return p
}

// adopt makes a guest one that stays.
func (st *state) adopt(p *peer) {
	for i, g := range st.guests {
		if g == p {
			st.guests = append(st.guests[:i:i], st.guests[i+1:]...)
			return
		}
	}
}

// readdressed says that the socket below is another one.
func (st *state) readdressed() {
	st.mu.Lock()
	defer st.mu.Unlock()
	now := time.Now()
	for _, b := range st.bindings {
		b.readdressed(now)
		b.rebound = true
	}
	for _, m := range st.movers {
		m.m.readdressed(now)
	}
	st.s.poke()
}

// poke lets Run look what there is.
func (s *Socket) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

// beat is how often time passes for movers: a quarter of the shortest of their
// times that matter.
const beat = 125 * time.Millisecond

// Run moves connections and refreshes bindings until ctx is cancelled.
func (s *Socket) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var todo work
		select {
		case <-ctx.Done():
			return nil
		case h := <-s.control:
			todo = s.state.heard(time.Now(), h)
		case x := <-s.strangers:
			todo = s.state.stranger(time.Now(), x)
		case <-s.poked:
			todo = s.state.tick(time.Now())
		case <-timer.C:
			todo = s.state.tick(time.Now())
		}
		s.do(ctx, todo)
		if todo.next > 0 {
			timer.Reset(todo.next)
		}
	}
}

// work is what Run does without the lock.
type work struct {
	send   []datagram
	again  []again
	calls  []func()
	rebind bool
	next   time.Duration // 0: as it was
}

// doubt has a binding's owner told.
func (w *work) doubt(b *Binding, moved bool) {
	if f := b.relay.Doubt; f != nil {
		w.calls = append(w.calls, func() { f(moved) })
	}
}

// again are kept packets for a peer that is back.
type again struct {
	to      *peer
	packets [][]byte
}

func (s *Socket) do(ctx context.Context, w work) {
	for _, d := range w.send {
		// A packet that cannot be sent is one that was lost.
		_ = s.send(d.b, appendLocal(nil, d.local), d.to)
	}
	for _, a := range w.again {
		for _, b := range a.packets {
			_ = s.write(b, nil, a.to.virtual)
		}
	}
	for _, f := range w.calls {
		f()
	}
	if w.rebind {
		_ = s.Rebind(ctx) // tried again while nothing answers
	}
}
