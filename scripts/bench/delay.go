package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// The delay forwards UDP packets after a while, both ways, since not every
// kernel has netem. It is for latencies, not for throughput.
type delaySettings struct {
	Listen  string        `json:"listen"`
	Forward string        `json:"forward"`
	OneWay  time.Duration `json:"oneWay"`
}

// A late packet is under way.
type late struct {
	due  time.Time
	data []byte
}

// pipe is how many packets may be under way in one direction; more are lost.
const pipe = 4096

// delay answers with a bareReady.
func delay(c console) error {
	var s delaySettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	in, err := net.ListenPacket("udp", s.Listen)
	if err != nil {
		return err
	}
	if err := c.enc.Encode(bareReady{in.LocalAddr().String()}); err != nil {
		return err
	}
	return c.serve(func(ctx context.Context) error {
		d := delayer{delaySettings: s, in: in, peers: make(map[string]chan<- late)}
		defer d.wg.Wait()
		defer context.AfterFunc(ctx, func() { _ = in.Close() })()
		return ended(ctx, d.run(ctx))
	})
}

// A delayer owns a socket towards the buyers; each of them has one towards the
// agent.
type delayer struct {
	delaySettings
	in    net.PacketConn
	peers map[string]chan<- late
	wg    sync.WaitGroup
}

func (d *delayer) run(ctx context.Context) error {
	buf := make([]byte, 65535)
	for {
		n, from, err := d.in.ReadFrom(buf)
		if err != nil {
			return err
		}
		up, ok := d.peers[from.String()]
		if !ok {
			if up, err = d.join(ctx, from); err != nil {
				return err
			}
			d.peers[from.String()] = up
		}
		d.post(up, buf[:n])
	}
}

// join makes the way for one buyer.
func (d *delayer) join(ctx context.Context, from net.Addr) (chan<- late, error) {
	out, err := net.Dial("udp", d.Forward)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = out.Close() })
	// Neither is closed: deliver ends with ctx.
	up, down := make(chan late, pipe), make(chan late, pipe)
	d.wg.Go(func() { deliver(ctx, up, func(b []byte) { _, _ = out.Write(b) }) }) // UDP may lose it
	d.wg.Go(func() { deliver(ctx, down, func(b []byte) { _, _ = d.in.WriteTo(b, from) }) })
	d.wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, err := out.Read(buf)
			if err != nil && ctx.Err() != nil {
				return
			}
			if err == nil { // else an ICMP error, of a packet sent before
				d.post(down, buf[:n])
			}
		}
	})
	return up, nil
}

func (d *delayer) post(to chan<- late, b []byte) {
	select {
	case to <- late{time.Now().Add(d.OneWay), append([]byte(nil), b...)}:
	default:
	}
}

// deliver writes packets when they are due.
func deliver(ctx context.Context, from <-chan late, write func([]byte)) {
	for {
		select {
		case p := <-from:
			if !wait(ctx, time.Until(p.due)) {
				return
			}
			write(p.data)
		case <-ctx.Done():
			return
		}
	}
}

// wait says whether d has passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
