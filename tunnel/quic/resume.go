package quic

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
)

// A Ticket is what a buyer comes back by, and secret: who has it can read what
// is sent by it before the handshake. It is good for one connection.
type Ticket struct {
	// KeyHash is that of the agent which gave it, Secret as in [Resumption].
	KeyHash [32]byte
	Secret  [32]byte
	name    []byte
	state   *tls.SessionState
}

const (
	ticketVersion = 1
	ticketHead    = 1 + 32 + 32 + 1
	// MaxTicket bounds a ticket's encoding, most of which is the certificate.
	MaxTicket = 8 << 10
)

// MarshalBinary encodes the ticket: version (1), KeyHash, Secret, the name's
// length (1), the name, and the TLS session as crypto/tls encodes it.
func (t *Ticket) MarshalBinary() ([]byte, error) {
	state, err := t.state.Bytes()
	if err != nil {
		return nil, fmt.Errorf("ticket: %w", err)
	}
	if len(t.name) > 255 || ticketHead+len(t.name)+len(state) > MaxTicket {
		return nil, errors.New("ticket: too long")
	}
	b := append([]byte{ticketVersion}, t.KeyHash[:]...)
	b = append(b, t.Secret[:]...)
	b = append(append(b, byte(len(t.name))), t.name...)
	return append(b, state...), nil
}

// ParseTicket decodes a ticket. One of another version of this program or of
// crypto/tls is an error: then a handshake has to do.
func ParseTicket(b []byte) (*Ticket, error) {
	if len(b) < ticketHead || len(b) > MaxTicket || b[0] != ticketVersion {
		return nil, errors.New("ticket: damaged, or of another version")
	}
	t := &Ticket{}
	rest := b[1:]
	rest = rest[copy(t.KeyHash[:], rest):]
	rest = rest[copy(t.Secret[:], rest):]
	n := int(rest[0])
	if rest = rest[1:]; len(rest) < n {
		return nil, errors.New("ticket: truncated")
	}
	t.name = slices.Clone(rest[:n])
	state, err := tls.ParseSessionState(rest[n:])
	if err != nil {
		return nil, fmt.Errorf("ticket: %w", err)
	}
	t.state = state
	return t, nil
}

// Resume connects to the agent at addr by a ticket, which is used up. Requests
// may be opened at once and leave before the handshake, as long as they are
// small; see [ClientConn.Settled]. An agent that does not take the ticket is
// connected to as by Dial, and is sent what was sent once more.
func (d *Dialer) Resume(ctx context.Context, addr net.Addr, t *Ticket) (*ClientConn, error) {
	return d.dial(ctx, addr, &t.KeyHash, t)
}

// sessions is the tls.ClientSessionCache of one connection.
type sessions struct {
	use   *Ticket // nil: none
	given atomic.Pointer[tls.ClientSessionState]
}

// Get is called once, before the first packet.
func (s *sessions) Get(string) (*tls.ClientSessionState, bool) {
	if s.use == nil {
		return nil, false
	}
	cs, err := tls.NewResumptionState(s.use.name, s.use.state)
	return cs, err == nil
}

func (s *sessions) Put(_ string, cs *tls.ClientSessionState) {
	if cs != nil { // nil: what Get returned was too old
		s.given.Store(cs)
	}
}

// Ticket returns what the buyer may come back by, once: nil before the agent
// has given it.
func (c *ClientConn) Ticket() (*Ticket, error) {
	cs := c.sessions.given.Swap(nil)
	if cs == nil {
		return nil, nil
	}
	name, state, err := cs.ResumptionState()
	if err != nil {
		return nil, fmt.Errorf("ticket: %w", err)
	}
	t := &Ticket{KeyHash: c.PeerKeyHash(), name: name, state: state}
	t.Secret, err = c.ExportKey(resumeLabel)
	return t, err
}

// An opening is the time of a connection before its handshake is done. What is
// sent in it is remembered, for an agent that does not take it.
type opening struct {
	done     chan struct{} // closed by settle, or from the beginning
	over     atomic.Bool   // likewise
	accepted bool          // set before done is closed
	held     atomic.Int64  // bytes that are remembered, up to maxOpening
	ear      *ear

	mu       sync.Mutex // held while requests are opened, and while they are sent again
	requests []*earlyRequest
}

// newOpening is that of conn, which was dialled by a ticket. If its handshake is
// done already it is over, and nothing that is sent from now on is rejected.
func newOpening(ctx context.Context, conn *quicgo.Conn, e *ear) (*opening, error) {
	o := &opening{done: make(chan struct{}), ear: e}
	select {
	case <-conn.HandshakeComplete():
	default:
		return o, nil
	}
	o.over.Store(true)
	defer close(o.done)
	if o.accepted = conn.ConnectionState().Used0RTT; o.accepted {
		return o, nil
	}
	_, err := conn.NextConnection(ctx)
	return o, err
}

// An ear knows whether the agent was heard. From then on no stream is opened
// before the handshake is done: quic-go reads the agent's former transport
// parameters for a stream, and replaces them without a lock.
type ear struct {
	mu    sync.Mutex // held while a stream is opened, which waits for nothing
	heard bool
}

// Write is a KeyLogWriter's, and keeps nothing. TLS calls it as soon as the
// agent's hello gave it the handshake's keys, and before anything behind that
// hello is read.
func (e *ear) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte("CLIENT_HANDSHAKE_TRAFFIC_SECRET ")) {
		e.mu.Lock()
		e.heard = true
		e.mu.Unlock()
	}
	return len(line), nil
}

// before calls open unless the agent was heard, and reports that.
func (e *ear) before(open func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.heard {
		open()
	}
	return !e.heard
}

// maxOpening is how much may be sent before the handshake is done; the rest
// waits for it.
const maxOpening = 64 << 10

// rejected says whether err only says that the agent did not take what was sent
// before the handshake: it is sent again.
func rejected(err error) bool { return errors.Is(err, quicgo.Err0RTTRejected) }

// Early says whether the agent has served what was sent before the handshake.
// It is called after [ClientConn.Settled].
func (c *ClientConn) Early() bool { return c.opening != nil && c.opening.accepted }

// Settled waits for the handshake, and until what was sent before it and not
// taken has been sent again.
func (c *ClientConn) Settled(ctx context.Context) error {
	if c.opening == nil {
		return nil
	}
	select {
	case <-c.opening.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

// settle ends the opening. told says whether the agent was sent our settings.
func (c *ClientConn) settle(told bool) {
	o := c.opening
	if o == nil || o.over.Load() {
		return
	}
	select {
	case <-c.conn.HandshakeComplete():
	case <-c.ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() {
		o.over.Store(true)
		close(o.done)
	}()
	if c.ctx.Err() != nil {
		return
	}
	if o.accepted = c.conn.ConnectionState().Used0RTT; o.accepted {
		if !told {
			c.sendSettings()
		}
		return
	}
	if err := c.again(o.requests); err != nil {
		c.fail(codeInternal, err)
	}
}

// again sends all that was sent before, on streams of the same IDs.
func (c *ClientConn) again(requests []*earlyRequest) error {
	if _, err := c.conn.NextConnection(c.ctx); err != nil {
		return err
	}
	c.sendSettings()
	for _, r := range requests {
		if err := r.again(); err != nil {
			return err
		}
	}
	return nil
}

// openEarly opens a request before the handshake is done. It returns nil when
// that is over, or when no more can be opened until then.
func (c *ClientConn) openEarly(h tunnel.Header, head []byte) *earlyRequest {
	o := c.opening
	if o == nil || o.over.Load() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over.Load() || !o.room(len(head)) {
		return nil
	}
	var str *quicgo.Stream
	var err error
	if !o.ear.before(func() { str, err = c.conn.OpenStream() }) || err != nil {
		return nil // Open waits for the handshake, or finds it out
	}
	q, err := c.begin(str, h, head)
	r := &earlyRequest{conn: c, header: h, head: head, id: uint64(str.StreamID())}
	if err != nil { // it was rejected, or the connection has ended: again does it, or nobody
		q = c.newRequest(str, h)
	}
	r.now.Store(q)
	o.requests = append(o.requests, r)
	return r
}

// room takes n bytes of what may be remembered.
func (o *opening) room(n int) bool {
	if o.held.Add(int64(n)) <= maxOpening {
		return true
	}
	o.held.Add(int64(-n))
	return false
}

// An earlyRequest is a request that was opened before the handshake was done.
type earlyRequest struct {
	conn   *ClientConn
	header tunnel.Header
	head   []byte
	id     uint64
	now    atomic.Pointer[request] // on the stream that it has now
	abort  atomic.Pointer[uint64]  // the code that it was aborted with
	stop   atomic.Pointer[uint64]  // likewise

	mu   sync.Mutex // held while something is sent and remembered, and by again
	sent []byte     // behind the head
	fin  bool
}

var (
	_ tunnel.Request  = (*earlyRequest)(nil)
	_ tunnel.Framer   = (*earlyRequest)(nil)
	_ tunnel.Packeter = (*earlyRequest)(nil)
)

// again sends the request on a new stream.
func (r *earlyRequest) again() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Load().box.close()
	str, err := r.conn.conn.OpenStream()
	if err != nil {
		return fmt.Errorf("open again: %w", explain(err))
	}
	if uint64(str.StreamID()) != r.id {
		return fmt.Errorf("stream %d was opened again as %d", r.id, str.StreamID())
	}
	q := r.conn.newRequest(str, r.header)
	r.now.Store(q)
	// A peer that stops the stream already says so in its answer.
	if _, err := str.Write(append(slices.Clone(r.head), r.sent...)); err == nil && r.fin {
		_ = q.Close() // likewise
	}
	if code := r.abort.Load(); code != nil {
		q.Abort(*code)
	}
	if code := r.stop.Load(); code != nil {
		q.Stop(*code)
	}
	return nil
}

func (r *earlyRequest) ID() uint64 { return r.id }

// settled returns the request on its last stream.
func (r *earlyRequest) settled() *request {
	<-r.conn.opening.done
	return r.now.Load()
}

func (r *earlyRequest) Answer() (int, tunnel.Fields, error) { return r.settled().Answer() }
func (r *earlyRequest) Read(b []byte) (int, error)          { return r.settled().Read(b) }

func (r *earlyRequest) SendDatagram(b []byte) error { return r.settled().SendDatagram(b) }

func (r *earlyRequest) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	select {
	case <-r.conn.opening.done:
		return r.now.Load().ReceiveDatagram(ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Abort and Stop do not wait for what is being written.
func (r *earlyRequest) Abort(code uint64) {
	r.abort.Store(&code)
	r.now.Load().Abort(code)
}

func (r *earlyRequest) Stop(code uint64) {
	r.stop.Store(&code)
	r.now.Load().Stop(code)
}

func (r *earlyRequest) Write(b []byte) (int, error) { return r.conn.writePieces(b, r.WriteFramed) }

func (r *earlyRequest) WriteFramed(b []byte) (int, error) {
	if n, ok, err := r.writeEarly(b); ok {
		return n, err
	}
	return r.settled().WriteFramed(b)
}

// writeEarly writes and remembers, if there is still time and room for that.
func (r *earlyRequest) writeEarly(b []byte) (n int, ok bool, err error) {
	o := r.conn.opening
	if o.over.Load() {
		return 0, false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.over.Load() || !o.room(len(b)) {
		return 0, false, nil
	}
	r.sent = append(r.sent, frame(b)...)
	n, err = r.now.Load().WriteFramed(b)
	if rejected(err) {
		return len(b) - tunnel.Headroom, true, nil
	}
	return n, true, err
}

func (r *earlyRequest) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fin = true
	if err := r.now.Load().Close(); !rejected(err) {
		return err
	}
	return nil
}
