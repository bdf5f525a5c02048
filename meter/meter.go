// Package meter counts the bytes that a session relays and says when its
// credit is spent.
//
// A [Meter] has one [Lane] for each direction and kind of flow. Whoever relays
// a packet first reserves its length, which waits while the credit is spent,
// then delivers it, then tells the lane how much arrived; the rest of the
// reservation is given back. Only delivered bytes are counted, each once.
//
// A meter does no I/O and knows neither prices nor time: its limit is in
// weighted bytes, and its owner says what a byte of each direction weighs.
package meter

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// PacketOverhead is what a UDP packet is counted on top of its payload: an
// IPv4 header (RFC 791 §3.1, 20 bytes) and a UDP header (RFC 768, 8 bytes).
const PacketOverhead = 28

// ErrClosed is what Reserve returns after Close(nil).
var ErrClosed = errors.New("meter: closed")

// Config says how a meter starts.
type Config struct {
	// Base is where the totals start: the last durable reading.
	Base Reading
	// WeightUp and WeightDown are what one byte of each direction takes from
	// the limit. A direction with weight zero is never held back by it.
	WeightUp, WeightDown uint64
	// Limit is the first limit, in weighted bytes since the meter was made.
	Limit uint64
}

// A Reading is a set of running totals in bytes and, for UDP, packets. UDP
// bytes include [PacketOverhead] for each packet.
type Reading struct {
	UpTCP, DownTCP         uint64
	UpUDP, DownUDP         uint64
	UpPackets, DownPackets uint64
}

// Up is all bytes from the buyer towards the target.
func (r Reading) Up() uint64 { return r.UpTCP + r.UpUDP }

// Down is all bytes from the target towards the buyer.
func (r Reading) Down() uint64 { return r.DownTCP + r.DownUDP }

// Sub returns what was counted between the earlier reading o and r.
func (r Reading) Sub(o Reading) Reading {
	return Reading{
		UpTCP: r.UpTCP - o.UpTCP, DownTCP: r.DownTCP - o.DownTCP,
		UpUDP: r.UpUDP - o.UpUDP, DownUDP: r.DownUDP - o.DownUDP,
		UpPackets: r.UpPackets - o.UpPackets, DownPackets: r.DownPackets - o.DownPackets,
	}
}

// A Meter counts one session. It is safe for concurrent use.
type Meter struct {
	UpTCP, DownTCP, UpUDP, DownUDP *Lane

	limit   atomic.Uint64 // weighted; only rises
	spent   atomic.Uint64 // weighted; reserved or delivered
	waiting atomic.Int32  // goroutines in wait
	starved chan struct{} // one token: somebody began to wait; never closed

	mu     sync.Mutex
	wake   chan struct{} // closed and replaced when a waiter should look again
	closed error         // what Reserve returns from now on
}

// New returns a meter that starts at c.Base with c.Limit to spend.
func New(c Config) *Meter {
	m := &Meter{wake: make(chan struct{}), starved: make(chan struct{}, 1)}
	m.limit.Store(c.Limit)
	m.UpTCP = &Lane{m: m, weight: c.WeightUp, bytes: c.Base.UpTCP}
	m.DownTCP = &Lane{m: m, weight: c.WeightDown, bytes: c.Base.DownTCP}
	m.UpUDP = &Lane{m: m, weight: c.WeightUp, bytes: c.Base.UpUDP, packets: c.Base.UpPackets}
	m.DownUDP = &Lane{m: m, weight: c.WeightDown, bytes: c.Base.DownUDP, packets: c.Base.DownPackets}
	return m
}

// Reading returns the totals now. Each total never falls from one reading to
// the next.
func (m *Meter) Reading() Reading {
	var r Reading
	r.UpTCP, _ = m.UpTCP.total()
	r.DownTCP, _ = m.DownTCP.total()
	r.UpUDP, r.UpPackets = m.UpUDP.total()
	r.DownUDP, r.DownPackets = m.DownUDP.total()
	return r
}

// Extend raises the limit to limit weighted bytes since the meter was made. A
// lower limit than the present one is ignored.
func (m *Meter) Extend(limit uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed == nil && limit > m.limit.Load() {
		m.limit.Store(limit)
		m.wakeLocked()
	}
}

// Blocked reports whether somebody is waiting for credit.
func (m *Meter) Blocked() bool { return m.waiting.Load() > 0 }

// Starved gets a token when somebody begins to wait for credit, so that the
// owner need not poll Blocked.
func (m *Meter) Starved() <-chan struct{} { return m.starved }

// Close makes every present and later Reserve return err, or [ErrClosed] when
// err is nil. The first Close counts.
func (m *Meter) Close(err error) {
	if err == nil {
		err = ErrClosed
	}
	m.mu.Lock()
	if m.closed == nil {
		m.closed = err
		m.limit.Store(0) // for good: Extend looks at closed
		m.wakeLocked()
	}
	m.mu.Unlock()
}

func (m *Meter) wakeWaiters() {
	if m.waiting.Load() == 0 {
		return
	}
	m.mu.Lock()
	m.wakeLocked()
	m.mu.Unlock()
}

func (m *Meter) wakeLocked() {
	close(m.wake)
	m.wake = make(chan struct{})
}

// take moves cost from the limit to spent if it fits.
func (m *Meter) take(cost uint64) bool {
	for {
		spent := m.spent.Load()
		after := spent + cost
		if after < spent || after > m.limit.Load() {
			return false
		}
		if m.spent.CompareAndSwap(spent, after) {
			return true
		}
	}
}

// takeSome is take of as many times weight as fit, at most n times.
func (m *Meter) takeSome(n int, weight uint64) int {
	for {
		spent, limit := m.spent.Load(), m.limit.Load()
		if spent >= limit {
			return 0
		}
		some := min(uint64(n), (limit-spent)/weight)
		if some == 0 || m.spent.CompareAndSwap(spent, spent+some*weight) {
			return int(some)
		}
	}
}

func (m *Meter) wait(ctx context.Context, cost uint64) error {
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	for {
		m.mu.Lock()
		wake, closed := m.wake, m.closed
		m.mu.Unlock()
		if closed != nil {
			return closed
		}
		if m.take(cost) { // the limit may have risen before wake was read
			return nil
		}
		select {
		case m.starved <- struct{}{}:
		default:
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// A Lane counts one direction of one kind of flow. It is safe for concurrent
// use.
type Lane struct {
	m      *Meter
	weight uint64

	// recent holds what was delivered since the totals below were brought up
	// to date: packets in the upper 20 bits, bytes in the lower 44. One atomic
	// addition counts both, which matters where a 64-bit atomic is a lock
	// (32-bit MIPS).
	recent atomic.Uint64

	mu      sync.Mutex
	bytes   uint64
	packets uint64
}

const (
	packetShift = 44
	bytesMask   = 1<<packetShift - 1
	fold        = 1 << 63 // packets reached half of their 20 bits
)

// Reserve sets n bytes aside. It waits while the credit is spent, and returns
// an error when ctx ends or the meter is closed.
func (l *Lane) Reserve(ctx context.Context, n int) error {
	cost := uint64(n) * l.weight
	switch {
	case l.weight == 0:
		return l.m.open()
	case l.m.take(cost):
		return nil
	default:
		return l.m.wait(ctx, cost)
	}
}

// ReserveUpTo sets aside up to n bytes, as many as the credit still covers, and
// returns how many. While that is none it waits like Reserve. n is above zero.
func (l *Lane) ReserveUpTo(ctx context.Context, n int) (int, error) {
	if l.weight == 0 {
		return n, l.m.open()
	}
	if some := l.m.takeSome(n, l.weight); some > 0 {
		return some, nil
	}
	if err := l.m.wait(ctx, l.weight); err != nil {
		return 0, err
	}
	return 1 + l.m.takeSome(n-1, l.weight), nil
}

func (m *Meter) open() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// Deliver counts delivered bytes as one packet and gives the rest of the
// reservation back. A delivery of zero bytes counts nothing.
func (l *Lane) Deliver(reserved, delivered int) {
	if back := reserved - delivered; back > 0 && l.weight != 0 {
		l.m.spent.Add(-uint64(back) * l.weight)
		l.m.wakeWaiters()
	}
	if delivered > 0 && l.recent.Add(1<<packetShift|uint64(delivered))&fold != 0 {
		l.total()
	}
}

// total brings the totals up to date and returns them.
func (l *Lane) total() (bytes, packets uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	recent := l.recent.Swap(0)
	l.bytes += recent & bytesMask
	l.packets += recent >> packetShift
	return l.bytes, l.packets
}
