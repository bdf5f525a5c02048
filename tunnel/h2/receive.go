package h2

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// readData reads a DATA frame into a stream.
func (l *link) readData(r *bufio.Reader, h head, now time.Time) error {
	length, pad := h.length, 0
	if h.flags&flagPadded != 0 {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if pad = int(b); pad >= length {
			return connError{codeProtocol, "DATA shorter than its padding"}
		}
		length -= 1 + pad
	}
	s, err := l.expect(h)
	if err != nil {
		return err
	}
	var c *chunk
	if s != nil && length > 0 {
		c = l.chunk(length)
		if c.to, err = io.ReadFull(r, c.buf[:length]); err != nil {
			return err
		}
		length = 0
	}
	if _, err := r.Discard(length + pad); err != nil {
		return err
	}
	if h.length == 0 && h.flags&flagEndStream == 0 {
		return l.charge(now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take(s, c, h)
	return nil
}

// expect charges the windows for a DATA frame and returns its stream, nil if
// nobody wants it.
func (l *link) expect(h head) (*stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[h.stream]
	switch {
	case s == nil && !l.known(h.stream):
		return nil, connError{codeProtocol, "DATA on an idle stream"}
	case s != nil && s.ended:
		return nil, connError{codeClosed, "DATA behind the end"}
	case h.length > l.window.left || s != nil && h.length > s.left:
		return nil, connError{codeFlowControl, "DATA beyond the window"}
	}
	l.window.left -= h.length
	if s == nil {
		return nil, nil
	}
	s.left -= h.length
	if l.client && s.status == 0 {
		s.reset(codeProtocol, errMalformed)
		return nil, nil
	}
	return s, nil
}

// known says whether the peer may know a stream. It is called locked.
func (l *link) known(id uint32) bool {
	if l.client {
		return id%2 == 1 && id < l.next
	}
	return id%2 == 1 && id <= l.last
}

// take gives what was read of a DATA frame to its stream. It is called locked.
func (l *link) take(s *stream, c *chunk, h head) {
	if s == nil {
		l.giveBack(h.length)
		return
	}
	size := 0
	if c != nil {
		size = c.to
	}
	switch {
	case s.stopped || s.ended: // since the frame began
		l.giveBack(h.length)
	default:
		if c != nil {
			s.push(c)
		}
		s.consumed(h.length - size) // the padding
	}
	if h.flags&flagEndStream != 0 && !s.ended {
		s.receiveEnd(nil)
	}
}

// handleHeaders adds part to the header block that is coming in, and acts on
// it when it is whole.
func (l *link) handleHeaders(h head, part []byte, now time.Time) error {
	l.pending.b = append(l.pending.b, part...)
	if len(l.pending.b) > maxHeader {
		return connError{codeCalm, "header block too large"}
	}
	if h.flags&flagEndHeaders == 0 {
		return nil
	}
	id, end := l.pending.stream, l.pending.end
	l.pending.stream = 0
	b, err := l.dec.decode(l.pending.b)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[id]
	switch {
	case s != nil && s.ended:
		return connError{codeClosed, "HEADERS behind the end"}
	case s != nil && l.client && s.status == 0:
		return l.answered(s, b, end, now)
	case s != nil && end:
		if why := b.trailer(); why == errMalformed {
			s.reset(codeProtocol, why)
		} else {
			s.receiveEnd(why)
		}
		return nil
	case s != nil:
		s.reset(codeProtocol, errMalformed)
		return l.charge(now)
	case l.known(id):
		return l.charge(now) // of a stream that has been reset
	case l.client || id%2 == 0:
		return connError{codeProtocol, "HEADERS on an idle stream"}
	}
	return l.arrived(id, b, end, now)
}

// answered takes the head of an answer. It is called locked.
func (l *link) answered(s *stream, b block, end bool, now time.Time) error {
	status, err := b.status()
	switch {
	case err != nil || status/100 == 1 && end:
		s.reset(codeProtocol, cmp.Or(err, errMalformed))
	case status/100 == 1: // RFC 9110 §15.2: more is to come
		return l.charge(now)
	default:
		s.status, s.fields = status, b.fields
		s.changed.Broadcast()
		if end {
			s.receiveEnd(nil)
		}
	}
	return nil
}

// arrived takes a new request. It is called locked.
func (l *link) arrived(id uint32, b block, end bool, now time.Time) error {
	l.last = id
	h, err := b.request()
	switch {
	case errors.Is(err, errLarge):
		block := l.enc.encode(nil, "status", "431") // RFC 6585 §5
		l.reply(appendHeaders(nil, id, flagEndStream, block))
		l.reply(appendReset(nil, id, codeNo))
		return l.charge(now)
	case err != nil:
		l.reply(appendReset(nil, id, codeProtocol))
		return l.charge(now)
	case l.serving >= 2*l.limit || len(l.streams) >= l.limit: // handlers may outlast their streams
		l.reply(appendReset(nil, id, codeRefused))
		return l.charge(now)
	}
	if !l.trusted {
		if l.heads += len(l.pending.b); l.heads > strangerHeads {
			return connError{codeCalm, "too many requests before a session"}
		}
	}
	s := l.newStream(id)
	s.head, s.trailers = h, h.Fields.Get("te") == "trailers"
	if end {
		s.receiveEnd(nil)
	}
	l.serving++
	l.incoming <- s
	return nil
}

func (l *link) handleReset(id, code uint32, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[id]
	switch {
	case s != nil:
		early := !l.client && s.status == 0
		s.receiveReset(code)
		if !early {
			return nil
		}
	case !l.known(id):
		return connError{codeProtocol, "RST_STREAM on an idle stream"}
	}
	return l.charge(now)
}

func (l *link) handleSettings(h head, b []byte, now time.Time) error {
	if h.flags&flagAck != 0 {
		if len(b) != 0 {
			return connError{codeFrameSize, "acknowledgement with settings"}
		}
		return nil
	}
	settings, err := parseSettings(b)
	if err != nil {
		return err
	}
	if err := l.charge(now); err != nil {
		return err
	}
	l.settled = true
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range settings {
		switch s.id {
		case settingTableSize:
			l.enc.hpack.SetMaxDynamicTableSize(s.value)
		case settingMaxStreams:
			l.window.maxStreams = int(min(s.value, maxWindow))
			l.free.Broadcast()
		case settingInitialWindow:
			if err := l.setInitialWindow(int64(s.value)); err != nil {
				return err
			}
		}
	}
	l.reply(appendHead(nil, head{0, frameSettings, flagAck, 0}))
	return nil
}

// setInitialWindow changes the windows of all streams, RFC 9113 §6.9.2. It is
// called locked.
func (l *link) setInitialWindow(size int64) error {
	change := size - l.window.sendInitial
	l.window.sendInitial = size
	for _, s := range l.streams {
		if s.sendWindow += change; s.sendWindow > maxWindow {
			return connError{codeFlowControl, "window too large"}
		}
		s.changed.Broadcast()
	}
	return nil
}

func (l *link) handlePing(h head, b []byte, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.flags&flagAck != 0 {
		l.rtt.answered(b, now)
		return nil
	}
	l.reply(appendPing(nil, flagAck, b))
	return l.charge(now)
}

// handleGoAway takes the peer's goodbye: with a reason it ends the connection
// at once, without one streams may go on until the peer ends it.
func (l *link) handleGoAway(away *tunnel.CloseError) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
	l.free.Broadcast()
	if away.Reason == tunnel.ReasonDone {
		return nil
	}
	return away
}

func (l *link) handleWindow(id, increment uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == 0 {
		if l.window.send += int64(increment); increment == 0 || l.window.send > maxWindow {
			return connError{codeFlowControl, "window out of range"}
		}
		if l.window.send == int64(increment) { // it was shut
			for _, s := range l.streams {
				s.changed.Broadcast()
			}
		}
		return nil
	}
	s := l.streams[id]
	switch {
	case s == nil && !l.known(id):
		return connError{codeProtocol, "WINDOW_UPDATE on an idle stream"}
	case s == nil:
		return nil
	}
	if s.sendWindow += int64(increment); increment == 0 || s.sendWindow > maxWindow {
		s.reset(codeFlowControl, &StreamError{Code: tunnelCode(codeFlowControl)})
		return nil
	}
	s.changed.Broadcast()
	return nil
}

// tooLarge reports a head that the agent would not take.
func tooLarge(h tunnel.Header) bool {
	n := len(h.Authority) + len(h.Path) + len(h.Protocol) + 512
	for name, values := range h.Fields {
		for _, v := range values {
			n += len(name) + len(v) + 32
		}
	}
	return n > maxHeader
}
