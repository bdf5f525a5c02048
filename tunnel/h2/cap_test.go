package h2_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/bbr"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// A weighed connection counts what is written with the heads of IP and TCP, and
// the largest write.
type weighed struct {
	net.Conn
	n, most atomic.Int64
}

func (m *weighed) Write(b []byte) (int, error) {
	m.n.Add(int64(len(b) + (len(b)+1447)/1448*52))
	m.most.Store(max(m.most.Load(), int64(len(b))))
	return m.Conn.Write(b)
}

// TestCap has two buyers who share an agent's cap, the first with several
// downloads: together they keep to it, each gets half, what one leaves the
// other has, and without a cap both are fast again. A ping does not wait for
// its connection's turn.
func TestCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all bbr.Cap
		all.Set(1_000_000)
		key, hash := newKey(t)
		cert, err := h2.Certificate(key)
		if err != nil {
			t.Fatal(err)
		}
		var pairs [2]*tunneltest.Pair
		var wires [2]*weighed
		for i := range pairs {
			near, far := tunneltest.Cable(20 * time.Millisecond)
			wires[i] = &weighed{Conn: far}
			var server tunnel.ServerConn
			var wg sync.WaitGroup
			wg.Go(func() {
				c, err := h2.Server(context.Background(), wires[i], h2.ServerConfig{Certificate: cert, Cap: &all})
				if err != nil {
					t.Error(err)
				}
				server = c
			})
			client, err := h2.Client(t.Context(), near, &hash)
			if err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			pairs[i] = tunneltest.NewPair(t, tunneltest.Ends{Client: client, Server: server, Close: func() {}}, tunneltest.Options{})
			pairs[i].Net.HandleTCP("flood.test:80", func(c *tunneltest.Conn) {
				for {
					if _, err := c.Write(make([]byte, 32<<10)); err != nil {
						return
					}
				}
			})
		}
		var flows [2][]*tunnel.Flow
		download := func(i int) {
			f, err := pairs[i].Client.DialTCP(t.Context(), "flood.test", 80)
			if err != nil {
				t.Fatal(err)
			}
			flows[i] = append(flows[i], f)
			pairs[i].Go(func() { io.Copy(io.Discard, f) })
		}
		// passed is how many bytes a second each has on the wire, and both.
		passed := func(d time.Duration) (each [2]float64, sum float64) {
			for i, w := range wires {
				each[i] = -float64(w.n.Load())
			}
			tunneltest.Pass(d)
			for i, w := range wires {
				each[i] = (each[i] + float64(w.n.Load())) / d.Seconds()
			}
			return each, each[0] + each[1]
		}
		for range 3 {
			download(0)
		}
		download(1)
		tunneltest.Pass(time.Second)
		for _, rate := range []uint64{1_000_000, 100_000, 5_000_000} {
			all.Set(rate)
			tunneltest.Pass(500 * time.Millisecond)
			for _, w := range wires {
				w.most.Store(0)
			}
			each, sum := passed(20 * time.Second)
			if sum < 0.96*float64(rate) || sum > 1.01*float64(rate) {
				t.Errorf("cap of %d: %.0f bytes/s", rate, sum)
			}
			if each[0] < 0.45*sum || each[1] < 0.45*sum {
				t.Errorf("cap of %d: shares of %.0f and %.0f", rate, each[0], each[1])
			}
			if most := wires[0].most.Load(); most > max(3000, int64(rate)/50) {
				t.Errorf("cap of %d: %d bytes at once", rate, most)
			}
		}
		all.Set(1_000_000)
		for _, f := range flows[0] {
			f.Close()
		}
		tunneltest.Pass(3 * time.Second)
		if each, _ := passed(5 * time.Second); each[1] < 950_000 || each[1] > 1_010_000 {
			t.Errorf("alone: %.0f bytes/s", each[1])
		}
		all.Set(0)
		tunneltest.Pass(500 * time.Millisecond)
		if each, _ := passed(2 * time.Second); each[1] < 20_000_000 {
			t.Errorf("without a cap: %.0f bytes/s", each[1])
		}
		for i, p := range pairs {
			for _, f := range flows[i] {
				f.Close()
			}
			p.Close()
		}
	})
}
