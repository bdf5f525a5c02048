package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// associate asks for an association and returns where datagrams go.
func associate(t *testing.T, c net.Conn, announce netip.AddrPort) netip.AddrPort {
	t.Helper()
	send(t, c, []byte{5, 1, 0})
	expect(t, c, []byte{5, 0})
	b := appendReply(nil, 0, announce) // a request has the same form
	b[1] = commandAssociate
	send(t, c, b)
	expect(t, c, []byte{5, 0, 0, 1})
	var got [6]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(got[:4])), binary.BigEndian.Uint16(got[4:]))
}

// datagram is payload with the header for a domain name.
func datagram(name string, port uint16, payload string) []byte {
	b := []byte{0, 0, 0, 3, byte(len(name))}
	return append(append(append(b, name...), byte(port>>8), byte(port)), payload...)
}

// datagramTo is payload with the header for an address.
func datagramTo(to netip.AddrPort, payload string) []byte {
	b := appendReply(nil, 0, to) // all but the first three bytes are alike
	clear(b[:3])
	return append(b, payload...)
}

func dialUDP(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute)) // a hang fails the test
	return c
}

// echoUDP answers each datagram with its text in brackets.
func echoUDP(t *testing.T) string {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(fmt.Appendf(nil, "[%s]", b[:n]), from)
		}
	})
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return c.LocalAddr().String()
}

func expectDatagram(t *testing.T, c *net.UDPConn, want []byte) {
	t.Helper()
	b := make([]byte, maxDatagram)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != string(want) {
		t.Fatalf("got %q, %v; want %q", b[:n], err, want)
	}
}

func TestUDPAddressTypes(t *testing.T) {
	addr := echoUDP(t)
	tunnel := &testTunnel{names: map[string]string{"dns.test:53": addr, "192.0.2.1:53": addr, "[2001:db8::1]:53": addr}}
	control := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	c := dialUDP(t, associate(t, control, netip.AddrPort{}))
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::1]:53")
	big := string(make([]byte, 60_000))
	for range 2 {
		for _, tt := range []struct{ out, back []byte }{
			{datagram("dns.test", 53, "a"), datagram("dns.test", 53, "[a]")},
			{datagramTo(v4, "b"), datagramTo(v4, "[b]")},
			{datagramTo(v6, "c"), datagramTo(v6, "[c]")},
			{datagramTo(v4, ""), datagramTo(v4, "[]")},
			{datagramTo(v4, big), datagramTo(v4, "["+big+"]")},
		} {
			send(t, c, tt.out)
			expectDatagram(t, c, tt.back)
		}
	}
	asked := tunnel.requests()
	slices.Sort(asked)
	if want := []string{"192.0.2.1:53", "[2001:db8::1]:53", "dns.test:53"}; !slices.Equal(asked, want) {
		t.Errorf("tunnel was asked for %q, want %q", asked, want)
	}
}

func TestUDPDropsWhatIsNotForIt(t *testing.T) {
	tunnel := &testTunnel{names: map[string]string{"dns.test:53": echoUDP(t)}}
	control := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	to := associate(t, control, netip.AddrPort{})
	c, stranger := dialUDP(t, to), dialUDP(t, to)
	send(t, c, datagram("dns.test", 53, "first"))
	expectDatagram(t, c, datagram("dns.test", 53, "[first]"))
	send(t, stranger, datagram("dns.test", 53, "stranger"))
	fragment := datagram("dns.test", 53, "fragment")
	fragment[2] = 1
	send(t, c, fragment)
	send(t, c, []byte{0, 0, 0, 7})
	send(t, c, datagram("dns.test", 0, "port 0"))
	send(t, c, datagram("d ns.test", 53, "bad name"))
	send(t, c, datagram("dns.test", 53, "last"))
	expectDatagram(t, c, datagram("dns.test", 53, "[last]"))
}

func TestUDPAnnouncedPort(t *testing.T) {
	tunnel := &testTunnel{names: map[string]string{"dns.test:53": echoUDP(t)}}
	control := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute)) // a hang fails the test
	to := associate(t, control, c.LocalAddr().(*net.UDPAddr).AddrPort())
	send(t, dialUDP(t, to), datagram("dns.test", 53, "stranger"))
	c.WriteToUDPAddrPort(datagram("dns.test", 53, "mine"), to)
	expectDatagram(t, c, datagram("dns.test", 53, "[mine]"))
}

func TestAnnounced(t *testing.T) {
	peer := netip.MustParseAddr("127.0.0.1")
	for in, want := range map[string]string{
		"0.0.0.0:0":               "127.0.0.1:0",
		"0.0.0.0:7000":            "127.0.0.1:7000",
		"[::]:7000":               "127.0.0.1:7000",
		"127.0.0.1:7000":          "127.0.0.1:7000",
		"[::ffff:127.0.0.1]:7000": "127.0.0.1:7000",
		"192.168.1.5:7000":        "127.0.0.1:0",
		"[2001:db8::1]:7000":      "127.0.0.1:0",
	} {
		if got := announced(peer, appendReply(nil, 0, netip.MustParseAddrPort(in))[3:]); got.String() != want {
			t.Errorf("%s: got %v, want %s", in, got, want)
		}
	}
	if got := announced(peer, []byte("\x03\x01a\x00\x35")); got.String() != "127.0.0.1:0" {
		t.Errorf("name: got %v", got)
	}
}

func TestUDPEndsWithTCP(t *testing.T) {
	closed := make(chan struct{})
	tunnel := &testTunnel{udp: func(string, uint16) (net.Conn, error) {
		return &memPackets{closed: closed, in: make(chan string)}, nil
	}}
	control := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	to := associate(t, control, netip.AddrPort{})
	c := dialUDP(t, to)
	send(t, c, datagram("dns.test", 53, "x"))
	// The client reports nothing when its datagram arrives; asked tells.
	for len(tunnel.requests()) == 0 {
		send(t, c, datagram("dns.test", 53, "x"))
	}
	control.Close()
	<-closed
	for { // the socket is closed soon after: the kernel then refuses
		_, err := c.Write([]byte("x"))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// memPackets is a flow of datagrams: what is written goes to out, what is read
// comes from in.
type memPackets struct {
	net.Conn // for the methods that nobody calls
	out      func(string)
	in       chan string
	closed   chan struct{}
	once     sync.Once
}

func (m *memPackets) Read(b []byte) (int, error) {
	select {
	case s, ok := <-m.in:
		if !ok {
			return 0, io.EOF
		}
		return copy(b, s), nil
	case <-m.closed:
		return 0, net.ErrClosed
	}
}

func (m *memPackets) Write(b []byte) (int, error) {
	if m.out != nil {
		m.out(string(b))
	}
	return len(b), nil
}

func (m *memPackets) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// A simSocket is the association's local socket in simulated time.
type simSocket struct {
	in     chan []byte
	out    chan string
	closed chan struct{}
	once   sync.Once
}

var simClient = netip.MustParseAddrPort("127.0.0.1:50000")

func newSimSocket() *simSocket {
	return &simSocket{in: make(chan []byte, 1000), out: make(chan string, 1000), closed: make(chan struct{})}
}

func (s *simSocket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-s.in:
		return copy(b, d), simClient, nil
	case <-s.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (s *simSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.out <- fmt.Sprintf("%v %s", to, b)
	return len(b), nil
}

func (s *simSocket) Close() error { s.once.Do(func() { close(s.closed) }); return nil }

// A simFlows tunnel records what happens to its flows.
type simFlows struct {
	mu    sync.Mutex
	log   []string
	flows map[string]*memPackets // the newest by name
}

func (s *simFlows) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// take returns the record since the last call, once all is quiet.
func (s *simFlows) take() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

func (s *simFlows) dial(host string, _ uint16) (net.Conn, error) {
	s.note("open %s", host)
	m := &memPackets{in: make(chan string), closed: make(chan struct{}), out: func(b string) { s.note("%s %s", host, b) }}
	s.mu.Lock()
	s.flows[host] = m
	s.mu.Unlock()
	return &loggedClose{m, func() { s.note("close %s", host) }}, nil
}

type loggedClose struct {
	*memPackets
	log func()
}

func (l *loggedClose) Close() error {
	l.once.Do(func() {
		l.log()
		close(l.closed)
	})
	return nil
}

// simulate runs test in simulated time with an association on socket.
func simulate(t *testing.T, cfg Config, test func(t *testing.T, socket *simSocket, control net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ln, socket := newPipeListener(), newSimSocket()
		run(t, func(ctx context.Context) error {
			return serveSOCKS5(ctx, ln, cfg, func(netip.Addr) (packetConn, netip.AddrPort, error) {
				return socket, netip.MustParseAddrPort("127.0.0.1:50001"), nil
			})
		})
		control := ln.dial()
		if got := associate(t, control, netip.AddrPort{}); got.Port() != 50001 {
			t.Fatalf("bound to %v", got)
		}
		test(t, socket, control)
	})
}

func expectLog(t *testing.T, s *simFlows, want ...string) {
	t.Helper()
	if got := s.take(); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestUDPIdleExpiry(t *testing.T) {
	flows := &simFlows{flows: make(map[string]*memPackets)}
	cfg := Config{Tunnel: &testTunnel{udp: flows.dial}, UDPIdle: 2 * time.Minute}
	simulate(t, cfg, func(t *testing.T, socket *simSocket, _ net.Conn) {
		socket.in <- datagram("out", 1, "x")
		socket.in <- datagram("in", 1, "x")
		socket.in <- datagram("idle", 1, "x")
		got := flows.take()
		slices.Sort(got) // the flows open side by side
		if want := []string{"idle x", "in x", "open idle", "open in", "open out", "out x"}; !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		for range 10 { // either direction keeps a flow open
			time.Sleep(time.Minute)
			socket.in <- datagram("out", 1, "x")
			flows.flows["in"].in <- "y"
		}
		var closed []string
		for _, line := range flows.take() {
			if line != "out x" {
				closed = append(closed, line)
			}
		}
		if want := []string{"close idle"}; !slices.Equal(closed, want) {
			t.Fatalf("got %q, want %q", closed, want)
		}
		time.Sleep(2*time.Minute - time.Second)
		expectLog(t, flows)
		time.Sleep(time.Minute)
		if got := flows.take(); len(got) != 2 {
			t.Fatalf("got %q, want two flows closed", got)
		}
		socket.in <- datagram("idle", 1, "back")
		expectLog(t, flows, "open idle", "idle back")
	})
}

func TestUDPCapClosesLeastRecentlyUsed(t *testing.T) {
	flows := &simFlows{flows: make(map[string]*memPackets)}
	cfg := Config{Tunnel: &testTunnel{udp: flows.dial}, UDPTargets: 3}
	simulate(t, cfg, func(t *testing.T, socket *simSocket, _ net.Conn) {
		for _, name := range []string{"a", "b", "c"} {
			socket.in <- datagram(name, 1, "x")
			expectLog(t, flows, "open "+name, name+" x")
		}
		socket.in <- datagram("a", 1, "x")
		flows.take()
		flows.flows["b"].in <- "answer"
		flows.take()
		socket.in <- datagram("d", 1, "x")
		got := flows.take()
		slices.Sort(got)
		if want := []string{"close c", "d x", "open d"}; !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// A target that is refused rests a second, then is asked again.
func TestUDPRefusedTargetRests(t *testing.T) {
	tunnel := &testTunnel{udp: func(string, uint16) (net.Conn, error) { return nil, blockedError{} }}
	simulate(t, Config{Tunnel: tunnel}, func(t *testing.T, socket *simSocket, _ net.Conn) {
		for range 50 {
			for range 10 {
				socket.in <- datagram("a", 1, "x")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := len(tunnel.requests()); got != 5 {
			t.Errorf("asked %d times in five seconds", got)
		}
	})
}

// A flow that the far end ends is opened again by the next datagram.
func TestUDPFlowEnds(t *testing.T) {
	flows := &simFlows{flows: make(map[string]*memPackets)}
	simulate(t, Config{Tunnel: &testTunnel{udp: flows.dial}}, func(t *testing.T, socket *simSocket, _ net.Conn) {
		socket.in <- datagram("a", 1, "x")
		expectLog(t, flows, "open a", "a x")
		flows.flows["a"].in <- "y"
		if got := <-socket.out; got != "127.0.0.1:50000 "+string(datagram("a", 1, "y")) {
			t.Errorf("got %q", got)
		}
		time.Sleep(2 * time.Second)
		close(flows.flows["a"].in)
		expectLog(t, flows, "close a")
		socket.in <- datagram("a", 1, "z")
		expectLog(t, flows, "open a", "a z")
	})
}

// Datagrams wait, in order and few, while their flow is being opened; other
// targets do not wait for it.
func TestUDPSlowOpen(t *testing.T) {
	flows := &simFlows{flows: make(map[string]*memPackets)}
	tunnel := &testTunnel{udp: func(host string, port uint16) (net.Conn, error) {
		if host == "slow" {
			time.Sleep(5 * time.Second)
		}
		return flows.dial(host, port)
	}}
	simulate(t, Config{Tunnel: tunnel}, func(t *testing.T, socket *simSocket, _ net.Conn) {
		for i := range 100 {
			socket.in <- datagram("slow", 1, fmt.Sprint(i))
		}
		socket.in <- datagram("fast", 1, "x")
		expectLog(t, flows, "open fast", "fast x")
		time.Sleep(6 * time.Second)
		want := []string{"open slow"}
		for i := range maxWaiting {
			want = append(want, fmt.Sprintf("slow %d", i))
		}
		expectLog(t, flows, want...)
		socket.in <- datagram("slow", 1, "more")
		expectLog(t, flows, "slow more")
	})
}

func TestUDPNeedsTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		ln := newPipeListener()
		run(t, func(ctx context.Context) error { return ServeSOCKS5(ctx, ln, Config{Tunnel: &testTunnel{}}) })
		ln.conns <- far // without the addresses of a TCP connection
		send(t, near, []byte{5, 1, 0})
		expect(t, near, []byte{5, 0})
		send(t, near, []byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
		expect(t, near, []byte{5, replyNoCommand, 0, 1, 0, 0, 0, 0, 0, 0})
	})
}
