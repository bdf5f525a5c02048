package h2

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// A link is what both ends of a connection share.
//
//	read:  conn → frames → streams' buffers; never waits for a stream or a write
//	write: control, which everybody appends to, → conn; at the end it closes conn
//	watch: keep-alive and time-outs
//	Write of a stream: control, then data → conn, by whoever holds the token
//
// So all frames but DATA are in control, in their order on the wire, and only
// the token's holder touches the connection's sending side.
type link struct {
	conn   net.Conn // TLS, or what tests put in its place
	client bool
	ctx    context.Context // ends with the connection, its cause is a *tunnel.CloseError
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // readAll, writeAll and watch
	read   chan struct{}  // closed when readAll has returned
	wake   chan struct{}  // one token: control has something; dropped when it is full

	pace  *pacer        // what bounds the rate; nil: nothing does
	token chan struct{} // holds a token while the connection is written
	out   []byte        // the token's: what is written next

	peer                  // the read goroutine's
	incoming chan *stream // never full: it holds as many as there may be handlers
	limit    int          // streams that a peer may open

	mu      sync.Mutex
	enc     *encoder
	control []byte // frames to be written
	owed    int    // bytes of control that the peer asked for
	err     *tunnel.CloseError
	away    *tunnel.CloseError // the peer's goodbye; its streams may go on
	broken  error              // of a write; the reader finds out what it means
	streams map[uint32]*stream
	next    uint32     // the client's next stream
	last    uint32     // the newest of the peer's streams
	serving int        // handlers
	free    *sync.Cond // a stream has ended, or the connection

	window  windows
	trusted bool // the buyer is no stranger
	heads   int  // bytes of requests' heads before that
	rtt     rtt

	spare [chunkSizes]sync.Pool // of *chunk, by size
}

// A peer is what the other end announced and how it behaves.
type peer struct {
	settled bool // its first SETTINGS came
	dec     *decoder
	pending headers
	budget  int // of frames that cost more here than there
	refill  time.Time
	scratch []byte
}

// headers is a header block that is still coming in.
type headers struct {
	stream uint32 // 0: none
	end    bool   // it ends its direction
	b      []byte
}

const (
	// abuseBurst and abusePerSecond bound frames that make us work or answer
	// and cost the peer nothing: resets of unanswered requests (CVE-2023-44487),
	// pings, settings, empty frames (CVE-2019-9512 and its kin).
	abuseBurst     = 1000
	abusePerSecond = 100
	// maxOwed bounds answers to a peer that does not read them.
	maxOwed = 64 << 10
	// strangerHeads bounds the heads of requests that a stranger makes us hold.
	strangerHeads = 64 << 10
	// batch is how much of one Write is handed to TLS at once: what others wait
	// for. A record of TLS has a quarter of it.
	batch = 64 << 10
)

func newLink(conn net.Conn, client bool, maxStreams int, pace *pacer) *link {
	l := &link{
		conn: conn, client: client, pace: pace, read: make(chan struct{}), wake: make(chan struct{}, 1),
		token: make(chan struct{}, 1), enc: newEncoder(), streams: make(map[uint32]*stream),
		next: 1, limit: maxStreams, incoming: make(chan *stream, 2*maxStreams),
		peer: peer{dec: newDecoder(), budget: abuseBurst, refill: time.Now()}, window: newWindows(client),
	}
	l.free = sync.NewCond(&l.mu)
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.rtt.heard = time.Now()
	l.greet()
	l.wg.Go(l.readAll)
	l.wg.Go(l.writeAll)
	l.wg.Go(l.watch)
	return l
}

// greet queues what each side begins with, RFC 9113 §3.4.
func (l *link) greet() {
	if l.client {
		l.control = append(l.control, preface...)
		l.control = appendSettings(l.control,
			setting{settingPush, 0}, setting{settingMaxStreams, 0},
			setting{settingInitialWindow, uint32(l.window.initial)}, setting{settingMaxHeader, maxHeader})
	} else {
		l.control = appendSettings(l.control,
			setting{settingMaxStreams, uint32(l.limit)}, setting{settingConnect, 1},
			setting{settingInitialWindow, uint32(l.window.initial)}, setting{settingMaxHeader, maxHeader})
	}
	if l.client {
		l.control = appendWindow(l.control, 0, uint32(l.window.conn-defaultWindow))
	}
	l.control = l.rtt.ping(l.control, time.Now())
	l.wakeUp()
}

// Context ends with the connection; its cause is a *tunnel.CloseError.
func (l *link) Context() context.Context { return l.ctx }

// exporter is what tls.Conn has.
type exporter interface{ ConnectionState() tls.ConnectionState }

// ExportKey derives a secret that only the two ends of this connection know.
func (l *link) ExportKey(label string) (key [32]byte, err error) {
	c, ok := l.conn.(exporter)
	if !ok {
		return key, fmt.Errorf("export key: no TLS")
	}
	cs := c.ConnectionState()
	b, err := cs.ExportKeyingMaterial(label, nil, len(key))
	if err != nil {
		return key, fmt.Errorf("export key: %w", err)
	}
	copy(key[:], b)
	return key, nil
}

// Close ends the connection with a reason that the peer is told. It waits for
// the peer's end of it, a second at most.
func (l *link) Close(r tunnel.Reason, text string) error {
	l.end(&tunnel.CloseError{Reason: r, Text: text}, goAwayCode(r))
	l.wg.Wait()
	return nil
}

// end ends the connection for a reason of this side's own, with a GOAWAY.
func (l *link) end(why *tunnel.CloseError, code uint32) {
	l.mu.Lock()
	if l.err == nil {
		l.control = appendGoAway(l.control, l.last, code, why.Text[:min(len(why.Text), maxText)])
	}
	l.mu.Unlock()
	l.lose(why)
}

// lose ends the connection here. Only the first call counts.
func (l *link) lose(why *tunnel.CloseError) {
	l.mu.Lock()
	if l.err == nil {
		l.err = why
		for _, s := range l.streams {
			s.lose(why)
		}
		l.free.Broadcast()
	}
	l.mu.Unlock()
	l.cancel(why)
}

// wakeUp has control written.
func (l *link) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// KeepAlive is how often an idle connection sends something, as over QUIC.
const KeepAlive = 22 * time.Second

const (
	agentKeepAlive = KeepAlive + 5*time.Second // so that one side does it for both

	idle   = 70 * time.Second // when a silent connection counts as lost
	linger = time.Second      // for the goodbye
)

// writeAll writes control, and at the end the goodbye.
func (l *link) writeAll() {
	for l.ctx.Err() == nil {
		select {
		case <-l.wake:
			l.flush()
		case <-l.ctx.Done():
		}
	}
	l.token <- struct{}{}
	l.mu.Lock()
	rest := l.control
	l.control = nil
	l.mu.Unlock()
	_, _ = l.conn.Write(rest) // the peer may be gone, which is the usual end
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	<-l.token
	<-l.read // to the peer's end: a close with unread data would overtake the goodbye
	_ = l.conn.Close()
}

// watch keeps the connection alive, and bounds what is left to do at its end:
// it never waits for a write.
func (l *link) watch() {
	every := KeepAlive
	if !l.client {
		every = agentKeepAlive
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(l.beat(time.Now(), every))
		case <-l.ctx.Done():
			_ = l.conn.SetDeadline(time.Now().Add(linger)) // a connection that is gone needs none
			return
		}
	}
}

// beat looks whether the peer lives, asks it when it has been silent for every,
// and returns when to look again.
func (l *link) beat(now time.Time, every time.Duration) time.Duration {
	l.mu.Lock()
	silent := now.Sub(l.rtt.heard)
	if silent >= every && silent < idle {
		l.control = l.rtt.ping(l.control, now)
		l.wakeUp()
	}
	l.mu.Unlock()
	switch {
	case silent >= idle:
		l.lose(&tunnel.CloseError{Err: fmt.Errorf("h2: nothing heard for %v: %w", idle, os.ErrDeadlineExceeded)})
		return idle
	case silent >= every:
		return min(every, idle-silent)
	default:
		return every - silent
	}
}

// flush writes control.
func (l *link) flush() {
	select {
	case l.token <- struct{}{}:
	case <-l.ctx.Done():
		return
	}
	defer func() { <-l.token }()
	l.mu.Lock()
	l.takeControl()
	l.mu.Unlock()
	_ = l.write() // the reader learns of it
}

// takeControl moves control to out. It is called locked, by the token's holder.
func (l *link) takeControl() {
	l.out, l.control = append(l.out[:0], l.control...), l.control[:0]
	l.owed = 0
}

// write writes out; it is called by the token's holder. An error ends the
// connection within linger: there may be a goodbye to be read yet.
func (l *link) write() error {
	if len(l.out) == 0 {
		return nil
	}
	_, err := l.conn.Write(l.out)
	if err != nil {
		l.mu.Lock()
		l.broken = err
		l.mu.Unlock()
		_ = l.conn.SetReadDeadline(time.Now().Add(linger)) // of a connection that is gone anyway
	}
	return err
}

// readAll reads frames until the connection ends, and then to its end.
func (l *link) readAll() {
	defer close(l.read)
	r := bufio.NewReaderSize(l.conn, 4<<10)
	err := l.readPreface(r)
	for err == nil {
		err = l.readFrame(r)
	}
	if e, ok := err.(connError); ok {
		l.end(&tunnel.CloseError{Err: e, Text: e.text}, e.code)
	}
	l.mu.Lock()
	away, broken := l.away, l.broken
	l.mu.Unlock()
	switch {
	case away != nil:
		l.lose(away)
	case broken != nil:
		l.lose(&tunnel.CloseError{Err: broken})
	case err == io.EOF:
		l.lose(&tunnel.CloseError{Err: io.ErrUnexpectedEOF})
	default:
		l.lose(&tunnel.CloseError{Err: err})
	}
	_, _ = io.Copy(io.Discard, r) // until linger is over
}

func (l *link) readPreface(r *bufio.Reader) error {
	if l.client {
		return nil
	}
	b := make([]byte, len(preface))
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if string(b) != preface {
		return connError{codeProtocol, "not HTTP/2"}
	}
	return nil
}

func (l *link) readFrame(r *bufio.Reader) error {
	var b [headSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	h := parseHead(&b)
	now := time.Now()
	l.mu.Lock()
	l.rtt.heard = now
	over, owed := l.err != nil, l.owed
	l.mu.Unlock()
	switch {
	case over:
		return net.ErrClosed
	case owed > maxOwed:
		return connError{codeCalm, "answers are not read"}
	case h.length > maxFrame:
		return connError{codeFrameSize, "frame too large"}
	case !l.settled && (h.typ != frameSettings || h.flags&flagAck != 0):
		return connError{codeProtocol, "no SETTINGS first"}
	case l.pending.stream != 0 && (h.typ != frameContinuation || h.stream != l.pending.stream):
		return connError{codeProtocol, "a header block is not finished"}
	case h.typ == frameData:
		return l.readData(r, h, now)
	}
	if cap(l.scratch) < h.length {
		l.scratch = make([]byte, h.length)
	}
	payload := l.scratch[:h.length]
	if _, err := io.ReadFull(r, payload); err != nil {
		return err
	}
	return l.handle(h, payload, now)
}

// handle acts on a frame other than DATA.
func (l *link) handle(h head, b []byte, now time.Time) error {
	if (h.stream == 0) != (h.typ == frameSettings || h.typ == framePing || h.typ == frameGoAway) &&
		h.typ <= frameContinuation && h.typ != frameWindow {
		return connError{codeProtocol, "frame on a wrong stream"}
	}
	switch h.typ {
	case frameHeaders:
		part, err := headerFragment(h.flags, b)
		if err != nil {
			return err
		}
		l.pending = headers{stream: h.stream, end: h.flags&flagEndStream != 0, b: l.pending.b[:0]}
		return l.handleHeaders(h, part, now)
	case frameContinuation:
		if l.pending.stream == 0 {
			return connError{codeProtocol, "CONTINUATION of nothing"}
		}
		if err := l.charge(now); err != nil {
			return err
		}
		return l.handleHeaders(h, b, now)
	case frameReset:
		if len(b) != 4 {
			return connError{codeFrameSize, "RST_STREAM of odd length"}
		}
		return l.handleReset(h.stream, binary.BigEndian.Uint32(b), now)
	case frameSettings:
		return l.handleSettings(h, b, now)
	case framePing:
		if len(b) != 8 {
			return connError{codeFrameSize, "PING of odd length"}
		}
		return l.handlePing(h, b, now)
	case frameGoAway:
		away, err := goneAway(b)
		if err != nil {
			return err
		}
		return l.handleGoAway(away)
	case frameWindow:
		if len(b) != 4 {
			return connError{codeFrameSize, "WINDOW_UPDATE of odd length"}
		}
		return l.handleWindow(h.stream, binary.BigEndian.Uint32(b)&maxWindow)
	case framePush:
		return connError{codeProtocol, "nothing is to be pushed"}
	default: // PRIORITY, which means nothing any more (RFC 9113 §5.3.2), and what is unknown
		return l.charge(now)
	}
}

// charge takes from the peer's budget.
func (l *link) charge(now time.Time) error {
	if l.budget == 0 {
		l.budget = min(abuseBurst, int(now.Sub(l.refill)*abusePerSecond/time.Second))
		l.refill = now
	}
	if l.budget == 0 {
		return connError{codeCalm, "too many frames of no use"}
	}
	l.budget--
	return nil
}
