package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
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
//	target resets             the buyer reads an error behind the last byte,
//	                          if it can be told so; if not, instead of it
//	credit ends               both ends are closed
//	connection or drain ends  likewise, whatever up and down wait for
type leg struct {
	stream   Stream
	target   net.Conn
	gate     gate // shut: the buyer has no room for more of this flow
	ctx      context.Context
	end      context.CancelFunc
	canceled atomic.Bool // by the buyer
	store    *store
}

func (s *Session) serveTCP(h Header, c Call, e entry) {
	host, port, err := parseAuthority(h.Authority)
	if err != nil {
		s.refuse(c, StatusBadRequest, err.Error())
		return
	}
	str, target := s.reach(e.ctx, c, nil, func(ctx context.Context) (net.Conn, error) {
		return s.cfg.Dialer.DialTCP(ctx, host, port)
	})
	if str == nil {
		return
	}
	defer target.Close()
	l := &leg{stream: str, target: target, store: &s.store}
	l.ctx, l.end = context.WithCancel(e.ctx)
	defer l.end()
	defer context.AfterFunc(e.ctx, l.kill)()
	s.enlist(str.ID(), flow{gate: &l.gate, cancel: l.cancel, target: target})
	defer s.delist(str.ID())
	var wg sync.WaitGroup
	wg.Go(func() { l.down(e.lanes.DownTCP) })
	l.up(e.lanes.UpTCP)
	wg.Wait()
}

// up relays until the buyer or the target ends its direction.
func (l *leg) up(lane Lane) {
	in := newInlet(l.stream, l.store)
	defer in.close()
	for {
		b, err := in.next()
		if len(b) > 0 {
			if werr := l.deliver(lane, b[Headroom:]); werr != nil {
				l.stream.Stop(codeConnect)
				l.reset()
				return
			}
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
		size, err := reserve(l.ctx, lane, len(b))
		if err != nil {
			return err
		}
		if err := l.target.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			lane.Deliver(size, 0)
			return err
		}
		n, err := l.target.Write(b[:size])
		lane.Deliver(size, n)
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
	in := newInlet(l.target, l.store)
	defer in.close()
	for {
		b, err := in.next()
		if len(b) > 0 {
			if werr := l.send(lane, b); werr != nil {
				if l.canceled.Load() && l.stream.Close() == nil {
					return // what waited for room or credit is dropped, unsent
				}
				l.stream.Abort(codeInternal)
				l.stream.Stop(codeInternal) // which ends up
				l.reset()
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) || l.canceled.Load():
			if err := l.stream.Close(); err != nil { // the buyer takes no more
				l.stream.Stop(codeCanceled)
				l.reset()
			}
			return
		default:
			l.fail()
			return
		}
	}
}

// send sends what is behind [Headroom] in b.
func (l *leg) send(lane Lane, b []byte) error {
	if err := l.gate.pass(l.ctx); err != nil {
		return err
	}
	for len(b) > Headroom {
		size, err := reserve(l.ctx, lane, len(b)-Headroom)
		if err != nil {
			return err
		}
		n, err := write(l.stream, b[:Headroom+size])
		lane.Deliver(size, n)
		if err != nil {
			return err
		}
		b = b[size:] // what was sent is the next piece's headroom
	}
	return nil
}

// fail ends both directions after a fault of the target's connection.
func (l *leg) fail() {
	if f, ok := l.stream.(Failer); !ok || f.Fail() != nil {
		l.stream.Abort(codeConnect) // RFC 9114 §4.4: a TCP connection error
	}
	l.stream.Stop(codeConnect)
	l.reset()
}

// cancel is the buyer's application gone: the target is reset, and down ends
// behind what it has sent.
func (l *leg) cancel() {
	l.canceled.Store(true)
	l.reset()
}

// reset ends both directions but for reads and writes on the stream.
func (l *leg) reset() {
	l.end()
	l.resetTarget()
}

// kill ends everything at once.
func (l *leg) kill() {
	l.reset()
	l.stream.Abort(codeCanceled)
	l.stream.Stop(codeCanceled)
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
