package tunneltest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// testStopAgainstReset stops and aborts streams while their targets reset, at
// random moments. With partial resets switched on, quic-go panics here.
func testStopAgainstReset(t *testing.T, tr Transport) {
	n := Seed(t)
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: 2 * time.Millisecond, Loss: 20, Seed: n}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("rst.test:80", func(c *Conn) {
			c.Write(make([]byte, 1+rand.IntN(100_000)))
			Pass(time.Duration(rand.IntN(10_000)) * time.Microsecond)
			c.SetLinger(0)
		})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 30 {
					req, err := p.Conn.Open(context.Background(), tunnel.Header{Method: http.MethodConnect, Authority: "rst.test:80"})
					if err != nil {
						t.Error(err)
						return
					}
					Pass(time.Duration(rand.IntN(20_000)) * time.Microsecond)
					req.Stop(0x10c)
					Pass(time.Duration(rand.IntN(2_000)) * time.Microsecond)
					req.Abort(0x10c)
				}
			})
		}
		wg.Wait()
		p.Session.Drain(t.Context())
		if n := p.Session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// testHostileSteering sends orders about streams that are none.
func testHostileSteering(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: time.Millisecond}}, func(t *testing.T, p *Pair) {
		p.Net.HandleTCP("hold.test:80", hold)
		f := p.dial(t, "hold.test")
		if err := f.Established(t.Context()); err != nil {
			t.Fatal(err)
		}
		for typ := uint64(0x7402_0001); typ <= 0x7402_0003; typ++ {
			for _, id := range [][]byte{{1}, {0x40, 0xff}, {0xbf, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
				for range 100 {
					if err := p.AtBuyer.Send(typ, id); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		Pass(time.Second)
		if _, err := f.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		f.Close()
		p.Settled(t)
	})
}

// testGarbageOnUDPFlow ends only the flow.
func testGarbageOnUDPFlow(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: time.Millisecond}}, func(t *testing.T, p *Pair) {
		for _, garbage := range [][]byte{
			{0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, // a datagram of 2^62 bytes
			{0x00, 0x00},       // without a context
			{0x00, 0x01, 0xff}, // with half of one
		} {
			req, err := p.Conn.Open(t.Context(), tunnel.Header{
				Method: http.MethodConnect, Protocol: "connect-udp", Authority: "x", Path: "/.well-known/masque/udp/sink.test/9/",
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := req.Write(garbage); err != nil {
				t.Fatal(err)
			}
			if status, _, err := req.Answer(); err != nil || status != http.StatusOK {
				t.Errorf("answered %d, %v", status, err)
			}
			if _, err := req.Read(make([]byte, 1)); err == nil {
				t.Error("the flow goes on")
			}
			req.Abort(0x10c)
		}
		Pass(time.Second)
		if n := p.Session.Flows(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// testBadRequests are answered and cost nothing.
func testBadRequests(t *testing.T, tr Transport) {
	Simulated(t, tr.Simulated, Options{Path: Path{Delay: time.Millisecond}}, func(t *testing.T, p *Pair) {
		for _, row := range []struct {
			h    tunnel.Header
			want int
		}{
			{tunnel.Header{Method: http.MethodConnect, Authority: "no-port"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Authority: "host.test:0"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Authority: "host.test:65536"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Protocol: "connect-udp", Authority: "x", Path: "/elsewhere"}, http.StatusBadRequest},
			{tunnel.Header{Method: http.MethodConnect, Protocol: "connect-ip", Authority: "x", Path: "/"}, http.StatusNotImplemented},
			{tunnel.Header{Method: http.MethodConnect, Protocol: "x402-channel", Authority: "x", Path: "/"}, http.StatusConflict},
			{tunnel.Header{Method: http.MethodGet, Authority: "x", Path: "/"}, http.StatusNotFound},
		} {
			req, err := p.Conn.Open(t.Context(), row.h)
			if err != nil {
				t.Fatal(err)
			}
			if status, _, err := req.Answer(); err != nil || status != row.want {
				t.Errorf("%+v: %d, %v; want %d", row.h, status, err, row.want)
			}
			req.Abort(0x10c)
		}
	})
}

// testStrangerHeads opens requests with long heads, which the agent has to hold
// before a session is admitted: not more than so many, and then as many as there
// may be streams.
func testStrangerHeads(t *testing.T, tr Transport) {
	for _, trusted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const count, size = 30, 7000
			ends := tr.Simulated(t, Path{Delay: 5 * time.Millisecond})
			s := tunnel.NewSession(ends.Server, tunnel.Config{Dialer: &Net{}})
			var wg sync.WaitGroup
			wg.Go(func() { _ = s.Run() })
			if trusted {
				s.Trust()
			}
			Pass(time.Second)
			for range count {
				_, err := ends.Client.Open(t.Context(), tunnel.Header{
					Method: http.MethodConnect, Authority: "host.test:80", Fields: tunnel.Fields{"x-long": {strings.Repeat("x", size)}},
				})
				if err != nil && ends.Client.Context().Err() == nil {
					t.Fatal(err)
				}
				Pass(100 * time.Millisecond)
			}
			if alive := ends.Client.Context().Err() == nil; alive != trusted {
				t.Errorf("trusted: %v, connected: %v, %v", trusted, alive, context.Cause(ends.Client.Context()))
			}
			ends.Client.Close(tunnel.ReasonDone, "")
			ends.Server.Close(tunnel.ReasonDone, "")
			ends.Close()
			wg.Wait()
		})
	}
}
