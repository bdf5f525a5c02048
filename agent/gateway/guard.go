package gateway

import (
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/depinsim/x402/tunnel"
)

const (
	// wrongMost is how many wrong passwords a source may show in wrongTime.
	wrongMost = 20
	wrongTime = time.Minute
	// maxSources bounds the sources that are remembered.
	maxSources = 1 << 14
)

// A guard remembers who shows wrong passwords. The zero guard is ready.
type guard struct {
	mu  sync.Mutex
	bad map[netip.Prefix]misses
}

// misses are a source's wrong passwords since a time.
type misses struct {
	since time.Time
	n     int
}

// shut says whether a source is to wait before it is heard again.
func (g *guard) shut(src netip.Prefix, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.bad[src]
	return m.n >= wrongMost && now.Sub(m.since) < wrongTime
}

// miss notes a wrong password.
func (g *guard) miss(src netip.Prefix, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, known := g.bad[src]
	if !known && len(g.bad) >= maxSources {
		makeRoom(g.bad, maxSources, func(m misses) bool { return now.Sub(m.since) >= wrongTime })
	}
	if now.Sub(m.since) >= wrongTime {
		m = misses{since: now}
	}
	m.n++
	if g.bad == nil {
		g.bad = map[netip.Prefix]misses{}
	}
	g.bad[src] = m
}

// makeRoom forgets those in m, which may hold most, whose time is over, and one in
// eight of the others if that is not enough: a flood from everywhere must not make
// the guard blind.
func makeRoom[K comparable, V any](m map[K]V, most int, over func(V) bool) {
	maps.DeleteFunc(m, func(_ K, v V) bool { return over(v) })
	for k := range m {
		if len(m) <= most*7/8 {
			return
		}
		delete(m, k)
	}
}

// A fairListener bounds the connections of each source.
type fairListener struct {
	net.Listener
	most int

	mu  sync.Mutex
	now map[netip.Prefix]int
}

func newFairListener(ln net.Listener, most int) *fairListener {
	return &fairListener{Listener: ln, most: most, now: map[netip.Prefix]int{}}
}

// Accept closes what is too much.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		a, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		src := tunnel.SourceOf(a.Addr())
		l.mu.Lock()
		full := l.now[src] >= l.most
		if !full {
			l.now[src]++
		}
		l.mu.Unlock()
		if full {
			_ = c.Close() // nothing was said
			continue
		}
		return &fairConn{Conn: c, left: sync.OnceFunc(func() { l.leave(src) })}, nil
	}
}

func (l *fairListener) leave(src netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now[src]--; l.now[src] == 0 {
		delete(l.now, src)
	}
}

// A fairConn gives its place back when it is closed.
type fairConn struct {
	net.Conn
	left func()
}

func (c *fairConn) Close() error {
	defer c.left()
	return c.Conn.Close()
}

// CloseWrite is for half-close; package proxy asks for it.
func (c *fairConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// SetLinger is for a reset.
func (c *fairConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}
