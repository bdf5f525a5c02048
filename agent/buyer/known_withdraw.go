package buyer

import (
	"context"
	"errors"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/spend"
	"github.com/depinsim/x402/channel/x402"
)

// A Holding is a channel as it stands while nothing is bought through it: what
// its record says and the ledger.
type Holding struct {
	State channel.State
	// Withdrawing is the amount of the withdrawal under way; zero for none.
	Withdrawing channel.Amount
	// WithdrawAt is when that can be finished, zero for none, and Now what the
	// ledger's clock says, which alone counts; Unix seconds.
	WithdrawAt, Now uint64

	nonce x402.Decimal // for the next withdrawal
}

// Left is what neither is claimed nor can be: the payer's own. What was paid for
// a token is so until the agent claims it.
func (h Holding) Left() channel.Amount {
	if salt := h.State.Config.Salt; salt != (channel.Hash{}) && salt != spend.Salt() {
		return h.State.Balance - min(h.State.Balance, h.State.Claimed)
	}
	return h.State.Balance - min(h.State.Balance, max(h.State.Max, h.State.Claimed))
}

// Due says whether a withdrawal can be finished.
func (h Holding) Due() bool { return h.WithdrawAt != 0 && h.WithdrawAt <= h.Now }

// Holdings looks after the channels of one facilitator while nothing is bought
// through them. Key is not needed to look, and Node only to withdraw on a chain.
type Holdings struct {
	Payer       *channel.Payer
	Facilitator Facilitator
	Key         *channel.Key
	Node        *Node
}

// Look asks the ledger about a channel and stores what it says. With an error
// comes what was known before.
func (x Holdings) Look(ctx context.Context, id channel.ID) (Holding, error) {
	s, ok := x.Payer.Get(id)
	if !ok {
		return Holding{}, &channel.StateError{Reason: channel.ReasonUnknown, Channel: id, Detail: "unknown channel"}
	}
	old := Holding{State: s, WithdrawAt: s.WithdrawAt}
	info, err := x.Facilitator.Channel(ctx, channel.NetworkName(s.Domain.ChainID), id)
	if err != nil {
		return old, err
	}
	s, err = x.Payer.Observe(id, info.Balance, info.TotalClaimed, uint64(info.RefundNonce), info.FinalizeAfter)
	if err != nil {
		return old, err
	}
	h := Holding{State: s, WithdrawAt: info.FinalizeAfter, Now: info.Time, nonce: info.WithdrawNonce}
	if h.WithdrawAt != 0 {
		h.Withdrawing = info.WithdrawAmt
	}
	return h, nil
}

// Begin begins to withdraw what is left, without the agent, and returns the
// channel as it is then.
func (x Holdings) Begin(ctx context.Context, h Holding) (Holding, error) {
	return x.step(ctx, h, x402.Withdraw{Step: x402.WithdrawInitiate, Amount: h.Left()})
}

// Finish ends a withdrawal that is due, and returns the channel as it is then.
// The amount is in the payer's account, less what was claimed in the meantime.
func (x Holdings) Finish(ctx context.Context, h Holding) (Holding, error) {
	return x.step(ctx, h, x402.Withdraw{Step: x402.WithdrawFinalize})
}

func (x Holdings) step(ctx context.Context, h Holding, w x402.Withdraw) (Holding, error) {
	w.Channel, w.Nonce = h.State.ID, h.nonce
	w = w.Sign(x.Key, h.State.Domain)
	_, err := x.Facilitator.Withdraw(ctx, w)
	if refused, ok := errors.AsType[*facilitator.RefusedError](err); ok && refused.Code == x402.ErrWithdrawTransaction {
		err = x.send(ctx, h, w)
	}
	if err != nil {
		return h, err
	}
	return x.Look(ctx, h.State.ID)
}
