package bbr

// The states and what leads from one to the next:
//
//	startup ─→ drain ─→ down ─→ cruise ─→ refill ─→ up ─┐
//	                     ↑ └────────────────↑           │
//	                     └──────────────────────────────┘
//	any ─→ probeRTT ─→ cruise, or startup if the pipe was never full
type state uint8

const (
	startup  state = iota
	drain          // empty the queue that Startup built
	down           // send slower than the path delivers: leave room for others
	cruise         // send as fast as it delivers
	refill         // fill the pipe for one round
	up             // send faster: is there more?
	probeRTT       // nearly empty the path: how long is the round trip?
)

// What acknowledgments tell of the last probe (draft, BBR.ack_phase).
type feedback uint8

const (
	noFeedback feedback = iota
	refilling
	probeStarting
	probeFeedback
	probeStopping
)

const (
	fullRounds     = 3  // without 25% growth: the pipe is full
	drainRounds    = 3  // then Drain ends, drained or not
	downRounds     = 10 // likewise ProbeBW_DOWN
	sagRounds      = 2  // and sagTime; then the path is believed to have become slower
	sagTime        = second
	startupRanges  = 6  // BBRStartupFullLossCnt
	renoRounds     = 63 // the longest wait for a probe, in rounds
	minProbeWait   = 2 * second
	probeWaitRange = uint32(1e9) // ns on top, at random
)

// A machine is the state of the state machine.
type machine struct {
	state       state
	pacingGain  gain
	cwndGain    gain
	idleRestart bool

	nextRound   uint32 // delivered at the end of this round
	roundStart  bool
	rounds      uint32
	roundAcked  uint32
	roundLost   uint32
	lossRanges  uint32 // separate gaps lost in this round
	lastLost    packetNumber
	roundMarked bool

	// Of a round of loss, which starts with the first loss.
	lossInRound    bool
	lossRoundStart bool
	lossRound      uint32

	// Is the pipe full?
	filled    bool // once in this connection's life
	full      bool // since it last looked
	fullBW    rate
	fullCount uint32

	drainStart  uint32
	downStart   uint32
	feedback    feedback
	probeSample bool  // samples come from a probe
	cycleAt     int64 // when this cycle of ProbeBW began
	probeWait   int64
	sinceUp     uint32 // rounds
	sagRounds   int    // in a row
	sagAt       int64
	sagBest     rate
	tooHigh     bool // the last probe went too high
	precaution  bool // the last probe stopped early, because of that
	upRounds    uint32
	upAcked     uint32
	upPerInc    uint32
	cwndLimited bool // in this round
	wasLimited  bool // in the last

	probeRTTDone  int64
	probeRTTRound bool
	priorCwnd     uint32

	sendElapsed, ackElapsed int64 // of the sample being taken
}

// advance is the draft's UpdateModelAndState, on each acknowledgment of data.
func (c *Controller) advance() {
	c.startRounds()
	c.latest()
	c.updateMaxBW()
	if c.lossRoundStart {
		c.adaptToLoss()
	}
	c.updateExtraAcked(c.now, c.rs.acked, c.cwnd, c.filled)
	c.checkFull()
	c.checkStartup()
	if c.state == drain && (c.inflight <= c.inflightAt(one) || c.rounds > c.drainStart+drainRounds) {
		c.startDown()
	}
	if c.filled && !c.adaptLongTerm() {
		c.cycle()
	}
	c.updateMinRTT(c.now, c.rs.rtt)
	c.checkProbeRTT()
	if c.lossRoundStart {
		c.bwLatest, c.inflightLatest = c.rs.rate, c.rs.delivered
	}
}

// startRounds counts packet-timed round trips and what is counted by them.
func (c *Controller) startRounds() {
	c.roundStart = after(c.rs.prior, c.nextRound)
	if !c.roundStart {
		return
	}
	c.beginRound()
	c.rounds++
	c.sinceUp++
	c.countExtraRound(c.filled)
	c.losses.learn(c.mss)
	c.endRoundRTT(c.now, c.state == down || c.state == cruise)
	c.wasLimited, c.cwndLimited = c.cwndLimited, false
}

func (c *Controller) beginRound() { c.nextRound = uint32(c.delivered) }

// after says whether the total a has reached b; totals wrap.
func after(a, b uint32) bool { return int32(a-b) >= 0 }

func (c *Controller) latest() {
	c.lossRoundStart = false
	c.bwLatest = max(c.bwLatest, c.rs.rate)
	c.inflightLatest = max(c.inflightLatest, c.rs.delivered)
	if after(c.rs.prior, c.lossRound) {
		c.lossRound = uint32(c.delivered)
		c.lossRoundStart = true
	}
}

func (c *Controller) updateMaxBW() {
	if c.rs.rate >= c.maxBandwidth() || !c.rs.appLimited {
		c.bandwidth[1] = max(c.bandwidth[1], c.rs.rate)
	}
}

// adaptToLoss ends a round of loss. Outside a probe the short-term model
// follows what was delivered, if the losses say that it should.
func (c *Controller) adaptToLoss() {
	probing := c.state == startup || c.state == refill || c.state == up
	slack := share(lossThreshold)
	if c.state == cruise {
		slack = 0
	}
	if c.lossInRound && !probing && c.losses.congested(c.mss, c.queued(), slack) {
		c.slowDown(c.cwnd)
	}
	c.lossInRound, c.losses.marked = false, false
	c.losses.round = tally{}
	c.checkSag()
}

// checkSag notices that the path has become much slower, as a radio's does,
// without any loss: for some rounds, and for longer than a radio pauses, the
// round trip is more than twice what it was and much less arrives than the
// model says. The model would notice only two probes later, each of them sent
// at the old rate.
func (c *Controller) checkSag() {
	if !c.probingBandwidth() || c.bwLatest == 0 {
		return
	}
	slower := c.bwLatest < sagGain.rate(c.maxBandwidth())
	if c.rs.appLimited || !slower || c.lastMean < 2*c.quiet() {
		c.sagRounds, c.sagBest = 0, 0
		return
	}
	if c.sagRounds++; c.sagRounds == 1 {
		c.sagAt = c.now
	}
	c.sagBest = max(c.sagBest, c.bwLatest)
	if c.sagRounds >= sagRounds && c.now-c.sagAt >= sagTime {
		c.bandwidth = [2]rate{c.sagBest, c.sagBest}
		c.sagRounds, c.sagBest = 0, 0
		c.startDown()
	}
}

// checkFull looks for the end of growth (draft, CheckFullBWReached).
func (c *Controller) checkFull() {
	if c.full || !c.roundStart || c.rs.appLimited {
		return
	}
	if c.rs.rate >= upGain.rate(c.fullBW) {
		c.resetFull(c.rs.rate)
		return
	}
	c.fullCount++
	c.full = c.fullCount >= fullRounds
	c.filled = c.filled || c.full
}

func (c *Controller) resetFull(bw rate) { c.fullBW, c.fullCount, c.full = bw, 0, false }

func (c *Controller) enterStartup() {
	c.state, c.pacingGain, c.cwndGain = startup, startupGain, doubleGain
}

// checkStartup leaves Startup when the pipe is full, or when a round lost too
// much (draft, CheckStartupHighLoss).
func (c *Controller) checkStartup() {
	if c.state != startup {
		return
	}
	if c.roundStart {
		c.checkStartupLoss()
		c.roundAcked, c.roundLost, c.lossRanges, c.roundMarked = 0, 0, 0, false
	}
	if c.filled {
		c.state, c.pacingGain, c.cwndGain = drain, halfGain, doubleGain
		c.drainStart = c.rounds
	}
}

func (c *Controller) checkStartupLoss() {
	all := add(c.roundAcked, c.roundLost)
	gross := c.roundLost > startupLoss.of(all)
	high := c.roundMarked || c.queued() && c.losses.excess(c.roundLost, all, c.mss, lossThreshold)
	if !gross && !high || c.lossRanges < startupRanges && !c.roundMarked {
		return
	}
	c.filled, c.full = true, true
	// Losses of some percent would come from the path as well; only many show
	// how much it holds.
	if gross {
		c.inflightLong = max(c.inflightAt(one), c.inflightLatest)
	}
}

func (c *Controller) probingBandwidth() bool { return c.state >= down && c.state <= up }

func (c *Controller) startDown() {
	c.lossInRound = false
	c.forgetRound()
	c.upPerInc = infinite
	// A random wait mixes flows that share a bottleneck.
	c.sinceUp = c.draw() & 1
	c.probeWait = minProbeWait + int64(c.draw()%probeWaitRange)
	c.cycleAt = c.now
	c.feedback = probeStopping
	c.beginRound()
	c.state, c.pacingGain, c.cwndGain = down, downGain, doubleGain
	c.downStart = c.rounds
}

func (c *Controller) startCruise() { c.state, c.pacingGain, c.cwndGain = cruise, one, doubleGain }

func (c *Controller) startRefill() {
	c.forgetShort()
	c.upRounds, c.upAcked = 0, 0
	c.precaution = false
	c.feedback = refilling
	c.beginRound()
	c.state, c.pacingGain, c.cwndGain = refill, one, doubleGain
}

func (c *Controller) startUp() {
	c.feedback = probeStarting
	c.beginRound()
	c.resetFull(c.rs.rate)
	c.state, c.pacingGain, c.cwndGain = up, upGain, upCwndGain
	c.raiseSlope()
}

// cycle moves through ProbeBW (draft, UpdateProbeBWCyclePhase).
func (c *Controller) cycle() {
	switch c.state {
	case down:
		if c.timeToProbe() {
			c.startRefill()
		} else if c.timeToCruise() {
			c.startCruise()
		}
	case cruise:
		if c.timeToProbe() {
			c.startRefill()
		}
	case refill:
		if c.roundStart {
			c.probeSample = true
			c.startUp()
		}
	case up:
		if c.timeToGoDown() {
			c.tooHigh = false
			c.startDown()
		}
	}
}

// timeToProbe: after two to three seconds, or as often as Reno would have
// grown its window back, so that flows of that kind keep their share.
func (c *Controller) timeToProbe() bool {
	target := min(c.bdp(one), c.cwnd)
	return c.now > c.cycleAt+c.probeWait || c.sinceUp >= min(target/c.mss, renoRounds)
}

// timeToCruise: the queue is drained. Where round trips vary by themselves
// what is in flight never falls to the product with the least one, so that
// some rounds have to do.
func (c *Controller) timeToCruise() bool {
	if c.inflight > c.withHeadroom() {
		return false
	}
	return c.inflight <= c.inflightAt(one) || c.rounds > c.downStart+downRounds
}

func (c *Controller) timeToGoDown() bool {
	if c.tooHigh && c.inflight >= c.inflightLong {
		c.precaution = true
		return true
	}
	if c.isCwndLimited() && c.cwnd >= c.inflightLong {
		c.resetFull(c.rs.rate) // the bound holds the rate back, not the path
		return false
	}
	return c.full
}

func (c *Controller) isCwndLimited() bool { return c.cwndLimited || c.wasLimited }

// adaptLongTerm follows the feedback of a probe, and raises inflightLong while
// it is safe (draft, AdaptLongTermModel). It says whether it changed the state.
func (c *Controller) adaptLongTerm() bool {
	if c.roundStart && c.feedback == probeStarting {
		c.feedback = probeFeedback
	} else if c.roundStart && c.feedback == probeStopping {
		c.probeSample = false
		c.feedback = noFeedback
		c.losses.judge(c.mss)
		if c.probingBandwidth() && !c.rs.appLimited {
			c.bandwidth[0], c.bandwidth[1] = c.bandwidth[1], 0
		}
		if c.probingBandwidth() && c.precaution && !c.tooHigh {
			c.startRefill()
			return true
		}
	}
	if c.inflightLong == infinite || c.losses.tooMuch(c.rs.lost, c.rs.inflight, c.mss, c.queued()) {
		return false
	}
	c.inflightLong = max(c.inflightLong, c.rs.inflight)
	if c.state == up {
		c.probeUpward()
	}
	return false
}

// probeUpward raises inflightLong by 1, 2, 4 … packets a round.
func (c *Controller) probeUpward() {
	if !c.isCwndLimited() || c.cwnd < c.inflightLong {
		return
	}
	if c.upAcked = add(c.upAcked, c.rs.acked); c.upAcked >= c.upPerInc {
		steps := c.upAcked / c.upPerInc
		c.upAcked -= steps * c.upPerInc
		c.inflightLong = add(c.inflightLong, steps*c.mss)
	}
	if c.roundStart {
		c.raiseSlope()
	}
}

func (c *Controller) raiseSlope() {
	c.upPerInc = max(c.cwnd>>c.upRounds, c.mss)
	c.upRounds = min(c.upRounds+1, 30)
}

// tooMuchInFlight ends a probe that lost too much (draft,
// HandleInflightTooHigh). inflight is what was in flight when the packet left
// whose loss decided it.
func (c *Controller) tooMuchInFlight(inflight uint32, appLimited bool) {
	c.tooHigh = true
	c.probeSample = false // once per probe
	if !appLimited {
		c.inflightLong = max(inflight, betaGain.volume(min(c.bdp(one), c.cwnd)))
	}
	if c.state == up {
		c.startDown()
	}
}

// checkProbeRTT enters, keeps and leaves ProbeRTT.
func (c *Controller) checkProbeRTT() {
	if c.state != probeRTT && c.probeRTTDue && !c.idleRestart {
		c.priorCwnd = c.cwnd
		c.state, c.pacingGain, c.cwndGain = probeRTT, one, halfGain
		c.probeRTTDone = 0
		c.feedback = probeStopping
		c.beginRound()
	}
	if c.state == probeRTT {
		c.handleProbeRTT()
	}
	if c.rs.delivered > 0 {
		c.idleRestart = false
	}
}

func (c *Controller) handleProbeRTT() {
	c.limited() // slow samples of this state do not count
	switch {
	case c.probeRTTDone == 0:
		if c.inflight <= c.probeRTTCwnd() {
			c.probeRTTDone = c.now + probeDuration
			c.probeRTTRound = false
			c.beginRound()
		}
	case c.roundStart || c.probeRTTRound:
		c.probeRTTRound = true
		c.checkProbeRTTDone()
	}
}

func (c *Controller) checkProbeRTTDone() {
	if c.probeRTTDone == 0 || c.now <= c.probeRTTDone {
		return
	}
	c.probeRTTAt = c.now // the next one is due after an interval
	c.cwnd = max(c.cwnd, c.priorCwnd)
	c.forgetShort()
	if !c.filled {
		c.enterStartup()
		return
	}
	c.startDown()
	c.startCruise() // the queue is empty already
}

// draw returns random bits (Marsaglia's xorshift).
func (c *Controller) draw() uint32 {
	c.random ^= c.random << 13
	c.random ^= c.random >> 17
	c.random ^= c.random << 5
	return c.random
}
