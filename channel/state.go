package channel

import (
	"errors"
	"fmt"
)

// MaxNote is how many bytes of its owner's a State carries.
const MaxNote = 96

// The withdraw delays that the settlement contract accepts, in seconds.
const (
	MinWithdrawDelay = 900
	MaxWithdrawDelay = 30 * 24 * 3600
)

// Phase says whether a channel takes vouchers. All moves, and what each leads
// to (Next is State.Next; Freeze and Thaw are the owner's, on Payee and Payer):
//
//	           NewState
//	              │
//	              ▼     Freeze
//	            Open ───────────► Frozen
//	              ▲                 │
//	              └─────────────────┘
//	                     Thaw
//
//	 phase  │ Next    Observe   Note     Freeze   Thaw
//	────────┼──────────────────────────────────────────
//	 Open   │ Open    Open      Open     Frozen   Open
//	 Frozen │ error   Frozen    Frozen   Frozen   Open
//
// A channel is frozen before it is claimed and refunded, so that no voucher
// slips in between the claim and the refund of the rest. It is thawed when
// the closing was given up or the channel is topped up again.
type Phase uint8

const (
	Open   Phase = iota // takes vouchers
	Frozen              // no more vouchers: being claimed or refunded
)

// String returns "open" or "frozen".
func (p Phase) String() string {
	switch p {
	case Open:
		return "open"
	case Frozen:
		return "frozen"
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// State is the newest known state of one channel. It is a value: its methods
// return the state that follows and change nothing.
type State struct {
	Domain Domain
	Config Config
	ID     ID
	Phase  Phase

	// What the ledger last said. Balance is what was deposited less what was
	// given back; Claimed is the part of it that was claimed.
	Balance, Claimed Amount
	RefundNonce      uint64
	WithdrawAt       uint64 // unix seconds at which the payer can take the rest; 0: none begun

	// The newest voucher; Max is zero when there was none. After a withdrawal
	// Max may exceed Balance: no further voucher can then follow.
	Max       Amount
	Signature Signature

	// Note is at most MaxNote bytes of the owner's own, such as running
	// totals, stored in the same record: both survive or neither does.
	Note []byte
}

// Reason says why a channel refused something. Where the x402 standard names
// an error it is that code, ready for its errorReason field.
type Reason string

const (
	ReasonChannel   Reason = "invalid_batch_settlement_evm_channel_id_mismatch"
	ReasonAmount    Reason = "invalid_batch_settlement_evm_cumulative_amount_mismatch" // not above the newest voucher
	ReasonClaimed   Reason = "invalid_batch_settlement_evm_cumulative_below_claimed"
	ReasonBalance   Reason = "invalid_batch_settlement_evm_cumulative_exceeds_balance"
	ReasonSignature Reason = "invalid_batch_settlement_evm_voucher_signature"
	ReasonUnknown   Reason = "invalid_batch_settlement_evm_channel_not_found"
	ReasonDelay     Reason = "invalid_batch_settlement_evm_withdraw_delay_out_of_range"
	ReasonConfig    Reason = "channel_config" // ours: the standard has no code for a zero field
	ReasonFrozen    Reason = "channel_frozen" // ours: the standard has no closing phase
	ReasonLedger    Reason = "ledger_contradicts_state"
	ReasonNote      Reason = "note_too_long"
)

// A StateError is a refusal: the state it was asked of stands unchanged.
type StateError struct {
	Reason  Reason
	Channel ID
	Detail  string // for humans, with both numbers where there are two
}

func (e *StateError) Error() string {
	return fmt.Sprintf("channel %.10s: %s", e.Channel, e.Detail)
}

// NewState returns the state of a channel of which nothing is known yet: no
// balance, hence no voucher fits until Observe. It refuses what the contract
// would, and a zero payerAuthorizer: vouchers checked by a contract (EIP-1271)
// cannot be checked without a chain.
func NewState(d Domain, c Config) (State, error) {
	s := State{Domain: d, Config: c, ID: d.ID(c)}
	for _, f := range []struct {
		name string
		zero bool
	}{
		{"domain chainId", d.ChainID == 0},
		{"domain contract", d.Contract.IsZero()},
		{"payer", c.Payer.IsZero()},
		{"payerAuthorizer", c.PayerAuthorizer.IsZero()},
		{"receiver", c.Receiver.IsZero()},
		{"receiverAuthorizer", c.ReceiverAuthorizer.IsZero()},
		{"token", c.Token.IsZero()},
	} {
		if f.zero {
			return State{}, s.refuse(ReasonConfig, "%s is zero", f.name)
		}
	}
	if c.WithdrawDelay < MinWithdrawDelay || c.WithdrawDelay > MaxWithdrawDelay {
		return State{}, s.refuse(ReasonDelay, "withdrawDelay %d s is not in %d..%d",
			c.WithdrawDelay, MinWithdrawDelay, MaxWithdrawDelay)
	}
	return s, nil
}

// Next returns the state after a voucher: of this channel, above the newest
// one and what was claimed, within the balance, signed by the payer's
// authorizer, while Open. Cheap checks come first. A refusal is a *StateError.
func (s State) Next(v Voucher) (State, error) {
	if err := s.fits(v.Channel, v.Max); err != nil {
		return State{}, err
	}
	if err := s.signed(v); err != nil {
		return State{}, err
	}
	s.Max, s.Signature = v.Max, v.Signature
	return s, nil
}

// Covered checks a voucher that is worth no more than the newest one, which an
// HTTP payer sends after a request that cost less than it might have: of this
// channel, signed by the payer's authorizer, while Open. It changes nothing, for
// the newest one pays all that this one does. A refusal is a *StateError.
func (s State) Covered(v Voucher) error {
	switch {
	case s.Phase != Open:
		return s.refuse(ReasonFrozen, "no voucher while %s", s.Phase)
	case v.Channel != s.ID:
		return s.refuse(ReasonChannel, "voucher is for channel %s", v.Channel)
	case v.Max > s.Max:
		return s.refuse(ReasonAmount, "voucher of %d is above %d", v.Max, s.Max)
	case v.Max > s.Balance:
		return s.refuse(ReasonBalance, "voucher of %d exceeds the balance %d", v.Max, s.Balance)
	}
	return s.signed(v)
}

// signed checks a voucher's signature.
func (s State) signed(v Voucher) error {
	signer, err := Recover(s.Domain.VoucherDigest(s.ID, v.Max), v.Signature)
	switch {
	case errors.Is(err, ErrSignature):
		return s.refuse(ReasonSignature, "voucher of %d: %v", v.Max, err)
	case err != nil:
		return err
	case signer != s.Config.PayerAuthorizer:
		return s.refuse(ReasonSignature, "voucher of %d is signed by %s, not by %s",
			v.Max, signer, s.Config.PayerAuthorizer)
	}
	return nil
}

// fits is all of Next but the signature.
func (s State) fits(id ID, max Amount) error {
	switch {
	case s.Phase != Open:
		return s.refuse(ReasonFrozen, "no voucher while %s", s.Phase)
	case id != s.ID:
		return s.refuse(ReasonChannel, "voucher is for channel %s", id)
	case max <= s.Max:
		return s.refuse(ReasonAmount, "voucher of %d does not rise above %d", max, s.Max)
	case max <= s.Claimed:
		return s.refuse(ReasonClaimed, "voucher of %d, of which %d is claimed", max, s.Claimed)
	case max > s.Balance:
		return s.refuse(ReasonBalance, "voucher of %d exceeds the balance %d", max, s.Balance)
	}
	return nil
}

// Observe returns the state after a look at the ledger. Claims and refunds
// cannot be undone, so an answer in which either falls is old or false and is
// refused, as is one that claims more than there is.
func (s State) Observe(balance, claimed Amount, refundNonce, withdrawAt uint64) (State, error) {
	switch {
	case claimed < s.Claimed:
		return State{}, s.refuse(ReasonLedger, "ledger says %d claimed after %d", claimed, s.Claimed)
	case claimed > balance:
		return State{}, s.refuse(ReasonLedger, "ledger says %d claimed of %d", claimed, balance)
	case refundNonce < s.RefundNonce:
		return State{}, s.refuse(ReasonLedger, "ledger says refund nonce %d after %d", refundNonce, s.RefundNonce)
	}
	s.Balance, s.Claimed, s.RefundNonce, s.WithdrawAt = balance, claimed, refundNonce, withdrawAt
	return s, nil
}

// Voucher returns the newest voucher; ok is false when there was none.
func (s State) Voucher() (v Voucher, ok bool) {
	return Voucher{s.ID, s.Max, s.Signature}, s.Max > 0
}

// withNote returns the state with a copy of the note, or as it is when note
// is nil.
func (s State) withNote(note []byte) (State, error) {
	if len(note) > MaxNote {
		return State{}, s.refuse(ReasonNote, "note of %d bytes, limit %d", len(note), MaxNote)
	}
	if note != nil {
		s.Note = append([]byte(nil), note...)
	}
	return s, nil
}

func (s State) refuse(r Reason, format string, args ...any) error {
	return &StateError{r, s.ID, fmt.Sprintf(format, args...)}
}
