package evm

import (
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// What is called of the two contracts: x402BatchSettlement, and a token that
// speaks EIP-3009 with the signature in one piece.
const (
	config = `{"name":"config","type":"tuple","components":[{"name":"payer","type":"address"},{"name":"payerAuthorizer","type":"address"},` +
		`{"name":"receiver","type":"address"},{"name":"receiverAuthorizer","type":"address"},{"name":"token","type":"address"},` +
		`{"name":"withdrawDelay","type":"uint40"},{"name":"salt","type":"bytes32"}]}`
	claims = `{"name":"claims","type":"tuple[]","components":[{"name":"voucher","type":"tuple","components":[` +
		`{"name":"channel","type":"tuple","components":[{"name":"payer","type":"address"},{"name":"payerAuthorizer","type":"address"},` +
		`{"name":"receiver","type":"address"},{"name":"receiverAuthorizer","type":"address"},{"name":"token","type":"address"},` +
		`{"name":"withdrawDelay","type":"uint40"},{"name":"salt","type":"bytes32"}]},{"name":"maxClaimableAmount","type":"uint128"}]},` +
		`{"name":"signature","type":"bytes"},{"name":"totalClaimed","type":"uint128"}]}`

	settlementABI = `[` +
		`{"type":"function","name":"deposit","inputs":[` + config + `,{"name":"amount","type":"uint128"},{"name":"collector","type":"address"},{"name":"data","type":"bytes"}]},` +
		`{"type":"function","name":"claimWithSignature","inputs":[` + claims + `,{"name":"signature","type":"bytes"}]},` +
		`{"type":"function","name":"settle","inputs":[{"name":"receiver","type":"address"},{"name":"token","type":"address"}]},` +
		`{"type":"function","name":"refundWithSignature","inputs":[` + config + `,{"name":"amount","type":"uint128"},{"name":"nonce","type":"uint256"},{"name":"signature","type":"bytes"}]},` +
		`{"type":"function","name":"initiateWithdraw","inputs":[` + config + `,{"name":"amount","type":"uint128"}]},` +
		`{"type":"function","name":"finalizeWithdraw","inputs":[` + config + `]},` +
		`{"type":"function","name":"multicall","inputs":[{"name":"data","type":"bytes[]"}]},` +
		`{"type":"function","stateMutability":"view","name":"getChannelId","inputs":[` + config + `],"outputs":[{"name":"","type":"bytes32"}]},` +
		`{"type":"function","stateMutability":"view","name":"channels","inputs":[{"name":"id","type":"bytes32"}],"outputs":[{"name":"balance","type":"uint128"},{"name":"totalClaimed","type":"uint128"}]},` +
		`{"type":"function","stateMutability":"view","name":"refundNonce","inputs":[{"name":"id","type":"bytes32"}],"outputs":[{"name":"","type":"uint256"}]},` +
		`{"type":"function","stateMutability":"view","name":"pendingWithdrawals","inputs":[{"name":"id","type":"bytes32"}],"outputs":[{"name":"amount","type":"uint128"},{"name":"initiatedAt","type":"uint40"}]},` +
		`{"type":"function","stateMutability":"view","name":"receivers","inputs":[{"name":"receiver","type":"address"},{"name":"token","type":"address"}],"outputs":[{"name":"totalClaimed","type":"uint128"},{"name":"totalSettled","type":"uint128"}]},` +
		`{"type":"event","name":"Deposited","inputs":[{"name":"channelId","type":"bytes32","indexed":true},{"name":"sender","type":"address","indexed":true},{"name":"amount","type":"uint128"},{"name":"newBalance","type":"uint128"}]},` +
		`{"type":"event","name":"Claimed","inputs":[{"name":"channelId","type":"bytes32","indexed":true},{"name":"sender","type":"address","indexed":true},{"name":"claimAmount","type":"uint128"},{"name":"newTotalClaimed","type":"uint128"}]},` +
		`{"type":"event","name":"Settled","inputs":[{"name":"receiver","type":"address","indexed":true},{"name":"token","type":"address","indexed":true},{"name":"sender","type":"address","indexed":true},{"name":"amount","type":"uint128"}]},` +
		`{"type":"event","name":"Refunded","inputs":[{"name":"channelId","type":"bytes32","indexed":true},{"name":"sender","type":"address","indexed":true},{"name":"amount","type":"uint128"}]},` +
		`{"type":"event","name":"WithdrawInitiated","inputs":[{"name":"channelId","type":"bytes32","indexed":true},{"name":"amount","type":"uint128"},{"name":"finalizeAfter","type":"uint40"}]},` +
		`{"type":"event","name":"WithdrawFinalized","inputs":[{"name":"channelId","type":"bytes32","indexed":true},{"name":"sender","type":"address","indexed":true},{"name":"amount","type":"uint128"}]}` +
		`]`

	tokenABI = `[` +
		`{"type":"function","name":"transferWithAuthorization","inputs":[{"name":"from","type":"address"},{"name":"to","type":"address"},{"name":"value","type":"uint256"},` +
		`{"name":"validAfter","type":"uint256"},{"name":"validBefore","type":"uint256"},{"name":"nonce","type":"bytes32"},{"name":"signature","type":"bytes"}]},` +
		`{"type":"function","stateMutability":"view","name":"balanceOf","inputs":[{"name":"a","type":"address"}],"outputs":[{"name":"","type":"uint256"}]},` +
		`{"type":"function","stateMutability":"view","name":"authorizationState","inputs":[{"name":"a","type":"address"},{"name":"nonce","type":"bytes32"}],"outputs":[{"name":"","type":"bool"}]},` +
		`{"type":"function","stateMutability":"view","name":"DOMAIN_SEPARATOR","inputs":[],"outputs":[{"name":"","type":"bytes32"}]},` +
		`{"type":"event","name":"Transfer","inputs":[{"name":"from","type":"address","indexed":true},{"name":"to","type":"address","indexed":true},{"name":"value","type":"uint256"}]}` +
		`]`

	// What the collector decodes of a deposit's data.
	collectABI = `[{"type":"function","name":"collect","inputs":[{"name":"validAfter","type":"uint256"},{"name":"validBefore","type":"uint256"},{"name":"salt","type":"uint256"},{"name":"signature","type":"bytes"}]}]`
)

// Parsed once; they never change.
var (
	settlement = mustParse(settlementABI)
	token      = mustParse(tokenABI)
	collect    = mustParse(collectABI)
)

func mustParse(text string) abi.ABI {
	a, err := abi.JSON(strings.NewReader(text))
	if err != nil {
		panic("evm: " + err.Error())
	}
	return a
}

// The contract's structs as package abi packs them.
type (
	configTuple struct {
		Payer, PayerAuthorizer, Receiver, ReceiverAuthorizer, Token common.Address
		WithdrawDelay                                               *big.Int
		Salt                                                        [32]byte
	}
	voucherTuple struct {
		Channel            configTuple
		MaxClaimableAmount *big.Int
	}
	claimTuple struct {
		Voucher      voucherTuple
		Signature    []byte
		TotalClaimed *big.Int
	}
)

func tupleOf(c channel.Config) configTuple {
	return configTuple{
		common.Address(c.Payer), common.Address(c.PayerAuthorizer), common.Address(c.Receiver),
		common.Address(c.ReceiverAuthorizer), common.Address(c.Token), wide(c.WithdrawDelay), c.Salt,
	}
}

func wide[T ~uint64](v T) *big.Int { return new(big.Int).SetUint64(uint64(v)) }

// A call is one transaction's target and data.
type call struct {
	to   common.Address
	data []byte
}

// callOf returns the call that does what op says.
func (h *Home) callOf(op ledger.Op) (call, error) {
	contract := common.Address(h.params.Domain().Contract)
	var data []byte
	var err error
	switch op := op.(type) {
	case ledger.Deposit:
		data, err = packDeposit(op, common.Address(h.params.DepositCollector()))
	case ledger.Claim:
		data, err = packClaim(op)
	case ledger.Settle:
		data, err = settlement.Pack("settle", common.Address(op.Receiver), common.Address(op.Token))
	case ledger.Refund:
		data, err = packRefund(op)
	case ledger.Transfer:
		a := op.Authorization
		contract = common.Address(h.params.Token)
		data, err = token.Pack("transferWithAuthorization", common.Address(a.From), common.Address(a.To), wide(a.Value),
			wide(a.ValidAfter), wide(a.ValidBefore), [32]byte(a.Nonce), op.Signature[:])
	default:
		err = fmt.Errorf("evm: %T has no call", op)
	}
	return call{contract, data}, err
}

func packDeposit(op ledger.Deposit, collector common.Address) ([]byte, error) {
	data, err := collect.Methods["collect"].Inputs.Pack(wide(op.ValidAfter), wide(op.ValidBefore), new(big.Int).SetBytes(op.Salt[:]), op.Signature[:])
	if err != nil {
		return nil, err
	}
	return settlement.Pack("deposit", tupleOf(op.Config), wide(op.Amount), collector, data)
}

func packClaim(op ledger.Claim) ([]byte, error) {
	rows := make([]claimTuple, len(op.Rows))
	for i, r := range op.Rows {
		rows[i] = claimTuple{voucherTuple{tupleOf(r.Config), wide(r.Max)}, r.Signature[:], wide(r.TotalClaimed)}
	}
	return settlement.Pack("claimWithSignature", rows, op.Signature[:])
}

func packRefund(op ledger.Refund) ([]byte, error) {
	refund, err := settlement.Pack("refundWithSignature", tupleOf(op.Config), wide(op.Amount), wide(op.Nonce), op.Signature[:])
	if err != nil || op.Claim == nil {
		return refund, err
	}
	claim, err := packClaim(*op.Claim)
	if err != nil {
		return nil, err
	}
	return settlement.Pack("multicall", [][]byte{claim, refund})
}

// packWithdraw is what a payer must call himself.
func packWithdraw(c channel.Config, initiate bool, amount channel.Amount) ([]byte, error) {
	if initiate {
		return settlement.Pack("initiateWithdraw", tupleOf(c), wide(amount))
	}
	return settlement.Pack("finalizeWithdraw", tupleOf(c))
}

var errWide = errors.New("more than 64 bits")

// most is as much of an account as is counted; two of them can be added.
const most = 1 << 62

// numbers reads the unsigned results of a view.
func numbers(a abi.ABI, method string, data []byte) ([]uint64, error) {
	values, err := a.Unpack(method, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	out := make([]uint64, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case *big.Int:
			if method == "balanceOf" && v.BitLen() > 62 {
				v = wide(uint64(most))
			}
			if !v.IsUint64() {
				return nil, fmt.Errorf("%s: %w", method, errWide)
			}
			out[i] = v.Uint64()
		case bool:
			if v {
				out[i] = 1
			}
		default:
			return nil, fmt.Errorf("%s: unexpected %T", method, v)
		}
	}
	return out, nil
}
