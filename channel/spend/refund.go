package spend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// Refund asks a server to give back what is left in the channel that pays for a
// resource, and returns how much the ledger says that was. The resource is named
// by its method and URL.
func (t *Transport) Refund(ctx context.Context, method, url string) (channel.Amount, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := t.cfg.Base.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	drain(resp)
	required, err := x402.DecodeRequired(resp.Header.Get(x402.HeaderRequired))
	if err != nil || resp.StatusCode != http.StatusPaymentRequired {
		return 0, fmt.Errorf("%s asks for no payment: status %d", url, resp.StatusCode)
	}
	for _, r := range required.Accepts[:min(len(required.Accepts), maxAccepts)] {
		if c, err := t.allow(r); err == nil && c.Scheme == x402.SchemeBatch {
			return t.refund(req, required, c)
		}
	}
	return 0, fmt.Errorf("%s is not paid from a channel", url)
}

// RefundAll refunds every channel that was used. An error is that of one or more
// channels; the others are refunded.
func (t *Transport) RefundAll(ctx context.Context) (channel.Amount, error) {
	t.mu.Lock()
	lanes := slices.Collect(maps.Values(t.lanes))
	t.mu.Unlock()
	var sum channel.Amount
	var errs []error
	for _, l := range lanes {
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return sum, errors.Join(append(errs, context.Cause(ctx))...)
		}
		method, url := l.method, l.url
		l.leave()
		if url == "" {
			continue
		}
		back, err := t.Refund(ctx, method, url)
		if err != nil {
			errs = append(errs, fmt.Errorf("refund: %w", err))
		}
		sum += back
	}
	return sum, errors.Join(errs...)
}

// refund is Refund once it is known how the server is paid.
func (t *Transport) refund(req *http.Request, required x402.PaymentRequired, c choice) (channel.Amount, error) {
	ctx := req.Context()
	l, err := t.enter(ctx, c)
	if err != nil {
		return 0, err
	}
	defer l.leave()
	for again := true; ; again = false {
		l.looked, l.drafted = false, false // the balance that counts is the ledger's
		state, r, err := t.read(ctx, l)
		if err != nil {
			return 0, err
		}
		if state.Balance <= r.charged {
			return 0, nil
		}
		// It pays nothing: what is charged was signed for before.
		v := state.Domain.SignVoucher(t.cfg.Key, l.id, r.charged)
		resp, err := t.send(req, required, c, x402.Payload{Refund: &x402.Refund{Config: l.config, Voucher: v}})
		if err != nil {
			return 0, err
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // of an error; it may be cut
		drain(resp)
		if s, ok := settlementOf(resp); ok && s.Success {
			l.looked = false
			after, _, err := t.read(ctx, l)
			return state.Balance - min(state.Balance, after.Balance), err
		}
		retry := false
		if resp.StatusCode == http.StatusPaymentRequired && again {
			if retry, err = t.refused(ctx, resp, c, l); err != nil {
				return 0, err
			}
		}
		if !retry {
			return 0, fmt.Errorf("%s: status %d: %s", req.URL, resp.StatusCode, printable(string(text)))
		}
	}
}
