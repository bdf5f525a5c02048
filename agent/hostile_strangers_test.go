package agent_test

import (
	"context"
	"crypto/tls"

	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// fat is what a stranger sends on each of his flows, of which nothing is read.
var fat [1 << 20]byte

// A strangers is a crowd of them that comes to an agent from all of 127.0.0.0/8.
type strangers struct {
	t    *testing.T
	addr string
	wg   sync.WaitGroup
	stop context.Context
	sent atomic.Int64
}

func (s *strangers) ip(i int) net.IP { return net.IPv4(127, 1, byte(i>>8), byte(i)|1) }

func (s *strangers) socket(i int) net.PacketConn {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: s.ip(i)})
	if err != nil {
		s.t.Fatal(err)
	}
	context.AfterFunc(s.stop, func() { c.Close() })
	return c
}

func (s *strangers) udp() net.Addr { return must(net.ResolveUDPAddr("udp4", s.addr)) }

// fill makes the agent hold what it may of a connection, for as long as it lets.
func (s *strangers) fill(c tunnel.ClientConn) {
	for range 20 {
		r, err := c.Open(s.stop, tunnel.Header{Method: http.MethodConnect, Authority: "example.com:80"})
		if err != nil {
			return
		}
		s.wg.Go(func() {
			n, _ := r.Write(fat[:]) // until the window is full, or the connection ends
			s.sent.Add(int64(n))
		})
	}
	context.AfterFunc(s.stop, func() { c.Close(tunnel.ReasonDone, "") })
}

// shakeHands connects by one transport after the other, and fills.
func (s *strangers) shakeHands(i int) {
	ctx, cancel := context.WithTimeout(s.stop, time.Minute)
	defer cancel()
	switch i % 3 {
	case 0:
		d := quic.NewDialer(s.socket(i))
		if c, err := d.Dial(ctx, s.udp(), nil); err == nil {
			s.fill(c)
		}
	case 1:
		if conn, err := s.tcp(i); err == nil {
			if c, err := h2.Client(ctx, conn, nil); err == nil {
				s.fill(c)
			}
		}
	default:
		if c, err := kcp.NewDialer(s.socket(i)).Dial(ctx, s.udp(), nil); err == nil {
			s.fill(c)
		}
	}
}

func (s *strangers) tcp(i int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: s.ip(i)}}
	return d.DialContext(s.stop, "tcp", s.addr)
}

// halfOpen begins n handshakes by QUIC and by TLS that go no further.
func (s *strangers) halfOpen(n int) {
	first := make(chan []byte, 1)
	var packets [][]byte
	for range 100 {
		ctx, cancel := context.WithCancel(s.stop)
		tr := &quicgo.Transport{Conn: firstPacket{s.socket(0), first, cancel}}
		tr.Dial(ctx, s.udp(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
		packets = append(packets, <-first)
		tr.Close()
	}
	var last [64]net.Conn
	for i := range n / 2 {
		from := s.socket(i)
		from.WriteTo(packets[i%len(packets)], s.udp())
		from.Close()
		c, err := s.tcp(i)
		if err != nil {
			continue // the agent is faster in refusing than we in knowing
		}
		c.Write([]byte("\x16\x03\x01\x02\x00"))
		if old := last[i%len(last)]; old != nil {
			old.Close()
		}
		last[i%len(last)] = c
	}
	for _, c := range last {
		if c != nil {
			c.Close()
		}
	}
}

// A firstPacket is a socket that sends nothing and hands out the first packet.
type firstPacket struct {
	net.PacketConn
	first chan []byte
	then  func()
}

func (f firstPacket) WriteTo(b []byte, _ net.Addr) (int, error) {
	select {
	case f.first <- append([]byte(nil), b...):
		f.then()
	default:
	}
	return len(b), nil
}

// TestStrangers: an agent with the limits of a router of 64 MB meets 10,000
// handshakes that nobody finishes, and 96 connections of everybody's who sends as
// much as he is let and never says hello. What it holds of them is bounded, a
// buyer who is there is served on, and one who comes gets in.
func TestStrangers(t *testing.T) {
	if runtime.GOOS != "linux" { // others have one address on their loopback
		return
	}
	m := newMarketOf(t, func(c *seller.Config) {
		alsoTCP(t, c)
		c.KCP, c.MaxStrangers = true, 16
	})
	site := web(t)
	p := m.buy(nil)
	fetch(t, p.through(), site.URL+"/3000000", 3_000_000)
	before := inUse()

	ctx, cancel := context.WithCancel(t.Context())
	s := &strangers{t: t, addr: m.cfg.Listen, stop: ctx}
	for i := range 96 {
		s.wg.Go(func() { s.shakeHands(i) })
	}
	attempts := 10_000
	if tunneltest.Short() {
		attempts = 2000
	}
	s.halfOpen(attempts)
	fetch(t, p.through(), site.URL+"/3000000", 3_000_000)
	after := inUse()
	t.Logf("heap %d → %d KiB", before>>10, after>>10)
	if after > before+48<<20 { // with the strangers' own ends, which are most of it
		t.Errorf("%d KiB are held", (after-before)>>10)
	}
	second := m.offer() // a newcomer from another address, while all are there
	if second.Agent != m.offer().Agent {
		t.Error("another agent")
	}
	cancel()
	s.wg.Wait()
	t.Logf("%d KiB of strangers' data were taken", s.sent.Load()>>10)
	if most := int64(24 << 20); s.sent.Load() > most {
		t.Errorf("strangers were let send %d bytes", s.sent.Load())
	}
	p.stop(t)
	m.settled(p)
}

func inUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc + stats.StackInuse
}
