package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/relay"
)

// acceptTCP takes TLS connections and those that join a session.
func (s *Server) acceptTCP(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = s.tcp.Close() })
	defer stop()
	for {
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// No file descriptors, or a connection that ended while it waited:
			// neither is an end. The kernel keeps the others meanwhile.
			s.log.Warn("relay accept", "err", err)
			if !pause(ctx, 50*time.Millisecond) {
				return nil
			}
			continue
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		src := tunnel.SourceOf(from.Addr())
		if !s.dials.allow(src, time.Now()) || !s.conns.enter(src) {
			s.counts.refused.Add(1)
			_ = conn.SetLinger(0) // nor does it leave anything behind
			_ = conn.Close()
			continue
		}
		c := &counted{TCPConn: conn, left: func() { s.conns.leave(src) }}
		wg.Go(func() { s.serveTCP(ctx, c, from) })
	}
}

// pause waits, and is false if ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// A counted connection gives its place back when it is closed.
type counted struct {
	*net.TCPConn
	once sync.Once
	left func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.once.Do(c.left)
	return c.TCPConn.Close()
}

// A resumed connection returns what was read ahead first.
type resumed struct {
	*counted
	ahead *bytes.Reader
}

// Read implements net.Conn.
func (c *resumed) Read(b []byte) (int, error) {
	if c.ahead.Len() > 0 {
		return c.ahead.Read(b)
	}
	return c.counted.Read(b)
}

// serveTCP finds out what a connection is for. The connection is closed
// unless it was handed on.
func (s *Server) serveTCP(ctx context.Context, c *counted, from netip.AddrPort) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(s.config.patience))
	first := make([]byte, 1, relay.PreambleSize)
	if _, err := io.ReadFull(c, first); err != nil {
		_ = c.Close()
		return
	}
	if first[0] == 0 {
		s.serveSplice(ctx, c, first)
		return
	}
	t := tls.Server(&resumed{c, bytes.NewReader(first)}, s.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		s.log.Debug("relay handshake", "from", from, "err", err)
		_ = c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	state := t.ConnectionState()
	if state.NegotiatedProtocol != relay.ALPN {
		if !s.web.hand(t) {
			_ = c.Close()
		}
		return
	}
	defer c.Close()
	src := tunnel.SourceOf(from.Addr())
	if !s.agents.enter(src) {
		s.counts.refused.Add(1)
		return
	}
	defer s.agents.leave(src)
	err := s.serveControl(ctx, &caller{link: t, state: &state, from: from, echo: true})
	s.log.Debug("relay control over", "from", from, "err", err)
}

// handed is the listener of the HTTP server: it accepts the connections whose
// handshake has been done.
type handed struct {
	conns chan net.Conn // taken by Accept; hand refuses when it is full
	done  chan struct{} // closed by Close
	once  sync.Once
	addr  net.Addr
}

func newHanded(a net.Addr) *handed {
	return &handed{conns: make(chan net.Conn, 64), done: make(chan struct{}), addr: a}
}

func (h *handed) hand(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.addr }

// serveHTTP runs the HTTP server until ctx ends.
func (s *Server) serveHTTP(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.web); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
