package ledger

import (
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// MaxMemo is the longest memo of an Issue or a Redeem, in bytes.
const MaxMemo = 200

// Issue creates credit: the operator received money for it elsewhere. It
// carries no signature, so only the operator may submit one.
type Issue struct {
	Ref    channel.Hash // random; a repetition of the same order has the same
	To     channel.Address
	Amount channel.Amount
	Memo   string
}

// Redeem takes credit out of an account: the operator paid it out elsewhere.
// Like Issue it is the operator's alone.
type Redeem struct {
	Ref    channel.Hash
	From   channel.Address
	Amount channel.Amount
	Memo   string
}

// Transfer moves credit between accounts by an EIP-3009
// transferWithAuthorization: the scheme exact.
type Transfer struct {
	Authorization channel.Authorization
	Signature     channel.Signature // of Authorization.From
}

func (Issue) kind() Kind { return KindIssue }

func (op Issue) encode(e *encoder) {
	e.bytes(op.Ref[:])
	e.bytes(op.To[:])
	e.amount(op.Amount)
	e.string(op.Memo)
}

func (op Issue) touch(_ Params, t *Touch) { t.Accounts = append(t.Accounts, op.To) }

func (op Issue) apply(s *State, _ uint64) (amount, fee channel.Amount, err error) {
	if err := s.Params.checkOrder(op.To, op.Amount, op.Memo); err != nil {
		return 0, 0, err
	}
	if err := add(&s.Totals.Issued, op.Amount); err != nil {
		return 0, 0, refuse(x402.ErrAmount, "issue %s: more than the ledger can count", op.Amount)
	}
	return op.Amount, 0, s.credit(op.To, op.Amount)
}

func (Redeem) kind() Kind { return KindRedeem }

func (op Redeem) encode(e *encoder) {
	e.bytes(op.Ref[:])
	e.bytes(op.From[:])
	e.amount(op.Amount)
	e.string(op.Memo)
}

func (op Redeem) touch(_ Params, t *Touch) { t.Accounts = append(t.Accounts, op.From) }

func (op Redeem) apply(s *State, _ uint64) (amount, fee channel.Amount, err error) {
	if err := s.Params.checkOrder(op.From, op.Amount, op.Memo); err != nil {
		return 0, 0, err
	}
	if have := s.Accounts[op.From]; have < op.Amount {
		return 0, 0, refuse(x402.ErrInsufficientFunds, "account %s holds %s, less than %s", op.From, have, op.Amount)
	}
	if err := add(&s.Totals.Redeemed, op.Amount); err != nil {
		return 0, 0, refuse(x402.ErrAmount, "redeem %s: more than the ledger can count", op.Amount)
	}
	return op.Amount, 0, s.debit(op.From, op.Amount)
}

func (p Params) checkOrder(a channel.Address, amount channel.Amount, memo string) error {
	switch {
	case !p.owned(a):
		return refuse(x402.ErrAddress, "nobody owns account %s", a)
	case amount == 0:
		return refuse(x402.ErrAmount, "amount is zero")
	case len(memo) > MaxMemo:
		return refuse(x402.ErrMemo, "memo has %d bytes, more than %d", len(memo), MaxMemo)
	}
	return nil
}

// owned reports whether credit sent to a could ever be spent.
func (p Params) owned(a channel.Address) bool {
	return !a.IsZero() && a != p.Domain().Contract && a != p.DepositCollector()
}

func (Transfer) kind() Kind { return KindTransfer }

func (op Transfer) encode(e *encoder) {
	e.authorization(op.Authorization)
	e.bytes(op.Signature[:])
}

func (op Transfer) touch(_ Params, t *Touch) {
	t.Accounts = append(t.Accounts, op.Authorization.From, op.Authorization.To)
	t.Nonces = append(t.Nonces, NonceKey{op.Authorization.From, op.Authorization.Nonce})
}

func (op Transfer) apply(s *State, now uint64) (amount, fee channel.Amount, err error) {
	a := op.Authorization
	if !s.Params.owned(a.To) {
		return 0, 0, refuse(x402.ErrExactRecipient, "nobody owns account %s", a.To)
	}
	if a.Value == 0 {
		return 0, 0, refuse(x402.ErrExactValue, "amount is zero")
	}
	err = s.authorize(a, op.Signature, now, authorizeCodes{
		digest: s.Params.Asset().TransferDigest(a),
		after:  x402.ErrExactValidAfter, before: x402.ErrExactValidBefore,
		signature: x402.ErrExactSignature, nonce: x402.ErrExactNonceUsed, funds: x402.ErrInsufficientFunds,
	})
	if err != nil {
		return 0, 0, err
	}
	if err := s.debit(a.From, a.Value); err != nil {
		return 0, 0, err
	}
	return a.Value, 0, s.credit(a.To, a.Value)
}

// authorizeCodes is what differs between the two kinds of authorization.
type authorizeCodes struct {
	digest                                 channel.Hash
	after, before, signature, nonce, funds string
}

// authorize checks an EIP-3009 authorization as the token contract does (both
// ends of the window are exclusive), that the payer has the money, and marks
// the nonce as used.
func (s *State) authorize(a channel.Authorization, sig channel.Signature, now uint64, c authorizeCodes) error {
	key := NonceKey{a.From, a.Nonce}
	if now <= a.ValidAfter {
		return refuse(c.after, "authorization is valid after %d, it is %d", a.ValidAfter, now)
	}
	if now >= a.ValidBefore {
		return refuse(c.before, "authorization was valid before %d, it is %d", a.ValidBefore, now)
	}
	if signer, err := channel.Recover(c.digest, sig); err != nil || signer != a.From || a.From.IsZero() {
		return refuse(c.signature, "authorization is not signed by %s", a.From)
	}
	if s.Nonces[key] {
		return refuse(c.nonce, "authorization nonce %s was used before", a.Nonce)
	}
	if have := s.Accounts[a.From]; have < a.Value {
		return refuse(c.funds, "account %s holds %s, less than %s", a.From, have, a.Value)
	}
	s.Nonces[key] = true
	return nil
}
