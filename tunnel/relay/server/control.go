package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	quicgo "github.com/apernet/quic-go"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/relay"
)

// writeTime is how long one message to an agent may take.
const writeTime = 15 * time.Second

// A messageRate is more than any honest agent sends.
func messageRate() Rate { return Rate{120, time.Minute} }

// offerRate bounds the signatures that an agent has us check.
func offerRate() Rate { return Rate{12, time.Minute} }

var errBusy = errors.New("relay: too many handshakes")

// attempt takes a place for a connection before its handshake has cost
// anything; one without a place is refused.
func (s *Server) attempt(ctx context.Context, c *quicgo.ClientInfo) (context.Context, error) {
	if c.AddrVerified && !s.proven.allow(sourceOf(c.RemoteAddr), time.Now()) {
		s.counts.refused.Add(1)
		return nil, errBusy
	}
	a := &attempt{places: s.attempts}
	select {
	case s.attempts <- struct{}{}:
		context.AfterFunc(ctx, a.done)
		return context.WithValue(ctx, attemptKey{}, a), nil
	default:
		s.counts.refused.Add(1)
		return nil, errBusy
	}
}

// doubts says whether an address first has to show that it hears what it is
// sent (RFC 9000 §8.1.2): when much goes on, or much comes from there. Only
// then is its source held to a rate, so that nobody uses up another's.
func (s *Server) doubts(a net.Addr) bool {
	return len(s.attempts) > crowded || !s.callers.allow(sourceOf(a), time.Now())
}

func sourceOf(a net.Addr) netip.Prefix { return tunnel.SourceOf(a.(*net.UDPAddr).AddrPort().Addr()) }

// An attempt is a handshake's place; it is given back once.
type attempt struct {
	once   sync.Once
	places chan struct{}
}

type attemptKey struct{}

func (a *attempt) done() { a.once.Do(func() { <-a.places }) }

// acceptQUIC takes control connections over UDP.
func (s *Server) acceptQUIC(ctx context.Context) error {
	c := s.tls.Clone()
	c.NextProtos = []string{relay.ALPN}
	l, err := s.quic.Listen(c, &quicgo.Config{
		HandshakeIdleTimeout:           s.config.patience / 2,
		MaxIdleTimeout:                 relay.Silence,
		MaxIncomingStreams:             1,
		MaxIncomingUniStreams:          -1,
		InitialStreamReceiveWindow:     2 * relay.MaxMessage,
		MaxStreamReceiveWindow:         2 * relay.MaxMessage,
		InitialConnectionReceiveWindow: 2 * relay.MaxMessage,
		MaxConnectionReceiveWindow:     2 * relay.MaxMessage,
		DisablePathMTUDiscovery:        true, // messages are small
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	for {
		conn, err := l.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if a, ok := conn.Context().Value(attemptKey{}).(*attempt); ok {
			a.done()
		}
		wg.Go(func() {
			err := s.serveQUIC(ctx, conn)
			s.log.Debug("relay control over", "from", conn.RemoteAddr(), "err", err)
			// What was written last may not have left yet, and is not waited for.
			n, _ := errors.AsType[*relay.NoticeError](err)
			_ = conn.CloseWithError(n.Close())
		})
	}
}

func (s *Server) serveQUIC(ctx context.Context, conn *quicgo.Conn) error {
	from := conn.RemoteAddr().(*net.UDPAddr).AddrPort()
	src := tunnel.SourceOf(from.Addr())
	if !s.agents.enter(src) {
		s.counts.refused.Add(1)
		return &relay.NoticeError{Code: relay.CodeLimit, Text: "too many agents"}
	}
	defer s.agents.leave(src)
	hctx, cancel := context.WithTimeout(ctx, s.config.patience)
	defer cancel()
	stream, err := conn.AcceptStream(hctx)
	if err != nil {
		return err
	}
	cancel()
	state := conn.ConnectionState().TLS
	return s.serveControl(ctx, &caller{link: stream, state: &state, from: from})
}

// A link is a control stream: one of QUIC, or a TLS connection.
type link interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// A caller is who opened a control stream.
type caller struct {
	link  link
	state *tls.ConnectionState
	from  netip.AddrPort
	echo  bool // pings are answered
}

// A member is an agent's control connection.
type member struct {
	agent relay.Address
	from  netip.AddrPort
	out   chan relay.Message // taken by write; a full one takes no more
	drop  context.CancelFunc
}

// outbound bounds what waits for an agent.
const outbound = 32

// send queues a message. It is false if too much waits already: buyers may ask
// faster than a slow agent hears, and that is no reason to drop it.
func (m *member) send(msg relay.Message) bool {
	select {
	case m.out <- msg:
		return true
	default:
		return false
	}
}

// serveControl serves one control stream to its end; the caller closes the
// connection then. A *NoticeError is what the agent was told.
func (s *Server) serveControl(ctx context.Context, c *caller) error {
	ctx, drop := context.WithCancel(ctx)
	defer drop()
	m, err := s.admit(c, drop)
	if err != nil {
		return err
	}
	if old := s.members.join(m); old != nil &&
		!old.send(relay.Message{Type: relay.TypeNotice, Code: relay.CodeReplaced, Text: "you came by another connection"}) {
		old.drop()
	}
	s.greet(m)
	s.config.Directory.Seen(m.agent, true)
	defer func() {
		if s.members.leave(m) {
			s.config.Directory.Seen(m.agent, false)
		}
	}()
	if s.draining.Load() { // since it was admitted
		m.send(relay.Message{Type: relay.TypeDrain})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.write(gctx, m, c.link) })
	g.Go(func() error { return s.read(m, c) })
	g.Go(func() error {
		<-gctx.Done()
		return errors.Join(c.link.SetReadDeadline(time.Unix(1, 0)), c.link.SetWriteDeadline(time.Unix(1, 0)))
	})
	return g.Wait()
}

// admit reads the hello. The welcome is the first that the member will be told,
// when it can be asked for sessions already.
func (s *Server) admit(c *caller, drop context.CancelFunc) (*member, error) {
	if err := c.link.SetReadDeadline(time.Now().Add(s.config.patience)); err != nil {
		return nil, err
	}
	hello, err := relay.ReadMessage(c.link)
	if err != nil {
		return nil, err
	}
	refuse := func(code, text string) (*member, error) {
		s.counts.refused.Add(1)
		return nil, errors.Join(&relay.NoticeError{Code: code, Text: text}, s.say(c.link, relay.Message{Type: relay.TypeNotice, Code: code, Text: text}))
	}
	switch {
	case hello.Type != relay.TypeHello:
		return refuse(relay.CodeVersion, "want a hello first")
	case hello.Version != relay.Version:
		return refuse(relay.CodeVersion, "this relay speaks version 1")
	case s.draining.Load():
		return refuse(relay.CodeDrain, "the relay is about to stop")
	case !s.hellos.allow(tunnel.SourceOf(c.from.Addr()), time.Now()):
		return refuse(relay.CodeLimit, "too many connections from your address; come back later")
	}
	exporter, err := c.state.ExportKeyingMaterial(relay.ExporterLabel, nil, 32)
	if err != nil {
		return nil, err
	}
	if err := s.config.Directory.Authenticate(hello.Agent, [32]byte(exporter), hello.Signature); err != nil {
		return refuse(relay.CodeSignature, "the signature is not the agent's")
	}
	from := netip.AddrPortFrom(c.from.Addr().Unmap(), c.from.Port())
	m := &member{agent: hello.Agent, from: from, out: make(chan relay.Message, outbound), drop: drop}
	m.send(relay.Message{Type: relay.TypeWelcome, Version: relay.Version, Observed: from})
	return m, nil
}

// say writes one message.
func (s *Server) say(l link, m relay.Message) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	if err := l.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	_, err = l.Write(b)
	return err
}

// partTime is how long an agent has to end a connection that it has replaced.
const partTime = time.Second

// write owns the writing half of a member's link. Whatever ends the connection
// is the last thing said.
func (s *Server) write(ctx context.Context, m *member, l link) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-m.out:
			if err := s.say(l, msg); err != nil {
				return err
			}
			if msg.Type != relay.TypeNotice || msg.Code == relay.CodeOffer {
				continue
			}
			if msg.Code == relay.CodeReplaced { // the agent ends it when it has read all; a close of ours may overtake that
				select {
				case <-ctx.Done():
				case <-time.After(partTime):
				}
			}
			return &relay.NoticeError{Code: msg.Code, Text: msg.Text}
		}
	}
}

// read owns the reading half. Its errors are not nil.
func (s *Server) read(m *member, c *caller) error {
	var messages, offers, claims time.Time // when the buckets are full again
	for {
		if err := c.link.SetReadDeadline(time.Now().Add(relay.Silence)); err != nil {
			return err
		}
		msg, err := relay.ReadMessage(c.link)
		if err != nil {
			return err
		}
		ok, now := false, time.Now()
		if messages, ok = messageRate().take(messages, now); !ok {
			return &relay.NoticeError{Code: relay.CodeLimit, Text: "too many messages"}
		}
		s.config.Directory.Seen(m.agent, true)
		switch msg.Type {
		case relay.TypePing:
			if c.echo {
				m.send(msg)
			}
		case relay.TypeOffer:
			ok := len(msg.Offer) == 0 // to withdraw one costs nothing
			if !ok {
				offers, ok = offerRate().take(offers, now)
			}
			if ok {
				err = s.config.Directory.Publish(m.agent, m.from.Addr(), msg.Offer)
			} else {
				err = errors.New("too many offers; send it again in a minute")
			}
			if err != nil {
				text := err.Error()
				m.send(relay.Message{Type: relay.TypeNotice, Code: relay.CodeOffer, Text: text[:min(len(text), maxNotice)]})
			}
		case relay.TypeRotated:
			s.rotations.take(m.agent, msg)
		case relay.TypeWatch:
			if claims, ok = claimRate().take(claims, now); ok && s.config.Watch != nil {
				m.send(relay.Message{Type: relay.TypeWatch, Watch: s.config.Watch.Take(m.agent, m.from.Addr(), msg.Watch)})
			}
		case relay.TypeEnd:
			if msg.Allotment == nil {
				continue
			}
			if old := s.table.get(msg.Allotment.ID); old != nil && old.agent == m.agent {
				s.endSession(old, false)
			}
		}
	}
}

// maxNotice bounds the text of a notice.
const maxNotice = 500

// members are the agents' connections, one each: the newest.
type members struct {
	mu sync.Mutex
	by map[relay.Address]*member
}

// join puts a member in and returns the one it replaces.
func (ms *members) join(m *member) *member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	old := ms.by[m.agent]
	ms.by[m.agent] = m
	return old
}

// leave takes a member out; false if another took its place.
func (ms *members) leave(m *member) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.by[m.agent] != m {
		return false
	}
	delete(ms.by, m.agent)
	return true
}

func (ms *members) get(a relay.Address) *member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.by[a]
}

func (ms *members) all(f func(*member)) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.by {
		f(m)
	}
}
