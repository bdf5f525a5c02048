// Package bbr is a congestion controller for QUIC: BBR version 3 after
// draft-ietf-ccwg-bbr, written for radio links and small routers.
//
// BBR measures how fast the path delivers and how long its round trip is, sends
// at that rate, and keeps about one bandwidth-delay product in flight. This one
// departs from the draft where losses that have nothing to do with congestion
// would stop it: see losses.go and docs/decisions/0015-bbr.md.
//
//	conn.SetCongestionControl(bbr.New(bbr.Config{Cap: sellersCap}))
//
// right after Dial or Accept. Per packet there is no allocation, lock, clock
// read or floating point, and per acknowledgment two 64-bit divisions.
//
// What a packet passes, in the order of the files:
//
//	quic-go asks whether it may leave      CanSend, HasPacingBudget   bbr.go pacer.go cap.go
//	it left: remember what was known       OnPacketSent               bbr.go packets.go
//	it was acknowledged or lost: measure   OnCongestionEventEx        ack.go
//	update the model                       path, losses               model.go losses.go
//	move through the states                advance                    states.go
//	set the rate and the window            control                    control.go
package bbr

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/apernet/quic-go/congestion"
	"github.com/apernet/quic-go/monotime"
)

const (
	initialPackets = 32 // quic-go's own initial window
	minPackets     = 4  // MinPipeCwnd
	tryEvery       = second
)

// Config is what a [Controller] can be told.
type Config struct {
	// Cap bounds the rate of all controllers that share it; nil is no bound.
	Cap *Cap
}

// A Controller controls one connection. It belongs to that connection's
// goroutine, as quic-go calls it; only Reset may be called from any other.
type Controller struct {
	path
	losses losses
	pacer  pacer
	cap    turn
	sent   packets
	rs     sample
	rtt    congestion.RTTStatsProvider

	mss    uint32
	cwnd   uint32
	random uint32 // state of an xorshift generator

	// Times are in ns since a second before the first event, so that 0 is before
	// all of them: quic-go's own may even be negative.
	epoch   int64
	running bool
	now     int64 // of the event being handled

	// Totals, and the clocks of the sampler (draft, "Delivery Rate Sampling").
	delivered    uint64
	lost         uint64
	deliveredAt  int64
	firstSent    int64
	limitedUntil uint64 // app_limited; 0 is not limited

	// What quic-go was offered and did not use: see noteUnused.
	offers    uint32
	offeredAt int64

	inflight    uint32 // as quic-go counts it, without what Reset left behind
	stale       uint32 // in flight since before Reset
	staleNumber congestion.PacketNumber
	newest      congestion.PacketNumber
	heardAt     int64 // when the last acknowledgment came

	// After a silence quic-go's probe timeouts double up to a minute, and the
	// window is full of what was lost. One packet a second beyond the window
	// finds out when the path is back.
	silent bool
	beyond bool // the last question was about such a packet
	tryAt  int64

	machine

	reset atomic.Bool
}

var _ congestion.CongestionControlEx = (*Controller)(nil)

// New returns a controller for one connection.
func New(cfg Config) *Controller {
	c := &Controller{mss: congestion.InitialPacketSize, random: rand.Uint32() | 1}
	c.cap.cap = cfg.Cap
	c.newest = -1
	c.staleNumber = -1
	c.restart()
	return c
}

// restart forgets the path. The first rate comes from the round trip that is
// known: the handshake's or, after Reset, the old path's.
func (c *Controller) restart() {
	c.path = path{}
	c.losses = losses{}
	c.machine = machine{}
	c.forgetShort()
	c.inflightLong = infinite
	c.cwnd = initialPackets * c.mss
	c.limitedUntil = 0
	c.nextRound = uint32(c.delivered)
	c.enterStartup()
	var rtt int64
	if c.rtt != nil {
		rtt = int64(c.rtt.SmoothedRTT())
	}
	if rtt <= 0 {
		rtt = millisecond
	}
	c.pacer.setRate(startupGain.rate(rateOf(c.cwnd, rtt)), c.mss)
}

// Reset makes the controller forget the path, since packets now take another
// one. It may be called from any goroutine and takes effect at the
// connection's next event. What is still in flight on the old path neither
// teaches anything nor holds back what is sent on the new.
func (c *Controller) Reset() { c.reset.Store(true) }

func (c *Controller) applyReset() {
	if !c.reset.Load() {
		return
	}
	c.reset.Store(false)
	c.stale = add(c.stale, c.inflight)
	c.staleNumber = c.newest
	c.inflight = 0
	c.sent.clear()
	c.heardAt, c.silent = 0, false
	c.pacer = pacer{}
	c.restart()
}

// SetRTTStatsProvider gives the round trip of the handshake, for the first rate.
func (c *Controller) SetRTTStatsProvider(p congestion.RTTStatsProvider) {
	c.rtt = p
	if c.delivered == 0 {
		c.restart()
	}
}

// SetMaxDatagramSize follows path MTU discovery.
func (c *Controller) SetMaxDatagramSize(size congestion.ByteCount) {
	c.mss = uint32(min(max(size, 512), 65535))
	c.cwnd = max(c.cwnd, minPackets*c.mss)
}

// CanSend says whether the window has room, or whether, after a silence, the
// path should be tried beyond it: see tryAt.
func (c *Controller) CanSend(inFlight congestion.ByteCount) bool {
	c.applyReset()
	if sub(volumeOf(inFlight), c.stale) < c.cwnd {
		c.beyond = false
		return true
	}
	c.cwndLimited = true
	c.beyond = c.silent
	return c.silent
}

func (c *Controller) time(t monotime.Time) int64 {
	if !c.running {
		c.epoch, c.running = int64(t)-second, true
	}
	return int64(t) - c.epoch
}

// HasPacingBudget says whether a packet may leave now. quic-go asks only when
// the window has room.
func (c *Controller) HasPacingBudget(now monotime.Time) bool {
	t := c.time(now)
	c.noteUnused(t)
	if !c.pacer.ready(t) || c.beyond && t < c.tryAt {
		return false
	}
	if !c.cap.ready(int64(now)) {
		c.limited() // by our own will, which says nothing about the path
		return false
	}
	if c.offers++; c.offers == 1 {
		c.offeredAt = t
	}
	return true
}

// noteUnused tells when the application had nothing to send. quic-go has no
// call for that, but it asks whether a packet may leave, and always packs one
// after the second question at the latest (after the first, packets that came
// in may take precedence). So a second yes without a packet, or a first one
// that a while has passed since, means that there was nothing to send.
func (c *Controller) noteUnused(now int64) {
	if c.offers > 1 || c.offers == 1 && now-c.offeredAt > max(2*millisecond, c.minRTT/8) {
		c.limited()
	}
}

// limited marks what is sent until the next round trip ends as less than the
// path could have taken (draft, MarkConnectionAppLimited).
func (c *Controller) limited() { c.limitedUntil = max(c.delivered+uint64(c.inflight), 1) }

// TimeUntilSend says when to ask HasPacingBudget again.
func (c *Controller) TimeUntilSend(congestion.ByteCount) monotime.Time {
	paced := c.pacer.when()
	if c.beyond {
		paced = max(paced, c.tryAt)
	}
	at := monotime.Time(paced + c.epoch)
	if capped, ok := c.cap.when(); ok && capped > int64(at) {
		c.pacer.due = 0 // it is not the pacer that waits
		return monotime.Time(capped)
	}
	return at
}

// OnPacketSent records a packet. inFlight includes it.
func (c *Controller) OnPacketSent(sentTime monotime.Time, inFlight congestion.ByteCount, number congestion.PacketNumber, bytes congestion.ByteCount, isRetransmittable bool) {
	c.applyReset()
	size := volumeOf(bytes)
	c.cap.sent(size)
	if !isRetransmittable {
		return
	}
	now := c.time(sentTime)
	c.now, c.offers = now, 0
	if c.silent = c.outage(c.inflight); c.silent {
		c.tryAt = now + tryEvery
	}
	c.newest = max(c.newest, number)
	c.inflight = max(sub(volumeOf(inFlight), c.stale), size)
	if c.inflight == size {
		c.restartFromIdle()
	}
	c.pacer.sent(now, size)
	p := c.sent.push(number)
	if p == nil {
		return
	}
	p.sent, p.firstSent, p.delivered = now, c.firstSent, c.deliveredAt
	p.total, p.lost = uint32(c.delivered), uint32(c.lost)
	p.inflight, p.size = c.inflight, uint16(min(size, 65535))
	p.appLimited = c.limitedUntil != 0
	p.pushing = c.state == up
	p.steady = c.state == down || c.state == cruise || c.state == drain || c.state == probeRTT
}

// restartFromIdle starts the sampler's clocks when nothing else is in flight,
// and paces at the path's rate (draft, HandleRestartFromIdle).
func (c *Controller) restartFromIdle() {
	c.firstSent, c.deliveredAt = c.now, c.now
	if c.limitedUntil == 0 {
		return
	}
	c.idleRestart = true
	c.extraFrom, c.extraCounted = c.now, 0
	if c.probingBandwidth() {
		c.setPacing(one)
	} else if c.state == probeRTT {
		c.checkProbeRTTDone()
	}
}

// GetCongestionWindow returns the window in bytes.
func (c *Controller) GetCongestionWindow() congestion.ByteCount {
	return congestion.ByteCount(add(c.cwnd, c.stale))
}

// InSlowStart says whether the controller is in Startup.
func (c *Controller) InSlowStart() bool { return c.state == startup }

// InRecovery says whether packets were lost in the current round.
func (c *Controller) InRecovery() bool { return c.lossInRound }

// MaybeExitSlowStart does nothing: OnCongestionEventEx decides that.
func (c *Controller) MaybeExitSlowStart() {}

// OnPacketAcked does nothing: OnCongestionEventEx follows with all packets.
func (c *Controller) OnPacketAcked(congestion.PacketNumber, congestion.ByteCount, congestion.ByteCount, monotime.Time) {
}

// OnRetransmissionTimeout does nothing: this quic-go does not call it. How long
// nothing was heard is seen in OnCongestionEventEx.
func (c *Controller) OnRetransmissionTimeout(bool) {}

func volumeOf(n congestion.ByteCount) uint32 { return uint32(min(max(n, 0), infinite)) }
