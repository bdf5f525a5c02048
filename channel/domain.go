package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Domain binds what is signed to one settlement contract on one chain: the
// EIP-712 domain {"x402 Batch Settlement", "1", chainId, verifyingContract}.
type Domain struct {
	ChainID  uint64
	Contract Address
}

// Config is the standard's ChannelConfig: who pays whom in which token. It
// never changes; its hash is the channel's ID.
type Config struct {
	Payer              Address `json:"payer"`
	PayerAuthorizer    Address `json:"payerAuthorizer"`    // signs vouchers
	Receiver           Address `json:"receiver"`           // all claims pay it
	ReceiverAuthorizer Address `json:"receiverAuthorizer"` // signs claims and refunds
	Token              Address `json:"token"`
	WithdrawDelay      uint64  `json:"withdrawDelay"` // seconds, uint40 on the ledger
	Salt               Hash    `json:"salt"`
}

// Voucher is a payment: the receiver may claim up to Max from the channel, in
// total over its life.
type Voucher struct {
	Channel   ID        `json:"channelId"`
	Max       Amount    `json:"maxClaimableAmount"`
	Signature Signature `json:"signature"`
}

// ClaimEntry is one channel of a claim batch: of the Max that its voucher
// allows, TotalClaimed is claimed after it.
type ClaimEntry struct {
	Channel           ID
	Max, TotalClaimed Amount
}

// Token is the EIP-712 domain of an asset.
type Token struct {
	ChainID       uint64
	Address       Address
	Name, Version string
}

// Authorization is an EIP-3009 authorization of one token transfer.
type Authorization struct {
	From, To                Address
	Value                   Amount
	ValidAfter, ValidBefore uint64 // unix seconds, both exclusive
	Nonce                   Hash
}

// Type hashes of EIP-712, computed once; they never change.
var (
	domainType     = Keccak256([]byte("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"))
	configType     = Keccak256([]byte("ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"))
	voucherType    = Keccak256([]byte("Voucher(bytes32 channelId,uint128 maxClaimableAmount)"))
	claimEntryType = Keccak256([]byte("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"))
	claimBatchType = Keccak256([]byte("ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"))
	refundType     = Keccak256([]byte("Refund(bytes32 channelId,uint256 nonce,uint128 amount)"))
	receiveType    = Keccak256([]byte("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"))
	transferType   = Keccak256([]byte("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"))
)

// SettlementContract returns the canonical address of x402BatchSettlement,
// the same on every chain.
func SettlementContract() Address {
	return Address{0x40, 0x20, 0x07, 0x4e, 0x9d, 0xf2, 0xce, 0x1d, 0xee, 0x5a,
		0x9c, 0x1b, 0x5c, 0x3f, 0x54, 0x1d, 0x02, 0xa1, 0x00, 0x03}
}

// ERC3009Collector returns the canonical address to which gasless deposits
// are authorized.
func ERC3009Collector() Address {
	return Address{0x40, 0x20, 0x80, 0x60, 0x89, 0x47, 0x0a, 0x89, 0x82, 0x6c,
		0xb9, 0xfb, 0x1f, 0x40, 0x59, 0x15, 0x0b, 0x55, 0x00, 0x04}
}

// FirstPrivate is the least chain id of a facilitator's own network, where the
// asset is its operator's credit. Those of public chains are far below.
const FirstPrivate = 1 << 40

// ParseNetwork returns the chain id of a CAIP-2 name of an EVM chain,
// such as "eip155:84532".
func ParseNetwork(s string) (chainID uint64, err error) {
	ref, ok := strings.CutPrefix(s, "eip155:")
	if !ok {
		return 0, fmt.Errorf("network %q: not an eip155 name", clip(s))
	}
	id, err := parseUint(ref)
	if err == nil && id == 0 {
		err = errors.New("chain id is zero")
	}
	if err != nil {
		return 0, fmt.Errorf("network %q: %w", clip(s), err)
	}
	return id, nil
}

// NetworkName returns the CAIP-2 name of an EVM chain.
func NetworkName(chainID uint64) string { return "eip155:" + strconv.FormatUint(chainID, 10) }

// ID returns the channel's name on this domain.
func (d Domain) ID(c Config) ID {
	return ID(d.typed(hashStruct(configType,
		addressWord(c.Payer), addressWord(c.PayerAuthorizer),
		addressWord(c.Receiver), addressWord(c.ReceiverAuthorizer),
		addressWord(c.Token), uintWord(c.WithdrawDelay), c.Salt)))
}

// VoucherDigest returns what the payer's authorizer signs to pay up to max.
func (d Domain) VoucherDigest(id ID, max Amount) Hash {
	return d.typed(hashStruct(voucherType, Hash(id), uintWord(uint64(max))))
}

// SignVoucher signs a voucher. It keeps no state: use a Payer, which never
// signs less than before or more than there is.
func (d Domain) SignVoucher(k *Key, id ID, max Amount) Voucher {
	return Voucher{id, max, k.Sign(d.VoucherDigest(id, max))}
}

// ClaimDigest returns what the receiver's authorizer signs so that anyone may
// relay these claims.
func (d Domain) ClaimDigest(entries []ClaimEntry) Hash {
	hashes := make([]byte, 0, 32*len(entries))
	for _, e := range entries {
		h := hashStruct(claimEntryType, Hash(e.Channel), uintWord(uint64(e.Max)), uintWord(uint64(e.TotalClaimed)))
		hashes = append(hashes, h[:]...)
	}
	return d.typed(hashStruct(claimBatchType, Keccak256(hashes)))
}

// RefundDigest returns what the receiver's authorizer signs to give amount
// back to the payer. The nonce is the channel's current refund nonce.
func (d Domain) RefundDigest(id ID, nonce uint64, amount Amount) Hash {
	return d.typed(hashStruct(refundType, Hash(id), uintWord(nonce), uintWord(uint64(amount))))
}

// DepositNonce returns the EIP-3009 nonce that ties a deposit's authorization
// to its channel: keccak256(abi.encode(channelId, salt)).
func DepositNonce(id ID, salt Hash) Hash { return Keccak256(id[:], salt[:]) }

// ReceiveDigest returns what a payer signs for a deposit
// (EIP-3009 receiveWithAuthorization; To is the collector).
func (t Token) ReceiveDigest(a Authorization) Hash { return t.authorization(receiveType, a) }

// TransferDigest returns what a payer signs for a payment of scheme exact
// (EIP-3009 transferWithAuthorization).
func (t Token) TransferDigest(a Authorization) Hash { return t.authorization(transferType, a) }

// Separator returns the hash of the domain, which a token's contract tells as
// DOMAIN_SEPARATOR (EIP-2612).
func (t Token) Separator() Hash { return separator(t.Name, t.Version, t.ChainID, t.Address) }

func (t Token) authorization(typ Hash, a Authorization) Hash {
	return typedHash(t.Separator(),
		hashStruct(typ, addressWord(a.From), addressWord(a.To), uintWord(uint64(a.Value)),
			uintWord(a.ValidAfter), uintWord(a.ValidBefore), a.Nonce))
}

func (d Domain) separator() Hash {
	return separator("x402 Batch Settlement", "1", d.ChainID, d.Contract)
}

func (d Domain) typed(structHash Hash) Hash { return typedHash(d.separator(), structHash) }

func separator(name, version string, chainID uint64, contract Address) Hash {
	return hashStruct(domainType, Keccak256([]byte(name)), Keccak256([]byte(version)),
		uintWord(chainID), addressWord(contract))
}

// typedHash is the final hash of EIP-712: 0x19 0x01, domain, struct.
func typedHash(separator, structHash Hash) Hash {
	return Keccak256([]byte{0x19, 0x01}, separator[:], structHash[:])
}

func hashStruct(typ Hash, words ...Hash) Hash {
	b := make([]byte, 0, 32*8)
	b = append(b, typ[:]...)
	for _, w := range words {
		b = append(b, w[:]...)
	}
	return Keccak256(b)
}

// uintWord and addressWord pad to the 32-byte words of the ABI.
func uintWord(v uint64) (w Hash) {
	binary.BigEndian.PutUint64(w[24:], v)
	return w
}

func addressWord(a Address) (w Hash) {
	copy(w[12:], a[:])
	return w
}
