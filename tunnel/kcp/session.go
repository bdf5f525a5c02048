package kcp

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	kcpgo "github.com/xtaci/kcp-go/v5"

	"github.com/depinsim/x402/tunnel/bbr"
)

// A session is one conversation: a net.Conn whose bytes arrive in order. One
// goroutine, run, owns the state machine of KCP and the sending; Read and Write
// only touch the two buffers.
type session struct {
	mux  *mux
	key  key
	addr net.Addr

	packets chan *packet  // from the mux, which drops what does not fit
	wake    chan struct{} // one token: look at the buffers
	gone    chan struct{} // closed by end

	// run's own.
	kcp      *kcpgo.KCP
	rate     *rate
	cap      bbr.Sender
	wait     time.Duration // until the cap is to be asked again; zero: no later than usual
	out      []byte        // packets to be sent, one behind the other
	ends     []int         // where each ends in out
	unacked  int           // data segments that came since the last flush
	received int           // bytes, up to bufferMost
	progress time.Time
	flushed  time.Time

	wire, acked atomic.Uint64

	mu          sync.Mutex
	changed     *sync.Cond
	in          buffer
	sending     buffer
	err         error // for both, at once
	closing     time.Time
	read, write deadline
}

const (
	// bufferMost bounds what waits for Read and what waits for KCP.
	bufferMost = 128 << 10
	// The receive window, in segments, is what a peer can make us hold: before
	// bufferMost has been received in order, then at the agent, or the buyer,
	// which mostly receives.
	receiveFirst = 128
	receiveAgent = 1024
	receiveBuyer = maxSpan
	packetQueue  = 512
	// heads are those of IPv4 and UDP, onWire what a full segment takes.
	heads  = 28
	onWire = packetSize + heads
	// slack is the least that a time-out waits beyond the round trip.
	slack = 60
	// unanswered is how long a peer may answer nothing.
	unanswered = 30 * time.Second
	// lingering is how long a closed session delivers what was written.
	lingering = 2 * time.Second
)

// A packet is what one datagram brought, without the prefix.
type packet struct {
	n   int
	buf [packetSize]byte
}

func newSession(m *mux, k key, addr net.Addr) *session {
	now := time.Now()
	s := &session{
		mux: m, key: k, addr: addr,
		packets: make(chan *packet, packetQueue), wake: make(chan struct{}, 1), gone: make(chan struct{}),
		rate: newRate(now), cap: m.cap.Sender(), progress: now,
	}
	s.changed = sync.NewCond(&s.mu)
	s.kcp = kcpgo.NewKCP(k.conv, s.output)
	s.kcp.SetMtu(packetSize - 1)
	// No congestion control of KCP's own, which is Reno; fast retransmission
	// after three later acknowledgements.
	s.kcp.NoDelay(0, int(tick.Milliseconds()), 3, 1)
	s.kcp.WndSize(1, receiveFirst)
	return s
}

// run moves data until the session has ended.
func (s *session) run() {
	defer s.mux.remove(s)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var news *packet
		select {
		case news = <-s.packets:
		case <-s.wake:
		case <-timer.C:
		case <-s.gone:
			return
		}
		now := time.Now()
		s.input(news, now)
		busy := s.step(now)
		s.send()
		switch {
		case s.over(now):
			s.end(net.ErrClosed)
		case busy && s.wait > 0:
			timer.Reset(min(tick, s.wait))
		case busy:
			timer.Reset(tick)
		default:
			timer.Stop()
		}
	}
}

// input gives KCP a packet and those behind it, at most 64.
func (s *session) input(p *packet, now time.Time) {
	for n := 0; p != nil && n < 64; n++ {
		s.observe(p.buf[:p.n], now)
		s.setWindow(now)
		s.kcp.NoDelay(-1, slack, -1, -1) // for the time-out that acknowledgements set
		// Two data segments are worth an acknowledgement, one waits for the tick.
		s.kcp.Input(p.buf[:p.n], kcpgo.IKCP_PACKET_REGULAR, s.unacked >= 2)
		s.kcp.NoDelay(-1, int(tick.Milliseconds()), -1, -1)
		if s.unacked >= 2 {
			s.unacked = 0
		}
		s.mux.free.Put(p)
		select {
		case p = <-s.packets:
		default:
			p = nil
		}
	}
	s.rate.update(now)
	s.acked.Store(s.rate.delivered)
}

// observe tells rate what the segments b say.
func (s *session) observe(b []byte, now time.Time) {
	s.progress = now
	for len(b) > 0 {
		var seg segment
		seg, b = nextSegment(b)
		switch seg.cmd {
		case kcpgo.IKCP_CMD_ACK:
			s.rate.onAck(seg, now)
		case cmdPush:
			s.unacked++
		}
		s.rate.onUna(seg.una, now)
	}
}

// setWindow lets KCP send as many new segments as the rate allows.
func (s *session) setWindow(now time.Time) int {
	n := s.rate.allow(now)
	s.kcp.WndSize(max(1, s.rate.span()+n), -1)
	return n
}

// step moves data between the buffers and KCP. It reports whether there is
// something to be done at the next tick.
func (s *session) step(now time.Time) bool {
	s.mu.Lock()
	s.receive()
	n := s.capped(s.setWindow(now), now) - s.queued()
	for ; n > 0 && s.sending.len() > 0; n-- {
		s.kcp.Send(s.sending.take(segmentMost))
		s.changed.Broadcast()
	}
	if n > 0 {
		s.rate.idle()
	}
	waiting := s.sending.len() > 0
	s.mu.Unlock()
	if s.kcp.WaitSnd() == 0 && s.unacked == 0 && !waiting && now.Sub(s.flushed) > time.Second {
		return false
	}
	if s.kcp.WaitSnd() > 0 || s.unacked > 0 {
		s.flushed = now
	}
	s.kcp.Update()
	s.unacked = 0
	return true
}

// capped is how many of n segments the cap lets leave. What it keeps back says
// nothing of the path.
func (s *session) capped(n int, now time.Time) int {
	s.wait = 0
	if n == 0 {
		return 0
	}
	bytes, wait := s.cap.Allow(now, n*onWire)
	s.wait = wait
	most := (bytes + onWire - 1) / onWire
	if most < n {
		s.rate.idle()
	}
	return min(n, most)
}

// queued is how many segments KCP has not begun to send.
func (s *session) queued() int { return s.kcp.WaitSnd() - s.rate.span() }

// receive takes out of KCP what there is room for. It is called locked.
func (s *session) receive() {
	for s.in.len() < bufferMost {
		size := s.kcp.PeekSize()
		if size <= 0 {
			return
		}
		s.kcp.Recv(s.in.room(size))
		s.changed.Broadcast()
		if s.received < bufferMost {
			if s.received += size; s.received >= bufferMost {
				s.kcp.WndSize(-1, s.mux.receive)
			}
		}
	}
}

// output is KCP's: b is valid during the call.
func (s *session) output(b []byte, size int) {
	now, b := time.Now(), b[:size]
	pass, again := false, false
	for rest := b; len(rest) > 0; {
		var seg segment
		if seg, rest = nextSegment(rest); seg.cmd != cmdPush || s.rate.onSend(seg, now) {
			pass = true
		} else {
			again = true
		}
	}
	if again && !pass {
		return
	}
	s.out = append(append(s.out, prefix), b...)
	s.ends = append(s.ends, len(s.out))
}

// send writes what output collected.
func (s *session) send() {
	start := 0
	for _, end := range s.ends {
		// An error is a packet that is lost; the mux ends when its socket does.
		_, _ = s.mux.conn.WriteTo(s.out[start:end], s.addr)
		start = end
	}
	s.wire.Add(uint64(len(s.out)))
	s.cap.Sent(len(s.out) + len(s.ends)*heads)
	s.out, s.ends = s.out[:0], s.ends[:0]
}

// over says whether there is nothing left to be done, or nobody to do it for.
func (s *session) over(now time.Time) bool {
	s.mu.Lock()
	closing, left := s.closing, s.sending.len()
	s.mu.Unlock()
	pending := left > 0 || s.kcp.WaitSnd() > 0
	switch {
	case !closing.IsZero():
		return !pending || now.Sub(closing) > lingering
	case !pending:
		s.progress = now
	case now.Sub(s.progress) > unanswered:
		s.end(errUnanswered)
	}
	return false
}

var (
	errUnanswered error = &net.OpError{Op: "write", Net: "kcp", Err: os.ErrDeadlineExceeded}
	errGone             = errors.New("kcp: the peer does not know the conversation")
)

// end ends the session at once. Only the first call counts.
func (s *session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gone:
		return
	default:
	}
	close(s.gone)
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}

// traffic is what was sent and what of it arrived.
func (s *session) traffic() (sent, arrived uint64) { return s.wire.Load(), s.acked.Load() }

func (s *session) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Read implements net.Conn.
func (s *session) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.in.len() == 0 || len(b) == 0 {
		switch {
		case s.err != nil:
			return 0, s.err
		case !s.closing.IsZero():
			return 0, net.ErrClosed
		case s.read.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		}
		s.changed.Wait()
	}
	full := s.in.len() >= bufferMost
	n := copy(b, s.in.take(len(b)))
	if full && s.in.len() < bufferMost {
		s.wakeUp()
	}
	return n, nil
}

// Write implements net.Conn. It returns when b is buffered.
func (s *session) Write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return n, s.err
		case !s.closing.IsZero():
			return n, net.ErrClosed
		case s.write.passed():
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		}
		if k := min(len(b)-n, bufferMost-s.sending.len()); k > 0 {
			copy(s.sending.room(k), b[n:])
			n += k
			s.wakeUp()
			continue
		}
		s.changed.Wait()
	}
}

// Close ends both directions; what was written is still delivered, for two
// seconds at most.
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.IsZero() {
		s.closing = time.Now()
		s.read.set(time.Time{}, s.changed)
		s.write.set(time.Time{}, s.changed)
		s.changed.Broadcast()
		s.wakeUp()
	}
	return nil
}

// LocalAddr and RemoteAddr are those of the socket and of the peer.
func (s *session) LocalAddr() net.Addr  { return s.mux.conn.LocalAddr() }
func (s *session) RemoteAddr() net.Addr { return s.addr }

// SetDeadline implements net.Conn.
func (s *session) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (s *session) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read.set(t, s.changed)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *session) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write.set(t, s.changed)
	return nil
}

// A deadline wakes who waits when it passes. The session's mutex guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time, changed *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.at = t; t.IsZero() {
		return
	}
	d.timer = time.AfterFunc(time.Until(t), func() {
		changed.L.Lock()
		defer changed.L.Unlock()
		changed.Broadcast()
	})
}

// A buffer is a queue of bytes.
type buffer struct {
	b    []byte
	from int
}

func (q *buffer) len() int { return len(q.b) - q.from }

// room appends n bytes and returns them to be filled.
func (q *buffer) room(n int) []byte {
	if q.from > 0 && len(q.b)+n > cap(q.b) {
		q.b = q.b[:copy(q.b, q.b[q.from:])]
		q.from = 0
	}
	q.b = append(q.b, make([]byte, n)...)
	return q.b[len(q.b)-n:]
}

// take removes up to n bytes; they are valid until the next call of room.
func (q *buffer) take(n int) []byte {
	b := q.b[q.from:min(len(q.b), q.from+n)]
	if q.from += len(b); q.from == len(q.b) {
		q.b, q.from = q.b[:0], 0
	}
	return b
}
