package ledgertest

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// Delay is the withdraw delay of a Party's channel, in seconds.
const Delay = 86_400

// A Party is a payer and a receiver with one channel between them. It signs
// what the two would sign; the names are derived, so that runs repeat.
type Party struct {
	Params   ledger.Params
	Payer    *channel.Key
	Receiver *channel.Key // also the receiver's authorizer
	Config   channel.Config
	ID       channel.ID

	salts uint64
}

// NewParty returns the party number n of a ledger.
func NewParty(t testing.TB, p ledger.Params, n int) *Party {
	t.Helper()
	c := &Party{Params: p, Payer: Key(t, fmt.Sprint("payer ", n)), Receiver: Key(t, fmt.Sprint("receiver ", n))}
	c.Config = channel.Config{
		Payer: c.Payer.Address(), PayerAuthorizer: c.Payer.Address(),
		Receiver: c.Receiver.Address(), ReceiverAuthorizer: c.Receiver.Address(),
		Token: p.Token, WithdrawDelay: Delay,
	}
	c.ID = p.Domain().ID(c.Config)
	return c
}

// Key returns the key of a name, always the same.
func Key(t testing.TB, name string) *channel.Key {
	t.Helper()
	h := channel.Keccak256([]byte(name))
	k, err := channel.ParseKey(h[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Issue gives the payer credit.
func (c *Party) Issue(amount channel.Amount) ledger.Issue {
	return ledger.Issue{Ref: c.salt(), To: c.Config.Payer, Amount: amount, Memo: "test"}
}

// Deposit returns a new deposit, with a voucher of what max says. It is valid
// until the end of time.
func (c *Party) Deposit(amount, max channel.Amount) x402.Deposit {
	return x402.DepositRequest{
		Domain: c.Params.Domain(), Token: c.Params.Asset(), Config: c.Config, Amount: amount,
		Voucher: c.Voucher(max), ValidBefore: 1<<63 - 1, Salt: c.salt(),
	}.Sign(c.Payer)
}

// DepositOp is Deposit as an operation.
func (c *Party) DepositOp(t testing.TB, amount channel.Amount) ledger.Deposit {
	t.Helper()
	op, err := ledger.DepositOf(c.Deposit(amount, 0))
	return checked(t, op, err)
}

// Voucher signs a voucher.
func (c *Party) Voucher(max channel.Amount) channel.Voucher {
	return c.Params.Domain().SignVoucher(c.Payer, c.ID, max)
}

// Row claims total of a voucher of max.
func (c *Party) Row(max, total channel.Amount) x402.VoucherClaim {
	return x402.VoucherClaim{
		Voucher:   x402.ClaimedVoucher{Channel: c.Config, Max: max},
		Signature: c.Voucher(max).Signature, TotalClaimed: total,
	}
}

// Claim claims total of a voucher of max.
func (c *Party) Claim(max, total channel.Amount) x402.Claim {
	return x402.SignClaim(c.Receiver, c.Params.Domain(), []x402.VoucherClaim{c.Row(max, total)})
}

// ClaimOp is Claim as an operation.
func (c *Party) ClaimOp(t testing.TB, max, total channel.Amount) ledger.Claim {
	t.Helper()
	op, err := ledger.ClaimOf(c.Claim(max, total))
	return checked(t, op, err)
}

// Settle settles the receiver.
func (c *Party) Settle() ledger.Settle {
	return ledger.Settle{Receiver: c.Config.Receiver, Token: c.Params.Token}
}

// Refund returns amount, after the claims in rows.
func (c *Party) Refund(amount channel.Amount, nonce uint64, rows ...x402.VoucherClaim) x402.Refund {
	return x402.RefundRequest{
		Domain: c.Params.Domain(), Config: c.Config, Voucher: c.Voucher(0),
		Amount: amount, Nonce: nonce, Claims: rows,
	}.Sign(c.Receiver)
}

// RefundOp is Refund as an operation.
func (c *Party) RefundOp(t testing.TB, amount channel.Amount, nonce uint64, rows ...x402.VoucherClaim) ledger.Refund {
	t.Helper()
	op, err := ledger.RefundOf(c.Refund(amount, nonce, rows...))
	return checked(t, op, err)
}

// Withdraw returns a step of a timed withdrawal.
func (c *Party) Withdraw(step string, amount channel.Amount, nonce uint64) x402.Withdraw {
	return x402.Withdraw{Step: step, Channel: c.ID, Amount: amount, Nonce: x402.Decimal(nonce)}.Sign(c.Payer, c.Params.Domain())
}

// WithdrawOp is Withdraw as an operation.
func (c *Party) WithdrawOp(t testing.TB, step string, amount channel.Amount, nonce uint64) ledger.Op {
	t.Helper()
	op, err := ledger.WithdrawOf(c.Withdraw(step, amount, nonce), c.Config)
	return checked(t, op, err)
}

// Transfer pays the receiver at once, by scheme exact.
func (c *Party) Transfer(amount channel.Amount) x402.Exact {
	a := x402.Authorization{From: c.Config.Payer, To: c.Config.Receiver, Value: amount, ValidBefore: 1<<63 - 1, Nonce: c.salt()}
	return x402.Exact{Authorization: a, Signature: c.Payer.Sign(c.Params.Asset().TransferDigest(a.Standard()))}
}

// salt never repeats within a party.
func (c *Party) salt() (h channel.Hash) {
	c.salts++
	binary.BigEndian.PutUint64(h[:], c.salts)
	copy(h[8:], c.Config.Payer[:])
	return h
}

func checked[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
