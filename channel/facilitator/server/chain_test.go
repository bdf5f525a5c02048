package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// A chain is a ledger in memory that answers as one on a chain does.
type chain struct {
	*ledger.Memory
	health, submit error
	withdrawn      []x402.Withdraw
	time           uint64
}

func (c *chain) Submit(ctx context.Context, tx ledger.Tx) (ledger.Receipt, error) {
	if c.submit != nil {
		return ledger.Receipt{}, c.submit
	}
	return c.Memory.Submit(ctx, tx)
}

func (c *chain) Read(ctx context.Context, t ledger.Touch) (ledger.State, error) {
	s, err := c.Memory.Read(ctx, t)
	s.Time = c.time
	for id, ch := range s.Channels {
		ch.Config = channel.Config{} // nobody has told it
		s.Channels[id] = ch
	}
	return s, err
}

func (c *chain) Health() error                      { return c.health }
func (c *chain) Flush(context.Context) (int, error) { return 3, c.health }

func (c *chain) Withdraw(_ context.Context, _ channel.Config, w x402.Withdraw) (ledger.Receipt, error) {
	if len(w.Transaction) == 0 {
		return ledger.Receipt{}, &ledger.RefusedError{Code: x402.ErrWithdrawTransaction, Message: "send it yourself"}
	}
	c.withdrawn = append(c.withdrawn, w)
	return ledger.Receipt{Hash: channel.Hash{1}, Amount: 70}, c.submit
}

// onChain returns a facilitator on a chain where a party has a channel.
func onChain(t *testing.T) (*chain, *Server, *facilitator.Client, *ledgertest.Party) {
	t.Helper()
	l := &chain{Memory: ledger.NewMemory(testParams()), time: 1_000}
	s, err := New(Config{Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	p := ledgertest.NewParty(t, s.params, 1)
	for _, op := range []ledger.Op{p.Issue(1000), p.DepositOp(t, 500)} {
		if _, err := l.Submit(t.Context(), ledger.Tx{Time: 1, Op: op}); err != nil {
			t.Fatal(err)
		}
	}
	return l, s, client(t, s), p
}

// TestChainWithdraw: the payer's own transaction is passed on.
func TestChainWithdraw(t *testing.T) {
	l, s, c, p := onChain(t)
	m := p.Withdraw(x402.WithdrawInitiate, 100, 0)
	_, err := c.Withdraw(t.Context(), m)
	wantCode(t, err, x402.ErrWithdrawTransaction)
	m.Transaction = []byte{2, 1, 2, 3}
	r, err := c.Withdraw(t.Context(), m)
	if err != nil || r.Transaction != (channel.Hash{1}).String() || len(l.withdrawn) != 1 || string(l.withdrawn[0].Transaction) != "\x02\x01\x02\x03" {
		t.Errorf("%+v, %v, passed on %+v", r, err, l.withdrawn)
	}
	m.Step = x402.WithdrawFinalize
	if r, err = c.Withdraw(t.Context(), m); err != nil || r.Amount == nil || *r.Amount != 70 {
		t.Errorf("%+v, %v", r, err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/v1/withdraw", strings.NewReader(`{"network":"`+s.params.Network()+`","transaction":"0xabc"}`)))
	if w.Code != http.StatusBadRequest {
		t.Errorf("odd digits: status %d", w.Code)
	}
}

// TestChainState: what a chain does not know is not told, and its clock is.
func TestChainState(t *testing.T) {
	_, s, c, p := onChain(t)
	info, err := c.Channel(t.Context(), s.params.Network(), p.ID)
	if err != nil || !info.Exists || info.Config != nil || info.Balance != 500 || info.Time != 1_000 {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = c.Totals(t.Context(), s.params.Network())
	wantCode(t, err, x402.ErrNotOnChain)
	// A deposit that begins after the chain's time is not valid yet, whatever this
	// computer's clock says.
	d := p.Deposit(10, 0)
	d.Deposit.Authorization.ERC3009.ValidAfter = 1_000
	_, err = c.Verify(t.Context(), payload(d, s), payload(d, s).Accepted)
	wantCode(t, err, x402.ErrValidAfter)
}

func payload(d x402.Deposit, s *Server) x402.PaymentPayload {
	r := x402.BatchRequirements(s.params.Network(), s.params.Asset(), d.Config)
	return x402.PaymentPayload{Version: x402.Version, Accepted: r, Payload: x402.Payload{Deposit: &d}}
}

// TestChainLater: what is not decided is no refusal and no fault of the ledger.
func TestChainLater(t *testing.T) {
	l, s, c, p := onChain(t)
	l.submit = errors.Join(ledger.ErrLater, errors.New("gas is dear"))
	_, err := c.SettleReceiver(t.Context(), s.params.Network(), p.Config.Receiver, p.Config.Token)
	if !errors.Is(err, facilitator.ErrUnavailable) || !strings.Contains(err.Error(), "gas is dear") {
		t.Errorf("got %v", err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != http.StatusOK {
		t.Errorf("health: %d %s", w.Code, w.Body)
	}
	l.health = errors.New("the node is down")
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the node is down") {
		t.Errorf("health: %d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if strings.Contains(w.Body.String(), "x402_ledger_units{") || !strings.Contains(w.Body.String(), "x402_ledger_height{") {
		t.Error("the metrics have sums that nobody knows, or no height")
	}
}

// TestPending: a claim that is kept is told by a code of its own.
func TestPending(t *testing.T) {
	l, s, c, p := onChain(t)
	l.submit = &ledger.RefusedError{Code: x402.ErrPending, Message: "kept"}
	_, err := c.Claim(t.Context(), s.params.Network(), p.Claim(10, 10))
	if !facilitator.Pending(err) {
		t.Errorf("got %v", err)
	}
	if facilitator.Pending(nil) || facilitator.Pending(&facilitator.RefusedError{Code: x402.ErrClaimFailed}) {
		t.Error("another answer is taken for pending")
	}
}

func TestFlush(t *testing.T) {
	l, s, _, _ := onChain(t)
	ask := func(s *Server) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.admin().ServeHTTP(w, httptest.NewRequest("POST", "/flush", nil))
		return w
	}
	if w := ask(s); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"waiting":3`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	l.health = errors.New("no")
	if w := ask(s); w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	own, _, _ := setup(t)
	if w := ask(own); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
