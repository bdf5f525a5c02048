// Package h2 is the tunnel's transport over HTTP/2 (RFC 9113) and TLS 1.3, for
// networks that block UDP, on any connection that carries bytes in order: one
// that was dialled, accepted, or spliced by a relay.
//
// The agent is named by the hash of its key, as over QUIC. What differs from
// HTTP/3 is in docs/PROTOCOL.md §11. The session is the tunnel's own, since no
// library lets a user end one direction of a stream, or a connection, with a
// code, or choose the windows that keep one paused download from freezing the
// others; see docs/decisions/0016-h2-and-kcp.md.
package h2

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
)

// protocol is the name in ALPN, RFC 9113 §3.2.
const protocol = "h2"

// serverName is what buyers ask for; it names no agent.
const serverName = "agent.x402.invalid"

// handshakeTime bounds a handshake.
const handshakeTime = 10 * time.Second

// ErrWrongKey says that another agent answered than the offer names.
var ErrWrongKey = errors.New("the agent's key is not the one in its offer")

// A ClientConn is the buyer's end of a connection.
type ClientConn struct {
	*link
	tls tls.ConnectionState
}

var _ tunnel.ClientConn = (*ClientConn)(nil)

// Client begins a connection to an agent over conn, which it owns from now on.
// The agent's key must have the hash keyHash; nil accepts any key, which
// [ClientConn.PeerKeyHash] then tells.
func Client(ctx context.Context, conn net.Conn, keyHash *[32]byte) (*ClientConn, error) {
	var wrong error
	tune(conn)
	tc := tls.Client(conn, &tls.Config{
		ServerName:         serverName,
		NextProtos:         []string{protocol},
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the key is verified below; names and dates mean nothing
		VerifyConnection: func(cs tls.ConnectionState) error {
			if keyHash != nil && peerHash(cs) != *keyHash {
				wrong = ErrWrongKey
			}
			return wrong
		},
	})
	if err := handshake(ctx, tc); err != nil {
		if wrong != nil {
			err = wrong
		}
		return nil, fmt.Errorf("h2: %s: %w", conn.RemoteAddr(), err)
	}
	return &ClientConn{newLink(tc, true, 0, nil), tc.ConnectionState()}, nil
}

// handshake does the handshake, or closes c.
func handshake(ctx context.Context, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	err := c.HandshakeContext(ctx)
	if err == nil && c.ConnectionState().NegotiatedProtocol != protocol {
		err = errors.New("the peer does not speak HTTP/2")
	}
	if err != nil {
		return errors.Join(err, c.NetConn().Close())
	}
	return nil
}

func peerHash(cs tls.ConnectionState) [32]byte {
	if len(cs.PeerCertificates) == 0 {
		return [32]byte{}
	}
	return sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
}

// PeerKeyHash is the hash of the key that the agent proved to hold.
func (c *ClientConn) PeerKeyHash() [32]byte { return peerHash(c.tls) }

// CipherSuite is the negotiated TLS cipher suite.
func (c *ClientConn) CipherSuite() uint16 { return c.tls.CipherSuite }

// Open sends the head of a request and returns without waiting for the answer.
// It waits while the agent takes no more streams.
func (c *ClientConn) Open(ctx context.Context, h tunnel.Header) (tunnel.Request, error) {
	if h.Path != "" {
		if _, err := url.ParseRequestURI(h.Path); err != nil {
			return nil, err
		}
	}
	if tooLarge(h) {
		return nil, errLarge
	}
	l := c.link
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.free.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	for ctx.Err() == nil && l.err == nil && l.away == nil && len(l.streams) >= l.window.maxStreams {
		l.free.Wait()
	}
	switch {
	case l.err != nil:
		return nil, l.err
	case l.away != nil:
		return nil, l.away
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case l.next > maxWindow:
		return nil, errNumbers
	}
	s := l.newStream(l.next)
	l.next += 2
	l.control = appendHeaders(l.control, s.id, 0, l.enc.request(h))
	l.wakeUp()
	return request{s}, nil
}

var errNumbers = errors.New("h2: no stream numbers left")

// ServerConfig says how an agent serves a connection.
type ServerConfig struct {
	// Certificate is from [Certificate].
	Certificate tls.Certificate
	// MaxStreams bounds the requests of one connection. Default 264.
	MaxStreams int
	// Cap bounds what all connections that share it send; nil is no bound. What
	// TCP has to send again is not seen here and comes on top.
	Cap *bbr.Cap
}

// Certificate returns the certificate of an agent with this key.
func Certificate(key *ecdsa.PrivateKey) (tls.Certificate, error) {
	return tunnel.Certificate(key, serverName)
}

// A ServerConn is the agent's end of a connection.
type ServerConn struct {
	*link
	below    net.Conn
	stranger *tunnel.Stranger // nil: was never counted
}

// Trust says that the buyer is no stranger any more.
func (c ServerConn) Trust() {
	c.link.trust()
	if c.stranger != nil {
		c.stranger.Leave()
	}
}

var _ tunnel.ServerConn = ServerConn{}

// Server begins a connection of a buyer's over conn, which it owns from now on.
func Server(ctx context.Context, conn net.Conn, c ServerConfig) (ServerConn, error) {
	if c.MaxStreams == 0 {
		c.MaxStreams = 264
	}
	tune(conn)
	tc := tls.Server(conn, &tls.Config{
		Certificates:           []tls.Certificate{c.Certificate},
		NextProtos:             []string{protocol},
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true, // as over QUIC
	})
	if err := handshake(ctx, tc); err != nil {
		return ServerConn{}, fmt.Errorf("h2: %s: %w", conn.RemoteAddr(), err)
	}
	return ServerConn{newLink(tc, false, c.MaxStreams, newPacer(c.Cap)), conn, nil}, nil
}

// NetConn is what the connection runs over, below TLS.
func (c ServerConn) NetConn() net.Conn { return c.below }

// Serve calls handle for every request until the connection ends.
func (c ServerConn) Serve(handle func(tunnel.Header, tunnel.Call)) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		select {
		case s := <-c.incoming:
			handlers.Go(func() {
				defer s.leave()
				handle(s.head, call{s})
			})
		case <-c.ctx.Done():
			c.wg.Wait()
			return context.Cause(c.ctx)
		}
	}
}
