package bbr

const (
	// minWait is the shortest wait between bursts: shorter ones only cost
	// wake-ups (quic-go's MinPacingDelay).
	minWait = millisecond

	// A burst makes up for the time that a timer fired late. Kernels of routers
	// tick in 1 to 4 ms, some in 10.
	minBank = 2 * millisecond
	maxBank = 12 * millisecond
)

// A pacer spreads packets in time. It lets one leave when what left before has
// been paid for at the rate, and keeps unused time up to a bound, so that a
// timer that fires late costs no speed.
type pacer struct {
	rate  rate
	cost  uint64 // ns per byte, in 1/4096; 0 is no limit
	next  int64  // when what left has been paid for
	last  int64  // when the newest left
	due   int64  // when the timer was asked to fire, or 0
	late  int64  // how late timers have been, a maximum that fades
	extra int64  // time for the smallest burst, of 2 packets
}

// setRate divides only when the rate changes.
func (p *pacer) setRate(r rate, mss uint32) {
	r = min(max(r, 1), infiniteRate)
	if r == p.rate {
		return
	}
	p.rate = r
	p.cost = uint64(1) << (rateShift + 12) / uint64(r)
	p.extra = int64(uint64(2*mss) * p.cost >> 12)
}

// ready says whether a packet may leave now.
func (p *pacer) ready(now int64) bool {
	if p.due != 0 && now >= p.due {
		// Lateness beyond the bound says that the process was stopped, not how
		// the clock ticks.
		if late := now - p.due; late <= 2*maxBank {
			p.late = max(late, p.late-p.late>>5)
		}
		p.due = 0
	}
	return now >= p.next
}

// bank is how much unused time is kept: what a late timer and the shortest
// wait use up.
func (p *pacer) bank() int64 {
	return max(min(minBank+p.late+p.late>>1, maxBank), p.extra)
}

func (p *pacer) sent(now int64, n uint32) {
	p.next = max(p.next, now-p.bank()) + int64(uint64(n)*p.cost>>12)
	p.last = now
}

// when is the time for the next burst.
func (p *pacer) when() int64 {
	p.due = max(p.next, p.last+minWait)
	return p.due
}
