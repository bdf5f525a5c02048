// Package server is the relay: agents keep a control connection to it, buyers
// list their offers and ask for sessions, and it copies the sessions' packets
// unchanged between two ports, or splices two TCP connections.
//
// It holds no key of any session, so it can neither read nor alter what passes,
// and keeps nothing on disk: after a restart agents come back within seconds.
// Whether it is paid for that is a [Toll]'s business.
// Whatever strangers can make it hold is bounded by [Limits], and it sends no
// more to an address than that sent before, until the address has answered.
package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	quicgo "github.com/apernet/quic-go"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/tunnel/relay"
)

// A Directory knows agents and their offers. It is safe for concurrent use.
type Directory interface {
	// Authenticate says whether the signature is the agent's, for a hello on
	// the TLS connection with this exporter.
	Authenticate(agent [20]byte, exporter [32]byte, signature [65]byte) error
	// Publish takes an offer that came from the agent itself, whose packets come
	// from that address. No offer withdraws the one before.
	Publish(agent [20]byte, from netip.Addr, offer []byte) error
	// Seen says that an agent gave a sign of life, or that its connection has
	// ended.
	Seen(agent [20]byte, connected bool)
	// ServeHTTP answers queries at /v1/offers and /discovery/resources, and
	// rotation links at /v1/rotate/. It has more time for these.
	http.Handler
}

// Limits bound what a relay does for others. Zero fields have the defaults
// named.
type Limits struct {
	Agents       int // connected at once; 10,000
	SourceAgents int // of one source (IPv4 address or IPv6 /64); 256

	Connections       int // TCP, control and spliced ones included; 10,000
	SourceConnections int // 256

	Sessions       int // 4,000
	AgentSessions  int // 128, of which a source has a quarter
	SourceSessions int // 64

	Requests        Rate // HTTP, of a source; 60 in 10 s
	SessionRequests Rate // of a source; 20 in 10 s
	Hellos          Rate // control connections of a source; 300 in a minute
	// Handshakes are of TLS over TCP, of a source: they cost more than what is
	// asked for behind them. 200 in 10 s.
	Handshakes Rate

	SessionBytes uint64 // a second, each session; 0: no limit
	AgentQuota   uint64 // bytes in 24 h, all sessions of an agent; 0: no limit
	SourceQuota  uint64 // likewise of a buyer's source
}

func (l Limits) withDefaults() Limits {
	for _, d := range [...]struct {
		v *int
		n int
	}{
		{&l.Agents, 10_000}, {&l.SourceAgents, 256}, {&l.Connections, 10_000}, {&l.SourceConnections, 256},
		{&l.Sessions, 4_000}, {&l.AgentSessions, 128}, {&l.SourceSessions, 64},
	} {
		if *d.v == 0 {
			*d.v = d.n
		}
	}
	for _, d := range [...]struct{ v, n *Rate }{
		{&l.Requests, &Rate{60, 10 * time.Second}}, {&l.SessionRequests, &Rate{20, 10 * time.Second}},
		{&l.Hellos, &Rate{300, time.Minute}}, {&l.Handshakes, &Rate{200, 10 * time.Second}},
	} {
		if *d.v == (Rate{}) {
			*d.v = *d.n
		}
	}
	return l
}

// Files is how many files the limits let the relay open at most; a session has
// two sockets.
func (l Limits) Files() int {
	l = l.withDefaults()
	return 2*l.Sessions + l.Connections + 64
}

// paymentRate is more than the buyers behind one address need, each of which
// waits for an answer before it pays again.
func paymentRate() Rate { return Rate{2000, 10 * time.Second} }

// Config says how a relay runs.
type Config struct {
	// Listen is the address of both ports, UDP and TCP.
	Listen netip.AddrPort
	// Public are the addresses that agents and buyers reach, at most one of
	// IPv4 and one of IPv6. Default: Listen's, if it names one.
	Public      []netip.Addr
	Certificate tls.Certificate
	// Renewed returns the certificate that counts now, for one that is renewed
	// while the relay runs. Default: Certificate.
	Renewed   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Directory Directory
	Toll      Toll // nil: the relay is free
	// Gateway answers at /v1/credit; nil: there is none.
	Gateway http.Handler
	Watch   Watch // nil: agents' claims are not kept
	Ports   Ports // of sessions; default: the kernel's choice
	Limits  Limits
	// Drain is how long sessions go on after the end was asked for.
	Drain  time.Duration
	Logger *slog.Logger

	patience time.Duration // with those who say little; tests have less
}

// A Server is a relay. Listen makes one.
type Server struct {
	config  Config
	log     *slog.Logger
	limits  Limits
	tcp     *net.TCPListener
	quic    *quicgo.Transport
	udp     *net.UDPConn
	tls     *tls.Config
	packets packetConfig
	forward *forwarder
	table   *table
	members members
	splices splices
	// rotations are links under way.
	rotations rotations
	http      *http.Server
	web       *handed // connections for http

	agents, conns              *crowd
	requests, sessions, hellos *limiter
	payments                   *limiter
	callers, proven, dials     *limiter      // of handshakes: QUIC, QUIC with a proven address, TCP
	attempts                   chan struct{} // a token for each QUIC handshake
	draining                   atomic.Bool
	counts                     counts
}

// patience is how long a new connection may take to say what it wants.
const patience = 10 * time.Second

// Handshakes of QUIC that may be under way, and from how many on newcomers
// first have to show that their address is theirs (RFC 9000 §8.1.2).
const (
	handshakes = 2048
	crowded    = 128
)

// Listen opens the relay's ports. Run must be called on the Server, which
// closes them.
func Listen(ctx context.Context, c Config) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.patience == 0 {
		c.patience = patience
	}
	if len(c.Public) == 0 {
		if c.Listen.Addr().IsUnspecified() {
			return nil, errors.New("relay: no public address, and it listens on all")
		}
		c.Public = []netip.Addr{c.Listen.Addr()}
	}
	l := c.Limits.withDefaults()
	s := &Server{
		config: c, log: c.Logger, limits: l, table: newTable(l),
		members: members{by: map[relay.Address]*member{}}, rotations: rotations{by: map[relay.Address]*rotation{}},
		agents: newCrowd(l.SourceAgents, l.Agents), conns: newCrowd(l.SourceConnections, l.Connections),
		requests: newLimiter(l.Requests), sessions: newLimiter(l.SessionRequests), hellos: newLimiter(l.Hellos), payments: newLimiter(paymentRate()),
		callers: newLimiter(l.Hellos), proven: newLimiter(l.Hellos), dials: newLimiter(l.Handshakes),
		attempts: make(chan struct{}, handshakes),
		packets: packetConfig{
			ip: c.Listen.Addr(), four: c.Listen.Addr().Is4(), ports: c.Ports, limitBytes: l.SessionBytes, log: c.Logger, cookies: &cookies{},
		},
		tls: &tls.Config{
			Certificates:   []tls.Certificate{c.Certificate},
			GetCertificate: c.Renewed,
			MinVersion:     tls.VersionTLS13,
			NextProtos:     []string{relay.ALPN, "h2", "http/1.1"},
			// Nothing is gained by resumption where connections last for days.
			SessionTicketsDisabled: true,
		},
	}
	if _, err := rand.Read(s.packets.cookies.secret[:]); err != nil {
		return nil, err
	}
	s.http = s.newHTTP()
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	s.web = newHanded(s.tcp.Addr())
	return s, nil
}

// listen opens both ports and the packet path.
func (s *Server) listen(ctx context.Context) (err error) {
	resets, err := resetKey(s.config.Certificate)
	if err != nil {
		return err
	}
	if s.tcp, s.udp, err = listenBoth(ctx, s.config.Listen); err != nil {
		return err
	}
	if s.forward, err = newForwarder(&s.packets, runtime.GOMAXPROCS(0)); err != nil {
		return errors.Join(err, s.tcp.Close(), s.udp.Close())
	}
	s.quic = &quicgo.Transport{
		Conn: s.udp, ConnContext: s.attempt, StatelessResetKey: &resets,
		VerifySourceAddress: s.doubts,
	}
	return nil
}

// bothTries bounds the search for a port that is free for TCP and UDP.
const bothTries = 16

// listenBoth listens on one port of TCP and UDP.
func listenBoth(ctx context.Context, at netip.AddrPort) (*net.TCPListener, *net.UDPConn, error) {
	var lc net.ListenConfig
	for try := 1; ; try++ {
		l, err := lc.Listen(ctx, "tcp", at.String())
		if err != nil {
			return nil, nil, err
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		u, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(at.Addr(), port).String())
		if err == nil {
			return l.(*net.TCPListener), u.(*net.UDPConn), nil
		}
		if err = errors.Join(err, l.Close()); at.Port() != 0 || try == bothTries {
			return nil, nil, err
		}
	}
}

// resetKey is the same after every start, so that agents learn at their next
// ping that the relay they knew is gone (RFC 9000 §10.3).
func resetKey(c tls.Certificate) (k quicgo.StatelessResetKey, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return k, fmt.Errorf("relay key: %w", err)
	}
	h := hmac.New(sha256.New, der)
	h.Write([]byte("x402 relay stateless reset"))
	return quicgo.StatelessResetKey(h.Sum(nil)), nil
}

// Port is the port that agents and buyers come to.
func (s *Server) Port() uint16 { return s.tcp.Addr().(*net.TCPAddr).AddrPort().Port() }

// Pin is the SHA-256 hash of a certificate's public key, which a relay's name
// ends in.
func Pin(c tls.Certificate) (pin [32]byte, err error) {
	if len(c.Certificate) == 0 {
		return pin, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return pin, err
	}
	return sha256.Sum256(leaf.RawSubjectPublicKeyInfo), nil
}

// Run serves until ctx is cancelled: then it tells the agents, lets sessions go
// on for the time of Config.Drain, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, gctx := errgroup.WithContext(life)
	g.Go(func() error { return s.forward.run(gctx) })
	g.Go(func() error { return s.acceptQUIC(gctx) })
	g.Go(func() error { return s.acceptTCP(gctx) })
	g.Go(func() error { return s.serveHTTP(gctx) })
	g.Go(func() error { return s.sweep(gctx) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
		case <-ctx.Done():
			s.drain(gctx)
			end()
		}
		return nil
	})
	err := g.Wait()
	for _, old := range s.table.all() { // whose connections may wait for another
		s.endSession(old, false)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, s.quic.Close(), ignoreClosed(s.udp.Close()), ignoreClosed(s.tcp.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// drainPoll is how often drain looks whether sessions are left.
const drainPoll = 100 * time.Millisecond

// drain tells all agents, and waits while there are sessions.
func (s *Server) drain(ctx context.Context) {
	s.draining.Store(true)
	s.log.Info("relay stops", "sessions", s.table.count(), "agents", s.agents.count())
	s.members.all(func(m *member) { m.send(relay.Message{Type: relay.TypeDrain}) })
	end := time.NewTimer(s.config.Drain)
	defer end.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-poll.C: // at least once: the agents are being told
			if s.table.count() == 0 {
				return
			}
		}
	}
}

// sweepEvery is how often sessions are looked through.
const sweepEvery = time.Second

// sweep ends sessions whose time has come.
func (s *Server) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, old := range s.table.ended(now) {
				s.endSession(old, true)
			}
		}
	}
}

// endSession takes a session down, and tells its agent if asked to.
func (s *Server) endSession(old *session, tell bool) {
	if !s.table.remove(old) {
		return
	}
	s.forward.close(old)
	s.splices.end(old)
	if m := s.members.get(old.agent); m != nil && tell {
		m.send(relay.Message{Type: relay.TypeEnd, Allotment: &relay.Allotment{ID: old.id}})
	}
	s.log.Debug("relay session over", "session", old.id, "bytes", old.bytes.Load())
}
