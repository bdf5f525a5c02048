package directory

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay/market"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// maxTollRequest bounds the body of a request: a hello is the largest.
const maxTollRequest = 4 << 10

// A tollRefusal is the body of an answer that is not success.
type tollRefusal struct {
	Error string          `json:"error"`
	Code  string          `json:"code"`
	Price *agent.Price    `json:"price,omitempty"`
	Toll  json.RawMessage `json:"toll,omitempty"`
}

// Account implements server.Toll.
func (t *Toll) Account(w http.ResponseWriter, r *http.Request) *server.Account {
	s := t.find(r)
	if s == nil {
		if credentialOf(r) != "" {
			t.refuse(w, http.StatusUnauthorized, tollRefusal{Error: "no such account: open it again", Code: toll.CodeUnknown})
			return nil
		}
		t.require(w, "this relay is paid for what it passes on: open an account")
		return nil
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.why != "" {
		t.refuseEnded(w, s)
		return nil
	}
	s.used = time.Now()
	return s.meter
}

// ServeHTTP implements server.Toll.
func (t *Toll) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == market.RelayPath {
		answer(w, http.StatusOK, marshal(struct {
			Toll json.RawMessage `json:"toll"`
		}{t.text}))
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTollRequest+1))
	if err != nil || len(body) > maxTollRequest {
		t.refuse(w, http.StatusBadRequest, tollRefusal{Error: "the request is too long, or did not come to its end", Code: agent.NoticeRefused})
		return
	}
	if r.URL.Path == market.AccountPath {
		opened, n := t.open(r.Context(), body)
		if n != nil {
			t.refuseNotice(w, *n)
			return
		}
		answer(w, http.StatusOK, marshal(opened))
		return
	}
	s := t.find(r)
	switch {
	case s == nil:
		t.refuse(w, http.StatusUnauthorized, tollRefusal{Error: "no such account: open it again", Code: toll.CodeUnknown})
	case r.URL.Path == toll.PayPath:
		t.servePay(w, r, s, body)
	case r.URL.Path == toll.ClosePath:
		t.serveClose(w, r, s, body)
	default:
		t.refuse(w, http.StatusNotFound, tollRefusal{Error: "there are " + toll.PayPath + " and " + toll.ClosePath, Code: agent.NoticeRefused})
	}
}

func credentialOf(r *http.Request) string {
	credential, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return credential
}

// find returns the account that a request is about, nil if there is none.
func (t *Toll) find(r *http.Request) *stay {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stays[credentialOf(r)]
}

func (t *Toll) refuse(w http.ResponseWriter, status int, body tollRefusal) {
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2")
	}
	answer(w, status, marshal(body))
}

// require answers 402 in the form of the x402 standard, and with the tariff.
func (t *Toll) require(w http.ResponseWriter, text string) {
	v, err := x402.EncodeHeader(x402.PaymentRequired{Version: x402.Version, Error: text, Accepts: []x402.Requirements{t.tariff.Requirements()}})
	if err != nil {
		t.log.Error("payment required", "err", err)
	} else {
		w.Header().Set(x402.HeaderRequired, v)
	}
	t.refuse(w, http.StatusPaymentRequired, tollRefusal{Error: text, Code: toll.CodePay, Toll: t.text})
}

func (t *Toll) refuseNotice(w http.ResponseWriter, n agent.Notice) {
	status := http.StatusForbidden
	switch n.Code {
	case agent.NoticeDeposit, agent.NoticePrice:
		status = http.StatusPaymentRequired
	case agent.NoticeFacilitator, agent.NoticeBusy:
		status = http.StatusServiceUnavailable
	}
	t.refuse(w, status, tollRefusal{Error: n.Text, Code: n.Code, Price: n.Price, Toll: t.text})
}

// refuseEnded says why an account is no more. The caller holds its turn.
func (t *Toll) refuseEnded(w http.ResponseWriter, s *stay) {
	text := map[string]string{
		toll.CodeUnpaid:      "the account's credit is used up, and nothing was paid for 30 seconds",
		toll.CodeReplaced:    "the channel has another account by now",
		toll.CodeIdle:        "the account was not used for 10 minutes",
		agent.NoticeDraining: "the relay stops",
	}[s.why]
	t.refuse(w, http.StatusGone, tollRefusal{Error: "the account has ended: " + text, Code: s.why})
}

// servePay takes what has arrived and what is paid, and answers with the
// account's reading.
func (t *Toll) servePay(w http.ResponseWriter, r *http.Request, s *stay, body []byte) {
	var p toll.Payment
	if err := x402.Unmarshal(body, &p); err != nil {
		t.refuse(w, http.StatusBadRequest, tollRefusal{Error: err.Error(), Code: agent.NoticeRefused})
		return
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	switch {
	case s.why != "":
		t.refuseEnded(w, s)
		return
	case !s.mayPay(time.Now()):
		t.refuse(w, http.StatusTooManyRequests, tollRefusal{Error: "you pay too often", Code: agent.NoticeBusy})
		return
	}
	reading, err := t.pay(r.Context(), s, p)
	if err != nil {
		t.refuse(w, http.StatusForbidden, tollRefusal{Error: err.Error(), Code: agent.NoticeRefused})
		return
	}
	others := channel.Amount(t.exposed.Load())
	t.look(s, time.Now(), others-min(others, channel.Amount(s.exposed.Load()))) // which is in it
	reading.Credit = s.sum.trust()
	answer(w, http.StatusOK, marshal(reading))
}

// Payments of one account: more than a buyer makes, who waits for each answer.
const (
	paymentsBurst = 200
	paymentsEvery = 20 * time.Millisecond
)

// mayPay takes a token of the account's payments.
func (s *stay) mayPay(now time.Time) bool {
	if s.payments.Before(now) {
		s.payments = now
	}
	next := s.payments.Add(paymentsEvery)
	if next.Sub(now) > paymentsBurst*paymentsEvery {
		return false
	}
	s.payments = next
	return true
}

// serveClose ends an account and has its channel claimed, and refunded if that
// is asked for. It waits for a moment, and is asked again.
func (t *Toll) serveClose(w http.ResponseWriter, r *http.Request, s *stay, body []byte) {
	var c toll.Closing
	if err := x402.Unmarshal(body, &c); err != nil {
		t.refuse(w, http.StatusBadRequest, tollRefusal{Error: err.Error(), Code: agent.NoticeRefused})
		return
	}
	job, err := t.close(r, s, c)
	switch {
	case errors.Is(err, errBusy):
		t.refuse(w, http.StatusServiceUnavailable, tollRefusal{Error: err.Error(), Code: agent.NoticeBusy})
		return
	case err != nil:
		t.refuse(w, http.StatusForbidden, tollRefusal{Error: err.Error(), Code: agent.NoticeRefused})
		return
	case job == nil:
		s.turn.Lock()
		defer s.turn.Unlock()
		t.refuseEnded(w, s)
		return
	}
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-job.done:
		answer(w, http.StatusOK, marshal(toll.Closed{Closed: job.result}))
	case <-timer.C:
		answer(w, http.StatusOK, marshal(toll.Closed{Pending: true}))
	case <-r.Context().Done():
	}
}

// closeWait is how long the answer to a closing is waited for.
const closeWait = 5 * time.Second

// close asks for a closing, or returns the one that was asked for. It is nil for
// an account that ended otherwise.
func (t *Toll) close(r *http.Request, s *stay, c toll.Closing) (*closing, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.closing != nil || s.why != "" {
		return s.closing, nil
	}
	c.Drain = true
	if _, err := t.pay(r.Context(), s, c.Payment); err != nil {
		return nil, err
	}
	job := &closing{refund: c.Refund, done: make(chan struct{})}
	s.closing = job
	select {
	case t.ending <- s:
		t.end(s, codeClosed)
		return job, nil
	default:
		s.closing = nil
		return nil, errBusy
	}
}

// codeClosed is the end of an account that its buyer closed.
const codeClosed = "closed"
