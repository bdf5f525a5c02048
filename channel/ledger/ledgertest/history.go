package ledgertest

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/x402"
)

// A History turns numbers into operations: what parties of one ledger might do
// next, rightly or wrongly. It needs no memory of what went before beyond the
// newest nonces, which it follows.
type History struct {
	parties []*Party
	last    ledger.Op
	refunds []uint64
	steps   []uint64
}

// Kinds is how many kinds of operation Op tells apart. The last is to repeat the
// operation before.
const Kinds = 12

// NewHistory returns the history of n parties.
func NewHistory(t testing.TB, p ledger.Params, n int) *History {
	h := &History{refunds: make([]uint64, n), steps: make([]uint64, n)}
	for i := range n {
		h.parties = append(h.parties, NewParty(t, p, i))
	}
	return h
}

// Party returns the party that the number says, as it does for Op.
func (h *History) Party(who byte) *Party { return h.parties[int(who)%len(h.parties)] }

// Op returns an operation of the kind, party and amount that the numbers say.
func (h *History) Op(t testing.TB, kind, who byte, amount channel.Amount) ledger.Op {
	t.Helper()
	i := int(who) % len(h.parties)
	p := h.parties[i]
	op := ledger.Op(p.Settle())
	switch kind % Kinds {
	case 0:
		op = p.Issue(amount)
	case 1:
		op = ledger.Redeem{Ref: p.salt(), From: p.Config.Payer, Amount: amount}
	case 2:
		op = ledger.TransferOf(p.Transfer(amount))
	case 3, 4:
		op = p.DepositOp(t, amount)
	case 5:
		op = p.ClaimOp(t, amount, amount-amount/4)
	case 6:
		op = p.RefundOp(t, amount, h.refunds[i])
	case 7:
		op = p.RefundOp(t, amount, h.refunds[i], p.Row(amount/2, amount/3))
	case 8:
		op = p.WithdrawOp(t, x402.WithdrawInitiate, amount, h.steps[i])
	case 9:
		op = p.WithdrawOp(t, x402.WithdrawFinalize, 0, h.steps[i])
	case 10: // settle
	case 11:
		if h.last != nil {
			return h.last // again
		}
	}
	h.last = op
	return op
}

// Done tells the history that an operation of who was applied.
func (h *History) Done(op ledger.Op, who byte) {
	i := int(who) % len(h.parties)
	switch op := op.(type) {
	case ledger.Refund:
		if h.parties[i].Config == op.Config {
			h.refunds[i] = op.Nonce + 1
		}
	case ledger.InitiateWithdraw:
		if h.parties[i].Config == op.Config {
			h.steps[i] = op.Nonce + 1
		}
	}
}

// testHistories lets three parties do many things at random. The audit at the
// end adds it all up.
func testHistories(b *bench) {
	rng := rand.New(rand.NewPCG(1, 2))
	h := NewHistory(b, b.home.Params(), 3)
	steps, applied := 400, 0
	if b.chain != nil {
		steps = 60 // each is a block
	}
	for range steps {
		who := byte(rng.UintN(3))
		amount := channel.Amount(rng.Uint64N(1 << rng.UintN(24)))
		op := h.Op(b, byte(rng.UintN(Kinds)), who, amount)
		_, err := b.submit(op)
		if _, ok := errors.AsType[*ledger.RefusedError](err); err != nil && !ok {
			b.Fatal(err)
		}
		if err == nil {
			h.Done(op, who)
			applied++
		}
		b.advance(rng.Uint64N(Delay))
		if err := b.totals().Check(); err != nil {
			b.Fatal(err)
		}
	}
	if applied < steps/4 {
		b.Errorf("only %d of %d operations were applied: the history tests little", applied, steps)
	}
}
