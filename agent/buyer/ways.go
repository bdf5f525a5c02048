package buyer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

func (r *reach) quicDirect(ctx context.Context, endpoint string) (*link, error) {
	addr, err := resolve(ctx, []string{endpoint})
	if err != nil {
		return nil, err
	}
	return r.quicAt(ctx, addr, "", nil)
}

// quicAt dials QUIC at an address: the agent's or a relay's port. With a ticket
// the link is there before the handshake; see resume.go.
func (r *reach) quicAt(ctx context.Context, addr net.Addr, by string, t *quic.Ticket) (*link, error) {
	var conn *quic.ClientConn
	var err error
	if t != nil {
		conn, err = r.dialer.Resume(ctx, addr, t)
	} else {
		conn, err = r.dialer.Dial(ctx, addr, r.keyHash)
	}
	if err != nil {
		return nil, unanswered(err, "the agent at "+addr.String())
	}
	l := &link{ClientConn: conn, transport: QUIC, by: by, quic: conn, ticket: t}
	if t != nil {
		return l, nil
	}
	if err := r.keep(l, conn); err != nil {
		_ = conn.Close(tunnel.ReasonInternal, "") // it has failed already
		return nil, err
	}
	return l, nil
}

// quicRelayed tells bound, which has room, what asking for a port came to.
func (r *reach) quicRelayed(ctx context.Context, c broker, bound chan<- error, t *quic.Ticket) (*link, error) {
	b, err := r.bind(ctx, c)
	bound <- err
	if err != nil {
		return nil, err
	}
	l, err := r.quicAt(ctx, net.UDPAddrFromAddrPort(b.Addr()), c.address, t)
	if err != nil {
		r.leave(b)
		return nil, err
	}
	l.ends = append(l.ends, func() { r.leave(b) })
	return l, nil
}

// bind takes the buyer's place in a new session at a relay.
func (r *reach) bind(ctx context.Context, c broker) (*path.Binding, error) {
	a, count, err := r.session(ctx, c, market.Request{Agent: relay.Address(r.offer.Agent), Direct: !r.cfg.NoDirect})
	if err != nil {
		return nil, err
	}
	b, err := r.socket.Bind(ctx, path.Relay{Addr: a.Address, Session: path.ID(a.ID), Token: path.Key(a.Token), Count: count})
	if err != nil {
		return nil, fmt.Errorf("relay %s: port %d: %w", c.address, a.Address.Port(), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places[unmapped(b.Addr())] = c.address
	return b, nil
}

// leave gives a place up.
func (r *reach) leave(b *path.Binding) {
	b.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.places, unmapped(b.Addr()))
}

// via is the relay that a connection goes by now, "" if it is direct.
func (r *reach) via(m *path.Mover) string {
	to, direct := m.Route()
	if direct {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.places[to]
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// keep keeps a connection going while paths die: on a silence that lasts, the
// agent's relays are asked for other ports, one after the other.
func (r *reach) keep(l *link, conn *quic.ClientConn) error {
	secret, err := conn.ExportKey(path.ExporterLabel)
	if err != nil {
		return err
	}
	lost := make(chan struct{}, 1) // one token: look for another way
	m, err := r.socket.Attach(path.Path{
		Addr: conn.RemoteAddr(), Secret: secret, Buyer: true,
		Moved: func(to netip.AddrPort, direct bool) {
			conn.Moved()
			r.log.Info("the agent is reached another way", "to", to, "direct", direct)
		},
		Lost: func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		return err
	}
	l.via = func() string { return r.via(m) }
	var wg sync.WaitGroup
	wg.Go(func() { r.rescue(l, m, lost) })
	l.ends = append([]func(){wg.Wait, m.Close}, l.ends...) // before it leaves a relay's port
	return nil
}

// rescue serves a connection that was lost, until its end.
func (r *reach) rescue(l *link, m *path.Mover, lost <-chan struct{}) {
	ctx := l.Context()
	var places []*path.Binding
	defer func() {
		for _, b := range places {
			r.leave(b)
		}
	}()
	var again <-chan time.Time // none could be had: they may have to come back, or the agent to them
	for next, wait := 0, rescueMin; ; {
		select {
		case <-ctx.Done():
			return
		case <-lost:
			wait = rescueMin
		case <-again:
			wait = min(2*wait, rescueMax)
		}
		again = time.After(jitter(wait))
		for range r.relays { // from the one after the last
			next++
			bctx, cancel := context.WithTimeout(ctx, rescueTime)
			b, err := r.bind(bctx, r.relays[next%len(r.relays)])
			cancel()
			if err != nil {
				r.log.Debug("another way to the agent", "err", err)
				continue
			}
			if places = append(places, b); len(places) > maxPlaces {
				r.leave(places[0])
				places = places[1:]
			}
			m.Use(b.Addr())
			again = nil
			break
		}
	}
}

const (
	rescueTime = 4 * time.Second // for one relay's answers
	rescueMin  = 2 * time.Second // until all are asked again, growing
	rescueMax  = 10 * time.Second
	maxPlaces  = 3 // of one connection at relays, beside its first
)

func (r *reach) kcpDirect(ctx context.Context, endpoint string) (*link, error) {
	addr, err := resolve(ctx, []string{endpoint})
	if err != nil {
		return nil, err
	}
	return r.kcpAt(ctx, addr, "")
}

func (r *reach) kcpRelayed(ctx context.Context, c broker) (*link, error) {
	b, err := r.bind(ctx, c)
	if err != nil {
		return nil, err
	}
	l, err := r.kcpAt(ctx, net.UDPAddrFromAddrPort(b.Addr()), c.address)
	if err != nil {
		r.leave(b)
		return nil, err
	}
	l.ends = append(l.ends, func() { r.leave(b) })
	return l, nil
}

func (r *reach) kcpAt(ctx context.Context, addr net.Addr, by string) (*link, error) {
	c, err := r.kcp.Dial(ctx, addr, r.keyHash)
	if err != nil {
		return nil, unanswered(err, "the agent at "+addr.String())
	}
	return &link{ClientConn: c, transport: KCP, by: by}, nil
}

func (r *reach) tlsDirect(ctx context.Context, endpoint string) (*link, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return nil, err
	}
	return r.tlsOver(ctx, conn, "")
}

func (r *reach) tlsRelayed(ctx context.Context, c broker) (*link, error) {
	a, count, err := r.session(ctx, c, market.Request{Agent: relay.Address(r.offer.Agent), Transport: "tcp"})
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.Address.String())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(relay.Preamble(a.ID, a.Token)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if tcp, ok := conn.(*net.TCPConn); ok && count != nil {
		conn = &countedConn{tcp, count}
	}
	return r.tlsOver(ctx, conn, c.address)
}

// errUpgrade ends a session by TLS, for one by QUIC.
var errUpgrade = errors.New("QUIC gets through again")

// A countedConn counts what passes by a relay.
type countedConn struct {
	*net.TCPConn
	count *path.Count
}

// Read implements net.Conn.
func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.count.AddReceived(n)
	return n, err
}

// Write implements net.Conn.
func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.count.AddSent(n)
	return n, err
}

func (r *reach) tlsOver(ctx context.Context, conn net.Conn, by string) (*link, error) {
	c, err := h2.Client(ctx, conn, r.keyHash)
	if err != nil {
		return nil, err
	}
	return &link{ClientConn: c, transport: TLS, by: by}, nil
}
