package server

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// A splice is the TCP connections of a session.
type splice struct {
	used  [2]bool
	conns [2]*counted
}

// splices guard the splice of all sessions.
type splices struct{ mu sync.Mutex }

// join adds a side's connection. Each side may come once. The second to come
// is given both.
func (sp *splices) join(s *session, side int, c *counted) (pair [2]*counted, joined bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if s.waiting.used[side] {
		return pair, false
	}
	s.waiting.used[side] = true
	s.waiting.conns[side] = c
	return s.waiting.conns, true
}

// end closes a session's connections, and lets none come.
func (sp *splices) end(s *session) {
	sp.mu.Lock()
	conns := s.waiting.conns
	s.waiting.used = [2]bool{true, true}
	sp.mu.Unlock()
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// serveSplice reads the rest of a preamble. The first side's connection waits
// in its session; the second's goroutine copies for both.
func (s *Server) serveSplice(ctx context.Context, c *counted, b []byte) {
	b = b[:relay.PreambleSize]
	if _, err := io.ReadFull(c, b[1:]); err != nil {
		_ = c.Close()
		return
	}
	id, ok := relay.PreambleSession(b)
	old := s.table.get(id)
	if !ok || old == nil || !old.tcp {
		_ = c.Close()
		return
	}
	for side := range old.places {
		if !relay.PreambleBy(b, old.places[side].token) {
			continue
		}
		pair, joined := s.splices.join(old, side, c)
		if !joined {
			break
		}
		_ = c.SetDeadline(time.Time{})
		hasten(c.TCPConn)
		old.alive(side, time.Now())
		if s.table.get(id) != old { // it ended meanwhile, perhaps before the join
			s.splices.end(old)
		}
		if pair[1-side] == nil {
			return // the connection now belongs to the session, whose end closes it
		}
		s.copyBoth(ctx, old, pair)
		s.endSession(old, true)
		return
	}
	_ = c.Close()
}

// hasten asks for congestion control that loss on a radio link does not stop.
// Where the kernel has none it stays as it is.
func hasten(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(setBBR)
}

// Of copying: how much at once, and how long without a byte until progress is
// told.
const (
	spliceChunk = 1 << 20
	spliceWait  = 20 * time.Second
)

// copyBoth copies both ways until both have ended, one has failed, or ctx or
// the session ends, which closes the connections.
func (s *Server) copyBoth(ctx context.Context, old *session, pair [2]*counted) {
	stop := context.AfterFunc(ctx, func() { s.splices.end(old) })
	defer stop()
	var wg sync.WaitGroup
	for side := range pair {
		wg.Go(func() {
			var err error
			if old.account != nil {
				err = s.copyPaid(ctx, old, side, pair)
			} else {
				err = s.copyHalf(ctx, old, pair[1-side].TCPConn, pair[side].TCPConn)
			}
			if err != nil {
				s.splices.end(old) // a reset passes on as one
			}
		})
	}
	wg.Wait()
}

// copyHalf copies until src ends, and passes the end on. The kernel moves the
// bytes (splice(2)).
func (s *Server) copyHalf(ctx context.Context, old *session, dst, src *net.TCPConn) error {
	chunk := uint64(spliceChunk)
	if rate := s.limits.SessionBytes; rate > 0 {
		chunk = min(chunk, max(rate/8, 1<<10))
	}
	for {
		if err := src.SetReadDeadline(time.Now().Add(spliceWait)); err != nil {
			return err
		}
		begun := time.Now()
		n, err := io.Copy(dst, io.LimitReader(src, int64(chunk)))
		if n > 0 {
			s.spliced(old, uint64(n))
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return err
		case uint64(n) < chunk:
			return dst.CloseWrite()
		}
		if rate := s.limits.SessionBytes; rate > 0 {
			if !pause(ctx, time.Duration(uint64(n)*uint64(time.Second)/rate)-time.Since(begun)) {
				return ctx.Err()
			}
		}
	}
}

// spliced counts what was passed on.
func (s *Server) spliced(old *session, n uint64) {
	now := time.Now()
	old.alive(agentSide, now) // what comes out at one end was acknowledged at the other
	old.alive(buyerSide, now)
	old.bytes.Add(n)
	s.packets.passed.Add(n)
}

// Of copying for an account.
const (
	paidChunk = 32 << 10
	paidWait  = 20 * time.Millisecond // until the account is looked at again
)

// copyPaid is copyHalf from a side of a session that is paid for: what comes
// next is read only when the account has let what came before pass.
func (s *Server) copyPaid(ctx context.Context, old *session, side int, pair [2]*counted) error {
	src, dst := pair[side].TCPConn, pair[1-side].TCPConn
	chunk := make([]byte, paidChunk)
	if rate := s.limits.SessionBytes; rate > 0 {
		chunk = chunk[:min(paidChunk, max(rate/8, 1<<10))]
	}
	for {
		begun := time.Now()
		n, err := src.Read(chunk)
		for b := chunk[:n]; len(b) > 0; {
			m, perr := s.passPaid(ctx, old, dst, piece{side, b})
			if perr != nil {
				return perr
			}
			b = b[m:]
		}
		switch {
		case errors.Is(err, io.EOF):
			return dst.CloseWrite()
		case err != nil:
			return err
		}
		if rate := s.limits.SessionBytes; rate > 0 {
			if !pause(ctx, time.Duration(uint64(n)*uint64(time.Second)/rate)-time.Since(begun)) {
				return ctx.Err()
			}
		}
	}
}

// passPaid writes as much of b as the account lets pass, at least one byte.
func (s *Server) passPaid(ctx context.Context, old *session, dst io.Writer, p piece) (n int, err error) {
	a := old.account
	got := a.reserve(uint64(len(p.b)))
	for ; got == 0; got = a.reserve(uint64(len(p.b))) {
		a.refused.Add(1)
		if a.ended.Load() {
			return 0, net.ErrClosed
		}
		if !pause(ctx, paidWait) {
			return 0, ctx.Err()
		}
	}
	n, err = dst.Write(p.b[:got])
	a.settle(p.side, got, uint64(n))
	s.spliced(old, uint64(n))
	return n, err
}

// A piece is what came from a side.
type piece struct {
	side int
	b    []byte
}
