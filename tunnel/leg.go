package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// The agent's end of a TCP flow.
//
//	up:   stream.Read → lane.Reserve → target.Write → lane.Deliver
//	down: target.Read → gate → lane.Reserve → stream.Write → lane.Deliver
//
// A direction ends in order when its source does (a FIN is passed on), and
// otherwise:
//
//	buyer aborts or cancels   the target is reset, what was read from it is
//	                          still sent, and the stream ends in order, so that
//	                          both sides count the same
//	target resets             the stream is aborted behind the last byte
//	credit or connection ends both ends are closed
type leg struct {
	stream Stream
	target net.Conn
	gate   gate // shut: the buyer has no room for more of this flow
	ctx    context.Context
	end    context.CancelFunc

	mu       sync.Mutex
	canceled bool // by the buyer
}

const (
	minBuffer = 4 << 10  // what a flow starts with
	maxBuffer = 32 << 10 // what full reads grow it to
)

func (s *Session) serveTCP(h Header, c Call) {
	host, port, err := parseAuthority(h.Authority)
	if err != nil {
		s.refuse(c, 400, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(s.conn.Context(), s.cfg.DialTimeout)
	target, err := s.cfg.Dialer.DialTCP(ctx, host, port)
	cancel()
	if err != nil {
		s.refuseDial(c, err)
		return
	}
	defer target.Close()
	str, err := c.Accept(nil)
	if err != nil {
		s.cfg.Logger.Debug("accept flow", "err", err)
		return
	}
	fctx, end := context.WithCancel(s.conn.Context())
	defer end()
	l := &leg{stream: str, target: target, ctx: fctx, end: end}
	s.mu.Lock()
	lanes := s.lanes
	s.byID[str.ID()] = l
	s.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { l.down(lanes.DownTCP) })
	l.up(lanes.UpTCP)
	wg.Wait()
	s.mu.Lock()
	delete(s.byID, str.ID())
	s.mu.Unlock()
}

// up relays until the buyer or the target ends its direction.
func (l *leg) up(lane Lane) {
	buf := make([]byte, minBuffer)
	for {
		n, err := l.stream.Read(buf)
		if n > 0 {
			if werr := l.deliver(lane, buf[:n]); werr != nil {
				l.stream.Stop(codeConnect)
				l.reset()
				return
			}
			buf = grow(buf, n)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			closeWrite(l.target)
			return
		default: // aborted by the buyer, or the connection is lost
			l.cancel()
			return
		}
	}
}

// stall is how long a target may hold a reservation without taking anything;
// after it the credit is given back for other flows to use.
const stall = 100 * time.Millisecond

// deliver writes b to the target. Credit is held only while the target takes
// bytes, so that a stuck one does not starve its session.
func (l *leg) deliver(lane Lane, b []byte) error {
	pause := stall
	for len(b) > 0 {
		if err := lane.Reserve(l.ctx, len(b)); err != nil {
			return err
		}
		if err := l.target.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			lane.Deliver(len(b), 0)
			return err
		}
		n, err := l.target.Write(b)
		lane.Deliver(len(b), n)
		b = b[n:]
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case n > 0:
			pause = stall
		default:
			select {
			case <-time.After(pause):
			case <-l.ctx.Done():
				return context.Cause(l.ctx)
			}
			pause = min(2*pause, 16*stall)
		}
	}
	return nil
}

// down relays until the target ends its direction or the flow is over.
func (l *leg) down(lane Lane) {
	buf := make([]byte, minBuffer)
	for {
		n, err := l.target.Read(buf)
		if n > 0 {
			if werr := l.send(lane, buf[:n]); werr != nil {
				l.stream.Abort(codeInternal)
				l.reset()
				return
			}
			buf = grow(buf, n)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) || l.wasCanceled():
			if err := l.stream.Close(); err != nil {
				l.reset()
			}
			return
		default:
			l.stream.Abort(codeConnect) // RFC 9114 §4.4: a TCP connection error
			l.stream.Stop(codeConnect)
			l.reset()
			return
		}
	}
}

func (l *leg) send(lane Lane, b []byte) error {
	if err := l.gate.pass(l.ctx); err != nil {
		return err
	}
	if err := lane.Reserve(l.ctx, len(b)); err != nil {
		return err
	}
	n, err := l.stream.Write(b)
	lane.Deliver(len(b), n)
	return err
}

// cancel is the buyer's application gone: the target is reset, which ends down.
func (l *leg) cancel() {
	l.mu.Lock()
	l.canceled = true
	l.mu.Unlock()
	l.gate.open()
	l.resetTarget()
}

func (l *leg) wasCanceled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.canceled
}

// reset ends both directions at once.
func (l *leg) reset() {
	l.end()
	l.resetTarget()
}

func (l *leg) resetTarget() {
	if t, ok := l.target.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // the close below resets either way; this says so to the target
	}
	_ = l.target.Close() // it is being given up; deferred closes close it again
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // the target may have closed first
	}
}

// grow doubles buf after a read that filled it.
func grow(buf []byte, n int) []byte {
	if n == len(buf) && n < maxBuffer {
		return make([]byte, 2*n)
	}
	return buf
}
