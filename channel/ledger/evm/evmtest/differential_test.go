package evmtest

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// TestDifferential lets three parties do things at random, rightly and wrongly,
// on a ledger without a fee and on the contract: both accept the same and hold
// the same after every step.
func TestDifferential(t *testing.T) {
	seeds, steps := []uint64{1}, 200
	if os.Getenv("X402_SOAK") != "" {
		seeds, steps = []uint64{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()}, 500
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { newDuel(t, seed).run(steps) })
	}
}

const parties = 3

// bank is where redeemed credit goes on the chain.
var bank = channel.Address{0xba}

// A duel is one history on two homes.
type duel struct {
	*testing.T
	rng     *rand.Rand
	chain   *Chain
	memory  *ledger.Memory
	history *ledgertest.History
	parties [parties]*ledgertest.Party
	applied map[ledger.Kind]int
	refused map[string]int
}

func newDuel(t *testing.T, seed uint64) *duel {
	c := Simulated(t, Config{})
	d := &duel{
		T: t, rng: rand.New(rand.NewPCG(seed, 11)), chain: c, memory: ledger.NewMemory(c.Params()),
		history: ledgertest.NewHistory(t, c.Params(), parties), applied: map[ledger.Kind]int{}, refused: map[string]int{},
	}
	for i := range parties {
		d.parties[i] = d.history.Party(byte(i))
		c.Fund(d.parties[i].Config.Payer)
	}
	// From here on each block is one second after the one before, whatever the
	// clock says, so that the next one's time is known.
	c.Advance(time.Hour)
	return d
}

func (d *duel) run(steps int) {
	for _, p := range d.parties { // something to work with
		d.step(p.Issue(1<<24), func() {})
		d.step(p.DepositOp(d, 1<<20), func() {})
	}
	for n := range steps {
		who := byte(d.rng.UintN(parties))
		op := d.edge(d.parties[who])
		if d.rng.UintN(4) > 0 {
			amount := channel.Amount(d.rng.Uint64N(1 << d.rng.UintN(22)))
			op = d.history.Op(d, byte(d.rng.UintN(ledgertest.Kinds)), who, amount)
		}
		if d.rng.UintN(5) == 0 {
			op = spoil(d.rng, op)
		}
		d.step(op, func() { d.history.Done(op, who) })
		if d.Failed() {
			d.Fatalf("after step %d, %T %+v", n, op, op)
		}
		if d.rng.UintN(2) == 0 {
			d.chain.Advance(time.Duration(1+d.rng.UintN(ledgertest.Delay)) * time.Second)
		}
	}
	if _, err := d.memory.Audit(d.Context()); err != nil {
		d.Error(err)
	}
	for k := ledger.KindIssue; k <= ledger.KindFinalizeWithdraw; k++ {
		if d.applied[k] == 0 {
			d.Errorf("no %s was applied: the history tests little", k)
		}
	}
	d.Logf("applied %v, refused %v", d.applied, d.refused)
}

// edge returns an operation just within or just beyond what the contract allows.
func (d *duel) edge(p *ledgertest.Party) ledger.Op {
	s, err := d.memory.Read(d.Context(), ledger.Touch{Channels: []channel.ID{p.ID}})
	if err != nil {
		d.Fatal(err)
	}
	c := s.Channels[p.ID]
	rest, over := c.Balance-c.Claimed, channel.Amount(d.rng.UintN(2))
	switch d.rng.UintN(6) {
	case 0:
		return d.claim(p, p.Row(c.Balance+over, c.Balance+over))
	case 1:
		return d.claim(p, p.Row(c.Claimed+rest/8, c.Claimed+rest/8+over))
	case 2: // two rows that are too old to be looked at, two that count
		return d.claim(p, p.Row(0, c.Claimed), p.Row(c.Balance, c.Claimed+rest/8), p.Row(0, c.Claimed/2), p.Row(c.Balance, c.Claimed+rest/4))
	case 3:
		return p.RefundOp(d, rest/4, c.RefundNonce+uint64(over))
	case 4:
		return p.RefundOp(d, rest+over, c.RefundNonce)
	default:
		return p.WithdrawOp(d, x402.WithdrawInitiate, rest+over, c.WithdrawNonce)
	}
}

func (d *duel) claim(p *ledgertest.Party, rows ...x402.VoucherClaim) ledger.Op {
	op, err := ledger.ClaimOf(x402.SignClaim(p.Receiver, d.chain.Params().Domain(), rows))
	if err != nil {
		d.Fatal(err)
	}
	return op
}

// step runs op on both homes and compares them.
func (d *duel) step(op ledger.Op, done func()) {
	before := d.onLedger()
	tx := ledger.Tx{Time: d.chain.Time() + 1, Op: op}
	r, err := d.memory.Submit(d.Context(), tx)
	refusal, isRefusal := errors.AsType[*ledger.RefusedError](err)
	switch {
	case err != nil && !isRefusal:
		d.Fatalf("%T: %v", op, err)
	case isRefusal:
		d.refused[refusal.Code]++
		d.refuse(op, refusal)
	case r.Height <= before.Totals.Height:
		d.repeat(op)
	default:
		d.applied[r.Kind]++
		done()
		if receipt := d.send(op); receipt.Status != types.ReceiptStatusSuccessful {
			d.Errorf("%T was applied to the ledger and reverted by the contract", op)
		}
		if got := d.chain.Time(); got != tx.Time {
			d.Fatalf("the block's time is %d, not %d", got, tx.Time)
		}
	}
	if diff := cmp.Diff(d.onLedger().books, d.onChain()); diff != "" {
		d.Errorf("-ledger +chain:\n%s", diff)
	}
}

// repeat sends what the ledger has already done and answers from its journal:
// the contract refuses it or does nothing. It knows no repeated withdrawals,
// since the payer sends those himself and means it.
func (d *duel) repeat(op ledger.Op) {
	switch op.(type) {
	case ledger.Issue, ledger.Redeem, ledger.InitiateWithdraw, ledger.FinalizeWithdraw:
	default:
		d.send(op)
	}
}

// idle are refusals of what the contract would turn into nothing.
var idle = []string{x402.ErrClaimFailed, x402.ErrNothingToSettle, x402.ErrRefundNoBalance, x402.ErrChannelNotFound, x402.ErrExactValue}

// refuse sends what the ledger has refused.
func (d *duel) refuse(op ledger.Op, why *ledger.RefusedError) {
	switch op.(type) {
	case ledger.Issue:
		return // the operator's; the token mints anything
	case ledger.InitiateWithdraw, ledger.FinalizeWithdraw:
		if why.Code == x402.ErrWithdrawNonce || why.Code == x402.ErrWithdrawSignature {
			return // the contract goes by the sender
		}
	case ledger.Redeem:
		if why.Code == x402.ErrAmount {
			return
		}
	}
	from, call := d.call(op)
	to := common.Address(call.To)
	_, err := d.chain.Client.CallContract(d.Context(), ethereum.CallMsg{From: common.Address(from.Address()), To: &to, Data: call.Data}, nil)
	switch {
	case err != nil:
		if r := d.chain.Send(from, call); r.Status != types.ReceiptStatusFailed {
			d.Errorf("%T was refused by the ledger (%v) and accepted by the contract", op, why)
		}
	case !slices.Contains(idle, why.Code):
		d.Errorf("%T was refused by the ledger (%v) and the contract would accept it", op, why)
	case why.Code == x402.ErrClaimFailed || why.Code == x402.ErrNothingToSettle:
		d.chain.Send(from, call) // nothing must change
	default:
		// A refund of nothing uses up its nonce, a payment of nothing too: such
		// are never sent.
	}
}

// send does what op says on the chain.
func (d *duel) send(op ledger.Op) *types.Receipt {
	from, call := d.call(op)
	return d.chain.Send(from, call)
}

func (d *duel) call(op ledger.Op) (*channel.Key, Call) {
	switch op := op.(type) {
	case ledger.Issue:
		return d.chain.faucet, Call{Token(), pack(d, "TestToken", "mint", common.Address(op.To), units(op.Amount))}
	case ledger.Redeem:
		return d.payer(op.From), Call{Token(), pack(d, "TestToken", "transfer", common.Address(bank), units(op.Amount))}
	case ledger.InitiateWithdraw:
		return d.payer(op.Config.Payer), CallOf(d, op)
	case ledger.FinalizeWithdraw:
		return d.payer(op.Config.Payer), CallOf(d, op)
	}
	return d.chain.faucet, CallOf(d, op)
}

func (d *duel) payer(a channel.Address) *channel.Key {
	for _, p := range d.parties {
		if p.Config.Payer == a {
			return p.Payer
		}
	}
	d.Fatalf("nobody pays from %s", a)
	return nil
}

// books is what both homes must agree on.
type books struct {
	Escrow    channel.Amount // in the contract: unclaimed and unsettled
	Parties   [parties]balances
	Redeemed  channel.Amount
	Collector channel.Amount
}

type balances struct {
	Payer, Receiver channel.Amount
	Channel         ledger.Channel
	Earned          ledger.Receiver
}

// onChain reads everything in one call.
func (d *duel) onChain() (b books) {
	r := reads{chain: d.chain}
	balance := func(of channel.Address, v *channel.Amount) {
		r.add(Token(), "TestToken", "balanceOf", []any{common.Address(of)}, (*uint64)(v))
	}
	view := func(method string, args []any, to ...*uint64) {
		r.add(channel.SettlementContract(), "X402BatchSettlement", method, args, to...)
	}
	balance(channel.SettlementContract(), &b.Escrow)
	balance(bank, &b.Redeemed)
	balance(channel.ERC3009Collector(), &b.Collector)
	for i, p := range d.parties {
		x := &b.Parties[i]
		balance(p.Config.Payer, &x.Payer)
		balance(p.Config.Receiver, &x.Receiver)
		view("receivers", []any{common.Address(p.Config.Receiver), common.Address(Token())}, (*uint64)(&x.Earned.Claimed), (*uint64)(&x.Earned.Settled))
		view("channels", []any{p.ID}, (*uint64)(&x.Channel.Balance), (*uint64)(&x.Channel.Claimed))
		view("pendingWithdrawals", []any{p.ID}, (*uint64)(&x.Channel.WithdrawAmount), &x.Channel.WithdrawAt)
		view("refundNonce", []any{p.ID}, &x.Channel.RefundNonce)
	}
	r.run()
	return b
}

// reads are calls of views that are made together; each puts its numbers somewhere.
type reads struct {
	chain *Chain
	calls []call3
	to    [][]*uint64
}

func (r *reads) add(at channel.Address, contract, method string, args []any, to ...*uint64) {
	r.calls = append(r.calls, call3{common.Address(at), false, pack(r.chain.t, contract, method, args...)})
	r.to = append(r.to, to)
}

func (r *reads) run() {
	for i, answer := range results(r.chain.View(Multicall3(), "Multicall3", "aggregate3", r.calls)) {
		for n, to := range r.to[i] {
			*to = uint64(r.chain.amount(new(big.Int).SetBytes(answer.ReturnData[32*n : 32*n+32])))
		}
	}
}

type ledgerBooks struct {
	books
	Totals ledger.Totals
}

func (d *duel) onLedger() (b ledgerBooks) {
	var t ledger.Touch
	for _, p := range d.parties {
		t.Accounts = append(t.Accounts, p.Config.Payer, p.Config.Receiver)
		t.Receivers = append(t.Receivers, p.Config.Receiver)
		t.Channels = append(t.Channels, p.ID)
	}
	s, err := d.memory.Read(d.Context(), t)
	if err != nil {
		d.Fatal(err)
	}
	b.Totals = s.Totals
	b.Escrow, b.Redeemed = s.Totals.Escrow+s.Totals.Unsettled, s.Totals.Redeemed
	for i, p := range d.parties {
		c := s.Channels[p.ID]
		c.Config, c.WithdrawNonce, c.LastClaim = channel.Config{}, 0, 0 // the contract has none of these
		b.Parties[i] = balances{s.Accounts[p.Config.Payer], s.Accounts[p.Config.Receiver], c, s.Receivers[p.Config.Receiver]}
	}
	return b
}

// spoil returns op with something wrong with it: a signature, or what was signed.
func spoil(rng *rand.Rand, op ledger.Op) ledger.Op {
	switch op := op.(type) {
	case ledger.Transfer:
		if rng.UintN(2) == 0 {
			op.Authorization.Value++
		}
		op.Signature = forge(rng, op.Signature)
		return op
	case ledger.Deposit:
		switch rng.UintN(5) {
		case 0:
			op.Amount++
		case 1:
			op.Config.Receiver[3]++ // another channel than was signed for
		case 2:
			op.Config.WithdrawDelay = []uint64{0, 899, 30*86400 + 1}[rng.UintN(3)]
		case 3:
			op.ValidBefore = 5
		default:
			op.Signature = forge(rng, op.Signature)
		}
		return op
	case ledger.Claim:
		rows := slices.Clone(op.Rows)
		switch rng.UintN(4) {
		case 0:
			op.Signature = forge(rng, op.Signature)
		case 1:
			rows[0].TotalClaimed++
		case 2:
			rows[0].Config.Receiver[3]++
		default:
			rows[0].Signature = forge(rng, rows[0].Signature)
		}
		op.Rows = rows
		return op
	case ledger.Refund:
		if rng.UintN(2) == 0 {
			op.Nonce++
		}
		op.Signature = forge(rng, op.Signature)
		return op
	}
	return op
}

// forge returns a signature that no contract accepts: of another key, or the
// other forms that have the same meaning to careless code.
func forge(rng *rand.Rand, sig channel.Signature) channel.Signature {
	switch rng.UintN(3) {
	case 0:
		sig[rng.UintN(64)] ^= 1 << rng.UintN(8)
	case 1:
		sig[64] -= 27
	default: // the upper s
		order, _ := new(big.Int).SetString("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)
		order.Sub(order, new(big.Int).SetBytes(sig[32:64])).FillBytes(sig[32:64])
		sig[64] ^= 27 ^ 28
	}
	return sig
}
