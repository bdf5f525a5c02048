package tunneltest

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel"
)

func testUDP(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleUDP("[2001:db8::7]:7", func(c net.Conn) {
			b := make([]byte, 1<<16)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				c.Write(b[:n])
			}
		})
		f, err := p.Client.DialUDP(t.Context(), "2001:db8::7", 7)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		var want uint64
		for i, size := range []int{65000, 1, 0, 100, 1100, 1472, 5000} { // the large ones go as capsules
			if size == 0 {
				continue // net.Pipe has no empty packets
			}
			msg := Random(size, uint64(i))
			if _, err := f.Write(msg); err != nil {
				t.Fatal(err)
			}
			f.SetReadDeadline(time.Now().Add(time.Second))
			n, err := f.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], msg) {
				t.Fatalf("%d bytes: got %d, %v", size, n, err)
			}
			want += uint64(n + tunnel.PacketOverhead)
		}
		f.Close()
		if r := p.Settled(t); r.DownUDP != want {
			t.Errorf("counted %d, want %d", r.DownUDP, want)
		}
	})
}

// testUDPOnLoopback: no datagram is lost for its size, not the first either.
func testUDPOnLoopback(t *testing.T, tr Transport) {
	d := &sockets{target: func(c net.Conn) {
		b := make([]byte, 1<<16)
		n, err := c.Read(b)
		if err != nil {
			t.Error(err)
			return
		}
		c.Write(b[:n])
	}}
	Real(t, tr.Loopback, Options{Config: tunnel.Config{Dialer: d}}, func(p *Pair) {
		for i, size := range []int{1, 2049, 60_000} {
			f, err := p.Client.DialUDP(t.Context(), "echo.test", 7)
			if err != nil {
				t.Fatal(err)
			}
			msg, buf := Random(size, uint64(i)), make([]byte, 1<<16)
			if _, err := f.Write(msg); err != nil {
				t.Fatal(err)
			}
			f.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := f.Read(buf); err != nil || !bytes.Equal(buf[:n], msg) {
				t.Errorf("%d bytes: got %d, %v", size, n, err)
			}
			f.Close()
		}
		p.Settled(t)
	})
	d.wg.Wait()
}

func testUDPIdles(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 5 * time.Millisecond}}, func(t *testing.T, p *Pair) {
		f, err := p.Client.DialUDP(t.Context(), "sink.test", 9)
		if err != nil {
			t.Fatal(err)
		}
		f.Write([]byte("x"))
		start := time.Now()
		if _, err := f.Read(make([]byte, 1)); err == nil {
			t.Error("a packet from nowhere")
		}
		if idle := time.Since(start); idle < 2*time.Minute || idle > 5*time.Minute {
			t.Errorf("ended after %v", idle)
		}
	})
}
