package spend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// settled takes over what a server says that it has charged. An answer that does
// not fit what was signed is the last that is paid from the channel: what was
// paid for is there, and the next request tells why it is not paid. What cannot
// be stored the next request finds out, as if there had been no answer.
func (t *Transport) settled(req *http.Request, l *lane, c choice, r record, s x402.SettlementResponse) {
	var charge channel.Amount
	if s.Extra != nil && s.Extra.ChargedAmount != nil {
		charge = *s.Extra.ChargedAmount
	}
	total, err := r.charged.Add(charge)
	if err != nil || charge > c.Amount {
		l.broken = fmt.Errorf("%w: it charged %d for a request of at most %d", ErrCount, charge, c.Amount)
	} else if s.Extra != nil && s.Extra.ChannelState != nil {
		m := s.Extra.ChannelState
		if m.Channel != l.id || m.Charged != nil && *m.Charged != total {
			l.broken = fmt.Errorf("%w: after a charge of %d, %d should be charged on channel %.10s", ErrCount, charge, total, l.id)
		}
	}
	if l.broken != nil {
		return
	}
	p := Payment{URL: req.URL.String(), Scheme: c.Scheme, Network: c.Network, Channel: &l.id, Charged: charge, Transaction: clip(s.Transaction)}
	if l.drafted {
		p.Deposited = r.draft.amount
		l.looked = false // the ledger is asked whether it is there
	}
	r.charged, r.open = total, false
	if _, err := t.payer.Note(l.id, r.marshal()); err != nil {
		return
	}
	t.charged(l, total)
	t.paid(p)
	if l.drafted {
		// Now, so that what the store says of the channel is whole; if it cannot
		// be asked, the next request does.
		_, _, _ = t.read(req.Context(), l)
	}
}

// unpaid notes that a server did not take a payment: it has not charged for the
// request, as it says, and is held to that.
func (t *Transport) unpaid(ctx context.Context, l *lane) error {
	_, r, err := t.read(ctx, l)
	if err != nil {
		return err
	}
	if r.open = l.wasOpen; !r.open {
		t.charged(l, r.charged)
	}
	_, err = t.payer.Note(l.id, r.marshal())
	return err
}

// refused looks at why a server did not take a payment, and says whether it is
// worth another try.
func (t *Transport) refused(ctx context.Context, resp *http.Response, c choice, l *lane) (retry bool, err error) {
	_, r, err := t.read(ctx, l)
	if err != nil {
		return false, err
	}
	if s, ok := settlementOf(resp); ok && !s.Success {
		return false, t.failed(l, r, s.ErrorReason)
	}
	required, err := x402.DecodeRequired(resp.Header.Get(x402.HeaderRequired))
	if err != nil {
		return false, nil // an answer that says nothing; the caller has it
	}
	switch required.Error {
	case x402.ErrChannelBusy:
		select {
		case <-time.After(busyWait):
			return true, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	case x402.ErrCumulativeMismatch, x402.ErrBelowClaimed:
		return true, t.correct(ctx, l, entryOf(required, c))
	}
	return false, t.failed(l, r, required.Error)
}

// failed forgets a deposit that was refused, unless nobody knows what came of it.
func (t *Transport) failed(l *lane, r record, code string) error {
	if !l.drafted || x402.Undecided(code) {
		return nil
	}
	l.looked = false
	r.draft = draft{}
	_, err := t.payer.Note(l.id, r.marshal())
	return err
}

// entryOf finds the way to pay that a corrective answer corrects.
func entryOf(p x402.PaymentRequired, c choice) x402.Extra {
	i := slices.IndexFunc(p.Accepts, func(r x402.Requirements) bool {
		return r.Scheme == c.Scheme && r.Network == c.Network && r.Asset == c.Asset && r.PayTo == c.PayTo
	})
	if i < 0 {
		return x402.Extra{}
	}
	return p.Accepts[i].Extra
}

// correct takes over a server's count, if it may be right:
//
//   - a lower one than ours, which costs us nothing, down to what was claimed;
//   - a higher one that our own vouchers cover, when a request of ours was not
//     answered, or when its voucher shows that our record is an older one;
//   - what the ledger says was claimed, when the server shows nothing.
func (t *Transport) correct(ctx context.Context, l *lane, e x402.Extra) error {
	l.looked = false // claims since then
	state, r, err := t.read(ctx, l)
	if err != nil {
		return err
	}
	count, proven := state.Claimed, r.signed
	if m := e.ChannelState; m != nil && m.Charged != nil {
		if m.Channel != l.id {
			return fmt.Errorf("%w: it answers for channel %.10s, asked was %.10s", ErrCount, m.Channel, l.id)
		}
		count = *m.Charged
	}
	newer := false // the server holds a voucher that our record does not know
	if v := e.VoucherState; v != nil {
		signer, err := channel.Recover(state.Domain.VoucherDigest(l.id, v.SignedMaxClaimable), v.Signature)
		if err != nil || signer != l.config.PayerAuthorizer {
			return fmt.Errorf("%w: the voucher that it shows is not signed by you", ErrCount)
		}
		newer = v.SignedMaxClaimable > r.signed
		proven = max(proven, v.SignedMaxClaimable)
	}
	switch {
	case count < state.Claimed:
		return fmt.Errorf("%w: it says that %d is charged, and has claimed %d", ErrCount, count, state.Claimed)
	case count == r.charged:
		return errors.New("the server refuses a count that is its own")
	case count > proven:
		return fmt.Errorf("%w: it says that %d is charged, %d is signed", ErrCount, count, proven)
	case count > r.charged && !r.open && !newer:
		return fmt.Errorf("%w: it says that %d is charged, and answered for %d", ErrCount, count, r.charged)
	}
	t.rebase(l, r.charged, count)
	r.charged, r.signed, r.open = count, proven, false
	_, err = t.payer.Note(l.id, r.marshal())
	return err
}
