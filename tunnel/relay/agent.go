package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	quicgo "github.com/apernet/quic-go"
	"golang.org/x/sync/errgroup"
)

// ErrDrain says that the relay is about to stop. Its sessions go on for a few
// seconds; come back after a random time of a few seconds.
var ErrDrain = errors.New("the relay is about to stop")

// A NoticeError is the relay's reason for ending the connection.
type NoticeError struct{ Code, Text string }

func (e *NoticeError) Error() string { return fmt.Sprintf("relay: %s: %.200q", e.Code, e.Text) }

// Is says whether the relay is about to stop.
func (e *NoticeError) Is(target error) bool { return target == ErrDrain && e.Code == CodeDrain }

// closeNotice is QUIC's application error code of an end with a reason, which
// is then "code: text".
const closeNotice = 1

// Close returns how a QUIC connection is closed for this reason; nil is none.
func (e *NoticeError) Close() (quicgo.ApplicationErrorCode, string) {
	if e == nil {
		return 0, ""
	}
	return closeNotice, e.Code + ": " + e.Text
}

// told finds the relay's reason in an error of a QUIC connection.
func told(err error) error {
	e, ok := errors.AsType[*quicgo.ApplicationError](err)
	if !ok || !e.Remote || e.ErrorCode != closeNotice {
		return err
	}
	code, text, _ := strings.Cut(e.ErrorMessage, ": ")
	return &NoticeError{code, text}
}

// AgentConfig says who comes to a relay, and with what.
type AgentConfig struct {
	Name Name
	// Agent is the device key's address. Sign signs a hello by that key on the
	// TLS connection with this exporter.
	Agent Address
	Sign  func(exporter [32]byte) (Signature, error)
	// Offer is asked by Run for the signed offer to publish first, so that one
	// that changed meanwhile is not lost. Nil, or what returns nil: none. Publish
	// replaces it.
	Offer func() []byte
	// Session is told of a session that a buyer asked for; it has been
	// checked. Ended is told of one that is over. Both are called by Run, one
	// call at a time, and must not block.
	Session func(Allotment)
	Ended   func(SessionID)
	// Rotate is told of a rotation link that somebody uses, likewise. Nil: links
	// are not for this agent.
	Rotate func(id SessionID, link string)
	// Watch is told what the relay says of claims that it keeps, likewise. Nil:
	// it keeps none of this agent's.
	Watch  func(text []byte)
	Logger *slog.Logger
}

// How long an agent's dialling, hello and one write may take.
const (
	helloTime = 10 * time.Second
	writeTime = 15 * time.Second
)

// A link is a control stream: one of QUIC, or a TLS connection.
type link interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// An Agent is the agent's end of one control connection. It is dialled once
// and does not come back by itself: its owner retries.
type Agent struct {
	config   AgentConfig
	log      *slog.Logger
	link     link
	close    func() error
	echoed   bool // pings are: silence then means that the relay is gone
	observed netip.AddrPort
	out      chan Message  // taken by Run; a full one makes its sender wait
	done     chan struct{} // closed by Run at its end
}

// DialQUIC opens the control connection from t, so that the relay sees the
// socket that buyers' packets will come to. Run must be called on the Agent.
func DialQUIC(ctx context.Context, t *quicgo.Transport, addr net.Addr, c AgentConfig) (*Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	conn, err := t.Dial(ctx, addr, c.Name.TLS(ALPN), &quicgo.Config{
		HandshakeIdleTimeout: helloTime,
		MaxIdleTimeout:       Silence,
		// Pings are messages and not QUIC's: a packet with one is long enough
		// to be answered by a stateless reset (RFC 9000 §10.3) when the relay
		// was started anew.
		KeepAlivePeriod:                0,
		MaxIncomingStreams:             -1,
		MaxIncomingUniStreams:          -1,
		InitialStreamReceiveWindow:     2 * MaxMessage,
		MaxStreamReceiveWindow:         2 * MaxMessage,
		InitialConnectionReceiveWindow: 4 * MaxMessage,
		MaxConnectionReceiveWindow:     4 * MaxMessage,
	})
	if err != nil {
		return nil, fmt.Errorf("relay %s: %w", c.Name.Address(), err)
	}
	a := newAgent(c)
	a.close = func() error { return conn.CloseWithError(0, "") }
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("relay %s: %w", c.Name.Address(), err), a.close())
	}
	a.link = stream
	state := conn.ConnectionState().TLS
	if err := a.hello(ctx, &state); err != nil {
		return nil, err
	}
	return a, nil
}

// DialTCP opens the control connection over TLS on conn, which it owns from
// now on. Run must be called on the Agent.
func DialTCP(ctx context.Context, conn net.Conn, c AgentConfig) (*Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	t := tls.Client(conn, c.Name.TLS(ALPN))
	a := newAgent(c)
	a.link, a.echoed = t, true
	a.close = conn.Close // t's own would wait to say goodbye
	err := t.HandshakeContext(ctx)
	if err == nil && t.ConnectionState().NegotiatedProtocol != ALPN {
		err = fmt.Errorf("does not speak %s", ALPN)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("relay %s: %w", c.Name.Address(), err), a.close())
	}
	state := t.ConnectionState()
	if err := a.hello(ctx, &state); err != nil {
		return nil, err
	}
	return a, nil
}

func newAgent(c AgentConfig) *Agent {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Agent{config: c, log: log, out: make(chan Message, 8), done: make(chan struct{})}
}

// hello proves who the agent is and waits for the welcome. On error the
// connection is closed.
func (a *Agent) hello(ctx context.Context, state *tls.ConnectionState) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = a.close() })
	defer func() {
		if !stop() || err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			err = errors.Join(fmt.Errorf("relay %s: %w", a.config.Name.Address(), err), ignoreClosed(a.close()))
		}
	}()
	exporter, err := state.ExportKeyingMaterial(ExporterLabel, nil, 32)
	if err != nil {
		return err
	}
	signature, err := a.config.Sign([32]byte(exporter))
	if err != nil {
		return err
	}
	if err := a.write(Message{Type: TypeHello, Version: Version, Agent: a.config.Agent, Signature: signature}); err != nil {
		return err
	}
	for {
		m, err := ReadMessage(a.link)
		switch {
		case err != nil:
			return told(err)
		case m.Type == TypeNotice:
			return &NoticeError{m.Code, m.Text}
		case m.Type == TypeWelcome:
			a.observed = m.Observed
			return nil
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Observed is the address that the relay saw the agent come from.
func (a *Agent) Observed() netip.AddrPort { return a.observed }

// Publish replaces the offer, or withdraws it if it is nil. It returns once the
// message is on its way.
func (a *Agent) Publish(ctx context.Context, offer []byte) error {
	return a.send(ctx, Message{Type: TypeOffer, Offer: offer})
}

// End tells the relay that a session is over.
func (a *Agent) End(ctx context.Context, id SessionID) error {
	return a.send(ctx, Message{Type: TypeEnd, Allotment: &Allotment{ID: id}})
}

// Rotated tells the relay what came of a rotation link, as JSON. The request may
// have come by another connection.
func (a *Agent) Rotated(ctx context.Context, id SessionID, result []byte) error {
	return a.send(ctx, Message{Type: TypeRotated, Allotment: &Allotment{ID: id}, Rotated: result})
}

// Watch hands the relay a claim to keep, as JSON.
func (a *Agent) Watch(ctx context.Context, claim []byte) error {
	return a.send(ctx, Message{Type: TypeWatch, Watch: claim})
}

func (a *Agent) send(ctx context.Context, m Message) error {
	select {
	case <-a.done:
		return net.ErrClosed
	default:
	}
	select {
	case a.out <- m:
		return nil
	case <-a.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run publishes the offer and serves the connection until it ends or ctx is
// cancelled, which returns nil. ErrDrain and a *NoticeError are the relay's
// reasons. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	defer close(a.done)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.writeAll(gctx) })
	g.Go(a.readAll)
	g.Go(func() error {
		<-gctx.Done()
		return ignoreClosed(a.close())
	})
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// writeAll owns the writing half of the link.
func (a *Agent) writeAll(ctx context.Context) error {
	first := Message{Type: TypeOffer}
	if a.config.Offer != nil {
		first.Offer = a.config.Offer()
	}
	if err := a.write(first); err != nil {
		return told(err)
	}
	ping := time.NewTicker(KeepAlive)
	defer ping.Stop()
	for {
		m := Message{Type: TypePing}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m = <-a.out:
		case <-ping.C:
		}
		if err := a.write(m); err != nil {
			return told(err)
		}
	}
}

func (a *Agent) write(m Message) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	if err := a.link.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	_, err = a.link.Write(b)
	return err
}

// readAll owns the reading half of the link. Its errors are not nil.
func (a *Agent) readAll() error {
	for {
		if a.echoed {
			if err := a.link.SetReadDeadline(time.Now().Add(Silence)); err != nil {
				return err
			}
		}
		m, err := ReadMessage(a.link)
		if err != nil {
			return told(err)
		}
		if err := a.take(m); err != nil {
			return err
		}
	}
}

// take acts on one message. An error ends the connection.
func (a *Agent) take(m Message) error {
	switch m.Type {
	case TypeDrain:
		return ErrDrain
	case TypeNotice:
		if m.Code != CodeOffer {
			return &NoticeError{m.Code, m.Text}
		}
		a.log.Warn("relay refused the offer", "relay", a.config.Name.Address(), "text", fmt.Sprintf("%.200q", m.Text))
	case TypeSession:
		if m.Allotment == nil {
			return errors.New("relay: session without members")
		}
		if err := m.Allotment.Check(); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		a.config.Session(*m.Allotment)
	case TypeRotate:
		if m.Allotment != nil && a.config.Rotate != nil {
			a.config.Rotate(m.Allotment.ID, m.Link)
		}
	case TypeWatch:
		if a.config.Watch != nil {
			a.config.Watch(m.Watch)
		}
	case TypeEnd:
		if m.Allotment != nil && a.config.Ended != nil {
			a.config.Ended(m.Allotment.ID)
		}
	}
	return nil
}
