package kcp_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel/bbr"
	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// TestCap downloads under a cap: what leaves the agent keeps to it, also where
// the path loses packets, and what the cap keeps back is not taken for the
// path's, also where it lets a packet out only when the last has long arrived, so
// that the rate is there when it goes.
func TestCap(t *testing.T) {
	for _, loss := range []int{0, 30} {
		synctest.Test(t, func(t *testing.T) {
			var all bbr.Cap
			all.Set(1_000_000)
			l := newLab(t, tunneltest.Path{Delay: 20 * time.Millisecond, Loss: loss, Seed: tunneltest.Seed(t)})
			l.wire.rate = 20e6 / 8
			p := tunneltest.NewPair(t, connectWith(t, l.server, l.client, kcp.ListenConfig{Cap: &all}), tunneltest.Options{})
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
			passed := func(d time.Duration) float64 {
				before := l.wire.bytes(agent)
				tunneltest.Pass(d)
				return float64(l.wire.bytes(agent)-before) / d.Seconds()
			}
			tunneltest.Pass(time.Second)
			for _, rate := range []uint64{500_000, 100_000, 20_000, 1_000_000} {
				all.Set(rate)
				tunneltest.Pass(500 * time.Millisecond)
				if got := passed(4 * time.Second); got < 0.93*float64(rate) || got > 1.02*float64(rate) {
					t.Errorf("%d lost of 1000, cap of %d: %.0f bytes/s", loss, rate, got)
				}
			}
			all.Set(0)
			tunneltest.Pass(500 * time.Millisecond)
			if got := passed(time.Second); got < 2_000_000 {
				t.Errorf("%d lost of 1000, without a cap: %.0f bytes/s", loss, got)
			}
			f.Close()
			p.Close()
			l.close(t)
		})
	}
}
