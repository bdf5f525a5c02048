package path

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// A natConn is a host behind a NAT whose outside is real sockets on loopback.
type natConn struct {
	symmetric bool

	mu       sync.Mutex
	sockets  map[netip.AddrPort]*net.UDPConn // by destination; a cone has one, for the zero AddrPort
	open     map[*net.UDPConn]map[netip.AddrPort]bool
	cut      func(netip.AddrPort) bool // addresses that cannot be reached
	deadline time.Time
	wake     chan struct{} // closed and replaced with the deadline
	closed   chan struct{}
	in       chan heard // when full, packets are lost
	wg       sync.WaitGroup
}

func newNATConn(symmetric bool) *natConn {
	return &natConn{
		symmetric: symmetric, sockets: map[netip.AddrPort]*net.UDPConn{}, open: map[*net.UDPConn]map[netip.AddrPort]bool{},
		wake: make(chan struct{}), closed: make(chan struct{}), in: make(chan heard, 256),
	}
}

func (n *natConn) WriteTo(b []byte, a net.Addr) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := addrPort(a)
	if n.cut != nil && n.cut(to) {
		return len(b), nil
	}
	var key netip.AddrPort
	if n.symmetric {
		key = to
	}
	c := n.sockets[key]
	if c == nil {
		var err error
		if c, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			return 0, err
		}
		n.sockets[key], n.open[c] = c, map[netip.AddrPort]bool{}
		n.wg.Go(func() { n.serve(c) })
	}
	n.open[c][to] = true
	return c.WriteToUDPAddrPort(b, to)
}

func (n *natConn) serve(c *net.UDPConn) {
	b := make([]byte, 2048)
	for {
		k, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		n.mu.Lock()
		ok := err == nil && n.open[c][unmap(from)] && (n.cut == nil || !n.cut(unmap(from)))
		n.mu.Unlock()
		if ok {
			select {
			case n.in <- heard{from: unmap(from), b: append([]byte(nil), b[:k]...)}:
			default:
			}
		}
	}
}

func (n *natConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n.mu.Lock()
		wake, deadline := n.wake, n.deadline
		n.mu.Unlock()
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			return 0, nil, os.ErrDeadlineExceeded
		}
		select {
		case h := <-n.in:
			return copy(b, h.b), net.UDPAddrFromAddrPort(h.from), nil
		case <-n.closed:
			return 0, nil, net.ErrClosed
		case <-wake:
		}
	}
}

func (n *natConn) Close() error {
	n.mu.Lock()
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	for _, c := range n.sockets {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
	return nil
}

func (n *natConn) SetReadDeadline(t time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deadline = t
	close(n.wake)
	n.wake = make(chan struct{})
	return nil
}

func (n *natConn) LocalAddr() net.Addr                { return &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }
func (n *natConn) SetDeadline(t time.Time) error      { return n.SetReadDeadline(t) }
func (n *natConn) SetWriteDeadline(t time.Time) error { return nil }

// TestNATsOnLoopback is TestPunch and TestDirectDies on real sockets.
func TestNATsOnLoopback(t *testing.T) {
	listen := func(ctx context.Context, addr string) (net.PacketConn, error) {
		return new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
	}
	for name, symmetric := range map[string]bool{"cone": false, "symmetric": true} {
		t.Run(name, func(t *testing.T) {
			var nats [2]*natConn
			cfgs := [2]Config{}
			for i := range nats {
				nats[i] = newNATConn(symmetric)
				cfgs[i].Open = func(context.Context, string) (net.PacketConn, error) { return nats[i], nil }
			}
			s := &scene{couple: newCouple(t, cfgs[0], cfgs[1]), relay: newRelay(listen, ID{3}, true)}
			defer s.close()
			s.closers = append(s.closers, s.relay.close)
			s.binding = s.bind(s.relay)
			s.dial(net.UDPAddrFromAddrPort(s.binding.Addr()))
			s.mustRally(1 << 20)
			if symmetric {
				if at, direct := s.buyer.mover.Route(); direct {
					t.Fatal("direct to", at)
				}
				return
			}
			s.within(3*time.Second, true)
			s.mustRally(1 << 20)
			for i, n := range nats {
				n.mu.Lock()
				n.cut = func(a netip.AddrPort) bool { return a != s.relay.side(i).Addr }
				n.mu.Unlock()
			}
			done := make(chan error, 1)
			s.wg.Go(func() { done <- s.rally(1 << 20) })
			s.within(5*time.Second, false)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}
