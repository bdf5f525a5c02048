package server

import (
	"net/netip"
	"sync"
	"time"
)

// A Rate allows N of something per Per, and as many at once.
type Rate struct {
	N   int
	Per time.Duration
}

// maxSources bounds the sources that a limiter remembers.
const maxSources = 1 << 16

// A limiter is a token bucket for each source, kept as the time at which the
// bucket will be full again (the generic cell rate algorithm of ITU-T I.371).
type limiter struct {
	rate Rate

	mu   sync.Mutex
	full map[netip.Prefix]time.Time
}

func newLimiter(r Rate) *limiter { return &limiter{rate: r, full: map[netip.Prefix]time.Time{}} }

// allow takes one token of a source's.
func (l *limiter) allow(src netip.Prefix, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	full, known := l.full[src]
	if !known && len(l.full) >= maxSources {
		l.makeRoom(now)
	}
	full, ok := l.rate.take(full, now)
	l.full[src] = full
	return ok
}

// take takes one token of a bucket that is full at a time, and returns when it
// will be full.
func (r Rate) take(full, now time.Time) (time.Time, bool) {
	if full.Before(now) {
		full = now
	}
	next := full.Add(r.Per / time.Duration(r.N))
	if next.Sub(now) > r.Per {
		return full, false
	}
	return next, true
}

// makeRoom forgets sources whose bucket is full, and one in eight of the others
// if that is not enough: a flood from everywhere must not shut out newcomers.
func (l *limiter) makeRoom(now time.Time) {
	for src, full := range l.full {
		if !full.After(now) {
			delete(l.full, src)
		}
	}
	for src := range l.full {
		if len(l.full) <= maxSources*7/8 {
			return
		}
		delete(l.full, src)
	}
}

// A crowd counts what each source has open at the same time.
type crowd struct {
	each, all int

	mu    sync.Mutex
	total int
	by    map[netip.Prefix]int
}

func newCrowd(each, all int) *crowd { return &crowd{each: each, all: all, by: map[netip.Prefix]int{}} }

// enter takes a place for a source, which leave gives back.
func (c *crowd) enter(src netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= c.all || c.by[src] >= c.each {
		return false
	}
	c.total++
	c.by[src]++
	return true
}

func (c *crowd) leave(src netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.by[src]--; c.by[src] <= 0 {
		delete(c.by, src)
	}
}

// count is how many are in.
func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}
