package directory

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Collectors are the toll's figures for Prometheus, in atomic units of the asset
// (1e-6 USD). None names a payer.
func (t *Toll) Collectors() []prometheus.Collector {
	counter := func(name, help string, v *atomic.Uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) })
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	return []prometheus.Collector{
		counter("x402_relay_toll_earned_units_total", "What came to be owed since the start, in units of 0.000001 USD.", &t.counts.earned),
		counter("x402_relay_toll_paid_units_total", "What vouchers were accepted for since the start.", &t.counts.paid),
		counter("x402_relay_toll_claimed_units_total", "What was claimed since the start.", &t.counts.claimed),
		counter("x402_relay_toll_unpaid_total", "Accounts that ended since nothing was paid.", &t.counts.unpaid),
		gauge("x402_relay_toll_accounts", "Accounts in use.", func() float64 { return float64(len(t.all())) }),
		gauge("x402_relay_toll_unclaimed_units", "What is earned, paid and not claimed, over all channels.", t.unclaimed),
		gauge("x402_relay_toll_exposed_units", "What would be lost if all payers left now and denied what they can.", func() float64 {
			sum, _ := t.exposures(t.all())
			return float64(sum)
		}),
	}
}

func (t *Toll) unclaimed() (sum float64) {
	for _, state := range t.payee.All() {
		if due, err := charged(state); err == nil {
			sum += float64(due - state.Claimed)
		}
	}
	return sum
}
