package agent_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
)

// A screen holds the newest status of a purchase.
type screen struct{ s atomic.Pointer[buyer.Status] }

func (s *screen) show(x buyer.Status) { s.s.Store(&x) }

func (s *screen) now() buyer.Status {
	if x := s.s.Load(); x != nil {
		return *x
	}
	return buyer.Status{}
}

// alsoTCP gives an agent a port that is free for TCP too: below those that the
// kernel gives to others meanwhile. Who else looks for one here needs the UDP
// port first, and that is held.
func alsoTCP(t *testing.T, c *seller.Config) {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(20_000))
		socket, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		t.Cleanup(func() { socket.Close() })
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			c.Listen, c.ListenTCP, c.Socket = addr, addr, borrowed(socket)
			return
		}
	}
	t.Fatal("no port is free for both")
}

// TestTransports buys by each transport in turn, on one channel.
func TestTransports(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) {
		alsoTCP(t, c)
		c.KCP = true
	})
	site := web(t)
	for _, transport := range []string{buyer.QUIC, buyer.TLS, buyer.KCP} {
		var on screen
		p := m.buy(func(c *buyer.Config) { c.Reach.Transport, c.OnStatus = transport, on.show })
		fetch(t, p.through(), site.URL+"/3000000", 3_000_000)
		upload(t, p.through(), site.URL+"/", 1_000_000)
		until(t, "for the transport to be said", func() bool { return on.now().Transport != "" })
		if got := on.now().Transport; got != transport {
			t.Errorf("by %q, want %s", got, transport)
		}
		p.stop(t)
		m.settled(p)
	}
}

// TestBlockedUDP has a network that lets no UDP through: the buyer gets through
// by TLS.
func TestBlockedUDP(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { alsoTCP(t, c) })
	site := web(t)
	var on screen
	p := m.buy(func(c *buyer.Config) { c.Socket, c.OnStatus = borrowed(newCable(t, 1000, 1)), on.show })
	fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	until(t, "for the transport to be said", func() bool { return on.now().Transport != "" })
	if got := on.now().Transport; got != buyer.TLS {
		t.Errorf("by %q", got)
	}
	p.stop(t)
	m.settled(p)
}
