package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
	relaymarket "github.com/depinsim/x402/tunnel/relay/market"
)

type floodSettings struct {
	Agent string `json:"agent"` // its address
	Relay string `json:"relay"` // its name
	Offer string `json:"offer"` // path
}

type floodOrder struct {
	Kind  string        `json:"kind"`
	Lasts time.Duration `json:"lasts"`
}

// A flooded is what an order came to.
type flooded struct {
	Error    string        `json:"error,omitempty"`
	Attempts int           `json:"attempts"`
	Took     time.Duration `json:"took"`
}

// A flooder is hostile from all addresses of the loopback.
type flooder struct {
	agent    *net.UDPAddr
	name     relay.Name
	victim   relay.Address
	initials [2][][]byte // first packets of handshakes: for the agent and for the relay
	next     atomic.Uint32
	attempts atomic.Int64
}

// floodRole obeys one order after the other, until its input ends.
func floodRole(c console) error {
	var s floodSettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	f := &flooder{}
	var err error
	if f.agent, err = net.ResolveUDPAddr("udp4", s.Agent); err != nil {
		return err
	}
	if f.name, err = relay.ParseName(s.Relay); err != nil {
		return err
	}
	o, err := readOffer(s.Offer)
	if err != nil {
		return err
	}
	f.victim = relay.Address(o.Agent)
	if f.initials[0], err = firstPackets(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}); err != nil {
		return err
	}
	if f.initials[1], err = firstPackets(f.name.TLS(relay.ALPN)); err != nil {
		return err
	}
	for {
		var order floodOrder
		err := c.dec.Decode(&order)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		f.attempts.Store(0)
		began := time.Now()
		done := flooded{}
		if err := f.obey(order); err != nil {
			done.Error = err.Error()
		}
		done.Attempts, done.Took = int(f.attempts.Load()), time.Since(began)
		if err := c.enc.Encode(done); err != nil {
			return err
		}
	}
}

func (f *flooder) obey(o floodOrder) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.Lasts)
	defer cancel()
	at := &net.UDPAddr{IP: f.agent.IP, Port: int(f.name.Port)}
	switch o.Kind {
	case "datagrams":
		f.paced(ctx, 1, 5000, func() { f.datagrams() })
	case "handshakes":
		f.paced(ctx, 2, 2000, func() { f.halfOpen(ctx, f.agent, f.initials[0]) })
	case "relay":
		f.paced(ctx, 2, 2000, func() { f.halfOpen(ctx, at, f.initials[1]) })
	case "loris":
		f.paced(ctx, 64, 100, func() { f.loris(ctx) })
	case "sessions":
		f.sessions(ctx)
	default:
		return fmt.Errorf("unknown flood %q", o.Kind)
	}
	return nil
}

// paced calls do so often a second, by a number of goroutines, until ctx ends.
// Who is late is not made up for: the flood must not take the machine.
func (f *flooder) paced(ctx context.Context, workers, perSecond int, do func()) {
	tokens := make(chan struct{}, 20)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range tokens {
				f.attempts.Add(1)
				do()
			}
		})
	}
	const ticks = 200 // a second
	tick := time.NewTicker(time.Second / ticks)
	defer tick.Stop()
	due := 0 // in parts of a tick's
	for ctx.Err() == nil {
		<-tick.C
		for due += perSecond; due >= ticks; due -= ticks {
			select {
			case tokens <- struct{}{}:
			default:
			}
		}
	}
	close(tokens)
	wg.Wait()
}

// source is another address each time.
func (f *flooder) source() net.IP {
	n := f.next.Add(1)
	return net.IPv4(127, 1+byte(n>>16&0x3f), byte(n>>8), byte(n)|1)
}

// send sends packets from one address.
func (f *flooder) send(to *net.UDPAddr, packets ...[]byte) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: f.source()})
	if err != nil {
		return
	}
	defer conn.Close()
	for _, b := range packets {
		_, _ = conn.WriteTo(b, to) // a flood does not mind
	}
}

// datagrams sends one each of what the agent's socket tells apart.
func (f *flooder) datagrams() {
	noise := func(first byte, n int) []byte {
		b := make([]byte, n)
		_, _ = rand.Read(b) // it has no errors
		b[0] = first
		return b
	}
	long, kcp := noise(0xc3, 1200), noise(1, 64)
	copy(long[1:], []byte{0, 0, 0, 1, 8})
	copy(kcp[1:], []byte{0, 0, 0, 0, 1})
	probe := noise(0, 53)
	probe[1] = 4
	f.send(f.agent, long, noise(0x40, 1200), probe, kcp)
}

// halfOpen begins a handshake by QUIC and one by TLS.
func (f *flooder) halfOpen(ctx context.Context, to *net.UDPAddr, initials [][]byte) {
	f.send(to, initials[int(f.next.Load())%len(initials)])
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: f.source()}, Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte("\x16\x03\x01\x02\x00"))
	time.AfterFunc(10*time.Second, func() { _ = conn.Close() })
}

// loris is a buyer who opens flows, sends on them what he may, and says no hello.
func (f *flooder) loris(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var conn tunnel.ClientConn
	if f.next.Load()%2 == 0 {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: f.source()})
		if err != nil {
			return
		}
		defer u.Close()
		d := quic.NewDialer(u)
		defer d.Close()
		c, err := d.Dial(ctx, f.agent, nil)
		if err != nil {
			return
		}
		conn = c
	} else {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: f.source()}}
		raw, err := d.DialContext(ctx, "tcp", f.agent.String())
		if err != nil {
			return
		}
		c, err := h2.Client(ctx, raw, nil)
		if err != nil {
			return
		}
		conn = c
	}
	var wg sync.WaitGroup
	for range 20 {
		r, err := conn.Open(ctx, tunnel.Header{Method: http.MethodConnect, Authority: "example.com:80"})
		if err != nil {
			break
		}
		wg.Go(func() { _, _ = r.Write(make([]byte, chunk)) })
	}
	select {
	case <-ctx.Done():
	case <-conn.Context().Done():
	}
	_ = conn.Close(tunnel.ReasonDone, "")
	wg.Wait()
}

// sessions asks the relay for sessions with the agent, from many sources.
func (f *flooder) sessions(ctx context.Context) {
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: f.source()}}
				c := relaymarket.New(relaymarket.Config{Name: f.name, Dial: d.DialContext})
				for range 20 { // as many as a source may
					if ctx.Err() != nil {
						break
					}
					_, _ = c.Session(ctx, relaymarket.Request{Agent: f.victim})
					f.attempts.Add(1)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
}

// firstPackets are those of handshakes that go no further.
func firstPackets(config *tls.Config) (all [][]byte, err error) {
	for range 64 {
		u, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan []byte, 1)
		tr := &quicgo.Transport{Conn: &listener{u, first, cancel}}
		_, err = tr.Dial(ctx, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, config, nil)
		if err == nil {
			return nil, errors.New("connected to nobody")
		}
		all = append(all, <-first)
		if err := errors.Join(tr.Close(), u.Close()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// A listener keeps the first packet that is sent, and sends none.
type listener struct {
	net.PacketConn
	first chan []byte
	then  func()
}

func (l *listener) WriteTo(b []byte, _ net.Addr) (int, error) {
	select {
	case l.first <- append([]byte(nil), b...):
		l.then()
	default:
	}
	return len(b), nil
}
