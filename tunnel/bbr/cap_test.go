package bbr

import (
	"testing"
	"time"

	"github.com/apernet/quic-go/monotime"

	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestCap: three senders keep together to a cap that changes while they run,
// and share it evenly; what a slow one leaves the others use.
func TestCap(t *testing.T) {
	l := newLane(1, link{rate: 2 * mbit50, queue: mbit50 / 5, delay: 20 * time.Millisecond})
	var all Cap
	var flows []*flow
	for i := range 3 {
		c := New(Config{Cap: &all})
		c.random = uint32(i + 1)
		f := newFlow(l.w, c, l.forward, l.back)
		if i == 2 {
			f.backlog = 0 // slow: see below
		}
		f.start()
		flows = append(flows, f)
	}
	// The third has 50 kB each 100 ms, 4 Mbit/s.
	var feed func()
	feed = func() {
		flows[2].write(50000)
		l.w.at(l.w.now+100*millisecond, feed)
	}
	feed()

	all.Set(2500000)
	l.w.run(3 * time.Second)
	for _, rate := range []uint64{2500000, 1250000, 5000000, 125000, 2500000} {
		all.Set(rate)
		l.w.run(300 * time.Millisecond)
		sent := l.forward.sent
		before := []int64{flows[0].goodput, flows[1].goodput, flows[2].goodput}
		d := 10 * time.Second
		if tunneltest.Short() {
			d = 4 * time.Second
		}
		l.w.run(d)
		got := float64(l.forward.sent-sent) / d.Seconds()
		for i, f := range flows {
			before[i] = f.goodput - before[i]
		}
		t.Logf("cap %d: %.0f bytes/s, shares %d", rate, got, before)
		if got > 1.02*float64(rate) || got < 0.97*float64(rate) {
			t.Errorf("cap %d: %.0f bytes/s", rate, got)
		}
		if index, _ := jain(before[:2]); index < 0.98 {
			t.Errorf("cap %d: shares of the busy %d", rate, before[:2])
		}
		if want := float64(min(500000, rate/3)) * d.Seconds(); float64(before[2]) < 0.85*want {
			t.Errorf("cap %d: the slow one got %d of %.0f", rate, before[2], want)
		}
	}

	all.Set(0)
	l.w.run(3 * time.Second)
	if got := l.measure(flows[0], 5*time.Second) + 0; got < 30 {
		t.Errorf("without a cap one of three carries %.1f of 100 Mbit/s", got)
	}
}

// TestSenders: what is no controller shares a cap with one, whether it comes
// when its turn is or looks only now and then. What is late is made up for, and
// no more.
func TestSenders(t *testing.T) {
	for _, tick := range []int64{0, 10 * millisecond} {
		l := newLane(1, link{rate: 2 * mbit50, queue: mbit50 / 5, delay: 20 * time.Millisecond})
		const rate = 2500000
		var all Cap
		all.Set(rate)
		c := New(Config{Cap: &all})
		c.random = 1
		f := newFlow(l.w, c, l.forward, l.back)
		var sent int64
		base := time.Now()
		other := all.Sender()
		var look func()
		look = func() {
			wait := time.Duration(tick)
			for {
				n, again := other.Allow(base.Add(time.Duration(l.w.now)-time.Duration(monotime.FromTime(base))), 1<<16)
				if n == 0 {
					wait = max(wait, again, 1)
					break
				}
				other.Sent(n)
				sent += int64(n)
			}
			l.w.at(l.w.now+int64(wait), look)
		}
		look()
		l.w.run(2 * time.Second)
		alone := sent
		l.w.run(5 * time.Second)
		if got := float64(sent-alone) / 5; got < 0.99*rate || got > 1.01*rate {
			t.Errorf("tick %d: alone %.0f bytes/s", tick, got)
		}
		f.start()
		l.w.run(3 * time.Second)
		flow, before := l.forward.sent, sent
		l.w.run(10 * time.Second)
		mine, his := float64(sent-before)/10, float64(l.forward.sent-flow)/10
		if mine+his > 1.01*rate || mine+his < 0.98*rate {
			t.Errorf("tick %d: %.0f and %.0f bytes/s", tick, mine, his)
		}
		if least := 0.45; tick == 0 && (mine < least*rate || his < least*rate) || tick > 0 && mine < 0.15*rate {
			t.Errorf("tick %d: shares of %.0f and %.0f bytes/s", tick, mine, his)
		}
	}
}

// TestCapIsNotThePath: what a cap holds back is not taken for the path's
// bandwidth, so that the rate is there at once when it goes.
func TestCapIsNotThePath(t *testing.T) {
	l := newLane(1, link{rate: mbit50, queue: mbit50 / 10, delay: 20 * time.Millisecond})
	var all Cap
	c := New(Config{Cap: &all})
	f := newFlow(l.w, c, l.forward, l.back)
	f.start()
	l.w.run(5 * time.Second)
	all.Set(625000)
	l.w.run(20 * time.Second)
	if got := l.measure(f, 5*time.Second); got > 5 || got < 4.6 {
		t.Errorf("under a cap of 5 Mbit/s: %.2f", got)
	}
	all.Set(0)
	l.w.run(200 * time.Millisecond)
	if got := l.measure(f, time.Second); got < 44 {
		t.Errorf("in the first second without the cap: %.2f Mbit/s", got)
	}
}
