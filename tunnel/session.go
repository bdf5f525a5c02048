package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
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
	Unpaid func() http.Header
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

	control  chan *Control // one value, sent when the control stream opens
	admitted chan struct{} // closed by Admit
	flows    chan struct{} // a token for each running flow; full: refuse
	running  sync.WaitGroup

	mu       sync.Mutex
	lanes    Lanes           // set before admitted is closed
	opened   bool            // the control stream came
	draining bool            // no new flows
	byID     map[uint64]*leg // running TCP flows, for steering
}

// NewSession returns the session of conn. It does nothing until Run.
func NewSession(conn ServerConn, c Config) *Session {
	c = c.withDefaults()
	return &Session{
		conn:     conn,
		cfg:      c,
		control:  make(chan *Control, 1),
		admitted: make(chan struct{}),
		flows:    make(chan struct{}, c.MaxFlows),
		byID:     make(map[uint64]*leg),
	}
}

// Run serves the connection until it ends and returns its *CloseError.
func (s *Session) Run() error {
	if err := s.conn.Serve(s.handle); err != nil {
		s.cfg.Logger.Debug("serve", "err", err)
	}
	return context.Cause(s.conn.Context())
}

// Control waits for the buyer's control stream.
func (s *Session) Control(ctx context.Context) (*Control, error) {
	select {
	case c := <-s.control:
		return c, nil
	case <-s.conn.Context().Done():
		return nil, context.Cause(s.conn.Context())
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Admit lets flows begin; they are counted in lanes. It is called once.
func (s *Session) Admit(lanes Lanes) {
	s.mu.Lock()
	s.lanes = lanes
	s.mu.Unlock()
	close(s.admitted)
}

// Flows returns how many flows are running.
func (s *Session) Flows() int { return len(s.flows) }

// Drain refuses new flows and waits until the running ones have ended or ctx
// is done, which resets those that are left.
func (s *Session) Drain(ctx context.Context) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	var waiter sync.WaitGroup
	idle := make(chan struct{})
	waiter.Go(func() {
		s.running.Wait()
		close(idle)
	})
	select {
	case <-idle:
	case <-ctx.Done():
		s.mu.Lock()
		for _, l := range s.byID {
			l.cancel()
		}
		s.mu.Unlock()
		select {
		case <-idle:
		case <-s.conn.Context().Done():
		case <-time.After(5 * time.Second): // a UDP flow, or a target that ignores us
		}
	}
}

// handle answers one request; it owns the call until it returns.
func (s *Session) handle(h Header, c Call) {
	log := s.cfg.Logger
	switch {
	case h.Method == http.MethodConnect && h.Protocol == protocolControl:
		s.acceptControl(c)
	case h.Method == http.MethodConnect && (h.Protocol == "" || h.Protocol == protocolUDP):
		release, status := s.enter()
		if status != 0 {
			s.refuseEntry(c, status)
			return
		}
		defer release()
		if h.Protocol == protocolUDP {
			s.serveUDP(h, c)
		} else {
			s.serveTCP(h, c)
		}
	case h.Method == http.MethodConnect:
		s.refuse(c, http.StatusNotImplemented, "unknown protocol "+h.Protocol)
	default:
		if err := s.servePlain(h, c); err != nil {
			log.Debug("answer", "err", err)
		}
	}
}

func (s *Session) servePlain(h Header, c Call) error {
	if s.cfg.Plain == nil {
		return c.Refuse(http.StatusNotFound, nil, "")
	}
	status, mediaType, body := s.cfg.Plain(h)
	return c.Refuse(status, http.Header{"Content-Type": {mediaType}}, string(body))
}

func (s *Session) acceptControl(c Call) {
	s.mu.Lock()
	again := s.opened
	s.opened = true
	s.mu.Unlock()
	if again {
		s.refuse(c, http.StatusConflict, "a control stream is open already")
		return
	}
	str, err := c.Accept(http.Header{"Capsule-Protocol": {"?1"}}) // RFC 9297 §3.4
	if err != nil {
		s.cfg.Logger.Debug("control stream", "err", err)
		return
	}
	s.control <- newControl(str, s.steer, s.cfg.Known)
	// The stream lives as long as this handler: until the connection ends.
	<-s.conn.Context().Done()
}

// enter waits for admission and takes a place among the flows. It returns the
// status to refuse with when there is none.
func (s *Session) enter() (release func(), status int) {
	select {
	case <-s.admitted:
	default:
		t := time.NewTimer(s.cfg.Admission)
		defer t.Stop()
		select {
		case <-s.admitted:
		case <-t.C:
			return nil, http.StatusPaymentRequired
		case <-s.conn.Context().Done():
			return nil, http.StatusServiceUnavailable
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, http.StatusServiceUnavailable
	}
	select {
	case s.flows <- struct{}{}:
	default:
		return nil, http.StatusTooManyRequests
	}
	s.running.Add(1)
	return func() {
		<-s.flows
		s.running.Done()
	}, 0
}

func (s *Session) refuseEntry(c Call, status int) {
	switch status {
	case http.StatusPaymentRequired:
		var fields http.Header
		if s.cfg.Unpaid != nil {
			fields = s.cfg.Unpaid()
		}
		if err := c.Refuse(status, fields, "payment required: open a payment channel first\n"); err != nil {
			s.cfg.Logger.Debug("answer", "err", err)
		}
	case http.StatusTooManyRequests:
		s.refuse(c, status, "too many flows in this session")
	default:
		s.refuse(c, status, "the agent takes no new flows")
	}
}

// steer acts on a buyer's capsule about the TCP flow on stream id. One that
// has ended already is none.
func (s *Session) steer(typ, id uint64) {
	s.mu.Lock()
	l := s.byID[id]
	s.mu.Unlock()
	if l == nil {
		return
	}
	switch typ {
	case capsulePause:
		l.gate.shut()
	case capsuleResume:
		l.gate.open()
	case capsuleCancel:
		l.cancel()
	}
}

// blocked is implemented by errors of a [Dialer] whose policy forbids a target.
type blocked interface{ Blocked() string }

// refuseDial answers a flow whose target could not be reached, with the error
// types of RFC 9209 §2.3.
func (s *Session) refuseDial(c Call, err error) {
	status, kind := http.StatusBadGateway, "destination_unavailable"
	var b blocked
	switch {
	case errors.As(err, &b):
		status, kind = http.StatusForbidden, "destination_ip_prohibited"
	case isRefused(err):
		kind = "connection_refused"
	case isUnroutable(err):
		kind = "destination_ip_unroutable"
	case isUnknownHost(err):
		kind = "dns_error"
	case isTimeout(err):
		status, kind = http.StatusGatewayTimeout, "connection_timeout"
	}
	text := err.Error()
	if b != nil {
		text = b.Blocked()
	}
	s.refuseAs(c, status, kind, text)
}

func (s *Session) refuse(c Call, status int, text string) {
	s.refuseAs(c, status, "proxy_internal_response", text)
}

func (s *Session) refuseAs(c Call, status int, kind, text string) {
	fields := http.Header{"Proxy-Status": {proxyStatus(kind, text)}}
	if err := c.Refuse(status, fields, text+"\n"); err != nil {
		s.cfg.Logger.Debug("answer", "err", err)
	}
}
