package watch

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are what has happened since the start; claimed is in atomic units.
type counts struct{ taken, refused, looks, withdrawals, claims, claimed, lost atomic.Uint64 }

// Collectors are the watch's figures for Prometheus. None names an agent or a
// payer.
func (w *Watch) Collectors() []prometheus.Collector {
	counter := func(name, help string, v *atomic.Uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) })
	}
	return []prometheus.Collector{
		counter("x402_relay_watch_taken_total", "Claims that agents handed in and that are kept, or were.", &w.counts.taken),
		counter("x402_relay_watch_refused_total", "Claims that were not good, or found no room.", &w.counts.refused),
		counter("x402_relay_watch_looks_total", "Questions about channels to facilitators.", &w.counts.looks),
		counter("x402_relay_watch_withdrawals_total", "Withdrawals that payers began and that were seen.", &w.counts.withdrawals),
		counter("x402_relay_watch_claims_total", "Claims that were booked for agents.", &w.counts.claims),
		counter("x402_relay_watch_claimed_units_total", "What these claims were for, in units of 0.000001 USD.", &w.counts.claimed),
		counter("x402_relay_watch_lost_total", "Channels whose deposit went before the claim could be booked.", &w.counts.lost),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "x402_relay_watch_channels", Help: "Channels of which a claim is kept."}, func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return float64(len(w.all))
		}),
	}
}
