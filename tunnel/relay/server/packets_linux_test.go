package server

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/depinsim/x402/tunnel/path"
)

// A wire is a session of a packet path alone, and plain sockets of its sides.
type wire struct {
	c     *packetConfig
	s     *session
	f     *forwarder
	ports [2]netip.AddrPort
	sides [2]*testSide
	conns [2]*net.UDPConn
}

func newWire(t testing.TB, change func(*packetConfig, *session)) *wire {
	t.Helper()
	loop := netip.MustParseAddr("127.0.0.1")
	w := &wire{s: testSession(t), c: &packetConfig{ip: loop, four: true, cookies: testCookies(), log: discard()}}
	if change != nil {
		change(w.c, w.s)
	}
	var err error
	if w.f, err = newForwarder(w.c, 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.f.run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	w.f.assign(w.s)
	ports, err := w.f.open(w.s)
	if err != nil {
		t.Fatal(err)
	}
	for side, p := range ports {
		w.ports[side] = netip.AddrPortFrom(loop, p)
		if w.conns[side], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		conn := w.conns[side]
		_ = conn.SetReadBuffer(8 << 20)
		t.Cleanup(func() { _ = conn.Close() })
		w.sides[side] = &testSide{s: w.s, side: side}
	}
	return w
}

func (w *wire) send(t testing.TB, side int, b []byte) {
	t.Helper()
	if _, err := w.conns[side].WriteToUDPAddrPort(b, w.ports[side]); err != nil {
		t.Fatal(err)
	}
}

// read returns the next datagram at a side, nil if there is none for a while.
func (w *wire) read(t testing.TB, side int, wait time.Duration) []byte {
	t.Helper()
	b := make([]byte, 1<<16)
	_ = w.conns[side].SetReadDeadline(time.Now().Add(wait))
	n, from, err := w.conns[side].ReadFromUDPAddrPort(b)
	if err != nil {
		return nil
	}
	if from != w.ports[side] {
		t.Errorf("a packet from %s", from)
	}
	return b[:n]
}

// bind binds a side by real packets.
func (w *wire) bind(t testing.TB, side int) path.Bound {
	t.Helper()
	b := w.sides[side]
	for range 2 {
		w.send(t, side, b.packet())
		answer := w.read(t, side, hang)
		if c, err := path.ParseChallenge(answer, b.key()); err == nil {
			b.cookie = c.Cookie
			continue
		}
		bound, err := path.ParseBound(answer, b.key())
		if err != nil {
			t.Fatalf("answer %x", answer)
		}
		return bound
	}
	t.Fatal("challenged twice")
	return path.Bound{}
}

// sendGSO sends b as datagrams of a size, which the relay's kernel may put
// together again.
func (w *wire) sendGSO(t testing.TB, side int, b []byte, size int) {
	t.Helper()
	control := make([]byte, controlSpace)
	control = control[:gsoControl(control, size)]
	if _, _, err := w.conns[side].WriteMsgUDPAddrPort(b, control, w.ports[side]); err != nil {
		t.Fatal(err)
	}
}

// packet makes the n-th datagram of a size.
func packet(n, size int) []byte {
	b := bytes.Repeat([]byte{0x40 | byte(n&0x3f)}, size)
	copy(b[1:], fmt.Sprint(n))
	return b
}

// TestCopies sends datagrams of all sizes, alone and in trains, both ways:
// they arrive unchanged, each by itself, in order.
func TestCopies(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			w := newWire(t, nil)
			for _, worker := range w.f.workers {
				worker.order(func() { worker.out.plain = plain })
			}
			w.bind(t, agentSide)
			w.bind(t, buyerSide)
			rng := rand.New(rand.NewPCG(1, 2))
			for side := range 2 {
				for round := range 100 {
					var want [][]byte
					for bytes := 0; len(want) < 40 && bytes < 200_000; { // what a socket of anybody's holds
						size := []int{2, 20, 70, 1200, 1252, 1452, 9000, 60000}[rng.IntN(8)]
						count := 1
						if size < 9000 {
							count = 1 + rng.IntN(min(30, 30000/size))
						}
						var train []byte
						for range count {
							p := packet(rng.IntN(1000), size)
							if len(train)/size == count-1 && rng.IntN(2) == 0 { // the last may be shorter
								p = p[:1+rng.IntN(size)]
							}
							want = append(want, p)
							train = append(train, p...)
						}
						bytes += len(train)
						if count > 1 {
							w.sendGSO(t, side, train, size)
						} else {
							w.send(t, side, train)
						}
					}
					for i, p := range want {
						if got := w.read(t, 1-side, hang); !bytes.Equal(got, p) {
							t.Fatalf("side %d, round %d: datagram %d of %d bytes came as %d", side, round, i, len(p), len(got))
						}
					}
				}
			}
			if n := w.c.dropped.Load(); n != 0 {
				t.Errorf("%d dropped", n)
			}
		})
	}
}

// TestBindsAmongData: control packets in the middle of a train are taken out,
// types that are the ends' own pass, and nothing else is lost.
func TestBindsAmongData(t *testing.T) {
	w := newWire(t, nil)
	w.bind(t, agentSide)
	w.bind(t, buyerSide)
	for at := range 4 {
		var train []byte
		var want [][]byte
		for i := range 4 {
			p := packet(i, path.BindSize)
			switch {
			case i == at:
				p = w.sides[agentSide].packet()
			case i == (at+1)%4:
				key := path.Key{1}
				p = path.Probe{Path: path.ID{1}, Counter: uint64(at)}.Append(nil, &key, path.BindSize)
				want = append(want, p)
			default:
				want = append(want, p)
			}
			train = append(train, p...)
		}
		w.sendGSO(t, agentSide, train, path.BindSize)
		for i, p := range want {
			if got := w.read(t, buyerSide, hang); !bytes.Equal(got, p) {
				t.Fatalf("bind at %d: datagram %d is %x", at, i, got)
			}
		}
		b, err := path.ParseBound(w.read(t, agentSide, hang), w.sides[agentSide].key())
		if err != nil || b.Counter != w.sides[agentSide].counter {
			t.Errorf("bind at %d: %+v, %v", at, b, err)
		}
	}
	// Answers are the relay's to give, and go nowhere.
	key := w.sides[agentSide].key()
	w.send(t, agentSide, path.Bound{Session: path.ID(w.s.id), Counter: 99}.Append(nil, key))
	w.send(t, agentSide, []byte{0, 2})
	w.send(t, agentSide, packet(7, 9))
	if got := w.read(t, buyerSide, hang); !bytes.Equal(got, packet(7, 9)) {
		t.Errorf("the buyer was sent %x", got)
	}
}

// TestStrangersPackets: only who bound a port may use it, and nobody is told
// anything before both have.
func TestStrangersPackets(t *testing.T) {
	w := newWire(t, func(_ *packetConfig, s *session) { s.direct = true })
	w.bind(t, agentSide)
	w.send(t, agentSide, packet(1, 100)) // to nobody
	w.untilDropped(t, 1, func() { w.bind(t, agentSide) })
	bound := w.bind(t, buyerSide)
	if bound.Peer != w.conns[agentSide].LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Errorf("peer %s", bound.Peer)
	}
	// The agent hears at once that its peer has come.
	again, err := path.ParseBound(w.read(t, agentSide, hang), w.sides[agentSide].key())
	if err != nil || again.Peer != bound.Self || again.Counter != w.sides[agentSide].counter {
		t.Errorf("%+v, %v", again, err)
	}
	thief, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	for side := range 2 {
		if _, err := thief.WriteToUDPAddrPort(packet(2, 1300), w.ports[side]); err != nil {
			t.Fatal(err)
		}
		w.send(t, side, packet(3, 100))
		if got := w.read(t, 1-side, hang); !bytes.Equal(got, packet(3, 100)) {
			t.Errorf("side %d was sent %x", 1-side, got)
		}
	}
	w.untilDropped(t, 3, func() {
		w.send(t, agentSide, packet(4, 10))
		if got := w.read(t, buyerSide, hang); !bytes.Equal(got, packet(4, 10)) {
			t.Fatalf("the buyer was sent %x", got)
		}
	})
}

// untilDropped passes time by what turn does until n packets have been
// dropped. The kernel may be late with one while later ones of other sockets
// are there, and what was dropped is counted behind what was passed on.
func (w *wire) untilDropped(t testing.TB, n uint64, turn func()) {
	t.Helper()
	deadline := time.Now().Add(hang)
	for w.c.dropped.Load() < n {
		if time.Now().After(deadline) {
			t.Fatalf("%d dropped, want %d", w.c.dropped.Load(), n)
		}
		turn()
	}
	if got := w.c.dropped.Load(); got != n {
		t.Errorf("%d dropped, want %d", got, n)
	}
}

// TestAmplification measures what the relay sends to an address that has not
// answered: never more than came from there.
func TestAmplification(t *testing.T) {
	w := newWire(t, nil)
	w.bind(t, buyerSide)
	spoofed := w.conns[agentSide]
	sent, got := 0, 0
	side := w.sides[agentSide]
	buf := make([]byte, 2000)
	for i := range 200 {
		side.cookie = [path.CookieSize]byte{byte(i)} // an attacker does not see what he is sent
		p := side.packet()
		w.send(t, agentSide, p)
		sent += len(p)
		for _, junk := range [][]byte{packet(1, 1300), {0}, {0, 1}, bytes.Repeat([]byte{0}, 1400), p[:40]} {
			w.send(t, agentSide, junk)
			sent += len(junk)
		}
		w.send(t, buyerSide, packet(2, 1400)) // which must not go to the agent's port's caller
		_ = spoofed.SetReadDeadline(time.Now().Add(hang))
		n, err := spoofed.Read(buf)
		if err != nil {
			t.Fatalf("after %d challenges: %v", i, err)
		}
		if got += n; n != path.ChallengeSize {
			t.Fatalf("%d bytes came: %x", n, buf[:n])
		}
	}
	_ = spoofed.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := spoofed.Read(buf); err == nil {
		t.Errorf("%d bytes more", n)
	}
	t.Logf("sent %d bytes, got %d: factor %.3f; of a Bind alone %.2f", sent, got, float64(got)/float64(sent), float64(path.ChallengeSize)/float64(path.BindSize))
	if got > 200*path.BindSize {
		t.Errorf("%d bytes for %d of binds", got, 200*path.BindSize)
	}
}

// TestRate: a session's bytes are bounded, and what is beyond is dropped.
func TestRate(t *testing.T) {
	worker, sl := &worker{packetConfig: &packetConfig{limitBytes: 1000}}, &slot{}
	worker.now = time.Unix(100, 0)
	passed := 0
	for range 100 { // ten seconds
		for range 10 {
			if worker.withinRate(sl, 50) {
				passed += 50
			}
		}
		worker.now = worker.now.Add(100 * time.Millisecond)
	}
	if passed < 9_800 || passed > 10_300 {
		t.Errorf("%d bytes passed in ten seconds", passed)
	}
}

// TestPorts: sessions use the range, and a full one is an error that leaves
// nothing behind.
func TestPorts(t *testing.T) {
	ip := netip.MustParseAddr("127.0.0.1")
	// Find three ports in a row that are free.
	var first uint16
	for first = 41_000; ; first += 3 {
		free := 0
		for p := first; p < first+3; p++ {
			if fd, _, err := listenUDP(netip.AddrPortFrom(ip, p)); err == nil {
				free++
				_ = unix.Close(fd)
			}
		}
		if free == 3 {
			break
		}
	}
	ports := Ports{first, first + 2}
	seen := map[uint16]bool{}
	for range 3 {
		fd, p, err := listenPort(ip, ports)
		if err != nil || p < ports.First || p > ports.Last || seen[p] {
			t.Fatalf("port %d, %v", p, err)
		}
		seen[p] = true
		defer unix.Close(fd)
	}
	if _, _, err := listenPort(ip, ports); err == nil {
		t.Error("a fourth port")
	}
	f := &forwarder{ip: ip, ports: ports}
	if _, err := f.open(testSession(t)); err == nil {
		t.Error("a session without ports")
	}
}

// TestSixAndFour: a relay that listens on all addresses of IPv6 serves IPv4
// too.
func TestSixAndFour(t *testing.T) {
	fd, port, err := listenUDP(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		if probe, perr := net.ListenPacket("udp6", "[::1]:0"); perr != nil {
			t.Logf("no IPv6 here: %v", perr)
			return
		} else {
			_ = probe.Close()
		}
		t.Fatal(err)
	}
	defer unix.Close(fd)
	conn, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	_, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		t.Fatal(err)
	}
	six := from.(*unix.SockaddrInet6)
	got := makeSockaddr(netip.AddrPortFrom(netip.AddrFrom16(six.Addr).Unmap(), uint16(six.Port)), false)
	if a := got.addrPort(got.n); a.String() != conn.LocalAddr().String() {
		t.Errorf("%s, want %s", a, conn.LocalAddr())
	}
	four := makeSockaddr(netip.MustParseAddrPort("192.0.2.1:258"), true)
	if a := four.addrPort(four.n); a.String() != "192.0.2.1:258" || four.n != unix.SizeofSockaddrInet4 {
		t.Errorf("%s", a)
	}
}

// BenchmarkPass passes trains of 40 datagrams of 1,252 bytes through the relay,
// whose packet path allocates nothing; what is counted here is the test's own.
func BenchmarkPass(b *testing.B) {
	w := newWire(b, nil)
	w.bind(b, agentSide)
	w.bind(b, buyerSide)
	const count = 40
	train := bytes.Repeat(packet(1, 1252), count)
	control := make([]byte, controlSpace)
	control = control[:gsoControl(control, 1252)]
	buf := make([]byte, 2000)
	b.SetBytes(int64(len(train)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := w.conns[agentSide].WriteMsgUDPAddrPort(train, control, w.ports[agentSide]); err != nil {
			b.Fatal(err)
		}
		for range count {
			if _, _, err := w.conns[buyerSide].ReadFromUDPAddrPort(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestPaid passes what an account pays for and not a byte more, and says what
// was passed on by direction.
func TestPaid(t *testing.T) {
	a := new(Account)
	w := newWire(t, func(_ *packetConfig, s *session) { s.account = a })
	w.bind(t, agentSide)
	w.bind(t, buyerSide)
	const size = 1000
	w.send(t, agentSide, packet(1, size))
	if got := w.read(t, buyerSide, 100*time.Millisecond); got != nil {
		t.Errorf("a new account passed %d bytes", len(got))
	}
	if a.Refused() == 0 {
		t.Error("nothing waits")
	}
	a.Extend(3*size + size/2)
	for i, side := range []int{agentSide, buyerSide, buyerSide} {
		w.send(t, side, packet(i, size))
		if got := w.read(t, 1-side, 5*time.Second); len(got) != size {
			t.Errorf("packet %d: %d bytes", i, len(got))
		}
	}
	w.sendGSO(t, agentSide, packet(9, 4*size), size) // more than is left, in one piece
	if got := w.read(t, buyerSide, 100*time.Millisecond); got != nil {
		t.Errorf("%d bytes beyond the limit", len(got))
	}
	if up, down := a.Passed(); up != 2*size || down != size {
		t.Errorf("passed %d up, %d down", up, down)
	}
	a.Extend(5 * size)
	w.send(t, agentSide, packet(3, size))
	if got := w.read(t, buyerSide, 5*time.Second); len(got) != size {
		t.Errorf("%d bytes after it was extended", len(got))
	}
	a.End()
	a.Extend(1 << 40)
	w.send(t, agentSide, packet(4, size))
	if got := w.read(t, buyerSide, 100*time.Millisecond); got != nil {
		t.Errorf("%d bytes after its end", len(got))
	}
}

// TestPaidTogether has many reserve of one account at once: together they pass
// what it pays for, and what they gave back is there again.
func TestPaidTogether(t *testing.T) {
	const limit, piece = 1_000_000, 700
	a := new(Account)
	a.Extend(limit)
	var wg sync.WaitGroup
	for side := range 2 {
		for range 4 {
			wg.Go(func() {
				for {
					got := a.reserve(piece)
					if got == 0 {
						return
					}
					a.settle(side, got, (got+1)/2)
				}
			})
		}
	}
	wg.Wait()
	if up, down := a.Passed(); up+down != limit || a.taken.Load() != limit {
		t.Errorf("passed %d and %d, taken %d of %d", up, down, a.taken.Load(), limit)
	}
}

// TestPaidAllocates nothing.
func TestPaidAllocates(t *testing.T) {
	a := new(Account)
	a.Extend(1 << 62)
	sl := &slot{s: &session{account: a}}
	if n := testing.AllocsPerRun(1000, func() {
		sl.left = a.reserve(1 << 16)
		sl.pays(1 << 10)
		a.settle(agentSide, 1<<16, 1<<10)
	}); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}
