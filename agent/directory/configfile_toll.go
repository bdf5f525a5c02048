package directory

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
)

// Texts of what keys want.
const (
	wantUSD  = "USD in quotes and more than 0, such as '0.10'"
	wantName = "%s in the asset's EIP-712 domain, such as '%s'"
)

// tollKeys are the keys about money.
func (r *rawFile) tollKeys() []key {
	c := &r.file.Config.Toll
	p := &c.Payment
	return []key{
		{"price.per_gb", "USD in quotes, such as '0.20'", usd(&c.Price, 0)},
		{"payment.state_dir", "the path of a directory", r.path(&c.StateDir)},
		{"payment.facilitator", "a URL such as 'https://facilitator.example.org'", func(v any) error {
			if err := takeText(&p.Facilitator, v); err != nil {
				return err
			}
			_, err := nethttp.New(nethttp.Config{URL: p.Facilitator})
			return err
		}},
		{"payment.network", "a network's CAIP-2 name, such as 'eip155:84532'", func(v any) error {
			p.Network, _ = v.(string)
			_, err := channel.ParseNetwork(p.Network)
			return err
		}},
		{"payment.asset", "the asset's address, '0x' and 40 hexadecimal digits", address(&p.Asset)},
		{"payment.asset_name", fmt.Sprintf(wantName, "the name", "USDC"), text(&p.AssetName)},
		{"payment.asset_version", fmt.Sprintf(wantName, "the version", "2"), text(&p.AssetVersion)},
		{"payment.pay_to", "the address that is paid, '0x' and 40 hexadecimal digits", address(&p.PayTo)},
		{"payment.withdraw_delay", "a time from '24h' to '720h'", func(v any) error {
			var d time.Duration
			err := takeTime(&d, v, defaultWithdrawDelay, channel.MaxWithdrawDelay*time.Second)
			if err == nil && d%time.Second != 0 {
				err = fmt.Errorf("%.40q", v)
			}
			p.WithdrawDelay = uint64(d / time.Second)
			return err
		}},
		{"payment.min_deposit", wantUSD, usd(&p.MinDeposit, 1)},

		{"credit.cap", wantUSD, usd(&c.Credit.Cap, 1)},
		{"credit.total", wantUSD, usd(&c.TotalCredit, 1)},
		{"credit.loss_percent", "a number from 1 to 100", func(v any) error {
			n, err := takeNumber(v, 100)
			c.Credit.LossPercent = uint64(n)
			return err
		}},

		{"settle.every", "a time from '1m' to '720h'", func(v any) error { return takeTime(&c.SettleEvery, v, time.Minute, 720*time.Hour) }},
		{"settle.at", wantUSD, usd(&c.SettleAt, 1)},
	}
}

// tollNeeds are what must be set by who charges.
var tollNeeds = []string{"payment.state_dir", "payment.facilitator", "payment.network", "payment.asset", "payment.asset_name", "payment.asset_version", "payment.pay_to"}

// readToll finds what is missing for a relay that charges.
func (r *rawFile) readToll(given map[string]bool) {
	c := r.file.Config.Toll
	if c.Price == 0 {
		return
	}
	var absent []string
	for _, name := range tollNeeds {
		if !given[name] {
			absent = append(absent, name)
		}
	}
	if absent != nil {
		r.problems = append(r.problems, strings.Join(absent, ", ")+": missing: who charges says in what he is paid, and where vouchers are kept; `x402-relay check` shows what the facilitator offers")
	}
	if len(r.problems) == 0 {
		if err := c.check(); err != nil {
			r.problems = append(r.problems, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
}

// adviseToll are warnings about what is right as such.
func (c Config) adviseToll(given map[string]bool) (warnings []string) {
	paid := slices.ContainsFunc(tollNeeds, func(name string) bool { return given[name] })
	if c.Toll.Price == 0 && paid && c.Gateway.Wallet == "" {
		warnings = append(warnings, "price.per_gb: not set, so the relay is free, whatever [payment] says")
	}
	if u, err := url.Parse(c.Toll.Payment.Facilitator); err == nil && u.Scheme == "http" && !here(u.Hostname()) {
		warnings = append(warnings, "payment.facilitator: http: whoever is on the way can make up deposits; name its https URL")
	}
	return warnings
}

// here says whether a host is this machine.
func here(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func usd(into *channel.Amount, least channel.Amount) func(any) error {
	return func(v any) (err error) {
		s, ok := v.(string)
		if !ok {
			return errWant
		}
		if *into, err = channel.ParseUSD(s); err == nil && *into < least {
			err = errWant
		}
		return err
	}
}

func address(into *channel.Address) func(any) error {
	return func(v any) (err error) {
		s, _ := v.(string)
		if *into, err = channel.ParseAddress(s); err == nil && into.IsZero() {
			err = errors.New("nobody's address")
		}
		return err
	}
}

func text(into *string) func(any) error { return func(v any) error { return takeText(into, v) } }

func takeTime(into *time.Duration, v any, least, most time.Duration) error {
	err := takeDuration(into, v, most)
	if err == nil && *into < least {
		err = fmt.Errorf("%.40q", v)
	}
	return err
}
