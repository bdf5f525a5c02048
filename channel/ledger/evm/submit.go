package evm

import (
	"context"
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// Submit has the chain do what tx says, and returns once that is confirmed. It
// is checked by the rules of package ledger first, by the chain's clock. The
// time of tx does not matter.
//
// A claim or settlement that is not worth its gas yet is kept, and refused with
// x402.ErrPending. An error that Is ledger.ErrLater means that the operation is
// kept and not finished, or could not be taken for now; the same one again
// tells.
func (h *Home) Submit(ctx context.Context, tx ledger.Tx) (ledger.Receipt, error) {
	if err := onChain(h, tx.Op); err != nil {
		return ledger.Receipt{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Answer)
	defer cancel()
	s, err := h.Read(ctx, tx.Touches(h.params))
	if err != nil {
		return ledger.Receipt{}, later(err)
	}
	tx.Time = s.Time
	intent := tx.Intent(s)
	j, known, err := h.journal.find(intent)
	if err != nil {
		return ledger.Receipt{}, err
	}
	if !known {
		if r, ok, err := h.claimed(tx.Op, s); ok || err != nil {
			return r, err
		}
		if _, err := ledger.Apply(s, tx); err != nil {
			return ledger.Receipt{}, err
		}
		if err := h.ready(ctx, tx.Op); err != nil {
			return ledger.Receipt{}, err
		}
		if j.Number, err = h.journal.add(job{Intent: intent, Tx: tx.Encode()}); err != nil {
			return ledger.Receipt{}, err
		}
		h.poke()
	}
	return h.await(ctx, j.Number)
}

// later wraps an error that says nothing about the operation.
func later(err error) error { return fmt.Errorf("%w: %w", ledger.ErrLater, err) }

// onChain refuses what only ledgers of our own can do.
func onChain(h *Home, op ledger.Op) error {
	switch op := op.(type) {
	case ledger.Issue, ledger.Redeem:
		return &ledger.RefusedError{Code: x402.ErrNotOnChain,
			Message: "the token of " + h.params.Network() + " is not this facilitator's to issue or redeem"}
	case ledger.InitiateWithdraw:
		return h.yourself(op.Config, true, op.Amount)
	case ledger.FinalizeWithdraw:
		return h.yourself(op.Config, false, 0)
	}
	return nil
}

// yourself tells a payer which transaction takes his deposit back: the contract
// wants it from him.
func (h *Home) yourself(c channel.Config, initiate bool, amount channel.Amount) error {
	message := "on " + h.params.Network() + " the payer's account sends its withdrawal itself"
	if c != (channel.Config{}) {
		data, err := packWithdraw(c, initiate, amount)
		if err != nil {
			return err
		}
		message += fmt.Sprintf(": a transaction to %s with data 0x%x; signed, it is taken here as \"transaction\"", h.params.Domain().Contract, data)
	}
	return &ledger.RefusedError{Code: x402.ErrWithdrawTransaction, Message: message}
}

// claimed answers a claim of no more than what is claimed with the receipt of
// what claimed it, if that was sent from here.
func (h *Home) claimed(op ledger.Op, s ledger.State) (ledger.Receipt, bool, error) {
	c, ok := op.(ledger.Claim)
	if !ok || len(c.Rows) == 0 {
		return ledger.Receipt{}, false, nil
	}
	for _, r := range c.Rows {
		if r.TotalClaimed == 0 || s.Channels[h.params.Domain().ID(r.Config)].Claimed < r.TotalClaimed {
			return ledger.Receipt{}, false, nil
		}
	}
	j, ok, err := h.journal.lastClaim(h.params.Domain().ID(c.Rows[0].Config))
	return j.Receipt, ok && j.State == jobDone, err
}

// rise is by how much c would raise what is claimed of the channels.
func rise(d channel.Domain, c ledger.Claim, channels map[channel.ID]ledger.Channel) channel.Amount {
	top := map[channel.ID]channel.Amount{}
	for _, r := range c.Rows {
		id := d.ID(r.Config)
		top[id] = max(top[id], r.TotalClaimed)
	}
	var sum channel.Amount
	for id, total := range top {
		if was := channels[id].Claimed; total > was {
			sum += total - was // of one contract's balances, which add up
		}
	}
	return sum
}

// ready refuses what cannot be sent at present, so that who waits for it hears
// so at once. What can wait is kept.
func (h *Home) ready(ctx context.Context, op ledger.Op) error {
	h.mu.Lock()
	halted := h.halted
	h.mu.Unlock()
	if halted != nil {
		return later(halted)
	}
	if deferrable(op) {
		return nil
	}
	head, err := h.node.head(ctx)
	if err != nil {
		return later(err)
	}
	if _, err := h.fees(ctx, head); err != nil {
		return later(err)
	}
	return nil
}

// deferrable operations wait until they are worth their gas.
func deferrable(op ledger.Op) bool {
	switch op.(type) {
	case ledger.Claim, ledger.Settle:
		return true
	}
	return false
}

// await waits for the end of a job: until it is done or refused, or nothing more
// is to be expected soon.
func (h *Home) await(ctx context.Context, number uint64) (ledger.Receipt, error) {
	for {
		h.mu.Lock()
		changed, kept := h.changed, h.kept[number]
		h.mu.Unlock()
		j, err := h.journal.job(number)
		if err != nil {
			return ledger.Receipt{}, err
		}
		switch j.State {
		case jobDone:
			return j.Receipt, nil
		case jobRefused:
			return ledger.Receipt{}, &ledger.RefusedError{Code: j.Code, Message: j.Message}
		case jobWaiting:
			if kept {
				return ledger.Receipt{}, &ledger.RefusedError{Code: x402.ErrPending,
					Message: "kept, and sent when it is worth its gas or the payer withdraws"}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ledger.Receipt{}, h.unfinished(j, context.Cause(ctx))
		}
	}
}

func (h *Home) unfinished(j job, err error) error {
	if herr := h.Health(); herr != nil {
		return later(herr)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		if j.State == jobSent {
			return later(fmt.Errorf("transaction with nonce %d is not confirmed yet", j.Nonce))
		}
		return later(errors.New("the operation waits for its turn"))
	}
	return later(err)
}

// moved tells those who await that jobs have changed.
func (h *Home) moved() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}
