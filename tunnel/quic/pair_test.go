package quic_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/apernet/quic-go/testutils/simnet"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

func TestConformance(t *testing.T) {
	tunneltest.Run(t, tunneltest.Transport{Simulated: simulated, Loopback: loopback, Uploads: 40, Idle: 64 << 10})
}

func BenchmarkRelay(b *testing.B) { tunneltest.Bench(b, loopback) }

// newKey returns an agent's key and its hash.
func newKey(t testing.TB) (*ecdsa.PrivateKey, [32]byte) {
	t.Helper()
	key, err := quic.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := quic.KeyHash(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, hash
}

// connect connects the sockets of a buyer and an agent.
func connect(t testing.TB, server, client net.PacketConn, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	key, hash := newKey(t)
	ln, err := quic.Listen(quic.ListenConfig{Conn: server, Key: key, MaxStreams: p.Streams})
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
	dialer := quic.NewDialer(client)
	conn, err := dialer.Dial(context.Background(), server.LocalAddr(), &hash)
	if err != nil {
		t.Fatal(err)
	}
	return tunneltest.Ends{Client: conn, Server: <-accepted, Close: func() {
		ln.Close()
		dialer.Close()
		wg.Wait()
	}}
}

// simulated connects over a simulated network.
func simulated(t testing.TB, p tunneltest.Path) tunneltest.Ends {
	t.Helper()
	return newLab(t, p).connect(t, p)
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

// A wire is a router that loses packets and can move the buyer to another
// address, as a NAT does.
type wire struct {
	simnet.PerfectRouter
	client *net.UDPAddr

	mu     sync.Mutex
	random *rand.Rand
	loss   int
	public *net.UDPAddr // what the agent sees of client; nil: itself
	tape   []simnet.Packet
	taping bool // what the buyer sends
}

func (w *wire) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	lost := w.random.IntN(1000) < w.loss
	public := w.public
	if w.taping && p.From.String() == w.client.String() {
		w.tape = append(w.tape, simnet.Packet{To: p.To, From: p.From, Data: bytes.Clone(p.Data)})
	}
	w.mu.Unlock()
	if lost {
		return nil
	}
	if public != nil {
		switch {
		case p.From.String() == w.client.String():
			p.From = public
		case p.To.String() == public.String():
			p.To = w.client
		case p.To.String() == w.client.String(): // a mapping that is gone
			return nil
		}
	}
	return w.PerfectRouter.SendPacket(p)
}

// record begins a tape of what the buyer sends, recorded ends and returns it.
func (w *wire) record() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tape, w.taping = nil, true
}

func (w *wire) recorded() []simnet.Packet {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taping = false
	return w.tape
}

// lose sets how many packets of a thousand are lost from now on.
func (w *wire) lose(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss = n
}

// move gives the buyer another public port.
func (w *wire) move(port int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.public = &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: port}
}

// A lab is a simulated network of one agent's and one buyer's machine.
type lab struct {
	wire           *wire
	net            *simnet.Simnet
	server, client *simnet.SimConn
}

func newLab(t testing.TB, o tunneltest.Path) *lab {
	t.Helper()
	client := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 5000}
	l := &lab{wire: &wire{client: client, loss: o.Loss, random: rand.New(rand.NewPCG(o.Seed, 1))}}
	l.net = &simnet.Simnet{Router: l.wire}
	settings := simnet.NodeBiDiLinkSettings{Latency: o.Delay}
	l.server = l.net.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4433}, settings)
	l.client = l.net.NewEndpoint(client, settings)
	if err := l.net.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) close(t testing.TB) {
	l.server.Close()
	l.client.Close()
	if err := l.net.Close(); err != nil {
		t.Error(err)
	}
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
