package path

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A Relay is a side of a session at a relay.
type Relay struct {
	Addr    netip.AddrPort // the relay's port for this side
	Session ID
	Token   Key // known to this side and the relay only
	// Count counts what passes by the port, from the moment that it is bound. Nil:
	// it is not counted.
	Count *Count
	// Doubt is called when what else goes to this relay may be lost: it sees
	// this side elsewhere than before, as after another lease (moved), or has
	// stopped answering. It is called by Run and must not block. May be nil.
	Doubt func(moved bool)
}

// A Binding is a place at a relay's port. It is refreshed until it is closed.
type Binding struct {
	s     *Socket
	relay Relay
	bound chan struct{} // closed by the first Bound

	// Under the socket's state.mu:
	counter    uint64 // of the newest Bind
	cookie     [CookieSize]byte
	next       time.Time // when the next Bind is due
	tries      int       // since the last Bound
	prompt     bool      // a challenge was answered since
	asked      int       // again for the other side's address
	self, peer netip.AddrPort
	rebound    bool // the socket below is another one since the last Bound
}

// askAgain is when a relay that did not know the other side is asked again.
var askAgain = [...]time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

const (
	// refresh is within the 30 s that NATs keep a UDP mapping (RFC 4787 REQ-5
	// asks for more and gets less).
	refresh   = 25 * time.Second
	bindFirst = 250 * time.Millisecond
	bindLast  = 5 * time.Second
	bindDoubt = 5 // unanswered Binds, or 4 s, are one too many
)

// Bind claims the place for this socket, and holds it until the binding is
// closed. It returns when the relay has answered, or with ctx. Run has to run
// and quic-go to read, which a Transport begins with its first use: calling its
// ReadNonQUICPacket with a cancelled context is one that does nothing else.
func (s *Socket) Bind(ctx context.Context, r Relay) (*Binding, error) {
	r.Addr = unmap(r.Addr)
	b := &Binding{s: s, relay: r, bound: make(chan struct{})}
	s.state.bind(b)
	s.poke()
	select {
	case <-b.bound:
		s.state.count(b.relay)
		return b, nil
	case <-ctx.Done():
		b.Close()
		return nil, context.Cause(ctx)
	}
}

// Addr is the relay's port, to dial QUIC at or to give to [Mover.Use].
func (b *Binding) Addr() netip.AddrPort { return b.relay.Addr }

// Peer is the other side's address as the relay sees it. It is the zero
// AddrPort while the relay does not know it or may not tell.
func (b *Binding) Peer() netip.AddrPort {
	b.s.state.mu.Lock()
	defer b.s.state.mu.Unlock()
	return b.peer
}

// Close gives the place up: the relay forgets it in its time.
func (b *Binding) Close() { b.s.state.unbind(b) }

// due returns a Bind to send if it is time for one.
func (b *Binding) due(now time.Time) []byte {
	if now.Before(b.next) {
		return nil
	}
	wait := min(bindFirst<<min(b.tries, 10), bindLast)
	b.next = now.Add(wait - rand.N(wait/4))
	b.tries++
	b.prompt = false
	return b.bind()
}

// doubted says whether the relay has just become one that does not answer.
func (b *Binding) doubted() bool { return b.tries == bindDoubt && b.self.IsValid() }

// displaced says whether the relay has just told that it sees this side
// elsewhere than it was. A NAT that gives a new port has forgotten only this
// mapping, unless the socket is new.
func (b *Binding) displaced(was netip.AddrPort) bool {
	if !was.IsValid() {
		return false
	}
	return was.Addr() != b.self.Addr() || b.rebound && was != b.self
}

func (b *Binding) bind() []byte {
	b.counter++
	return Bind{b.relay.Session, b.counter, b.cookie}.Append(nil, &b.relay.Token)
}

// packet takes a packet of the relay's and says whether it told the addresses.
// A relay may repeat a Bound when the other side has come.
func (b *Binding) packet(now time.Time, p []byte) (answer []byte, ok bool) {
	if c, err := ParseChallenge(p, &b.relay.Token); err == nil && c.Counter == b.counter {
		b.cookie = c.Cookie
		if b.prompt { // not for ever, whatever the relay wants
			return nil, false
		}
		b.prompt = true
		return b.bind(), false
	}
	c, err := ParseBound(p, &b.relay.Token)
	if err != nil || c.Counter != b.counter {
		return nil, false
	}
	b.self, b.peer = c.Self, c.Peer
	b.tries = 0
	wait := refresh
	if !c.Peer.IsValid() && b.asked < len(askAgain) { // the other side may be about to come
		wait = askAgain[b.asked]
		b.asked++
	}
	b.next = now.Add(wait - rand.N(wait/8))
	select {
	case <-b.bound:
	default:
		close(b.bound)
	}
	return nil, true
}

// readdressed says that our own address may be another one.
func (b *Binding) readdressed(now time.Time) {
	b.next, b.tries, b.asked = now, 0, 0
}
