package facilitator

import (
	"context"
	"errors"
	"fmt"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// Look asks for the network's view of a channel. The standard has no call for that,
// but a facilitator tells it when it verifies a voucher: one that has not the call
// of ours is asked so, with the payer's newest, which may be zero if there is none.
// A refund's may have been claimed already, so it is sent as one.
func (c *Client) Look(ctx context.Context, network string, v x402.VoucherPayment) (info x402.ChannelInfo, err error) {
	if !c.plain.Load() {
		info, err = c.Channel(ctx, network, v.Voucher.Channel)
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || refused.Code == x402.ErrInvalidNetwork || refused.Code == x402.ErrInvalidPayload || v.Voucher.Signature == (channel.Signature{}) {
			return info, err // what one of ours says, or all that there is
		}
	}
	info.Channel = v.Voucher.Channel
	r := x402.BatchRequirements(network, channel.Token{}, v.Config)
	p := x402.PaymentPayload{Version: x402.Version, Accepted: r, Payload: x402.Payload{Refund: &x402.Refund{Config: v.Config, Voucher: v.Voucher}}}
	got, err := c.Verify(ctx, p, r)
	if refused, ok := errors.AsType[*RefusedError](err); ok && refused.Code == x402.ErrChannelNotFound {
		return info, nil
	}
	if err != nil {
		return info, err
	}
	if got.Extra == nil || got.Extra.Channel != info.Channel {
		return info, fmt.Errorf("%w: it verified a voucher without the state of its channel", ErrUnavailable)
	}
	c.plain.Store(true)
	info.ChannelState, info.Exists = *got.Extra, true
	if at := info.WithdrawRequestedAt; at != 0 {
		info.FinalizeAfter = at + v.Config.WithdrawDelay
	}
	return info, nil
}

// Plain says whether the facilitator was found to be one of others: it has none of
// our calls, and sends each claim by a transaction of its own.
func (c *Client) Plain() bool { return c.plain.Load() }

// Deposit opens or tops up a channel; see x402.DepositRequest for how to sign
// one. token is the asset, as Supported describes it. Sent again, it is answered
// with the same transaction.
func (c *Client) Deposit(ctx context.Context, network string, token channel.Token, d x402.Deposit) (x402.SettlementResponse, error) {
	return c.operate(ctx, x402.BatchRequirements(network, token, d.Config), x402.Payload{Deposit: &d})
}

// Claim books vouchers; see x402.SignClaim. All its channels have one token.
func (c *Client) Claim(ctx context.Context, network string, cl x402.Claim) (x402.SettlementResponse, error) {
	if len(cl.Claims) == 0 {
		return x402.SettlementResponse{}, errors.New("facilitator: claim without rows")
	}
	r := x402.BatchRequirements(network, channel.Token{}, cl.Claims[0].Voucher.Channel)
	return c.operate(ctx, r, x402.Payload{Claim: &cl})
}

// SettleReceiver moves all that is claimed for receiver to its account. The
// response's Amount is what arrived, Extra.Fee what it cost.
func (c *Client) SettleReceiver(ctx context.Context, network string, receiver, token channel.Address) (x402.SettlementResponse, error) {
	r := x402.BatchRequirements(network, channel.Token{}, channel.Config{Receiver: receiver, Token: token})
	return c.operate(ctx, r, x402.Payload{Settle: &x402.Settle{Receiver: receiver, Token: token}})
}

// Refund returns unclaimed escrow to the payer; see x402.RefundRequest.
func (c *Client) Refund(ctx context.Context, network string, r x402.Refund) (x402.SettlementResponse, error) {
	return c.operate(ctx, x402.BatchRequirements(network, channel.Token{}, r.Config), x402.Payload{Refund: &r})
}

func (c *Client) operate(ctx context.Context, r x402.Requirements, p x402.Payload) (x402.SettlementResponse, error) {
	return c.Settle(ctx, x402.PaymentPayload{Version: x402.Version, Accepted: r, Payload: p}, r)
}

// Withdraw starts or ends a timed withdrawal on a network of ours; w is signed
// (x402.Withdraw.Sign).
func (c *Client) Withdraw(ctx context.Context, w x402.Withdraw) (x402.SettlementResponse, error) {
	return c.settle(ctx, request{"POST", "/v1/withdraw", w})
}

// Faucet asks a facilitator in development mode for credit.
func (c *Client) Faucet(ctx context.Context, r x402.FaucetRequest) (x402.SettlementResponse, error) {
	return c.settle(ctx, request{"POST", "/v1/faucet", r})
}
