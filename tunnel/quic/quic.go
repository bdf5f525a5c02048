// Package quic is the tunnel's transport over QUIC and HTTP/3.
//
// The agent is named by the SHA-256 hash of its certificate's public key
// ([KeyHash]), which stands in its offer; names, dates and issuers of
// certificates mean nothing here, since routers have no clock at boot.
package quic

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
)

// GenerateKey returns a new key for an agent's certificate. P-256 verifies at
// a tenth of RSA's cost on a router and is understood by every TLS stack.
func GenerateKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// KeyHash is the SHA-256 hash of the key's SubjectPublicKeyInfo (RFC 7469 §2.4).
func KeyHash(pub *ecdsa.PublicKey) ([32]byte, error) {
	info, err := tunnel.PublicKeyInfo(pub)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(info), nil
}

// KeepAlive is how often an idle connection sends a packet: within the 30 s
// that common carrier NATs keep a UDP mapping, at about 90 bytes each.
const KeepAlive = 22 * time.Second

// idle is when a silent connection counts as lost: three keep-alives.
const idle = 70 * time.Second

// Windows of flow control, asymmetric since stalled streams sit on the
// receiving side. The buyer's connection window covers 200 stalled streams;
// the agent's covers 64 stalled uploads at their first window.
const (
	agentStream, agentStreamMax = 128 << 10, 1 << 20
	agentConn                   = 8 << 20
	strangerConn                = 192 << 10
	buyerStream, buyerStreamMax = 512 << 10, 6 << 20
	buyerConn                   = 128 << 20
)

// baseConfig leaves resets with partial delivery (RESET_STREAM_AT) off: with
// quic-go v0.60 a peer that stops such a stream makes the process panic,
// "numOutStandingFrames negative". Trailers do what they were for; see Fail.
func baseConfig() *quicgo.Config {
	return &quicgo.Config{
		HandshakeIdleTimeout: 10 * time.Second,
		MaxIdleTimeout:       idle,
		KeepAlivePeriod:      KeepAlive,
		EnableDatagrams:      true,
	}
}

// ListenConfig says how an agent listens.
type ListenConfig struct {
	// Conn is the socket. It is shared, not owned.
	Conn net.PacketConn
	Key  *ecdsa.PrivateKey
	// ResetKey lets an agent that lost its connections, by a crash or a power
	// cut, tell buyers so at their next packet (RFC 9000 §10.3). It is the
	// same after every start, and secret. Zero: buyers wait for the time-out.
	ResetKey [32]byte
	// MaxStreams bounds the requests of one connection. Default 264.
	MaxStreams int
	// MaxConns bounds connections. Default 128.
	MaxConns int
	// Cap bounds what all connections together send; nil is no bound.
	Cap *bbr.Cap
	// Strangers bounds the connections of those who have not shown that they
	// can pay. Nil bounds nothing.
	Strangers *tunnel.Strangers
}

// A Listener accepts buyers' connections.
type Listener struct {
	transport *quicgo.Transport
	listener  *quicgo.EarlyListener
	places    chan struct{} // a token for each connection
	attempts  chan struct{} // likewise, handshakes included
	most      *bbr.Cap
	crowd     *tunnel.Strangers
	tickets   *tickets
}

// handshakes is how many may be under way beside a full number of connections.
const handshakes = 64

var errBusy = errors.New("quic: too many handshakes")

// attempt takes a place for a connection before its handshake has cost
// anything; one without a place is refused.
func (l *Listener) attempt(ctx context.Context, who *quicgo.ClientInfo) (context.Context, error) {
	select {
	case l.attempts <- struct{}{}:
	default:
		return nil, errBusy
	}
	over, end := context.WithCancel(ctx)
	x := l.crowd.Enter(end, who.RemoteAddr, who.AddrVerified)
	if x == nil {
		end()
		<-l.attempts
		return nil, errBusy
	}
	context.AfterFunc(ctx, func() {
		<-l.attempts
		x.Leave()
		end()
	})
	return context.WithValue(ctx, visitKey{}, visit{x, over, &comeback{all: l.tickets}}), nil
}

// A visit is a stranger's, in the context of his connection; over ends when his
// place is another's, or the connection has ended.
type visit struct {
	stranger *tunnel.Stranger
	over     context.Context
	back     *comeback
}

type visitKey struct{}

// visitOf is the visit of a connection's context; nil fields: it has none.
func visitOf(ctx context.Context) visit {
	v, _ := ctx.Value(visitKey{}).(visit)
	return v
}

// crowded says whether buyers first have to show that their address is theirs
// (RFC 9000 §8.1.2), which costs them a round trip: many handshakes under way
// may be a flood of forged ones.
func (l *Listener) crowded(addr net.Addr) bool {
	of, all := l.crowd.Count(addr)
	return len(l.attempts)-len(l.places) > handshakes/2 || l.crowd.Most > 0 && (all >= l.crowd.Most/2 || of >= l.crowd.Most/8)
}

// narrow is the config for connections that begin while there are many strangers:
// what each sends is held unread, and all of it is the agent's memory. The window
// grows with what is read.
func (l *Listener) narrow(roomy *quicgo.Config) func(*quicgo.ClientInfo) (*quicgo.Config, error) {
	narrow := roomy.Clone()
	narrow.InitialConnectionReceiveWindow = strangerConn
	return func(who *quicgo.ClientInfo) (*quicgo.Config, error) {
		if _, all := l.crowd.Count(who.RemoteAddr); l.crowd.Most > 0 && all > l.crowd.Most/16 {
			return narrow, nil
		}
		return roomy, nil
	}
}

// Listen starts to listen. Close ends it and all its connections.
func Listen(c ListenConfig) (*Listener, error) {
	if c.MaxStreams == 0 {
		c.MaxStreams = 264
	}
	if c.MaxConns == 0 {
		c.MaxConns = 128
	}
	cert, err := certificate(c.Key)
	if err != nil {
		return nil, fmt.Errorf("tunnel key: %w", err)
	}
	qc := baseConfig()
	qc.InitialStreamReceiveWindow, qc.MaxStreamReceiveWindow = agentStream, agentStreamMax
	qc.InitialConnectionReceiveWindow, qc.MaxConnectionReceiveWindow = agentConn, agentConn
	qc.MaxIncomingStreams = int64(c.MaxStreams)
	qc.MaxIncomingUniStreams = 8 // HTTP/3 needs three
	qc.Allow0RTT = true
	if c.Strangers == nil {
		c.Strangers = new(tunnel.Strangers)
	}
	l := &Listener{tickets: newTickets(), places: make(chan struct{}, c.MaxConns), attempts: make(chan struct{}, c.MaxConns+handshakes), most: c.Cap, crowd: c.Strangers}
	qc.GetConfigForClient = l.narrow(qc.Clone())
	l.transport = &quicgo.Transport{Conn: c.Conn, ConnContext: l.attempt, VerifySourceAddress: l.crowded}
	if c.ResetKey != [32]byte{} {
		l.transport.StatelessResetKey = (*quicgo.StatelessResetKey)(&c.ResetKey)
	}
	l.listener, err = l.transport.ListenEarly(serverTLS(cert), qc)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Transport is for connections that go out from the same socket.
func (l *Listener) Transport() *quicgo.Transport { return l.transport }

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// Accept returns the next connection, at its first packets: whose handshake has
// to be done first waits in [ServerConn.Serve]. It is called by one goroutine.
func (l *Listener) Accept(ctx context.Context) (tunnel.ServerConn, net.Addr, error) {
	conn, err := l.listener.Accept(ctx)
	if err != nil {
		if errors.Is(err, quicgo.ErrServerClosed) {
			err = net.ErrClosed
		}
		return nil, nil, err
	}
	c := &ServerConn{link: newLink(conn, l.most), listener: l, stranger: visitOf(conn.Context()).stranger}
	return c, conn.RemoteAddr(), nil
}

// admit takes a place for a connection, once its packets are known to come from
// where they say: by the handshake, or by a ticket, which nobody else can use.
func (l *Listener) admit(c *ServerConn) error {
	if _, back := c.Resumed(); !back {
		select {
		case <-c.conn.HandshakeComplete():
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
	if !c.stranger.Prove(c.conn.RemoteAddr()) {
		return c.refuse("too many of your address")
	}
	select {
	case l.places <- struct{}{}:
	default:
		return c.refuse("too many connections")
	}
	context.AfterFunc(c.ctx, func() { <-l.places })
	context.AfterFunc(visitOf(c.conn.Context()).over, func() { _ = c.refuse("no session in time, and others wait") })
	return nil
}

// Close stops listening and ends all connections.
func (l *Listener) Close() error {
	return errors.Join(l.listener.Close(), l.transport.Close())
}

func certificate(key *ecdsa.PrivateKey) (tls.Certificate, error) {
	return tunnel.Certificate(key, serverName)
}

// nextProto is HTTP/3's name in TLS (RFC 9114 §3.1).
const nextProto = "h3"

// serverName is what buyers ask for; it names no agent.
const serverName = "agent.x402.invalid"

// ErrWrongKey says that another agent answered than the offer names.
var ErrWrongKey = errors.New("the agent's key is not the one in its offer")

// A Dialer dials agents from one socket. Close it after its connections.
type Dialer struct{ transport *quicgo.Transport }

// NewDialer returns a dialer on conn, which stays the caller's to close. It
// reads from now on, since others may use conn too.
func NewDialer(conn net.PacketConn) *Dialer {
	d := &Dialer{&quicgo.Transport{Conn: conn}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, _ = d.transport.ReadNonQUICPacket(ctx, nil) // starts the reader
	return d
}

// Close ends all the dialer's connections.
func (d *Dialer) Close() error { return d.transport.Close() }

// Dial connects to the agent at addr, whose key must have the hash keyHash;
// nil accepts any key, which [ClientConn.PeerKeyHash] then tells.
func (d *Dialer) Dial(ctx context.Context, addr net.Addr, keyHash *[32]byte) (*ClientConn, error) {
	return d.dial(ctx, addr, keyHash, nil)
}

// dial connects, by a ticket if there is one.
func (d *Dialer) dial(ctx context.Context, addr net.Addr, keyHash *[32]byte, t *Ticket) (*ClientConn, error) {
	qc := baseConfig()
	qc.InitialStreamReceiveWindow, qc.MaxStreamReceiveWindow = buyerStream, buyerStreamMax
	qc.InitialConnectionReceiveWindow, qc.MaxConnectionReceiveWindow = buyerConn, buyerConn
	qc.MaxIncomingStreams, qc.MaxIncomingUniStreams = -1, 8
	var wrong error
	sessions := &sessions{use: t}
	tc := &tls.Config{
		ServerName:         serverName,
		NextProtos:         []string{nextProto},
		MinVersion:         tls.VersionTLS13,
		ClientSessionCache: sessions,
		InsecureSkipVerify: true, // the key is verified below; names and dates mean nothing
		VerifyConnection: func(cs tls.ConnectionState) error { // also of a resumed connection
			if keyHash != nil && peerHash(cs) != *keyHash {
				wrong = ErrWrongKey
			}
			return wrong
		},
	}
	dial := d.transport.Dial
	var e ear
	if t != nil {
		dial, tc.KeyLogWriter = d.transport.DialEarly, &e
	}
	conn, err := dial(ctx, addr, tc, qc)
	var o *opening
	if t != nil && err == nil {
		o, err = newOpening(ctx, conn, &e)
	}
	if err != nil {
		if wrong != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, wrong)
		}
		return nil, fmt.Errorf("dial %s: %w", addr, explain(err))
	}
	return newClientConn(conn, sessions, o), nil
}

func peerHash(cs tls.ConnectionState) [32]byte {
	if len(cs.PeerCertificates) == 0 {
		return [32]byte{}
	}
	return sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
}

// maxHeader bounds the head of a request or answer.
const maxHeader = 8 << 10
