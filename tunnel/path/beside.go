package path

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// besideQueue is how many packets wait for a reader, and besideSize how long
// one may be; others are dropped, as by a router.
const (
	besideQueue = 512
	besideSize  = 1500
)

// A Beside is a protocol beside QUIC on the socket: the packets whose first
// byte is neither QUIC's (RFC 9443 §3) nor zero. Its peers do not move. It gets
// packets only while QUIC's reader reads.
type Beside struct {
	s    *Socket
	in   chan packetFrom // never closed; when full, packets are dropped
	pool sync.Pool       // of *[besideSize]byte

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed and replaced by SetReadDeadline
}

type packetFrom struct {
	b    *[besideSize]byte
	n    int
	from netip.AddrPort
}

var _ net.PacketConn = (*Beside)(nil)

// Beside returns the packets beside QUIC. There is one such reader: a second
// call takes them from the first.
func (s *Socket) Beside() *Beside {
	o := &Beside{s: s, in: make(chan packetFrom, besideQueue), changed: make(chan struct{})}
	o.pool.New = func() any { return new([besideSize]byte) }
	s.beside.Store(o)
	return o
}

// foreign says whether a packet is for Beside.
func foreign(b []byte) bool { return b[0] < 0x40 }

// pass hands a packet over. It belongs to QUIC's reader.
func (s *Socket) pass(b []byte, from netip.AddrPort) {
	o := s.beside.Load()
	if o == nil || len(b) > besideSize || len(o.in) == cap(o.in) {
		return
	}
	p := packetFrom{b: o.pool.Get().(*[besideSize]byte), n: len(b), from: from}
	copy(p.b[:], b)
	select {
	case o.in <- p:
	default:
		o.pool.Put(p.b)
	}
}

// ReadFrom returns the next packet.
func (o *Beside) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		o.mu.Lock()
		deadline, changed := o.deadline, o.changed
		o.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, nil, os.ErrDeadlineExceeded
			}
			timer := time.NewTimer(left)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case p := <-o.in:
			n := copy(b, p.b[:p.n])
			o.pool.Put(p.b)
			return n, net.UDPAddrFromAddrPort(p.from), nil
		case <-late:
			return 0, nil, os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

// WriteTo sends a packet.
func (o *Beside) WriteTo(b []byte, to net.Addr) (int, error) {
	if err := o.s.send(b, nil, addrPort(to)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadDeadline makes ReadFrom fail at t, also one that waits.
func (o *Beside) SetReadDeadline(t time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.deadline = t
	close(o.changed)
	o.changed = make(chan struct{})
	return nil
}

// SetDeadline is SetReadDeadline: a write does not wait.
func (o *Beside) SetDeadline(t time.Time) error { return o.SetReadDeadline(t) }

// SetWriteDeadline does nothing: a write does not wait.
func (o *Beside) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr is the socket's.
func (o *Beside) LocalAddr() net.Addr { return o.s.LocalAddr() }

// Close takes no more packets; the socket stays open.
func (o *Beside) Close() error {
	o.s.beside.CompareAndSwap(o, nil)
	return o.SetReadDeadline(time.Unix(1, 0))
}
