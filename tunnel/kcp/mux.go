package kcp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel/bbr"
)

type muxConfig struct {
	conn    net.PacketConn
	receive int      // window of a session, in segments
	accepts int      // sessions that others may open
	cap     *bbr.Cap // of what all sessions send; nil: none
}

// A mux has the sessions of one socket. It reads the socket and hands packets
// to sessions; they write to the socket themselves.
type mux struct {
	muxConfig
	secret [32]byte // of cookies
	start  time.Time
	free   sync.Pool // of *packet
	wg     sync.WaitGroup
	closed chan struct{} // closed by close
	opened chan *session // by peers; Accept takes them, and none is opened while it is full

	mu       sync.Mutex
	sessions map[key]*session
	hellos   map[[8]byte]chan uint32 // each takes one answer
	former   [256]key                // sessions that were here, the newest of them
	next     int                     // of former
	index    byte                    // of the next conversation to be opened
}

// A key names a session: a peer's address and the conversation.
type key struct {
	addr netip.AddrPort
	conv uint32
}

func newMux(c muxConfig) *mux {
	m := &mux{
		muxConfig: c, start: time.Now(), closed: make(chan struct{}),
		opened: make(chan *session, 64), sessions: make(map[key]*session), hellos: make(map[[8]byte]chan uint32),
	}
	m.free.New = func() any { return new(packet) }
	_, _ = rand.Read(m.secret[:]) // it has no errors
	m.index = m.secret[0]
	m.wg.Go(m.readAll)
	return m
}

// addrPort is an address as part of a key.
func addrPort(addr net.Addr) (netip.AddrPort, bool) {
	var ap netip.AddrPort
	if udp, ok := addr.(*net.UDPAddr); ok {
		ap = udp.AddrPort()
	} else {
		var err error
		if ap, err = netip.ParseAddrPort(addr.String()); err != nil {
			return ap, false
		}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}

// readPause is between two tries after an error of the socket.
const readPause = 20 * time.Millisecond

// readAll hands out packets until close.
func (m *mux) readAll() {
	var b [packetSize + 1]byte
	for {
		n, addr, err := m.conn.ReadFrom(b[:])
		select {
		case <-m.closed:
			return
		default:
		}
		switch {
		case errors.Is(err, net.ErrClosed):
			m.endAll()
			return
		case err != nil: // an ICMP error, or one that its owner mends
			select {
			case <-time.After(readPause):
			case <-m.closed:
				return
			}
		case n > 4 && n <= packetSize && b[0] == prefix:
			m.input(b[1:n], addr)
		}
	}
}

// input acts on one packet, whose prefix has been taken off.
func (m *mux) input(b []byte, addr net.Addr) {
	ap, ok := addrPort(addr)
	if !ok {
		return
	}
	conv := binary.LittleEndian.Uint32(b)
	if conv == 0 {
		m.message(b, addr, ap)
		return
	}
	if !wellFormed(b, conv) {
		return
	}
	k := key{ap, conv}
	m.mu.Lock()
	s, gone := m.sessions[k], false
	if s == nil {
		if gone = !m.mayOpen(k); !gone {
			s = m.open(k, addr, b)
		}
	}
	m.mu.Unlock()
	if gone {
		m.write(appendGone(nil, conv), addr)
	}
	if s == nil {
		return
	}
	p := m.free.Get().(*packet)
	p.n = copy(p.buf[:], b)
	select {
	case s.packets <- p:
	default:
		m.free.Put(p) // KCP sends it again
	}
}

// mayOpen says whether a peer may open a session: it was named here, and has
// not been used up. It is called locked.
func (m *mux) mayOpen(k key) bool {
	return m.accepts > 0 && m.baked(k) && !slices.Contains(m.former[:], k)
}

// open opens the session of a peer by its first segment; nil if b is not that,
// or there is no room now. It is called locked.
func (m *mux) open(k key, addr net.Addr, b []byte) *session {
	first, _ := nextSegment(b)
	if first.sn != 0 || first.cmd != cmdPush || len(m.sessions) >= m.accepts || len(m.opened) == cap(m.opened) {
		return nil
	}
	s := newSession(m, k, addr)
	m.sessions[k] = s
	m.wg.Go(s.run)
	m.opened <- s // there is room: only readAll puts sessions there
	return s
}

// epochTime is how long a cookie is good for, at least.
const epochTime = time.Minute

func (m *mux) epoch() uint32 { return uint32(time.Since(m.start) / epochTime) }

// baked says whether a conversation is one that this side named.
func (m *mux) baked(k key) bool {
	index := byte(k.conv >> 24)
	now := m.epoch()
	return cookie(&m.secret, k.addr, index, now) == k.conv || now > 0 && cookie(&m.secret, k.addr, index, now-1) == k.conv
}

func (m *mux) message(b []byte, addr net.Addr, ap netip.AddrPort) {
	switch msg := parseMessage(b); {
	case msg.typ == typeHello && m.accepts > 0:
		m.write(appendWelcome(nil, msg.nonce, cookie(&m.secret, ap, msg.nonce[0], m.epoch())), addr)
	case msg.typ == typeWelcome:
		m.mu.Lock()
		answer := m.hellos[msg.nonce]
		delete(m.hellos, msg.nonce)
		m.mu.Unlock()
		if answer != nil && msg.conv != 0 {
			answer <- msg.conv // it has room for one
		}
	case msg.typ == typeGone:
		m.mu.Lock()
		s := m.sessions[key{ap, msg.conv}]
		m.mu.Unlock()
		if s != nil {
			s.end(errGone)
		}
	}
}

// write sends a message. One that is lost is sent again when it is asked for.
func (m *mux) write(b []byte, addr net.Addr) { _, _ = m.conn.WriteTo(b, addr) }

// A hello is sent again after helloPause at first, then less often, up to
// helloMost, for helloTime.
const (
	helloPause = 250 * time.Millisecond
	helloMost  = time.Second
	helloTime  = 10 * time.Second
)

// dial opens a session to addr.
func (m *mux) dial(ctx context.Context, addr net.Addr) (*session, error) {
	ap, ok := addrPort(addr)
	if !ok {
		return nil, errors.New("kcp: not an address of UDP")
	}
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // it has no errors
	answer := make(chan uint32, 1)
	m.mu.Lock()
	m.index++ // in turn: one that was used a moment ago is still known at the peer
	nonce[0] = m.index
	m.hellos[nonce] = answer
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.hellos, nonce)
	}()
	timeout := time.After(helloTime)
	for pause := helloPause; ; pause = min(2*pause, helloMost) {
		m.write(appendHello(nil, nonce), addr)
		select {
		case conv := <-answer:
			return m.begin(key{ap, conv}, addr)
		case <-time.After(pause):
		case <-timeout:
			return nil, os.ErrDeadlineExceeded
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-m.closed:
			return nil, net.ErrClosed
		}
	}
}

// begin begins the session that the peer has named.
func (m *mux) begin(k key, addr net.Addr) (*session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		return nil, net.ErrClosed
	default:
	}
	if m.sessions[k] != nil {
		return nil, errors.New("kcp: the conversation exists")
	}
	s := newSession(m, k, addr)
	m.sessions[k] = s
	m.wg.Go(s.run)
	return s, nil
}

// remove takes a session off that has ended.
func (m *mux) remove(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, s.key)
	m.former[m.next%len(m.former)] = s.key
	m.next++
}

// endAll ends all sessions at once.
func (m *mux) endAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		s.end(net.ErrClosed)
	}
}

// close lets the sessions deliver what was written, as Close of a session
// does, and stops reading the socket. It is called once.
func (m *mux) close() error {
	m.mu.Lock()
	left := make([]*session, 0, len(m.sessions))
	for _, s := range m.sessions {
		left = append(left, s)
	}
	m.mu.Unlock()
	for _, s := range left {
		_ = s.Close() // it has no errors
	}
	for _, s := range left {
		<-s.gone
	}
	close(m.closed)
	m.endAll() // those that began meanwhile
	err := m.conn.SetReadDeadline(time.Unix(1, 0))
	m.wg.Wait()
	if err != nil {
		return err
	}
	return m.conn.SetReadDeadline(time.Time{}) // the socket is shared
}

// A peers is a net.Listener of the sessions that peers open.
type peers struct {
	*mux
	once sync.Once
	done chan struct{} // closed by Close
}

// Accept returns the next session.
func (p *peers) Accept() (net.Conn, error) {
	select {
	case s := <-p.opened:
		return s, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Addr is the socket's.
func (p *peers) Addr() net.Addr { return p.conn.LocalAddr() }

// Close ends Accept.
func (p *peers) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}
