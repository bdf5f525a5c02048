package h2

import (
	"errors"
	"io"
	"math/bits"
	"strconv"
	"sync"

	"github.com/depinsim/x402/tunnel"
)

// A stream is one request's two directions.
//
// HTTP/2 has one way to break off, RST_STREAM, and it ends both directions.
// The tunnel needs them apart: a buyer that aborts an upload still reads what
// the agent had sent, so that both count the same. So a direction that is
// aborted ends with a trailer section that says so, where the peer is known to
// take it, and RST_STREAM comes when this side's direction is over and the
// peer's is not wanted:
//
//	Close              END_STREAM
//	Abort              trailers x402-reset + END_STREAM, or RST_STREAM
//	Fail               trailers proxy-status + END_STREAM
//	Stop               what comes is dropped; RST_STREAM behind the end
//	                   of the sending direction
//
// A RST_STREAM behind the peer's end of its direction ends only this side's.
type stream struct {
	link *link
	id   uint32
	cut  chan struct{} // closed when the sending direction has ended
	head tunnel.Header // the request's, at the agent

	// The link's mutex guards all below.
	changed *sync.Cond

	first, last *chunk // unread
	readErr     error  // behind the last chunk
	ended       bool   // the peer's direction has ended
	stopped     bool   // what comes is dropped
	stopCode    uint32
	left        int // what the peer may still send
	unsent      int // was read and is not yet given back
	grow        grower

	sendWindow int64
	sendErr    error // why the sending direction has ended

	status   int // of the answer; 0: none yet
	fields   tunnel.Fields
	trailers bool // the peer takes them
}

// errFinished ends the sending direction in order.
var errFinished = errors.New("h2: write after the end")

// newStream is called locked.
func (l *link) newStream(id uint32) *stream {
	s := &stream{
		link: l, id: id, cut: make(chan struct{}), changed: sync.NewCond(&l.mu),
		left: l.window.initial, grow: grower{size: l.window.initial, since: l.rtt.heard},
		sendWindow: l.window.sendInitial, trailers: l.client,
	}
	l.streams[id] = s
	l.window.lent += s.grow.size
	return s
}

func (s *stream) ID() uint64 { return uint64(s.id) }

// A chunk is a part of what was received and not yet read: buf[from:to].
type chunk struct {
	buf      []byte
	from, to int
	next     *chunk
}

// Sizes of chunks: minChunk doubled up to maxFrame.
const (
	minChunk     = 512
	chunkSizes   = 6
	chunkLargest = minChunk << (chunkSizes - 1)
)

var _ [chunkLargest - maxFrame]byte // a frame fits into the largest

func chunkClass(n int) int { return bits.Len(uint(n-1) / minChunk) }

// chunk returns one with room for n bytes, of which there is at least one.
func (l *link) chunk(n int) *chunk {
	class := chunkClass(n)
	if c, ok := l.spare[class].Get().(*chunk); ok {
		return c
	}
	return &chunk{buf: make([]byte, minChunk<<class)}
}

func (l *link) putChunk(c *chunk) {
	c.from, c.to, c.next = 0, 0, nil
	l.spare[chunkClass(len(c.buf))].Put(c)
}

// push appends what was received. It is called locked.
func (s *stream) push(c *chunk) {
	switch last := s.last; {
	case last == nil:
		s.first, s.last = c, c
	case len(last.buf)-last.to >= c.to: // so that single bytes take no chunk each
		last.to += copy(last.buf[last.to:], c.buf[:c.to])
		s.link.putChunk(c)
	default:
		last.next, s.last = c, c
	}
	s.changed.Signal()
}

// Read reads what has been received.
func (s *stream) Read(b []byte) (n int, err error) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for s.first == nil && s.readErr == nil {
		s.changed.Wait()
	}
	for n < len(b) && s.first != nil {
		c := s.first
		k := copy(b[n:], c.buf[c.from:c.to])
		n += k
		if c.from += k; c.from == c.to {
			s.shift()
		}
	}
	if n == 0 && s.first == nil {
		return 0, s.readErr
	}
	s.consumed(n)
	return n, nil
}

// shift drops the first chunk.
func (s *stream) shift() {
	c := s.first
	if s.first = c.next; s.first == nil {
		s.last = nil
	}
	s.link.putChunk(c)
}

// consumed gives n bytes of both windows back. It is called locked.
func (s *stream) consumed(n int) {
	l := s.link
	l.giveBack(n)
	if s.ended || s.stopped {
		return
	}
	before := s.grow.size
	s.grow.consumed(n, &l.window, &l.rtt)
	s.unsent += n + s.grow.size - before
	if s.unsent < s.grow.size/4 {
		return
	}
	l.reply(appendWindow(nil, s.id, uint32(s.unsent)))
	s.left += s.unsent
	s.unsent = 0
	if l.rtt.stale(l.rtt.heard) {
		l.control = l.rtt.ping(l.control, l.rtt.heard)
	}
}

// drop throws away what was not read. It is called locked.
func (s *stream) drop() {
	n := 0
	for s.first != nil {
		n += s.first.to - s.first.from
		s.shift()
	}
	s.link.giveBack(n)
}

// Write sends b as the peer's windows allow.
func (s *stream) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = s.link.sendData(s, b[n:])
		n += k
	}
	return n, err
}

// awaitWindow waits until something may be sent.
func (s *stream) awaitWindow() error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	for s.sendErr == nil && (s.sendWindow <= 0 || s.link.window.send <= 0) {
		s.changed.Wait()
	}
	return s.sendErr
}

// Close ends the sending direction in order.
func (s *stream) Close() error {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	if s.sendErr == errFinished {
		return nil
	}
	return s.finish(errFinished, appendHead(nil, head{0, frameData, flagEndStream, s.id}))
}

// Abort ends the sending direction with an error.
func (s *stream) Abort(code uint64) {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	switch {
	case s.sendErr != nil:
	case s.trailers && (s.link.client || s.status != 0):
		_ = s.finish(&StreamError{Code: code}, s.trailer(fieldReset, strconv.FormatUint(code, 16))) // sendErr is nil
	default:
		s.reset(wireCode(code), &StreamError{Code: code})
	}
}

func (s *stream) trailer(name, value string) []byte {
	return appendHeaders(nil, s.id, flagEndStream, s.link.enc.encode(tunnel.Fields{name: {value}}))
}

// finish ends the sending direction with last. It is called locked.
func (s *stream) finish(why error, last []byte) error {
	if s.sendErr != nil {
		return s.sendErr
	}
	s.link.control = append(s.link.control, last...)
	s.link.wakeUp()
	s.endSending(why)
	switch {
	case s.ended:
		s.forget()
	case s.stopped:
		s.reset(s.stopCode, s.readErr)
	}
	return nil
}

// endSending is called locked.
func (s *stream) endSending(why error) {
	if s.sendErr == nil {
		s.sendErr = why
		close(s.cut)
		s.changed.Broadcast()
	}
}

// endReading ends the peer's direction behind what was received. It is called
// locked.
func (s *stream) endReading(why error) {
	if !s.ended {
		s.ended = true
		if s.readErr == nil {
			s.readErr = why
		}
		s.changed.Broadcast()
	}
}

// Stop asks the peer to send no more.
func (s *stream) Stop(code uint64) {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	s.drop()
	if s.stopped {
		return
	}
	s.stopped, s.stopCode = true, wireCode(code)
	s.readErr = &StreamError{Code: code}
	s.changed.Broadcast()
	if s.sendErr != nil && !s.ended {
		s.reset(s.stopCode, s.readErr)
	}
}

// reset ends both directions and tells the peer. It is called locked.
func (s *stream) reset(code uint32, why error) {
	s.link.reply(appendReset(nil, s.id, code))
	s.endSending(why)
	s.endReading(why)
	s.forget()
}

// forget takes a stream off the link whose directions have both ended. What
// it received can still be read. It is called locked.
func (s *stream) forget() {
	if s.link.streams[s.id] == s {
		delete(s.link.streams, s.id)
		s.link.window.lent -= s.grow.size
		s.link.free.Signal()
	}
}

// lose ends both directions with the connection. It is called locked.
func (s *stream) lose(why *tunnel.CloseError) {
	s.drop()
	s.endSending(why)
	s.endReading(why)
}

// receiveReset is the peer's RST_STREAM. It is called locked.
func (s *stream) receiveReset(wire uint32) {
	why := &StreamError{Code: tunnelCode(wire), Remote: true}
	s.endSending(why)
	s.breakOff(why)
	s.forget()
}

// breakOff ends the peer's direction by its abort. The agent acts on it at
// once; the buyer first reads, and counts, what had come. It is called locked.
func (s *stream) breakOff(why error) {
	if !s.link.client && !s.ended {
		s.drop()
	}
	s.endReading(why)
}

// receiveEnd ends the peer's direction; why is nil for an end in order. It is
// called locked.
func (s *stream) receiveEnd(why error) {
	switch {
	case why == nil:
		s.endReading(io.EOF)
	case why == tunnel.ErrBroken:
		s.endReading(why)
	default:
		s.breakOff(why)
	}
	if s.sendErr != nil {
		s.forget()
	}
}

// A request is the buyer's end of a stream.
type request struct{ *stream }

// Answer waits for the head of the answer.
func (r request) Answer() (int, tunnel.Fields, error) {
	l := r.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for r.status == 0 && r.readErr == nil {
		r.changed.Wait()
	}
	if r.status == 0 {
		return 0, nil, r.readErr
	}
	return r.status, r.fields, nil
}

// A reply is the agent's end of a stream.
type reply struct{ *stream }

var _ tunnel.Failer = reply{}

// Fail ends the sending direction behind what was written, by a trailer with
// the field that RFC 9209 §2 has for an answer that breaks off.
func (r reply) Fail() error {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	if !r.trailers {
		return errNoTrailers
	}
	return r.finish(errFinished, r.trailer(fieldStatus, "x402-agent; error=connection_terminated"))
}

var errNoTrailers = errors.New("h2: the buyer takes no trailers")

// A call is a request that is not yet answered.
type call struct{ *stream }

func (c call) Accept(fields tunnel.Fields) (tunnel.Stream, error) {
	if err := c.answer(tunnel.StatusOK, fields); err != nil {
		return nil, err
	}
	return reply(c), nil
}

func (c call) Refuse(status int, fields tunnel.Fields, text string) error {
	if err := c.answer(status, fields); err != nil {
		return err
	}
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	return c.Close()
}

func (c call) answer(status int, fields tunnel.Fields) error {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.sendErr != nil {
		return c.sendErr
	}
	c.status = status
	l.control = appendHeaders(l.control, c.id, 0, l.enc.encode(fields, "status", strconv.Itoa(status)))
	l.wakeUp()
	return nil
}

// leave ends what a handler left open.
func (s *stream) leave() {
	if s.Close() != nil {
		s.Abort(0x10c)
	}
	s.Stop(0x100) // RFC 9113 §8.1: no more is needed of the request
	s.link.mu.Lock()
	s.link.serving--
	s.link.mu.Unlock()
}
