package tunneltest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// cableCapacity is what a direction of a [Cable] takes before its writer waits:
// what a TCP connection has under way and in its buffers.
const cableCapacity = 4 << 20

// Cable returns two ends of a connection whose bytes take delay to arrive, as
// over TCP.
func Cable(delay time.Duration) (a, b *CableEnd) {
	up, down := &lane{delay: delay, changed: make(chan struct{})}, &lane{delay: delay, changed: make(chan struct{})}
	return &CableEnd{in: down, out: up}, &CableEnd{in: up, out: down}
}

// A CableEnd is one end of a [Cable]. It implements net.Conn.
type CableEnd struct{ in, out *lane }

// lane is one direction.
type lane struct {
	delay time.Duration

	mu       sync.Mutex
	queue    []segment
	held     int
	err      error         // for the reader, behind the queue
	broken   error         // for the writer
	cut      bool          // what is written from now on vanishes
	changed  chan struct{} // closed and replaced at every change
	deadline [2]time.Time  // read, write
}

type segment struct {
	at time.Time
	b  []byte
}

func (l *lane) update(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// await waits until ready says so; it names the time when to ask again, or
// none, and is called locked.
func (l *lane) await(side int, ready func(now time.Time) (done bool, again time.Time, err error)) error {
	for {
		now := time.Now()
		l.mu.Lock()
		done, again, err := ready(now)
		changed, until := l.changed, l.deadline[side]
		if done {
			close(l.changed)
			l.changed = make(chan struct{})
		}
		l.mu.Unlock()
		switch {
		case done || err != nil:
			return err
		case !until.IsZero() && !now.Before(until):
			return os.ErrDeadlineExceeded
		case again.IsZero() || !until.IsZero() && until.Before(again):
			again = until
		}
		var alarm <-chan time.Time
		if !again.IsZero() {
			t := time.NewTimer(time.Until(again))
			defer t.Stop()
			alarm = t.C
		}
		select {
		case <-changed:
		case <-alarm:
		}
	}
}

// Read implements net.Conn.
func (c *CableEnd) Read(p []byte) (n int, err error) {
	l := c.in
	err = l.await(0, func(now time.Time) (bool, time.Time, error) {
		for n < len(p) && len(l.queue) > 0 && !l.queue[0].at.After(now) {
			k := copy(p[n:], l.queue[0].b)
			n += k
			l.held -= k
			if l.queue[0].b = l.queue[0].b[k:]; len(l.queue[0].b) == 0 {
				l.queue[0] = segment{} // which tests of memory would find
				l.queue = l.queue[1:]
			}
		}
		switch {
		case n > 0 || len(p) == 0:
			return true, time.Time{}, nil
		case len(l.queue) > 0:
			return false, l.queue[0].at, nil
		}
		return false, time.Time{}, l.err
	})
	return n, err
}

// Write implements net.Conn.
func (c *CableEnd) Write(p []byte) (n int, err error) {
	l := c.out
	for n < len(p) && err == nil {
		err = l.await(1, func(now time.Time) (bool, time.Time, error) {
			if l.broken != nil {
				return false, time.Time{}, l.broken
			}
			k := min(cableCapacity-l.held, len(p)-n)
			if k == 0 {
				return false, time.Time{}, nil
			}
			if !l.cut {
				l.queue = append(l.queue, segment{now.Add(l.delay), append([]byte(nil), p[n:n+k]...)})
				l.held += k
			}
			n += k
			return true, time.Time{}, nil
		})
	}
	return n, err
}

// Cut makes both directions swallow what is written from now on.
func (c *CableEnd) Cut() {
	c.in.update(func() { c.in.cut = true })
	c.out.update(func() { c.out.cut = true })
}

// Close ends both directions; what was written still arrives.
func (c *CableEnd) Close() error {
	c.in.update(func() { c.in.queue, c.in.err, c.in.broken = nil, net.ErrClosed, net.ErrClosed })
	c.out.update(func() {
		if c.out.broken = net.ErrClosed; c.out.err == nil && !c.out.cut {
			c.out.err = io.EOF
		}
	})
	return nil
}

// SetDeadline implements net.Conn.
func (c *CableEnd) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *CableEnd) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.deadline[0] = t })
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *CableEnd) SetWriteDeadline(t time.Time) error {
	c.out.update(func() { c.out.deadline[1] = t })
	return nil
}

// LocalAddr and RemoteAddr name no place.
func (c *CableEnd) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (c *CableEnd) RemoteAddr() net.Addr { return &net.TCPAddr{} }
