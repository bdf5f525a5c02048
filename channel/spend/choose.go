package spend

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// maxAccepts bounds the ways to pay that are looked at.
const maxAccepts = 64

// A choice is a way to pay that is allowed.
type choice struct {
	x402.Requirements
	asset Asset
}

// domain is the EIP-712 domain of the channels that it is paid from.
func (c choice) domain() channel.Domain {
	return channel.Domain{ChainID: c.asset.Token.ChainID, Contract: channel.SettlementContract()}
}

// choose takes the cheapest way to pay that is allowed; of equals the scheme that
// is named first.
func (t *Transport) choose(p x402.PaymentRequired) (choice, error) {
	var best choice
	var why []error
	found := false
	for _, r := range p.Accepts[:min(len(p.Accepts), maxAccepts)] {
		c, err := t.allow(r)
		if err == nil && r.Amount > t.cfg.MaxPrice {
			err = fmt.Errorf("%w: it is %s USD, at most %s are allowed", ErrPrice, r.Amount.USD(), t.cfg.MaxPrice.USD())
		}
		if err != nil {
			why = append(why, err)
			continue
		}
		rank := func(c choice) int { return slices.Index(t.cfg.Schemes, c.Scheme) }
		if !found || c.Amount < best.Amount || c.Amount == best.Amount && rank(c) < rank(best) {
			best, found = c, true
		}
	}
	if !found {
		return choice{}, fmt.Errorf("%w: %w", ErrOffer, distinct(why))
	}
	return best, nil
}

// distinct joins errors without repeating any.
func distinct(errs []error) error {
	var texts []string
	var out []error
	for _, e := range errs {
		if !slices.Contains(texts, e.Error()) {
			texts, out = append(texts, e.Error()), append(out, e)
		}
	}
	if len(out) == 0 {
		return errors.New("the server names no way to pay that is known here")
	}
	return errors.Join(out...)
}

// allow checks all of a way to pay but the price.
func (t *Transport) allow(r x402.Requirements) (choice, error) {
	if !slices.Contains(t.cfg.Schemes, r.Scheme) {
		return choice{}, fmt.Errorf("scheme %.32q", r.Scheme)
	}
	i := slices.IndexFunc(t.cfg.Assets, func(a Asset) bool {
		return channel.NetworkName(a.Token.ChainID) == r.Network && a.Token.Address == r.Asset
	})
	if i < 0 {
		return choice{}, fmt.Errorf("asset %s on %.40q is not one of yours", r.Asset, r.Network)
	}
	c := choice{r, t.cfg.Assets[i]}
	// What is signed is our own knowledge of the asset; another would not be taken.
	if token := c.asset.Token; r.Extra.Name != token.Name || r.Extra.Version != token.Version {
		return choice{}, fmt.Errorf("asset %s is called %.32q version %.8q, and is %s version %s", r.Asset, r.Extra.Name, r.Extra.Version, token.Name, token.Version)
	}
	if m := r.Extra.AssetTransferMethod; m != "" && m != "eip3009" {
		return choice{}, fmt.Errorf("transfer method %.32q", m)
	}
	switch {
	case r.PayTo.IsZero():
		return choice{}, errors.New("nobody is to be paid")
	case r.Scheme == x402.SchemeExact:
		return c, nil
	case r.Extra.ReceiverAuthorizer == nil || r.Extra.ReceiverAuthorizer.IsZero():
		return choice{}, errors.New("a channel without receiverAuthorizer")
	case r.Extra.WithdrawDelay == nil || *r.Extra.WithdrawDelay < channel.MinWithdrawDelay || *r.Extra.WithdrawDelay > channel.MaxWithdrawDelay:
		return choice{}, errors.New("a channel without a right withdrawDelay")
	}
	return c, nil
}

// printable is a server's word as an error may repeat it.
func printable(s string) string {
	const limit = 120
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), limit)], "?"))
}
