package bbr

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apernet/quic-go/monotime"
)

const (
	// overhead is what each packet costs on the wire besides itself: IPv4 and
	// UDP headers.
	overhead = 28

	capQuantum  = 2 * millisecond // of the cap's rate: what one turn lets out
	maxQuantum  = 32 << 10
	capBank     = 16 * millisecond  // how much of the rate a late sender makes up for
	longestWait = 100 * millisecond // then the cap is asked again: it may have changed
	turnExpires = second
)

// A Cap bounds the sum of what its controllers and senders send, and divides it
// evenly among those that are busy. The zero Cap is no bound.
//
// Busy senders take turns: each reserves one quantum of the rate and comes back
// when it has sent it, in the order in which they came. What one does not use
// others do. A lock is taken once per turn and not per packet.
type Cap struct {
	changes atomic.Uint32 // counts calls of Set; 0 is no cap yet

	mu      sync.Mutex
	rate    rate
	cost    uint64 // ns per byte, in 1/4096
	quantum uint32
	next    int64 // in quic-go's time, when all that was reserved has left
}

// Set changes the cap to bytes a second, as on the wire with IP and UDP
// headers; 0 removes it. It may be called from any goroutine and holds for all
// senders within a tenth of a second.
func (c *Cap) Set(rate uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes.Add(1)
	c.next = math.MinInt64 // what was reserved at the old rate is reserved again
	if c.rate = bytesPerSecond(rate); rate == 0 {
		return
	}
	c.rate = max(c.rate, 1)
	c.cost = uint64(1) << (rateShift + 12) / uint64(c.rate)
	c.quantum = min(max(c.rate.volume(capQuantum), 1500), maxQuantum)
}

// reserve returns a quantum and when it may leave, or 0 if there is no cap.
func (c *Cap) reserve(now int64, turn *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	turn.change = c.changes.Load()
	if turn.off = c.rate == 0; turn.off {
		return
	}
	c.take(now, turn)
}

// take is called locked.
func (c *Cap) take(now int64, turn *turn) {
	turn.from = max(c.next, now-capBank)
	turn.credit += int32(c.quantum)
	high, low := bits.Mul64(uint64(c.quantum), c.cost)
	c.next = turn.from + int64(high<<52|low>>12)
}

// A Sender is a place under a cap for what is not QUIC. It belongs to one
// goroutine at a time; the zero Sender knows no cap.
type Sender struct{ turn turn }

// Sender returns a place for one connection. Of a nil cap it is no bound.
func (c *Cap) Sender() Sender { return Sender{turn{cap: c}} }

// Allow says how many of want bytes may be sent at a time, at least one, or none
// and how long to wait before it is asked again. Who was late may send what the
// cap has left unused meanwhile.
func (s *Sender) Allow(at time.Time, want int) (n int, wait time.Duration) {
	t := &s.turn
	if t.cap == nil || t.change == t.cap.changes.Load() && (t.off || t.change == 0) {
		return want, 0
	}
	now := int64(monotime.FromTime(at))
	if !t.ready(now) {
		return 0, time.Duration(min(t.from-now, longestWait))
	}
	if t.off {
		return want, 0
	}
	for int(t.credit) < want && t.cap.left(now, t) {
	}
	return min(want, int(t.credit)), 0
}

// Sent takes what was sent off, with all its heads.
func (s *Sender) Sent(n int) {
	if t := &s.turn; t.cap != nil && t.change != 0 && !t.off {
		t.credit -= int32(n)
	}
}

// left reserves another quantum if it may leave at once.
func (c *Cap) left(now int64, turn *turn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rate == 0 || turn.change != c.changes.Load() || c.next > now {
		return false
	}
	c.take(now, turn)
	return true
}

// A turn is one sender's place under a cap.
type turn struct {
	cap    *Cap
	change uint32 // of the cap, when this was reserved
	off    bool
	credit int32 // bytes; below zero for what had to leave anyway
	from   int64 // in quic-go's time, when credit may be used
	asked  int64 // when ready was last asked
}

// ready says whether a packet may leave under the cap.
func (t *turn) ready(now int64) bool {
	if t.cap == nil {
		return true
	}
	if change := t.cap.changes.Load(); change != t.change {
		if change == 0 {
			return true
		}
		t.credit = min(t.credit, 0)
		t.cap.reserve(now, t)
	}
	if t.off {
		return true
	}
	t.asked = now
	if now-t.from > turnExpires {
		t.credit = min(t.credit, 0)
	}
	for t.credit <= 0 {
		t.cap.reserve(now, t)
		if t.off {
			return true
		}
	}
	return now >= t.from
}

func (t *turn) sent(n uint32) {
	if t.cap != nil && t.change != 0 && !t.off {
		t.credit -= int32(n + overhead)
	}
}

// when is the time at which to ask again, if the cap has a say in it.
func (t *turn) when() (int64, bool) {
	if t.cap == nil || t.change == 0 || t.off || t.credit <= 0 {
		return 0, false
	}
	return min(t.from, t.asked+longestWait), true
}
