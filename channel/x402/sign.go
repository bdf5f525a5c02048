package x402

import (
	"encoding/binary"

	"github.com/depinsim/x402/channel"
)

// A DepositRequest is what a payer decides before he signs a deposit. Keep the
// signed Deposit until its outcome is known: sent again it is the same deposit,
// signed again with another Salt it is a second one.
type DepositRequest struct {
	Domain      channel.Domain
	Token       channel.Token
	Config      channel.Config
	Amount      channel.Amount
	Voucher     channel.Voucher // the newest; one of Max == already claimed (0 at first) pays nothing
	ValidAfter  uint64          // Unix seconds, exclusive
	ValidBefore uint64          // Unix seconds, exclusive
	Salt        channel.Hash    // random
}

// Sign signs the deposit with the payer's key.
func (r DepositRequest) Sign(payer *channel.Key) Deposit {
	auth := ERC3009Authorization{ValidAfter: Decimal(r.ValidAfter), ValidBefore: Decimal(r.ValidBefore), Salt: r.Salt}
	d := Deposit{Config: r.Config, Voucher: r.Voucher, Deposit: DepositTerms{Amount: r.Amount}}
	auth.Signature = payer.Sign(r.Token.ReceiveDigest(auth.For(r.Domain.ID(r.Config), r.Config.Payer, r.Amount)))
	d.Deposit.Authorization.ERC3009 = &auth
	return d
}

// For returns the EIP-3009 authorization that a deposit of amount by payer on
// the channel id stands for.
func (a ERC3009Authorization) For(id channel.ID, payer channel.Address, amount channel.Amount) channel.Authorization {
	return channel.Authorization{
		From: payer, To: channel.ERC3009Collector(), Value: amount,
		ValidAfter: uint64(a.ValidAfter), ValidBefore: uint64(a.ValidBefore),
		Nonce: channel.DepositNonce(id, a.Salt),
	}
}

// Standard returns a in the root package's form.
func (a Authorization) Standard() channel.Authorization {
	return channel.Authorization{
		From: a.From, To: a.To, Value: a.Value,
		ValidAfter: uint64(a.ValidAfter), ValidBefore: uint64(a.ValidBefore), Nonce: a.Nonce,
	}
}

// ClaimOf returns the row that claims total, cumulative, of the newest voucher
// that s holds.
func ClaimOf(s channel.State, total channel.Amount) VoucherClaim {
	return VoucherClaim{
		Voucher:      ClaimedVoucher{Channel: s.Config, Max: s.Max},
		Signature:    s.Signature,
		TotalClaimed: total,
	}
}

// SignClaim puts rows into a claim and signs it with the key of their common
// receiverAuthorizer. Signing the same rows again gives the same bytes.
func SignClaim(authorizer *channel.Key, d channel.Domain, rows []VoucherClaim) Claim {
	sig := authorizer.Sign(d.ClaimDigest(Entries(d, rows)))
	return Claim{Claims: rows, Signature: &sig}
}

// Entries returns what the signature of a claim covers.
func Entries(d channel.Domain, rows []VoucherClaim) []channel.ClaimEntry {
	out := make([]channel.ClaimEntry, len(rows))
	for i, r := range rows {
		out[i] = channel.ClaimEntry{Channel: d.ID(r.Voucher.Channel), Max: r.Voucher.Max, TotalClaimed: r.TotalClaimed}
	}
	return out
}

// A RefundRequest is what the receiver's side adds to a payer's Refund. The
// rows of Claims are claimed first, in the same transaction.
type RefundRequest struct {
	Domain  channel.Domain
	Config  channel.Config
	Voucher channel.Voucher // the payer's zero-charge voucher, or the newest
	Amount  channel.Amount
	Nonce   uint64 // the channel's refund nonce
	Claims  []VoucherClaim
}

// Sign signs the refund with the key of the receiverAuthorizer.
func (r RefundRequest) Sign(authorizer *channel.Key) Refund {
	nonce, amount := Decimal(r.Nonce), r.Amount
	sig := authorizer.Sign(r.Domain.RefundDigest(r.Domain.ID(r.Config), r.Nonce, r.Amount))
	out := Refund{
		Config: r.Config, Voucher: r.Voucher, Amount: &amount, Nonce: &nonce,
		Claims: r.Claims, RefundSignature: &sig,
	}
	if out.Claims == nil {
		out.Claims = []VoucherClaim{} // facilitators of others tell a completed refund by it
	}
	if len(r.Claims) > 0 {
		out.ClaimSignature = SignClaim(authorizer, r.Domain, r.Claims).Signature
	}
	return out
}

// Steps of a timed withdrawal.
const (
	WithdrawInitiate = "initiate"
	WithdrawFinalize = "finalize"
)

// A Withdraw is the body of POST /v1/withdraw: our own networks have no
// transactions that a payer could send himself, so he signs what he would have
// called. The signature is the payer's or the payerAuthorizer's, EIP-712 under
// the settlement domain, over
//
//	InitiateWithdraw(bytes32 channelId,uint128 amount,uint256 nonce)
//	FinalizeWithdraw(bytes32 channelId,uint256 nonce)
//
// where nonce is the channel's withdrawNonce (GET /v1/channels/…), which every
// initiate raises; a finalize carries the raised one. So no request counts
// twice, and none outlives the withdrawal that it was meant for.
type Withdraw struct {
	Network   string            `json:"network"`
	Step      string            `json:"type"` // WithdrawInitiate or WithdrawFinalize
	Channel   channel.ID        `json:"channelId"`
	Amount    channel.Amount    `json:"amount"` // of an initiate; "0" in a finalize
	Nonce     Decimal           `json:"nonce"`
	Signature channel.Signature `json:"signature"`

	// On a chain the payer's account sends the withdrawal itself. This is his
	// transaction, signed, as eth_sendRawTransaction takes it; nonce and signature
	// above do not matter then.
	Transaction HexBytes `json:"transaction,omitempty"`
}

// Digest returns what w.Signature signs on d.
func (w Withdraw) Digest(d channel.Domain) channel.Hash {
	if w.Step == WithdrawFinalize {
		return typed(d, hashStruct("FinalizeWithdraw(bytes32 channelId,uint256 nonce)",
			channel.Hash(w.Channel), word(uint64(w.Nonce))))
	}
	return typed(d, hashStruct("InitiateWithdraw(bytes32 channelId,uint128 amount,uint256 nonce)",
		channel.Hash(w.Channel), word(uint64(w.Amount)), word(uint64(w.Nonce))))
}

// Sign returns w with its network and signature set.
func (w Withdraw) Sign(payer *channel.Key, d channel.Domain) Withdraw {
	w.Network = channel.NetworkName(d.ChainID)
	w.Signature = payer.Sign(w.Digest(d))
	return w
}

// typed is the final hash of EIP-712 under the settlement domain.
func typed(d channel.Domain, structHash channel.Hash) channel.Hash {
	name, version := channel.Keccak256([]byte("x402 Batch Settlement")), channel.Keccak256([]byte("1"))
	var contract channel.Hash
	copy(contract[12:], d.Contract[:])
	sep := hashStruct("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
		name, version, word(d.ChainID), contract)
	return channel.Keccak256([]byte{0x19, 0x01}, sep[:], structHash[:])
}

func hashStruct(typ string, words ...channel.Hash) channel.Hash {
	h := channel.Keccak256([]byte(typ))
	b := h[:]
	for _, w := range words {
		b = append(b, w[:]...)
	}
	return channel.Keccak256(b)
}

func word(v uint64) (w channel.Hash) {
	binary.BigEndian.PutUint64(w[24:], v)
	return w
}
