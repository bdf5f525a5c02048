package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// A holder is a load that may hold flows between jobs.
type holder struct{ held []net.Conn }

// do does a job that needs the holder, or any other.
func (h *holder) do(j job) (yield, error) {
	switch j.Op {
	case "hold":
		return h.hold(j)
	case "release":
		for _, conn := range h.held {
			_ = conn.Close() // it may have ended
		}
		h.held = nil
		return yield{}, nil
	case "beside":
		return j.beside()
	case "gap":
		return j.gap(), nil
	case "datagrams-down", "datagrams-up":
		return j.datagrams()
	}
	return j.do()
}

// hold opens flows and returns when each has got a byte and, if they are paused,
// when nothing more can come: after Lasts. The flows stay.
func (h *holder) hold(j job) (y yield, err error) {
	w := wish{op: opHold}
	if j.Paused {
		w = wish{op: opDown, lasts: time.Hour}
	}
	conns := make([]net.Conn, max(j.Flows, 1))
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() { conns[i], errs[i] = j.begin(w) })
	}
	wg.Wait()
	for i, conn := range conns {
		if errs[i] == nil {
			h.held = append(h.held, conn)
			y.Moved++
		}
	}
	if j.Paused {
		time.Sleep(j.Lasts)
	}
	if y.Moved == 0 {
		return y, errors.Join(errs...)
	}
	y.Bytes = uint64(y.Moved)
	return y, nil // it is for the report to say how many there are
}

// begin opens a flow and waits for its first byte.
func (j job) begin(w wish) (net.Conn, error) {
	conn, err := j.connect()
	if err != nil {
		return nil, err
	}
	if _, err = conn.Write(w.bytes()); err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

const (
	pingEvery  = 20 * time.Millisecond
	knockEvery = 250 * time.Millisecond
)

// beside is what somebody notices who uses the path while a large flow does: how
// long pings of the kernel's take, and first bytes of flows by the same way.
func (j job) beside() (y yield, err error) {
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() { y.Pings, y.Lost, failed = ping(j.Ping, j.Lasts) })
	began := time.Now()
	var firsts []time.Duration
	for time.Since(began) < j.Lasts {
		var d time.Duration
		if d, err = j.first(); err != nil {
			break
		}
		firsts = append(firsts, d)
		time.Sleep(knockEvery)
	}
	wg.Wait()
	y.First, y.Bytes = firsts, uint64(len(firsts))
	return y, errors.Join(err, failed)
}

// ping sends ICMP echo requests (RFC 792) for a while and returns how long the
// answers took.
func ping(address string, lasts time.Duration) (times []time.Duration, lost int, err error) {
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, 0, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(lasts + time.Second)); err != nil {
		return nil, 0, err
	}
	sent := make([]time.Time, int(lasts/pingEvery)+1)
	var mu sync.Mutex // guards sent
	id := os.Getpid() & 0xffff
	wg.Go(func() {
		tick := time.NewTicker(pingEvery)
		defer tick.Stop()
		for i := range sent {
			m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: i, Data: make([]byte, 56)}}
			if b, err := m.Marshal(nil); err == nil {
				mu.Lock()
				sent[i] = time.Now()
				mu.Unlock()
				_, _ = conn.WriteTo(b, &net.IPAddr{IP: net.ParseIP(address)}) // one more that is lost
			}
			<-tick.C
		}
	})
	b := make([]byte, 1500)
	for len(times) < len(sent) {
		n, _, err := conn.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		m, err := icmp.ParseMessage(1, b[:n]) // 1: ICMP of IPv4
		if err != nil {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && m.Type == ipv4.ICMPTypeEchoReply && e.ID == id && e.Seq < len(sent) {
			mu.Lock()
			times = append(times, time.Since(sent[e.Seq]))
			mu.Unlock()
		}
	}
	return times, len(sent) - len(times), nil
}

// gap downloads for a while and finds the longest time in which nothing came. A
// flow that breaks is followed by another, as an application would do.
func (j job) gap() (y yield) {
	until := time.Now().Add(j.Lasts)
	last, longest := time.Now(), time.Duration(0)
	b := make([]byte, chunk)
	for broken := false; time.Now().Before(until); broken = true {
		conn, err := j.connect()
		if err != nil {
			time.Sleep(100 * time.Millisecond) // an application that tries again
			continue
		}
		if err = conn.SetDeadline(until); err == nil {
			_, err = conn.Write(wish{op: opDown, lasts: j.Lasts + time.Minute}.bytes())
		}
		for err == nil {
			var n int
			n, err = conn.Read(b)
			if n == 0 {
				continue
			}
			y.Bytes += uint64(n)
			now := time.Now()
			if d := now.Sub(last); d > longest {
				longest, y.Resumed, y.Broken = d, now, broken
			}
			last = now
		}
		_ = conn.Close()
	}
	return y
}
