package tunnel

import (
	"context"
	"io"
	"os"
	"sync"
	"time"
)

// A queue holds what a flow received until its application reads it. One
// goroutine pushes, one reads. What it holds is counted in whole buffers, so
// that a peer that sends single bytes cannot make it hold more than it says.
type queue struct {
	store *store
	// steer asks the agent to pause the flow or to go on. It is called locked
	// and does not wait. Nil for datagrams.
	steer func(pause bool)
	news  chan struct{} // one token: look again; never closed

	mu        sync.Mutex
	chunks    []*chunk // unread from head on
	head      int
	held      int           // bytes of the buffers in chunks
	paused    int           // what was held when the agent was asked to pause; 0: it was not
	err       error         // set once, behind the last chunk
	discarded bool          // the application has gone: push drops
	below     chan struct{} // non-nil: closed when less than belowAt is held
	belowAt   int

	expired   bool // the read deadline has passed
	timer     *time.Timer
	deadlines int // counts setDeadline, so that a late timer is told apart
}

func newQueue(s *store, steer func(pause bool)) *queue {
	return &queue{store: s, steer: steer, news: make(chan struct{}, 1)}
}

func (q *queue) signal() {
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// push appends c, which the queue owns from now on. If more than full is held
// then, the agent is asked to pause, and to go on when half has been read.
func (q *queue) push(c *chunk, full int) (held int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.discarded {
		q.store.put(c)
		return 0
	}
	if last := len(q.chunks) - 1; last >= q.head && q.chunks[last].take(c) {
		q.store.put(c)
	} else {
		q.append(c)
	}
	if q.paused == 0 && q.held > full {
		q.paused = q.held
		q.steer(true)
	}
	return q.held
}

// take moves c's bytes behind t's own, if there is room for all of them.
func (t *chunk) take(c *chunk) bool {
	if len(t.buf)-t.to < c.to-c.from {
		return false
	}
	t.to += copy(t.buf[t.to:], c.buf[c.from:c.to])
	return true
}

// pushPacket appends a datagram, which the queue owns from now on, unless
// limit packets are held.
func (q *queue) pushPacket(b []byte, limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.discarded || len(q.chunks)-q.head >= limit {
		return false
	}
	q.append(q.store.wrap(b))
	return true
}

func (q *queue) append(c *chunk) {
	if len(q.chunks) == cap(q.chunks) && 2*q.head > len(q.chunks) { // use the room in front
		n := copy(q.chunks, q.chunks[q.head:])
		clear(q.chunks[n:])
		q.chunks, q.head = q.chunks[:n], 0
	}
	q.chunks = append(q.chunks, c)
	q.held += len(c.buf)
	q.store.held.Add(int64(len(c.buf)))
	q.signal()
}

// fail ends the queue: err is returned when all chunks have been read.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.signal()
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

// shift takes the first chunk out. It is called locked.
func (q *queue) shift() *chunk {
	c := q.chunks[q.head]
	q.chunks[q.head] = nil
	if q.head++; q.head == len(q.chunks) {
		q.chunks, q.head = q.chunks[:0], 0
	}
	q.held -= len(c.buf)
	q.store.held.Add(-int64(len(c.buf)))
	if q.below != nil && q.held < q.belowAt {
		close(q.below)
		q.below = nil
	}
	if q.paused > 0 && q.held <= q.paused/2 && !q.discarded {
		q.paused = 0
		q.steer(false)
	}
	return c
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
		case q.head < len(q.chunks):
			return nil
		case q.err != nil:
			err := q.err
			q.mu.Unlock()
			return err
		}
		q.mu.Unlock()
		<-q.news
	}
}

// pop returns the next chunk; the caller puts it back.
func (q *queue) pop() (*chunk, error) {
	if err := q.wait(); err != nil {
		return nil, err
	}
	defer q.mu.Unlock()
	return q.shift(), nil
}

func (q *queue) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := q.wait(); err != nil {
		return 0, err
	}
	defer q.mu.Unlock()
	c := q.chunks[q.head]
	n := copy(p, c.buf[c.from:c.to])
	if c.from += n; c.from == c.to {
		q.store.put(q.shift())
	}
	return n, nil
}

// discard drops all chunks, present and future. It reports whether the end
// had been pushed already.
func (q *queue) discard() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.discarded = true // before shift, which asks for no more then
	for q.head < len(q.chunks) {
		q.store.put(q.shift())
	}
	if q.below != nil {
		close(q.below)
		q.below = nil
	}
	q.setTimer(time.Time{})
	q.signal()
	return q.err != nil
}

// setDeadline makes reads fail from t on; the zero time takes that back.
func (q *queue) setDeadline(t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.discarded {
		q.setTimer(t)
	}
}

func (q *queue) setTimer(t time.Time) {
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	q.deadlines++
	q.expired = !t.IsZero() && time.Until(t) <= 0
	switch {
	case q.expired:
		q.signal()
	case !t.IsZero():
		set := q.deadlines
		q.timer = time.AfterFunc(time.Until(t), func() { q.expire(set) })
	}
}

func (q *queue) expire(set int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if set == q.deadlines {
		q.expired = true
		q.signal()
	}
}
