package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// An answer is the ResponseWriter of a handler that is paid. It books the
// payment when the head of the answer is due; if that fails, the handler's
// answer is lost and its writes return the error. One goroutine uses it.
type answer struct {
	w      http.ResponseWriter
	header http.Header // until the answer is begun
	price  channel.Amount
	fixed  bool // it costs the price or nothing
	// book stores what is charged, and returns what PAYMENT-RESPONSE says; nil:
	// nothing was paid.
	book func(charge channel.Amount) (*x402.SettlementResponse, error)
	fail func(error) // answers in the handler's place

	charge  channel.Amount
	started bool
	err     error
}

type answerContext struct{}

// Charge says what a request costs, instead of its route's price: less than
// that, down to nothing. With the scheme exact it is the price or nothing. It is
// called by the handler with the request's context, before the answer is begun;
// the last call counts.
func Charge(ctx context.Context, amount channel.Amount) error {
	a, ok := ctx.Value(answerContext{}).(*answer)
	switch {
	case !ok:
		return errors.New("resource: charge: the request is not one that is paid for")
	case a.started:
		return errors.New("resource: charge: the answer has begun")
	case amount > a.price:
		return fmt.Errorf("resource: charge of %s: the payer allowed %s", amount, a.price)
	case a.fixed && amount != a.price && amount != 0:
		return fmt.Errorf("resource: charge of %s: the scheme exact pays %s or nothing", amount, a.price)
	}
	a.charge = amount
	return nil
}

// Header returns the header of the answer.
func (a *answer) Header() http.Header {
	if a.started {
		return a.w.Header()
	}
	return a.header
}

// WriteHeader books the payment and begins the answer. Nothing leaves before
// that, not even an interim answer.
func (a *answer) WriteHeader(status int) {
	if a.started || status < 200 {
		return
	}
	a.started = true
	if status >= 400 {
		a.charge = 0
	}
	paid, err := a.book(a.charge)
	if err != nil {
		a.err = err
		a.fail(err)
		return
	}
	h := a.w.Header()
	clear(h)
	maps.Copy(h, a.header)
	if paid != nil {
		setHeader(h, x402.HeaderResponse, paid)
	}
	if h.Get("Cache-Control") == "" { // what was paid for is nobody else's
		h.Set("Cache-Control", "private")
	}
	a.w.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.err != nil {
		return 0, a.err
	}
	return a.w.Write(b)
}

// FlushError is for http.ResponseController.
func (a *answer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if a.err != nil {
		return a.err
	}
	return http.NewResponseController(a.w).Flush()
}

// Flush is for handlers that know no http.ResponseController.
func (a *answer) Flush() { _ = a.FlushError() } // the interface has no error
