package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// put pushes b in a chunk of its own.
func put(q *queue, b []byte, full int) int {
	class := 0
	for minBuffer<<class < len(b) {
		class++
	}
	c := q.store.get(class)
	c.to = copy(c.buf, b)
	return q.push(c, full)
}

func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(new(store), func(bool) {})
		want := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{1}).Read(want)
		var wg sync.WaitGroup
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, 1))
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+r.IntN(maxBuffer))
				put(q, rest[:n], never)
				rest = rest[n:]
				if r.IntN(4) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			q.fail(io.EOF)
			q.fail(io.ErrUnexpectedEOF) // the first counts
		})
		var got []byte
		r := rand.New(rand.NewPCG(2, 2))
		b := make([]byte, 50_000)
		for {
			n, err := q.read(b[:1+r.IntN(len(b)-1)])
			got = append(got, b[:n]...)
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		wg.Wait()
		if !bytes.Equal(got, want) {
			t.Error("what was read differs")
		}
		if held := q.store.held.Load(); held != 0 {
			t.Errorf("%d bytes are held", held)
		}
		if _, err := q.pop(); err != io.EOF {
			t.Errorf("again: %v", err)
		}
	})
}

const never = 1 << 30

// TestQueueOfSingleBytes holds what single bytes cost to what is said.
func TestQueueOfSingleBytes(t *testing.T) {
	q := newQueue(new(store), func(bool) {})
	for range 100_000 {
		put(q, []byte{7}, never)
	}
	if held := q.store.held.Load(); held > 100_000+minBuffer {
		t.Errorf("100000 bytes hold %d", held)
	}
	n, err := io.CopyN(io.Discard, readerFunc(q.read), 100_000)
	if n != 100_000 || err != nil {
		t.Errorf("%d %v", n, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestQueueSteers pauses once when it is over full, resumes once at half, and
// never while it is empty of anything to come.
func TestQueueSteers(t *testing.T) {
	var orders []bool
	q := newQueue(new(store), func(pause bool) { orders = append(orders, pause) })
	chunk := make([]byte, minBuffer)
	for range 4 {
		put(q, chunk, 2*minBuffer)
	}
	if len(orders) != 1 || !orders[0] {
		t.Fatalf("orders %v, want a pause", orders)
	}
	q.read(chunk) // 3 of 4 left: paused at 3, half is 1
	q.read(chunk)
	if len(orders) != 1 {
		t.Fatalf("orders %v before half", orders)
	}
	q.read(chunk)
	if len(orders) != 2 || orders[1] {
		t.Fatalf("orders %v, want a resume", orders)
	}
	q.read(chunk)
	put(q, chunk, 0)
	q.read(chunk)
	if len(orders) != 4 || !orders[2] || orders[3] {
		t.Errorf("orders %v, want pause and resume", orders)
	}
	put(q, chunk, 0)
	q.discard() // the flow is cancelled: no resume
	if len(orders) != 5 {
		t.Errorf("orders %v", orders)
	}
	if held := q.store.held.Load(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
	if put(q, chunk, 0) != 0 || len(orders) != 5 {
		t.Error("a discarded queue takes more")
	}
}

func TestQueueDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(new(store), func(bool) {})
		b := make([]byte, 1)
		start := time.Now()
		q.setDeadline(start.Add(time.Second))
		if _, err := q.read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if _, err := q.read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("again: %v", err)
		}
		put(q, []byte{1, 2}, never)
		if _, err := q.read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("with data: %v", err)
		}
		q.setDeadline(time.Time{})
		if n, err := q.read(b); n != 1 || err != nil {
			t.Errorf("without a deadline: %d %v", n, err)
		}
		q.setDeadline(time.Now().Add(-time.Second))
		if _, err := q.read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("in the past: %v", err)
		}
		q.setDeadline(time.Now().Add(time.Minute))
		if n, err := q.read(b); n != 1 || err != nil {
			t.Errorf("in the future: %d %v", n, err)
		}
		// A timer that is late does not undo a newer deadline.
		set := q.deadlines
		q.setDeadline(time.Time{})
		q.expire(set)
		put(q, []byte{3}, never)
		if n, err := q.read(b); n != 1 || err != nil {
			t.Errorf("after a late timer: %d %v", n, err)
		}
		q.setDeadline(time.Now().Add(time.Hour))
		q.discard() // which leaves no timer
		if _, err := q.read(b); err == nil {
			t.Error("a discarded queue is read")
		}
	})
}

func TestQueueWaitBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(new(store), func(bool) {})
		if err := q.waitBelow(t.Context(), 1); err != nil {
			t.Error(err)
		}
		chunk := make([]byte, minBuffer)
		for range 3 {
			put(q, chunk, never)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.waitBelow(ctx, 2*minBuffer); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody reads: %v", err)
		}
		for _, free := range []func(){func() { q.read(chunk); q.read(chunk) }, func() { q.discard() }} {
			var wg sync.WaitGroup
			done := false
			wg.Go(func() {
				if err := q.waitBelow(t.Context(), 2*minBuffer); err != nil {
					t.Error(err)
				}
				done = true
			})
			synctest.Wait()
			if done {
				t.Error("does not wait")
			}
			free()
			wg.Wait()
			put(q, chunk, never)
			put(q, chunk, never)
		}
	})
}

func TestQueueOfPackets(t *testing.T) {
	q := newQueue(new(store), nil)
	for i := range 5 {
		if got := q.pushPacket(bytes.Repeat([]byte{byte(i)}, i), 4); got != (i < 4) {
			t.Errorf("packet %d of 4: %v", i, got)
		}
	}
	for i := range 4 { // each by itself, the empty one too
		c, err := q.pop()
		if err != nil || c.to != i || !bytes.Equal(c.buf, bytes.Repeat([]byte{byte(i)}, i)) {
			t.Errorf("packet %d: %+v %v", i, c, err)
		}
		q.store.put(c)
	}
	if held := q.store.held.Load(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
}

// TestQueueAllocates nothing when it runs steadily, however far behind the
// reader is.
func TestQueueAllocatesNothing(t *testing.T) {
	for _, behind := range []int{0, 1, 7, 100} {
		q := newQueue(new(store), func(bool) {})
		chunk := make([]byte, minBuffer)
		for range behind {
			put(q, chunk, never)
		}
		n := testing.AllocsPerRun(1000, func() {
			put(q, chunk, never)
			q.read(chunk)
		})
		if n > 0.1 { // a collection may empty the pools
			t.Errorf("%d behind: %.2f allocations a chunk", behind, n)
		}
	}
}
