package h2

import (
	"encoding/binary"
	"time"
)

// Windows of flow control, as over QUIC: asymmetric, since stalled streams sit
// on the receiving side. The buyer's connection window covers 256 stalled
// streams at their first window; the agent's covers 64 stalled uploads.
const (
	agentStream, agentStreamMax = 128 << 10, 1 << 20
	agentConn                   = 8 << 20
	buyerStream, buyerStreamMax = 512 << 10, 6 << 20
	buyerConn                   = 128 << 20

	defaultWindow = 65535 // what each begins with, RFC 9113 §6.9.2
)

// windows are the connection's; the link's mutex guards them.
type windows struct {
	initial, most, conn int // of streams here, at first and at most; of the connection here

	left   int // what the peer may still send
	unsent int // was read and is not yet given back
	lent   int // sum of the windows of the streams here

	send        int64 // what may be sent
	sendInitial int64 // on a new stream
	maxStreams  int   // how many the peer takes
}

func newWindows(client bool) windows {
	w := windows{initial: agentStream, most: agentStreamMax, conn: agentConn}
	if client {
		w = windows{initial: buyerStream, most: buyerStreamMax, conn: buyerConn}
	}
	w.left = defaultWindow // the agent's, for a stranger; see trust
	if client {
		w.left = w.conn
	}
	w.send, w.sendInitial = defaultWindow, defaultWindow
	w.maxStreams = 100 // until its SETTINGS come; RFC 9113 §6.5.2 recommends no less
	return w
}

// trust opens the connection's window to a buyer who is no stranger any more.
func (l *link) trust() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trusted {
		return
	}
	l.trusted = true
	more := l.window.conn - defaultWindow
	l.window.left += more
	l.control = appendWindow(l.control, 0, uint32(more))
	l.wakeUp()
}

// giveBack lets the peer send n more bytes on the connection. It is called
// locked.
func (l *link) giveBack(n int) {
	w := &l.window
	if w.unsent += n; w.unsent < min(w.conn/4, 256<<10) {
		return
	}
	l.reply(appendWindow(nil, 0, uint32(w.unsent)))
	w.left += w.unsent
	w.unsent = 0
}

// reply queues a frame that something of the peer's calls for. It is called
// locked.
func (l *link) reply(frame []byte) {
	l.control = append(l.control, frame...)
	l.owed += len(frame)
	l.wakeUp()
}

// A grower decides about the window of one stream: it doubles when less than
// four round trips fill it, as in quic-go's flow control; but not when all
// windows together would take more than a quarter of the connection's, since a few
// streams that were fast and then stall would freeze all others.
type grower struct {
	size  int // the window now
	since time.Time
	read  int // since then
}

// consumed counts n bytes that were read.
func (g *grower) consumed(n int, w *windows, r *rtt) {
	if g.read += n; g.read <= g.size/2 {
		return
	}
	now := time.Now()
	more := min(g.size, w.most-g.size)
	if w.lent+more <= w.conn/4 && r.last > 0 && now.Sub(g.since) < 4*r.last*time.Duration(g.read)/time.Duration(g.size) {
		g.size += more
		w.lent += more
	}
	g.since, g.read = now, 0
}

// An rtt measures round trips by PING frames. The link's mutex guards it.
type rtt struct {
	heard time.Time // the newest frame
	last  time.Duration
	sent  time.Time // the newest PING
	count uint64    // of PINGs
}

// ping appends a PING.
func (r *rtt) ping(b []byte, now time.Time) []byte {
	r.sent = now
	r.count++
	return appendPing(b, 0, binary.BigEndian.AppendUint64(nil, r.count))
}

// answered takes the answer to a PING.
func (r *rtt) answered(opaque []byte, now time.Time) {
	if binary.BigEndian.Uint64(opaque) == r.count {
		r.last = max(now.Sub(r.sent), time.Microsecond)
	}
}

// stale says whether it is time to measure again, on a connection in use.
func (r *rtt) stale(now time.Time) bool { return now.Sub(r.sent) > 5*time.Second }
