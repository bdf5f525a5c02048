// Package kcp is the tunnel's transport for paths that throttle QUIC: HTTP/2
// over TLS 1.3 (package h2) over KCP, a protocol of retransmission on UDP. It
// is used only where its owner says so: it costs more of the SIM's data than
// QUIC does, which Traffic of either end tells.
//
// KCP itself protects nothing. Packets that are not the peer's can end a
// connection, as with TCP, but to be taken for the peer's they need its
// address and a number that only who sees the packets knows; what they cannot
// do is to alter or read anything.
package kcp

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
	"github.com/depinsim/x402/tunnel/h2"
)

// ListenConfig says how an agent listens.
type ListenConfig struct {
	// Conn is the socket. It is shared, not owned: packets that are not KCP's,
	// by their first byte, are left out. It is read by this listener alone.
	Conn net.PacketConn
	Key  *ecdsa.PrivateKey
	// MaxStreams bounds the requests of one connection. Default 264.
	MaxStreams int
	// MaxConns bounds connections. Default 128.
	MaxConns int
	// Cap bounds what all connections together send; nil is no bound.
	Cap *bbr.Cap
	// Strangers is as in [h2.ListenConfig].
	Strangers *tunnel.Strangers
}

// A Listener accepts buyers' connections.
type Listener struct {
	mux *mux
	h2  *h2.Listener
}

// handshakes is how many may be under way beside a full number of connections.
const handshakes = 64

// Listen starts to listen. Close ends it and all its connections.
func Listen(c ListenConfig) (*Listener, error) {
	if c.MaxConns == 0 {
		c.MaxConns = 128
	}
	m := newMux(muxConfig{conn: c.Conn, receive: receiveAgent, accepts: c.MaxConns + handshakes, cap: c.Cap})
	l, err := h2.Listen(h2.ListenConfig{
		Listener: &peers{mux: m, done: make(chan struct{})}, Key: c.Key, MaxStreams: c.MaxStreams, MaxConns: c.MaxConns, Strangers: c.Strangers,
	})
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return &Listener{m, l}, nil
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.h2.Addr() }

// Accept returns the next connection whose handshake has been done: a
// [ServerConn].
func (l *Listener) Accept(ctx context.Context) (tunnel.ServerConn, net.Addr, error) {
	c, addr, err := l.h2.Accept(ctx)
	if err != nil {
		return nil, nil, err
	}
	over, ok := c.(h2.ServerConn)
	if !ok {
		panic("kcp: not a connection of package h2")
	}
	s, ok := over.NetConn().(*session)
	if !ok {
		panic("kcp: not over KCP")
	}
	return ServerConn{over, s}, addr, nil
}

// A ServerConn is the agent's end of a connection.
type ServerConn struct {
	h2.ServerConn
	session *session
}

var _ tunnel.ServerConn = ServerConn{}

// Traffic is as at the other end.
func (c ServerConn) Traffic() (sent, arrived uint64) { return c.session.traffic() }

// Close stops listening and ends all connections.
func (l *Listener) Close() error { return errors.Join(l.h2.Close(), l.mux.close()) }

// A Dialer dials agents from one socket. Close it after its connections.
type Dialer struct{ mux *mux }

// NewDialer returns a dialer on conn, which stays the caller's to close. It
// reads conn alone.
func NewDialer(conn net.PacketConn) *Dialer {
	return &Dialer{newMux(muxConfig{conn: conn, receive: receiveBuyer})}
}

// Close ends all the dialer's connections.
func (d *Dialer) Close() error { return d.mux.close() }

// A ClientConn is the buyer's end of a connection.
type ClientConn struct {
	*h2.ClientConn
	session *session
}

var _ tunnel.ClientConn = (*ClientConn)(nil)

// Traffic is what the connection has sent, as payload of UDP, and how much of
// it was KCP's data that arrived, each byte once.
func (c *ClientConn) Traffic() (sent, arrived uint64) { return c.session.traffic() }

// Dial connects to the agent at addr, whose key must have the hash keyHash;
// nil accepts any key, which PeerKeyHash then tells.
func (d *Dialer) Dial(ctx context.Context, addr net.Addr, keyHash *[32]byte) (*ClientConn, error) {
	s, err := d.mux.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	c, err := h2.Client(ctx, s, keyHash)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &ClientConn{c, s}, nil
}
