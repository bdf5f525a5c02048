package netlab

import (
	"math/rand/v2"
	"time"
)

// A Shape is what one direction of a link does to packets. The zero Shape
// passes them on at once.
type Shape struct {
	// Rate in bits a second of IP packets; 0: no limit.
	Rate uint64
	// Queue is how long a packet may wait for Rate; one that would have to wait
	// longer is dropped (tail drop). 0: 100 ms. QueueBytes limits the bytes
	// that wait, too, if it is not 0.
	Queue      time.Duration
	QueueBytes int
	// Delay is how long a packet is under way after it has left the queue.
	Delay time.Duration
	// Jitter is the most that is added to Delay. How much it is is drawn anew,
	// evenly, each time that Jitter has passed; no packet overtakes another, so
	// packets come in clumps, as from a radio scheduler.
	Jitter time.Duration
	// Loss is the share of packets lost at random, each by itself, after the
	// queue: they have used up the rate, as those lost on the air do.
	Loss float64
	// Burst loses packets in bursts, besides Loss.
	Burst Burst
	// Reorder is the share of packets that come ReorderBy later than the rest;
	// those behind overtake them.
	Reorder   float64
	ReorderBy time.Duration
	// Down loses every packet that arrives.
	Down bool
}

// Burst is Gilbert's and Elliott's model of burst loss: a state that is good or
// bad, and changes by chance with each packet.
type Burst struct {
	Begin float64 // chance that a good state becomes bad; 0: no bursts
	End   float64 // chance that a bad state becomes good
	Loss  float64 // share of packets lost in the bad state; 0: all
}

const defaultQueue = 100 * time.Millisecond

// A fate is what becomes of a packet.
type fate int

const (
	delivered fate = iota
	lost           // on the air
	dropped        // by a full queue
	cut            // by a link that is down
)

// A shaper decides on packets in the order of their arrival. Times are since an
// epoch of its owner's. It is used by one goroutine.
type shaper struct {
	Shape
	random *rand.Rand
	free   time.Duration // when the queue will be empty
	bad    bool          // state of Burst
	level  time.Duration // of Jitter
	drawn  time.Duration // when level was
	last   time.Duration // when the packet before is due
}

// change goes on with another shape. What waits in the queue leaves at the rate
// that it came at.
func (s *shaper) change(to Shape) {
	s.Shape = to
	s.drawn, s.level = 0, 0
}

// arrive decides on a packet of size bytes that arrives now: what becomes of it
// and, if it is delivered, when.
func (s *shaper) arrive(now time.Duration, size int) (due time.Duration, f fate) {
	if s.Down {
		return 0, cut
	}
	leave := max(now, s.free)
	if s.Rate > 0 {
		limit := s.Queue
		if limit == 0 {
			limit = defaultQueue
		}
		wait := leave - now
		if wait > limit || s.QueueBytes > 0 && bytesIn(wait, s.Rate)+size > s.QueueBytes {
			return 0, dropped
		}
		leave += time.Duration(uint64(size) * 8 * uint64(time.Second) / s.Rate)
		s.free = leave
	}
	if s.unlucky() {
		return 0, lost
	}
	due = leave + s.Delay
	if s.Jitter > 0 {
		if s.drawn == 0 || now-s.drawn >= s.Jitter {
			s.level, s.drawn = time.Duration(s.random.Int64N(int64(s.Jitter)+1)), now
		}
		due += s.level
	}
	due = max(due, s.last)
	s.last = due
	if s.Reorder > 0 && s.random.Float64() < s.Reorder {
		due += s.ReorderBy
	}
	return due, delivered
}

// bytesIn is what leaves at a rate in bits a second in a time.
func bytesIn(d time.Duration, rate uint64) int {
	return int(uint64(d.Microseconds()) * rate / 8_000_000)
}

// unlucky says whether the packet is lost on the air.
func (s *shaper) unlucky() bool {
	if b := s.Burst; b.Begin > 0 {
		if s.bad {
			s.bad = s.random.Float64() >= b.End
		} else {
			s.bad = s.random.Float64() < b.Begin
		}
		if s.bad && (b.Loss == 0 || s.random.Float64() < b.Loss) {
			return true
		}
	}
	return s.Loss > 0 && s.random.Float64() < s.Loss
}
