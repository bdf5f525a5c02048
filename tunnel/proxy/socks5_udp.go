package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxDatagram = 65535 // of UDP, header included

	// maxWaiting bounds the datagrams kept while a flow is being opened.
	maxWaiting = 16
	// redial is how long a target rests after its flow began, so that one
	// that is refused costs one request a second.
	redial = time.Second
	// sweeps divide UDPIdle: a flow goes when that many saw it quiet.
	sweeps = 4
)

// A packetConn is the part of *net.UDPConn that an association needs.
type packetConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	Close() error
}

// A listenFunc opens a socket on a free port of ip, and names its address.
type listenFunc func(ip netip.Addr) (packetConn, netip.AddrPort, error)

func listenUDP(ip netip.Addr) (packetConn, netip.AddrPort, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	c.SetReadBuffer(1 << 20) // for bursts; what the kernel allows is good enough
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

var errAssociationEnded = errors.New("the client closed its association")

// An association carries the datagrams of one UDP ASSOCIATE, one flow of the
// tunnel for each target, until its TCP connection ends.
type association struct {
	gate   *gate
	tunnel Tunnel
	local  packetConn
	client netip.AddrPort // whom to serve; port 0 until the first datagram names it; fromClient's
	turn   atomic.Uint64  // rises with each datagram: which flow was used last

	mu    sync.Mutex
	flows map[string]*udpFlow // by the address on the wire
}

func (s *socksConn) associate(ctx context.Context, address []byte) error {
	here, ok := s.LocalAddr().(*net.TCPAddr)
	peer, ok2 := s.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		s.reply(replyNoCommand, netip.AddrPort{}) // the error says more
		return errors.New("datagrams need a TCP listener")
	}
	local, bound, err := s.listen(here.AddrPort().Addr().Unmap())
	if err != nil {
		s.reply(replyFailure, netip.AddrPort{}) // err says more
		return err
	}
	a := &association{
		gate:   s.gate,
		tunnel: s.tunnel,
		local:  local,
		client: announced(peer.AddrPort().Addr().Unmap(), address),
		flows:  make(map[string]*udpFlow),
	}
	if err := s.reply(replyOK, bound); err != nil {
		return errors.Join(err, local.Close())
	}
	s.SetDeadline(time.Time{})
	return a.run(ctx, s)
}

// announced returns the address that datagrams must come from: always peer's,
// and from the port that the request names for it. Clients that do not know
// their address send zeros (RFC 1928 section 6), and those behind an address
// translation a useless one: then the first datagram tells the port.
func announced(peer netip.Addr, address []byte) netip.AddrPort {
	host, port := parseAddress(address)
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.IsUnspecified() && addr.Unmap() != peer {
		port = 0
	}
	return netip.AddrPortFrom(peer, port)
}

// run carries datagrams until control ends or ctx is cancelled.
func (a *association) run(ctx context.Context, control net.Conn) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return watch(control) })
	g.Go(func() error { return a.fromClient(gctx, g) })
	g.Go(func() error { return a.sweep(gctx) })
	g.Go(func() error {
		<-gctx.Done()
		return errors.Join(control.Close(), a.local.Close())
	})
	err := g.Wait()
	if ctx.Err() != nil || errors.Is(err, errAssociationEnded) {
		return nil
	}
	return err
}

// watch waits for the end of the TCP connection; nothing is expected on it.
func watch(control net.Conn) error {
	var buf [64]byte
	for {
		if _, err := control.Read(buf[:]); err != nil {
			return errAssociationEnded
		}
	}
}

// fromClient sends the client's datagrams on. It starts flows in g.
func (a *association) fromClient(ctx context.Context, g *errgroup.Group) error {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := a.local.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		if !a.accepts(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			continue
		}
		address, payload, err := parseDatagram(buf[:n])
		if err != nil {
			a.gate.cfg.Logger.Debug("socks5 datagram", "err", err)
			continue
		}
		if f := a.flow(ctx, g, address); f != nil {
			f.used.Store(a.turn.Add(1))
			f.send(payload)
		}
	}
}

// accepts says whether from is the client, which the first datagram settles.
func (a *association) accepts(from netip.AddrPort) bool {
	if a.client.Port() == 0 && from.Addr() == a.client.Addr() {
		a.client = from
	}
	return from == a.client
}

// flow returns the flow to an address on the wire, if need be a new one that
// it starts in g; nil if the target is no good or rests.
func (a *association) flow(ctx context.Context, g *errgroup.Group, address []byte) *udpFlow {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.flows[string(address)]
	if f != nil && !f.ended.Load() {
		return f
	}
	if f != nil && time.Since(f.started) < redial {
		return nil
	}
	t, err := newTarget(parseAddress(address))
	if err != nil {
		return nil
	}
	if f == nil && len(a.flows) >= a.gate.cfg.UDPTargets {
		a.evict()
	}
	ctx, cancel := context.WithCancel(ctx)
	f = &udpFlow{
		association: a,
		target:      t,
		client:      a.client,
		head:        append([]byte{0, 0, 0}, address...),
		started:     time.Now(),
		cancel:      cancel,
	}
	a.flows[string(address)] = f
	g.Go(func() error { f.run(ctx); return nil })
	return f
}

// evict closes the flow that was used least recently. The caller holds mu.
func (a *association) evict() {
	var key string
	var oldest *udpFlow
	for k, f := range a.flows {
		if oldest == nil || f.used.Load() < oldest.used.Load() {
			key, oldest = k, f
		}
	}
	oldest.cancel()
	delete(a.flows, key)
}

// sweep closes flows that were quiet for UDPIdle, up to a sweep longer.
func (a *association) sweep(ctx context.Context) error {
	tick := time.NewTicker(max(a.gate.cfg.UDPIdle/sweeps, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			a.closeQuiet()
		}
	}
}

func (a *association) closeQuiet() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, f := range a.flows {
		used := f.used.Load()
		if used != f.seen {
			f.seen, f.quiet = used, 0
			continue
		}
		if f.quiet++; f.quiet >= sweeps || f.ended.Load() {
			f.cancel()
			delete(a.flows, key)
		}
	}
}

// A udpFlow is one target of an association.
type udpFlow struct {
	association *association
	target      target
	client      netip.AddrPort
	head        []byte // of the datagrams to the client: the target as it named it
	started     time.Time
	cancel      context.CancelFunc
	used        atomic.Uint64 // turn of the last datagram
	ended       atomic.Bool

	seen  uint64 // used, at the last sweep; under association.mu like quiet
	quiet int    // sweeps that saw no use

	mu      sync.Mutex
	conn    net.Conn // nil until open
	waiting [][]byte // datagrams for conn
}

// send passes one datagram on, or keeps it while the flow is being opened.
// What cannot be sent is lost, as datagrams are; a dead flow shows in run.
func (f *udpFlow) send(payload []byte) {
	f.mu.Lock()
	conn := f.conn
	if conn == nil && len(f.waiting) < maxWaiting {
		f.waiting = append(f.waiting, append([]byte(nil), payload...))
	}
	f.mu.Unlock()
	if conn != nil {
		conn.Write(payload)
	}
}

// run opens the flow and carries what the target sends until ctx is cancelled
// or the far end ends the flow.
func (f *udpFlow) run(ctx context.Context) {
	defer f.cancel()
	defer f.ended.Store(true)
	g := f.association.gate
	conn, end, err := g.dial(ctx, f.association.tunnel.DialUDP, f.target)
	if err != nil {
		g.cfg.Logger.Debug("socks5 flow", "err", err)
		return
	}
	defer end()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	f.open(conn)
	if err := f.toClient(conn); ctx.Err() == nil {
		g.cfg.Logger.Debug("socks5 flow", "err", err)
	}
}

// open sends what has waited, in order, and lets send use conn itself.
func (f *udpFlow) open(conn net.Conn) {
	for {
		f.mu.Lock()
		waiting := f.waiting
		f.waiting = nil
		if len(waiting) == 0 {
			f.conn = conn
		}
		f.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		for _, b := range waiting {
			conn.Write(b) // lost if it fails, as in send
		}
	}
}

func (f *udpFlow) toClient(conn net.Conn) error {
	buf := make([]byte, len(f.head)+maxDatagram)
	copy(buf, f.head)
	for {
		n, err := conn.Read(buf[len(f.head):])
		if err != nil {
			return err
		}
		f.used.Store(f.association.turn.Add(1))
		// A client that is gone closes its TCP connection; until then a
		// failure is a lost datagram.
		f.association.local.WriteToUDPAddrPort(buf[:len(f.head)+n], f.client)
	}
}
