package kcp

import "time"

// A rate says how much a session may send. KCP alone sends as fast as its
// windows allow and again whatever is late, which costs the seller's plan 2.3
// bytes for each that arrives. Here the rate follows what arrives: the largest
// delivery rate of the last ten round trips and the shortest round trip of the
// last ten seconds, probed in turns, as in BBR (draft-cardwell-iccrg-bbr). It
// belongs to one goroutine.
type rate struct {
	segments []record // by sn modulo their number, which grows to maxSpan
	una, nxt uint32   // what is between them was sent and not all acknowledged

	inflight   int // bytes that are under way
	delivered  uint64
	deliveredT time.Time
	firstSent  time.Time // of the sample that is being taken
	limited    uint64    // until so much is delivered, samples say what there was to send

	bandwidth [rounds]float64 // bytes a second, the largest of each round
	round     int
	roundEnd  uint64
	roundT    time.Time // when it began

	// How much was lost of what was sent in a span of at least lossTime; see
	// judge.
	sent, again int // segments
	spanT       time.Time
	spanStart   uint64 // delivered
	loss        float64
	cap         float64 // bytes a second; zero: none

	minRTT  time.Duration
	minTime time.Time

	state   state
	phase   int
	phaseT  time.Time
	full    float64 // the bandwidth that was full
	fullFor int     // rounds

	tokens float64 // bytes; less than zero after retransmissions
	tokenT time.Time
	heard  time.Time // the newest acknowledgement

	sample sample
}

// A record is one segment that was sent.
type record struct {
	sn         uint32
	ts         uint32 // of KCP, told back by the acknowledgement
	size       int
	sent       time.Time
	delivered  uint64
	deliveredT time.Time
	firstSent  time.Time
	limited    bool
	acked      bool
}

// A sample is one measurement of the delivery rate
// (draft-cheng-iccrg-delivery-rate-estimation).
type sample struct {
	valid       bool
	prior       uint64
	sendElapsed time.Duration
	ackElapsed  time.Duration
	limited     bool
}

type state int

const (
	startup state = iota
	drain
	probe
)

const (
	// maxSpan bounds the segments between the first that is missing and the
	// newest: 2.5 MB.
	maxSpan = 2048
	rounds  = 10
	// window is how long a shortest round trip counts.
	window = 10 * time.Second
	// tick is KCP's: what is sent in one go.
	tick = 10 * time.Millisecond
	// burst may be sent at once, whatever the rate.
	burst = 10 * packetSize
	// firstRTT is assumed until it is measured.
	firstRTT = 100 * time.Millisecond
	// firstWindow is what is sent in the first round trip, RFC 6928's ten
	// segments and as much again.
	firstWindow = 20 * packetSize
	// lossy is the share of retransmissions that forbids to probe for more,
	// full the one that says that a queue overflows or a policer drops; it is
	// looked at every lossTime, at most.
	lossy, full = 0.10, 0.20
	lossTime    = 250 * time.Millisecond
	// lossSample is how many segments a share is taken of: of 20 sent at a loss
	// of 5% a fifth is lost once in 400 times, of 100 never.
	lossSample = 100
	// capLeast is where the cap does not fall below, bytes a second.
	capLeast = 64 << 10
	// silentTrips is after how many round trips without an acknowledgement only
	// probes are sent.
	silentTrips = 4
)

// cycle is what the bandwidth is multiplied with, phase after phase.
var cycle = [...]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

func newRate(now time.Time) *rate {
	return &rate{segments: make([]record, 64), tokens: burst, tokenT: now, heard: now, deliveredT: now, firstSent: now, phaseT: now, spanT: now, minTime: now}
}

// best is the bandwidth's estimate, zero when there is none.
func (r *rate) best() (best float64) {
	for _, b := range r.bandwidth {
		best = max(best, b)
	}
	return best
}

// rtt is the shortest round trip known.
func (r *rate) rtt() time.Duration {
	if r.minRTT == 0 {
		return firstRTT
	}
	return r.minRTT
}

func (r *rate) gain() float64 {
	switch r.state {
	case startup:
		return 2
	case drain:
		return 0.5
	}
	g := cycle[r.phase]
	if g > 1 && r.loss > lossy {
		return 1
	}
	return g
}

// pace is how many bytes a second may be sent.
func (r *rate) pace() float64 {
	best := r.best()
	if best == 0 {
		return firstWindow / r.rtt().Seconds()
	}
	if pace := r.gain() * best; r.cap == 0 || pace < r.cap {
		return pace
	}
	return r.cap
}

// most is how many bytes may be under way.
func (r *rate) most() int {
	best := r.best()
	if best == 0 {
		return firstWindow
	}
	if r.cap != 0 {
		best = min(best, r.cap)
	}
	// Two round trips' worth, and what acknowledgements are late by.
	return max(int(2*best*(r.rtt()+2*tick).Seconds()), firstWindow)
}

// allow lets time pass and returns how many new segments may be sent now.
func (r *rate) allow(now time.Time) int {
	pace := r.pace()
	if r.inflight > 0 && now.Sub(r.heard) > r.silence() {
		pace = 10 * packetSize // a second: probes, until something is heard
	}
	r.tokens += pace * now.Sub(r.tokenT).Seconds()
	r.tokens = min(r.tokens, max(burst, 2*pace*tick.Seconds()))
	r.tokenT = now
	n := min(int(r.tokens), r.most()-r.inflight) / packetSize
	return max(0, min(n, maxSpan-r.span()))
}

// silence is how long it takes until only probes are sent.
func (r *rate) silence() time.Duration { return max(silentTrips*r.rtt(), 500*time.Millisecond) }

func (r *rate) span() int { return int(r.nxt - r.una) }

// record is where segment sn is kept.
func (r *rate) record(sn uint32) *record { return &r.segments[sn%uint32(len(r.segments))] }

// grow makes room for one segment more.
func (r *rate) grow() {
	if r.span() < len(r.segments) {
		return
	}
	old := r.segments
	r.segments = make([]record, 2*len(old))
	for _, rec := range old {
		*r.record(rec.sn) = rec
	}
}

// idle says that everything there was has been sent. What is sent next counts as
// limited by that too, if nothing is under way.
func (r *rate) idle() { r.limited = r.delivered + uint64(r.inflight) + 1 }

// onSend is told of each data segment. It reports whether it may be sent:
// retransmissions that exceed the rate are not, and KCP will try again.
func (r *rate) onSend(s segment, now time.Time) bool {
	size := segmentHead + s.length
	again := s.sn-r.una < r.nxt-r.una
	if !again {
		r.grow()
	}
	old := r.record(s.sn)
	if again {
		if r.tokens < -max(2*burst, 2*r.pace()*tick.Seconds()) {
			return false
		}
		if old.sn == s.sn && !old.acked {
			r.inflight -= old.size // it is taken for lost
		}
		if old.sn == s.sn && !old.acked && old.sent.After(r.spanT) {
			r.again++ // what was lost before the span is only being repaired
		}
	} else {
		r.nxt = s.sn + 1
	}
	r.sent++
	if r.inflight <= 0 {
		r.inflight, r.firstSent, r.deliveredT = 0, now, now
		r.heard = now // nothing was waited for
	}
	*old = record{
		sn: s.sn, ts: s.ts, size: size, sent: now, delivered: r.delivered,
		deliveredT: r.deliveredT, firstSent: r.firstSent, limited: r.limited > r.delivered,
	}
	r.inflight += size
	r.tokens -= float64(size + 1)
	return true
}

// onUna is told of what the peer has without a gap.
func (r *rate) onUna(una uint32, now time.Time) {
	if una-r.una > r.nxt-r.una { // old, or never sent
		return
	}
	for ; r.una != una; r.una++ {
		r.acked(r.record(r.una), now)
	}
}

// onAck is told of a single segment that the peer has.
func (r *rate) onAck(s segment, now time.Time) {
	rec := r.record(s.sn)
	if rec.sn != s.sn || rec.sent.IsZero() {
		return // never sent, or long ago
	}
	if rec.ts == s.ts {
		r.measured(now.Sub(rec.sent), now)
	}
	if s.sn-r.una < r.nxt-r.una {
		r.acked(rec, now)
	}
	r.heard = now
}

func (r *rate) measured(rtt time.Duration, now time.Time) {
	if rtt = max(rtt, time.Millisecond); r.minRTT == 0 || rtt <= r.minRTT || now.Sub(r.minTime) > window {
		r.minRTT, r.minTime = rtt, now
	}
}

func (r *rate) acked(rec *record, now time.Time) {
	if rec.acked {
		return
	}
	rec.acked = true
	if now.Sub(r.heard) > r.silence() {
		r.newSpan(now) // a blackout says nothing of the rate
	}
	r.heard = now
	r.inflight = max(0, r.inflight-rec.size)
	r.delivered += uint64(rec.size)
	r.deliveredT = now
	if s := &r.sample; !s.valid || rec.delivered >= s.prior {
		*s = sample{true, rec.delivered, rec.sent.Sub(rec.firstSent), now.Sub(rec.deliveredT), rec.limited}
		r.firstSent = rec.sent
	}
}

// update takes the sample of all that was acknowledged since the last one.
func (r *rate) update(now time.Time) {
	s := r.sample
	r.sample = sample{}
	if !s.valid {
		return
	}
	if s.prior >= r.roundEnd && now.Sub(r.roundT) >= 2*tick { // a shorter one is all between two ticks
		r.roundT = now
		r.nextRound(s.limited)
	}
	interval := max(s.sendElapsed, s.ackElapsed)
	if interval >= max(r.rtt()/2, tick) { // less is a burst, not a rate
		b := float64(r.delivered-s.prior) / interval.Seconds()
		if !s.limited || b > r.best() {
			r.bandwidth[r.round] = max(r.bandwidth[r.round], b)
		}
	}
	r.judge(now)
	r.turn(now)
}

// judge caps the rate where too much has to be sent again, since what was
// delivered between two drops says more than what the path holds for longer.
func (r *rate) judge(now time.Time) {
	elapsed := now.Sub(r.spanT)
	if elapsed < max(lossTime, 4*r.rtt()) || r.sent < lossSample {
		return
	}
	r.loss = float64(r.again) / float64(r.sent)
	switch {
	case r.loss > full && r.limited <= r.spanStart: // else it says how much there was to send
		r.cap = max(capLeast, 0.9*float64(r.delivered-r.spanStart)/elapsed.Seconds())
		if r.state == startup {
			r.state = drain
		}
	case r.cap > 2*r.best():
		r.cap = 0
	case r.loss < lossy:
		r.cap *= 1.25
	}
	r.newSpan(now)
}

func (r *rate) newSpan(now time.Time) {
	r.sent, r.again, r.spanT, r.spanStart = 0, 0, now, r.delivered
}

func (r *rate) nextRound(limited bool) {
	r.roundEnd = r.delivered
	if !limited || r.bandwidth[(r.round+1)%rounds] == 0 { // an idle flow keeps what it knows
		r.round = (r.round + 1) % rounds
		r.bandwidth[r.round] = 0
	}
	if r.state != startup || limited {
		return
	}
	best := r.best()
	if best >= 1.25*r.full {
		r.full, r.fullFor = best, 0
	} else {
		r.fullFor++
	}
	if r.fullFor >= 3 {
		r.state = drain
	}
}

// turn moves on to the next state or phase.
func (r *rate) turn(now time.Time) {
	bdp := int(r.best() * r.rtt().Seconds())
	switch {
	case r.state == drain && r.inflight <= bdp:
		r.state, r.phase, r.phaseT = probe, 2, now
	case r.state == probe && (now.Sub(r.phaseT) > r.rtt()+tick || r.phase == 1 && r.inflight <= bdp):
		r.phase, r.phaseT = (r.phase+1)%len(cycle), now
	}
}
