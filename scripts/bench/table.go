package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// table renders the report for people.
func (r *Report) table() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s, %d CPUs, %d MB, Linux %s, %s, load %s\n", r.Machine.CPU, r.Machine.CPUs, r.Machine.MemoryMB,
		r.Machine.Kernel, r.Machine.Go, r.Machine.Load)
	fmt.Fprintf(&out, "%s; %s; medians of %d rounds of %.3g s, interleaved; %s\n", r.Machine.QUIC, r.Path, r.Rounds, r.Seconds, r.Date)
	r.transferTable(&out)
	r.restTable(&out)
	r.relayTable(&out)
	r.linksTable(&out)
	for _, text := range r.Left {
		fmt.Fprintf(&out, "\nnot measured: %s\n", text)
	}
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ntarget\twant\tgot\t\t\t")
	for _, t := range r.Targets {
		sign, verdict := "≤", "met"
		if t.Least {
			sign = "≥"
		}
		if !t.Met {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s\t%s %.4g\t%s\t%s\t%s\t\n", t.Name, sign, t.Want, number(t.Got), t.Unit, verdict)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return out.String()
}

func (r *Report) transferTable(out *strings.Builder) {
	if len(r.Transfers) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\none flow\tMbit/s\tlow to high\t× bare\tCPU s/GB buyer\t× bare\tCPU s/GB agent\t× bare\t")
	for _, t := range r.Transfers {
		cpu := "–\t–\t–\t–"
		if t.Way != wayDirect {
			cpu = strings.Join([]string{number(t.BuyerCPU), number(t.BuyerRatio), number(t.AgentCPU), number(t.AgentRatio)}, "\t")
		}
		fmt.Fprintf(w, "%s, %s\t%.0f\t%.0f to %.0f\t%s\t%s\t\n", t.Direction, t.Way, t.Mbits, t.MbitsLow, t.MbitsHigh, number(t.Ratio), cpu)
	}
	_ = w.Flush()
	if p := r.Paid; p != nil {
		fmt.Fprintf(out, "ours, warm-up included: %d bytes down and %d up counted, %s USD signed and claimed\n", p.BytesDown, p.BytesUp, p.Signed.USD())
	}
}

func (r *Report) restTable(out *strings.Builder) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.Latencies) > 0 {
		fmt.Fprintln(w, "\nfirst byte, 40 ms round trip\twarm ms\tcold ms\tstart alone\t")
		for _, l := range r.Latencies {
			fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t\n", l.Way, l.Warm, l.Cold, l.Started)
		}
	}
	if len(r.Memory) > 0 {
		fmt.Fprintf(w, "\nagent's RSS (%s)\tMiB\tflows that moved\t\n", r.MemoryArch)
		for _, m := range r.Memory {
			fmt.Fprintf(w, "%s\t%.1f\t%d\t\n", m.name(), m.MiB, m.Moved)
		}
	}
	if r.Serving != nil || r.FullSpeed != nil {
		fmt.Fprintln(w, "\nagent's journal\tsyncs/min\tkB/min\t")
	}
	if f := r.Serving; f != nil {
		fmt.Fprintf(w, "serving %.0f Mbit/s\t%.1f\t%.1f\t\n", f.Mbits, f.SyncsMinute, f.BytesMinute/1e3)
	}
	if f := r.FullSpeed; f != nil {
		fmt.Fprintf(w, "transfers above, pauses included\t%.1f\t%.1f\t\n", f.SyncsMinute, f.BytesMinute/1e3)
	}
	if m := r.Micro; m != nil {
		fmt.Fprintln(w, "\none step\tcost\t\t")
		fmt.Fprintf(w, "metering a packet\t%.1f\tns\t\n", m.PacketNanos)
		fmt.Fprintf(w, "checking a voucher\t%.0f\tµs\t\n", m.VoucherMicros)
		fmt.Fprintf(w, "storing a voucher (%.0f B, synced)\t%.0f\tµs\t\n", m.JournalBytes, m.JournalMicros)
	}
	if len(r.Router) > 0 {
		fmt.Fprintln(w, "\nagent's instructions a byte\tours\tbare relay\t× bare\t")
	}
	for _, x := range r.Router {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.3f\t\n", x.CPU, x.Ours, x.Bare, x.Ratio)
	}
	_ = w.Flush()
}

// number prints three digits.
func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
