package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Config says how a [Session] serves. Zero fields have the defaults named.
type Config struct {
	Dialer Dialer
	// Logger gets what happens to single flows, at Debug. Nil discards it.
	Logger *slog.Logger
	// MaxFlows bounds TCP and UDP flows together. Default 256.
	MaxFlows int
	// DialTimeout bounds reaching a target. Default 15 s.
	DialTimeout time.Duration
	// UDPIdle ends a UDP flow without packets. Default 2 minutes, the least
	// that RFC 4787 REQ-5 allows.
	UDPIdle time.Duration
	// Admission is how long a flow waits for the session to be admitted
	// before it is answered with 402. Default 10 s.
	Admission time.Duration
	// Unpaid gives the header fields of the 402 answer to a client that opens
	// no control stream. Nil means none.
	Unpaid func() Fields
	// Pass decides about a flow that no session pays for, by the values of its
	// request's Proxy-Authorization fields (RFC 9110 §11.7.2). It is asked on
	// connections without a control stream; a refusal is a *[PassError]. Nil
	// ignores such fields.
	Pass func(ctx context.Context, credentials []string) (Pass, error)
	// Plain answers requests other than CONNECT, such as one for the offer.
	// It returns the status, media type and body. Nil means 404.
	Plain func(h Header) (status int, mediaType string, body []byte)
	// Known says which capsule types of the control stream are wanted.
	Known func(typ uint64) bool
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxFlows == 0 {
		c.MaxFlows = 256
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 15 * time.Second
	}
	if c.UDPIdle == 0 {
		c.UDPIdle = 2 * time.Minute
	}
	if c.Admission == 0 {
		c.Admission = 10 * time.Second
	}
	if c.Known == nil {
		c.Known = func(uint64) bool { return true }
	}
	return c
}

// A Session is the agent's side of one buyer's connection. Flows that arrive
// before Admit wait for it; flows after Drain are refused.
type Session struct {
	conn ServerConn
	cfg  Config

	control  chan *Control   // one value, sent when the control stream opens
	passed   chan struct{}   // closed when a flow got in by a Pass
	admitted chan struct{}   // closed by Admit
	ctx      context.Context // of all flows; ends with the connection or Drain
	end      context.CancelCauseFunc
	running  running // flows, those that are being dialled included
	store    store

	mu       sync.Mutex
	lanes    Lanes           // set before admitted is closed
	opened   bool            // the control stream came
	pay      bool            // passed is closed: flows bring what they are paid by
	draining bool            // no new flows
	flows    map[uint64]flow // established ones, by stream
	early    recent          // streams canceled that were not among them
}

// recent remembers the last stream IDs that it was given.
type recent struct {
	ids  [256]uint64 // and one, so that zero is none
	next int
}

func (r *recent) add(id uint64) {
	r.ids[r.next%len(r.ids)] = id + 1
	r.next++
}

// take reports whether id is remembered, and forgets it.
func (r *recent) take(id uint64) bool {
	i := slices.Index(r.ids[:], id+1)
	if i >= 0 {
		r.ids[i] = 0
	}
	return i >= 0
}

// A flow is what can be done to a running one.
type flow struct {
	gate   *gate  // nil: a UDP flow cannot be paused
	cancel func() // ends it; what was read from its target is still sent
	target net.Conn
}

// sessionBuffers bounds what the busy flows of a session read into: a few read
// in pieces of 64 KiB, a hundred of 8 KiB, a thousand of 4 KiB.
const sessionBuffers = 1 << 20

// NewSession returns the session of conn. It does nothing until Run.
func NewSession(conn ServerConn, c Config) *Session {
	s := &Session{
		conn:     conn,
		cfg:      c.withDefaults(),
		control:  make(chan *Control, 1),
		passed:   make(chan struct{}),
		admitted: make(chan struct{}),
		store:    store{most: sessionBuffers},
		flows:    make(map[uint64]flow),
	}
	s.ctx, s.end = context.WithCancelCause(conn.Context())
	return s
}

// Run serves the connection until it ends and returns its *CloseError.
func (s *Session) Run() error {
	if err := s.conn.Serve(s.handle); err != nil {
		s.cfg.Logger.Debug("serve", "err", err)
	}
	return context.Cause(s.conn.Context())
}

// Control waits for the buyer's control stream. It returns [ErrPassed] for one
// who needs none.
func (s *Session) Control(ctx context.Context) (*Control, error) {
	select {
	case c := <-s.control:
		return c, nil
	case <-s.passed:
		return nil, ErrPassed
	case <-s.conn.Context().Done():
		return nil, context.Cause(s.conn.Context())
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Trust tells the transport that the buyer is no stranger: until then it bounds
// what the connection may make the agent hold. Admit and a [Pass] do so too.
func (s *Session) Trust() {
	if c, ok := s.conn.(interface{ Trust() }); ok {
		c.Trust()
	}
}

// Admit lets flows begin; they are counted in lanes. It is called once.
func (s *Session) Admit(lanes Lanes) {
	s.Trust()
	s.mu.Lock()
	s.lanes = lanes
	s.mu.Unlock()
	close(s.admitted)
}

// Flows returns how many flows are running.
func (s *Session) Flows() int { return s.running.count() }

// drainGrace is how long a flow that is being ended may take for what was
// read from its target, or to be dialled.
const drainGrace = 5 * time.Second

var errDrained = errors.New("tunnel: session drained")

// Drain refuses new flows and waits until the running ones have ended. When
// ctx is done it ends those that are left: first in the way that lets both
// sides count the same, after 5 s in any way.
func (s *Session) Drain(ctx context.Context) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	if s.running.wait(ctx) == nil {
		return
	}
	s.mu.Lock()
	left := slices.Collect(maps.Values(s.flows))
	s.mu.Unlock()
	for _, f := range left {
		f.cancel()
	}
	for range 2 {
		grace, cancel := context.WithTimeout(context.Background(), drainGrace)
		err := s.running.wait(grace)
		cancel()
		if err == nil {
			return
		}
		s.end(errDrained)
	}
}

// handle answers one request; it owns the call until it returns.
func (s *Session) handle(h Header, c Call) {
	log := s.cfg.Logger
	switch {
	case h.Method == MethodConnect && h.Protocol == protocolControl:
		s.acceptControl(c)
	case h.Method == MethodConnect && (h.Protocol == "" || h.Protocol == protocolUDP):
		e, err := s.enter(h)
		if err != nil {
			s.refuseEntry(c, err)
			return
		}
		defer e.leave()
		if h.Protocol == protocolUDP {
			s.serveUDP(h, c, e)
		} else {
			s.serveTCP(h, c, e)
		}
	case h.Method == MethodConnect:
		s.refuse(c, StatusNotImplemented, "unknown protocol "+h.Protocol)
	default:
		if err := s.servePlain(h, c); err != nil {
			log.Debug("answer", "err", err)
		}
	}
}

func (s *Session) servePlain(h Header, c Call) error {
	if s.cfg.Plain == nil {
		return c.Refuse(StatusNotFound, nil, "")
	}
	status, mediaType, body := s.cfg.Plain(h)
	return c.Refuse(status, Fields{"content-type": {mediaType}}, string(body))
}

func (s *Session) acceptControl(c Call) {
	s.mu.Lock()
	again, pay := s.opened, s.pay
	s.opened = again || !pay
	s.mu.Unlock()
	switch {
	case again:
		s.refuse(c, StatusConflict, "a control stream is open already")
		return
	case pay:
		s.refuse(c, StatusConflict, "this connection is paid for by tokens")
		return
	}
	str, err := c.Accept(Fields{"capsule-protocol": {"?1"}}) // RFC 9297 §3.4
	if err != nil {
		s.cfg.Logger.Debug("control stream", "err", err)
		return
	}
	s.control <- newControl(str, s.steer, s.cfg.Known)
	// The stream lives as long as this handler: until the connection ends.
	<-s.conn.Context().Done()
}

// An entry is a flow's place in the session: what it is counted in, what ends
// it, and leave, for when it has ended.
type entry struct {
	lanes Lanes
	ctx   context.Context
	leave func()
}

// enter waits for admission, or asks Pass, and takes a place among the flows.
// The error is a *PassError.
func (s *Session) enter(h Header) (entry, error) {
	credentials := h.Fields["proxy-authorization"]
	s.mu.Lock()
	pass := s.cfg.Pass != nil && !s.opened && (s.pay || len(credentials) > 0)
	s.mu.Unlock()
	if pass {
		return s.enterByPass(credentials)
	}
	if err := s.admission(); err != nil {
		return entry{}, err
	}
	return s.place(Pass{Lanes: s.lanes, Context: s.ctx, Leave: func() {}})
}

// admission waits until the session is admitted.
func (s *Session) admission() error {
	select {
	case <-s.admitted:
		return nil
	default:
	}
	t := time.NewTimer(s.cfg.Admission)
	defer t.Stop()
	select {
	case <-s.admitted:
		return nil
	case <-s.conn.Context().Done():
		return errNoFlows
	case <-t.C:
	}
	unpaid := &PassError{Status: StatusPaymentRequired, Text: "payment required: open a payment channel first"}
	if s.cfg.Unpaid != nil {
		unpaid.Fields = s.cfg.Unpaid()
	}
	return unpaid
}

// place takes one for a flow that is let in.
func (s *Session) place(p Pass) (entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return entry{}, errNoFlows
	case s.running.count() >= s.cfg.MaxFlows:
		return entry{}, errManyFlows
	}
	s.running.add()
	return entry{p.Lanes, p.Context, func() {
		s.running.done()
		p.Leave()
	}}, nil
}

// reach connects a flow to its target and accepts it, or refuses it and
// returns nil. The caller owns both; it enlists the flow next.
func (s *Session) reach(ctx context.Context, c Call, fields Fields, dial func(context.Context) (net.Conn, error)) (Stream, net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	target, err := dial(ctx)
	cancel()
	if err != nil {
		s.refuseDial(c, err)
		return nil, nil
	}
	str, err := c.Accept(fields)
	if err != nil {
		s.cfg.Logger.Debug("accept flow", "err", err)
		_ = target.Close() // unused
		return nil, nil
	}
	return str, target
}

// Reset ends the flows that there are as if their targets had reset them, for an
// agent whose address is another one now: what they were connected by is gone.
// New ones may come.
func (s *Session) Reset() {
	s.mu.Lock()
	targets := make([]net.Conn, 0, len(s.flows))
	for _, f := range s.flows {
		targets = append(targets, f.target)
	}
	s.mu.Unlock()
	for _, t := range targets {
		_ = t.Close() // the flow's own end closes it again
	}
}

// enlist makes a flow known to steer, Reset and Drain.
func (s *Session) enlist(id uint64, f flow) {
	s.mu.Lock()
	s.flows[id] = f
	canceled := s.early.take(id)
	s.mu.Unlock()
	if canceled {
		f.cancel()
	}
}

func (s *Session) delist(id uint64) {
	s.mu.Lock()
	delete(s.flows, id)
	s.mu.Unlock()
}

// textType is the media type of a refusal's text.
const textType = "text/plain; charset=utf-8"

// refuseEntry answers a flow that does not get in.
func (s *Session) refuseEntry(c Call, err error) {
	p, ok := errors.AsType[*PassError](err)
	if !ok {
		s.cfg.Logger.Debug("pass", "err", err)
		p = errNoFlows
	}
	fields := Fields{"content-type": {textType}}
	maps.Copy(fields, p.Fields)
	if p.Kind != "" {
		fields["proxy-status"] = []string{proxyStatus(p.Kind, p.Text)}
	}
	if err := c.Refuse(p.Status, fields, p.Text+"\n"); err != nil {
		s.cfg.Logger.Debug("answer", "err", err)
	}
}

// steer acts on a buyer's capsule about the flow on stream id. There may be
// none any more, or none yet: then a cancel waits for it.
func (s *Session) steer(typ, id uint64) {
	s.mu.Lock()
	f, ok := s.flows[id]
	if !ok && typ == capsuleCancel {
		s.early.add(id)
	}
	s.mu.Unlock()
	switch {
	case !ok:
	case typ == capsuleCancel:
		f.cancel()
	case f.gate == nil:
	case typ == capsulePause:
		f.gate.shut()
	case typ == capsuleResume:
		f.gate.open()
	}
}

// blocked is implemented by errors of a [Dialer] whose policy forbids a target.
type blocked interface{ Blocked() string }

// refuseDial answers a flow whose target could not be reached, with the error
// types of RFC 9209 §2.3.
func (s *Session) refuseDial(c Call, err error) {
	status, kind := StatusBadGateway, "destination_unavailable"
	var b blocked
	switch {
	case errors.As(err, &b):
		status, kind = StatusForbidden, "destination_ip_prohibited"
	case isRefused(err):
		kind = "connection_refused"
	case isUnroutable(err):
		kind = "destination_ip_unroutable"
	case isUnknownHost(err):
		kind = "dns_error"
	case isTimeout(err):
		status, kind = StatusGatewayTimeout, "connection_timeout"
	}
	text := err.Error()
	if b != nil {
		text = b.Blocked()
	}
	s.refuseAs(c, status, kind, text)
}

func (s *Session) refuse(c Call, status int, text string) {
	s.refuseAs(c, status, kindInternal, text)
}

func (s *Session) refuseAs(c Call, status int, kind, text string) {
	fields := Fields{"content-type": {textType}, "proxy-status": {proxyStatus(kind, text)}}
	if err := c.Refuse(status, fields, text+"\n"); err != nil {
		s.cfg.Logger.Debug("answer", "err", err)
	}
}
