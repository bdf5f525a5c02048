package path

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"
)

func tlsConfigs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"t"}},
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"t"}}
}

// An end is one end of a connection with all that it needs.
type end struct {
	sock      *Socket
	transport *quicgo.Transport
	conn      *quicgo.Conn
	mover     *Mover
	moved     chan bool // whether it is direct
	lost      chan struct{}
}

// A couple is a buyer and an agent with one connection.
type couple struct {
	t            testing.TB
	buyer, agent *end
	config       *quicgo.Config
	ln           *quicgo.Listener
	ctx          context.Context
	cancel       context.CancelFunc
	wg           sync.WaitGroup
	closers      []func()
}

func newEnd(t testing.TB, cfg Config) *end {
	t.Helper()
	e := &end{sock: must[*Socket](t)(Listen(context.Background(), cfg)), moved: make(chan bool, 64), lost: make(chan struct{}, 64)}
	e.transport = &quicgo.Transport{Conn: e.sock.PacketConn()}
	started, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, _ = e.transport.ReadNonQUICPacket(started, nil) // it reads from now on; see Bind
	return e
}

// newCouple opens both sockets and runs them.
func newCouple(t testing.TB, buyer, agent Config) *couple {
	t.Helper()
	c := &couple{t: t, buyer: newEnd(t, buyer), agent: newEnd(t, agent)}
	c.config = &quicgo.Config{EnableDatagrams: true, KeepAlivePeriod: 22 * time.Second, MaxIdleTimeout: 70 * time.Second}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, e := range []*end{c.buyer, c.agent} {
		c.wg.Go(func() {
			if err := e.sock.Run(c.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return c
}

// dial connects both ends, the buyer's by way of addr, and attaches them.
func (c *couple) dial(addr net.Addr) {
	c.t.Helper()
	server, client := tlsConfigs(c.t)
	ln := must[*quicgo.Listener](c.t)(c.agent.transport.Listen(server, c.config))
	c.ln = ln
	accepted := make(chan *quicgo.Conn, 1)
	c.wg.Go(func() {
		conn, err := ln.Accept(c.ctx)
		if err != nil {
			c.t.Error(err)
		}
		accepted <- conn
	})
	c.buyer.conn = must[*quicgo.Conn](c.t)(c.buyer.transport.Dial(c.ctx, addr, client, c.config))
	c.agent.conn = <-accepted
	c.agent.attach(c.t, false)
	c.buyer.attach(c.t, true)
	c.echoes()
}

func (e *end) attach(t testing.TB, buyer bool) {
	t.Helper()
	cs := e.conn.ConnectionState().TLS
	secret := must[[]byte](t)(cs.ExportKeyingMaterial(ExporterLabel, nil, 32))
	e.mover = must[*Mover](t)(e.sock.Attach(Path{
		Addr: e.conn.RemoteAddr(), Secret: [32]byte(secret), Buyer: buyer,
		Moved: func(_ netip.AddrPort, direct bool) { e.moved <- direct },
		Lost:  func() { e.lost <- struct{}{} },
	}))
}

// echoes lets the agent answer what comes on its connection.
func (c *couple) echoes() {
	conn := c.agent.conn
	c.wg.Go(func() { c.echo(conn) })
}

func (c *couple) echo(conn *quicgo.Conn) {
	for {
		s, err := conn.AcceptStream(c.ctx)
		if err != nil {
			return
		}
		c.wg.Go(func() {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
	}
}

// rally sends n bytes to the agent and back, and checks them.
func (c *couple) rally(n int) error {
	s, err := c.buyer.conn.OpenStreamSync(c.ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_, _ = io.Copy(s, io.LimitReader(&pattern{}, int64(n)))
		_ = s.Close()
	})
	back, want := make([]byte, 32<<10), &pattern{}
	expect := make([]byte, 32<<10)
	for got := 0; got < n; {
		k, err := s.Read(back)
		_, _ = want.Read(expect[:k])
		if string(back[:k]) != string(expect[:k]) {
			return io.ErrUnexpectedEOF
		}
		if got += k; err != nil && got < n {
			return err
		}
	}
	return nil
}

// pattern is a stream that shows what is out of place.
type pattern struct{ n uint32 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.n>>12) ^ byte(p.n*7)
		p.n++
	}
	return len(b), nil
}

func (c *couple) close() {
	for _, e := range []*end{c.buyer, c.agent} {
		if e.conn != nil {
			_ = e.conn.CloseWithError(0, "")
		}
	}
	for _, e := range []*end{c.buyer, c.agent} {
		_ = e.transport.Close()
		if e.mover != nil {
			e.mover.Close()
		}
	}
	c.cancel()
	for _, f := range c.closers {
		f()
	}
	_ = c.buyer.sock.Close()
	_ = c.agent.sock.Close()
	c.wg.Wait()
}

// bind binds both ends to a relay.
func (c *couple) bind(r *relay) (buyer *Binding) {
	c.t.Helper()
	must[*Binding](c.t)(c.agent.sock.Bind(c.ctx, r.side(1)))
	return must[*Binding](c.t)(c.buyer.sock.Bind(c.ctx, r.side(0)))
}
