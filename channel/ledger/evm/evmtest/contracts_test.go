package evmtest

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// A stage is a chain with one party whose payer has tokens, and everybody gas.
type stage struct {
	*testing.T
	*Chain
	party    *ledgertest.Party
	stranger *channel.Key
}

func newStage(t *testing.T, place ...Contract) stage {
	c := Simulated(t, Config{Place: place})
	s := stage{t, c, ledgertest.NewParty(t, c.Params(), 1), ledgertest.Key(t, "stranger")}
	c.Fund(s.party.Config.Payer, s.party.Config.Receiver, s.stranger.Address())
	c.Mint(s.party.Config.Payer, 1000)
	return s
}

// do sends a call that must succeed.
func (s stage) do(from *channel.Key, call Call) *types.Receipt {
	s.Helper()
	if why := s.refusal(from, call); why != "" {
		s.Fatalf("refused: %s", why)
	}
	r := s.Chain.Send(from, call)
	if r.Status != types.ReceiptStatusSuccessful {
		s.Fatal("reverted")
	}
	return r
}

// refused sends a call that must be reverted with the error named.
func (s stage) refused(want string, from *channel.Key, call Call) {
	s.Helper()
	if why := s.refusal(from, call); why != want {
		s.Errorf("refused with %q, want %q", why, want)
	}
	if r := s.Chain.Send(from, call); r.Status != types.ReceiptStatusFailed {
		s.Error("not reverted")
	}
}

// refusal returns the error that a call would be reverted with, "" if it would not.
func (s stage) refusal(from *channel.Key, call Call) string {
	s.Helper()
	to := common.Address(call.To)
	_, err := s.Client.CallContract(s.Context(), ethereum.CallMsg{From: common.Address(from.Address()), To: &to, Data: call.Data}, nil)
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[rpc.DataError](err)
	if !ok {
		s.Fatalf("call: %v", err)
	}
	text, _ := e.ErrorData().(string)
	data, err := hexutil.Decode(text)
	if err != nil || len(data) < 4 {
		s.Fatalf("call: %v with data %v", e, e.ErrorData())
	}
	for _, contract := range []string{"X402BatchSettlement", "ERC3009DepositCollector"} {
		a, err := Compiled(contract)
		if err != nil {
			s.Fatal(err)
		}
		if named, err := a.ABI.ErrorByID([4]byte(data)); err == nil {
			return named.Name
		}
	}
	return e.Error()
}

func (s stage) settlement(method string, args ...any) Call {
	s.Helper()
	return Call{channel.SettlementContract(), pack(s, "X402BatchSettlement", method, args...)}
}

func TestDepositRefused(t *testing.T) {
	feeToken := channel.Address{0xfe, 0xe0}
	thief := channel.Address{0x71}
	s := newStage(t, TokenAt(feeToken, "FeeToken", "FEE", "1"), Contract{Address: thief, Name: "Thief"})
	p := s.party
	op := p.DepositOp(t, 600)
	data := collectorData(t, op)
	collector := common.Address(channel.ERC3009Collector())
	deposit := func(change func(*channel.Config), amount int64, collector common.Address) Call {
		config := p.Config
		change(&config)
		return s.settlement("deposit", configOf(config), big.NewInt(amount), collector, data)
	}
	same := func(*channel.Config) {}
	s.refused("ZeroDeposit", s.stranger, deposit(same, 0, collector))
	s.refused("InvalidCollector", s.stranger, deposit(same, 600, common.Address{}))
	s.refused("InvalidChannel", s.stranger, deposit(func(c *channel.Config) { c.Payer = channel.Address{} }, 600, collector))
	s.refused("InvalidChannel", s.stranger, deposit(func(c *channel.Config) { c.Receiver = channel.Address{} }, 600, collector))
	s.refused("InvalidChannel", s.stranger, deposit(func(c *channel.Config) { c.ReceiverAuthorizer = channel.Address{} }, 600, collector))
	s.refused("InvalidChannel", s.stranger, deposit(func(c *channel.Config) { c.Token = channel.Address{} }, 600, collector))
	s.refused("WithdrawDelayOutOfRange", s.stranger, deposit(func(c *channel.Config) { c.WithdrawDelay = 899 }, 600, collector))
	s.refused("WithdrawDelayOutOfRange", s.stranger, deposit(func(c *channel.Config) { c.WithdrawDelay = 30*86400 + 1 }, 600, collector))
	s.refused("execution reverted: invalid signature", s.stranger, deposit(same, 601, collector))
	s.refused("Reentered", s.stranger, deposit(same, 600, common.Address(thief)))
	s.refused("DepositCollectionFailed", s.stranger,
		s.settlement("deposit", configOf(p.Config), big.NewInt(600), common.Address(thief), []byte{}))
	s.refused("OnlyX402BatchSettlement", s.stranger, Call{channel.ERC3009Collector(), pack(t, "ERC3009DepositCollector", "collect",
		common.Address(p.Config.Payer), common.Address(Token()), big.NewInt(600), p.ID, data)})

	// A token that keeps a part of each transfer.
	params := p.Params
	params.Token, params.Name, params.Version = feeToken, "FEE", "1"
	q := ledgertest.NewParty(t, params, 1)
	s.do(s.stranger, Call{feeToken, pack(t, "FeeToken", "mint", common.Address(q.Config.Payer), big.NewInt(1000))})
	s.refused("execution reverted: balance too low", s.stranger, CallOf(t, q.DepositOp(t, 600)))

	s.do(s.stranger, CallOf(t, op))
	s.refused("execution reverted: authorization is used", s.stranger, CallOf(t, op))
}

// TestRefused: what is not theirs, not due or not there.
func TestRefused(t *testing.T) {
	s := newStage(t)
	p := s.party
	claim := func(rows ...x402.VoucherClaim) Call {
		op, err := ledger.ClaimOf(x402.SignClaim(p.Receiver, p.Params.Domain(), rows))
		if err != nil {
			t.Fatal(err)
		}
		return CallOf(t, op)
	}
	withdraw := func(step string, amount channel.Amount) Call { return CallOf(t, p.WithdrawOp(t, step, amount, 0)) }
	s.do(s.stranger, CallOf(t, p.DepositOp(t, 600)))
	s.refused("ClaimExceedsBalance", s.stranger, claim(p.Row(601, 601)))
	s.refused("ClaimExceedsCeiling", s.stranger, claim(p.Row(100, 101)))
	other := ledgertest.NewParty(t, p.Params, 2)
	s.refused("NotReceiverAuthorizer", s.stranger, claim(p.Row(100, 100), other.Row(1, 1)))
	s.do(s.stranger, claim(p.Row(100, 100)))
	s.do(s.stranger, claim(p.Row(0, 100), p.Row(0, 50))) // too old to be looked at
	s.refused("InvalidRefundNonce", s.stranger, CallOf(t, p.RefundOp(t, 10, 1)))
	forged := p.RefundOp(t, 10, 0)
	forged.Amount++
	s.refused("InvalidSignature", s.stranger, CallOf(t, forged))

	s.refused("WithdrawalNotPending", p.Payer, withdraw(x402.WithdrawFinalize, 0))
	s.refused("NotAuthorizedToWithdraw", s.stranger, withdraw(x402.WithdrawInitiate, 500))
	s.refused("WithdrawAmountOutOfRange", p.Payer, withdraw(x402.WithdrawInitiate, 0))
	s.refused("WithdrawAmountOutOfRange", p.Payer, withdraw(x402.WithdrawInitiate, 501))
	s.do(p.Payer, withdraw(x402.WithdrawInitiate, 500))
	s.refused("WithdrawalAlreadyPending", p.Payer, withdraw(x402.WithdrawInitiate, 1))
	s.refused("WithdrawDelayNotElapsed", p.Payer, withdraw(x402.WithdrawFinalize, 0))
	s.refused("NotAuthorizedToWithdraw", s.stranger, withdraw(x402.WithdrawFinalize, 0))

	// Of a claim and a refund that are one call, both happen or none.
	both := CallOf(t, p.RefundOp(t, 10, 1, p.Row(200, 200)))
	s.refused("InvalidRefundNonce", s.stranger, both)
	if got := s.Channel(p.ID).Claimed; got != 100 {
		t.Errorf("claimed is %s, want 100", got)
	}

	// A second before the end of the delay, and at its end.
	s.Advance(time.Duration(s.Channel(p.ID).WithdrawAt+ledgertest.Delay-2-s.Time()) * time.Second)
	s.refused("WithdrawDelayNotElapsed", p.Payer, withdraw(x402.WithdrawFinalize, 0))
	if r := s.Chain.Send(p.Payer, withdraw(x402.WithdrawFinalize, 0)); r.Status != types.ReceiptStatusSuccessful {
		t.Error("reverted at the end of the delay")
	}
	if got := s.Channel(p.ID); got != (ledger.Channel{Balance: 100, Claimed: 100}) {
		t.Errorf("channel is %+v", got)
	}
}

// TestWallet: the payer may be a contract, whose owner signs by EIP-1271.
func TestWallet(t *testing.T) {
	wallet := channel.Address{0x3a, 0x11}
	owner := ledgertest.Key(t, "payer 1")
	s := newStage(t, WalletAt(wallet, owner.Address()))
	p := s.party
	s.Mint(wallet, 1000)
	p.Config.Payer, p.Config.PayerAuthorizer = wallet, channel.Address{}
	p.ID = p.Params.Domain().ID(p.Config)
	execute := func(call Call) Call {
		return Call{wallet, pack(t, "Wallet", "execute", common.Address(call.To), call.Data)}
	}

	op := p.DepositOp(t, 600)
	forged := op
	forged.Signature = s.stranger.Sign(channel.Hash{})
	s.refused("execution reverted: invalid signature", s.stranger, CallOf(t, forged))
	s.do(s.stranger, CallOf(t, op))
	claim := p.ClaimOp(t, 200, 100)
	forged2 := claim
	forged2.Rows = []ledger.ClaimRow{claim.Rows[0]}
	forged2.Rows[0].Signature = s.stranger.Sign(p.Params.Domain().VoucherDigest(p.ID, 200))
	s.refused("InvalidSignature", s.stranger, CallOf(t, forged2))
	s.do(s.stranger, CallOf(t, claim))
	initiate := CallOf(t, p.WithdrawOp(t, x402.WithdrawInitiate, 500, 0))
	s.refused("NotAuthorizedToWithdraw", owner, initiate)
	s.do(owner, execute(initiate))
	want := ledger.Channel{Balance: 600, Claimed: 100, WithdrawAmount: 500, WithdrawAt: s.Time()}
	if got := s.Channel(p.ID); got != want {
		t.Errorf("channel is %+v, want %+v", got, want)
	}
}

// TestDirect: the receiver's side may act without a signature, others may not.
func TestDirect(t *testing.T) {
	s := newStage(t)
	p := s.party
	s.do(s.stranger, CallOf(t, p.DepositOp(t, 600)))
	rows := claimsOf(p.ClaimOp(t, 200, 100).Rows)
	s.refused("EmptyBatch", p.Receiver, s.settlement("claim", []voucherClaim{}))
	s.refused("EmptyBatch", p.Receiver, s.settlement("claimWithSignature", []voucherClaim{}, []byte{}))
	s.refused("NotAuthorizedToClaim", s.stranger, s.settlement("claim", rows))
	s.refused("NotAuthorizedToRefund", s.stranger, s.settlement("refund", configOf(p.Config), big.NewInt(1)))
	s.do(p.Receiver, s.settlement("claim", rows))
	s.refused("ZeroRefund", p.Receiver, s.settlement("refund", configOf(p.Config), big.NewInt(0)))
	s.do(p.Receiver, s.settlement("refund", configOf(p.Config), big.NewInt(1<<40)))
	want := ledger.Channel{Balance: 100, Claimed: 100, RefundNonce: 1}
	if got := s.Channel(p.ID); got != want {
		t.Errorf("channel is %+v, want %+v", got, want)
	}
	// Nothing is left: the nonce is used up all the same, and nobody is told.
	if r := s.do(s.stranger, CallOf(t, p.RefundOp(t, 5, 1))); len(r.Logs) != 0 {
		t.Errorf("a refund of nothing has %d logs", len(r.Logs))
	}
	want.RefundNonce = 2
	if got := s.Channel(p.ID); got != want {
		t.Errorf("channel is %+v, want %+v", got, want)
	}
}

// TestSettled: the facilitators of others read the amount from this event.
func TestSettled(t *testing.T) {
	s := newStage(t)
	p := s.party
	s.do(s.stranger, CallOf(t, p.DepositOp(t, 600)))
	s.do(s.stranger, CallOf(t, p.ClaimOp(t, 200, 100)))
	a, err := Compiled("X402BatchSettlement")
	if err != nil {
		t.Fatal(err)
	}
	amounts := func(r *types.Receipt) (found []uint64) {
		for _, l := range r.Logs {
			if l.Topics[0] != a.ABI.Events["Settled"].ID {
				continue
			}
			v, err := a.ABI.Unpack("Settled", l.Data)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, v[0].(*big.Int).Uint64())
			for i, who := range []channel.Address{p.Config.Receiver, Token(), s.stranger.Address()} {
				if common.BytesToAddress(l.Topics[i+1][:]) != common.Address(who) {
					t.Errorf("topic %d is %s, want %s", i+1, l.Topics[i+1], who)
				}
			}
		}
		return found
	}
	if got := amounts(s.do(s.stranger, CallOf(t, p.Settle()))); len(got) != 1 || got[0] != 100 {
		t.Errorf("settled %v, want 100", got)
	}
	if got := amounts(s.do(s.stranger, CallOf(t, p.Settle()))); len(got) != 0 {
		t.Errorf("settled %v, want nothing", got)
	}
}

// The structs of Multicall3's ABI.
type (
	call struct {
		Target   common.Address
		CallData []byte
	}
	call3 struct {
		Target       common.Address
		AllowFailure bool
		CallData     []byte
	}
	result = struct {
		Success    bool   `json:"success"`
		ReturnData []byte `json:"returnData"`
	}
)

func results(values []any) []result { return values[0].([]result) }

func TestMulticall3(t *testing.T) {
	s := newStage(t)
	p := s.party
	good := pack(t, "TestToken", "balanceOf", common.Address(p.Config.Payer))
	bad := pack(t, "TestToken", "transfer", common.Address{}, big.NewInt(1))
	token := common.Address(Token())
	check := func(values []any) {
		t.Helper()
		got := results(values)
		if len(got) != 2 || !got[0].Success || new(big.Int).SetBytes(got[0].ReturnData).Int64() != 1000 || got[1].Success {
			t.Errorf("got %+v", got)
		}
	}
	check(s.View(Multicall3(), "Multicall3", "tryAggregate", false, []call{{token, good}, {token, bad}}))
	check(s.View(Multicall3(), "Multicall3", "aggregate3", []call3{{token, false, good}, {token, true, bad}}))
	s.refused("execution reverted: Multicall3: call failed", s.stranger,
		Call{Multicall3(), pack(t, "Multicall3", "tryAggregate", true, []call{{token, good}, {token, bad}})})
	s.refused("execution reverted: Multicall3: call failed", s.stranger,
		Call{Multicall3(), pack(t, "Multicall3", "aggregate3", []call3{{token, false, bad}})})
}
