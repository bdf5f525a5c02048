// Package tunneltest plays the internet behind an agent, in memory, so that
// tests of flows can run in simulated time.
package tunneltest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// capacity is what each direction holds before its writer waits, like the
// buffers of a TCP socket.
const capacity = 64 << 10

// Pipe returns two ends of a connection that behaves like TCP: writes are
// buffered, each direction can be closed on its own, and closing an end after
// SetLinger(0), or with unread data, resets the other.
func Pipe() (a, b *Conn) {
	up, down := newHalf(), newHalf()
	return &Conn{in: down, out: up}, &Conn{in: up, out: down}
}

// A Conn is one end of a [Pipe].
type Conn struct {
	in, out *half

	mu     sync.Mutex
	linger bool // reset on close
}

// half is one direction.
type half struct {
	mu       sync.Mutex
	buf      []byte
	err      error         // for the reader, behind buf
	broken   error         // for the writer, at once
	changed  chan struct{} // closed and replaced at every change
	deadline [2]time.Time  // read, write
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.changed)
	h.changed = make(chan struct{})
}

// await waits until ready says done, under the lock.
func (h *half) await(side int, ready func() (done bool, err error)) error {
	for {
		h.mu.Lock()
		done, err := ready()
		changed, until := h.changed, h.deadline[side]
		if done || err != nil {
			if done {
				close(h.changed)
				h.changed = make(chan struct{})
			}
			h.mu.Unlock()
			return err
		}
		h.mu.Unlock()
		var expired <-chan time.Time
		if !until.IsZero() {
			t := time.NewTimer(time.Until(until))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-changed:
		case <-expired:
			return os.ErrDeadlineExceeded
		}
	}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (n int, err error) {
	h := c.in
	err = h.await(0, func() (bool, error) {
		if len(h.buf) > 0 {
			n = copy(p, h.buf)
			if h.buf = h.buf[n:]; len(h.buf) == 0 {
				h.buf = nil // an idle one holds no memory, which tests measure
			}
			return true, nil
		}
		return false, h.err
	})
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (n int, err error) {
	h := c.out
	for n < len(p) {
		err = h.await(1, func() (bool, error) {
			if h.broken != nil {
				return false, h.broken
			}
			k := min(capacity-len(h.buf), len(p)-n)
			h.buf = append(h.buf, p[n:n+k]...)
			n += k
			return k > 0, nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// CloseWrite ends the sending direction in order.
func (c *Conn) CloseWrite() error {
	c.out.update(func() {
		if c.out.err == nil {
			c.out.err = io.EOF
		}
		c.out.broken = net.ErrClosed
	})
	return nil
}

// SetLinger with zero makes Close a reset.
func (c *Conn) SetLinger(sec int) error {
	c.mu.Lock()
	c.linger = sec == 0
	c.mu.Unlock()
	return nil
}

// Close ends both directions.
func (c *Conn) Close() error {
	c.mu.Lock()
	reset := c.linger
	c.mu.Unlock()
	c.in.update(func() {
		if errors.Is(c.in.err, net.ErrClosed) {
			reset = false // closed before
			return
		}
		reset = reset || len(c.in.buf) > 0
		c.in.buf, c.in.err, c.in.broken = nil, net.ErrClosed, syscall.EPIPE
	})
	c.out.update(func() {
		switch {
		case reset:
			c.out.buf, c.out.err = nil, syscall.ECONNRESET
		case c.out.err == nil:
			c.out.err = io.EOF
		}
		c.out.broken = net.ErrClosed
	})
	if reset {
		c.in.update(func() { c.in.broken = syscall.ECONNRESET })
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.deadline[0] = t })
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.update(func() { c.out.deadline[1] = t })
	return nil
}

// LocalAddr and RemoteAddr name no place.
func (c *Conn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (c *Conn) RemoteAddr() net.Addr { return &net.TCPAddr{} }
