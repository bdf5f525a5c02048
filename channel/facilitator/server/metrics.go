package server

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// metrics is what GET /metrics shows. Prometheus knows only floating point;
// nothing is ever computed from it.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	applied  *prometheus.CounterVec
	refused  *prometheus.CounterVec
	failed   prometheus.Counter
}

// newMetrics has the sums of l too if it knows them all.
func newMetrics(l Ledger, sums bool) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "x402_facilitator_requests_total", Help: "HTTP requests by route and status.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "x402_facilitator_request_seconds", Help: "Time to answer, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"route"}),
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "x402_facilitator_transactions_total", Help: "Transactions answered with success, repetitions included, by kind.",
		}, []string{"kind"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "x402_facilitator_refused_total", Help: "Payments and operations refused, by the standard's code.",
		}, []string{"code"}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "x402_facilitator_ledger_failures_total", Help: "Transactions that the store could not write.",
		}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.applied, m.refused, m.failed, ledgerCollector{l, sums},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(route string, status int, d time.Duration) {
	if route == "" {
		route = "none" // not a label per invented path
	}
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(d.Seconds())
}

// ledgerCollector reads the totals when it is scraped.
type ledgerCollector struct {
	ledger Ledger
	sums   bool
}

func heightDesc() *prometheus.Desc {
	return prometheus.NewDesc("x402_ledger_height", "Transactions in the journal; on a chain, its newest block.", []string{"network"}, nil)
}

func amountDesc() *prometheus.Desc {
	return prometheus.NewDesc("x402_ledger_units",
		"Atomic units of the asset, by where they are: accounts + escrow + unsettled + fees = issued - redeemed.",
		[]string{"network", "where"}, nil)
}

func balancedDesc() *prometheus.Desc {
	return prometheus.NewDesc("x402_ledger_balanced", "1 if the totals add up.", []string{"network"}, nil)
}

// Describe implements prometheus.Collector.
func (c ledgerCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- heightDesc()
	ch <- amountDesc()
	ch <- balancedDesc()
}

// Collect implements prometheus.Collector.
func (c ledgerCollector) Collect(ch chan<- prometheus.Metric) {
	st, err := c.ledger.Read(context.Background(), ledger.Touch{})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(heightDesc(), err)
		return
	}
	t, network := st.Totals, c.ledger.Params().Network()
	ch <- prometheus.MustNewConstMetric(heightDesc(), prometheus.CounterValue, float64(t.Height), network)
	if !c.sums {
		return
	}
	balanced := 1.0
	if t.Check() != nil {
		balanced = 0
	}
	ch <- prometheus.MustNewConstMetric(balancedDesc(), prometheus.GaugeValue, balanced, network)
	for where, v := range map[string]channel.Amount{
		"issued": t.Issued, "redeemed": t.Redeemed, "accounts": t.Accounts,
		"escrow": t.Escrow, "unsettled": t.Unsettled, "fees": t.Fees,
	} {
		ch <- prometheus.MustNewConstMetric(amountDesc(), prometheus.GaugeValue, float64(v), network, where)
	}
}
