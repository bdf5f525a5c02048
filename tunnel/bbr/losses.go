package bbr

// Losses that say nothing about congestion.
//
// A radio loses packets at any load. BBR by the draft takes every loss outside
// a probe as a reason to send slower, and more than 2% within one as the limit
// of the path: at 5% random loss it ends at a fraction of the link. Three
// observations tell such losses apart here:
//
//	base    the share that is lost while the bottleneck has no queue and
//	        nothing is sent faster than the path delivers. It is what the path
//	        loses anyway, and only losses beyond it are held against us.
//	queue   a bottleneck that drops for want of room has a full queue, which
//	        shows as a round trip above the least one.
//	policed packets of a probe were lost far more often than base while no
//	        queue showed: a policer, or a buffer too small to be seen. Loss
//	        then depends on our rate, and the draft's rules hold unchanged.

const (
	lossThreshold = 82               // of 4096: the draft's LossThresh of 2%
	maxBase       = whole * 15 / 100 // more than this is never taken for granted
	grossLoss     = whole * 12 / 100 // beyond base: congestion, queue or not
	startupLoss   = whole / 5        // ends Startup, queue or not

	minBasePackets  = 100
	maxBasePackets  = 4000 // then the past counts half
	minPushedLosses = 5
)

// A tally counts what arrived and what was lost, in bytes.
type tally struct{ acked, lost uint32 }

func (t *tally) share() share { return shareOf(t.lost, add(t.acked, t.lost)) }

type losses struct {
	steady  tally // see packet.steady; only without a queue
	pushed  tally // see packet.pushing; of the current cycle
	round   tally // of the current round of loss
	base    share
	more    share // what to send more for base: base/(1-base)
	policed bool
	queue   bool // a queue showed while feedback of the probe came in
	marked  bool // a packet of the current round of loss was, for congestion
}

// expected is the share that the path loses whatever we do.
func (l *losses) expected() share {
	if l.policed {
		return 0
	}
	return l.base
}

// learn updates base, once a round.
func (l *losses) learn(mss uint32) {
	all := add(l.steady.acked, l.steady.lost)
	if all < minBasePackets*mss {
		return
	}
	l.base = min(l.steady.share(), maxBase)
	l.more = l.base * whole / (whole - l.base)
	if all > maxBasePackets*mss {
		l.steady.acked /= 2
		l.steady.lost /= 2
	}
}

// judge ends the feedback of a probe.
func (l *losses) judge(mss uint32) {
	if l.pushed.lost >= minPushedLosses*mss {
		l.policed = !l.queue && l.pushed.share() > l.base+l.base/2+lossThreshold
	} else if l.pushed.acked > minBasePackets*mss/2 {
		l.policed = false
	}
	l.pushed, l.queue = tally{}, false
}

// excess says whether lost bytes of all are more than chance makes of base,
// and of slack beyond it.
func (l *losses) excess(lost, all, mss uint32, slack share) bool {
	base := l.expected()
	bound := (base + slack).of(all)
	if base > 0 {
		// Two standard deviations of a binomial count.
		bound += 2 * root(base.of(all)/mss) * mss
	}
	return lost > bound
}

// tooMuch says whether losses in a probe mean that too much was in flight.
func (l *losses) tooMuch(lost, all, mss uint32, queue bool) bool {
	if !l.excess(lost, all, mss, lossThreshold) {
		return false
	}
	return queue || l.policed || lost > (l.base+grossLoss).of(all)
}

// congested says whether the losses of a round outside a probe do.
func (l *losses) congested(mss uint32, queue bool, slack share) bool {
	if l.marked {
		return true
	}
	lost, all := l.round.lost, add(l.round.acked, l.round.lost)
	if !l.excess(lost, all, mss, slack) {
		return false
	}
	return queue || l.policed || lost > (l.base+grossLoss).of(all)
}

// compensated is the rate at which to send so that r arrives.
func (l *losses) compensated(r rate) rate {
	if l.policed {
		return r
	}
	return r + r*rate(l.more)>>12
}
