package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/depinsim/x402/channel"
)

// A Relay is one flow in one direction by a relay, or beside one: medians over
// the rounds. Ratios are to other ways of the same round.
type Relay struct {
	Link      string         `json:"link"`
	Direction string         `json:"direction"`
	Way       string         `json:"way"`
	Toll      channel.Amount `json:"toll,omitempty"` // what the relay asks for a GB, in atomic units
	Mbits     float64        `json:"mbits"`
	MbitsLow  float64        `json:"mbitsLow"`
	MbitsHigh float64        `json:"mbitsHigh"`
	Ratio     float64        `json:"ratio"`               // to the direct path
	FreeRatio float64        `json:"freeRatio,omitempty"` // of a relay that charges: to one that does not
	CPU       float64        `json:"relayCPU"`            // seconds per GB, of the relay's process; 0: there is none
	AgentCPU  float64        `json:"agentCPU"`            // likewise of the agent, by which the relay's can be judged on a busy machine
	MiB       float64        `json:"relayMiB"`            // the most of its RSS after a transfer
}

// judgeRelays compares with the targets what a relay costs that does not charge.
func (r *Report) judgeRelays() {
	for _, x := range r.Relays {
		if x.Way != wayRelay {
			continue
		}
		name := fmt.Sprintf("one %sload by a relay, %s", x.Direction, x.Link)
		r.Targets = append(r.Targets,
			Target{Name: name, Unit: "× direct", Want: 0.95, Least: true, Got: x.Ratio, Met: x.Ratio >= 0.95},
			Target{Name: name + ", its CPU", Unit: "s/GB", Want: 2.5, Got: x.CPU, Met: x.CPU <= 2.5})
	}
}

func (r *Report) relayTable(out *strings.Builder) {
	if len(r.Relays) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\none flow by a relay\tMbit/s\tlow to high\t× direct\t× free relay\tCPU s/GB agent\trelay\tRSS MiB relay\t")
	for _, x := range r.Relays {
		free, own := "–", "–\t–"
		if x.Way != wayDirectly {
			own = number(x.CPU) + "\t" + number(x.MiB)
		}
		if x.Toll > 0 {
			free = number(x.FreeRatio)
		}
		fmt.Fprintf(w, "%s, %s, %s\t%.0f\t%.0f to %.0f\t%s\t%s\t%s\t%s\t\n",
			x.Link, x.Direction, x.Way, x.Mbits, x.MbitsLow, x.MbitsHigh, number(x.Ratio), free, number(x.AgentCPU), own)
	}
	_ = w.Flush()
	if r.RelaysUnsteady > 0 {
		fmt.Fprintf(out, "%d of these samples are of a link that the busy machine kept waiting\n", r.RelaysUnsteady)
	}
}
