package netlab

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

func newShaper(s Shape) *shaper {
	return &shaper{Shape: s, random: rand.New(rand.NewPCG(1, 2))}
}

// TestShapeRate: 1,000 bytes take 1 ms at 8 Mbit/s; ten of them wait at most in
// a queue of 10 ms, and the line is never idle while one waits.
func TestShapeRate(t *testing.T) {
	s := newShaper(Shape{Rate: 8_000_000, Queue: 10 * ms, Delay: 5 * ms})
	for i := range 15 {
		due, f := s.arrive(0, 1000)
		want := delivered
		if i > 10 { // the eleventh waits 10 ms exactly
			want = dropped
		}
		if f != want || f == delivered && due != time.Duration(i+6)*ms {
			t.Errorf("packet %d: %v due %v", i, f, due)
		}
	}
	if due, f := s.arrive(4*ms, 1000); f != delivered || due != 17*ms {
		t.Errorf("after 4 ms: %v due %v", f, due)
	}
	if due, f := s.arrive(time.Second, 500); f != delivered || due != time.Second+5*ms+ms/2 {
		t.Errorf("idle: %v due %v", f, due)
	}
}

func TestShapeQueueBytes(t *testing.T) {
	s := newShaper(Shape{Rate: 8_000_000, QueueBytes: 3000})
	fates := map[fate]int{}
	for range 10 {
		_, f := s.arrive(0, 1000)
		fates[f]++
	}
	if fates[delivered] != 3 || fates[dropped] != 7 {
		t.Errorf("%v", fates)
	}
}

func TestShapeLoss(t *testing.T) {
	const n = 200_000
	for _, share := range []float64{0, 0.01, 0.05, 0.5, 1} {
		s := newShaper(Shape{Loss: share})
		gone := 0
		for i := range n {
			if _, f := s.arrive(time.Duration(i), 100); f == lost {
				gone++
			}
		}
		if got, off := float64(gone)/n, 5*math.Sqrt(share*(1-share)/n); math.Abs(got-share) > off {
			t.Errorf("%v lost of %v", got, share)
		}
	}
}

// TestShapeBurst: with chances b to begin and e to end, b/(b+e) of the packets
// are in bursts of 1/e on average.
func TestShapeBurst(t *testing.T) {
	const n, b, e = 500_000, 0.002, 0.1
	s := newShaper(Shape{Burst: Burst{Begin: b, End: e}})
	gone, bursts, before := 0, 0, false
	for i := range n {
		_, f := s.arrive(time.Duration(i), 100)
		if f == lost {
			gone++
			if !before {
				bursts++
			}
		}
		before = f == lost
	}
	if share, want := float64(gone)/n, b/(b+e); math.Abs(share-want) > want/10 {
		t.Errorf("share %v, want %v", share, want)
	}
	if length := float64(gone) / float64(bursts); math.Abs(length-1/e) > 1 {
		t.Errorf("bursts of %v packets, want %v", length, 1/e)
	}
	s = newShaper(Shape{Burst: Burst{Begin: 1, End: 0, Loss: 0.5}})
	gone = 0
	for i := range n {
		if _, f := s.arrive(time.Duration(i), 100); f == lost {
			gone++
		}
	}
	if share := float64(gone) / n; math.Abs(share-0.5) > 0.01 {
		t.Errorf("a bad state that loses half lost %v", share)
	}
}

func TestShapeJitter(t *testing.T) {
	s := newShaper(Shape{Delay: 30 * ms, Jitter: 15 * ms})
	var last time.Duration
	least, most := time.Hour, time.Duration(0)
	for i := range 20_000 {
		now := time.Duration(i) * ms / 2
		due, f := s.arrive(now, 1000)
		if f != delivered || due < last {
			t.Fatalf("packet %d: %v due %v, the one before %v", i, f, due, last)
		}
		last = due
		least, most = min(least, due-now), max(most, due-now)
	}
	if least < 30*ms || least > 33*ms || most > 45*ms || most < 42*ms {
		t.Errorf("delays of %v to %v", least, most)
	}
}

func TestShapeReorder(t *testing.T) {
	const n = 100_000
	s := newShaper(Shape{Delay: ms, Reorder: 0.1, ReorderBy: 5 * ms})
	late := 0
	for i := range n {
		now := time.Duration(i) * ms / 10
		switch due, f := s.arrive(now, 100); {
		case f != delivered:
			t.Fatalf("packet %d: %v", i, f)
		case due == now+6*ms:
			late++
		case due != now+ms:
			t.Fatalf("packet %d: due %v after %v", i, due, now)
		}
	}
	if late < n/10-n/100 || late > n/10+n/100 {
		t.Errorf("%d of %d late", late, n)
	}
}

func TestShapeDown(t *testing.T) {
	s := newShaper(Shape{Down: true})
	if _, f := s.arrive(0, 100); f != cut {
		t.Error(f)
	}
	s.change(Shape{Delay: ms})
	if due, f := s.arrive(ms, 100); f != delivered || due != 2*ms {
		t.Error(f, due)
	}
}
