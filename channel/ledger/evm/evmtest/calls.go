package evmtest

import (
	"fmt"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// A Call is a call of a contract.
type Call struct {
	To   channel.Address
	Data []byte
}

// The structs of the contract's ABI.
type (
	channelConfig struct {
		Payer, PayerAuthorizer, Receiver, ReceiverAuthorizer, Token common.Address

		WithdrawDelay *big.Int
		Salt          [32]byte
	}
	voucher struct {
		Channel            channelConfig
		MaxClaimableAmount *big.Int
	}
	voucherClaim struct {
		Voucher      voucher
		Signature    []byte
		TotalClaimed *big.Int
	}
)

func configOf(c channel.Config) channelConfig {
	return channelConfig{
		common.Address(c.Payer), common.Address(c.PayerAuthorizer), common.Address(c.Receiver),
		common.Address(c.ReceiverAuthorizer), common.Address(c.Token), new(big.Int).SetUint64(c.WithdrawDelay), c.Salt,
	}
}

func claimsOf(rows []ledger.ClaimRow) []voucherClaim {
	claims := make([]voucherClaim, len(rows))
	for i, r := range rows {
		claims[i] = voucherClaim{voucher{configOf(r.Config), units(r.Max)}, r.Signature[:], units(r.TotalClaimed)}
	}
	return claims
}

func units(a channel.Amount) *big.Int { return new(big.Int).SetUint64(uint64(a)) }

// CallOf returns the call that does what op says. The two steps of a withdrawal
// are the payer's to send; for all others it does not matter who sends them.
// Issue and Redeem have none: mint, and transfer away, instead.
func CallOf(t testing.TB, op ledger.Op) Call {
	t.Helper()
	settlement := func(method string, args ...any) Call {
		return Call{channel.SettlementContract(), pack(t, "X402BatchSettlement", method, args...)}
	}
	switch op := op.(type) {
	case ledger.Transfer:
		a := op.Authorization
		return Call{Token(), pack(t, "TestToken", "transferWithAuthorization",
			common.Address(a.From), common.Address(a.To), units(a.Value), new(big.Int).SetUint64(a.ValidAfter),
			new(big.Int).SetUint64(a.ValidBefore), a.Nonce, op.Signature[:])}
	case ledger.Deposit:
		return settlement("deposit", configOf(op.Config), units(op.Amount), common.Address(channel.ERC3009Collector()),
			collectorData(t, op))
	case ledger.Claim:
		return settlement("claimWithSignature", claimsOf(op.Rows), op.Signature[:])
	case ledger.Settle:
		return settlement("settle", common.Address(op.Receiver), common.Address(op.Token))
	case ledger.Refund:
		refund := settlement("refundWithSignature", configOf(op.Config), units(op.Amount),
			new(big.Int).SetUint64(op.Nonce), op.Signature[:])
		if op.Claim == nil {
			return refund
		}
		return settlement("multicall", [][]byte{CallOf(t, *op.Claim).Data, refund.Data})
	case ledger.InitiateWithdraw:
		return settlement("initiateWithdraw", configOf(op.Config), units(op.Amount))
	case ledger.FinalizeWithdraw:
		return settlement("finalizeWithdraw", configOf(op.Config))
	}
	t.Fatalf("evmtest: %T is no call", op)
	return Call{}
}

// collectorData is what the ERC-3009 collector reads:
// abi.encode(uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature).
func collectorData(t testing.TB, op ledger.Deposit) []byte {
	t.Helper()
	number, bytesType := abi.Type{T: abi.UintTy, Size: 256}, abi.Type{T: abi.BytesTy}
	args := abi.Arguments{{Type: number}, {Type: number}, {Type: number}, {Type: bytesType}}
	data, err := args.Pack(new(big.Int).SetUint64(op.ValidAfter), new(big.Int).SetUint64(op.ValidBefore),
		new(big.Int).SetBytes(op.Salt[:]), op.Signature[:])
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func pack(t testing.TB, contract, method string, args ...any) []byte {
	t.Helper()
	a, err := Compiled(contract)
	if err != nil {
		t.Fatal(err)
	}
	data, err := a.ABI.Pack(method, args...)
	if err != nil {
		t.Fatalf("%s.%s: %v", contract, method, err)
	}
	return data
}

// View calls a method that changes nothing, of the contract named at an address.
func (c *Chain) View(at channel.Address, contract, method string, args ...any) []any {
	c.t.Helper()
	a, err := Compiled(contract)
	c.check(err)
	to := common.Address(at)
	answer, err := c.Client.CallContract(c.t.Context(), ethereum.CallMsg{To: &to, Data: pack(c.t, contract, method, args...)}, nil)
	if err != nil {
		c.t.Fatalf("%s.%s: %v", contract, method, err)
	}
	values, err := a.ABI.Unpack(method, answer)
	if err != nil {
		c.t.Fatalf("%s.%s: %v", contract, method, err)
	}
	return values
}

// Channel returns what the settlement contract says of a channel. Config,
// WithdrawNonce and LastClaim are not known to it.
func (c *Chain) Channel(id channel.ID) ledger.Channel {
	c.t.Helper()
	at, name := channel.SettlementContract(), "X402BatchSettlement"
	state := c.View(at, name, "channels", id)
	pending := c.View(at, name, "pendingWithdrawals", id)
	return ledger.Channel{
		Balance: c.amount(state[0]), Claimed: c.amount(state[1]),
		RefundNonce:    uint64(c.amount(c.View(at, name, "refundNonce", id)[0])),
		WithdrawAmount: c.amount(pending[0]), WithdrawAt: uint64(c.amount(pending[1])),
	}
}

// Receiver returns what was ever claimed and settled for an address in the test token.
func (c *Chain) Receiver(a channel.Address) ledger.Receiver {
	c.t.Helper()
	v := c.View(channel.SettlementContract(), "X402BatchSettlement", "receivers", common.Address(a), common.Address(Token()))
	return ledger.Receiver{Claimed: c.amount(v[0]), Settled: c.amount(v[1])}
}

// Balance returns an account's units of the test token.
func (c *Chain) Balance(a channel.Address) channel.Amount {
	c.t.Helper()
	return c.amount(c.View(Token(), "TestToken", "balanceOf", common.Address(a))[0])
}

func (c *Chain) amount(v any) channel.Amount {
	c.t.Helper()
	n, ok := v.(*big.Int)
	if !ok || !n.IsUint64() {
		c.check(fmt.Errorf("evmtest: %v is no amount", v))
	}
	return channel.Amount(n.Uint64())
}
