package bbr

import (
	"math"
	"time"

	"github.com/apernet/quic-go/congestion"
	"github.com/apernet/quic-go/monotime"
)

// A cubic is a competitor: CUBIC (RFC 9438) without pacing, or Reno where beta
// is 0.5. It implements the controller's interface for use in a flow.
type cubic struct {
	cwnd, ssthresh float64 // packets
	beta           float64
	wMax, k        float64
	epoch          int64
	recoverAt      congestion.PacketNumber // losses up to here were answered
	newest         congestion.PacketNumber
	rtt            congestion.RTTStatsProvider
}

func newCubic() *cubic { return &cubic{cwnd: 10, ssthresh: math.Inf(1), beta: 0.7, recoverAt: -1} }
func newReno() *cubic  { return &cubic{cwnd: 10, ssthresh: math.Inf(1), beta: 0.5, recoverAt: -1} }

func (c *cubic) OnPacketSent(_ monotime.Time, _ congestion.ByteCount, n congestion.PacketNumber, _ congestion.ByteCount, _ bool) {
	c.newest = n
}

func (c *cubic) OnCongestionEventEx(prior congestion.ByteCount, now monotime.Time, acked []congestion.AckedPacketInfo, lost []congestion.LostPacketInfo) {
	for _, l := range lost {
		if l.PacketNumber <= c.recoverAt {
			continue
		}
		c.recoverAt = c.newest
		if c.cwnd < c.wMax {
			c.wMax = c.cwnd * (1 + c.beta) / 2
		} else {
			c.wMax = c.cwnd
		}
		c.cwnd = max(2, c.cwnd*c.beta)
		c.ssthresh = c.cwnd
		c.epoch = 0
	}
	if float64(prior) < (c.cwnd-4)*simPacket {
		return // not limited by the window
	}
	for _, a := range acked {
		if a.PacketNumber <= c.recoverAt {
			continue
		}
		c.grow(int64(now))
	}
}

func (c *cubic) grow(now int64) {
	switch {
	case c.cwnd < c.ssthresh:
		c.cwnd++
		// HyStart (RFC 9406), roughly: leave slow start when a queue shows.
		if least := c.rtt.MinRTT(); c.cwnd > 16 && c.rtt.LatestRTT() > least+max(min(least/8, 16*time.Millisecond), 4*time.Millisecond) {
			c.ssthresh = c.cwnd
		}
	case c.beta == 0.5:
		c.cwnd += 1 / c.cwnd
	default:
		if c.epoch == 0 {
			c.epoch = now
			c.wMax = max(c.wMax, c.cwnd)
			c.k = math.Cbrt((c.wMax - c.cwnd) / 0.4)
		}
		t := float64(now-c.epoch)/1e9 + c.rtt.SmoothedRTT().Seconds()
		target := 0.4*math.Pow(t-c.k, 3) + c.wMax
		target = min(max(target, c.cwnd), 1.5*c.cwnd)
		c.cwnd += max((target-c.cwnd)/c.cwnd, 0.5/c.cwnd)
	}
}

func (c *cubic) CanSend(n congestion.ByteCount) bool               { return float64(n) < c.cwnd*simPacket }
func (c *cubic) HasPacingBudget(monotime.Time) bool                { return true }
func (c *cubic) TimeUntilSend(congestion.ByteCount) monotime.Time  { return 0 }
func (c *cubic) SetRTTStatsProvider(p congestion.RTTStatsProvider) { c.rtt = p }
func (c *cubic) SetMaxDatagramSize(congestion.ByteCount)           {}
func (c *cubic) MaybeExitSlowStart()                               {}
func (c *cubic) OnRetransmissionTimeout(bool)                      {}
func (c *cubic) InSlowStart() bool                                 { return c.cwnd < c.ssthresh }
func (c *cubic) InRecovery() bool                                  { return false }
func (c *cubic) GetCongestionWindow() congestion.ByteCount {
	return congestion.ByteCount(c.cwnd * simPacket)
}
func (c *cubic) OnPacketAcked(congestion.PacketNumber, congestion.ByteCount, congestion.ByteCount, monotime.Time) {
}
func (c *cubic) OnCongestionEvent(congestion.PacketNumber, congestion.ByteCount, congestion.ByteCount) {
}

// A bbr1 is a competitor: BBR version 1 as Linux has it
// (draft-cardwell-iccrg-bbr-congestion-control-00), reduced to what matters on
// a shared bottleneck.
type bbr1 struct {
	w        *world
	bw       [10]float64 // bytes/s, best of each of ten rounds
	round    int
	next     int64 // delivered at the end of the round
	total    int64
	at       int64
	minRTT   int64
	minAt    int64
	gains    int
	phaseAt  int64
	full     float64
	fullN    int
	mode     int // 0 startup 1 drain 2 probe bandwidth 3 probe RTT
	done     int64
	inflight int64
	pace     int64
	sentInfo map[congestion.PacketNumber][3]int64 // sent, delivered, delivered at
}

func newBBR1(w *world) *bbr1 {
	return &bbr1{w: w, minRTT: math.MaxInt64, sentInfo: make(map[congestion.PacketNumber][3]int64)}
}

func (b *bbr1) best() float64 {
	m := 0.0
	for _, v := range b.bw {
		m = max(m, v)
	}
	return m
}

func (b *bbr1) gain() float64 {
	switch b.mode {
	case 0:
		return 2.885
	case 1:
		return 1 / 2.885
	case 3:
		return 1
	}
	return [8]float64{1.25, .75, 1, 1, 1, 1, 1, 1}[b.gains]
}

func (b *bbr1) bdp() float64 {
	if b.best() == 0 {
		return 10 * simPacket
	}
	return b.best() * float64(b.minRTT) / 1e9
}

func (b *bbr1) cwnd() float64 {
	switch b.mode {
	case 0, 1:
		return max(2.885*b.bdp(), 10*simPacket)
	case 3:
		return 4 * simPacket
	}
	return max(2*b.bdp()+3*simPacket, 4*simPacket)
}

func (b *bbr1) OnPacketSent(_ monotime.Time, inflight congestion.ByteCount, n congestion.PacketNumber, size congestion.ByteCount, _ bool) {
	if b.at == 0 || inflight == size {
		b.at = b.w.now
	}
	b.inflight = int64(inflight)
	b.sentInfo[n] = [3]int64{b.w.now, b.total, b.at}
	rate := b.best()
	if rate == 0 {
		rate = 10 * simPacket / 0.04
	}
	b.pace = max(b.pace, b.w.now-2*millisecond) + int64(float64(size)/(rate*b.gain())*1e9)
}

func (b *bbr1) OnCongestionEventEx(prior congestion.ByteCount, _ monotime.Time, acked []congestion.AckedPacketInfo, lost []congestion.LostPacketInfo) {
	now := b.w.now
	b.inflight = int64(prior) - int64(len(acked)+len(lost))*simPacket
	for _, l := range lost {
		delete(b.sentInfo, l.PacketNumber)
	}
	for _, a := range acked {
		p, ok := b.sentInfo[a.PacketNumber]
		if !ok {
			continue
		}
		delete(b.sentInfo, a.PacketNumber)
		b.total += simPacket
		b.at = now
		rtt := now - p[0]
		expired := now > b.minAt+10*second && b.minAt > 0
		if rtt <= b.minRTT || expired {
			b.minRTT, b.minAt = rtt, now
		}
		if expired && b.mode != 3 {
			b.mode, b.done = 3, 0
		}
		if p[1] >= b.next {
			b.next = b.total
			b.round++
			b.bw[b.round%10] = 0
			b.check()
		}
		if b.total > p[1] && now > p[2] {
			b.bw[b.round%10] = max(b.bw[b.round%10], float64(b.total-p[1])/float64(max(now-p[2], b.minRTT))*1e9)
		}
	}
	b.step(now)
}

func (b *bbr1) check() {
	if b.mode != 0 {
		return
	}
	if b.best() >= b.full*1.25 {
		b.full, b.fullN = b.best(), 0
	} else if b.fullN++; b.fullN >= 3 {
		b.mode = 1
	}
}

func (b *bbr1) step(now int64) {
	switch b.mode {
	case 1:
		if float64(b.inflight) <= b.bdp() {
			b.mode, b.gains, b.phaseAt = 2, 2+b.w.random.IntN(6), now
		}
	case 2:
		past := now-b.phaseAt > b.minRTT
		if b.gains == 0 {
			past = past && float64(b.inflight) >= 1.25*b.bdp()
		}
		if b.gains == 1 && float64(b.inflight) <= b.bdp() {
			past = true
		}
		if past {
			b.gains, b.phaseAt = (b.gains+1)%8, now
		}
	case 3:
		if b.done == 0 && b.inflight <= 4*simPacket {
			b.done = now + 200*millisecond
		} else if b.done > 0 && now > b.done {
			b.minAt = now
			b.mode, b.gains, b.phaseAt = 2, 2, now
			if b.fullN < 3 {
				b.mode = 0
			}
		}
	}
}

func (b *bbr1) CanSend(n congestion.ByteCount) bool              { return float64(n) < b.cwnd() }
func (b *bbr1) HasPacingBudget(now monotime.Time) bool           { return int64(now) >= b.pace }
func (b *bbr1) TimeUntilSend(congestion.ByteCount) monotime.Time { return monotime.Time(b.pace) }
func (b *bbr1) SetRTTStatsProvider(congestion.RTTStatsProvider)  {}
func (b *bbr1) SetMaxDatagramSize(congestion.ByteCount)          {}
func (b *bbr1) MaybeExitSlowStart()                              {}
func (b *bbr1) OnRetransmissionTimeout(bool)                     {}
func (b *bbr1) InSlowStart() bool                                { return b.mode == 0 }
func (b *bbr1) InRecovery() bool                                 { return false }
func (b *bbr1) GetCongestionWindow() congestion.ByteCount        { return congestion.ByteCount(b.cwnd()) }
func (b *bbr1) OnPacketAcked(congestion.PacketNumber, congestion.ByteCount, congestion.ByteCount, monotime.Time) {
}
func (b *bbr1) OnCongestionEvent(congestion.PacketNumber, congestion.ByteCount, congestion.ByteCount) {
}
