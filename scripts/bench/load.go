package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/proxy"

	"github.com/depinsim/x402/scripts/netlab"
)

// A job is something for the load to do.
type job struct {
	Op     string        `json:"op"`     // down, up, busy, take, first, or one of those of holder, beside, gap and datagrams
	Dial   string        `json:"dial"`   // the address to connect to: the target's, or a forward to it
	SOCKS  string        `json:"socks"`  // the proxy to use; "": none
	Lasts  time.Duration `json:"lasts"`  // of all but first
	Rate   uint64        `json:"rate"`   // of down, in bytes a second; 0: as many as go
	Flows  int           `json:"flows"`  // at once; 0: 1
	Repeat int           `json:"repeat"` // of first; 0: 1
	Skip   time.Duration `json:"skip"`   // of busy: what comes before does not count
	Paused bool          `json:"paused"` // of hold: the flows download, and nobody reads
	Ping   string        `json:"ping"`   // of beside: the address to ping
	// Control is the kernel's congestion control for take without a proxy.
	Control string        `json:"control"`
	Patient bool          `json:"patient"` // the proxy may not listen yet
	Within  time.Duration `json:"within"`  // for a connection to stand, and beyond its time; 0: patience
}

// A yield is what a job came to.
type yield struct {
	Error string          `json:"error,omitempty"`
	Bytes uint64          `json:"bytes"`
	Took  time.Duration   `json:"took"`  // the longest of the flows
	Moved int             `json:"moved"` // flows with bytes
	First []time.Duration `json:"first"` // of each repetition
	At    time.Time       `json:"at"`    // when it ended
	Each  []uint64        `json:"each"`  // bytes of each flow
	Pings []time.Duration `json:"pings"` // of beside
	Lost  int             `json:"lost"`  // pings or datagrams
	Sent  int             `json:"sent"`  // datagrams
	// Resumed is when something came after the longest gap, Broken says that it
	// took another flow.
	Resumed time.Time `json:"resumed"`
	Broken  bool      `json:"broken"`
}

// patience is how long a job may last beyond its time.
const patience = 90 * time.Second

// load does jobs, one after the other, until its input ends. It has no
// settings.
func load(c console) error {
	var none struct{}
	if err := c.dec.Decode(&none); err != nil {
		return err
	}
	var h holder
	for {
		var j job
		err := c.dec.Decode(&j)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		y, err := h.do(j)
		if err != nil {
			y.Error = err.Error()
		}
		y.At = time.Now()
		if err := c.enc.Encode(y); err != nil {
			return err
		}
	}
}

func (j job) do() (yield, error) {
	if j.Op == "first" {
		var y yield
		for range max(j.Repeat, 1) {
			d, err := j.first()
			if err != nil {
				return y, err
			}
			y.First = append(y.First, d)
		}
		return y, nil
	}
	type part struct {
		bytes uint64
		took  time.Duration
		err   error
	}
	parts := make([]part, max(j.Flows, 1))
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			p := &parts[i]
			p.bytes, p.took, p.err = j.one()
		})
	}
	wg.Wait()
	var y yield
	var failed []error
	for _, p := range parts {
		y.Bytes += p.bytes
		y.Each = append(y.Each, p.bytes)
		y.Took = max(y.Took, p.took)
		if p.bytes > 0 {
			y.Moved++
		}
		if p.err != nil {
			failed = append(failed, p.err)
		}
	}
	if len(failed) > 0 {
		return y, fmt.Errorf("%d of %d flows failed, one with %w", len(failed), len(parts), failed[0])
	}
	return y, nil
}

// hurried makes connections that end at a time, so that a proxy that never
// answers is not waited for. It has no DialContext, which would be called instead
// of Dial.
type hurried struct {
	dialer *net.Dialer
	until  time.Time
}

// Dial connects.
func (h hurried) Dial(network, address string) (net.Conn, error) {
	conn, err := h.dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(h.until)
}

func (j job) connect() (net.Conn, error) {
	direct := &net.Dialer{Timeout: patience}
	if j.Control != "" {
		direct.Control = netlab.Congestion(j.Control)
	}
	within := patience
	if j.Within > 0 {
		within = j.Within
	}
	until := time.Now().Add(within)
	var d proxy.Dialer = hurried{direct, until}
	if j.SOCKS != "" {
		var err error
		if d, err = proxy.SOCKS5("tcp", j.SOCKS, nil, d); err != nil {
			return nil, err
		}
	}
	conn, err := d.Dial("tcp", j.Dial)
	for err != nil && j.Patient && time.Now().Before(until) {
		time.Sleep(time.Millisecond)
		conn, err = d.Dial("tcp", j.Dial)
	}
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(j.Skip + j.Lasts + within))
}

// first is the time from the beginning of a connection to its first byte.
func (j job) first() (time.Duration, error) {
	began := time.Now()
	conn, err := j.connect()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.Write(wish{op: opFirst}.bytes()); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return time.Since(began), err
}

// one is one flow. Its bytes are those that arrived.
func (j job) one() (bytes uint64, took time.Duration, err error) {
	conn, err := j.connect()
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	began := time.Now()
	switch j.Op {
	case "down":
		bytes, err = down(conn, wish{opDown, j.Lasts, j.Rate})
	case "up":
		bytes, err = up(conn, j.Lasts)
	case "busy":
		bytes, err = busy(conn, j.Skip, j.Lasts)
	case "take":
		bytes, err = offer(conn, j.Lasts)
	default:
		err = fmt.Errorf("unknown job %q", j.Op)
	}
	return bytes, time.Since(began), err
}

func down(conn net.Conn, w wish) (uint64, error) {
	if _, err := conn.Write(w.bytes()); err != nil {
		return 0, err
	}
	return discard(conn)
}

// busy downloads until its time is over, and leaves the rest: what waits in a
// thousand sockets, or for a slow link, would take long. What comes while it
// skips does not count.
func busy(conn net.Conn, skip, lasts time.Duration) (n uint64, err error) {
	w := wish{op: opDown, lasts: 2 * (skip + lasts)}
	if skip > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(skip)); err != nil {
			return 0, err
		}
		if _, err = down(conn, w); !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, errors.Join(err, errors.New("the flow ended early"))
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(lasts)); err != nil {
		return 0, err
	}
	if skip > 0 {
		n, err = discard(conn)
	} else {
		n, err = down(conn, w)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

func discard(conn net.Conn) (uint64, error) {
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{conn}, make([]byte, chunk))
	return uint64(n), err
}

// offer uploads for a while and returns what the target got in as much time. The
// rest is left.
func offer(conn net.Conn, lasts time.Duration) (uint64, error) {
	if _, err := conn.Write(wish{op: opTake, lasts: lasts}.bytes()); err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() { _ = send(conn, time.Hour, 0) }) // until it is closed
	var n [8]byte
	if _, err := io.ReadFull(conn, n[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(n[:]), nil
}

func up(conn net.Conn, lasts time.Duration) (uint64, error) {
	if _, err := conn.Write(wish{op: opUp}.bytes()); err != nil {
		return 0, err
	}
	if err := send(conn, lasts, 0); err != nil {
		return 0, err
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return 0, fmt.Errorf("%T cannot be half-closed", conn)
	}
	if err := half.CloseWrite(); err != nil {
		return 0, err
	}
	var n [8]byte
	if _, err := io.ReadFull(conn, n[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(n[:]), nil
}
