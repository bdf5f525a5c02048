package ledger

import (
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// TransferOf returns the operation that a payment of scheme exact asks for.
func TransferOf(m x402.Exact) Transfer {
	return Transfer{Authorization: m.Authorization.Standard(), Signature: m.Signature}
}

// DepositOf returns the operation that m asks for. Only EIP-3009 deposits are
// supported.
func DepositOf(m x402.Deposit) (Deposit, error) {
	a := m.Deposit.Authorization.ERC3009
	if a == nil {
		return Deposit{}, refuse(x402.ErrERC3009Required, "deposit has no EIP-3009 authorization")
	}
	return Deposit{
		Config: m.Config, Amount: m.Deposit.Amount,
		ValidAfter: uint64(a.ValidAfter), ValidBefore: uint64(a.ValidBefore),
		Salt: a.Salt, Signature: a.Signature,
	}, nil
}

// ClaimOf returns the operation that m asks for. The receiver's side must have
// signed it: the ledger lends no authorizer.
func ClaimOf(m x402.Claim) (Claim, error) { return claimOf(m.Claims, m.Signature) }

func claimOf(rows []x402.VoucherClaim, sig *channel.Signature) (Claim, error) {
	if len(rows) == 0 {
		return Claim{}, refuse(x402.ErrClaimPayload, "claim without rows")
	}
	if sig == nil {
		return Claim{}, refuse(x402.ErrAuthorizerMissing, "claim is not signed, and this facilitator lends no authorizer")
	}
	op := Claim{Signature: *sig, Rows: make([]ClaimRow, len(rows))}
	for i, r := range rows {
		op.Rows[i] = ClaimRow{Config: r.Voucher.Channel, Max: r.Voucher.Max, TotalClaimed: r.TotalClaimed, Signature: r.Signature}
	}
	return op, nil
}

// RefundOf returns the operation that m asks for, once the receiver's side has
// completed and signed it.
func RefundOf(m x402.Refund) (Refund, error) {
	if m.Amount == nil || m.Nonce == nil {
		return Refund{}, refuse(x402.ErrRefundPayload, "refund has no amount or nonce: the receiver's side must complete it")
	}
	if m.RefundSignature == nil {
		return Refund{}, refuse(x402.ErrAuthorizerMissing, "refund is not signed, and this facilitator lends no authorizer")
	}
	op := Refund{Config: m.Config, Amount: *m.Amount, Nonce: uint64(*m.Nonce), Signature: *m.RefundSignature}
	if len(m.Claims) > 0 {
		c, err := claimOf(m.Claims, m.ClaimSignature)
		if err != nil {
			return Refund{}, err
		}
		op.Claim = &c
	}
	return op, nil
}

// SettleOf returns the operation that m asks for.
func SettleOf(m x402.Settle) Settle { return Settle{Receiver: m.Receiver, Token: m.Token} }

// WithdrawOf returns the operation that m asks for on the channel of c.
func WithdrawOf(m x402.Withdraw, c channel.Config) (Op, error) {
	switch m.Step {
	case x402.WithdrawInitiate:
		return InitiateWithdraw{Config: c, Amount: m.Amount, Nonce: uint64(m.Nonce), Signature: m.Signature}, nil
	case x402.WithdrawFinalize:
		return FinalizeWithdraw{Config: c, Nonce: uint64(m.Nonce), Signature: m.Signature}, nil
	}
	return nil, refuse(x402.ErrPayloadType, "unknown withdraw type %.32q", m.Step)
}

// Message returns c as the standard writes it.
func (c Channel) Message(id channel.ID) x402.ChannelState {
	return x402.ChannelState{
		Channel: id, Balance: c.Balance, TotalClaimed: c.Claimed,
		WithdrawRequestedAt: c.WithdrawAt, RefundNonce: x402.Decimal(c.RefundNonce),
	}
}
