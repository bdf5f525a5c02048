package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A narrator says what happens: one line for each step, and on a terminal a
// line that moves while a step takes its time.
type narrator struct {
	terminal bool
	began    time.Time

	mu    sync.Mutex
	w     io.Writer
	drawn int // length of the moving line; 0: there is none
}

// step says that something is done.
func (n *narrator) step(name, format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	fmt.Fprintf(n.w, "%6.1f s  %-12s%s\n", time.Since(n.began).Seconds(), name, fmt.Sprintf(format, args...))
}

// draw shows the moving line, on a terminal only.
func (n *narrator) draw(text string) {
	if !n.terminal {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	pad := max(0, n.drawn-len(text))
	fmt.Fprintf(n.w, "\r%s%s", text, strings.Repeat(" ", pad))
	n.drawn = len(text)
}

// erase removes the moving line; mu is held.
func (n *narrator) erase() {
	if n.drawn > 0 {
		fmt.Fprintf(n.w, "\r%s\r", strings.Repeat(" ", n.drawn))
		n.drawn = 0
	}
}

// Write passes whole lines on, between the narrator's own.
func (n *narrator) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	return n.w.Write(b)
}

const (
	drawEvery = 100 * time.Millisecond
	barWidth  = 30
)

// follow draws how far a transfer of total bytes has come, until done is
// closed.
func (n *narrator) follow(done <-chan struct{}, have *atomic.Int64, total int64) {
	tick := time.NewTicker(drawEvery)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			n.draw(bar(have.Load(), total, time.Since(began)))
		}
	}
}

// bar is a transfer in one line.
func bar(have, total int64, passed time.Duration) string {
	full := barWidth
	if total > 0 {
		full = int(have * barWidth / total)
	}
	rate := float64(have) * 8 / 1e6 / max(passed.Seconds(), 1e-3)
	return fmt.Sprintf("          fetching    [%s%s] %s of %s, %.0f Mbit/s",
		strings.Repeat("#", full), strings.Repeat(".", barWidth-full), size(have), size(total), rate)
}

// size is a number of bytes for people, in powers of 1000.
func size(n int64) string {
	const units = "kMGT"
	f, i := float64(n), -1
	for f >= 999.5 && i+1 < len(units) {
		f, i = f/1000, i+1
	}
	switch {
	case i < 0:
		return fmt.Sprintf("%d B", n)
	case f < 9.95:
		return fmt.Sprintf("%.1f %cB", f, units[i])
	}
	return fmt.Sprintf("%.0f %cB", f, units[i])
}

// ParseSize reads a number of bytes: digits, then k, M or G for a power of
// 1000, then B, both optional.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimSuffix(s, "B")
	unit := int64(1)
	if n := len(digits); n > 0 {
		switch digits[n-1] {
		case 'k', 'K':
			unit = 1e3
		case 'M':
			unit = 1e6
		case 'G':
			unit = 1e9
		}
	}
	if unit > 1 {
		digits = digits[:len(digits)-1]
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > uint64(MaxBytes/unit) {
		return 0, fmt.Errorf("%q: want a size from 0 to %s, such as 50MB", s, size(MaxBytes))
	}
	return int64(n) * unit, nil
}
