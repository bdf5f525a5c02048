package kcp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/apernet/quic-go/testutils/simnet"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/kcp"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func TestConformance(t *testing.T) {
	tunneltest.Run(t, tunneltest.Transport{
		Simulated: simulated, Loopback: loopback, Tick: 20 * time.Millisecond, Uploads: 46, Idle: 96 << 10, Layered: true,
	})
}

func BenchmarkRelay(b *testing.B) { tunneltest.Bench(b, loopback) }

// newKey returns an agent's key and its hash.
func newKey(t testing.TB) (*ecdsa.PrivateKey, [32]byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, sha256.Sum256(der)
}

// connect connects the sockets of a buyer and an agent.
func connect(t testing.TB, server, client net.PacketConn, p tunneltest.Path) tunneltest.Ends {
	return connectWith(t, server, client, kcp.ListenConfig{MaxStreams: p.Streams})
}

func connectWith(t testing.TB, server, client net.PacketConn, c kcp.ListenConfig) tunneltest.Ends {
	t.Helper()
	key, hash := newKey(t)
	c.Conn, c.Key = server, key
	ln, err := kcp.Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan tunnel.ServerConn, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(accepted)
		conn, _, err := ln.Accept(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- conn
	})
	dialer := kcp.NewDialer(client)
	conn, err := dialer.Dial(context.Background(), server.LocalAddr(), &hash)
	if err != nil {
		t.Fatal(err)
	}
	return tunneltest.Ends{Client: conn, Server: <-accepted, Close: func() {
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if err := dialer.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}}
}

// simulated connects over a simulated network of 200 Mbit/s.
func simulated(t testing.TB, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	l := newLab(t, p)
	l.wire.rate = 200e6 / 8
	return l.connect(t, p)
}

// loopback connects over loopback UDP.
func loopback(t testing.TB, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	var sockets [2]*net.UDPConn
	for i := range sockets {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		sockets[i] = c
	}
	ends := connect(t, sockets[0], sockets[1], p)
	stop := ends.Close
	ends.Close = func() {
		stop()
		sockets[0].Close()
		sockets[1].Close()
	}
	return ends
}

// A wire is a router that loses packets, and may be a bottleneck.
type wire struct {
	simnet.PerfectRouter

	mu     sync.Mutex
	random *mathrand.Rand
	loss   int                  // packets of a thousand
	rate   float64              // bytes a second each way; zero: no bottleneck
	queue  time.Duration        // what the bottleneck's queue holds
	jitter time.Duration        // beyond the bottleneck, at most; packets keep their order
	due    map[string]time.Time // when the newest arrives, by who sends
	busy   map[string]time.Time // until when, by who sends
	sent   map[string]int       // bytes with their heads, by who sends
	heads  int                  // packets dropped by the queue
}

func (w *wire) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, size := p.From.String(), len(p.Data)+28
	w.sent[from] += size
	if w.rate == 0 {
		if w.random.IntN(1000) < w.loss {
			return nil
		}
		return w.PerfectRouter.SendPacket(p)
	}
	now := time.Now()
	start := w.busy[from]
	if start.Before(now) {
		start = now
	}
	if start.Sub(now) > w.queue {
		w.heads++
		return nil
	}
	end := start.Add(time.Duration(float64(size) / w.rate * float64(time.Second)))
	w.busy[from] = end
	if w.random.IntN(1000) < w.loss {
		return nil
	}
	if w.jitter > 0 {
		end = end.Add(time.Duration(w.random.Int64N(int64(w.jitter))))
	}
	if due := w.due[from]; !end.After(due) {
		end = due.Add(1)
	}
	w.due[from] = end
	time.AfterFunc(end.Sub(now), func() { _ = w.PerfectRouter.SendPacket(p) })
	return nil
}

// lose sets how many packets of a thousand are lost from now on.
func (w *wire) lose(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss = n
}

// A lab is a simulated network of one agent's and one buyer's machine.
type lab struct {
	wire           *wire
	net            *simnet.Simnet
	server, client *simnet.SimConn
	other          *simnet.SimConn // a third machine
}

func newLab(t testing.TB, p tunneltest.Path) *lab {
	t.Helper()
	l := &lab{wire: &wire{loss: p.Loss, queue: 100 * time.Millisecond, random: mathrand.New(mathrand.NewPCG(p.Seed, 1)),
		busy: map[string]time.Time{}, due: map[string]time.Time{}, sent: map[string]int{}}}
	l.net = &simnet.Simnet{Router: l.wire}
	settings := simnet.NodeBiDiLinkSettings{Latency: p.Delay}
	l.server = l.net.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4433}, settings)
	l.client = l.net.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 5000}, settings)
	l.other = l.net.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 3), Port: 6000}, settings)
	if err := l.net.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

// connect connects the two machines; the ends' Close closes the lab too.
func (l *lab) connect(t testing.TB, p tunneltest.Path) tunneltest.Ends {
	ends := connect(t, l.server, l.client, p)
	stop := ends.Close
	ends.Close = func() {
		stop()
		l.close(t)
	}
	return ends
}

func (l *lab) close(t testing.TB) {
	l.server.Close()
	l.client.Close()
	l.other.Close()
	if err := l.net.Close(); err != nil {
		t.Error(err)
	}
}
