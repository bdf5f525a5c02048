package bbr

import (
	"github.com/apernet/quic-go/congestion"
	"github.com/apernet/quic-go/monotime"
)

// OnCongestionEvent hears of packets marked for congestion: quic-go calls it
// with no bytes lost when marks (RFC 3168 CE) were counted. A mark in a probe
// ends it, as too many losses do, and one outside slows down as losses beside a
// queue do. Losses come again, all together, in OnCongestionEventEx.
func (c *Controller) OnCongestionEvent(number congestion.PacketNumber, lost congestion.ByteCount, _ congestion.ByteCount) {
	if lost != 0 {
		return
	}
	c.noteLoss()
	c.losses.marked, c.roundMarked = true, true
	if p := c.sent.find(number); p != nil && c.probeSample {
		c.tooMuchInFlight(p.inflight, p.appLimited)
	}
}

// OnCongestionEventEx takes in what one acknowledgment or timer told. quic-go
// lists packets in rising order.
func (c *Controller) OnCongestionEventEx(prior congestion.ByteCount, eventTime monotime.Time, acked []congestion.AckedPacketInfo, lost []congestion.LostPacketInfo) {
	c.applyReset()
	c.now = c.time(eventTime)
	if c.offers > 1 {
		c.limited()
	}
	inflight := sub(volumeOf(prior), c.stale)
	outage := c.outage(inflight)
	c.rs = sample{}
	for i := range acked {
		c.acknowledge(&acked[i])
	}
	if c.rs.rtt > 0 {
		c.noteRTT(c.rs.rtt)
	}
	var newlyLost uint32
	for i := range lost {
		newlyLost = add(newlyLost, c.lose(&lost[i], outage))
	}
	c.inflight = sub(inflight, add(c.rs.acked, newlyLost))
	c.tally(newlyLost)
	if len(acked) > 0 {
		c.heardAt, c.silent = c.now, false
		if outage {
			c.recover()
		}
		if c.rs.any {
			c.finishSample()
			c.advance()
		}
		c.sent.drop(acked[len(acked)-1].PacketNumber)
	}
	c.control()
}

// acknowledge counts one packet and lets the newest describe the sample
// (draft, UpdateRateSample).
func (c *Controller) acknowledge(a *congestion.AckedPacketInfo) {
	size := volumeOf(a.BytesAcked)
	if a.PacketNumber <= c.staleNumber {
		c.stale = sub(c.stale, size)
		return
	}
	if a.PacketNumber > c.staleNumber+reordering {
		c.stale = 0
	}
	c.rs.acked = add(c.rs.acked, size)
	c.delivered += uint64(size)
	p := c.sent.find(a.PacketNumber)
	if p == nil {
		return
	}
	if !c.rs.any || p.sent >= c.firstSent {
		c.rs.any = true
		c.rs.prior, c.rs.inflight, c.rs.appLimited = p.total, p.inflight, p.appLimited
		c.rs.lost = p.lost // made a difference by finishSample
		c.sendElapsed, c.ackElapsed = p.sent-p.firstSent, c.now-p.delivered
		c.rs.rtt = max(c.now-p.sent, 1)
		c.firstSent = p.sent
	}
	c.deliveredAt = c.now
	c.countAcked(p)
}

// finishSample computes the rate (draft, GenerateRateSample).
func (c *Controller) finishSample() {
	if c.limitedUntil != 0 && c.delivered > c.limitedUntil {
		c.limitedUntil = 0
	}
	c.rs.delivered = uint32(c.delivered) - c.rs.prior
	c.rs.lost = uint32(c.lost) - c.rs.lost
	// An interval below the least round trip is an artefact of how packets and
	// acknowledgments were bunched.
	if interval := max(c.sendElapsed, c.ackElapsed); interval > 0 && interval >= c.minRTT {
		c.rs.rate = rateOf(c.rs.delivered, interval)
	}
}

// countAcked and countLost keep the tallies of the loss model by the phase in
// which a packet was sent. Both count under the same condition, which is that
// round trips show no queue, so that the share is not skewed.
func (c *Controller) countAcked(p *packet) {
	switch {
	case p.pushing:
		c.losses.pushed.acked = add(c.losses.pushed.acked, uint32(p.size))
	case p.steady && c.calm():
		c.losses.steady.acked = add(c.losses.steady.acked, uint32(p.size))
	}
}

func (c *Controller) countLost(p *packet) {
	switch {
	case p.pushing:
		c.losses.pushed.lost = add(c.losses.pushed.lost, uint32(p.size))
	case p.steady && c.calm():
		c.losses.steady.lost = add(c.losses.steady.lost, uint32(p.size))
	}
}

// tally counts towards the rounds.
func (c *Controller) tally(newlyLost uint32) {
	c.losses.round.acked = add(c.losses.round.acked, c.rs.acked)
	c.losses.round.lost = add(c.losses.round.lost, newlyLost)
	c.roundAcked = add(c.roundAcked, c.rs.acked)
	c.roundLost = add(c.roundLost, newlyLost)
	if c.queued() {
		c.losses.queue = true
	}
}

// lose counts a lost packet and returns its size (draft, HandleLostPacket).
func (c *Controller) lose(l *congestion.LostPacketInfo, outage bool) uint32 {
	size := volumeOf(l.BytesLost)
	if l.PacketNumber <= c.staleNumber {
		c.stale = sub(c.stale, size)
		return 0
	}
	c.lost += uint64(size)
	// A probe of the path's MTU that was lost says nothing about congestion
	// (RFC 9000 §14.4); what an outage swallowed says nothing about the rate.
	if size > c.mss || outage {
		return size
	}
	if l.PacketNumber != c.lastLost+1 {
		c.lossRanges++
	}
	c.lastLost = l.PacketNumber
	c.noteLoss()
	p := c.sent.find(l.PacketNumber)
	if p == nil {
		return size
	}
	c.countLost(p)
	if !c.probeSample {
		return size
	}
	inflight, lost := p.inflight, uint32(c.lost)-p.lost
	if c.losses.tooMuch(lost, inflight, c.mss, c.queued()) {
		c.tooMuchInFlight(inflight, p.appLimited)
	}
	return size
}

// noteLoss begins a round of loss, at whose end the short-term model adapts.
func (c *Controller) noteLoss() {
	if !c.lossInRound {
		c.lossRound = uint32(c.delivered)
		c.losses.round = tally{}
	}
	c.lossInRound = true
}

// outage says whether nothing was heard for so long that losses tell of a
// break and not of congestion: three probe timeouts (RFC 9002 §7.6) and a
// second.
func (c *Controller) outage(inflight uint32) bool {
	if c.heardAt == 0 || inflight == 0 {
		return false
	}
	return c.now-max(c.heardAt, c.firstSent) > max(second, 6*c.smoothedRTT)
}

// recover starts again after an outage with a small window, which doubles each
// round until it is what the model asks for (as RFC 9002 §7.6.2 asks).
func (c *Controller) recover() {
	c.forgetShort()
	c.lossInRound = false
	c.roundLost, c.losses.round = 0, tally{}
	c.cwnd = min(c.cwnd, add(c.inflight, initialPackets/2*c.mss))
}
