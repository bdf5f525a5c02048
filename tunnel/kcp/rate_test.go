package kcp_test

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestRateFollowsThePath downloads over a link of 50 Mbit/s and 40 ms: KCP with
// the usual settings sends 2.3 bytes for each that arrives there.
func TestRateFollowsThePath(t *testing.T) {
	const deep = 100 * time.Millisecond // as the queues of mobile networks are
	for i, row := range []struct {
		name     string
		mbit     float64
		loss     int // packets of a thousand, each way
		jitter   time.Duration
		queue    time.Duration
		goodput  float64 // Mbit/s, at least
		wire     float64 // bytes sent for each that arrives, at most
		duration time.Duration
	}{
		{"clean", 50, 0, 0, deep, 44, 1.10, 8 * time.Second},
		{"loss of 1%", 50, 10, 0, deep, 44, 1.13, 8 * time.Second},
		{"loss of 5%", 50, 50, 0, deep, 36, 1.25, 8 * time.Second},
		{"jitter", 50, 5, 30 * time.Millisecond, deep, 42, 1.17, 8 * time.Second},
		{"slow", 2, 10, 0, deep, 1.8, 1.12, 20 * time.Second},
		{"fast", 200, 0, 0, deep, 180, 1.05, 4 * time.Second},
		{"policer", 10, 0, 0, 8 * time.Millisecond, 4, 1.30, 20 * time.Second},
	} {
		if tunneltest.Short() && i%3 != 1 { // one goroutine's arithmetic
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, tunneltest.Path{Delay: 20 * time.Millisecond, Loss: row.loss, Seed: tunneltest.Seed(t)})
				l.wire.rate, l.wire.jitter, l.wire.queue = row.mbit*1e6/8, row.jitter, row.queue
				ends := l.connect(t, tunneltest.Path{})
				p := tunneltest.NewPair(t, ends, tunneltest.Options{})
				p.Net.HandleTCP("flood.test:80", func(c *tunneltest.Conn) {
					for {
						if _, err := c.Write(make([]byte, 32<<10)); err != nil {
							return
						}
					}
				})
				f, err := p.Client.DialTCP(t.Context(), "flood.test", 80)
				if err != nil {
					t.Fatal(err)
				}
				p.Go(func() { io.Copy(io.Discard, f) })
				agent := l.server.LocalAddr().String()
				buyer := l.client.LocalAddr().String()
				tunneltest.Pass(time.Second) // the startup
				before, sent, back := p.Buyer.Totals().DownTCP, l.wire.bytes(agent), l.wire.bytes(buyer)
				tunneltest.Pass(row.duration)
				got := float64(p.Buyer.Totals().DownTCP - before)
				goodput := got * 8 / 1e6 / row.duration.Seconds()
				wire := float64(l.wire.bytes(agent)-sent) / got
				figures := fmt.Sprintf("%.1f Mbit/s, wire/goodput %.3f, %.3f with what comes back, %d packets dropped by the queue", goodput, wire,
					wire+float64(l.wire.bytes(buyer)-back)/got, l.wire.heads)
				t.Log(figures)
				if sent, arrived := ends.Server.(kcp.ServerConn).Traffic(); arrived < uint64(got) || float64(sent)/float64(arrived) > row.wire {
					t.Errorf("the agent's end says %d sent, %d arrived", sent, arrived)
				}
				if goodput < row.goodput || wire > row.wire {
					t.Error(figures)
				}
				f.Close()
				p.Close()
			})
		})
	}
}

func (w *wire) bytes(from string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[from]
}

// TestBlackout takes the path away: little is sent meanwhile, and the download
// goes on behind it; or the connection ends when it was too long.
func TestBlackout(t *testing.T) {
	for _, row := range []struct {
		dark  time.Duration
		lives bool
	}{{5 * time.Second, true}, {20 * time.Second, true}, {40 * time.Second, false}} {
		t.Run(row.dark.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, tunneltest.Path{Delay: 20 * time.Millisecond, Seed: tunneltest.Seed(t)})
				l.wire.rate = 10e6 / 8
				p := tunneltest.NewPair(t, l.connect(t, tunneltest.Path{}), tunneltest.Options{})
				p.Net.HandleTCP("flood.test:80", func(c *tunneltest.Conn) {
					for {
						if _, err := c.Write(make([]byte, 32<<10)); err != nil {
							return
						}
					}
				})
				f, err := p.Client.DialTCP(t.Context(), "flood.test", 80)
				if err != nil {
					t.Fatal(err)
				}
				p.Go(func() { io.Copy(io.Discard, f) })
				agent := l.server.LocalAddr().String()
				tunneltest.Pass(3 * time.Second)
				l.wire.lose(1000)
				tunneltest.Pass(time.Second / 2) // what is noticed in
				sent := l.wire.bytes(agent)
				tunneltest.Pass(row.dark)
				if dark := l.wire.bytes(agent) - sent; dark > int(row.dark.Seconds())*20_000+300_000 {
					t.Errorf("%d bytes into the dark", dark)
				}
				l.wire.lose(0)
				tunneltest.Pass(3 * time.Second)
				before := p.Buyer.Totals().DownTCP
				tunneltest.Pass(time.Second)
				if got := p.Buyer.Totals().DownTCP - before; row.lives && got < 600_000 {
					t.Errorf("%d bytes in the fourth second after it", got)
				}
				if (p.Conn.Context().Err() == nil) != row.lives {
					t.Errorf("the connection: %v", p.Conn.Context().Err())
				}
				f.Close()
				p.Close()
			})
		})
	}
}
