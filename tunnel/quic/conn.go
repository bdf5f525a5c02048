package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
)

// link is what both ends of a connection share.
type link struct {
	conn *quicgo.Conn
	ctx  context.Context // ends with conn, its cause is a *tunnel.CloseError
	rate *bbr.Controller // of what this end sends

	boxes  *inboxes
	pieces sync.Pool // of *piece
}

func newLink(conn *quicgo.Conn, most *bbr.Cap) *link {
	rate := bbr.New(bbr.Config{Cap: most})
	conn.SetCongestionControl(rate)
	ctx, cancel := context.WithCancelCause(context.Background())
	context.AfterFunc(conn.Context(), func() {
		cancel(closeError(context.Cause(conn.Context())))
	})
	l := &link{conn: conn, ctx: ctx, rate: rate, boxes: newInboxes()}
	l.pieces.New = func() any { return new(piece) }
	return l
}

// RemoteAddr is where the connection was opened to, or from.
func (l *link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }

// Moved forgets what is known of the path: from now on packets take another.
func (l *link) Moved() { l.rate.Reset() }

// Context ends with the connection; its cause is a *tunnel.CloseError.
func (l *link) Context() context.Context { return l.ctx }

// Close ends the connection with a reason that the peer is told.
func (l *link) Close(r tunnel.Reason, text string) error {
	return l.conn.CloseWithError(quicgo.ApplicationErrorCode(r), text)
}

// ExportKey waits for the handshake and derives a key from it.
func (l *link) ExportKey(label string) (key [32]byte, err error) {
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
func (l *link) CipherSuite() uint16 { return l.conn.ConnectionState().TLS.CipherSuite }

// sendDatagram sends what is behind the room in b, of which it uses some for
// the stream's ID (RFC 9297 §2.1).
func (l *link) sendDatagram(id quicgo.StreamID, b []byte) error {
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
	_, closed := errors.AsType[*quicgo.ApplicationError](err)
	_, idle := errors.AsType[*quicgo.IdleTimeoutError](err)
	_, forgotten := errors.AsType[*quicgo.StatelessResetError](err)
	_, broken := errors.AsType[*quicgo.TransportError](err)
	if closed || idle || forgotten || broken {
		return closeError(err)
	}
	return err
}

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
