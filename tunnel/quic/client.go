package quic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"sync/atomic"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/http3"
	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
)

// A ClientConn is the buyer's end of a connection. It speaks HTTP/3 (RFC 9114)
// on the QUIC connection itself, since the library's client does not say which
// stream a request has; see writeFramed for why that is asked.
type ClientConn struct {
	link
	work   sync.WaitGroup
	last   atomic.Uint64 // requests from this stream on are not served; see goAway
	pieces sync.Pool     // of *piece
}

// A piece is what a write that brings no room is copied to. One is held while
// its write waits.
type piece [tunnel.Headroom + 32<<10]byte

var _ tunnel.ClientConn = (*ClientConn)(nil)

func newClientConn(conn *quicgo.Conn) *ClientConn {
	c := &ClientConn{link: newLink(conn, nil)}
	c.last.Store(math.MaxUint64)
	c.pieces.New = func() any { return new(piece) }
	if err := c.sendSettings(); err != nil {
		c.fail(http3.ErrCodeInternalError, err)
	}
	c.work.Go(func() {
		var seen criticals
		c.acceptUni(inward{rest: func(str *quicgo.ReceiveStream) { c.takeUni(str, &seen) }, goAway: c.goAway})
	})
	return c
}

// sendSettings opens the control stream, which stays open (RFC 9114 §6.2.1). The
// settings of RFC 9204 are left at none: no dynamic table.
func (c *ClientConn) sendSettings() error {
	str, err := c.conn.OpenUniStream()
	if err != nil {
		return fmt.Errorf("control stream: %w", err)
	}
	settings := quicvarint.Append([]byte{settingSection}, maxHeader)
	settings = append(settings, settingDatagram, 1)
	b := append([]byte{streamControl, frameSettings, byte(len(settings))}, settings...)
	_, err = str.Write(b)
	return err
}

// criticals are which of QPACK's streams have been seen.
type criticals struct{ encoder, decoder atomic.Bool }

// takeUni serves a stream that is not the control stream.
func (c *ClientConn) takeUni(str *quicgo.ReceiveStream, seen *criticals) {
	typ, _, err := peekVarint(str)
	switch {
	case err != nil: // ended before its type: RFC 9114 §6.2
		str.CancelRead(quicgo.StreamErrorCode(http3.ErrCodeStreamCreationError))
	case typ == streamPush:
		c.fail(http3.ErrCodeIDError, errors.New("a push, which was not allowed")) // RFC 9114 §4.6
	case typ == streamEncoder && !seen.encoder.Swap(true), typ == streamDecoder && !seen.decoder.Swap(true):
		c.fail(http3.ErrCodeClosedCriticalStream, discard(str))
	case typ == streamEncoder, typ == streamDecoder:
		c.fail(http3.ErrCodeStreamCreationError, errors.New("a second stream of QPACK"))
	default:
		str.CancelRead(quicgo.StreamErrorCode(http3.ErrCodeStreamCreationError))
	}
}

// discard reads a stream of QPACK to its end. There is nothing on it that
// matters without a dynamic table.
func discard(r io.Reader) error {
	var b [64]byte
	for {
		if _, err := r.Read(b[:]); err != nil {
			return fmt.Errorf("QPACK: %w", err)
		}
	}
}

// goAway is told from which stream on the server serves no requests (RFC 9114
// §5.2).
func (c *ClientConn) goAway(id uint64) error {
	if last := c.last.Load(); id%4 != 0 || id > last {
		return fmt.Errorf("GOAWAY %d after %d", id, last)
	}
	c.last.Store(id)
	return nil
}

var errGoAway = &tunnel.CloseError{Reason: tunnel.ReasonShutdown, Text: "no more requests", Remote: true}

// Close ends the connection with a reason that the agent is told.
func (c *ClientConn) Close(r tunnel.Reason, text string) error {
	defer c.work.Wait()
	return c.link.Close(r, text)
}

// PeerKeyHash is the hash of the key that the agent proved to hold.
func (c *ClientConn) PeerKeyHash() [32]byte { return peerHash(c.conn.ConnectionState().TLS) }

// Open sends the head of a request and returns without waiting for the answer.
// Nor does it wait for the settings that allow an extended CONNECT (RFC 9220
// §3), a round trip: every agent has them.
func (c *ClientConn) Open(ctx context.Context, h tunnel.Header) (tunnel.Request, error) {
	head, err := requestHead(h)
	if err != nil {
		return nil, err
	}
	if c.last.Load() != math.MaxUint64 {
		return nil, errGoAway
	}
	str, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, explain(err)
	}
	r := &request{Stream: str, conn: c, answer: answer{frames: frames{r: str}, method: h.Method}}
	if h.Protocol != "" {
		r.box = c.boxes.open(str.StreamID())
	}
	if uint64(str.StreamID()) >= c.last.Load() { // told so while this waited
		err = errGoAway
	} else if _, err = str.Write(head); err == nil {
		return r, nil
	}
	r.Abort(requestCanceled)
	r.Stop(requestCanceled)
	return nil, explain(err)
}

const requestCanceled = uint64(http3.ErrCodeRequestCanceled)

// request is a request's stream at the buyer's end.
type request struct {
	*quicgo.Stream
	conn   *ClientConn
	box    *inbox // of an extended CONNECT
	answer answer
}

var _ tunnel.Framer = (*request)(nil)

func (r *request) ID() uint64        { return uint64(r.StreamID()) }
func (r *request) Abort(code uint64) { r.CancelWrite(quicgo.StreamErrorCode(code)) }

func (r *request) Stop(code uint64) {
	r.CancelRead(quicgo.StreamErrorCode(code))
	r.box.close()
}

func (r *request) Answer() (int, http.Header, error) {
	status, fields, err := r.answer.start()
	return status, fields, r.judge(err)
}

func (r *request) Read(b []byte) (int, error) {
	n, err := r.answer.read(b)
	if err == nil {
		return n, nil
	}
	return n, r.judge(err)
}

// judge ends what the peer's fault has spoilt, and explains it.
func (r *request) judge(err error) error {
	f, ok := errors.AsType[*fault](err)
	switch {
	case !ok:
		return explain(err)
	case f.message:
		r.Abort(uint64(f.code))
		r.Stop(uint64(f.code))
	default:
		r.conn.fail(f.code, f.err)
	}
	return err
}

// Write copies b to where there is room for a head.
func (r *request) Write(b []byte) (int, error) {
	p, _ := r.conn.pieces.Get().(*piece)
	defer r.conn.pieces.Put(p)
	total := 0
	for total < len(b) {
		n := copy(p[tunnel.Headroom:], b[total:])
		n, err := r.WriteFramed(p[:tunnel.Headroom+n])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// WriteFramed writes a DATA frame; see writeFramed.
func (r *request) WriteFramed(b []byte) (int, error) { return writeFramed(r.Stream, b) }

func (r *request) SendDatagram(b []byte) error { return r.conn.sendDatagram(r.StreamID(), b) }

func (r *request) ReceiveDatagram(ctx context.Context) ([]byte, error) { return r.box.receive(ctx) }
