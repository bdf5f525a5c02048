package server

import (
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// counts are what has happened since the start.
type counts struct{ requests, refused, sessions atomic.Uint64 }

// Metrics serves the relay's figures to Prometheus, and those of others. None
// names an agent or a buyer.
func (s *Server) Metrics(others ...prometheus.Collector) http.Handler {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, f func() int) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	counter := func(name, help string, v *atomic.Uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) }))
	}
	gauge("x402_relay_agents", "Control connections.", s.agents.count)
	gauge("x402_relay_sessions", "Sessions allotted or in use.", s.table.count)
	gauge("x402_relay_connections", "TCP connections.", s.conns.count)
	gauge("x402_relay_handshakes", "QUIC handshakes under way.", func() int { return len(s.attempts) })
	counter("x402_relay_sessions_total", "Sessions allotted.", &s.counts.sessions)
	counter("x402_relay_requests_total", "HTTP requests.", &s.counts.requests)
	counter("x402_relay_refused_total", "Connections, requests and hellos beyond a limit or not authentic.", &s.counts.refused)
	counter("x402_relay_bytes_total", "Bytes passed on, both directions.", &s.packets.passed)
	counter("x402_relay_packets_dropped_total", "Packets of strangers, beyond a rate, or that could not be sent.", &s.packets.dropped)
	r.MustRegister(others...)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
