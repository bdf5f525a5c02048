package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/http3"
	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
)

// link is what both ends of a connection share.
type link struct {
	conn *quicgo.Conn
	ctx  context.Context // ends with conn, its cause is a *tunnel.CloseError
	rate *bbr.Controller // of what this end sends

	boxes *inboxes
}

func newLink(conn *quicgo.Conn, most *bbr.Cap) link {
	rate := bbr.New(bbr.Config{Cap: most})
	conn.SetCongestionControl(rate)
	ctx, cancel := context.WithCancelCause(context.Background())
	context.AfterFunc(conn.Context(), func() {
		cancel(closeError(context.Cause(conn.Context())))
	})
	return link{conn, ctx, rate, newInboxes()}
}

// RemoteAddr is where the connection was opened to, or from.
func (l link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }

// Moved forgets what is known of the path: from now on packets take another.
func (l link) Moved() { l.rate.Reset() }

// Context ends with the connection; its cause is a *tunnel.CloseError.
func (l link) Context() context.Context { return l.ctx }

// Close ends the connection with a reason that the peer is told.
func (l link) Close(r tunnel.Reason, text string) error {
	return l.conn.CloseWithError(quicgo.ApplicationErrorCode(r), text)
}

// ExportKey waits for the handshake and derives a key from it.
func (l link) ExportKey(label string) (key [32]byte, err error) {
	select {
	case <-l.conn.HandshakeComplete():
	case <-l.ctx.Done():
		return key, context.Cause(l.ctx)
	}
	cs := l.conn.ConnectionState().TLS
	b, err := cs.ExportKeyingMaterial(label, nil, len(key))
	if err != nil {
		return key, fmt.Errorf("export key: %w", err)
	}
	copy(key[:], b)
	return key, nil
}

// CipherSuite is the negotiated TLS cipher suite.
func (l link) CipherSuite() uint16 { return l.conn.ConnectionState().TLS.CipherSuite }

// A ServerConn is the agent's end of a connection.
type ServerConn struct{ link }

var _ tunnel.ServerConn = (*ServerConn)(nil)

// Serve calls handle for every request until the connection ends. It does so
// in a goroutine beside HTTP/3's own, whose deep stack goes when the request has
// become a stream: with a thousand flows that is memory.
func (c *ServerConn) Serve(handle func(tunnel.Header, tunnel.Call)) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	s := &http3.Server{
		EnableDatagrams: true,
		MaxHeaderBytes:  maxHeader,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := tunnel.Header{Method: r.Method, Authority: r.Host, Path: r.URL.EscapedPath(), Fields: r.Header}
			if r.Method == http.MethodConnect && r.Proto != "HTTP/3.0" {
				h.Protocol = r.Proto
			}
			x := &call{w: w, link: c.link, trailers: r.Header.Get("Te") == "trailers", answered: make(chan struct{})}
			calls.Go(func() {
				defer x.done()
				handle(h, x)
				x.box.close()
			})
			<-x.answered
		}),
	}
	h3, err := s.NewRawServerConn(c.conn)
	if err != nil {
		return err
	}
	calls.Go(func() { c.acceptUni(inward{rest: h3.HandleUnidirectionalStream}) })
	for {
		str, err := c.conn.AcceptStream(c.ctx)
		if err != nil {
			return err
		}
		box := c.boxes.open(str.StreamID()) // datagrams may come before the request is read
		calls.Go(func() {
			h3.HandleRequestStream(str)
			box.drop()
		})
	}
}

type call struct {
	w        http.ResponseWriter
	link     link
	box      *inbox        // of an accepted stream
	trailers bool          // the buyer takes them
	answered chan struct{} // closed when w is needed no more
	once     sync.Once
}

func (c *call) done() { c.once.Do(func() { close(c.answered) }) }

func (c *call) Accept(fields http.Header) (tunnel.Stream, error) {
	c.answer(http.StatusOK, fields)
	s, ok := c.w.(http3.HTTPStreamer)
	if !ok {
		return nil, errors.New("quic: the answer's writer gives no stream")
	}
	defer c.done() // after HTTPStream: HTTP/3 leaves such a stream alone
	str := s.HTTPStream()
	c.box = c.link.boxes.keep(str.StreamID())
	return &stream{Stream: str, link: c.link, box: c.box, trailers: c.trailers}, nil
}

func (c *call) Refuse(status int, fields http.Header, text string) error {
	c.answer(status, fields)
	_, err := c.w.Write([]byte(text))
	return err
}

func (c *call) answer(status int, fields http.Header) {
	maps.Copy(c.w.Header(), fields)
	c.w.Header()["Date"] = nil // routers have no clock at boot
	c.w.WriteHeader(status)
}

// stream adapts the agent's end of an HTTP/3 stream.
type stream struct {
	*http3.Stream
	link     link
	box      *inbox
	trailers bool
	peeked   [1]byte
}

var (
	_ tunnel.Failer = (*stream)(nil)
	_ tunnel.Framer = (*stream)(nil)
	_ tunnel.Waiter = (*stream)(nil)
)

func (s *stream) ID() uint64        { return uint64(s.StreamID()) }
func (s *stream) Abort(code uint64) { s.CancelWrite(quicgo.StreamErrorCode(code)) }
func (s *stream) Stop(code uint64)  { s.CancelRead(quicgo.StreamErrorCode(code)) }

// broken is a HEADERS frame (RFC 9114 §7.2.2) of a trailer section with the
// field that RFC 9209 §2 has for an answer that breaks off. In QPACK: a prefix
// of two zeros (RFC 9204 §4.5.1), then name and value as literals (§4.5.6).
const broken = "\x01\x38" + "\x00\x00" +
	"\x27\x05" + "proxy-status" +
	"\x27" + "x402-agent; error=connection_terminated"

// Fail ends the sending direction behind what was written, by a trailer. A
// reset would be RFC 9114 §4.4's way and is what others get, but may overtake
// data that was counted as sent. Buyers that take trailers say so by TE (RFC
// 9110 §10.1.4).
func (s *stream) Fail() error {
	if !s.trailers {
		return errNoTrailers
	}
	if _, err := s.QUICStream().Write([]byte(broken)); err != nil {
		return err
	}
	return s.Close()
}

var errNoTrailers = errors.New("quic: the buyer takes no trailers")

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, explain(err)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, explain(err)
}

// WriteFramed writes a DATA frame; see writeFramed.
func (s *stream) WriteFramed(b []byte) (int, error) { return writeFramed(s.QUICStream(), b) }

// Wait waits for the first byte of a frame, or for more of the last one. Why
// there is none is Read's to say.
func (s *stream) Wait() { _, _ = s.QUICStream().Peek(s.peeked[:]) }

func (s *stream) SendDatagram(b []byte) error { return s.link.sendDatagram(s.StreamID(), b) }

func (s *stream) ReceiveDatagram(ctx context.Context) ([]byte, error) { return s.box.receive(ctx) }

// writeFramed writes a DATA frame (RFC 9114 §7.2.1) of what is behind the room
// in b. The library's writes it in two pieces, of which the first wakes the
// connection to send a packet of three bytes.
func writeFramed(str *quicgo.Stream, b []byte) (int, error) {
	var head [tunnel.Headroom]byte
	h := quicvarint.Append(append(head[:0], frameData), uint64(len(b)-tunnel.Headroom))
	start := tunnel.Headroom - len(h)
	copy(b[start:], h)
	n, err := str.Write(b[start:])
	return max(n-len(h), 0), explain(err)
}

// sendDatagram sends what is behind the room in b, of which it uses some for
// the stream's ID (RFC 9297 §2.1).
func (l link) sendDatagram(id quicgo.StreamID, b []byte) error {
	var head [tunnel.Headroom]byte
	h := quicvarint.Append(head[:0], uint64(id)/4)
	start := tunnel.Headroom - len(h)
	copy(b[start:], h)
	return datagramError(l.conn.SendDatagram(b[start:]))
}

func datagramError(err error) error {
	if _, ok := errors.AsType[*quicgo.DatagramTooLargeError](err); ok {
		return tunnel.ErrTooLarge
	}
	return err
}

// closeError translates the end of a QUIC connection.
func closeError(err error) *tunnel.CloseError {
	if app, ok := errors.AsType[*quicgo.ApplicationError](err); ok {
		return &tunnel.CloseError{Reason: tunnel.Reason(app.ErrorCode), Text: printable(app.ErrorMessage), Remote: app.Remote}
	}
	return &tunnel.CloseError{Err: err}
}

// explain turns the error of a connection that has ended into its reason. An
// error that is only a stream's is left as it is.
func explain(err error) error {
	if err == nil || err == io.EOF { // the common cases first: reads and writes come by here
		return err
	}
	if h, ok := errors.AsType[*http3.Error](err); ok && (h.ErrorCode == http3.ErrCodeNoError || h.ErrorCode >= ownCodes) {
		return &tunnel.CloseError{Reason: tunnel.Reason(h.ErrorCode), Text: printable(h.ErrorMessage), Remote: h.Remote}
	}
	_, closed := errors.AsType[*quicgo.ApplicationError](err)
	_, idle := errors.AsType[*quicgo.IdleTimeoutError](err)
	_, forgotten := errors.AsType[*quicgo.StatelessResetError](err)
	_, broken := errors.AsType[*quicgo.TransportError](err)
	if closed || idle || forgotten || broken {
		return closeError(err)
	}
	return err
}

// ownCodes is where the tunnel's reasons begin, none of which ends a stream.
const ownCodes = http3.ErrCode(tunnel.ReasonProtocol)

// printable keeps a peer's text from steering a terminal.
func printable(s string) string {
	b := []byte(s[:min(len(s), 200)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
