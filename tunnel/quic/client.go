package quic

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
)

// A ClientConn is the buyer's end of a connection. It speaks HTTP/3 (RFC 9114)
// on the QUIC connection itself, as the agent's does.
type ClientConn struct {
	*link
	work     sync.WaitGroup
	sessions *sessions
	opening  *opening      // of one that was dialled by a ticket; nil: by none
	last     atomic.Uint64 // requests from this stream on are not served; see goAway
}

var _ tunnel.ClientConn = (*ClientConn)(nil)

func newClientConn(conn *quicgo.Conn, sessions *sessions, o *opening) *ClientConn {
	c := &ClientConn{link: newLink(conn, nil), sessions: sessions, opening: o}
	c.last.Store(math.MaxUint64)
	told := true // of our settings
	if o == nil || o.over.Load() {
		c.sendSettings()
	} else {
		var str *quicgo.SendStream
		var err error
		if told = o.ear.before(func() { str, err = conn.OpenUniStream() }); told {
			c.writeSettings(str, err)
		}
	}
	c.work.Go(func() {
		c.settle(told)
		c.acceptUni(c.goAway)
	})
	return c
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
	if r := c.openEarly(h, head); r != nil {
		return r, nil
	}
	if err := c.Settled(ctx); err != nil {
		return nil, err
	}
	str, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, explain(err)
	}
	r, err := c.begin(str, h, head)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (c *ClientConn) newRequest(str *quicgo.Stream, h tunnel.Header) *request {
	r := &request{stream{Stream: str, link: c.link, content: content{frames: frames{r: str}}}, h.Method}
	if h.Protocol != "" {
		r.box = c.boxes.open(str.StreamID())
	}
	return r
}

// begin sends a request's head.
func (c *ClientConn) begin(str *quicgo.Stream, h tunnel.Header, head []byte) (*request, error) {
	r := c.newRequest(str, h)
	var err error
	if uint64(str.StreamID()) >= c.last.Load() { // told so while this waited
		err = errGoAway
	} else if _, err = str.Write(head); err == nil {
		return r, nil
	}
	r.giveUp(codeRequestCanceled)
	return nil, explain(err)
}

// request is the buyer's end of a request's stream.
type request struct {
	stream
	method string
}

func (r *request) Answer() (int, tunnel.Fields, error) {
	status, fields, err := r.readAnswer()
	if err == nil {
		r.length, err = contentLength(r.method, status, fields)
	}
	return status, fields, r.judge(err)
}
