package path

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

// Config says how to open a socket. Its zero value is for buyers.
type Config struct {
	// Addr is the local address. Default ":0", for which every [Socket.Rebind]
	// takes a new port.
	Addr string
	// Open opens the socket below. Default: a UDP socket of the kernel. Others
	// work without offloads.
	Open func(ctx context.Context, addr string) (net.PacketConn, error)
}

// A Socket is one UDP socket for any number of QUIC connections.
type Socket struct {
	cfg   Config
	fixed bool // the port is the configuration's
	below atomic.Pointer[below]
	table atomic.Pointer[table]

	received  atomic.Uint32 // batches that arrived
	stuck     atomic.Bool   // the reader waits for another socket below
	reader    reader        // touched by the reading goroutine
	beside    atomic.Pointer[Beside]
	control   chan heard    // for Run; when full, packets are dropped
	strangers chan stranger // likewise
	poked     chan struct{} // one place: Run has something new to see

	mu       sync.Mutex
	closed   bool
	changed  chan struct{} // closed and replaced when what a reader waits for may have come
	deadline time.Time

	state state // Run's and the callers', with a lock of its own
}

// below is a socket below.
type below struct {
	net.PacketConn
	udp   *net.UDPConn // nil if it is not the kernel's
	batch *ipv4.PacketConn
	gro   bool
}

// heard is a control packet.
type heard struct {
	from  netip.AddrPort
	local netip.Addr
	b     []byte
	relay bool // from is a relay's port
}

// A stranger is an address from which packets of a peer come.
type stranger struct {
	peer *peer
	from netip.AddrPort
}

// queued bounds what waits for Run.
const queued = 64

// Listen opens a socket. Close it after its connections.
func Listen(ctx context.Context, cfg Config) (*Socket, error) {
	if cfg.Addr == "" {
		cfg.Addr = ":0"
	}
	if cfg.Open == nil {
		cfg.Open = func(ctx context.Context, addr string) (net.PacketConn, error) {
			return new(net.ListenConfig).ListenPacket(ctx, "udp", addr)
		}
	}
	_, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, err
	}
	s := &Socket{
		cfg: cfg, fixed: port != "0" && port != "",
		control: make(chan heard, queued), strangers: make(chan stranger, queued),
		poked: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	s.table.Store(&table{in: map[netip.AddrPort]*peer{}, out: map[netip.AddrPort]*peer{}})
	s.state.init(s)
	conn, err := cfg.Open(ctx, cfg.Addr)
	if err != nil {
		return nil, err
	}
	s.below.Store(wrap(conn))
	return s, nil
}

func wrap(conn net.PacketConn) *below {
	b := &below{PacketConn: conn}
	if udp, ok := conn.(*net.UDPConn); ok {
		b.udp, b.batch = udp, ipv4.NewPacketConn(udp)
		b.gro = prepare(udp)
	}
	return b
}

// Moved says that the socket's public address may be another one by now: all
// paths are probed at once, so that the other ends learn it.
func (s *Socket) Moved() { s.state.readdressed() }

// Rebind replaces the socket below: at once a new local port, unless the
// configuration has one. It is for a socket that an interface took with it.
// When it fails the socket is as before, or if the port is fixed, without
// anything below, and Rebind may be called again.
func (s *Socket) Rebind(ctx context.Context) error {
	old := s.below.Load()
	options := optionsOf(old.udp)
	if s.fixed {
		_ = old.Close()
	}
	conn, err := s.cfg.Open(ctx, s.cfg.Addr)
	if err != nil {
		return err
	}
	fresh := wrap(conn)
	options.apply(fresh.udp)
	s.mu.Lock()
	if s.closed || s.below.Load() != old {
		s.mu.Unlock()
		return errors.Join(net.ErrClosed, fresh.Close())
	}
	_ = fresh.SetReadDeadline(s.deadline)
	s.below.Store(fresh)
	s.wake()
	s.mu.Unlock()
	_ = old.Close()
	s.state.readdressed()
	return nil
}

// wake lets a waiting reader look again. The caller holds mu.
func (s *Socket) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Close closes the socket. A Run ends by its context.
func (s *Socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.wake()
	s.mu.Unlock()
	if err := s.below.Load().Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// LocalAddr is the present local address.
func (s *Socket) LocalAddr() net.Addr { return s.below.Load().LocalAddr() }

// setReadDeadline is what quic-go stops its reader by.
func (s *Socket) setReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.wake()
	return s.below.Load().SetReadDeadline(t)
}

// recover says what to do after a read from b failed: nil means to read again.
// It waits while there is nothing to read from.
func (s *Socket) recover(b *below, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	for {
		s.mu.Lock()
		closed, changed, deadline := s.closed, s.changed, s.deadline
		s.mu.Unlock()
		switch {
		case closed:
			return net.ErrClosed
		case s.below.Load() != b:
			return nil
		case passes(err):
			return nil
		case b.udp == nil && !errors.Is(err, net.ErrClosed):
			return err
		case !deadline.IsZero() && !time.Now().Before(deadline):
			return os.ErrDeadlineExceeded
		}
		s.stuck.Store(true)
		<-changed
		s.stuck.Store(false)
	}
}

// PacketConn returns the socket as quic-go takes it. There is one reader.
func (s *Socket) PacketConn() net.PacketConn {
	if s.below.Load().udp == nil {
		return plainConn{s}
	}
	return oobConn{plainConn{s}}
}

// plainConn is a socket without offloads.
type plainConn struct{ s *Socket }

// oobConn is a socket of the kernel, by the methods that quic-go looks for.
type oobConn struct{ plainConn }

func (c plainConn) Close() error                       { return c.s.Close() }
func (c plainConn) LocalAddr() net.Addr                { return c.s.LocalAddr() }
func (c plainConn) SetDeadline(t time.Time) error      { return c.s.setReadDeadline(t) }
func (c plainConn) SetReadDeadline(t time.Time) error  { return c.s.setReadDeadline(t) }
func (c plainConn) SetWriteDeadline(t time.Time) error { return nil } // writes do not wait

func (c plainConn) SetReadBuffer(n int) error {
	if b, ok := c.s.below.Load().PacketConn.(interface{ SetReadBuffer(int) error }); ok {
		return b.SetReadBuffer(n)
	}
	return nil
}

func (c plainConn) SetWriteBuffer(n int) error {
	if b, ok := c.s.below.Load().PacketConn.(interface{ SetWriteBuffer(int) error }); ok {
		return b.SetWriteBuffer(n)
	}
	return nil
}

func (c plainConn) ReadFrom(b []byte) (int, net.Addr, error) {
	ms := [1]ipv4.Message{{Buffers: [][]byte{b}}}
	_, err := c.s.read(ms[:], 0)
	return ms[0].N, ms[0].Addr, err
}

func (c plainConn) WriteTo(b []byte, a net.Addr) (int, error) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not a UDP address", Addr: a.String()}
	}
	return len(b), c.s.write(b, nil, u)
}

func (c oobConn) SyscallConn() (syscall.RawConn, error) { return c.s.below.Load().udp.SyscallConn() }

func (c oobConn) ReadBatch(ms []ipv4.Message, flags int) (int, error) { return c.s.read(ms, flags) }

func (c oobConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, a *net.UDPAddr, err error) {
	ms := [1]ipv4.Message{{Buffers: [][]byte{b}, OOB: oob}}
	if _, err = c.s.read(ms[:], 0); err != nil {
		return 0, 0, 0, nil, err
	}
	a, _ = ms[0].Addr.(*net.UDPAddr)
	return ms[0].N, ms[0].NN, ms[0].Flags, a, nil
}

func (c oobConn) WriteMsgUDP(b, oob []byte, a *net.UDPAddr) (n, oobn int, err error) {
	if err := c.s.write(b, oob, a); err != nil {
		return 0, 0, err
	}
	return len(b), len(oob), nil
}
