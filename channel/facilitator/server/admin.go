package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/operator"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

const adminSocket = "admin.sock"

// ErrNotRunning is returned by an Operator when no facilitator answers in its
// directory.
var ErrNotRunning = errors.New("no facilitator is running here")

// An Order is what the operator tells a running facilitator: to create credit
// for money received, or to take it out for money paid.
type Order struct {
	Ref     channel.Hash    `json:"ref"` // random; the same order again has the same
	Address channel.Address `json:"address"`
	Amount  channel.Amount  `json:"amount"`
	Memo    string          `json:"memo"`
}

// An OrderReceipt says what became of an Order.
type OrderReceipt struct {
	Transaction channel.Hash   `json:"transaction"`
	Height      uint64         `json:"height"`
	Balance     channel.Amount `json:"balance"` // of the account, after it
}

// ListenAdmin opens the operator's socket in dir, mode 0600. The caller holds
// the ledger in dir, so a socket that is already there is a dead one's.
func ListenAdmin(dir string) (net.Listener, error) {
	l, err := operator.Listen(filepath.Join(dir, adminSocket))
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

// admin is the handler of the operator's socket. Whoever can open the socket
// is the operator.
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /issue", func(w http.ResponseWriter, r *http.Request) {
		s.order(w, r, func(o Order) ledger.Op {
			return ledger.Issue{Ref: o.Ref, To: o.Address, Amount: o.Amount, Memo: o.Memo}
		})
	})
	mux.HandleFunc("POST /redeem", func(w http.ResponseWriter, r *http.Request) {
		s.order(w, r, func(o Order) ledger.Op {
			return ledger.Redeem{Ref: o.Ref, From: o.Address, Amount: o.Amount, Memo: o.Memo}
		})
	})
	mux.HandleFunc("POST /flush", s.flush)
	mux.HandleFunc("GET /audit", s.audit)
	return mux
}

// Flushed says how many claims and settlements waited.
type Flushed struct {
	Waiting int `json:"waiting"`
}

func (s *Server) flush(w http.ResponseWriter, r *http.Request) {
	if s.chain == nil {
		writeError(w, http.StatusNotFound, x402.ErrNotFound, "nothing ever waits here: claims on this ledger are free")
		return
	}
	n, err := s.chain.Flush(r.Context())
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, x402.ErrUnavailable, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, Flushed{n})
}

func (s *Server) order(w http.ResponseWriter, r *http.Request, op func(Order) ledger.Op) {
	var o Order
	r.Body = http.MaxBytesReader(w, r.Body, x402.MaxBody)
	ok := decode(r, &o, func(status int, code, message string) { writeError(w, status, code, message) })
	if !ok {
		return
	}
	receipt, err := s.submit(r.Context(), op(o))
	var st ledger.State
	if err == nil {
		st, err = s.ledger.Read(r.Context(), ledger.Touch{Accounts: []channel.Address{o.Address}})
	}
	if refused, ok := errors.AsType[*ledger.RefusedError](err); ok {
		writeError(w, http.StatusUnprocessableEntity, refused.Code, refused.Message)
		return
	}
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, x402.ErrUnavailable, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, OrderReceipt{Transaction: receipt.Hash, Height: receipt.Height, Balance: st.Accounts[o.Address]})
}

func (s *Server) audit(w http.ResponseWriter, r *http.Request) {
	report, err := s.ledger.Audit(r.Context())
	if err != nil {
		writeError(w, http.StatusUnprocessableEntity, "audit_failed", err.Error())
		return
	}
	writeJSON(w, http.StatusOK, report)
}

// An Operator talks to the facilitator that runs in a directory.
type Operator struct {
	dir    string
	client *operator.Client
}

// NewOperator returns the operator of the facilitator in dir. Each call opens
// its own connection.
func NewOperator(dir string) *Operator {
	return &Operator{dir, operator.NewClient(filepath.Join(dir, adminSocket))}
}

// Issue creates credit.
func (o *Operator) Issue(ctx context.Context, order Order) (r OrderReceipt, err error) {
	err = o.call(ctx, "POST", "/issue", order, &r)
	return r, err
}

// Redeem takes credit out.
func (o *Operator) Redeem(ctx context.Context, order Order) (r OrderReceipt, err error) {
	err = o.call(ctx, "POST", "/redeem", order, &r)
	return r, err
}

// Audit recomputes the ledger from its journal.
func (o *Operator) Audit(ctx context.Context) (r ledger.Report, err error) {
	err = o.call(ctx, "GET", "/audit", nil, &r)
	return r, err
}

// Flush has the facilitator send what waits to be worth its gas.
func (o *Operator) Flush(ctx context.Context) (f Flushed, err error) {
	err = o.call(ctx, "POST", "/flush", nil, &f)
	return f, err
}

func (o *Operator) call(ctx context.Context, method, path string, in, out any) error {
	status, data, err := o.client.Call(ctx, method, path, in, x402.MaxBody)
	switch {
	case errors.Is(err, operator.ErrAbsent):
		return fmt.Errorf("%s: %w", o.dir, ErrNotRunning)
	case err != nil:
		return fmt.Errorf("facilitator in %s: %w", o.dir, err)
	case status != http.StatusOK:
		var e x402.NetworkError
		if err := x402.Unmarshal(data, &e); err == nil && e.Message != "" {
			return errors.New(e.Message)
		}
		return fmt.Errorf("facilitator in %s: status %d", o.dir, status)
	}
	return x402.Unmarshal(data, out)
}
