package h2

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
)

// ListenConfig says how an agent listens.
type ListenConfig struct {
	// Listener gives the connections. It is owned: Close closes it.
	Listener net.Listener
	Key      *ecdsa.PrivateKey
	// MaxStreams bounds the requests of one connection. Default 264.
	MaxStreams int
	// MaxConns bounds connections. Default 128.
	MaxConns int
	// Cap is as in [ServerConfig].
	Cap *bbr.Cap
	// Strangers bounds the connections of those who have not shown that they
	// can pay. Nil bounds nothing.
	Strangers *tunnel.Strangers
}

// acceptPause is between two tries to accept a connection.
const acceptPause = 100 * time.Millisecond

// handshakes is how many may be under way beside a full number of connections.
const handshakes = 64

// A Listener accepts buyers' connections.
type Listener struct {
	listener net.Listener
	config   ServerConfig
	crowd    *tunnel.Strangers
	places   chan struct{} // a token for each connection
	attempts chan struct{} // likewise, handshakes included
	accepted chan accepted // unbuffered
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

type accepted struct {
	conn ServerConn
	addr net.Addr
}

// Listen starts to listen. Close ends it and all its connections.
func Listen(c ListenConfig) (*Listener, error) {
	cert, err := Certificate(c.Key)
	if err != nil {
		return nil, fmt.Errorf("tunnel key: %w", err)
	}
	if c.MaxConns == 0 {
		c.MaxConns = 128
	}
	if c.Strangers == nil {
		c.Strangers = new(tunnel.Strangers)
	}
	l := &Listener{
		crowd: c.Strangers, listener: c.Listener, config: ServerConfig{cert, c.MaxStreams, c.Cap},
		places: make(chan struct{}, c.MaxConns), attempts: make(chan struct{}, c.MaxConns+handshakes),
		accepted: make(chan accepted),
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.wg.Go(l.run)
	return l, nil
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// run takes connections until the listener is closed.
func (l *Listener) run() {
	defer l.stop()
	for {
		conn, err := l.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as no file descriptors left
			select {
			case <-time.After(acceptPause):
				continue
			case <-l.ctx.Done():
				return
			}
		}
		select {
		case l.attempts <- struct{}{}:
			l.wg.Go(func() { l.serve(conn) })
		default:
			_ = conn.Close() // crowded
		}
	}
}

// serve does the handshake of one connection, hands it to Accept, and ends it
// with the listener.
func (l *Listener) serve(conn net.Conn) {
	defer func() { <-l.attempts }()
	addr := conn.RemoteAddr()
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	x := l.crowd.Enter(cancel, addr, true)
	if x == nil {
		_ = conn.Close() // crowded
		return
	}
	defer x.Leave()
	c, err := Server(ctx, conn, l.config)
	if err != nil {
		return
	}
	c.stranger = x
	select {
	case l.places <- struct{}{}:
		defer func() { <-l.places }()
	default:
		_ = c.Close(tunnel.ReasonLimit, "too many connections")
		return
	}
	select {
	case l.accepted <- accepted{c, addr}:
	case <-c.Context().Done():
	case <-ctx.Done():
	}
	select {
	case <-c.Context().Done():
	case <-ctx.Done():
	}
	reason := tunnel.ReasonShutdown
	if l.ctx.Err() == nil {
		reason = tunnel.ReasonLimit // his place is another's
	}
	_ = c.Close(reason, "")
}

// Accept returns the next connection whose handshake has been done.
func (l *Listener) Accept(ctx context.Context) (tunnel.ServerConn, net.Addr, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.addr, nil
	case <-l.ctx.Done():
		return nil, nil, net.ErrClosed
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// Close stops listening and ends all connections.
func (l *Listener) Close() error {
	l.stop()
	err := l.listener.Close()
	l.wg.Wait()
	return err
}
