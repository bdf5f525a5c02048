package agent

import (
	"math"
	"testing"

	"github.com/depinsim/x402/channel"
)

func TestCredit(t *testing.T) {
	usd := Price{Up: 1_000_000, Down: 1_000_000} // 1 USD/GB: 1,000 bytes a unit
	for name, row := range map[string]struct {
		p    Price
		cap  channel.Amount
		paid channel.Amount
		rate uint64
		want channel.Amount
	}{
		"stranger":                      {usd, 0, 0, 100_000_000, 132}, // 128 KiB
		"stranger at a low price":       {Price{Up: 1000, Down: 1000}, 0, 0, 0, 100},
		"free":                          {Price{}, 0, 0, math.MaxUint64, 100},
		"has paid as much":              {usd, 0, 132, 100_000_000, 132},
		"has paid more":                 {usd, 0, 5_000, 100_000_000, 5_000},
		"two seconds of the rate":       {usd, 0, 5_000, 1_000_000, 2_000},
		"slow":                          {usd, 0, 5_000, 100, 132},
		"cap":                           {usd, 0, 1_000_000, math.MaxUint64, 50_000},
		"own cap":                       {usd, 700, 1_000_000, 1 << 40, 700},
		"cap under the smallest amount": {usd, 7, 0, 0, 100},
		"first over the cap":            {Price{Down: MaxPrice}, 0, 0, 0, 50_000},
		"dearer direction":              {Price{Up: 1, Down: 1_000_000}, 0, 0, 0, 132},
	} {
		if got := (CreditPolicy{Cap: row.cap}).WithDefaults().Credit(row.p, row.paid, row.rate); got != row.want {
			t.Errorf("%s: %d, want %d", name, got, row.want)
		}
	}
}

// TestCreditNeverFalls as a payer pays, and stays within what he has proven.
func TestCreditNeverFalls(t *testing.T) {
	c := CreditPolicy{}.WithDefaults()
	p := Price{Up: 500_000, Down: 800_000}
	var last channel.Amount
	for paid := channel.Amount(0); paid < 200_000; paid += 137 {
		got := c.Credit(p, paid, 10_000_000)
		if got < last || got > max(paid, c.Credit(p, 0, 0)) || got > c.Cap {
			t.Fatalf("%d after %d, having paid %d", got, last, paid)
		}
		last = got
	}
}

func TestForgiven(t *testing.T) {
	for _, row := range []struct{ percent, gap, billed, want uint64 }{
		{0, 50, 1000, 50}, // the default: 10
		{0, 150, 1000, 100},
		{0, 5, 0, 0},
		{1, 5, 199, 1},
		{100, 500, 200, 200},
		{math.MaxUint64, 500, math.MaxUint64, 500},
		{10, math.MaxUint64, math.MaxUint64, math.MaxUint64 / 10},
	} {
		if got := (CreditPolicy{LossPercent: row.percent}).WithDefaults().Forgiven(row.gap, row.billed); got != row.want {
			t.Errorf("%d%% of %d, gap %d: %d, want %d", row.percent, row.billed, row.gap, got, row.want)
		}
	}
}

func TestCreditCheck(t *testing.T) {
	c := CreditPolicy{}.WithDefaults()
	if err := c.Check(Price{Up: 4_000_000, Down: 8_000_000}); err != nil {
		t.Error(err)
	}
	if err := c.Check(Price{Down: 10_000_000_000}); err == nil {
		t.Error("a credit that no packet fits was accepted")
	}
}
