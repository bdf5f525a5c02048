package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// The benchmarks whose figures are reported, by package.
const (
	benchPacket  = "BenchmarkPacket"         // of meter
	benchVoucher = "BenchmarkRecoverVoucher" // of channel
	benchJournal = "BenchmarkJournalSave"    // of channel
)

// micro runs the Go benchmarks of what happens for every packet and for every
// voucher. Of what only computes the least is reported, since others' work can
// only add to it; of the journal, which waits for the disk, the median.
func (b *bench) micro(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, goCommand(), "test", "-run=^$", "-count="+strconv.Itoa(4*b.rounds), "-benchtime=250ms", "-benchmem",
		"-bench=^("+benchPacket+"|"+benchVoucher+"|"+benchJournal+")$", modulePath+"/meter", modulePath+"/channel")
	text, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test: %w: %s", err, text)
	}
	found, err := parseBenchmarks(string(text))
	if err != nil {
		return err
	}
	packet, voucher, journal := found[benchPacket], found[benchVoucher], found[benchJournal]
	if len(packet["ns/op"]) == 0 || len(voucher["ns/op"]) == 0 || len(journal["ns/op"]) == 0 {
		return fmt.Errorf("go test: a benchmark is missing in %s", text)
	}
	b.report.Micro = &Micro{
		PacketNanos: slices.Min(packet["ns/op"]), PacketAllocs: slices.Max(packet["allocs/op"]),
		VoucherMicros: slices.Min(voucher["ns/op"]) / 1e3,
		JournalMicros: median(journal["ns/op"]) / 1e3, JournalBytes: median(journal["B-written/op"]),
	}
	return nil
}

// parseBenchmarks reads what `go test -bench` prints: for each benchmark, its
// values by unit.
func parseBenchmarks(text string) (map[string]map[string][]float64, error) {
	found := map[string]map[string][]float64{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(fields[0], "-") // GOMAXPROCS follows
		if found[name] == nil {
			found[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("go test: %q: %w", strings.TrimSpace(line), err)
			}
			found[name][fields[i+1]] = append(found[name][fields[i+1]], v)
		}
	}
	return found, nil
}
