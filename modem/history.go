package modem

import (
	"sync"
	"time"
)

// A Sample is the radio at one moment.
type Sample struct {
	At           time.Time
	Signal       Signal
	Technology   Technology
	Registration Registration
}

// A History keeps the newest samples of a modem, in memory only. It may be used
// from any goroutine. The zero History keeps none.
type History struct {
	mu   sync.Mutex
	ring []Sample
	next int // where the next one goes
	full bool
}

// NewHistory keeps size samples, of about 80 bytes each.
func NewHistory(size int) *History { return &History{ring: make([]Sample, max(size, 0))} }

// Add notes what Status said at a moment.
func (h *History) Add(at time.Time, s Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ring) == 0 {
		return
	}
	h.ring[h.next] = Sample{at, s.Signal, s.Technology, s.Registration}
	if h.next++; h.next == len(h.ring) {
		h.next, h.full = 0, true
	}
}

// Samples are those that are kept, the oldest first.
func (h *History) Samples() []Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Sample
	if h.full {
		out = append(out, h.ring[h.next:]...)
	}
	return append(out, h.ring[:h.next]...)
}
