package x402

import "strings"

// Codes of the standard, as they stand in errorReason and invalidReason.
const (
	ErrInsufficientFunds = "insufficient_funds"
	ErrInvalidNetwork    = "invalid_network"
	ErrInvalidPayload    = "invalid_payload"
	ErrInvalidScheme     = "invalid_scheme"
	ErrUnsupportedScheme = "unsupported_scheme"
	ErrInvalidVersion    = "invalid_x402_version"
	ErrRequirements      = "invalid_payment_requirements"
	ErrUnexpectedVerify  = "unexpected_verify_error"
	ErrUnexpectedSettle  = "unexpected_settle_error"
)

// Codes of the scheme exact on EVM.
const (
	ErrExactValidAfter  = "invalid_exact_evm_payload_authorization_valid_after"
	ErrExactValidBefore = "invalid_exact_evm_payload_authorization_valid_before"
	ErrExactValue       = "invalid_exact_evm_payload_authorization_value_mismatch"
	ErrExactSignature   = "invalid_exact_evm_payload_signature"
	ErrExactRecipient   = "invalid_exact_evm_payload_recipient_mismatch"
	ErrExactNonceUsed   = "invalid_exact_evm_nonce_already_used"
)

// Codes of the scheme batch-settlement on EVM.
const (
	ErrAuthorizerMismatch    = batch + "authorizer_address_mismatch"
	ErrAuthorizerMissing     = batch + "authorizer_not_configured"
	ErrChannelBusy           = batch + "channel_busy"
	ErrChannelID             = batch + "channel_id_mismatch"
	ErrChannelNotFound       = batch + "channel_not_found"
	ErrChargeExceedsSigned   = batch + "charge_exceeds_signed_cumulative"
	ErrClaimFailed           = batch + "claim_simulation_failed"
	ErrClaimPayload          = batch + "claim_payload"
	ErrCumulativeMismatch    = batch + "cumulative_amount_mismatch"
	ErrBelowClaimed          = batch + "cumulative_below_claimed"
	ErrExceedsBalance        = batch + "cumulative_exceeds_balance"
	ErrDepositBelowMin       = batch + "deposit_below_min_deposit"
	ErrDepositFailed         = batch + "deposit_simulation_failed"
	ErrDepositPayload        = batch + "deposit_payload"
	ErrERC3009Required       = batch + "erc3009_authorization_required"
	ErrInsufficientBalance   = batch + "insufficient_balance"
	ErrMissingChannel        = batch + "missing_channel"
	ErrMissingDomain         = batch + "missing_eip712_domain"
	ErrNetworkMismatch       = batch + "network_mismatch"
	ErrNothingToSettle       = batch + "nothing_to_settle"
	ErrValidAfter            = batch + "payload_authorization_valid_after"
	ErrValidBefore           = batch + "payload_authorization_valid_before"
	ErrPayloadType           = batch + "payload_type"
	ErrReceiveSignature      = batch + "receive_authorization_signature"
	ErrReceiver              = batch + "receiver_mismatch"
	ErrReceiverAuthorizer    = batch + "receiver_authorizer_mismatch"
	ErrRefundAmount          = batch + "refund_amount_invalid"
	ErrRefundFailed          = batch + "refund_simulation_failed"
	ErrRefundNoBalance       = batch + "refund_no_balance"
	ErrRefundPayload         = batch + "refund_payload"
	ErrBatchScheme           = batch + "scheme"
	ErrToken                 = batch + "token_mismatch"
	ErrVoucherSignature      = batch + "voucher_signature"
	ErrWithdrawDelayMismatch = batch + "withdraw_delay_mismatch"
	ErrWithdrawDelayRange    = batch + "withdraw_delay_out_of_range"
)

// Codes of our own calls (/v1/…), which the standard does not have.
const (
	ErrWithdrawPending    = "withdraw_already_pending"
	ErrWithdrawNotPending = "withdraw_not_pending"
	ErrWithdrawDelay      = "withdraw_delay_not_elapsed"
	ErrWithdrawAmount     = "withdraw_amount_exceeds_available"
	ErrWithdrawNonce      = "withdraw_nonce"
	ErrWithdrawSignature  = "withdraw_signature"
	ErrAmount             = "invalid_amount"
	ErrAddress            = "invalid_address"
	ErrMemo               = "memo_too_long"
	ErrNotFound           = "not_found"
	ErrUnavailable        = "ledger_unavailable"
	ErrBusy               = "busy"

	// On a chain of others: what only the operator of a ledger of ours can do,
	// what its payer must send himself, and what is kept until it is worth its gas.
	ErrNotOnChain          = "not_on_chain"
	ErrWithdrawTransaction = "withdraw_needs_transaction"
	ErrPending             = "settlement_pending"
)

const batch = "invalid_batch_settlement_evm_"

// Undecided says of a code that a payment was refused with whether nobody knows
// what came of it: it was sent, and may still take effect. The same payment is to
// be sent again then, and no other. Facilitators of others say "transaction
// failed" of one that was reverted and of one whose receipt they did not see.
func Undecided(code string) bool {
	return strings.HasPrefix(code, "unexpected_") || strings.HasSuffix(code, "_transaction_failed") ||
		code == ErrPending || code == batch+"wait_for_receipt_failed"
}
