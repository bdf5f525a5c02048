package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/depinsim/x402/channel"
)

// A Report is what a run found. Groups that were not measured are missing.
type Report struct {
	Date    string  `json:"date"`
	Machine Machine `json:"machine"`
	Path    string  `json:"path"` // between buyer and agent
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"` // of one transfer

	Transfers []Transfer `json:"transfers,omitempty"`
	// Paid is what the transfers by ours came to, their warm-up included: it
	// shows that counting and payment were on.
	Paid       *Paid     `json:"paid,omitempty"`
	Serving    *Flash    `json:"flashServing,omitempty"`   // at Mbits
	FullSpeed  *Flash    `json:"flashFullSpeed,omitempty"` // over the whole of the transfer group
	Latencies  []Latency `json:"latencies,omitempty"`
	MemoryArch string    `json:"memoryArch,omitempty"`
	Memory     []Memory  `json:"memory,omitempty"`
	Micro      *Micro    `json:"micro,omitempty"`
	Router     []Router  `json:"router,omitempty"`

	Relays []Relay `json:"relays,omitempty"`
	// RelaysUnsteady is for Relays what Unsteady is for Links.
	RelaysUnsteady int `json:"relaysUnsteady,omitempty"`

	SetUp []Latency `json:"setUp,omitempty"` // on the emulated link
	Links []Link    `json:"links,omitempty"`
	// Unsteady is how many samples of Links were taken although the machine had
	// no time for the link: more than 0.5% of packets were late by over 5 ms.
	Unsteady  int         `json:"unsteady,omitempty"`
	Blackouts []Blackout  `json:"blackouts,omitempty"`
	Sharing   []Sharing   `json:"sharing,omitempty"`
	Floods    []Flood     `json:"floods,omitempty"`
	Paused    []Paused    `json:"paused,omitempty"`
	Idle      []Idle      `json:"idle,omitempty"`
	Datagrams []Datagrams `json:"datagrams,omitempty"`
	// Left are the groups that could not be measured here, and why.
	Left []string `json:"left,omitempty"`

	Targets []Target `json:"targets"`
}

// A Machine is where it was measured.
type Machine struct {
	CPU      string `json:"cpu"`
	CPUs     int    `json:"cpus"`
	MemoryMB int    `json:"memoryMB"`
	Kernel   string `json:"kernel"`
	Go       string `json:"go"`
	QUIC     string `json:"quic"` // the library's version
	Load     string `json:"load"` // averages when the run began: others' work
}

// A Transfer is one direction by one way: medians over the rounds. CPU is in
// seconds per GB (1e9 bytes). Ratios are to the bare relay of the same round.
type Transfer struct {
	Direction  string  `json:"direction"`
	Way        string  `json:"way"`
	Mbits      float64 `json:"mbits"`
	MbitsLow   float64 `json:"mbitsLow"`
	MbitsHigh  float64 `json:"mbitsHigh"`
	BuyerCPU   float64 `json:"buyerCPU"`
	AgentCPU   float64 `json:"agentCPU"`
	Ratio      float64 `json:"ratio"`
	BuyerRatio float64 `json:"buyerRatio"`
	AgentRatio float64 `json:"agentRatio"`
}

// Paid is what the buyer's last words were; both sides agree on it, or there is
// no report.
type Paid struct {
	BytesDown uint64         `json:"bytesDown"`
	BytesUp   uint64         `json:"bytesUp"`
	Signed    channel.Amount `json:"signed"`
	Claimed   channel.Amount `json:"claimed"`
}

// Flash is what the agent's journal wrote, by the minute.
type Flash struct {
	Mbits       float64 `json:"mbits,omitempty"` // while serving at this rate
	SyncsMinute float64 `json:"syncsMinute"`
	BytesMinute float64 `json:"bytesMinute"`
}

// A Latency is the time to the first byte on a path of 40 ms, in ms.
type Latency struct {
	Way  string  `json:"way"`
	Warm float64 `json:"warm"` // through a tunnel that stands
	Cold float64 `json:"cold"` // from the start of the buyer's process
	// Started is how much of Cold had passed when the buyer's proxy listened: it
	// is the machine's, not the path's.
	Started float64 `json:"started,omitempty"`
}

// Memory is the agent's RSS in MiB.
type Memory struct {
	Flows int     `json:"flows"` // downloading; 0: idle
	Moved int     `json:"moved"` // of them, those that got something, in the worst round
	MiB   float64 `json:"mib"`
}

// Micro is what single steps cost: the least of what computes, the median of
// what waits for the disk.
type Micro struct {
	PacketNanos   float64 `json:"packetNanos"` // metering one packet
	PacketAllocs  float64 `json:"packetAllocs"`
	VoucherMicros float64 `json:"voucherMicros"` // checking one
	JournalMicros float64 `json:"journalMicros"` // storing one, with its sync
	JournalBytes  float64 `json:"journalBytes"`
}

// A Router is how many instructions an agent on a router's processor takes in
// user space for a byte of a download, with encryption and all; Bare is the bare
// relay's, Ratio that of the same round.
type Router struct {
	CPU   string  `json:"cpu"`
	Ours  float64 `json:"ours"`
	Bare  float64 `json:"bare"`
	Ratio float64 `json:"ratio"`
}

// A Target is one of those of docs/performance.md and how it was met.
type Target struct {
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	Want float64 `json:"want"`
	// Least says that Want is the least that will do, not the most.
	Least bool    `json:"least"`
	Got   float64 `json:"got"`
	Met   bool    `json:"met"`
}

// judge compares with the targets what was measured.
func (r *Report) judge() {
	r.Targets = []Target{}
	most := func(name, unit string, want, got float64) {
		r.Targets = append(r.Targets, Target{Name: name, Unit: unit, Want: want, Got: got, Met: got <= want})
	}
	for _, t := range r.Transfers {
		if t.Way != wayOurs {
			continue
		}
		flow := "one " + t.Direction + "load"
		r.Targets = append(r.Targets, Target{flow, "× bare relay", 1, true, t.Ratio, t.Ratio >= 1})
		most(flow+", buyer's CPU", "s/GB", 4, t.BuyerCPU)
		most(flow+", agent's CPU", "s/GB", 4, t.AgentCPU)
	}
	if f := r.Serving; f != nil {
		at := fmt.Sprintf(", serving %.0f Mbit/s", f.Mbits)
		most("flash syncs"+at, "/s", 1, f.SyncsMinute/60)
		most("flash writes"+at, "MB/day", 60, f.BytesMinute*60*24/1e6)
	}
	for _, l := range r.Latencies {
		if l.Way == wayOurs {
			most("first byte at 40 ms, warm", "ms", 42, l.Warm)
			most("first byte at 40 ms, cold", "ms", 85, l.Cold)
		}
		if l.Way == wayEarly {
			most("first byte at 40 ms, cold with 0-RTT", "ms", 45, l.Cold)
		}
	}
	budgets := map[int]float64{0: 14, 48: 18, 100: 20, 1000: 45}
	for _, m := range r.Memory {
		if want, ok := budgets[m.Flows]; ok {
			most("agent's RSS, "+m.name(), "MiB", want, m.MiB)
		}
	}
	if m := r.Micro; m != nil {
		most("metering a packet", "ns", 5, m.PacketNanos)
		most("metering a packet", "allocations", 0, m.PacketAllocs)
		most("checking a voucher", "µs", 150, m.VoucherMicros)
	}
	for _, x := range r.Router {
		most("agent's instructions on "+x.CPU, "× bare relay", 1.05, x.Ratio)
	}
	r.judgeRelays()
	r.judgeLinks()
}

func (m Memory) name() string {
	if m.Flows == 0 {
		return "idle"
	}
	return fmt.Sprintf("%d busy flows", m.Flows)
}

// describeMachine reads what Linux says of itself.
func describeMachine() (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version()}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, fmt.Errorf("this needs Linux: %w", err)
	}
	m.CPU = valueOf(string(cpu), "model name")
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	var kb int
	if _, err := fmt.Sscan(valueOf(string(mem), "MemTotal"), &kb); err != nil {
		return m, fmt.Errorf("/proc/meminfo: %w", err)
	}
	m.MemoryMB = kb * 1024 / 1e6
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, err
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if strings.HasSuffix(d.Path, "/quic-go") {
				m.QUIC = d.Path + " " + d.Version
			}
		}
	}
	return m, nil
}

// valueOf is what stands behind the first "name:" of a file of /proc.
func valueOf(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
