package quic_test

import (
	"context"
	"crypto/ecdsa"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apernet/quic-go/testutils/simnet"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// options say what a pair of buyer and agent is like. Zero fields are the
// plain case.
type options struct {
	delay  time.Duration // one way
	loss   int           // packets of a thousand that are lost
	seed   uint64        // of what is lost
	limit  uint64        // the agent's credit in bytes; zero: plenty
	config tunnel.Config // of the session; its Dialer is net unless set
	frozen bool          // the agent never reads the control stream

	streams int // the agent's; zero: the default
}

const plenty = 1 << 40

// A pair is a buyer and an agent on one connection, each with a counter.
type pair struct {
	net              tunneltest.Net
	wire             *wire // nil: a real network
	session          *tunnel.Session
	client           *tunnel.Client
	conn             *quic.ClientConn
	agent, buyer     *tunneltest.Counter
	atAgent, atBuyer *tunnel.Control
	wg               sync.WaitGroup
	closers          []func()
}

func lanes(c *tunneltest.Counter) tunnel.Lanes {
	return tunnel.Lanes{UpTCP: c.UpTCP, DownTCP: c.DownTCP, UpUDP: c.UpUDP, DownUDP: c.DownUDP}
}

func all(uint64) bool { return true }

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

func connect(t testing.TB, server, client net.PacketConn, o options) *pair {
	t.Helper()
	if o.limit == 0 {
		o.limit = plenty
	}
	p := &pair{agent: tunneltest.NewCounter(o.limit), buyer: tunneltest.NewCounter(plenty)}
	if o.config.Dialer == nil {
		o.config.Dialer = &p.net
	}
	key, hash := newKey(t)
	ln, err := quic.Listen(quic.ListenConfig{Conn: server, Key: key, MaxStreams: o.streams})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	p.wg.Go(func() {
		defer close(ready)
		p.serve(t, ln, o)
	})
	dialer := quic.NewDialer(client)
	p.conn, err = dialer.Dial(context.Background(), server.LocalAddr(), &hash)
	if err != nil {
		t.Fatal(err)
	}
	p.atBuyer, err = tunnel.OpenControl(context.Background(), p.conn, "agent", all)
	if err != nil {
		t.Fatal(err)
	}
	p.client = tunnel.NewClient(p.conn, p.atBuyer, lanes(p.buyer))
	<-ready
	p.closers = []func(){func() { p.conn.Close(tunnel.ReasonDone, "") }, func() { ln.Close() }, func() { dialer.Close() }}
	return p
}

// serve is the agent of one connection.
func (p *pair) serve(t testing.TB, ln *quic.Listener, o options) {
	conn, _, err := ln.Accept(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	p.session = tunnel.NewSession(conn, o.config)
	p.wg.Go(func() { _ = p.session.Run() })
	if p.atAgent, err = p.session.Control(context.Background()); err != nil {
		t.Error(err)
		return
	}
	p.session.Admit(lanes(p.agent))
	if o.frozen {
		return
	}
	p.wg.Go(func() {
		for {
			if _, err := p.atAgent.Receive(); err != nil {
				return
			}
		}
	})
}

func (p *pair) close() {
	for _, f := range p.closers {
		f()
	}
	p.agent.Close(net.ErrClosed)
	p.wg.Wait()
	p.net.Wait()
}

// settled drains the session and holds both counts together.
func (p *pair) settled(t testing.TB) tunneltest.Totals {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p.session.Drain(ctx)
	if ctx.Err() != nil {
		t.Error("flows of the agent are left")
	}
	if err := p.client.Wait(ctx); err != nil {
		t.Fatalf("flows left: %v", err)
	}
	a, b := p.agent.Totals(), p.buyer.Totals()
	if a.DownTCP != b.DownTCP {
		t.Errorf("agent sent %d TCP bytes down, buyer received %d", a.DownTCP, b.DownTCP)
	}
	if a.UpTCP > b.UpTCP || a.UpUDP > b.UpUDP || b.DownUDP > a.DownUDP {
		t.Errorf("a receiver counts more than its sender:\nagent %+v\nbuyer %+v", a, b)
	}
	if a, b := p.agent.Outstanding(), p.buyer.Outstanding(); a != 0 || b != 0 {
		t.Errorf("still reserved: %d bytes at the agent, %d at the buyer", a, b)
	}
	return b
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
}

func (w *wire) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	lost := w.random.IntN(1000) < w.loss
	public := w.public
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

func newLab(t testing.TB, o options) *lab {
	t.Helper()
	client := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 5000}
	l := &lab{wire: &wire{client: client, loss: o.loss, random: rand.New(rand.NewPCG(o.seed, 1))}}
	l.net = &simnet.Simnet{Router: l.wire}
	settings := simnet.NodeBiDiLinkSettings{Latency: o.delay}
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

// simulated runs f with a pair on a simulated network. When f is done, nothing
// may be left running: synctest sees to it.
func simulated(t *testing.T, o options, f func(t *testing.T, p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, o)
		p := connect(t, l.server, l.client, o)
		p.wire = l.wire
		f(t, p)
		p.close()
		l.close(t)
	})
}

// real runs f with a pair on loopback UDP.
func real(t testing.TB, o options, f func(p *pair)) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := connect(t, server, client, o)
	defer p.close()
	f(p)
}

// pass lets simulated time pass.
func pass(d time.Duration) { <-time.After(d) }

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}
