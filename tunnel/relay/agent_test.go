package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"
)

// A script plays a relay.
type script struct {
	cert tls.Certificate
	name Name
}

func newScript(t testing.TB) script {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return script{
		tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		Name{Host: "127.0.0.1", Port: 1, Pin: sha256.Sum256(leaf.RawSubjectPublicKeyInfo), Pinned: true},
	}
}

func (s script) config(alpn string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{alpn}}
}

func (s script) agent() AgentConfig {
	return AgentConfig{
		Name: s.name, Agent: Address{1}, Offer: func() []byte { return []byte(`"offer"`) },
		Sign:    func(e [32]byte) (Signature, error) { return Signature(append(e[:], make([]byte, 33)...)), nil },
		Session: func(Allotment) {},
	}
}

// send writes messages, and says what it got before with read.
func send(t testing.TB, w io.Writer, ms ...Message) {
	t.Helper()
	for _, m := range ms {
		b, err := m.Append(nil)
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			t.Errorf("relay: send %s: %v", m.Type, err)
		}
	}
}

// overPipe plays a relay to an agent that came by TCP, in simulated time. play
// owns the relay's end; it is closed after it. The test goes on with the agent.
func overPipe(t *testing.T, c func(*AgentConfig), play func(*tls.Conn), then func(*Agent, error)) {
	t.Helper()
	s := newScript(t)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			conn := tls.Server(far, s.config(ALPN))
			if conn.Handshake() == nil {
				play(conn)
			}
			_ = far.Close()
		})
		cfg := s.agent()
		if c != nil {
			c(&cfg)
		}
		a, err := DialTCP(t.Context(), near, cfg)
		then(a, err)
		wg.Wait()
	})
}

// welcome reads the hello, checks that it is bound to the connection, and
// answers.
func welcome(t testing.TB, conn *tls.Conn) {
	t.Helper()
	state := conn.ConnectionState()
	want, err := state.ExportKeyingMaterial(ExporterLabel, nil, 32)
	if err != nil {
		t.Error(err)
	}
	m, err := ReadMessage(conn)
	if err != nil || m.Type != TypeHello || m.Version != Version || m.Agent != (Address{1}) || !bytes.Equal(m.Signature[:32], want) {
		t.Errorf("hello %+v, %v", m, err)
	}
	send(t, conn, Message{Type: TypeWelcome, Version: 1, Observed: netip.MustParseAddrPort("192.0.2.1:7")})
}

func TestAgentOverTCP(t *testing.T) {
	good := Allotment{ID: SessionID{1}, Token: Token{2}, Address: netip.MustParseAddrPort("192.0.2.1:7"), Expires: 60}
	var told []string
	overPipe(t, func(c *AgentConfig) {
		c.Session = func(a Allotment) { told = append(told, "session "+a.ID.String()) }
		c.Ended = func(id SessionID) { told = append(told, "end "+id.String()) }
		c.Watch = func(text []byte) { told = append(told, "watch "+string(text)) }
	}, func(conn *tls.Conn) {
		welcome(t, conn)
		if m, err := ReadMessage(conn); err != nil || m.Type != TypeOffer || string(m.Offer) != `"offer"` {
			t.Errorf("offer %+v, %v", m, err)
		}
		send(t, conn, Message{Type: TypeSession, Allotment: &good}, Message{Type: "later"}, Message{Type: TypeEnd, Allotment: &good},
			Message{Type: TypeWatch, Watch: []byte(`{"amount":"7"}`)}, Message{Type: TypeNotice, Code: CodeOffer, Text: "no"})
		for i, want := range []string{TypeOffer, TypeEnd, TypeWatch} {
			if m, err := ReadMessage(conn); err != nil || m.Type != want {
				t.Errorf("%d: %+v, %v", i, m, err)
			}
		}
		for range 10 { // pings, answered, keep it alive
			began := time.Now()
			m, err := ReadMessage(conn)
			if err != nil || m.Type != TypePing || time.Since(began) > KeepAlive {
				t.Errorf("after %s: %+v, %v", time.Since(began), m, err)
			}
			send(t, conn, m)
		}
		send(t, conn, Message{Type: TypeDrain})
	}, func(a *Agent, err error) {
		if err != nil {
			t.Error(err)
			return
		}
		if a.Observed().String() != "192.0.2.1:7" {
			t.Errorf("observed %s", a.Observed())
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := errors.Join(a.Publish(context.Background(), []byte(`"more"`)), a.End(context.Background(), SessionID{1}),
				a.Watch(context.Background(), []byte(`{}`))); err != nil {
				t.Error(err)
			}
		})
		if err := a.Run(context.Background()); !errors.Is(err, ErrDrain) {
			t.Errorf("run: %v", err)
		}
		wg.Wait()
		if err := a.Publish(context.Background(), nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("publish after the end: %v", err)
		}
	})
	if strings.Join(told, ", ") != `session 0100000000000000, end 0100000000000000, watch {"amount":"7"}` {
		t.Errorf("told %q", told)
	}
}

// TestBadRelays: whatever a relay does, the agent says why and goes on.
func TestBadRelays(t *testing.T) {
	raw := func(b string) func(*tls.Conn) {
		return func(conn *tls.Conn) {
			welcome(t, conn)
			_, _ = io.WriteString(conn, b)
			_, _ = io.Copy(io.Discard, conn)
		}
	}
	tests := map[string]struct {
		play func(*tls.Conn)
		dial string // error of dialling
		run  string // error of running, one of several
	}{
		"silent from the start": {play: func(conn *tls.Conn) { _, _ = io.Copy(io.Discard, conn) }, dial: "deadline exceeded"},
		"silent later": {play: func(conn *tls.Conn) {
			welcome(t, conn)
			_, _ = io.Copy(io.Discard, conn)
		}, run: "timeout"},
		"refuses": {play: func(conn *tls.Conn) {
			_, _ = ReadMessage(conn)
			send(t, conn, Message{Type: TypeNotice, Code: CodeSignature, Text: "no\x1b[2J"})
		}, dial: `signature: "no\x1b[2J"`},
		"refuses later": {play: func(conn *tls.Conn) {
			welcome(t, conn)
			send(t, conn, Message{Type: TypeNotice, Code: CodeReplaced, Text: "gone"})
			_, _ = io.Copy(io.Discard, conn)
		}, run: "replaced"},
		"talks and never welcomes": {play: func(conn *tls.Conn) {
			for {
				b, _ := Message{Type: "later"}.Append(nil)
				if _, err := conn.Write(b); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, dial: "deadline exceeded"},
		"too long":              {play: raw("\xff\xff" + strings.Repeat(" ", 1<<16)), run: "at most"},
		"no JSON":               {play: raw("\x00\x02xx"), run: "invalid character"},
		"session of nothing":    {play: raw("\x00\x12" + `{"type":"session"}`), run: "without members"},
		"session without token": {play: raw("\x00\x2a" + `{"type":"session","id":"0100000000000000"}`), run: "incomplete"},
		"ends":                  {play: func(conn *tls.Conn) { welcome(t, conn); _, _ = ReadMessage(conn) }, run: "EOF|closed pipe"},
		"ends at once":          {play: func(*tls.Conn) {}, dial: "closed pipe"},
		"cut": {play: func(conn *tls.Conn) {
			welcome(t, conn)
			_, _ = ReadMessage(conn)
			_, _ = io.WriteString(conn, "\x00\x99{")
		}, run: "EOF"},
		"welcomes without being": {play: func(conn *tls.Conn) { _, _ = ReadMessage(conn); _, _ = io.WriteString(conn, "\x00\x01{") }, dial: "unexpected end"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			overPipe(t, nil, tt.play, func(a *Agent, err error) {
				if tt.dial != "" {
					if err == nil || !strings.Contains(err.Error(), tt.dial) {
						t.Errorf("dial: %v, want %q", err, tt.dial)
					}
					return
				}
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				err = a.Run(context.Background())
				if err == nil || !slices.ContainsFunc(strings.Split(tt.run, "|"), func(s string) bool { return strings.Contains(err.Error(), s) }) {
					t.Errorf("run: %v, want %q", err, tt.run)
				}
			})
		})
	}
}

// TestRunEnds: a cancelled context ends a running agent without an error.
func TestRunEnds(t *testing.T) {
	overPipe(t, nil, func(conn *tls.Conn) {
		welcome(t, conn)
		_, _ = io.Copy(io.Discard, conn)
	}, func(a *Agent, err error) {
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestWrongKey: neither over TCP nor over QUIC is another than the named relay
// told anything.
func TestWrongKey(t *testing.T) {
	overPipe(t, func(c *AgentConfig) { c.Name.Pin[0] ^= 1 }, func(conn *tls.Conn) {
		if m, err := ReadMessage(conn); err == nil {
			t.Errorf("it was told %+v", m)
		}
	}, func(a *Agent, err error) {
		if !errors.Is(err, ErrWrongKey) {
			t.Errorf("TCP: %v", err)
		}
	})
	s := newScript(t)
	relay, addr := listenQUIC(t, s, "127.0.0.1:0", nil)
	defer relay.Close()
	if _, err := relay.Listen(s.config(ALPN), nil); err != nil {
		t.Fatal(err)
	}
	c := s.agent()
	c.Name.Pin[0] ^= 1
	if _, err := DialQUIC(t.Context(), newTransport(t), addr, c); !errors.Is(err, ErrWrongKey) {
		t.Errorf("QUIC: %v", err)
	}
	c.Name.Pinned = false // then the certificate must be one that browsers accept
	if _, err := DialQUIC(t.Context(), newTransport(t), addr, c); err == nil {
		t.Error("QUIC: a certificate of nobody")
	}
}

func newTransport(t testing.TB) *quicgo.Transport {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &quicgo.Transport{Conn: u}
	t.Cleanup(func() { _ = tr.Close(); _ = u.Close() })
	return tr
}

func listenQUIC(t testing.TB, s script, at string, reset *quicgo.StatelessResetKey) (*quicgo.Transport, net.Addr) {
	t.Helper()
	u, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	tr := &quicgo.Transport{Conn: u, StatelessResetKey: reset}
	t.Cleanup(func() { _ = tr.Close(); _ = u.Close() })
	return tr, u.LocalAddr()
}

// dies is a socket that stops to exist: what it sends is lost.
type dies struct {
	net.PacketConn
	mu   sync.Mutex
	dead bool
}

func (d *dies) WriteTo(b []byte, a net.Addr) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return len(b), nil
	}
	return d.PacketConn.WriteTo(b, a)
}

// TestRelayRestarts: after a relay was killed and started again, the next ping
// tells the agent: a packet with one is long enough for a stateless reset.
func TestRelayRestarts(t *testing.T) {
	s, reset := newScript(t), quicgo.StatelessResetKey{1}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	killed := &dies{PacketConn: u}
	first := &quicgo.Transport{Conn: killed, StatelessResetKey: &reset}
	l, err := first.Listen(s.config(ALPN), &quicgo.Config{MaxIdleTimeout: Silence})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		stream, err := conn.AcceptStream(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = ReadMessage(stream)
		send(t, stream, Message{Type: TypeWelcome, Version: 1})
		if m, err := ReadMessage(stream); err != nil || m.Type != TypeOffer {
			t.Errorf("%+v, %v", m, err)
		}
		close(got)
	})
	a, err := DialQUIC(t.Context(), newTransport(t), u.LocalAddr(), s.agent())
	if err != nil {
		t.Fatal(err)
	}
	errc := make(chan error, 1)
	wg.Go(func() { errc <- a.Run(context.Background()) })
	<-got
	killed.mu.Lock()
	killed.dead = true
	killed.mu.Unlock()
	_ = first.Close() // of which nobody hears
	_ = u.Close()
	second, _ := listenQUIC(t, s, u.LocalAddr().String(), &reset)
	if _, err := second.Listen(s.config(ALPN), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.send(t.Context(), Message{Type: TypePing}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-errc:
		if _, ok := errors.AsType[*quicgo.StatelessResetError](err); !ok {
			t.Errorf("run: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the agent does not notice")
	}
	wg.Wait()
}
