package spend

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/depinsim/x402/channel/x402"
)

// identifierName is the extension by which a payment has a name.
const identifierName = "payment-identifier"

const (
	// busyWait is how long a channel that pays for another request is waited for.
	busyWait = 200 * time.Millisecond
	// maxValid bounds how long a signed transfer can be used.
	maxValid = 3600 // seconds
	// firstAgain is how long after an answer that says nothing of a payment it is
	// sent again, twice as long after the next, and lastAgain the longest.
	firstAgain = 500 * time.Millisecond
	lastAgain  = 2 * time.Second
	// drainLimit is how much of a 402's body is read so that its connection can
	// be used again.
	drainLimit = 64 << 10
)

// RoundTrip sends a request, and once more with a payment if it is asked for
// one. A request with a body needs GetBody, which http.NewRequest sets. An
// answer 402 means that the server did not take the payment.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.cfg.Base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusPaymentRequired || req.Header.Get(x402.HeaderSignature) != "" {
		return resp, err
	}
	text := resp.Header.Get(x402.HeaderRequired)
	if text == "" {
		return resp, nil
	}
	drain(resp)
	required, err := x402.DecodeRequired(text)
	if err != nil {
		return nil, fmt.Errorf("what %s asks for: %w", req.URL.Host, err)
	}
	if required.Version != x402.Version {
		return nil, fmt.Errorf("%s asks by x402 version %d, known is %d", req.URL.Host, required.Version, x402.Version)
	}
	c, err := t.choose(required)
	if err != nil {
		return nil, err
	}
	if hasBody(req) && req.GetBody == nil {
		return nil, errors.New("the request's body cannot be sent again with a payment: set GetBody")
	}
	if c.Scheme == x402.SchemeExact {
		return t.payExact(req, required, c)
	}
	return t.payChannel(req, required, c)
}

func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, drainLimit) // what is left costs the connection only
	resp.Body.Close()
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// send sends a request again, with a payment.
func (t *Transport) send(req *http.Request, required x402.PaymentRequired, c choice, p x402.Payload) (*http.Response, error) {
	text, _, err := paymentText(required, c, p)
	if err != nil {
		return nil, err
	}
	return t.sendText(req, text)
}

// paymentText is a payment as it is sent, and whether it has a name, by which the
// server knows it again.
func paymentText(required x402.PaymentRequired, c choice, p x402.Payload) (text string, isNamed bool, err error) {
	payment := x402.PaymentPayload{Version: x402.Version, Resource: required.Resource, Accepted: c.Requirements, Payload: p}
	payment.Extensions, isNamed = named(required.Extensions)
	text, err = x402.EncodeHeader(payment)
	if err != nil { // too long: what is only repeated is left out
		payment.Resource, payment.Extensions, isNamed = nil, nil, false
		text, err = x402.EncodeHeader(payment)
	}
	return text, isNamed, err
}

func (t *Transport) sendText(req *http.Request, text string) (*http.Response, error) {
	again := req.Clone(req.Context())
	if hasBody(req) {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		again.Body = body
	}
	again.Header.Set(x402.HeaderSignature, text)
	return t.cfg.Base.RoundTrip(again)
}

// sendAgain sends a request with a payment that has a name, and again, to the byte,
// while the server does not say what came of it.
func (t *Transport) sendAgain(req *http.Request, text string) (resp *http.Response, err error) {
	for wait := firstAgain; ; wait *= 2 {
		resp, err = t.sendText(req, text)
		if err == nil && resp.StatusCode < 500 || wait > lastAgain || req.Context().Err() != nil {
			return resp, err
		}
		select {
		case <-time.After(wait):
		case <-req.Context().Done():
			return resp, err
		}
		if err == nil {
			drain(resp)
		}
	}
}

// named echoes a server's extensions, as the standard wants it, with a name for
// the payment if the server knows what to do with one.
func named(asked map[string]json.RawMessage) (told map[string]json.RawMessage, isNamed bool) {
	var e struct {
		Info   map[string]json.RawMessage `json:"info"`
		Schema json.RawMessage            `json:"schema,omitempty"`
	}
	text, ok := asked[identifierName]
	if !ok || json.Unmarshal(text, &e) != nil {
		return asked, false
	}
	if e.Info == nil {
		e.Info = map[string]json.RawMessage{}
	}
	e.Info["id"] = json.RawMessage(`"pay_` + rand.Text() + `"`)
	b, err := json.Marshal(e)
	if err != nil {
		return asked, false
	}
	out := maps.Clone(asked)
	out[identifierName] = b
	return out, true
}

// payExact pays by one transfer. What was signed counts as spent whatever the
// answer: it can be used until it expires.
func (t *Transport) payExact(req *http.Request, required x402.PaymentRequired, c choice) (*http.Response, error) {
	t.mu.Lock()
	spent := t.spent()
	if spent > t.cfg.Budget || c.Amount > t.cfg.Budget-spent {
		t.mu.Unlock()
		return nil, fmt.Errorf("%w: %s of %s USD are spent", ErrBudget, spent.USD(), t.cfg.Budget.USD())
	}
	t.exact += c.Amount
	t.mu.Unlock()

	valid := time.Duration(min(max(c.MaxTimeoutSeconds, 1), maxValid)) * time.Second
	a := x402.Authorization{
		From: t.cfg.Key.Address(), To: c.PayTo, Value: c.Amount,
		ValidBefore: x402.Decimal(time.Now().Add(valid).Unix()),
	}
	rand.Read(a.Nonce[:]) // never fails (Go 1.24)
	payment := x402.Exact{Signature: t.cfg.Key.Sign(c.asset.Token.TransferDigest(a.Standard())), Authorization: a}
	text, isNamed, err := paymentText(required, c, x402.Payload{Exact: &payment})
	if err != nil {
		return nil, err
	}
	send := t.sendText
	if isNamed {
		send = t.sendAgain
	}
	resp, err := send(req, text)
	if err != nil {
		return nil, err
	}
	if s, ok := settlementOf(resp); ok && s.Success {
		t.paid(Payment{URL: req.URL.String(), Scheme: c.Scheme, Network: c.Network, Charged: c.Amount, Transaction: clip(s.Transaction)})
	}
	return resp, nil
}

// settlementOf reads PAYMENT-RESPONSE.
func settlementOf(resp *http.Response) (s x402.SettlementResponse, ok bool) {
	text := resp.Header.Get(x402.HeaderResponse)
	if text == "" || x402.DecodeHeader(text, &s) != nil {
		return s, false
	}
	return s, true
}

func (t *Transport) paid(p Payment) {
	if t.cfg.OnPayment != nil {
		t.cfg.OnPayment(p)
	}
}

// clip bounds what is repeated of a transaction's name.
func clip(s string) string { return printable(s[:min(len(s), 80)]) }

// payChannel pays from a channel: once, and once more when the server corrected
// our count, or its channel was busy.
func (t *Transport) payChannel(req *http.Request, required x402.PaymentRequired, c choice) (*http.Response, error) {
	l, err := t.enter(req.Context(), c)
	if err != nil {
		return nil, err
	}
	defer l.leave()
	l.method, l.url = req.Method, req.URL.String()
	for again := true; ; again = false {
		resp, err := t.attempt(req, required, c, l)
		if err != nil || resp.StatusCode != http.StatusPaymentRequired {
			return resp, err
		}
		retry, err := false, t.unpaid(req.Context(), l)
		if err == nil && again {
			retry, err = t.refused(req.Context(), resp, c, l)
		}
		if err == nil && !retry {
			return resp, nil
		}
		drain(resp)
		if err != nil {
			return nil, err
		}
	}
}

// attempt pays for a request once. The record says what was signed before it is
// sent, and what was charged after the answer.
func (t *Transport) attempt(req *http.Request, required x402.PaymentRequired, c choice, l *lane) (*http.Response, error) {
	state, r, err := t.read(req.Context(), l)
	if err != nil {
		return nil, err
	}
	top, err := r.charged.Add(c.Amount)
	if err != nil {
		return nil, err
	}
	if top > state.Balance && (r.draft == (draft{}) || top-state.Balance > r.draft.amount) {
		amount, err := t.size(c, state, top)
		if err == nil {
			err = t.lock(l, amount)
		}
		if err != nil {
			return nil, err
		}
		r.draft = newDraft(amount)
	}
	if err := t.reserve(l, top); err != nil {
		return nil, err
	}
	l.wasOpen = r.open
	v, err := t.sign(l, state, &r, top)
	if err != nil {
		return nil, err
	}
	payload := x402.Payload{Voucher: &x402.VoucherPayment{Config: l.config, Voucher: v}}
	if l.drafted = r.draft != (draft{}); l.drafted {
		d := t.deposit(l, state, r.draft, v)
		payload = x402.Payload{Deposit: &d}
	}
	resp, err := t.send(req, required, c, payload)
	if err != nil {
		return nil, err // what came of it the next request finds out
	}
	if s, ok := settlementOf(resp); ok && s.Success {
		t.settled(req, l, c, r, s)
	}
	return resp, nil
}
