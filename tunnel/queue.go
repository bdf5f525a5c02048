package tunnel

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A queue holds what a flow received until its application reads it. One
// goroutine pushes, one reads.
type queue struct {
	store *store

	mu        sync.Mutex
	chunks    [][]byte
	held      int
	err       error         // set once, behind the last chunk
	discarded bool          // the application has gone: push drops
	expired   bool          // the read deadline has passed
	news      chan struct{} // one token: look again
	half      func()        // called when held is at most halfAt
	halfAt    int
	below     chan struct{} // non-nil: closed when held falls below belowAt
	belowAt   int

	timer deadline
}

func newQueue(s *store) *queue { return &queue{store: s, news: make(chan struct{}, 1)} }

func (q *queue) signal() {
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// push appends b, which the queue owns from now on, and returns what is held.
func (q *queue) push(b []byte) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.discarded {
		q.store.put(b)
		return 0
	}
	q.chunks = append(q.chunks, b)
	q.held += len(b)
	q.store.held.Add(int64(len(b)))
	q.signal()
	return q.held
}

// fail ends the queue: err is returned when all chunks have been read.
func (q *queue) fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.signal()
}

// whenHalf calls f once, when half of what is held now has been read.
func (q *queue) whenHalf(f func()) {
	q.mu.Lock()
	q.half, q.halfAt = f, q.held/2
	q.mu.Unlock()
}

func (q *queue) waitsForHalf() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.half != nil
}

// waitBelow waits until less than n bytes are held.
func (q *queue) waitBelow(ctx context.Context, n int) error {
	q.mu.Lock()
	if q.held < n || q.discarded {
		q.mu.Unlock()
		return nil
	}
	below := make(chan struct{})
	q.below, q.belowAt = below, n
	q.mu.Unlock()
	select {
	case <-below:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// took is called, locked, when n bytes left the queue. It returns what to call
// after unlocking.
func (q *queue) took(n int) func() {
	q.held -= n
	q.store.held.Add(-int64(n))
	if q.below != nil && q.held < q.belowAt {
		close(q.below)
		q.below = nil
	}
	if q.half != nil && q.held <= q.halfAt {
		f := q.half
		q.half = nil
		return f
	}
	return func() {}
}

// wait returns, locked, when there is a chunk, or with an error, unlocked.
func (q *queue) wait() error {
	for {
		q.mu.Lock()
		switch {
		case q.discarded:
			q.mu.Unlock()
			return io.ErrClosedPipe
		case q.expired:
			q.mu.Unlock()
			return os.ErrDeadlineExceeded
		case len(q.chunks) > 0:
			return nil
		case q.err != nil:
			err := q.err
			q.mu.Unlock()
			q.signal() // for the next call
			return err
		}
		q.mu.Unlock()
		<-q.news
	}
}

// pop returns the next chunk; the caller puts its buffer back.
func (q *queue) pop() ([]byte, error) {
	if err := q.wait(); err != nil {
		return nil, err
	}
	b := q.chunks[0]
	q.chunks[0] = nil
	q.chunks = q.chunks[1:]
	after := q.took(len(b))
	q.mu.Unlock()
	after()
	return b, nil
}

func (q *queue) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := q.wait(); err != nil {
		return 0, err
	}
	b := q.chunks[0]
	n := copy(p, b)
	if n == len(b) {
		q.store.put(b)
		q.chunks[0] = nil
		q.chunks = q.chunks[1:]
	} else {
		q.chunks[0] = b[n:]
	}
	after := q.took(n)
	q.mu.Unlock()
	after()
	return n, nil
}

// discard drops all chunks, present and future. It reports whether the end
// had been pushed already.
func (q *queue) discard() bool {
	q.mu.Lock()
	q.discarded = true
	for _, b := range q.chunks {
		q.store.put(b)
	}
	q.chunks = nil
	q.half = nil // the flow is being cancelled: nothing to resume
	q.took(q.held)
	ended := q.err != nil
	q.mu.Unlock()
	q.timer.stop()
	q.signal()
	return ended
}

func (q *queue) setDeadline(t time.Time) {
	q.mu.Lock()
	q.expired = false
	q.mu.Unlock()
	q.timer.set(t, func() {
		q.mu.Lock()
		q.expired = true
		q.mu.Unlock()
		q.signal()
	})
}

// A store keeps the buffers of a client's flows.
type store struct {
	held  atomic.Int64 // bytes in queues
	spare [4]sync.Pool // of *[]byte, by size: minBuffer doubled up to maxBuffer
}

func sizeClass(size int) int {
	class := 0
	for s := minBuffer; s < size; s *= 2 {
		class++
	}
	return class
}

func (s *store) get(size int) []byte {
	if b, ok := s.spare[sizeClass(size)].Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, size)
}

// put takes back a buffer of get, however it was sliced, if its whole capacity
// is still behind it.
func (s *store) put(b []byte) {
	size := cap(b)
	if size < minBuffer || size > maxBuffer || size&(size-1) != 0 {
		return
	}
	b = b[:size]
	s.spare[sizeClass(size)].Put(&b)
}
