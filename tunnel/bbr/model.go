package bbr

const (
	minRTTFilter  = 10 * second // MinRTTFilterLen
	probeInterval = 5 * second  // ProbeRTTInterval
	probeDuration = 200 * millisecond
	aggregation   = 5 // rounds in each of two slots: ExtraAckedFilterLen is 10
)

// A sample is what one acknowledgment says (draft, "RateSample").
type sample struct {
	rate       rate
	delivered  uint32 // over the sample's interval
	lost       uint32 // since the newest packet acknowledged was sent
	inflight   uint32 // when it was sent
	prior      uint32 // delivered in total when it was sent
	acked      uint32 // by this acknowledgment
	rtt        int64  // 0 is none
	appLimited bool
	any        bool // a packet with a record was acknowledged
}

// A path is the model of the network: how fast it delivers, how long it takes
// and how much fits (draft, "Network Path Model Parameters").
type path struct {
	bandwidth [2]rate // best of the cycle before and of this one
	bwShort   rate    // bw_shortterm
	bwLatest  rate    // best of the current round of loss

	inflightLong   uint32 // inflight_longterm
	inflightShort  uint32 // inflight_shortterm
	inflightLatest uint32

	minRTT       int64 // 0 is unknown
	minRTTAt     int64
	probeRTT     int64 // the least of probeInterval
	probeRTTAt   int64
	probeRTTDue  bool
	smoothedRTT  int64    // over some acknowledgments
	quietRTT     [2]int64 // least mean of a round in each of two windows; 0 is none
	quietAt      int64    // when the newer window began
	roundRTT     int64    // sum over this round
	roundRTTs    int32
	lastMean     int64
	wander       int64 // how much means of rounds differ from one to the next
	extra        [2]uint32
	extraRounds  uint32
	extraFrom    int64
	extraCounted uint32
}

// maxBandwidth is what the path delivered at best in two cycles.
func (p *path) maxBandwidth() rate { return max(p.bandwidth[0], p.bandwidth[1]) }

// bw is the rate that the path is thought to deliver now.
func (p *path) bw() rate { return min(p.maxBandwidth(), p.bwShort) }

func (p *path) extraAcked() uint32 { return max(p.extra[0], p.extra[1]) }

// quiet is the mean round trip of the path without a queue of its own: the
// least mean of a round in the last five to ten seconds. On a path whose delay
// varies by itself, as a radio's does, it is well above the least round trip.
func (p *path) quiet() int64 {
	if p.quietRTT[0] == 0 || p.quietRTT[1] != 0 && p.quietRTT[1] < p.quietRTT[0] {
		return max(p.quietRTT[1], p.minRTT)
	}
	return p.quietRTT[0]
}

// queued says whether packets wait at the bottleneck, as far as round trips
// tell: by more than a quarter, by more than timers err and by more than they
// vary anyway.
func (p *path) queued() bool {
	return p.smoothedRTT > p.quiet()+max(p.minRTT/4, 4*millisecond, 3*p.wander)
}

// calm says that none do.
func (p *path) calm() bool {
	return p.minRTT > 0 && p.smoothedRTT <= p.quiet()+max(p.minRTT/8, 2*millisecond, 3*p.wander/2)
}

func (p *path) noteRTT(rtt int64) {
	if p.smoothedRTT == 0 {
		p.smoothedRTT = rtt
	}
	p.smoothedRTT += (rtt - p.smoothedRTT) / 8
	p.roundRTT += rtt
	p.roundRTTs++
}

// endRoundRTT takes the mean of a round into account. In a steady round the
// queue changes little, so that what the mean changes by is the path's.
func (p *path) endRoundRTT(now int64, steady bool) {
	const window = 5 * second
	if now > p.quietAt+window {
		p.quietAt = now
		p.quietRTT[0], p.quietRTT[1] = p.quietRTT[1], 0
	}
	if p.roundRTTs < 2 {
		return
	}
	mean := p.roundRTT / int64(p.roundRTTs)
	if p.quietRTT[1] == 0 || mean < p.quietRTT[1] {
		p.quietRTT[1] = mean
	}
	if steady && p.lastMean > 0 {
		p.wander += (max(mean-p.lastMean, p.lastMean-mean) - p.wander) / 8
	}
	p.lastMean, p.roundRTT, p.roundRTTs = mean, 0, 0
}

// updateMinRTT is the draft's UpdateMinRTT, but that a round trip close to the
// least one also counts as seen: the queue is empty then, and to drain it on
// purpose would only cost.
func (p *path) updateMinRTT(now, rtt int64) {
	p.probeRTTDue = p.probeRTTAt != 0 && now > p.probeRTTAt+probeInterval
	if rtt > 0 {
		switch near := p.probeRTT + p.probeRTT/32; {
		case p.probeRTT == 0 || rtt < p.probeRTT || p.probeRTTDue && rtt > near:
			p.probeRTT, p.probeRTTAt = rtt, now
		case rtt <= near:
			p.probeRTTAt, p.probeRTTDue = now, false
		}
	}
	if p.probeRTT == 0 {
		return
	}
	if p.minRTT == 0 || p.probeRTT <= p.minRTT || now > p.minRTTAt+minRTTFilter {
		p.minRTT, p.minRTTAt = p.probeRTT, p.probeRTTAt
	}
}

// updateExtraAcked measures how much more is acknowledged at once than the
// rate explains (draft, UpdateACKAggregation).
func (p *path) updateExtraAcked(now int64, acked, cwnd uint32, filled bool) {
	expected := p.bw().volume(now - p.extraFrom)
	if p.extraCounted <= expected {
		p.extraCounted, p.extraFrom, expected = 0, now, 0
	}
	p.extraCounted = add(p.extraCounted, acked)
	slot := 0
	if filled {
		slot = int(p.extraRounds / aggregation & 1)
	}
	p.extra[slot] = max(p.extra[slot], min(sub(p.extraCounted, expected), cwnd))
}

// countExtraRound lets what is older than the window go. In Startup that is
// one round.
func (p *path) countExtraRound(filled bool) {
	p.extraRounds++
	switch {
	case !filled:
		p.extra = [2]uint32{}
	case p.extraRounds%aggregation == 0:
		p.extra[p.extraRounds/aggregation&1] = 0
	}
}

// forgetRound forgets what the current round showed (ResetCongestionSignals).
func (p *path) forgetRound() { p.bwLatest, p.inflightLatest = 0, 0 }

// forgetShort is ResetShortTermModel.
func (p *path) forgetShort() { p.bwShort, p.inflightShort = infiniteRate, infinite }

// slowDown adapts to what the last round delivered (draft, LossLowerBounds).
func (p *path) slowDown(cwnd uint32) {
	if p.bwShort == infiniteRate {
		p.bwShort = p.maxBandwidth()
	}
	if p.inflightShort == infinite {
		p.inflightShort = cwnd
	}
	p.bwShort = max(p.bwLatest, betaGain.rate(p.bwShort))
	p.inflightShort = max(p.inflightLatest, betaGain.volume(p.inflightShort))
}
