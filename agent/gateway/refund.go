package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

const (
	// refundLife is how long an authorization to pay back stays good. It is made
	// once and sent until it is answered: another beside it could pay twice.
	refundLife = 90 * 24 * time.Hour
	// refundEvery is how often those are sent again that were not answered, and
	// credit is looked for that has expired.
	refundEvery = time.Minute
	refundTime  = 30 * time.Second // for one call
	// forgetClosed is how long an account is kept that is over.
	forgetClosed = 30 * 24 * time.Hour
	// forgetPending is how long one is kept whose payment failed, and a payment. A
	// voucher may have been booked all the same, in the instant of a crash, and a
	// transfer may be unclear: then the operator finds payer and amount in the list.
	forgetPending = 48 * time.Hour
)

// A refund is what is being given back: a transfer from the wallet to the payer,
// authorized once.
type refund struct {
	Amount      channel.Amount `json:"amount"`
	Nonce       channel.Hash   `json:"nonce"`
	ValidBefore uint64         `json:"validBefore"`
}

// close ends an account, and begins to give back what is left: stored before
// anybody is told.
func (g *Gateway) close(id accountID) (record, error) {
	return g.book.end(id, (*record).beginRefund)
}

// beginRefund draws a refund of what is left, if there is something and none is
// under way.
func (r *record) beginRefund() error {
	if r.Refund != nil || r.Payer.IsZero() || r.left() == 0 {
		return nil
	}
	r.Refund = &refund{Amount: r.left(), ValidBefore: uint64(time.Now().Add(refundLife).Unix())}
	rand.Read(r.Refund.Nonce[:]) // never fails (Go 1.24)
	return nil
}

// giveBack sends the refund that an account's record has.
func (g *Gateway) giveBack(ctx context.Context, id accountID, r record) (record, error) {
	back := r.Refund
	a := x402.Authorization{
		From: g.cfg.Key.Address(), To: r.Payer, Value: back.Amount, ValidBefore: x402.Decimal(back.ValidBefore), Nonce: back.Nonce,
	}
	_, err := g.makeTransfer(ctx, x402.Exact{Authorization: a, Signature: g.cfg.Key.Sign(g.token.TransferDigest(a.Standard()))})
	if no, ok := errors.AsType[*facilitator.RefusedError](err); ok && no.Code == x402.ErrExactNonceUsed {
		err = nil // it was made before, and the answer was lost
	}
	if err != nil {
		return r, fmt.Errorf("give %s units back to %s: %w", back.Amount, r.Payer, err)
	}
	g.log.Info("gave back", "amount", back.Amount, "payer", r.Payer)
	noted := false // not twice, if two have sent it
	r, err = g.book.change(id, func(r *record) error {
		if noted = r.Refund != nil && r.Refund.Nonce == back.Nonce; noted {
			r.Refunded, r.Refund = r.Refunded+back.Amount, nil // no more than was paid: it was left
		}
		return nil
	})
	if noted && err == nil {
		g.book.counts.refunds.Add(1)
		g.book.counts.refunded.Add(uint64(back.Amount))
	}
	return r, err
}

// giveBackAll gives back what has expired, and what could not be given back
// before, until ctx ends.
func (g *Gateway) giveBackAll(ctx context.Context) error {
	tick := time.NewTicker(refundEvery)
	defer tick.Stop()
	for {
		if err := g.sweep(ctx); err != nil && ctx.Err() == nil {
			g.log.Error("look for credit to give back", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (g *Gateway) sweep(ctx context.Context) error {
	due := map[accountID]record{}
	var over []accountID
	now := time.Now()
	held, err := g.findPayments(ctx)
	errs := []error{err}
	err = g.book.all(func(id accountID, r record) {
		switch {
		case held[id]: // what came of its payment is not known
		case r.Pending && now.Unix()-r.Created > int64(forgetPending/time.Second):
			over = append(over, id)
		case r.Pending:
		case r.Refund != nil, !r.Closed && r.expired(now), r.Closed && r.left() > 0 && !r.Payer.IsZero(): // the last was paid for while it was closed
			due[id] = r
		case r.Closed && r.expired(now.Add(-forgetClosed)):
			over = append(over, id)
		}
	})
	errs = append(errs, err) // of what cannot be read; the others have their rest all the same
	for id, r := range due {
		if ctx.Err() != nil {
			break
		}
		if r.Refund == nil {
			if r, err = g.close(id); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if r.Refund == nil { // nothing is left, or nobody's
			continue
		}
		if _, err := g.giveBack(ctx, id, r); err != nil {
			g.log.Warn("refund", "err", err)
		}
	}
	return errors.Join(append(errs, g.book.forget(over))...)
}
