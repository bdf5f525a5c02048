package bbr

import "github.com/apernet/quic-go/congestion"

type packetNumber = congestion.PacketNumber

// bdp is a multiple of the bandwidth-delay product, counting what must be sent
// so that the bandwidth arrives.
func (c *Controller) bdp(g gain) uint32 {
	if c.minRTT == 0 || c.maxBandwidth() == 0 {
		return g.volume(initialPackets * c.mss)
	}
	return g.volume(c.losses.compensated(c.bw()).volume(c.minRTT))
}

// inflightAt is such a multiple as a target for what is in flight, with room
// for the bursts of sender and receiver.
func (c *Controller) inflightAt(g gain) uint32 { return c.quantized(c.bdp(g)) }

func (c *Controller) quantized(n uint32) uint32 {
	n = max(n, c.quantum(), minPackets*c.mss)
	if c.state == up {
		n = add(n, 2*c.mss)
	}
	return n
}

// quantum is the most that the pacer sends at once.
func (c *Controller) quantum() uint32 {
	return min(max(c.pacer.rate.volume(c.pacer.bank()), 2*c.mss), 64<<10)
}

// withHeadroom leaves room for others below what was once too much.
func (c *Controller) withHeadroom() uint32 {
	if c.inflightLong == infinite {
		return infinite
	}
	return max(sub(c.inflightLong, max(c.mss, percent(15).of(c.inflightLong))), minPackets*c.mss)
}

func (c *Controller) probeRTTCwnd() uint32 { return max(c.bdp(halfGain), minPackets*c.mss) }

// control sets rate and window (draft, UpdateControlParameters).
func (c *Controller) control() {
	if c.maxBandwidth() > 0 {
		c.setPacing(c.gainNow())
	}
	c.setCwnd()
}

// gainNow is the state's gain, or less while a queue shows that no probe of
// ours explains: the bandwidth is overestimated then, or others fill the queue.
// That makes room for them and keeps the delay low; the next probe takes back
// what they leave.
func (c *Controller) gainNow() gain {
	if (c.state == down || c.state == cruise) && c.queued() {
		return yieldGain
	}
	return c.pacingGain
}

// setPacing paces 1% below the bandwidth, so that a queue drains over time.
func (c *Controller) setPacing(g gain) {
	r := g.rate(c.losses.compensated(c.bw()))
	r -= r / 128
	if c.filled || r > c.pacer.rate {
		c.pacer.setRate(r, c.mss)
	}
}

func (c *Controller) setCwnd() {
	most := c.quantized(add(c.bdp(c.cwndGain), c.extraAcked()))
	switch {
	case c.filled:
		c.cwnd = min(add(c.cwnd, c.rs.acked), most)
	case c.cwnd < most || c.delivered < initialPackets*uint64(c.mss):
		c.cwnd = add(c.cwnd, c.rs.acked)
	}
	c.cwnd = max(c.cwnd, minPackets*c.mss)
	bound := c.inflightShort
	switch {
	case c.state == probeRTT:
		c.cwnd = min(c.cwnd, c.probeRTTCwnd())
		bound = min(bound, c.withHeadroom())
	case c.state == cruise:
		bound = min(bound, c.withHeadroom())
	case c.probingBandwidth():
		bound = min(bound, c.inflightLong)
	}
	c.cwnd = min(c.cwnd, max(bound, minPackets*c.mss), congestion.MaxCongestionWindowPackets*c.mss)
}
