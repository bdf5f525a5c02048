package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// A Link is one flow in one direction by one way on an emulated link: medians
// over the rounds.
type Link struct {
	Link      string  `json:"link"`
	Loss      float64 `json:"loss"` // each way
	Direction string  `json:"direction"`
	Way       string  `json:"way"`
	Mbits     float64 `json:"mbits"`
	MbitsLow  float64 `json:"mbitsLow"`
	MbitsHigh float64 `json:"mbitsHigh"`
	Wire      float64 `json:"wire"`     // bytes of packets that were sent for each byte that arrived
	BuyerCPU  float64 `json:"buyerCPU"` // seconds per GB; 0: the kernel's
	AgentCPU  float64 `json:"agentCPU"`
	BuyerMiB  float64 `json:"buyerMiB"` // RSS after the transfer
	AgentMiB  float64 `json:"agentMiB"`
	Ping      float64 `json:"ping"`      // of the kernel, beside the flow, ms
	PingHigh  float64 `json:"pingHigh"`  // 95% take no longer
	First     float64 `json:"firstByte"` // of other flows by the same way, beside it, ms
}

// A Blackout is what came after a link was cut for a while.
type Blackout struct {
	Way      string  `json:"way"`
	Outage   float64 `json:"outage"`   // s
	Recovery float64 `json:"recovery"` // until something came again, s; negative: not in as long again
	Broken   bool    `json:"broken"`   // it took another flow
}

// Sharing is how flows share a link.
type Sharing struct {
	Case   string  `json:"case"`
	Way    string  `json:"way"`
	Jain   float64 `json:"jain"`   // fairness index; 1: all got the same
	First  float64 `json:"first"`  // Mbit/s of the first flow, by the way
	Others float64 `json:"others"` // of all others
}

// Flood is what a download keeps beside hostile traffic.
type Flood struct {
	Kind     string  `json:"kind"`
	Case     string  `json:"case"`
	Way      string  `json:"way"` // of the download
	Alone    float64 `json:"alone"`
	Beside   float64 `json:"beside"`   // Mbit/s
	Ratio    float64 `json:"ratio"`    // within a round
	Attempts int     `json:"attempts"` // of all rounds, in Seconds
	Seconds  float64 `json:"seconds"`
	AgentMiB float64 `json:"agentMiB"` // RSS after it
	RelayMiB float64 `json:"relayMiB"`
}

// Paused is what a download gets beside flows that nobody reads.
type Paused struct {
	Way    string  `json:"way"`
	Flows  int     `json:"flows"`
	Alone  float64 `json:"alone"`  // Mbit/s
	Beside float64 `json:"beside"` // Mbit/s
	Ratio  float64 `json:"ratio"`
}

// Idle is the memory of flows that do nothing, in MiB of RSS.
type Idle struct {
	Way      string  `json:"way"`
	Flows    int     `json:"flows"`
	BuyerMiB float64 `json:"buyerMiB"`
	AgentMiB float64 `json:"agentMiB"`
}

// Datagrams is a UDP flow of packets of 1,100 bytes, 20,000 a second.
type Datagrams struct {
	Direction   string  `json:"direction"`
	Way         string  `json:"way"`
	Loss        float64 `json:"loss"` // %
	BuyerMicros float64 `json:"buyerMicros"`
	AgentMicros float64 `json:"agentMicros"`
}

// judgeLinks compares with the targets what was measured on links.
func (r *Report) judgeLinks() {
	most := func(name, unit string, want, got float64) {
		r.Targets = append(r.Targets, Target{Name: name, Unit: unit, Want: want, Got: got, Met: got <= want})
	}
	least := func(name, unit string, want, got float64) {
		r.Targets = append(r.Targets, Target{Name: name, Unit: unit, Want: want, Least: true, Got: got, Met: got >= want})
	}
	for _, x := range r.SetUp {
		if x.Way == wayOurs {
			most("first byte on a 40 ms link, warm", "ms", 42, x.Warm)
			most("first byte on a 40 ms link, cold with 0-RTT", "ms", 45, x.Cold)
		}
	}
	for _, x := range r.Links {
		if x.Way == wayOurs && x.Loss == 0.01 {
			least("one download, 1% loss", "Mbit/s", 46, x.Mbits)
			most("one download, 1% loss", "wire/goodput", 1.08, x.Wire)
		}
		if x.Way == wayOurs && x.Loss == 0.05 {
			least("one download, 5% loss", "Mbit/s", 44.5, x.Mbits)
			most("one download, 5% loss", "wire/goodput", 1.12, x.Wire)
		}
	}
	for _, x := range r.Sharing {
		if x.Way == wayOurs {
			least(x.Case, "Jain", 0.8, x.Jain)
		}
	}
	for _, x := range r.Floods {
		least(fmt.Sprintf("a download %s beside %s", x.Way, x.Case), "× alone", 0.9, x.Ratio)
	}
	for _, x := range r.Paused {
		if x.Way == wayOurs {
			least(fmt.Sprintf("a download beside %d paused", x.Flows), "× alone", 0.95, x.Ratio)
		}
	}
	for _, x := range r.Datagrams {
		if x.Way == wayOurs {
			most("datagrams "+x.Direction, "% lost", 0.5, x.Loss)
			most("datagrams "+x.Direction+", buyer", "µs", 22, x.BuyerMicros)
			most("datagrams "+x.Direction+", agent", "µs", 22, x.AgentMicros)
		}
	}
}

func (r *Report) linksTable(out *strings.Builder) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.SetUp) > 0 {
		fmt.Fprintln(w, "\nfirst byte on the 40 ms link\twarm ms\tcold ms, ours by a ticket\t")
	}
	for _, x := range r.SetUp {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t\n", x.Way, x.Warm, x.Cold)
	}
	if len(r.Links) > 0 {
		fmt.Fprintln(w, "\none flow on a link\tMbit/s\tlow to high\twire/goodput\tCPU s/GB buyer\tagent\tRSS MiB buyer\tagent\tping ms\t95%\tfirst byte ms\t")
	}
	for _, x := range r.Links {
		own := "–\t–\t–\t–"
		if x.BuyerMiB > 0 {
			own = strings.Join([]string{number(x.BuyerCPU), number(x.AgentCPU), number(x.BuyerMiB), number(x.AgentMiB)}, "\t")
		}
		fmt.Fprintf(w, "%s, %s, %s\t%.1f\t%.1f to %.1f\t%.3f\t%s\t%.0f\t%.0f\t%.0f\t\n",
			x.Link, x.Direction, x.Way, x.Mbits, x.MbitsLow, x.MbitsHigh, x.Wire, own, x.Ping, x.PingHigh, x.First)
	}
	_ = w.Flush()
	if r.Unsteady > 0 {
		fmt.Fprintf(out, "%d of these samples are of a link that the busy machine kept waiting\n", r.Unsteady)
	}
	r.casesTable(out)
}

func (r *Report) casesTable(out *strings.Builder) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.Blackouts) > 0 {
		fmt.Fprintf(w, "\nafter a blackout of %.0f s\ts until data\tthe flow\t\n", r.Blackouts[0].Outage)
	}
	for _, x := range r.Blackouts {
		flow, after := "went on", number(x.Recovery)
		if x.Broken {
			flow = "broke"
		}
		if x.Recovery < 0 {
			after = "never"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", x.Way, after, flow)
	}
	if len(r.Sharing) > 0 {
		fmt.Fprintln(w, "\nsharing 50 Mbit/s, 40 ms\tJain\tthe first Mbit/s\tthe others\t")
	}
	for _, x := range r.Sharing {
		fmt.Fprintf(w, "%s: %s\t%.2f\t%.1f\t%.1f\t\n", x.Way, x.Case, x.Jain, x.First, x.Others)
	}
	if len(r.Floods) > 0 {
		fmt.Fprintln(w, "\na download on 20 Mbit/s beside\tgoes\talone Mbit/s\tbeside it\t× alone\tattempts\ta second\tRSS MiB agent\trelay\t")
	}
	for _, x := range r.Floods {
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.2f\t%d\t%.0f\t%.1f\t%.1f\t\n", x.Case, x.Way, x.Alone, x.Beside, x.Ratio, x.Attempts, float64(x.Attempts)/x.Seconds, x.AgentMiB, x.RelayMiB)
	}
	if len(r.Paused) > 0 {
		fmt.Fprintf(w, "\na download beside %d paused\talone Mbit/s\tbeside them\t× alone\t\n", r.Paused[0].Flows)
	}
	for _, x := range r.Paused {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t\n", x.Way, x.Alone, x.Beside, x.Ratio)
	}
	if len(r.Idle) > 0 {
		fmt.Fprintln(w, "\nflows that do nothing\tRSS MiB buyer\tagent\t")
	}
	for _, x := range r.Idle {
		fmt.Fprintf(w, "%s, %d\t%.1f\t%.1f\t\n", x.Way, x.Flows, x.BuyerMiB, x.AgentMiB)
	}
	if len(r.Datagrams) > 0 {
		fmt.Fprintln(w, "\ndatagrams of 1,100 bytes, 20,000 a second\tlost %\tµs a packet buyer\tagent\t")
	}
	for _, x := range r.Datagrams {
		fmt.Fprintf(w, "%s, %s\t%.2f\t%.1f\t%.1f\t\n", x.Direction, x.Way, x.Loss, x.BuyerMicros, x.AgentMicros)
	}
	_ = w.Flush()
}
