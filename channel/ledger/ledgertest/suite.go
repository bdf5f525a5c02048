// Package ledgertest is the suite that every home of a ledger passes, and the
// two parties of a channel for other tests.
package ledgertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// A Home is a ledger under test.
type Home interface {
	Params() ledger.Params
	Submit(context.Context, ledger.Tx) (ledger.Receipt, error)
	Read(context.Context, ledger.Touch) (ledger.State, error)
	Audit(context.Context) (ledger.Report, error)
}

// A Chain is what a home has besides whose money is a chain's: it is made and
// withdrawn without the home's doing, and time is the chain's, not that of a
// transaction.
type Chain interface {
	Mint(to channel.Address, amount channel.Amount)
	Time() uint64
	Advance(time.Duration)
	// Withdraw sends what op says as a transaction of its payer's; the same op
	// again is the same transaction.
	Withdraw(context.Context, ledger.Op) (ledger.Receipt, error)
}

// Run tests a kind of home; open returns an empty one.
func Run(t *testing.T, open func(*testing.T) Home) {
	for name, test := range map[string]func(*bench){
		"life of a channel":            testLife,
		"deposit":                      testDeposit,
		"claim":                        testClaim,
		"claim pays only the receiver": testClaimReceiver,
		"fee":                          testFee,
		"refund":                       testRefund,
		"withdraw":                     testWithdraw,
		"withdraw against claims":      testWithdrawRace,
		"transfer":                     testTransfer,
		"operator":                     testOperator,
		"repeated":                     testRepeated,
		"histories":                    testHistories,
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			b := &bench{T: t, home: h, clock: 1_000_000}
			b.chain, _ = h.(Chain)
			b.party = NewParty(t, h.Params(), 1)
			test(b)
			if _, err := h.Audit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// bench is one test's home, clock and first party.
type bench struct {
	*testing.T
	home  Home
	chain Chain // nil: the home keeps a ledger of its own
	party *Party
	clock uint64 // of a ledger of its own
}

func (b *bench) now() uint64 {
	if b.chain != nil {
		return b.chain.Time()
	}
	return b.clock
}

// advance moves the clock by so many seconds.
func (b *bench) advance(seconds uint64) {
	if b.chain != nil && seconds > 0 {
		b.chain.Advance(time.Duration(seconds) * time.Second)
	}
	b.clock += seconds
}

// submit has an operation done by who does such things.
func (b *bench) submit(op ledger.Op) (ledger.Receipt, error) {
	if b.chain != nil {
		switch op := op.(type) {
		case ledger.Issue:
			b.chain.Mint(op.To, op.Amount)
			return ledger.Receipt{}, nil
		case ledger.InitiateWithdraw, ledger.FinalizeWithdraw:
			return b.chain.Withdraw(b.Context(), op)
		}
	}
	return b.home.Submit(b.Context(), ledger.Tx{Time: b.now(), Op: op})
}

// do submits an operation that must succeed.
func (b *bench) do(op ledger.Op) ledger.Receipt {
	b.Helper()
	r, err := b.submit(op)
	if err != nil {
		b.Fatalf("%T: %v", op, err)
	}
	return r
}

// refused submits an operation that must be refused with code, and must change
// nothing.
func (b *bench) refused(code string, op ledger.Op) {
	b.Helper()
	tx := ledger.Tx{Op: op}
	before := b.read(tx.Touches(b.home.Params()))
	_, err := b.submit(op)
	if r, ok := errors.AsType[*ledger.RefusedError](err); !ok || r.Code != code {
		b.Fatalf("%T: got %v, want refusal %s", op, err, code)
	}
	if diff := cmp.Diff(before, b.read(tx.Touches(b.home.Params())), stateOptions...); diff != "" {
		b.Fatalf("%T was refused and changed:\n%s", op, diff)
	}
}

func (b *bench) read(t ledger.Touch) ledger.State {
	b.Helper()
	s, err := b.home.Read(b.Context(), t)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *bench) balance(k *channel.Key) channel.Amount {
	b.Helper()
	return b.read(ledger.Touch{Accounts: []channel.Address{k.Address()}}).Accounts[k.Address()]
}

func (b *bench) channel(p *Party) ledger.Channel {
	b.Helper()
	return b.read(ledger.Touch{Channels: []channel.ID{p.ID}}).Channels[p.ID]
}

func (b *bench) totals() ledger.Totals {
	b.Helper()
	return b.read(ledger.Touch{}).Totals
}

// escrow is what the only channel holds unclaimed.
func (b *bench) escrow(p *Party) channel.Amount {
	b.Helper()
	c := b.channel(p)
	if b.chain == nil {
		b.want("escrow of all", b.totals().Escrow, c.Balance-c.Claimed)
	}
	return c.Balance - c.Claimed
}

func (b *bench) want(what string, got, want channel.Amount) {
	b.Helper()
	if got != want {
		b.Errorf("%s is %s, want %s", what, got, want)
	}
}

// testLife is the way every channel should go.
func testLife(b *bench) {
	p := b.party
	b.do(p.Issue(5_000_000))
	b.do(p.DepositOp(b, 2_000_000))
	b.want("escrow", b.escrow(p), 2_000_000)
	r := b.do(p.ClaimOp(b, 1_200_000, 1_000_000))
	b.want("claim", r.Amount, 1_000_000)
	rec := b.read(ledger.Touch{Receivers: []channel.Address{p.Config.Receiver}}).Receivers[p.Config.Receiver]
	b.want("unsettled", rec.Claimed-rec.Settled, 1_000_000)
	b.want("receiver before settling", b.balance(p.Receiver), 0)
	r = b.do(p.Settle())
	fee := p.Params.Fee(1_000_000)
	b.want("settlement", r.Amount, 1_000_000-fee)
	b.want("fee", r.Fee, fee)
	b.want("receiver", b.balance(p.Receiver), 1_000_000-fee)
	r = b.do(p.RefundOp(b, 1_000_000, 0))
	b.want("refund", r.Amount, 1_000_000)
	b.want("payer", b.balance(p.Payer), 4_000_000)
	want := ledger.Totals{Height: 5, Issued: 5_000_000, Accounts: 5_000_000 - fee, Fees: fee}
	if got := b.totals(); b.chain == nil && got != want {
		b.Errorf("totals are %+v, want %+v", got, want)
	}
	if c := b.channel(p); c.Balance != 1_000_000 || c.Claimed != 1_000_000 || c.RefundNonce != 1 {
		b.Errorf("channel is %+v", c)
	}
	b.do(p.DepositOp(b, 500)) // it can be used again
	b.do(p.ClaimOp(b, 1_000_500, 1_000_500))
	b.want("escrow", b.escrow(p), 0)
}

func testDeposit(b *bench) {
	p := b.party
	b.do(p.Issue(1000))
	op := p.DepositOp(b, 600)

	bad := op
	bad.Config.Token = channel.Address{1}
	b.refused(x402.ErrToken, bad)
	bad = op
	bad.Config.WithdrawDelay = 899
	b.refused(x402.ErrWithdrawDelayRange, bad)
	bad.Config.WithdrawDelay = 30*86400 + 1
	b.refused(x402.ErrWithdrawDelayRange, bad)
	bad = op
	bad.Config.PayerAuthorizer = channel.Address{}
	b.refused(x402.ErrDepositPayload, bad)
	bad = op
	bad.Config.ReceiverAuthorizer = channel.Address{}
	b.refused(x402.ErrDepositPayload, bad)
	bad = op
	bad.Config.Receiver = channel.Address{}
	b.refused(x402.ErrDepositPayload, bad)
	bad = op
	bad.Amount = 0
	b.refused(x402.ErrDepositPayload, bad)
	bad = op
	bad.Amount = 601 // not what was signed
	b.refused(x402.ErrReceiveSignature, bad)
	bad = op
	bad.Config.Receiver = Key(b, "thief").Address() // another channel than was signed
	b.refused(x402.ErrReceiveSignature, bad)
	bad = op
	bad.ValidAfter = b.now()
	b.refused(x402.ErrValidAfter, bad)
	bad = op
	bad.ValidBefore = b.now()
	b.refused(x402.ErrValidBefore, bad)
	b.refused(x402.ErrInsufficientBalance, p.DepositOp(b, 1001))

	b.do(op)
	b.want("escrow", b.escrow(p), 600)
	reused := op
	reused.Amount = 100 // the same nonce for another sum, rightly signed
	reused.Signature = p.Payer.Sign(p.Params.Asset().ReceiveDigest(x402.ERC3009Authorization{
		ValidBefore: x402.Decimal(op.ValidBefore), Salt: op.Salt}.For(p.ID, p.Config.Payer, 100)))
	b.refused(x402.ErrDepositFailed, reused)
	b.do(p.DepositOp(b, 400)) // top-up
	b.want("balance", b.channel(p).Balance, 1000)
}

func testClaim(b *bench) {
	p := b.party
	b.refused(x402.ErrClaimFailed, p.ClaimOp(b, 10, 10)) // no such channel
	b.do(p.Issue(1000))
	b.do(p.DepositOp(b, 1000))

	b.refused(x402.ErrClaimFailed, p.ClaimOp(b, 10, 11))     // above the voucher
	b.refused(x402.ErrClaimFailed, p.ClaimOp(b, 1001, 1001)) // above the balance
	op := p.ClaimOp(b, 100, 90)
	bad := op
	bad.Signature = Key(b, "thief").Sign(channel.Hash{})
	b.refused(x402.ErrClaimFailed, bad)
	stolen := p.Row(100, 90)
	stolen.Signature = Key(b, "thief").Sign(channel.Hash{})
	forged, err := ledger.ClaimOf(x402.SignClaim(p.Receiver, p.Params.Domain(), []x402.VoucherClaim{stolen}))
	if err != nil {
		b.Fatal(err)
	}
	b.refused(x402.ErrVoucherSignature, forged)
	b.refused(x402.ErrClaimPayload, ledger.Claim{})

	b.want("claim", b.do(op).Amount, 90)
	b.want("claim", b.do(p.ClaimOp(b, 100, 100)).Amount, 10)

	// A batch over two channels, of which one row is old.
	q := *p
	q.Config.Salt = channel.Hash{1}
	q.ID = p.Params.Domain().ID(q.Config)
	b.do(p.Issue(1000))
	b.do(q.DepositOp(b, 1000))
	batch, err := ledger.ClaimOf(x402.SignClaim(p.Receiver, p.Params.Domain(), []x402.VoucherClaim{p.Row(100, 50), q.Row(300, 200)}))
	if err != nil {
		b.Fatal(err)
	}
	b.want("batch", b.do(batch).Amount, 200)
	b.want("settlement", b.do(p.Settle()).Amount, 300)
	b.refused(x402.ErrToken, ledger.Settle{Receiver: p.Config.Receiver})

	// Rows of two authorizers do not go together.
	r := NewParty(b, p.Params, 2)
	mixed, err := ledger.ClaimOf(x402.SignClaim(p.Receiver, p.Params.Domain(), []x402.VoucherClaim{p.Row(110, 110), r.Row(1, 1)}))
	if err != nil {
		b.Fatal(err)
	}
	b.refused(x402.ErrAuthorizerMismatch, mixed)
}

// testClaimReceiver: whoever brings a claim, and whoever asks to settle, the
// money goes to the channel's receiver.
func testClaimReceiver(b *bench) {
	p, thief := b.party, Key(b, "thief")
	b.do(p.Issue(1000))
	b.do(p.DepositOp(b, 1000))
	diverted := p.Row(500, 500)
	diverted.Voucher.Channel.Receiver = thief.Address()
	op, err := ledger.ClaimOf(x402.SignClaim(p.Receiver, p.Params.Domain(), []x402.VoucherClaim{diverted}))
	if err != nil {
		b.Fatal(err)
	}
	b.refused(x402.ErrClaimFailed, op)
	b.do(p.ClaimOp(b, 500, 500))
	b.refused(x402.ErrNothingToSettle, ledger.Settle{Receiver: thief.Address(), Token: p.Params.Token})
	b.do(p.Settle())
	b.want("receiver", b.balance(p.Receiver), 500)
	b.want("thief", b.balance(thief), 0)
}

// testFee: the fee of a total does not depend on how often it was settled.
func testFee(b *bench) {
	p := b.party
	b.do(p.Issue(1_000_000))
	b.do(p.DepositOp(b, 1_000_000))
	var claimed, fees channel.Amount
	for _, step := range []channel.Amount{1, 99_998, 1, 100_000, 299_999, 1, 49_999} {
		claimed += step
		b.do(p.ClaimOp(b, claimed, claimed))
		r := b.do(p.Settle())
		fees += r.Fee
		b.want("settled", r.Amount+r.Fee, step)
		b.want("fees so far", fees, p.Params.Fee(claimed))
	}
	if b.chain == nil {
		b.want("fees", b.totals().Fees, fees)
	}
	b.want("receiver", b.balance(p.Receiver), claimed-fees)
}
