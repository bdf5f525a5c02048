package tunneltest

import (
	"context"
	"sync"
)

// A Counter counts one session and holds it back at a limit, as a meter does.
// It is safe for concurrent use.
type Counter struct {
	UpTCP, DownTCP, UpUDP, DownUDP *Lane

	mu      sync.Mutex
	changed *sync.Cond
	limit   uint64
	spent   uint64 // reserved or delivered
	closed  error
}

// NewCounter returns a counter that lets limit bytes pass.
func NewCounter(limit uint64) *Counter {
	c := &Counter{limit: limit}
	c.changed = sync.NewCond(&c.mu)
	c.UpTCP, c.DownTCP, c.UpUDP, c.DownUDP = &Lane{c: c}, &Lane{c: c}, &Lane{c: c}, &Lane{c: c}
	return c
}

// Extend lets n more bytes pass.
func (c *Counter) Extend(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit += n
	c.changed.Broadcast()
}

// Close makes Reserve return err.
func (c *Counter) Close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = err
	c.changed.Broadcast()
}

// Totals are delivered bytes.
type Totals struct{ UpTCP, DownTCP, UpUDP, DownUDP uint64 }

// Totals returns what has been delivered so far.
func (c *Counter) Totals() Totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Totals{c.UpTCP.delivered, c.DownTCP.delivered, c.UpUDP.delivered, c.DownUDP.delivered}
}

// Outstanding is what is reserved and not delivered.
func (c *Counter) Outstanding() uint64 {
	t := c.Totals()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spent - t.UpTCP - t.DownTCP - t.UpUDP - t.DownUDP
}

// A Lane is one direction and kind of a [Counter]. It implements tunnel.Lane.
type Lane struct {
	c         *Counter
	delivered uint64
}

// Reserve waits while n bytes are more than the limit leaves.
func (l *Lane) Reserve(ctx context.Context, n int) error {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil && c.spent+uint64(n) > c.limit {
		defer context.AfterFunc(ctx, c.wake)()
	}
	for c.closed == nil && c.spent+uint64(n) > c.limit {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.changed.Wait()
	}
	if c.closed != nil {
		return c.closed
	}
	c.spent += uint64(n)
	return nil
}

func (c *Counter) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed.Broadcast()
}

// Deliver counts delivered bytes and gives the rest of the reservation back.
func (l *Lane) Deliver(reserved, delivered int) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.delivered += uint64(delivered)
	l.c.spent -= uint64(reserved - delivered)
	l.c.changed.Broadcast()
}
