package bbr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/testutils/simnet"
)

// A wire is a network for real QUIC connections in simulated time: one
// bottleneck in each direction.
type wire struct {
	rate  int64 // bytes/s
	queue time.Duration
	delay time.Duration
	loss  float64

	mu     sync.Mutex
	random *rand.Rand
	nodes  map[string]simnet.PacketReceiver
	free   map[string]time.Time // by destination
	dead   bool
}

func newWire(rate int64, loss float64) *wire {
	return &wire{
		rate: rate, queue: 100 * time.Millisecond, delay: 20 * time.Millisecond, loss: loss,
		random: rand.New(rand.NewPCG(1, 2)), nodes: map[string]simnet.PacketReceiver{}, free: map[string]time.Time{},
	}
}

func (w *wire) AddNode(a net.Addr, r simnet.PacketReceiver) { w.nodes[a.String()] = r }

func (w *wire) SendPacket(p simnet.Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	start := w.free[p.To.String()]
	if start.Before(now) {
		start = now
	}
	if w.dead || start.Sub(now) > w.queue {
		return nil
	}
	end := start.Add(time.Duration(int64(len(p.Data)+28) * int64(time.Second) / w.rate))
	w.free[p.To.String()] = end
	if w.random.Float64() < w.loss {
		return nil
	}
	to := w.nodes[p.To.String()]
	time.AfterFunc(end.Sub(now)+w.delay, func() { to.RecvPacket(p) })
	return nil
}

func (w *wire) set(dead bool, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead, w.delay = dead, delay
}

// A receiver counts what arrives.
type receiver struct {
	mu sync.Mutex
	n  int64
}

func (r *receiver) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n += int64(len(b))
	return len(b), nil
}

func (r *receiver) count() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// transfer sets up a connection over w and calls f with a stream to write to.
func transfer(t *testing.T, w *wire, c *Controller, f func(s io.Writer, r *receiver)) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &quicgo.Transport{Conn: simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, w)}
	b := &quicgo.Transport{Conn: simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1}, w)}
	conf := &quicgo.Config{MaxIdleTimeout: time.Minute, InitialStreamReceiveWindow: 8 << 20, MaxStreamReceiveWindow: 8 << 20, InitialConnectionReceiveWindow: 8 << 20}
	ln, err := a.Listen(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"t"}}, conf)
	if err != nil {
		t.Fatal(err)
	}
	var r receiver
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		s, err := conn.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		_, _ = io.Copy(&r, s) // ends with the connection
	})
	conn, err := b.Dial(context.Background(), ln.Addr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"t"}}, conf)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetCongestionControl(c)
	s, err := conn.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	f(s, &r)
	_ = conn.CloseWithError(0, "")
	wg.Wait()
	for _, c := range []io.Closer{ln, a, b, a.Conn, b.Conn} {
		_ = c.Close()
	}
}

// TestQUIC carries real connections of this quic-go in simulated time: at 2%
// loss, through a blackout, and after Reset on a path of another length.
func TestQUIC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 2500000
		w, c := newWire(rate, 0.02), seeded(1)
		transfer(t, w, c, func(s io.Writer, r *receiver) {
			var wg sync.WaitGroup
			wg.Go(func() {
				b := make([]byte, 1<<16)
				for {
					if _, err := s.Write(b); err != nil {
						return
					}
				}
			})
			part := func(name string, d time.Duration, least float64) {
				before := r.count()
				time.Sleep(d)
				got := mbit(r.count()-before, d)
				t.Logf("%s: %.2f of %.2f Mbit/s", name, got, mbit(rate, time.Second)*0.98*0.95)
				if got < least {
					t.Errorf("%s: %.2f Mbit/s", name, got)
				}
			}
			part("start", 4*time.Second, 17)
			w.set(true, 20*time.Millisecond)
			time.Sleep(15 * time.Second)
			w.set(false, 20*time.Millisecond)
			part("after 15 s of silence", 3*time.Second, 9)
			w.set(false, 60*time.Millisecond)
			c.Reset()
			part("on a longer path", 4*time.Second, 15)
			_ = s.(io.Closer).Close()
			s.(*quicgo.SendStream).CancelWrite(0)
			wg.Wait()
		})
	})
}

// TestQUICPauses: an application that sends now and then is known to be the
// reason for its rate, not the path.
func TestQUICPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := newWire(2500000, 0), seeded(1)
		transfer(t, w, c, func(s io.Writer, r *receiver) {
			write := func(n int) {
				if _, err := s.Write(make([]byte, n)); err != nil {
					t.Error(err)
				}
			}
			write(8 << 20)
			time.Sleep(100 * time.Millisecond)
			for range 200 { // 100 kbit/s for 20 s
				write(1250)
				time.Sleep(100 * time.Millisecond)
			}
			before := r.count()
			write(2 << 20)
			time.Sleep(time.Second)
			if got := mbit(r.count()-before, time.Second); got < 15 {
				t.Errorf("%.2f Mbit/s in the second after a quiet time", got)
			}
		})
	})
}
