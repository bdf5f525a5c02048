package ledgertest

import (
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

var stateOptions = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(ledger.State{}, "Time")}

func testRefund(b *bench) {
	p := b.party
	b.refused(x402.ErrChannelNotFound, p.RefundOp(b, 1, 0))
	b.do(p.Issue(1000))
	b.do(p.DepositOp(b, 1000))
	b.refused(x402.ErrRefundFailed, p.RefundOp(b, 10, 1)) // wrong nonce
	b.refused(x402.ErrRefundAmount, p.RefundOp(b, 0, 0))
	bad := p.RefundOp(b, 10, 0)
	bad.Amount = 1000
	b.refused(x402.ErrRefundFailed, bad)

	r := b.do(p.RefundOp(b, 100, 0)) // partial
	b.want("refund", r.Amount, 100)
	b.want("balance", b.channel(p).Balance, 900)

	// Claim and refund of all the rest, in one.
	r = b.do(p.RefundOp(b, 1<<63, 1, p.Row(300, 250)))
	b.want("refund", r.Amount, 650)
	b.want("claimed", b.channel(p).Claimed, 250)
	b.want("payer", b.balance(p.Payer), 750)
	b.refused(x402.ErrRefundNoBalance, p.RefundOp(b, 1, 2))

	// If the claim is bad, nothing of both happens.
	b.do(p.DepositOp(b, 100))
	b.refused(x402.ErrClaimFailed, p.RefundOp(b, 50, 2, p.Row(300, 301)))
}

func testWithdraw(b *bench) {
	p := b.party
	b.refused(x402.ErrChannelNotFound, p.WithdrawOp(b, x402.WithdrawInitiate, 1, 0))
	b.do(p.Issue(1000))
	b.do(p.DepositOp(b, 1000))
	b.refused(x402.ErrWithdrawNotPending, p.WithdrawOp(b, x402.WithdrawFinalize, 0, 0))
	b.refused(x402.ErrWithdrawAmount, p.WithdrawOp(b, x402.WithdrawInitiate, 0, 0))
	b.refused(x402.ErrWithdrawAmount, p.WithdrawOp(b, x402.WithdrawInitiate, 1001, 0))
	if b.chain == nil { // there the payer's account sends it
		testWithdrawSignature(b)
	}

	b.do(p.WithdrawOp(b, x402.WithdrawInitiate, 800, 0))
	b.refused(x402.ErrWithdrawPending, p.WithdrawOp(b, x402.WithdrawInitiate, 100, 1))
	b.advance(Delay - 1)
	b.refused(x402.ErrWithdrawDelay, p.WithdrawOp(b, x402.WithdrawFinalize, 0, 1))
	b.advance(1)
	r := b.do(p.WithdrawOp(b, x402.WithdrawFinalize, 0, 1))
	b.want("withdrawal", r.Amount, 800)
	b.want("payer", b.balance(p.Payer), 800)
	b.want("balance", b.channel(p).Balance, 200)
	b.refused(x402.ErrClaimFailed, p.ClaimOp(b, 201, 201)) // the voucher has lost its cover

	// A refund reduces a pending withdrawal, and one that covers it ends it.
	b.do(p.WithdrawOp(b, x402.WithdrawInitiate, 150, 1))
	b.do(p.RefundOp(b, 100, 0))
	b.want("pending", b.channel(p).WithdrawAmount, 50)
	b.do(p.RefundOp(b, 60, 1))
	if c := b.channel(p); c.WithdrawAt != 0 || c.WithdrawAmount != 0 {
		b.Errorf("a refund left a withdrawal pending: %+v", c)
	}
}

func testWithdrawSignature(b *bench) {
	p := b.party
	b.refused(x402.ErrWithdrawNonce, p.WithdrawOp(b, x402.WithdrawInitiate, 1000, 1))
	thief := p.Withdraw(x402.WithdrawInitiate, 1000, 0)
	thief.Signature = Key(b, "thief").Sign(thief.Digest(p.Params.Domain()))
	op, err := ledger.WithdrawOf(thief, p.Config)
	if err != nil {
		b.Fatal(err)
	}
	b.refused(x402.ErrWithdrawSignature, op)
}

// testWithdrawRace: claims that come before the end of the delay go first.
func testWithdrawRace(b *bench) {
	p := b.party
	b.do(p.Issue(1000))
	b.do(p.DepositOp(b, 1000))
	b.do(p.WithdrawOp(b, x402.WithdrawInitiate, 1000, 0))
	b.advance(Delay) // late, but not finalized yet
	b.want("claim", b.do(p.ClaimOp(b, 700, 700)).Amount, 700)
	r := b.do(p.WithdrawOp(b, x402.WithdrawFinalize, 0, 1))
	b.want("withdrawal", r.Amount, 300)
	b.want("settlement", b.do(p.Settle()).Amount, 700)
	b.want("escrow", b.escrow(p), 0)
}

func testTransfer(b *bench) {
	p := b.party
	b.do(p.Issue(1000))
	op := ledger.TransferOf(p.Transfer(400))
	bad := op
	bad.Authorization.Value = 401
	b.refused(x402.ErrExactSignature, bad)
	bad = op
	bad.Authorization.To = channel.Address{}
	b.refused(x402.ErrExactRecipient, bad)
	bad = op
	bad.Authorization.ValidBefore = b.now()
	b.refused(x402.ErrExactValidBefore, bad)
	bad = op
	bad.Authorization.ValidAfter = b.now()
	b.refused(x402.ErrExactValidAfter, bad)
	b.refused(x402.ErrInsufficientFunds, ledger.TransferOf(p.Transfer(1001)))
	b.do(op)
	b.want("payer", b.balance(p.Payer), 600)
	b.want("receiver", b.balance(p.Receiver), 400)
	self := p.Transfer(100) // to oneself: neither made nor lost
	self.Authorization.To = p.Config.Payer
	self.Signature = p.Payer.Sign(p.Params.Asset().TransferDigest(self.Authorization.Standard()))
	b.do(ledger.TransferOf(self))
	b.want("payer", b.balance(p.Payer), 600)
}

func testOperator(b *bench) {
	p := b.party
	if b.chain != nil { // whose token nobody here issues
		for _, op := range []ledger.Op{p.Issue(1), ledger.Redeem{From: p.Config.Payer, Amount: 1}} {
			_, err := b.home.Submit(b.Context(), ledger.Tx{Time: b.now(), Op: op})
			if r, ok := errors.AsType[*ledger.RefusedError](err); !ok || r.Code != x402.ErrNotOnChain {
				b.Errorf("%T: %v, want refusal %s", op, err, x402.ErrNotOnChain)
			}
		}
		return
	}
	b.refused(x402.ErrAmount, p.Issue(0))
	zero := p.Issue(1)
	zero.To = channel.Address{}
	b.refused(x402.ErrAddress, zero)
	long := p.Issue(1)
	long.Memo = string(make([]byte, ledger.MaxMemo+1))
	b.refused(x402.ErrMemo, long)
	b.do(p.Issue(1 << 63))
	b.refused(x402.ErrAmount, p.Issue(1<<63)) // more than can be counted

	redeem := ledger.Redeem{Ref: channel.Hash{1}, From: p.Config.Payer, Amount: 100, Memo: "paid out"}
	b.do(redeem)
	b.want("payer", b.balance(p.Payer), 1<<63-100)
	redeem.Ref, redeem.Amount = channel.Hash{2}, 1<<63
	b.refused(x402.ErrInsufficientFunds, redeem)
	if _, err := b.home.Submit(b.Context(), ledger.Tx{Op: p.Issue(1)}); err == nil {
		b.Error("a transaction without a time was applied")
	}
}

func is[T ledger.Op](op ledger.Op) bool { _, ok := op.(T); return ok }

// testRepeated: a client that did not see the answer asks again, and gets the
// answer that it missed.
func testRepeated(b *bench) {
	p := b.party
	steps := []ledger.Op{
		p.Issue(2000),
		p.DepositOp(b, 1000),
		p.ClaimOp(b, 400, 300),
		p.Settle(),
		p.RefundOp(b, 100, 0),
		ledger.TransferOf(p.Transfer(10)),
		p.WithdrawOp(b, x402.WithdrawInitiate, 100, 0),
		p.WithdrawOp(b, x402.WithdrawFinalize, 0, 1),
		ledger.Redeem{Ref: channel.Hash{9}, From: p.Config.Payer, Amount: 5},
	}
	if b.chain != nil {
		b.do(steps[0])
		steps = steps[1 : len(steps)-1] // who issues and redeems is elsewhere
	}
	claim, settle := slices.IndexFunc(steps, is[ledger.Claim]), slices.IndexFunc(steps, is[ledger.Settle])
	var receipts []ledger.Receipt
	for _, op := range steps {
		b.advance(Delay)
		r := b.do(op)
		b.advance(10)
		if again := b.do(op); again != r {
			b.Errorf("%s again: got %+v, want %+v", r.Kind, again, r)
		}
		receipts = append(receipts, r)
	}
	height := b.totals().Height
	for i, op := range steps { // much later, in any order
		if again := b.do(op); again != receipts[i] {
			b.Errorf("%s much later: got %+v, want %+v", again.Kind, again, receipts[i])
		}
	}
	// A claim of no more than was claimed is answered by what claimed it.
	if r := b.do(p.ClaimOp(b, 500, 300)); r != receipts[claim] {
		b.Errorf("claim of the same total: got %+v, want %+v", r, receipts[claim])
	}
	if got := b.totals().Height; got != height || b.chain == nil && height != uint64(len(steps)) {
		b.Errorf("height is %d, then %d, want %d", height, got, len(steps))
	}

	// The next settlement is another one.
	b.do(p.ClaimOp(b, 500, 350))
	if r := b.do(p.Settle()); r.Amount != 50 || r.Hash == receipts[settle].Hash {
		b.Errorf("second settlement: %+v", r)
	}
}
