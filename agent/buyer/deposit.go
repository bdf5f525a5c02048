package buyer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// authorizationLife bounds how long a signed deposit can be used: for the
// retries below, and for a clock that is somewhat off.
const authorizationLife = time.Hour

// topRetry is how long after a failed deposit the next is tried.
const topRetry = 15 * time.Second

// observe reads the channel from the ledger into its record.
func (b *Buyer) observe(ctx context.Context) (channel.State, error) {
	info, err := b.fac.Channel(ctx, b.cfg.Offer.Payment.Network, b.id)
	if err != nil {
		return channel.State{}, err
	}
	return b.payer.Observe(b.id, info.Balance, info.TotalClaimed, uint64(info.RefundNonce), info.FinalizeAfter)
}

// ensureDeposit sees to it that the channel holds enough to begin with.
func (b *Buyer) ensureDeposit(ctx context.Context) error {
	b.status.set(func(s *Status) { s.State = "depositing" })
	state, err := b.observe(ctx)
	if err != nil {
		if state, ok := b.payer.Get(b.id); ok && b.missing(state) == 0 && errors.Is(err, facilitator.ErrUnavailable) {
			b.log.Warn("the facilitator does not answer; going on with the deposit that is there", "err", err)
			return nil
		}
		return err
	}
	if state.WithdrawAt != 0 {
		return fmt.Errorf("a withdrawal from the channel is under way, until %s: finish it with x402 wallet withdraw",
			time.Unix(int64(state.WithdrawAt), 0).Format(time.RFC3339))
	}
	amount := b.missing(state)
	if amount == 0 {
		return nil
	}
	return b.deposit(ctx, amount)
}

// missing is how much to deposit now: nothing while half a deposit is left,
// and never more than the budget still allows.
func (b *Buyer) missing(s channel.State) channel.Amount {
	committed := max(s.Max, s.Claimed)
	free := s.Balance - min(s.Balance, committed)
	if free >= b.cfg.Deposit/2 || s.Balance >= b.most {
		return 0
	}
	room := b.most - s.Balance
	amount := min(b.cfg.Deposit, room)
	if least := b.cfg.Offer.Payment.MinDeposit; amount < least && free == 0 {
		amount = least // the budget is below what the agent takes; the rest comes back
	}
	return amount
}

// deposit moves amount from the wallet's account into the channel.
func (b *Buyer) deposit(ctx context.Context, amount channel.Amount) error {
	network := b.cfg.Offer.Payment.Network
	account, err := b.fac.Balance(ctx, network, b.cfg.Key.Address())
	if err != nil {
		return err
	}
	if account.Balance < amount {
		return fmt.Errorf("the wallet %s holds %s USD on %s and the channel needs %s: add funds first",
			b.cfg.Key.Address(), account.Balance.USD(), network, amount.USD())
	}
	var salt channel.Hash
	if _, err := rand.Read(salt[:]); err != nil {
		return err
	}
	validBefore := uint64(time.Now().Add(authorizationLife).Unix())
	// The same deposit is sent again while nobody says what came of it: it can
	// take effect only once.
	for wait := time.Second; ; wait *= 2 {
		_, err = b.fac.Deposit(ctx, network, b.token, b.signDeposit(amount, validBefore, salt))
		if !errors.Is(err, facilitator.ErrUnavailable) || wait > 8*time.Second {
			break
		}
		b.log.Warn("deposit", "err", err, "after", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if refused, ok := errors.AsType[*facilitator.RefusedError](err); ok && refused.Code == x402.ErrValidBefore {
		return fmt.Errorf("deposit: the clock of this computer says %s, which has passed for the facilitator: set it: %w",
			time.Now().UTC().Format(time.RFC3339), err)
	}
	if err != nil {
		return fmt.Errorf("deposit: %w", err)
	}
	b.log.Info("deposited", "amount", amount)
	_, err = b.observe(ctx)
	return err
}

// signDeposit signs a deposit with the voucher that must come with it. That one
// pays nothing new and covers what was claimed, also since the ledger was last
// asked: it is as much as the agent can hold a voucher for.
func (b *Buyer) signDeposit(amount channel.Amount, validBefore uint64, salt channel.Hash) x402.Deposit {
	state, _ := b.payer.Get(b.id)
	covered := max(state.Claimed, min(state.Max, state.Balance+amount))
	return x402.DepositRequest{
		Domain: b.domain, Token: b.token, Config: b.cfg.Offer.Channel(b.cfg.Key.Address()), Amount: amount,
		Voucher: b.domain.SignVoucher(b.cfg.Key, b.id, covered), ValidBefore: validBefore, Salt: salt,
	}.Sign(b.cfg.Key)
}

// topUp begins a deposit when less than half of one is left.
func (x *session) topUp(ctx context.Context) {
	state, _ := x.b.payer.Get(x.b.id)
	if owed, err := x.purse.tally.Owed(); err == nil && owed > state.Max {
		state.Max = owed // what is owed is as good as signed
	}
	amount := x.b.missing(state)
	if x.topping != nil || amount == 0 || time.Now().Before(x.topAfter) {
		return
	}
	done := make(chan error, 1)
	x.topping = done
	x.work.Go(func() { done <- x.b.deposit(ctx, amount) })
}

// toppedUp takes over a deposit's result.
func (x *session) toppedUp(err error) error {
	if err != nil {
		x.b.log.Warn("top up the channel", "err", err)
		x.b.status.set(func(s *Status) { s.Notice = err.Error() })
		x.topAfter = time.Now().Add(topRetry)
		return nil // what is there can still be used
	}
	state, _ := x.b.payer.Get(x.b.id)
	x.purse.balance = state.Balance
	return x.ctl.Send(agent.CapsuleTopUp, nil)
}
