package seller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/quic"
)

// A reach is how buyers get to the agent: one UDP socket for QUIC, which also
// the relays know, and TCP for networks that block UDP.
//
//	buyer ──QUIC──────────────────→ socket ─→ quic ─┐
//	buyer ──QUIC─→ relay's port ──→ socket ─┘       ├─→ Seller.serve
//	buyer ──KCP───────────────────→ socket ─→ kcp ──┤
//	buyer ──TLS───────────────────→ tcp ────────────┤
//	buyer ──TLS──→ relay ←──dialled──────→ spliced ─┘
//
// Whichever it is, the handshake is between buyer and agent.
type reach struct {
	s      *Seller
	socket *path.Socket
	quic   *quic.Listener
	tcp    *h2.Listener  // nil: not listened on
	kcp    *kcp.Listener // likewise; on the same socket
	// dial and lookup are the kernel's and the resolver's, but for tests.
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	tries  tries // of relays
	relays []*relayLink
	bound  iface // that the socket is tied to; follow's, once that runs
	// sessions are served here; all return nil, since they log their own end.
	sessions errgroup.Group
}

// openReach listens.
func (s *Seller) openReach(ctx context.Context) (_ *reach, err error) {
	r := &reach{s: s, dial: (&net.Dialer{}).DialContext, lookup: net.DefaultResolver.LookupNetIP}
	open := s.cfg.Socket
	if s.cfg.BindTunnel {
		out := newOutlet(s.way)
		r.dial, r.lookup, open = out.dialer.DialContext, out.resolver().LookupNetIP, r.listenBound
	}
	if r.socket, err = path.Listen(ctx, path.Config{Addr: s.cfg.Listen, Open: open}); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	r.quic, err = quic.Listen(quic.ListenConfig{
		Conn: r.socket.PacketConn(), Key: s.tls, MaxStreams: s.cfg.MaxFlows + 8, MaxConns: 4 * s.cfg.MaxSessions,
		ResetKey: s.key.Derive("x402 stateless reset v1"), Cap: &s.rate, Strangers: &s.strangers,
	})
	if err != nil {
		return nil, errors.Join(err, r.socket.Close())
	}
	if s.cfg.ListenTCP != "" {
		if err := r.listenTCP(); err != nil {
			return nil, errors.Join(err, r.close())
		}
	}
	if s.cfg.KCP {
		r.kcp, err = kcp.Listen(kcp.ListenConfig{Conn: r.socket.Beside(), Key: s.tls, MaxStreams: s.cfg.MaxFlows + 8, MaxConns: 4 * s.cfg.MaxSessions, Cap: &s.rate, Strangers: &s.strangers})
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
	}
	for _, name := range s.cfg.Relays {
		r.relays = append(r.relays, &relayLink{r: r, name: name, doubt: make(chan struct{}, 1), renew: make(chan struct{}, 1), places: make(map[sessionID]context.CancelFunc), wards: make(map[channel.ID]ward)})
	}
	return r, nil
}

// listenTCP listens on the port that UDP has, if none is set.
func (r *reach) listenTCP() error {
	host, port, err := net.SplitHostPort(r.s.cfg.ListenTCP)
	if err != nil {
		return fmt.Errorf("listen_tcp: %w", err)
	}
	if udp, ok := r.quic.Addr().(*net.UDPAddr); ok && port == "0" {
		port = fmt.Sprint(udp.Port)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("listen_tcp: %w", err)
	}
	r.tcp, err = h2.Listen(h2.ListenConfig{Listener: ln, Key: r.s.tls, MaxStreams: r.s.cfg.MaxFlows + 8, MaxConns: 4 * r.s.cfg.MaxSessions, Cap: &r.s.rate, Strangers: &r.s.strangers})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	return nil
}

// run serves buyers until ctx ends. Sessions and the socket outlive it until
// sctx does.
func (r *reach) run(ctx, sctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	r.sessions.Go(func() error { return r.socket.Run(sctx) })
	g.Go(func() error { return r.accept(gctx, sctx, r.quic.Accept) })
	if r.s.cfg.BindTunnel {
		g.Go(func() error { return r.follow(gctx) })
	}
	if r.tcp != nil {
		g.Go(func() error { return r.accept(gctx, sctx, r.tcp.Accept) })
	}
	if r.kcp != nil {
		g.Go(func() error { return r.accept(gctx, sctx, r.kcp.Accept) })
	}
	for _, l := range r.relays {
		g.Go(func() error { return l.run(gctx, sctx) })
	}
	return g.Wait()
}

// close ends what is left, after sctx.
func (r *reach) close() error {
	var errs []error
	if r.tcp != nil {
		errs = append(errs, r.tcp.Close())
	}
	if r.kcp != nil {
		errs = append(errs, r.kcp.Close())
	}
	return errors.Join(append(errs, r.quic.Close(), r.socket.Close())...)
}

// accept serves connections until ctx ends.
func (r *reach) accept(ctx, sctx context.Context, next func(context.Context) (tunnel.ServerConn, net.Addr, error)) error {
	for {
		conn, remote, err := next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		r.serve(sctx, conn, remote)
	}
}

func (r *reach) serve(ctx context.Context, conn tunnel.ServerConn, remote net.Addr) {
	r.sessions.Go(func() error {
		r.s.serve(ctx, conn, remote)
		return nil
	})
}

// keep keeps a buyer's QUIC connection reachable while addresses change, until
// the function that it returns is called.
func (r *reach) keep(conn tunnel.ServerConn, x *session) (end func(), err error) {
	q, ok := conn.(interface {
		RemoteAddr() net.Addr
		Moved()
	})
	if !ok {
		return func() {}, nil // TCP stays where it is
	}
	secret, err := conn.ExportKey(path.ExporterLabel)
	if err != nil {
		return nil, err
	}
	m, err := r.socket.Attach(path.Path{
		Addr: q.RemoteAddr(), Secret: secret,
		Moved: func(to netip.AddrPort, direct bool) {
			q.Moved()
			x.log.Info("the buyer is reached another way", "to", to, "direct", direct)
		},
		Lost: func() { x.log.Info("the buyer is silent") },
	})
	if err != nil {
		return nil, err
	}
	x.mover.Store(m)
	return m.Close, nil
}

// uses says whether a session goes by a relay's port, or could again, or flows
// with tokens do.
func (r *reach) uses(port netip.AddrPort) bool {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.s.passed[port.String()] > 0 {
		return true
	}
	for _, x := range r.s.sessions {
		m := x.mover.Load()
		if m == nil {
			continue
		}
		if to, _ := m.Route(); to == port || x.remote == port.String() {
			return true
		}
	}
	return false
}

// Back-off of relays: bounded and jittered, so that neither a SIM's plan nor a
// relay that was started anew pays for an outage.
const (
	relayRetryMin = 5 * time.Second
	relayRetryMax = 10 * time.Minute
	relaySteady   = time.Minute // a link that lasted so long starts the back-off anew
	drainRetry    = 3 * time.Second
)
