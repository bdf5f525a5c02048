package bbr

import (
	"fmt"
	"testing"
	"time"

	"github.com/apernet/quic-go/congestion"

	"github.com/depinsim/x402/tunnel/tunneltest"
)

// left says whether the i-th case is left out of this run: the simulator is
// one goroutine, in which the race detector finds nothing.
func left(i int) bool { return tunneltest.Short() && i%3 != 0 }

// seeded returns a controller whose random waits are the same each time.
func seeded(seed uint32) *Controller {
	c := New(Config{})
	c.random = seed*2654435761 | 1
	return c
}

func mbit(bytes int64, d time.Duration) float64 { return float64(bytes) * 8 / 1e6 / d.Seconds() }

const (
	mbit50 = 6250000 // bytes/s
	bdp    = 250000  // of 50 Mbit/s and 40 ms
)

// A lane is a pair of links, both of the same kind.
type lane struct {
	w             *world
	forward, back *link
}

func newLane(seed uint64, l link) lane {
	w := newWorld(seed)
	l.w = w
	back := l
	return lane{w, &l, &back}
}

// measure is what a flow carried in d, in Mbit/s.
func (l lane) measure(f *flow, d time.Duration) float64 {
	before := f.goodput
	l.w.run(d)
	return mbit(f.goodput-before, d)
}

// most is the payload that the link can carry at all.
func (l lane) most() float64 {
	m := mbit(l.forward.rate, time.Second) * simPayload / (simPacket + 28)
	if !l.forward.lossFirst {
		m *= 1 - l.forward.loss
	}
	return m
}

// TestRandomLoss: 50 Mbit/s, 40 ms, a tail-drop queue of 100 ms and random loss
// in each direction. The lab's links lose behind the queue, others before it.
// Wire bytes count both directions; what is measured against is the least that
// is possible: each lost packet once again, and an acknowledgment for two.
func TestRandomLoss(t *testing.T) {
	for i, tt := range []struct {
		loss, least float64
	}{{0, 47.2}, {0.001, 47.2}, {0.01, 46.8}, {0.02, 46.2}, {0.05, 44.8}, {0.1, 41.5}} {
		for j, first := range []bool{false, true} {
			if left(i + j) {
				continue
			}
			t.Run(fmt.Sprintf("%v,first=%v", tt.loss, first), func(t *testing.T) {
				l := newLane(1, link{rate: mbit50, queue: mbit50 / 10, delay: 20 * time.Millisecond, loss: tt.loss, lossFirst: first})
				f := newFlow(l.w, seeded(1), l.forward, l.back)
				f.start()
				got := l.measure(f, 15*time.Second)
				wire := float64(f.wire) / float64(f.goodput)
				ideal := float64(simPacket+28)/simPayload/(1-tt.loss) + float64(simAck)/2/simPayload
				t.Logf("%.2f of %.2f Mbit/s, wire/goodput %.3f (least %.3f), queue %v median, %v at 95%%", got, l.most(), wire, ideal, l.forward.wait(50), l.forward.wait(95))
				if got < tt.least {
					t.Errorf("%.2f Mbit/s, want %.2f", got, tt.least)
				}
				if wire > ideal*1.012 {
					t.Errorf("wire/goodput %.3f, the least possible is %.3f", wire, ideal)
				}
				if w := l.forward.wait(50); w > 15*time.Millisecond {
					t.Errorf("median wait in the queue %v", w)
				}
			})
		}
	}
}

// TestShallowQueue: a buffer of half the product and less holds the rate up and
// is not kept overflowing.
func TestShallowQueue(t *testing.T) {
	for i, share := range []int64{2, 4, 10} {
		if left(i) {
			continue
		}
		l := newLane(2, link{rate: mbit50, queue: bdp / share, delay: 20 * time.Millisecond})
		f := newFlow(l.w, seeded(2), l.forward, l.back)
		f.start()
		l.w.run(2 * time.Second)
		drops, packets := l.forward.drops, f.number
		got := l.measure(f, 18*time.Second)
		rate := float64(l.forward.drops-drops) / float64(f.number-packets)
		t.Logf("1/%d BDP: %.2f Mbit/s, %.2f%% dropped", share, got, 100*rate)
		if got < 45 || rate > 0.01 {
			t.Errorf("1/%d BDP: %.2f Mbit/s, %.2f%% dropped", share, got, 100*rate)
		}
	}
}

// TestPolicer: what exceeds the rate is dropped without any delay, which looks
// like random loss until it is seen to depend on the rate.
func TestPolicer(t *testing.T) {
	for i, burst := range []int64{15000, 62500, 250000} {
		if left(i) {
			continue
		}
		l := newLane(2, link{rate: 2500000, queue: burst, delay: 20 * time.Millisecond, police: true})
		l.back.police = false
		f := newFlow(l.w, seeded(3), l.forward, l.back)
		f.start()
		l.w.run(10 * time.Second)
		drops, packets := l.forward.drops, f.number
		got := l.measure(f, 20*time.Second)
		rate := float64(l.forward.drops-drops) / float64(f.number-packets)
		t.Logf("burst %d: %.2f of %.2f Mbit/s, %.1f%% dropped", burst, got, l.most(), 100*rate)
		if got < 0.9*l.most() || rate > 0.05 {
			t.Errorf("burst %d: %.2f of %.2f Mbit/s, %.1f%% dropped", burst, got, l.most(), 100*rate)
		}
	}
}

// TestJitter: 5 Mbit/s up and 20 down with 60 ms and up to 30 ms more, in
// clumps; with some reordering, which quic-go takes for loss.
func TestJitter(t *testing.T) {
	for i, tt := range []struct {
		rate    int64
		reorder float64
		least   float64
	}{{625000, 0, 0.94}, {2500000, 0, 0.94}, {625000, 0.02, 0.9}, {2500000, 0.02, 0.85}} {
		if left(i) {
			continue
		}
		l := newLane(4, link{rate: tt.rate, queue: tt.rate / 5, delay: 30 * time.Millisecond, jitter: 30 * time.Millisecond, reorder: tt.reorder, reorderBy: 10 * time.Millisecond})
		f := newFlow(l.w, seeded(4), l.forward, l.back)
		f.start()
		got := l.measure(f, 30*time.Second)
		t.Logf("%.0f Mbit/s, %v overtaken: %.2f of %.2f, queue %v median", mbit(tt.rate, time.Second), tt.reorder, got, l.most(), l.forward.wait(50))
		if got < tt.least*l.most() {
			t.Errorf("%.0f Mbit/s, %v overtaken: %.2f of %.2f", mbit(tt.rate, time.Second), tt.reorder, got, l.most())
		}
		if w := l.forward.wait(50); w > 100*time.Millisecond {
			t.Errorf("median wait in the queue %v", w)
		}
	}
}

// TestBlackout: 30 s without a packet. quic-go's probe timeout has doubled to
// half a minute by then.
func TestBlackout(t *testing.T) {
	for _, loss := range []float64{0, 0.02} {
		l := newLane(5, link{rate: mbit50, queue: mbit50 / 10, delay: 20 * time.Millisecond, loss: loss})
		f := newFlow(l.w, seeded(5), l.forward, l.back)
		f.start()
		l.w.run(10 * time.Second)
		l.forward.dead, l.back.dead = true, true
		sent := l.forward.sent
		l.w.run(40 * time.Second)
		if n := l.forward.sent - sent; n > 700e3 {
			t.Errorf("loss %v: %d bytes sent into the blackout", loss, n)
		}
		l.forward.dead, l.back.dead = false, false
		back := l.measure(f, 3*time.Second)
		again := l.measure(f, 3*time.Second)
		t.Logf("loss %v: %.1f Mbit/s in the first 3 s, then %.1f", loss, back, again)
		if back < 20 || again < 0.9*l.most() {
			t.Errorf("loss %v: %.1f Mbit/s in the first 3 s, then %.1f", loss, back, again)
		}
	}
}

// TestRateChanges: ten times slower and faster again, as a radio does.
func TestRateChanges(t *testing.T) {
	l := newLane(6, link{rate: mbit50, queue: mbit50 / 10, delay: 20 * time.Millisecond})
	f := newFlow(l.w, seeded(6), l.forward, l.back)
	f.start()
	l.w.run(10 * time.Second)
	l.forward.rate /= 10
	l.w.run(5 * time.Second)
	l.forward.waits = nil
	slow := l.measure(f, 10*time.Second)
	if w := l.forward.wait(50); slow < 4.4 || w > 80*time.Millisecond {
		t.Errorf("after the drop: %.2f Mbit/s, queue %v", slow, w)
	}
	l.forward.rate *= 10
	l.w.run(5 * time.Second)
	if fast := l.measure(f, 5*time.Second); fast < 46 {
		t.Errorf("after the rise: %.2f Mbit/s", fast)
	}
}

// TestTicks: timers that fire late by up to the kernel's tick cost no speed.
func TestTicks(t *testing.T) {
	for i, tick := range []int64{1, 4, 10} {
		if left(i) {
			continue
		}
		l := newLane(7, link{rate: mbit50, queue: mbit50 / 10, delay: 20 * time.Millisecond, loss: 0.01})
		f := newFlow(l.w, seeded(7), l.forward, l.back)
		f.tick = tick * millisecond
		f.start()
		if got := l.measure(f, 10*time.Second); got < 46 {
			t.Errorf("tick of %d ms: %.2f Mbit/s", tick, got)
		}
	}
}

// TestLongPath: a product of 6 MB, and one of less than a packet.
func TestLongPath(t *testing.T) {
	for i, tt := range []struct {
		rate  int64
		rtt   time.Duration
		least float64 // of the most that is possible
	}{{25e6, 250 * time.Millisecond, 0.9}, {50e3, 10 * time.Millisecond, 0.93}, {8e3, 600 * time.Millisecond, 0.85}} {
		if left(i) {
			continue
		}
		l := newLane(8, link{rate: tt.rate, queue: max(tt.rate/5, 6000), delay: tt.rtt / 2})
		l.back.rate = 6250000
		f := newFlow(l.w, seeded(8), l.forward, l.back)
		f.start()
		d := 20 * time.Second
		if tunneltest.Short() {
			d = 4 * time.Second
		}
		l.w.run(10 * time.Second)
		got := l.measure(f, d)
		if got < tt.least*l.most() {
			t.Errorf("%d bytes/s, %v: %.3f of %.3f Mbit/s", tt.rate, tt.rtt, got, l.most())
		}
	}
}

// TestMarks: a queue that marks (RFC 3168) and drops nothing is kept short.
func TestMarks(t *testing.T) {
	l := newLane(9, link{rate: mbit50, queue: mbit50 / 2, delay: 20 * time.Millisecond, mark: mbit50 / 200})
	f := newFlow(l.w, seeded(9), l.forward, l.back)
	f.start()
	l.w.run(5 * time.Second)
	l.forward.waits = nil
	got := l.measure(f, 15*time.Second)
	t.Logf("%.2f Mbit/s, queue %v median, %v at 95%%", got, l.forward.wait(50), l.forward.wait(95))
	if got < 44 || l.forward.wait(95) > 15*time.Millisecond {
		t.Errorf("%.2f Mbit/s, queue %v at 95%%", got, l.forward.wait(95))
	}
}

func ours(_ *world, i int) congestion.CongestionControlEx  { return seeded(uint32(i + 20)) }
func theirs(*world, int) congestion.CongestionControlEx    { return newCubic() }
func renos(*world, int) congestion.CongestionControlEx     { return newReno() }
func older(w *world, _ int) congestion.CongestionControlEx { return newBBR1(w) }

// TestFairness shares one bottleneck of 50 Mbit/s, of 40 ms and a queue given
// in products, among flows that start one second after the other.
func TestFairness(t *testing.T) {
	type kind = func(*world, int) congestion.CongestionControlEx
	for i, tt := range []struct {
		name  string
		flows []kind
		queue float64
		jain  float64
	}{
		{"two of ours", []kind{ours, ours}, 0.5, 0.9},
		{"two of ours", []kind{ours, ours}, 2.5, 0.9},
		{"three of ours", []kind{ours, ours, ours}, 1, 0.85},
		{"three of ours", []kind{ours, ours, ours}, 2.5, 0.8},
		{"before two cubic", []kind{ours, theirs, theirs}, 1, 0.85},
		{"before two cubic", []kind{ours, theirs, theirs}, 2.5, 0.8},
		{"after two cubic", []kind{theirs, theirs, ours}, 2.5, 0.85},
		{"after two cubic", []kind{theirs, theirs, ours}, 5, 0.85},
		{"with reno", []kind{ours, renos}, 1, 0.8},
		{"before two BBR 1", []kind{ours, older, older}, 2.5, 0.8},
		{"after two BBR 1", []kind{older, older, ours}, 2.5, 0.8},
	} {
		if left(i) {
			continue
		}
		t.Run(fmt.Sprintf("%s, %v", tt.name, tt.queue), func(t *testing.T) {
			l := newLane(3, link{rate: mbit50, queue: int64(tt.queue * bdp), delay: 20 * time.Millisecond})
			var flows []*flow
			for i, k := range tt.flows {
				f := newFlow(l.w, k(l.w, i), l.forward, l.back)
				l.w.at(l.w.now+int64(i)*second, f.send)
				flows = append(flows, f)
			}
			l.w.run(10 * time.Second)
			shares := make([]int64, len(flows))
			for i, f := range flows {
				shares[i] = -f.goodput
			}
			l.forward.waits = nil
			l.w.run(40 * time.Second)
			for i, f := range flows {
				shares[i] += f.goodput
			}
			index, sum := jain(shares)
			t.Logf("%d of %.1f Mbit/s, index %.3f, queue %v median", shares, mbit(sum, 40*time.Second), index, l.forward.wait(50))
			if index < tt.jain || mbit(sum, 40*time.Second) < 45 {
				t.Errorf("%d: index %.3f, want %.2f; %.1f Mbit/s", shares, index, tt.jain, mbit(sum, 40*time.Second))
			}
		})
	}
}

// jain is Jain's index of fairness, and the sum.
func jain(shares []int64) (index float64, sum int64) {
	var squares float64
	for _, s := range shares {
		sum += s
		squares += float64(s) * float64(s)
	}
	return float64(sum) * float64(sum) / squares / float64(len(shares)), sum
}
