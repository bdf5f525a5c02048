package quic

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
)

// A ServerConn is the agent's end of a connection. It speaks HTTP/3 (RFC 9114)
// on the QUIC connection itself: the library's server needs net/http.
type ServerConn struct {
	*link
	listener *Listener
	stranger *tunnel.Stranger
	trusted  atomic.Bool
	heads    atomic.Int32 // bytes of requests' heads while it is not
}

var _ tunnel.ServerConn = (*ServerConn)(nil)

// Trust says that the buyer is no stranger any more.
func (c *ServerConn) Trust() {
	c.trusted.Store(true)
	c.stranger.Leave()
}

// strangerHeads bounds the heads of requests that a stranger makes the agent
// hold.
const strangerHeads = 64 << 10

// takes says whether another request is taken, and ends the connection if not.
func (c *ServerConn) takes(h tunnel.Header) bool {
	if c.trusted.Load() {
		return true
	}
	n := len(h.Authority) + len(h.Path)
	for name, values := range h.Fields {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	if c.heads.Add(int32(n)) <= strangerHeads {
		return true
	}
	_ = c.Close(tunnel.Reason(codeExcessiveLoad), "too many requests before a session") // it may have ended
	return false
}

// refuse ends the connection for want of room.
func (c *ServerConn) refuse(why string) error {
	err := c.conn.CloseWithError(quicgo.ApplicationErrorCode(tunnel.ReasonLimit), why)
	return errors.Join(errors.New("quic: "+why), err)
}

// Serve calls handle for every request until the connection ends. It refuses a
// connection for which there is no room.
func (c *ServerConn) Serve(handle func(tunnel.Header, tunnel.Call)) error {
	if err := c.listener.admit(c); err != nil {
		return err
	}
	var calls sync.WaitGroup
	defer calls.Wait()
	c.sendSettings(settingConnect, 1)
	calls.Go(func() { c.acceptUni(nil) })
	for {
		str, err := c.conn.AcceptStream(c.ctx)
		if err != nil {
			return err
		}
		// Datagrams may come before the request is read.
		s := stream{Stream: str, link: c.link, box: c.boxes.open(str.StreamID())}
		s.content = content{frames: frames{r: str, agent: true}, length: -1}
		r := &reply{stream: s}
		calls.Go(func() { r.serve(c.takes, handle) })
	}
}

// headTime is how long a request's head may take. It is one packet or two.
const headTime = 10 * time.Second

// A reply is the agent's end of a request's stream.
type reply struct {
	stream
	method   string
	told     bool // of broken answers by trailers: the buyer takes them
	answered bool
	peeked   [1]byte
}

var (
	_ tunnel.Failer = (*reply)(nil)
	_ tunnel.Waiter = (*reply)(nil)
)

// serve reads a request and has it handled.
func (r *reply) serve(takes func(tunnel.Header) bool, handle func(tunnel.Header, tunnel.Call)) {
	defer r.box.close()
	_ = r.SetReadDeadline(time.Now().Add(headTime)) // never fails
	h, err := r.readRequest()
	_ = r.SetReadDeadline(time.Time{})
	if err != nil {
		r.refuseHead(err)
		return
	}
	if !takes(h) {
		return
	}
	if h.Protocol == "" {
		r.box.close()
	}
	r.method, r.told = h.Method, h.Fields.Get("te") == "trailers"
	handle(h, call{r})
	if !r.answered {
		r.giveUp(codeInternal)
	}
}

// refuseHead ends a request whose head did not come, or is none.
func (r *reply) refuseHead(err error) {
	f, ok := errors.AsType[*fault](err)
	switch {
	case ok && f.message && f.code == codeExcessiveLoad:
		_ = call{r}.Refuse(tunnel.StatusHeaderTooLarge, nil, "") // RFC 9114 §4.2.2; the connection may have ended
	case ok:
		_ = r.judge(err) // told to the peer
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.giveUp(codeRequestRejected)
	default:
		r.giveUp(codeRequestIncomplete)
	}
}

// A call is a request that is not yet answered.
type call struct{ *reply }

func (c call) Accept(fields tunnel.Fields) (tunnel.Stream, error) {
	head, err := answerHead(tunnel.StatusOK, fields, -1)
	if err != nil {
		return nil, err
	}
	c.answered = true
	if _, err := c.Stream.Write(head); err != nil {
		c.giveUp(codeRequestCanceled)
		return nil, explain(err)
	}
	return c.reply, nil
}

func (c call) Refuse(status int, fields tunnel.Fields, text string) error {
	b, err := answerHead(status, fields, len(text))
	if err != nil {
		return err
	}
	c.answered = true
	if c.method != "HEAD" && text != "" { // RFC 9110 §9.3.2
		b = quicvarint.Append(append(b, frameData), uint64(len(text)))
		b = append(b, text...)
	}
	if _, err = c.Stream.Write(b); err == nil {
		err = c.Close()
	}
	if err != nil {
		c.giveUp(codeRequestCanceled)
		return explain(err)
	}
	c.Stop(uint64(codeNone)) // RFC 9114 §4.1: no more is needed of the request
	return nil
}

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
func (r *reply) Fail() error {
	if !r.told {
		return errNoTrailers
	}
	if _, err := r.Stream.Write([]byte(broken)); err != nil {
		return err
	}
	return r.Close()
}

var errNoTrailers = errors.New("quic: the buyer takes no trailers")

// Wait waits for the first byte of a frame, or for more of the last one. Why
// there is none is Read's to say.
func (r *reply) Wait() { _, _ = r.Peek(r.peeked[:]) }
