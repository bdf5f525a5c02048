// Package server is an x402 facilitator over one ledger: the standard's
// POST /verify, POST /settle and GET /supported for the schemes exact and
// batch-settlement, and a few calls of our own:
//
//	GET  /v1/channels/{network}/{id}       x402.ChannelInfo
//	GET  /v1/accounts/{network}/{address}  x402.AccountInfo
//	GET  /v1/totals/{network}              x402.Totals
//	POST /v1/withdraw                      x402.Withdraw, signed by the payer
//	POST /v1/faucet                        x402.FaucetRequest, in development only
//	POST /rpc                              two views of a contract, for stock clients
//	GET  /healthz  GET /metrics
//
// A [Server] is an http.Handler and starts nothing by itself, so that tests may
// mount it anywhere; [Server.Run] serves it with timeouts.
//
// Whatever was applied once is not applied again: a request repeated after a
// lost answer gets the first one's transaction. A refusal is an answer of
// status 200 with success false, or isValid false; a malformed request 400; a
// store that failed 503, and then the same request is to be sent again.
package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

const (
	// maxInFlight bounds the requests worked on at a time; further ones are told
	// to come back.
	maxInFlight = 128

	// faultTime is how long a failure to write makes the server unhealthy. Not
	// for ever: who asks only healthy servers would never let it succeed again.
	faultTime = time.Minute
)

// A Ledger is the home of the ledger that a Server settles on.
type Ledger interface {
	Params() ledger.Params
	Submit(context.Context, ledger.Tx) (ledger.Receipt, error)
	Read(context.Context, ledger.Touch) (ledger.State, error)
	Audit(context.Context) (ledger.Report, error)
}

// A Chain is what a Ledger is besides whose money is a chain's of others.
type Chain interface {
	// Health says why the chain cannot be used at present, or nil.
	Health() error
	// Withdraw passes on the payer's own transaction for a step of a withdrawal
	// from the channel of the configuration, which is zero if it is not known.
	Withdraw(context.Context, channel.Config, x402.Withdraw) (ledger.Receipt, error)
	// Flush has what waits to be worth its gas sent now, and says how much waits.
	Flush(context.Context) (int, error)
}

// Config configures a Server.
type Config struct {
	Ledger Ledger          // may be a Chain too
	Signer channel.Address // announced as the one who submits transactions; zero: nobody
	Dev    bool            // have a faucet, which gives credit to anyone
	Logger *slog.Logger    // nil: log nothing
}

// A Server is a facilitator. It is safe for concurrent use. Transactions, and
// so those of one channel, run one after the other.
type Server struct {
	ledger  Ledger
	chain   Chain // nil: the ledger is the operator's own
	params  ledger.Params
	signer  channel.Address
	dev     bool
	log     *slog.Logger
	mux     *http.ServeMux
	metrics *metrics
	slots   chan struct{} // one in it per request in work; never closed
	fault   atomic.Pointer[fault]
}

// A fault is the last failure to write the ledger since a success.
type fault struct {
	err  error
	when time.Time
}

// New returns a facilitator on cfg.Ledger, which stays the caller's to close
// after the last request.
func New(cfg Config) (*Server, error) {
	if cfg.Ledger == nil {
		return nil, errors.New("facilitator: Config.Ledger is nil")
	}
	s := &Server{
		ledger: cfg.Ledger, params: cfg.Ledger.Params(), signer: cfg.Signer, dev: cfg.Dev,
		log: cfg.Logger, mux: http.NewServeMux(), slots: make(chan struct{}, maxInFlight),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.chain, _ = cfg.Ledger.(Chain)
	s.metrics = newMetrics(s.ledger, s.chain == nil)
	s.routes()
	return s, nil
}

func (s *Server) routes() {
	s.mux.HandleFunc("POST /verify", s.verify)
	s.mux.HandleFunc("POST /settle", s.settle)
	s.mux.HandleFunc("GET /supported", s.supported)
	s.mux.HandleFunc("GET /v1/channels/{network}/{id}", s.channel)
	s.mux.HandleFunc("GET /v1/accounts/{network}/{address}", s.account)
	s.mux.HandleFunc("GET /v1/totals/{network}", s.totals)
	s.mux.HandleFunc("POST /v1/withdraw", s.withdraw)
	s.mux.HandleFunc("POST /v1/faucet", s.faucet)
	s.mux.HandleFunc("POST /rpc", s.rpc)
	s.mux.HandleFunc("GET /healthz", s.health)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The body first: a client who is slow to send it takes nobody's turn.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, x402.MaxBody))
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), ended{err}))
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusServiceUnavailable, x402.ErrBusy, "too many requests at once")
		return
	}
	start := time.Now()
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	s.mux.ServeHTTP(rec, r)
	s.metrics.observe(r.Pattern, rec.status, time.Since(start))
}

// ended is the end of a body: the error that reading it met, if any.
type ended struct{ err error }

func (e ended) Read([]byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	return 0, io.EOF
}

// recorder remembers the status for the metrics.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (s *Server) supported(w http.ResponseWriter, _ *http.Request) {
	domain := s.params.Domain()
	collector := s.params.DepositCollector()
	extra := &x402.KindExtra{
		Asset: &s.params.Token, Name: s.params.Name, Version: s.params.Version,
		Contract: &domain.Contract, Collector: &collector, FeeDivisor: s.params.FeeDivisor,
	}
	out := x402.Supported{Extensions: []string{}, Signers: map[string][]channel.Address{}}
	for _, scheme := range [...]string{x402.SchemeBatch, x402.SchemeExact} {
		out.Kinds = append(out.Kinds, x402.Kind{Version: x402.Version, Scheme: scheme, Network: s.params.Network(), Extra: extra})
	}
	if !s.signer.IsZero() {
		out.Signers["eip155:*"] = []channel.Address{s.signer}
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Server) channel(w http.ResponseWriter, r *http.Request) {
	id, err := channel.ParseID(r.PathValue("id"))
	if err != nil {
		writeError(w, http.StatusBadRequest, x402.ErrInvalidPayload, err.Error())
		return
	}
	st, ok := s.read(w, r, ledger.Touch{Channels: []channel.ID{id}})
	if !ok {
		return
	}
	c, exists := st.Channels[id]
	info := x402.ChannelInfo{
		ChannelState: c.Message(id), Exists: exists, WithdrawAmt: c.WithdrawAmount,
		FinalizeAfter: c.FinalizeAfter(), WithdrawNonce: x402.Decimal(c.WithdrawNonce), Time: timeOf(st),
	}
	if exists && !c.Config.Payer.IsZero() { // a chain knows the hash only
		info.Config = &c.Config
	}
	writeJSON(w, http.StatusOK, info)
}

func (s *Server) account(w http.ResponseWriter, r *http.Request) {
	a, err := channel.ParseAddress(r.PathValue("address"))
	if err != nil {
		writeError(w, http.StatusBadRequest, x402.ErrAddress, err.Error())
		return
	}
	st, ok := s.read(w, r, ledger.Touch{Accounts: []channel.Address{a}, Receivers: []channel.Address{a}})
	if !ok {
		return
	}
	rec := st.Receivers[a]
	writeJSON(w, http.StatusOK, x402.AccountInfo{
		Address: a, Balance: st.Accounts[a], Claimed: rec.Claimed, Settled: rec.Settled,
		Unsettled: rec.Claimed - rec.Settled, Fee: s.params.Fee(rec.Settled),
	})
}

func (s *Server) totals(w http.ResponseWriter, r *http.Request) {
	if s.chain != nil {
		writeError(w, http.StatusNotFound, x402.ErrNotOnChain, "nobody counts all that is on "+s.params.Network())
		return
	}
	st, ok := s.read(w, r, ledger.Touch{})
	if !ok {
		return
	}
	writeJSON(w, http.StatusOK, totalsMessage(st.Totals))
}

func totalsMessage(t ledger.Totals) x402.Totals {
	return x402.Totals{
		Height: t.Height, Issued: t.Issued, Redeemed: t.Redeemed,
		Accounts: t.Accounts, Escrow: t.Escrow, Unsettled: t.Unsettled, Fees: t.Fees,
	}
}

// read loads records of the network in the path, or answers why it cannot.
func (s *Server) read(w http.ResponseWriter, r *http.Request, t ledger.Touch) (ledger.State, bool) {
	if n := r.PathValue("network"); n != s.params.Network() {
		writeError(w, http.StatusNotFound, x402.ErrInvalidNetwork, "this facilitator serves "+s.params.Network())
		return ledger.State{}, false
	}
	st, err := s.ledger.Read(r.Context(), t)
	if err != nil {
		s.log.Error("ledger read", "err", err)
		writeError(w, http.StatusServiceUnavailable, x402.ErrUnavailable, "the ledger cannot be read")
		return ledger.State{}, false
	}
	return st, true
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	type health struct {
		Status  string `json:"status"`
		Network string `json:"network"`
		Height  uint64 `json:"height"`
		Dev     bool   `json:"dev"`
		Message string `json:"message,omitempty"`
	}
	h := health{Status: "ok", Network: s.params.Network(), Dev: s.dev}
	st, err := s.ledger.Read(r.Context(), ledger.Touch{})
	if err == nil {
		h.Height = st.Totals.Height
		err = st.Totals.Check()
	}
	if err == nil && s.chain != nil {
		err = s.chain.Health()
	}
	if f := s.fault.Load(); err == nil && f != nil && time.Since(f.when) < faultTime {
		err = f.err
	}
	if err != nil {
		h.Status, h.Message = "failing", err.Error()
		writeJSON(w, http.StatusServiceUnavailable, h)
		return
	}
	writeJSON(w, http.StatusOK, h)
}

// submit runs op at the present time.
func (s *Server) submit(ctx context.Context, op ledger.Op) (ledger.Receipt, error) {
	r, err := s.ledger.Submit(ctx, ledger.Tx{Time: now(), Op: op})
	return s.booked(ctx, r, err)
}

// booked keeps the books of an outcome.
func (s *Server) booked(ctx context.Context, r ledger.Receipt, err error) (ledger.Receipt, error) {
	refused, ok := errors.AsType[*ledger.RefusedError](err)
	switch {
	case err == nil:
		s.fault.Store(nil)
		s.metrics.applied.WithLabelValues(r.Kind.String()).Inc()
		s.log.Info("transaction", "kind", r.Kind.String(), "amount", r.Amount, "fee", r.Fee, "height", r.Height, "hash", r.Hash.String())
	case ok:
		s.metrics.refused.WithLabelValues(refused.Code).Inc()
		s.log.Debug("transaction refused", "code", refused.Code, "err", err)
	case errors.Is(err, ledger.ErrLater):
		s.log.Debug("transaction not decided yet", "err", err)
	case ctx.Err() == nil: // not merely a client who left
		s.fault.Store(&fault{err, time.Now()})
		s.metrics.failed.Inc()
		s.log.Error("ledger write", "err", err)
	}
	return r, err
}

// now is the clock of a ledger that has none: Unix seconds, at least 1.
func now() uint64 { return uint64(max(time.Now().Unix(), 1)) }

// timeOf is the ledger's clock at st.
func timeOf(st ledger.State) uint64 {
	if st.Time != 0 {
		return st.Time
	}
	return now()
}

// decode reads the body of a request, or answers why it cannot; fail shapes
// that answer.
func decode(r *http.Request, v any, fail func(status int, code, message string)) bool {
	data, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		fail(http.StatusRequestEntityTooLarge, x402.ErrInvalidPayload, "request is larger than 256 KiB")
		return false
	}
	if err == nil {
		err = x402.Unmarshal(data, v)
	}
	if err != nil {
		fail(http.StatusBadRequest, x402.ErrInvalidPayload, err.Error())
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("server: " + err.Error()) // our own types always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // a client that left is no concern
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, x402.NetworkError{Code: code, Message: message})
}
