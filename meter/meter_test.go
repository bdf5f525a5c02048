package meter

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadingCountsDeliveredOnly(t *testing.T) {
	m := New(Config{WeightUp: 1, WeightDown: 2, Limit: 1 << 20})
	ctx := t.Context()
	for _, lane := range []*Lane{m.UpTCP, m.DownTCP, m.UpUDP, m.DownUDP} {
		if err := lane.Reserve(ctx, 1000); err != nil {
			t.Fatal(err)
		}
	}
	m.UpTCP.Deliver(1000, 1000)
	m.DownTCP.Deliver(1000, 400)
	m.UpUDP.Deliver(1000, 1000)
	m.DownUDP.Deliver(1000, 0)
	want := Reading{UpTCP: 1000, DownTCP: 400, UpUDP: 1000, UpPackets: 1}
	if diff := cmp.Diff(want, m.Reading()); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	if got, want := m.spent.Load(), uint64(1000+400*2+1000); got != want {
		t.Errorf("spent %d, want %d", got, want)
	}
}

func TestReadingStartsAtBase(t *testing.T) {
	base := Reading{UpTCP: 1, DownTCP: 2, UpUDP: 3, DownUDP: 4, UpPackets: 5, DownPackets: 6}
	m := New(Config{Base: base, WeightUp: 1, WeightDown: 1, Limit: 100})
	if err := m.DownUDP.Reserve(t.Context(), 100); err != nil {
		t.Fatalf("the base must not eat the limit: %v", err)
	}
	m.DownUDP.Deliver(100, 100)
	got := m.Reading().Sub(base)
	if diff := cmp.Diff(Reading{DownUDP: 100, DownPackets: 1}, got); diff != "" {
		t.Errorf("since base (-want +got):\n%s", diff)
	}
}

func TestReserveWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{WeightUp: 1, WeightDown: 1, Limit: 100})
		if err := m.UpTCP.Reserve(t.Context(), 60); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		var wg sync.WaitGroup
		wg.Go(func() { done <- m.DownTCP.Reserve(t.Context(), 60) })
		synctest.Wait()
		if !m.Blocked() {
			t.Fatal("60 + 60 passed a limit of 100")
		}
		<-m.Starved()
		m.Extend(110)
		synctest.Wait()
		if !m.Blocked() {
			t.Fatal("60 + 60 passed a limit of 110")
		}
		m.UpTCP.Deliver(60, 50) // gives 10 back: 50 + 60 fit 110
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wg.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.UpUDP.Reserve(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestLimitNeverFalls(t *testing.T) {
	m := New(Config{WeightUp: 1, Limit: 100})
	m.Extend(50)
	if err := m.UpTCP.Reserve(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
}

func TestFreeLaneIsNeverHeld(t *testing.T) {
	m := New(Config{WeightUp: 1})
	if err := m.DownTCP.Reserve(t.Context(), 1<<30); err != nil {
		t.Fatal(err)
	}
	m.Close(nil)
	if err := m.DownTCP.Reserve(t.Context(), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("free lane of a closed meter: %v", err)
	}
}

func TestCloseEndsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{WeightUp: 1, WeightDown: 1})
		why := errors.New("why")
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := m.UpTCP.Reserve(t.Context(), 1); !errors.Is(err, why) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		m.Close(why)
		m.Close(errors.New("second"))
		wg.Wait()
		m.Extend(1<<64 - 1)
		if err := m.UpTCP.Reserve(t.Context(), 1); !errors.Is(err, why) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestOverflowIsSpent(t *testing.T) {
	m := New(Config{WeightUp: 1 << 40, Limit: 1<<64 - 1})
	m.spent.Store(1<<64 - 10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.UpTCP.Reserve(ctx, 1); err == nil {
		t.Error("a sum that wraps was taken as credit")
	}
}

// TestConcurrentTotals holds the sum of many writers against the readings that
// are taken meanwhile, past the point where the packed counter is folded.
func TestConcurrentTotals(t *testing.T) {
	m := New(Config{WeightUp: 1, WeightDown: 1, Limit: 1 << 62})
	const writers, packets = 4, 200_000 // 800,000 > the 2^19 that fold
	var wg sync.WaitGroup
	var want [writers]uint64
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range packets {
				n := r.IntN(1500) + 1
				if err := m.UpUDP.Reserve(context.Background(), n); err != nil {
					t.Error(err)
					return
				}
				m.UpUDP.Deliver(n, n)
				want[w] += uint64(n)
			}
		})
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		var last Reading
		for {
			select {
			case <-stop:
				return
			default:
			}
			r := m.Reading()
			if r.UpUDP < last.UpUDP || r.UpPackets < last.UpPackets {
				t.Errorf("went back from %+v to %+v", last, r)
				return
			}
			last = r
		}
	})
	wg.Wait()
	close(stop)
	readers.Wait()
	var sum uint64
	for _, n := range want {
		sum += n
	}
	if r := m.Reading(); r.UpUDP != sum || r.UpPackets != writers*packets {
		t.Errorf("got %d bytes in %d packets, want %d in %d", r.UpUDP, r.UpPackets, sum, writers*packets)
	}
}

// TestLimitHoldsUnderRaces lets many flows spend one limit: together they must
// never deliver more.
func TestLimitHoldsUnderRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 1_000_000
		m := New(Config{WeightUp: 1, WeightDown: 3, Limit: limit})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 20 {
			lane := []*Lane{m.UpTCP, m.DownTCP, m.UpUDP, m.DownUDP}[w%4]
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 2))
				for {
					n := r.IntN(2000) + 1
					if lane.Reserve(ctx, n) != nil {
						return
					}
					lane.Deliver(n, r.IntN(n+1))
				}
			})
		}
		synctest.Wait() // all wait for credit
		cancel()
		wg.Wait()
		r := m.Reading()
		if got := r.Up() + 3*r.Down(); got > limit || got < limit-3*2000 {
			t.Errorf("delivered %d weighted bytes of %d", got, limit)
		}
	})
}

func BenchmarkPacket(b *testing.B) {
	m := New(Config{WeightUp: 1, WeightDown: 1, Limit: 1 << 62})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := m.DownUDP.Reserve(ctx, 1228); err != nil {
			b.Fatal(err)
		}
		m.DownUDP.Deliver(1228, 1228)
	}
}

// TestReserveUpTo takes what is left, waits while that is nothing, and never goes
// past the limit.
func TestReserveUpTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{WeightUp: 3, WeightDown: 1, Limit: 10})
		for _, want := range []int{2, 1} {
			if n, err := m.UpTCP.ReserveUpTo(t.Context(), want); n != want || err != nil {
				t.Fatalf("%d, %v, want %d", n, err, want)
			}
			m.UpTCP.Deliver(want, want)
		}
		if n, err := m.DownTCP.ReserveUpTo(t.Context(), 5); n != 1 || err != nil {
			t.Fatalf("%d, %v of the last byte", n, err)
		}
		var got int
		var wg sync.WaitGroup
		wg.Go(func() { got, _ = m.UpTCP.ReserveUpTo(t.Context(), 100) })
		synctest.Wait()
		m.DownTCP.Deliver(1, 0) // one unit back, of three that are needed
		synctest.Wait()
		if got != 0 || !m.Blocked() {
			t.Errorf("%d bytes of nothing", got)
		}
		m.Extend(20) // 11 are left
		wg.Wait()
		if got != 3 {
			t.Errorf("%d bytes of 11 units, want 3", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := m.UpTCP.ReserveUpTo(ctx, 1); n != 0 || err == nil {
			t.Errorf("%d, %v with a context that has ended", n, err)
		}
		m.Close(errors.New("over"))
		if n, err := m.DownTCP.ReserveUpTo(t.Context(), 1); n != 0 || err == nil {
			t.Errorf("%d, %v after the end", n, err)
		}
		if n, err := New(Config{}).UpTCP.ReserveUpTo(t.Context(), 7); n != 7 || err != nil {
			t.Errorf("%d, %v where bytes weigh nothing", n, err)
		}
	})
}
