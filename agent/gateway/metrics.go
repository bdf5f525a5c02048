package gateway

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel"
)

// counts are what has happened since the start.
type counts struct {
	sales, more, sold atomic.Uint64 // credits, additions to one, and units for both
	refunds, refunded atomic.Uint64 // and their units
	up, down          atomic.Uint64 // bytes
	opened, failed    atomic.Uint64 // exits
	refusals          [reasons]atomic.Uint64
}

// A reason is why a customer is refused.
type reason int

const (
	refusedLogin   reason = iota // a wrong user or password
	refusedGuesses               // too many of those from the address
	refusedName                  // a user name whose words mean nothing
	refusedAddress               // an address that may not use the credit
	refusedSpent
	refusedEnded
	refusedFlows  // too many connections
	refusedExit   // none fits, or answers
	refusedTarget // by the exit, or by the target
	refusedFunds  // the gateway has no money for an agent
	reasons
)

var reasonNames = [reasons]string{
	refusedLogin: "login", refusedGuesses: "guesses", refusedName: "name", refusedAddress: "address", refusedSpent: "spent", refusedEnded: "ended",
	refusedFlows: "connections", refusedExit: "exit", refusedTarget: "target", refusedFunds: "funds",
}

// reasonOf is why a connection, or a sale, fails.
func reasonOf(err error) reason {
	switch {
	case errors.Is(err, errSpent):
		return refusedSpent
	case errors.Is(err, errEnded), errors.Is(err, errNoAccount):
		return refusedEnded
	case errors.Is(err, errFlows):
		return refusedFlows
	case errors.Is(err, buyer.ErrPoor), errors.Is(err, errFunds):
		return refusedFunds
	}
	if _, ok := errors.AsType[*tunnel.RefusedError](err); ok {
		return refusedTarget
	}
	return refusedExit
}

func (c *counts) refuse(r reason) { c.refusals[r].Add(1) }

// sell counts a sale.
func (c *counts) sell(more bool, amount channel.Amount) {
	n := &c.sales
	if more {
		n = &c.more
	}
	n.Add(1)
	c.sold.Add(uint64(amount))
}

// sums are what the gateway owes and is owed, as of a time: all accounts are read
// for it.
type sums struct {
	mu        sync.Mutex
	when      time.Time
	credits   int
	unspent   channel.Amount
	refunding channel.Amount
	open      int // payments
	unpaid    int // purchases that have not ended in order, those that run included
}

// sumsAge is how old sums may be.
const sumsAge = 2 * time.Second

// sum returns one of the sums, of now or a moment ago.
func (g *Gateway) sum(of func(*sums) float64) float64 {
	s := &g.sums
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.when) < sumsAge {
		return of(s)
	}
	s.credits, s.unspent, s.refunding, s.when = 0, 0, 0, time.Now()
	err := g.book.all(func(_ accountID, r record) {
		switch {
		case r.Refund != nil:
			s.refunding += r.Refund.Amount
		case !r.Closed && !r.Pending:
			s.credits++
			s.unspent += r.left() // each has at most maxCredit
		}
	})
	payments, perr := g.book.payments(time.Now())
	ids, uerr := g.book.unended()
	s.open, s.unpaid = len(payments.held), len(ids)
	if err := errors.Join(err, perr, uerr); err != nil {
		g.log.Error("sum up the accounts", "err", err)
	}
	return of(s)
}

// Collectors are the gateway's figures for Prometheus, in atomic units of the asset
// (1e-6 USD) and bytes. None names a customer, an agent or a target.
func (g *Gateway) Collectors() []prometheus.Collector {
	c := g.book.counts
	counter := func(name, help string, v *atomic.Uint64, labels prometheus.Labels) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(v.Load()) })
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	total := func(name, help string, of func(*sums) float64) prometheus.Collector {
		return gauge(name, help, func() float64 { return g.sum(of) })
	}
	all := []prometheus.Collector{
		counter("x402_gateway_sales_total", "Credits that were sold, and additions to one.", &c.sales, prometheus.Labels{"kind": "new"}),
		counter("x402_gateway_sales_total", "Credits that were sold, and additions to one.", &c.more, prometheus.Labels{"kind": "more"}),
		counter("x402_gateway_sold_units_total", "What was paid for credit, in units of 0.000001 USD.", &c.sold, nil),
		counter("x402_gateway_bytes_total", "Bytes that customers were billed.", &c.up, prometheus.Labels{"direction": "up"}),
		counter("x402_gateway_bytes_total", "Bytes that customers were billed.", &c.down, prometheus.Labels{"direction": "down"}),
		counter("x402_gateway_refunds_total", "Refunds that were made.", &c.refunds, nil),
		counter("x402_gateway_refunded_units_total", "What was given back.", &c.refunded, nil),
		counter("x402_gateway_exits_opened_total", "Agents that were begun to be bought from.", &c.opened, nil),
		counter("x402_gateway_exits_failed_total", "Exits that ended otherwise than in order.", &c.failed, nil),
		gauge("x402_gateway_exits", "Agents that are bought from.", func() float64 { n, _ := g.exits.busy(); return float64(n) }),
		gauge("x402_gateway_flows", "Connections through them.", func() float64 { _, n := g.exits.busy(); return float64(n) }),
		total("x402_gateway_credits", "Credits that can be spent.", func(s *sums) float64 { return float64(s.credits) }),
		total("x402_gateway_unspent_units", "What is left of them.", func(s *sums) float64 { return float64(s.unspent) }),
		total("x402_gateway_refunding_units", "What is being given back, and is not yet.", func(s *sums) float64 { return float64(s.refunding) }),
		total("x402_gateway_payments_open", "Payments of which is not known what came of them.", func(s *sums) float64 { return float64(s.open) }),
		total("x402_gateway_purchases_open", "Purchases from agents that have not ended in order, those that go on included.", func(s *sums) float64 { return float64(s.unpaid) }),
	}
	for r, name := range reasonNames {
		all = append(all, counter("x402_gateway_refused_total", "Connections and sales that were refused, by the reason.", &c.refusals[r], prometheus.Labels{"reason": name}))
	}
	return all
}

// busy is how many exits are open, and how many flows leave by them.
func (x *exits) busy() (exits, flows int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.open {
		if !e.closing {
			exits++
		}
		flows += int(e.flows.Load())
	}
	return exits, flows
}

// refused counts why a connection is not made, and is what the customer is told.
func (g *Gateway) refused(err error) error {
	g.book.counts.refuse(reasonOf(err))
	return told(err)
}
