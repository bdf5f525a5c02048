package server

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/relay"
)

// maxRequest bounds the body of a request.
const maxRequest = 4 << 10

// newHTTP returns the server of the API. Its time-outs bound what a slow
// client holds.
func (s *Server) newHTTP() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.Handle("GET /v1/offers", s.limited(s.requests, s.config.Directory))
	mux.Handle("GET /discovery/resources", s.limited(s.requests, s.config.Directory))
	mux.Handle("GET /v1/rotate/{link}", s.limited(s.requests, s.config.Directory))
	mux.Handle("POST /v1/rotate/{link}", s.limited(s.requests, s.limited(s.sessions, s.config.Directory)))
	if t := s.config.Toll; t != nil {
		mux.Handle("GET /v1/relay", s.limited(s.requests, t))
		mux.Handle("POST /v1/account", s.limited(s.requests, s.limited(s.sessions, t)))
		mux.Handle("POST /v1/account/", s.limited(s.payments, t))
	} else {
		mux.Handle("GET /v1/relay", s.limited(s.requests, http.HandlerFunc(serveFree)))
	}
	if g := s.config.Gateway; g != nil {
		mux.Handle("/v1/credit", s.limited(s.requests, g))
	}
	mux.Handle("GET "+addressPath, s.limited(s.requests, http.HandlerFunc(serveAddress)))
	mux.Handle("POST /v1/sessions", s.limited(s.requests, s.limited(s.sessions, http.HandlerFunc(s.serveSessions))))
	return &http.Server{
		Handler:           s.counted(mux),
		ReadHeaderTimeout: s.config.patience / 2,
		ReadTimeout:       s.config.patience,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 16, MaxReadFrameSize: 16 << 10},
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// counted counts what is asked for.
func (s *Server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.counts.requests.Add(1)
		h.ServeHTTP(w, r)
	})
}

// limited lets each source ask so often.
func (s *Server) limited(l *limiter, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.allow(tunnel.SourceOf(remote(r).Addr()), time.Now()) {
			s.counts.refused.Add(1)
			refuse(w, http.StatusTooManyRequests, "you ask too often")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// remote is where a request came from. Connections come to the relay itself:
// no header is believed.
func remote(r *http.Request) netip.AddrPort {
	a, _ := netip.ParseAddrPort(r.RemoteAddr) // the zero address shares one bucket
	return a
}

// retryAfter is told to those who find no room, in seconds.
const retryAfter = 5

func refuse(w http.ResponseWriter, status int, text string) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	answer(w, status, struct {
		Error string `json:"error"`
	}{text})
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone is no news
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	status, text := http.StatusOK, "ok"
	if s.draining.Load() {
		status, text = http.StatusServiceUnavailable, "stopping"
	}
	answer(w, status, struct {
		Status string `json:"status"`
	}{text})
}

// serveFree says that the relay charges nothing.
func serveFree(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, struct{}{}) }

// addressPath is where a client learns the address that it is seen at.
const addressPath = "/v1/address"

func serveAddress(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusOK, struct {
		Address netip.Addr `json:"address"`
	}{remote(r).Addr().Unmap()})
}

// A sessionRequest is the body of POST /v1/sessions.
type sessionRequest struct {
	Agent     relay.Address `json:"agent"`
	Direct    bool          `json:"direct"`
	Transport string        `json:"transport"`
	Open      bool          `json:"open"`
}

func parseSessionRequest(r io.Reader) (q sessionRequest, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRequest+1))
	if err != nil {
		return q, err
	}
	if len(b) > maxRequest {
		return q, fmt.Errorf("longer than %d bytes", maxRequest)
	}
	if err := json.Unmarshal(b, &q); err != nil {
		return q, err
	}
	switch {
	case q.Agent == relay.Address{}:
		return q, errors.New("agent is missing")
	case q.Transport != "" && q.Transport != "udp" && q.Transport != "tcp":
		return q, fmt.Errorf("transport %.20q, want udp or tcp", q.Transport)
	case q.Transport == "tcp" && (q.Open || q.Direct):
		return q, errors.New("open and direct are for udp")
	case q.Open && q.Direct:
		return q, errors.New("an open session is not direct: its buyer punches no holes")
	}
	return q, nil
}

func (s *Server) serveSessions(w http.ResponseWriter, r *http.Request) {
	q, err := parseSessionRequest(r.Body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	m := s.members.get(q.Agent)
	switch {
	case s.draining.Load():
		refuse(w, http.StatusServiceUnavailable, "the relay is about to stop")
		return
	case m == nil:
		refuse(w, http.StatusNotFound, "the agent is not connected here")
		return
	}
	n := &session{
		agent: q.Agent, source: tunnel.SourceOf(remote(r).Addr()),
		direct: q.Direct, open: q.Open, tcp: q.Transport == "tcp", created: time.Now(),
	}
	if s.config.Toll != nil {
		if n.account = s.config.Toll.Account(w, r); n.account == nil {
			return
		}
	}
	a, err := s.allot(n, m, remote(r))
	if e, ok := errors.AsType[limitError](err); ok {
		s.counts.refused.Add(1)
		refuse(w, http.StatusServiceUnavailable, string(e))
		return
	}
	if err != nil {
		s.log.Warn("relay session", "agent", q.Agent, "err", err)
		refuse(w, http.StatusServiceUnavailable, "the relay has no room for more sessions")
		return
	}
	answer(w, http.StatusOK, a)
}

// allot makes a session, tells the agent, and returns the buyer's part.
func (s *Server) allot(n *session, m *member, from netip.AddrPort) (relay.Allotment, error) {
	for _, b := range [...][]byte{n.id[:], n.places[agentSide].token[:], n.places[buyerSide].token[:]} {
		if _, err := rand.Read(b); err != nil {
			return relay.Allotment{}, err
		}
	}
	if !n.tcp {
		s.forward.assign(n)
	}
	if err := s.table.add(n); err != nil {
		return relay.Allotment{}, err
	}
	ports := [2]uint16{s.Port(), s.Port()}
	if !n.tcp {
		var err error
		if ports, err = s.forward.open(n); err != nil {
			s.endSession(n, false)
			return relay.Allotment{}, err
		}
	}
	part := func(side int, to netip.Addr) relay.Allotment {
		return relay.Allotment{
			ID: n.id, Token: n.places[side].token, TCP: n.tcp, Expires: uint32(unboundLife / time.Second),
			Address: netip.AddrPortFrom(s.public(to), ports[side]),
		}
	}
	tell := func(m *member) bool {
		agents := part(agentSide, m.from.Addr())
		return m.send(relay.Message{Type: relay.TypeSession, Allotment: &agents})
	}
	told := tell(m)
	if now := s.members.get(n.agent); now != nil && now != m { // it has come by another connection meanwhile
		told = tell(now)
	}
	if !told {
		s.endSession(n, false)
		return relay.Allotment{}, limitError("too many ask for the agent at once")
	}
	s.counts.sessions.Add(1)
	s.log.Debug("relay session", "session", n.id, "agent", n.agent, "tcp", n.tcp)
	return part(buyerSide, from.Addr()), nil
}

// public is the address to tell to somebody: of his family if there is one.
func (s *Server) public(to netip.Addr) netip.Addr {
	for _, a := range s.config.Public {
		if a.Is4() == to.Unmap().Is4() {
			return a
		}
	}
	return s.config.Public[0]
}
