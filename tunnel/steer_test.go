package tunnel

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		if err := g.pass(t.Context()); err != nil {
			t.Error(err)
		}
		g.shut()
		g.shut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.pass(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shut: %v", err)
		}
		for _, open := range []func(){g.open, g.remove} {
			g.shut()
			var wg sync.WaitGroup
			passed := false
			wg.Go(func() {
				if err := g.pass(t.Context()); err != nil {
					t.Error(err)
				}
				passed = true
			})
			synctest.Wait()
			if passed {
				t.Error("passed a shut gate")
			}
			open()
			wg.Wait()
		}
		g.shut() // a pause that comes behind a cancel
		if err := g.pass(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestOrders gives orders from many goroutines to a slow stream: the last for
// each stream is sent, nothing behind a cancel.
func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		sent := make(map[uint64]uint64)
		count := 0
		o := orders{start: wg.Go, send: func(typ, id uint64) error {
			time.Sleep(time.Second)
			if sent[id] == capsuleCancel && typ != capsuleCancel {
				t.Errorf("order %#x behind a cancel", typ)
			}
			sent[id] = typ
			count++
			return nil
		}}
		const flows = 20
		var givers sync.WaitGroup
		for id := range uint64(flows) {
			givers.Go(func() {
				r := rand.New(rand.NewPCG(id, 1))
				for range 100 {
					o.give(capsulePause, id)
					time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
					o.give(capsuleResume, id)
				}
				if id%2 == 0 {
					o.give(capsuleCancel, id)
				}
			})
		}
		start := time.Now()
		o.give(capsulePause, 999)
		if time.Since(start) > 0 {
			t.Error("giving an order waits")
		}
		givers.Wait()
		wg.Wait()
		for id := range uint64(flows) {
			want := uint64(capsuleResume)
			if id%2 == 0 {
				want = capsuleCancel
			}
			if sent[id] != want {
				t.Errorf("stream %d was last told %#x, want %#x", id, sent[id], want)
			}
		}
		if count > 20*200/4 {
			t.Errorf("%d orders sent: they do not replace each other", count)
		}
	})
}

func TestOrdersToADeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		calls := 0
		o := orders{start: wg.Go, send: func(typ, id uint64) error {
			time.Sleep(time.Second)
			calls++
			return errors.New("gone")
		}}
		for id := range uint64(1000) {
			o.give(capsuleCancel, id)
		}
		wg.Wait()
		if calls > 2 {
			t.Errorf("%d attempts", calls)
		}
		if len(o.waiting) != 0 || o.sending {
			t.Errorf("%d orders are left", len(o.waiting))
		}
	})
}

func TestRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r running
		if err := r.wait(t.Context()); err != nil {
			t.Error(err)
		}
		r.add()
		r.add()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.wait(ctx); !errors.Is(err, context.DeadlineExceeded) || r.count() != 2 {
			t.Errorf("%v, %d", err, r.count())
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := r.wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		r.done()
		r.done()
		wg.Wait()
	})
}
