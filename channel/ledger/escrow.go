package ledger

import (
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// Deposit moves credit from the payer's account into a channel's escrow by an
// EIP-3009 receiveWithAuthorization to the collector. The first one opens the
// channel, later ones top it up.
type Deposit struct {
	Config                  channel.Config
	Amount                  channel.Amount
	ValidAfter, ValidBefore uint64
	Salt                    channel.Hash
	Signature               channel.Signature // of Config.Payer
}

// Refund gives unclaimed escrow back to the payer, as the receiver's side
// signed. Amount is capped to what is there. Claim, if any, is applied first;
// both happen or neither.
type Refund struct {
	Config    channel.Config
	Amount    channel.Amount
	Nonce     uint64
	Signature channel.Signature // of Config.ReceiverAuthorizer
	Claim     *Claim
}

// InitiateWithdraw starts the payer's way out without the receiver. The request
// that carries it is x402.Withdraw.
type InitiateWithdraw struct {
	Config    channel.Config
	Amount    channel.Amount
	Nonce     uint64
	Signature channel.Signature // of the payer or his authorizer
}

// FinalizeWithdraw ends it after the delay. Claims that came in between leave
// less to withdraw; those that come later find less escrow.
type FinalizeWithdraw struct {
	Config    channel.Config
	Nonce     uint64
	Signature channel.Signature // of the payer or his authorizer
}

func (Deposit) kind() Kind { return KindDeposit }

func (op Deposit) encode(e *encoder) {
	e.config(op.Config)
	e.amount(op.Amount)
	e.uint(op.ValidAfter)
	e.uint(op.ValidBefore)
	e.bytes(op.Salt[:])
	e.bytes(op.Signature[:])
}

func (op Deposit) authorization(p Params, id channel.ID) channel.Authorization {
	a := x402.ERC3009Authorization{
		ValidAfter: x402.Decimal(op.ValidAfter), ValidBefore: x402.Decimal(op.ValidBefore), Salt: op.Salt,
	}.For(id, op.Config.Payer, op.Amount)
	a.To = p.DepositCollector()
	return a
}

func (op Deposit) touch(p Params, t *Touch) {
	id := p.Domain().ID(op.Config)
	t.Accounts = append(t.Accounts, op.Config.Payer)
	t.Channels = append(t.Channels, id)
	t.Nonces = append(t.Nonces, NonceKey{op.Config.Payer, op.authorization(p, id).Nonce})
}

func (op Deposit) apply(s *State, now uint64) (amount, fee channel.Amount, err error) {
	if err := checkConfig(s.Params, op.Config); err != nil {
		return 0, 0, err
	}
	if op.Amount == 0 {
		return 0, 0, refuse(x402.ErrDepositPayload, "deposit of zero")
	}
	id := s.Params.Domain().ID(op.Config)
	a := op.authorization(s.Params, id)
	err = s.authorize(a, op.Signature, now, authorizeCodes{
		digest: s.Params.Asset().ReceiveDigest(a),
		after:  x402.ErrValidAfter, before: x402.ErrValidBefore,
		signature: x402.ErrReceiveSignature, nonce: x402.ErrDepositFailed, funds: x402.ErrInsufficientBalance,
	})
	if err != nil {
		return 0, 0, err
	}
	ch := s.Channels[id]
	ch.Config = op.Config
	if err := add(&ch.Balance, op.Amount); err != nil {
		return 0, 0, refuse(x402.ErrDepositFailed, "channel balance: %v", err)
	}
	s.Channels[id] = ch
	if err := s.debit(op.Config.Payer, op.Amount); err != nil {
		return 0, 0, err
	}
	return op.Amount, 0, add(&s.Totals.Escrow, op.Amount)
}

// checkConfig applies the contract's rules for a channel, and two of our own:
// there are no contract wallets here, so payerAuthorizer must be a key, and
// there is one asset.
func checkConfig(p Params, c channel.Config) error {
	switch {
	case c.Token != p.Token:
		return refuse(x402.ErrToken, "channel token %s is not the ledger's asset %s", c.Token, p.Token)
	case c.WithdrawDelay < channel.MinWithdrawDelay || c.WithdrawDelay > channel.MaxWithdrawDelay:
		return refuse(x402.ErrWithdrawDelayRange, "withdraw delay %d s is not between %d and %d",
			c.WithdrawDelay, channel.MinWithdrawDelay, channel.MaxWithdrawDelay)
	case !p.owned(c.Payer), c.PayerAuthorizer.IsZero(), !p.owned(c.Receiver), c.ReceiverAuthorizer.IsZero():
		return refuse(x402.ErrDepositPayload, "channel needs a payer, a receiver and an authorizer of each")
	}
	return nil
}

func (Refund) kind() Kind { return KindRefund }

func (op Refund) encode(e *encoder) {
	e.config(op.Config)
	e.amount(op.Amount)
	e.uint(op.Nonce)
	e.bytes(op.Signature[:])
	if op.Claim == nil {
		e.bytes([]byte{0})
		return
	}
	e.bytes([]byte{1})
	op.Claim.encode(e)
}

func (op Refund) touch(p Params, t *Touch) {
	t.Accounts = append(t.Accounts, op.Config.Payer)
	t.Channels = append(t.Channels, p.Domain().ID(op.Config))
	if op.Claim != nil {
		op.Claim.touch(p, t)
	}
}

func (op Refund) apply(s *State, now uint64) (amount, fee channel.Amount, err error) {
	id := s.Params.Domain().ID(op.Config)
	if s.Channels[id].Balance == 0 {
		return 0, 0, refuse(x402.ErrChannelNotFound, "channel %s has no balance", id)
	}
	if op.Nonce != s.Channels[id].RefundNonce {
		return 0, 0, refuse(x402.ErrRefundFailed, "refund nonce is %d, the channel is at %d", op.Nonce, s.Channels[id].RefundNonce)
	}
	if op.Amount == 0 {
		return 0, 0, refuse(x402.ErrRefundAmount, "refund of zero")
	}
	digest := s.Params.Domain().RefundDigest(id, op.Nonce, op.Amount)
	if signer, err := channel.Recover(digest, op.Signature); err != nil || signer != op.Config.ReceiverAuthorizer {
		return 0, 0, refuse(x402.ErrRefundFailed, "refund is not signed by %s", op.Config.ReceiverAuthorizer)
	}
	if op.Claim != nil {
		if _, err := op.Claim.run(s); err != nil {
			return 0, 0, err
		}
	}
	ch := s.Channels[id] // after the claim
	amount = min(op.Amount, ch.Balance-ch.Claimed)
	if amount == 0 {
		return 0, 0, refuse(x402.ErrRefundNoBalance, "all of the channel's balance is claimed")
	}
	ch.RefundNonce++
	ch.Balance -= amount
	if ch.WithdrawAt != 0 {
		if amount >= ch.WithdrawAmount {
			ch.WithdrawAmount, ch.WithdrawAt = 0, 0
		} else {
			ch.WithdrawAmount -= amount
		}
	}
	s.Channels[id] = ch
	if err := sub(&s.Totals.Escrow, amount); err != nil {
		return 0, 0, err
	}
	return amount, 0, s.credit(op.Config.Payer, amount)
}

func (InitiateWithdraw) kind() Kind { return KindInitiateWithdraw }

func (op InitiateWithdraw) encode(e *encoder) {
	e.config(op.Config)
	e.amount(op.Amount)
	e.uint(op.Nonce)
	e.bytes(op.Signature[:])
}

func (op InitiateWithdraw) touch(p Params, t *Touch) {
	t.Channels = append(t.Channels, p.Domain().ID(op.Config))
}

func (op InitiateWithdraw) apply(s *State, now uint64) (amount, fee channel.Amount, err error) {
	id := s.Params.Domain().ID(op.Config)
	ch := s.Channels[id]
	err = checkWithdraw(s.Params, ch, op.Signature, x402.Withdraw{
		Step: x402.WithdrawInitiate, Channel: id, Amount: op.Amount, Nonce: x402.Decimal(op.Nonce),
	})
	if err == nil {
		err = ch.MayInitiate(op.Amount)
	}
	if err != nil {
		return 0, 0, err
	}
	ch.WithdrawNonce++
	ch.WithdrawAmount, ch.WithdrawAt = op.Amount, now
	s.Channels[id] = ch
	return op.Amount, 0, nil
}

func (FinalizeWithdraw) kind() Kind { return KindFinalizeWithdraw }

func (op FinalizeWithdraw) encode(e *encoder) {
	e.config(op.Config)
	e.uint(op.Nonce)
	e.bytes(op.Signature[:])
}

func (op FinalizeWithdraw) touch(p Params, t *Touch) {
	t.Channels = append(t.Channels, p.Domain().ID(op.Config))
	t.Accounts = append(t.Accounts, op.Config.Payer)
}

func (op FinalizeWithdraw) apply(s *State, now uint64) (amount, fee channel.Amount, err error) {
	id := s.Params.Domain().ID(op.Config)
	ch := s.Channels[id]
	err = checkWithdraw(s.Params, ch, op.Signature, x402.Withdraw{
		Step: x402.WithdrawFinalize, Channel: id, Nonce: x402.Decimal(op.Nonce),
	})
	if err == nil {
		err = ch.MayFinalize(now)
	}
	if err != nil {
		return 0, 0, err
	}
	amount = min(ch.WithdrawAmount, ch.Balance-ch.Claimed)
	ch.WithdrawAmount, ch.WithdrawAt = 0, 0
	ch.Balance -= amount
	s.Channels[id] = ch
	if err := sub(&s.Totals.Escrow, amount); err != nil {
		return 0, 0, err
	}
	return amount, 0, s.credit(ch.Config.Payer, amount)
}

// MayInitiate refuses a withdrawal that cannot begin, whoever asks for it.
func (c Channel) MayInitiate(amount channel.Amount) error {
	switch {
	case c == Channel{}:
		return refuse(x402.ErrChannelNotFound, "no such channel")
	case c.WithdrawAt != 0:
		return refuse(x402.ErrWithdrawPending, "a withdrawal is pending since %d", c.WithdrawAt)
	case amount == 0 || amount > c.Balance-c.Claimed:
		return refuse(x402.ErrWithdrawAmount, "withdrawal of %s, the channel has %s unclaimed", amount, c.Balance-c.Claimed)
	}
	return nil
}

// MayFinalize refuses to end a withdrawal that cannot end yet.
func (c Channel) MayFinalize(now uint64) error {
	switch {
	case c.WithdrawAt == 0:
		return refuse(x402.ErrWithdrawNotPending, "no withdrawal is pending")
	case now < c.FinalizeAfter():
		return refuse(x402.ErrWithdrawDelay, "the withdrawal can be finalized at %d, it is %d", c.FinalizeAfter(), now)
	}
	return nil
}

func checkWithdraw(p Params, ch Channel, sig channel.Signature, w x402.Withdraw) error {
	if ch.Config.Payer.IsZero() {
		return refuse(x402.ErrChannelNotFound, "no channel %s", w.Channel)
	}
	if uint64(w.Nonce) != ch.WithdrawNonce {
		return refuse(x402.ErrWithdrawNonce, "withdraw nonce is %d, the channel is at %d", w.Nonce, ch.WithdrawNonce)
	}
	signer, err := channel.Recover(w.Digest(p.Domain()), sig)
	if err != nil || signer != ch.Config.Payer && signer != ch.Config.PayerAuthorizer {
		return refuse(x402.ErrWithdrawSignature, "withdrawal is not signed by the channel's payer")
	}
	return nil
}
