package resource

import (
	"context"
	"net/http"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// ServeHTTP answers one request: with what it costs, or with what it has paid
// for.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	texts := r.Header.Values(x402.HeaderSignature)
	if len(texts) == 0 {
		h.refuse(w, r, &refusal{code: "Payment required"}, "")
		return
	}
	p, err := parsePayment(texts)
	var id string
	if err == nil {
		id, err = identifierOf(p, h.route.NeedID)
	}
	if err != nil {
		h.refuse(w, r, err, x402.ErrInvalidPayload)
		return
	}
	if id == "" {
		h.pay(w, r, p)
		return
	}
	key := answerKey{id: id}
	if a := p.Payload.Payer(); a != nil {
		key.payer = *a
	}
	h.once(w, r, key, texts[0], func(w http.ResponseWriter) { h.pay(w, r, p) })
}

// parsePayment reads the one payment of a request.
func parsePayment(texts []string) (x402.PaymentPayload, error) {
	var p x402.PaymentPayload
	if len(texts) > 1 {
		return p, malformed(x402.ErrInvalidPayload, "more than one "+x402.HeaderSignature)
	}
	if err := x402.DecodeHeader(texts[0], &p); err != nil {
		return p, malformed(x402.ErrInvalidPayload, err.Error())
	}
	batch := p.Payload.Deposit != nil || p.Payload.Voucher != nil || p.Payload.Refund != nil
	switch exact := p.Payload.Exact != nil; {
	case p.Version != x402.Version:
		return p, malformed(x402.ErrInvalidVersion, "x402Version must be 2")
	case !batch && !exact:
		return p, malformed(x402.ErrPayloadType, "want a payment: exact, deposit, voucher or refund")
	case batch && p.Accepted.Scheme != x402.SchemeBatch, exact && p.Accepted.Scheme != x402.SchemeExact:
		return p, malformed(x402.ErrInvalidScheme, "the payload is not one of the accepted scheme")
	}
	return p, nil
}

// pay serves a request whose payment is well-formed.
func (h *handler) pay(w http.ResponseWriter, r *http.Request, p x402.PaymentPayload) {
	req, ok := h.match(p.Accepted)
	if !ok {
		h.refuse(w, r, &refusal{code: x402.ErrRequirements, message: "what was accepted is not, or no more, on offer"}, "")
		return
	}
	if p.Payload.Exact != nil {
		h.payExact(w, r, p, req)
		return
	}
	h.onChannel(w, r, billOf(p, req))
}

// match finds our own form of what a client accepted. What counts is what it
// pays, and whom; the rest of ours is used.
func (h *handler) match(a x402.Requirements) (x402.Requirements, bool) {
	for _, r := range h.accepts {
		if r.Scheme == a.Scheme && r.Network == a.Network && r.Amount == a.Amount && r.Asset == a.Asset && r.PayTo == a.PayTo {
			return r, true
		}
	}
	return x402.Requirements{}, false
}

// exactKey names an exact payment.
type exactKey struct {
	from  channel.Address
	nonce channel.Hash
}

// payExact serves a request that is paid by one transfer. The transfer is made
// when the handler has succeeded. The facilitator refuses one that was made
// before; two requests with the same are told apart here.
func (h *handler) payExact(w http.ResponseWriter, r *http.Request, p x402.PaymentPayload, req x402.Requirements) {
	a := p.Payload.Exact.Authorization
	key := exactKey{a.From, a.Nonce}
	if !h.take(key) {
		h.refuse(w, r, &refusal{code: x402.ErrExactNonceUsed, message: "this payment is being made for another request"}, "")
		return
	}
	defer h.release(key)
	var err error
	switch {
	case a.To != req.PayTo:
		err = &refusal{code: x402.ErrExactRecipient, message: "authorization pays " + a.To.String() + ", required is " + req.PayTo.String()}
	case a.Value != req.Amount:
		err = &refusal{code: x402.ErrExactValue, message: "authorization is of " + a.Value.String() + ", required is " + req.Amount.String()}
	default:
		_, err = h.cfg.Facilitator.Verify(r.Context(), p, req)
	}
	if err != nil {
		h.refuse(w, r, err, x402.ErrUnexpectedVerify)
		return
	}
	h.serve(w, r, &answer{price: req.Amount, fixed: true, book: func(charge channel.Amount) (*x402.SettlementResponse, error) {
		if charge == 0 {
			return nil, nil
		}
		return h.transfer(r.Context(), p, req)
	}})
}

// transfer executes an exact payment, whether or not the client is still there:
// its outcome has to be known.
func (h *handler) transfer(ctx context.Context, p x402.PaymentPayload, req x402.Requirements) (*x402.SettlementResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	out, err := h.cfg.Facilitator.Settle(ctx, p, req)
	if err != nil {
		e := failure(err, x402.ErrUnexpectedSettle)
		e.settled, e.payer = e.status == 0, &p.Payload.Exact.Authorization.From
		return nil, e
	}
	out.Extensions = nil
	return &out, nil
}

// serve runs the handler with a paid request.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, a *answer) {
	a.w, a.header = w, w.Header().Clone()
	if a.header == nil {
		a.header = http.Header{}
	}
	a.fail = func(err error) { h.refuse(w, r, err, x402.ErrUnexpectedSettle) }
	a.charge = a.price
	h.next.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), answerContext{}, a)))
	a.WriteHeader(http.StatusOK) // unless it was
}
