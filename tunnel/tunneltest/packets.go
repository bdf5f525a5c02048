//go:build unix

package tunneltest

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// BenchPackets moves 20,000 packets of 1,100 bytes a second through one UDP
// flow: real sockets, real QUIC, both ends in this process. It reports how many
// were lost and the processor time of a packet, of both sides and the target.
func BenchPackets(b *testing.B, dial Dial) {
	b.Run("download", func(b *testing.B) {
		stop := make(chan struct{})
		packets(b, dial, stop, func(c net.Conn, n *atomic.Int64) {
			c.Read(make([]byte, 10)) // the first packet names the way back
			n.Store(pace(c, stop))
		}, func(f net.Conn, n *atomic.Int64) {
			f.Write([]byte("go"))
			n.Store(drain(f))
		})
	})
	b.Run("upload", func(b *testing.B) {
		stop := make(chan struct{})
		packets(b, dial, stop, func(c net.Conn, n *atomic.Int64) { n.Store(drain(c)) }, func(f net.Conn, n *atomic.Int64) { n.Store(pace(f, stop)) })
	})
}

// pace sends 20 packets a millisecond.
func pace(c net.Conn, stop <-chan struct{}) (sent int64) {
	packet := make([]byte, 1100)
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return sent
		case <-tick.C:
		}
		for due := time.Since(began).Milliseconds() * 20; sent < due; sent++ {
			if _, err := c.Write(packet); err != nil {
				return sent
			}
		}
	}
}

// drain counts packets until none has come for a second.
func drain(c net.Conn) (got int64) {
	b := make([]byte, 1500)
	for {
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(b); err != nil {
			return got
		}
		got++
	}
}

func packets(b *testing.B, dial Dial, stop chan struct{}, target, buyer func(net.Conn, *atomic.Int64)) {
	var at, here atomic.Int64
	d := &sockets{target: func(c net.Conn) { target(c, &at) }}
	Real(b, dial, Options{Config: tunnel.Config{Dialer: d}}, func(p *Pair) {
		f, err := p.Client.DialUDP(b.Context(), "host.test", 9)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Established(b.Context()); err != nil {
			b.Fatal(err)
		}
		before := used(b)
		var wg sync.WaitGroup
		wg.Go(func() { buyer(f, &here) })
		for b.Loop() { // one is 50 ms
			<-time.After(50 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		d.wg.Wait()
		sent, got := max(at.Load(), here.Load()), min(at.Load(), here.Load())
		b.ReportMetric(100*float64(sent-got)/float64(sent), "%lost")
		a, y := p.Agent.Totals(), p.Buyer.Totals()
		in, out := y.UpUDP/1128, a.UpUDP/1128
		if a.DownUDP > a.UpUDP {
			in, out = a.DownUDP/1128, y.DownUDP/1128
		}
		b.ReportMetric(100*float64(int64(in)-int64(out))/float64(sent), "%lost-in-tunnel")
		b.ReportMetric(float64((used(b)-before).Microseconds())/float64(sent), "cpu-µs/packet")
		f.Close()
	})
}

func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
