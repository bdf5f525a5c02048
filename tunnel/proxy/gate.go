package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// A gate is a listener that bounds and remembers the connections it lets in,
// so that all can be closed at the end.
type gate struct {
	net.Listener
	cfg  Config
	done <-chan struct{} // closed when Accept is to stop waiting

	mu   sync.Mutex
	open map[*localConn]struct{}
	shut bool // what comes now is closed at once
}

// newGate takes ln over, and closes it when it returns an error.
func newGate(ctx context.Context, ln net.Listener, cfg Config) (*gate, error) {
	cfg, err := cfg.fill()
	if err == nil {
		err = cfg.CheckListener(ln.Addr())
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return &gate{Listener: ln, cfg: cfg, done: ctx.Done(), open: make(map[*localConn]struct{})}, nil
}

// Accept waits for the next connection that the gate has room for; the others
// are reset. A lack of descriptors or memory is waited out.
func (g *gate) Accept() (net.Conn, error) {
	wait := 5 * time.Millisecond
	for {
		c, err := g.Listener.Accept()
		switch {
		case err == nil:
			if conn := g.admit(c); conn != nil {
				return conn, nil
			}
			continue
		case errors.Is(err, syscall.ECONNABORTED):
			continue
		case !isShortage(err):
			return nil, err
		}
		g.cfg.Logger.Debug("accept", "err", err, "wait", wait)
		select {
		case <-g.done:
			return nil, net.ErrClosed
		case <-time.After(wait):
			wait = min(2*wait, time.Second)
		}
	}
}

func isShortage(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit returns nil, having reset c, when there is no room.
func (g *gate) admit(c net.Conn) *localConn {
	conn := &localConn{Conn: c, gate: g}
	g.mu.Lock()
	full := g.shut || len(g.open) >= g.cfg.MaxConns
	if !full {
		g.open[conn] = struct{}{}
	}
	g.mu.Unlock()
	if full {
		g.cfg.Logger.Debug("too many connections", "limit", g.cfg.MaxConns)
		reset(c)
		return nil
	}
	return conn
}

// closeAll closes the listener and every connection.
func (g *gate) closeAll() {
	g.Listener.Close()
	g.mu.Lock()
	g.shut = true
	conns := make([]*localConn, 0, len(g.open))
	for c := range g.open {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		reset(c)
	}
}

// A localConn is a connection of a local program, counted by its gate until it
// is closed.
type localConn struct {
	net.Conn
	gate *gate
}

func (c *localConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.open, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

func (c *localConn) CloseWrite() error { return closeWrite(c.Conn) }

func (c *localConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// dial opens a flow with one of the tunnel's dial methods, within DialTimeout.
// The flow's context ends with ctx only, whatever the tunnel binds to it; end
// releases it.
func (g *gate) dial(ctx context.Context, dial dialFunc, t target) (flow net.Conn, end context.CancelFunc, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(g.cfg.DialTimeout, func() { cancel(context.DeadlineExceeded) })
	flow, err = dial(ctx, t.host, t.port)
	timer.Stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, nil, err
	}
	return flow, func() { cancel(nil) }, nil
}

type dialFunc func(ctx context.Context, host string, port uint16) (net.Conn, error)

// established waits, within DialTimeout, until the far end has opened the
// flow. A flow that cannot tell counts as open.
func (g *gate) established(ctx context.Context, flow net.Conn) error {
	f, ok := flow.(interface{ Established(context.Context) error })
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.DialTimeout)
	defer cancel()
	return f.Established(ctx)
}
