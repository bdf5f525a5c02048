package buyer

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"slices"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// A transaction calls a contract and moves nothing (EIP-1559).
type transaction struct {
	chain, nonce uint64
	tip, most    uint64 // for a unit of gas, in wei
	gas          uint64
	to           channel.Address
	data         []byte
}

// cost is the most that it can cost, in wei.
func (t transaction) cost() *big.Int {
	return new(big.Int).Mul(new(big.Int).SetUint64(t.gas), new(big.Int).SetUint64(t.most))
}

// sign returns it as eth_sendRawTransaction takes it.
func (t transaction) sign(k *channel.Key) []byte {
	digest := channel.Keccak256(t.encode())
	sig := k.Sign(digest)
	return t.encode(rlpUint(uint64(sig[64]-27)), rlpNumber(sig[:32]), rlpNumber(sig[32:64]))
}

// encode is the transaction with the signature, if there is one, at its end.
func (t transaction) encode(signature ...[]byte) []byte {
	fields := [][]byte{
		rlpUint(t.chain), rlpUint(t.nonce), rlpUint(t.tip), rlpUint(t.most), rlpUint(t.gas),
		rlpBytes(t.to[:]), rlpUint(0), rlpBytes(t.data), rlpList(),
	}
	return append([]byte{2}, rlpList(append(fields, signature...)...)...)
}

// The recursive length prefix of Ethereum's yellow paper, appendix B.

func rlpBytes(b []byte) []byte {
	if len(b) == 1 && b[0] < 0x80 {
		return b
	}
	return append(rlpLength(0x80, len(b)), b...)
}

// rlpNumber takes big-endian bytes.
func rlpNumber(b []byte) []byte { return rlpBytes(bytes.TrimLeft(b, "\x00")) }

func rlpUint(v uint64) []byte { return rlpNumber(binary.BigEndian.AppendUint64(nil, v)) }

func rlpList(items ...[]byte) []byte {
	all := slices.Concat(items...)
	return append(rlpLength(0xc0, len(all)), all...)
}

func rlpLength(kind byte, n int) []byte {
	if n <= 55 {
		return []byte{kind + byte(n)}
	}
	digits := bytes.TrimLeft(binary.BigEndian.AppendUint64(nil, uint64(n)), "\x00")
	return append([]byte{kind + 55 + byte(len(digits))}, digits...)
}

// withdrawCall is a step of a withdrawal as the settlement contract is called,
// by Solidity's ABI.
func withdrawCall(c channel.Config, w x402.Withdraw) []byte {
	const config = "(address,address,address,address,address,uint40,bytes32)"
	name := "finalizeWithdraw(" + config + ")"
	if w.Step == x402.WithdrawInitiate {
		name = "initiateWithdraw(" + config + ",uint128)"
	}
	selector := channel.Keccak256([]byte(name))
	b := selector[:4]
	for _, a := range []channel.Address{c.Payer, c.PayerAuthorizer, c.Receiver, c.ReceiverAuthorizer, c.Token} {
		b = append(append(b, make([]byte, 12)...), a[:]...)
	}
	b = appendWord(b, c.WithdrawDelay)
	b = append(b, c.Salt[:]...)
	if w.Step == x402.WithdrawInitiate {
		b = appendWord(b, uint64(w.Amount))
	}
	return b
}

func appendWord(b []byte, v uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, make([]byte, 24)...), v)
}
