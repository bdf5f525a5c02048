package path

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"
	"golang.org/x/net/ipv4"
)

// settled waits until the agent sends to the buyer's present port.
func (c *couple) settled() {
	c.t.Helper()
	want := addrPort(c.buyer.sock.LocalAddr()).Port()
	timeout := time.After(time.Minute)
	for {
		if at, _ := c.agent.mover.Route(); at.Port() == want {
			return
		}
		select {
		case <-c.agent.moved:
		case <-timeout:
			at, _ := c.agent.mover.Route()
			c.t.Fatalf("the agent sends to %v, the buyer is at %v", at, c.buyer.sock.LocalAddr())
		}
	}
}

// TestLoopback moves megabytes through sockets of the kernel, and the buyer to
// other ports meanwhile: on one address, and on wildcard ones, where the agent
// has to answer from the address that it was asked at.
func TestLoopback(t *testing.T) {
	for _, tt := range []struct{ name, buyer, agent, dial string }{
		{"IPv4", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "[::1]:0", "[::1]:0", "::1"},
		{"dual stack, IPv4", ":0", ":0", "127.0.0.2"},
		{"dual stack, IPv6", ":0", ":0", "::1"},
		{"IPv4 wildcard", "0.0.0.0:0", "0.0.0.0:0", "127.0.0.3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.buyer == "[::1]:0" || tt.dial == "::1" {
				needIPv6(t)
			}
			c := newCouple(t, Config{Addr: tt.buyer}, Config{Addr: tt.agent})
			defer c.close()
			port := addrPort(c.agent.sock.LocalAddr()).Port()
			c.dial(&net.UDPAddr{IP: net.ParseIP(tt.dial), Port: int(port)})
			done := make(chan error, 1)
			c.wg.Go(func() { done <- c.rally(4 << 20) })
			for range 3 {
				if err := c.rally(512 << 10); err != nil {
					t.Fatal(err)
				}
				if err := c.buyer.sock.Rebind(context.Background()); err != nil {
					t.Fatal(err)
				}
				c.settled()
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func needIPv6(t *testing.T) {
	t.Helper()
	if c, err := net.ListenPacket("udp", "[::1]:0"); err == nil {
		c.Close()
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no IPv6 on loopback")
	}
	t.Skip("no IPv6 on loopback")
}

// TestFamilies moves a connection from IPv4 to IPv6 and back in mid-transfer.
func TestFamilies(t *testing.T) {
	needIPv6(t)
	c := newCouple(t, Config{}, Config{})
	defer c.close()
	port := addrPort(c.agent.sock.LocalAddr()).Port()
	c.dial(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	done := make(chan error, 1)
	c.wg.Go(func() { done <- c.rally(4 << 20) })
	for _, ip := range []string{"::1", "127.0.0.1", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(ip), port)
		c.buyer.mover.Use(to)
		c.buyer.force(to)
		for {
			if at, _ := c.agent.mover.Route(); at.Addr() == to.Addr() {
				break
			}
			<-c.agent.moved
		}
		if err := c.rally(512 << 10); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// force lets the buyer choose a path that it would not have to.
func (e *end) force(to netip.AddrPort) {
	st := &e.sock.state
	st.mu.Lock()
	m := e.mover
	m.m.settle(time.Now(), m.m.find(to))
	var w work
	st.collect(time.Now(), m, &w)
	st.mu.Unlock()
	e.sock.do(context.Background(), w)
}

// TestFixedPort keeps the port over a Rebind.
func TestFixedPort(t *testing.T) {
	probe := must[net.PacketConn](t)(net.ListenPacket("udp", "127.0.0.1:0"))
	addr := probe.LocalAddr().String()
	probe.Close()
	c := newCouple(t, Config{Addr: "127.0.0.1:0"}, Config{Addr: addr})
	defer c.close()
	c.dial(c.agent.sock.LocalAddr())
	for range 3 {
		if err := c.agent.sock.Rebind(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := c.agent.sock.LocalAddr().String(); got != addr {
			t.Fatalf("at %v, was %v", got, addr)
		}
		if err := c.rally(512 << 10); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnreachable has nothing below that can reach anybody for a while, nor at
// last anything below at all.
func TestUnreachable(t *testing.T) {
	broken := errors.New("no more sockets")
	var deny error
	open := func(ctx context.Context, addr string) (net.PacketConn, error) {
		if deny != nil {
			return nil, deny
		}
		return new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
	}
	s := must[*Socket](t)(Listen(context.Background(), Config{Addr: "127.0.0.1:0", Open: open}))
	defer s.Close()
	conn := s.PacketConn().(oobConn)
	far := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9} // not from 127.0.0.1
	if _, _, err := conn.WriteMsgUDP([]byte{0x40, 1, 2}, nil, far); err != nil {
		t.Error("a connection would end by", err)
	}
	if _, _, err := conn.WriteMsgUDP([]byte{0xc0, 1, 2}, nil, far); err == nil {
		t.Error("a dial would wait for nothing")
	}
	m := must[*Mover](t)(s.Attach(Path{Addr: far}))
	if _, _, err := conn.WriteMsgUDP([]byte{0xc0, 1, 2}, nil, far); err != nil {
		t.Error(err)
	}
	if m.peer.failed.Load() != 1 || m.peer.sent.Load() != 0 {
		t.Error("not counted as failed")
	}
	near := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}
	if _, _, err := conn.WriteMsgUDP(make([]byte, 1<<16-1), nil, near); !errors.Is(err, syscall.EMSGSIZE) {
		t.Error("quic-go is not told that a packet was too large:", err)
	}
	deny = broken
	before := s.LocalAddr().String()
	if err := s.Rebind(context.Background()); !errors.Is(err, broken) || s.LocalAddr().String() != before {
		t.Error(err, s.LocalAddr())
	}
	s.Close()
	if _, _, err := conn.WriteMsgUDP([]byte{0x40, 1, 2}, nil, near); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, _, err := conn.ReadFrom(make([]byte, 2000)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Attach(Path{Addr: &net.UnixAddr{}}); !errors.Is(err, ErrPath) {
		t.Error(err)
	}
}

// TestAllocations holds the packet path to none of ours.
func TestAllocations(t *testing.T) {
	s := must[*Socket](t)(Listen(context.Background(), Config{Addr: "127.0.0.1:0"}))
	defer s.Close()
	at := addrPort(s.LocalAddr())
	self := net.UDPAddrFromAddrPort(at)
	m := must[*Mover](t)(s.Attach(Path{Addr: self}))
	ms := []ipv4.Message{{Buffers: [][]byte{make([]byte, MaxProbe)}, OOB: make([]byte, oobSize)}}
	b := bytes.Repeat([]byte{0x40}, 1200)
	conn := s.PacketConn().(oobConn)
	turn := func() {
		if _, _, err := conn.WriteMsgUDP(b, nil, self); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.ReadBatch(ms, 0); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n := testing.AllocsPerRun(1000, turn); n > 0 {
		t.Errorf("%v allocations a packet", n)
	}
	s.state.update(func(tb *table) { tb.place(m.peer, &route{to: at, local: at.Addr(), rewrite: true}) })
	if n := testing.AllocsPerRun(1000, turn); n > 2 {
		t.Errorf("%v allocations a batch to a peer that moved", n)
	}
}

// TestNewcomer is somebody new at an address from which another one has moved:
// a relay's port, allotted again.
func TestNewcomer(t *testing.T) {
	c := newCouple(t, Config{Addr: "127.0.0.1:0"}, Config{Addr: "127.0.0.1:0"})
	defer c.close()
	c.dial(c.agent.sock.LocalAddr())
	old := c.buyer.sock.LocalAddr().String()
	if err := c.buyer.sock.Rebind(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.settled()
	second := newEnd(t, Config{Addr: old})
	defer second.sock.Close()
	defer second.transport.Close()
	_, client := tlsConfigs(t)
	var err error
	second.conn, err = second.transport.Dial(c.ctx, c.agent.sock.LocalAddr(), client, c.config)
	if err != nil {
		t.Fatal(err)
	}
	third := must[*quicgo.Conn](t)(c.ln.Accept(c.ctx))
	if a := third.RemoteAddr().String(); !strings.HasPrefix(a, "240.0.0.") {
		t.Errorf("QUIC knows it by %v", a)
	}
	first := c.agent
	c.agent = &end{sock: first.sock, transport: first.transport, conn: third, moved: make(chan bool, 64), lost: make(chan struct{}, 64)}
	c.agent.attach(t, false)
	second.attach(t, true)
	c.echoes()
	both := [2]*end{c.buyer, second}
	for range 3 {
		for _, e := range both {
			c.buyer = e
			if err := c.rally(100_000); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = second.conn.CloseWithError(0, "")
	_ = third.CloseWithError(0, "")
	c.agent.mover.Close()
	second.mover.Close()
	c.agent, c.buyer = first, both[0]
}
