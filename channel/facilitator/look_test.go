package facilitator

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// TestLook: a facilitator that has no call to read a channel is asked to verify a
// voucher of it, and from then on nothing else.
func TestLook(t *testing.T) {
	id := channel.ID{7}
	v := x402.VoucherPayment{
		Config:  channel.Config{Receiver: channel.Address{1}, WithdrawDelay: 900},
		Voucher: channel.Voucher{Channel: id, Max: 30, Signature: channel.Signature{1}},
	}
	state := x402.ChannelState{Channel: id, Balance: 100, TotalClaimed: 30, WithdrawRequestedAt: 5_000, RefundNonce: 2}
	body := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var asked []string
	missing := Answer{Status: 404, Body: []byte(`{"error":"Not Found"}`)}
	verified := Answer{Status: 200, Body: body(x402.VerifyResponse{IsValid: true, Extra: &state})}
	c := newClient(t, "http://f.test", func(_ context.Context, url string) (Answer, error) {
		asked = append(asked, strings.TrimPrefix(url, "http://f.test"))
		if strings.HasSuffix(url, "/verify") {
			return verified, nil
		}
		return missing, nil
	})
	unpaid := v
	unpaid.Voucher.Signature = channel.Signature{}
	if info, err := c.Look(t.Context(), "eip155:5", unpaid); err == nil {
		t.Errorf("without a voucher: %+v", info)
	}
	for range 2 {
		info, err := c.Look(t.Context(), "eip155:5", v)
		if err != nil || info.ChannelState != state || info.FinalizeAfter != 5_900 || !info.Exists {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if !c.Plain() {
		t.Error("not taken for one of others")
	}
	path := "/v1/channels/eip155:5/" + id.String()
	if got, want := strings.Join(asked, " "), path+" "+path+" /verify /verify"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}

	verified.Body = body(x402.VerifyResponse{InvalidReason: x402.ErrChannelNotFound})
	if info, err := c.Look(t.Context(), "eip155:5", v); err != nil || info.Exists || info.Balance != 0 || info.Channel != id {
		t.Errorf("without a deposit: %+v, %v", info, err)
	}
	verified.Body = body(x402.VerifyResponse{InvalidReason: x402.ErrExceedsBalance})
	_, err := c.Look(t.Context(), "eip155:5", v)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Code != x402.ErrExceedsBalance {
		t.Errorf("a voucher that is not covered: %v", err)
	}
	state.Channel = channel.ID{8}
	for _, extra := range []*x402.ChannelState{nil, &state} {
		verified.Body = body(x402.VerifyResponse{IsValid: true, Extra: extra})
		if _, err := c.Look(t.Context(), "eip155:5", v); !errors.Is(err, ErrUnavailable) {
			t.Errorf("without the channel's state: %v", err)
		}
	}
}

// TestLookOurs: what one of ours says stands, and one that is down is not asked a
// second thing.
func TestLookOurs(t *testing.T) {
	v := x402.VoucherPayment{Voucher: channel.Voucher{Channel: channel.ID{7}, Signature: channel.Signature{1}}}
	for name, a := range map[string]Answer{
		"read":            {Status: 200, Body: []byte(`{"channelId":"` + v.Voucher.Channel.String() + `","balance":"5","totalClaimed":"0","refundNonce":"0","exists":true}`)},
		"another network": {Status: 404, Body: []byte(`{"error":"invalid_network"}`)},
		"down":            {Status: 503},
	} {
		asked := 0
		c := newClient(t, "http://f.test", func(context.Context, string) (Answer, error) {
			asked++
			return a, nil
		})
		info, err := c.Look(t.Context(), "eip155:5", v)
		if want, werr := c.Channel(t.Context(), "eip155:5", v.Voucher.Channel); info.Balance != want.Balance || (err == nil) != (werr == nil) || asked != 2 {
			t.Errorf("%s: %+v, %v after %d requests", name, info, err, asked-1)
		}
	}
}

// TestRefusedText: others quote whole requests; what is told of it is one line.
func TestRefusedText(t *testing.T) {
	text, err := json.Marshal(strings.Repeat("HTTP request failed.\n\nURL: http://node\n", 200))
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{
		`{"success":false,"errorReason":"x","errorMessage":` + string(text) + `}`, `{"success":false,"errorReason":` + string(text) + `}`,
	} {
		_, err := answering(t, 200, body).SettleReceiver(t.Context(), "eip155:5", channel.Address{1}, channel.Address{2})
		if err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1200 {
			t.Errorf("%v", err)
		}
	}
}
