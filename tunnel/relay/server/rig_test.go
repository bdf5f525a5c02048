package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// hang bounds what should be there at once: a test that waits so long fails.
const hang = time.Minute

// A ledgerless directory: agents sign by an HMAC that everybody can make, and
// offers are whatever they say.
type fakeDirectory struct {
	mu     sync.Mutex
	offers map[relay.Address]string
	from   map[relay.Address]netip.Addr
	seen   map[relay.Address]bool
	change chan struct{} // one place
}

func newFakeDirectory() *fakeDirectory {
	return &fakeDirectory{offers: map[relay.Address]string{}, from: map[relay.Address]netip.Addr{}, seen: map[relay.Address]bool{}, change: make(chan struct{}, 1)}
}

func fakeSignature(a relay.Address, exporter [32]byte) (s relay.Signature) {
	h := hmac.New(sha256.New, a[:])
	h.Write(exporter[:])
	copy(s[:], h.Sum(nil))
	return s
}

func (d *fakeDirectory) Authenticate(agent [20]byte, exporter [32]byte, signature [65]byte) error {
	if fakeSignature(agent, exporter) != signature {
		return errors.New("another's")
	}
	return nil
}

func (d *fakeDirectory) changed() {
	select {
	case d.change <- struct{}{}:
	default:
	}
}

func (d *fakeDirectory) Publish(agent [20]byte, from netip.Addr, offer []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.changed()
	if string(offer) == `"bad"` {
		return errors.New("bad offer")
	}
	d.offers[agent], d.from[agent] = string(offer), from
	if len(offer) == 0 {
		delete(d.offers, agent)
	}
	return nil
}

func (d *fakeDirectory) Seen(agent [20]byte, connected bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.changed()
	d.seen[agent] = connected
}

func (d *fakeDirectory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var p market.Page
	for a, o := range d.offers {
		if d.seen[a] {
			p.Offers = append(p.Offers, market.Listing{Offer: json.RawMessage(o), Seen: 1})
		}
	}
	answer(w, http.StatusOK, p)
}

// until waits for the directory to be in a state.
func (d *fakeDirectory) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(hang)
	for {
		d.mu.Lock()
		done := ok()
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-d.change:
		case <-deadline:
			t.Fatalf("never came: %s", what)
		}
	}
}

// A rig is a relay on the loopback.
type rig struct {
	*Server
	dir  *fakeDirectory
	name relay.Name
	stop func() // and wait
}

func testCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := SelfSigned(key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func startRelay(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	dir := newFakeDirectory()
	c := Config{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Certificate: testCertificate(t), Directory: dir}
	if change != nil {
		change(&c)
	}
	s, err := Listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := Pin(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("relay: %v", err)
		}
	})
	r := &rig{Server: s, dir: dir, name: relay.Name{Host: "127.0.0.1", Port: s.Port(), Pin: pin, Pinned: true}}
	r.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(r.stop)
	return r
}

func udpAddr(a netip.AddrPort) *net.UDPAddr { return net.UDPAddrFromAddrPort(a) }

func (r *rig) addr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.Port()))
}

func testAgent(n byte) (a relay.Address) {
	a[0], a[19] = n, 1
	return a
}

// config is an agent's; sessions are put into the channel.
func (r *rig) config(a relay.Address, sessions chan relay.Allotment) relay.AgentConfig {
	return relay.AgentConfig{
		Name: r.name, Agent: a, Offer: func() []byte { return []byte(`"offer"`) },
		Sign:    func(e [32]byte) (relay.Signature, error) { return fakeSignature(a, e), nil },
		Session: func(s relay.Allotment) { sessions <- s },
	}
}

// runAgent runs an agent's connection to its end, which the test waits for.
func runAgent(t testing.TB, a *relay.Agent) (errc chan error) {
	t.Helper()
	errc = make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { errc <- a.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return errc
}

// A party is an end of the tunnel on a socket that can move.
type party struct {
	socket    *path.Socket
	transport *quicgo.Transport
}

func newParty(t testing.TB, cfg path.Config) *party {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	s, err := path.Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &party{s, &quicgo.Transport{Conn: s.PacketConn()}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	_, _, _ = p.transport.ReadNonQUICPacket(cancelled(ctx), nil) // begins to read
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("path: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = p.transport.Close()
		_ = s.Close()
		wg.Wait()
	})
	return p
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func cancelled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func (p *party) bind(t testing.TB, a relay.Allotment) *path.Binding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	b, err := p.socket.Bind(ctx, path.Relay{Addr: a.Address, Session: path.ID(a.ID), Token: path.Key(a.Token)})
	if err != nil {
		t.Fatalf("bind: %v", err)
	}
	return b
}

const testALPN = "test"

// serveEcho answers every stream: what comes in goes out again.
func (p *party) serveEcho(t testing.TB) *tls.Config {
	t.Helper()
	cert := testCertificate(t)
	l, err := p.transport.Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{testALPN}}, &quicgo.Config{MaxIdleTimeout: hang})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			wg.Go(func() {
				for {
					s, err := conn.AcceptStream(context.Background())
					if err != nil {
						return
					}
					wg.Go(func() {
						_, _ = io.Copy(s, s)
						_ = s.Close()
					})
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); _ = p.transport.Close(); wg.Wait() })
	pin, err := Pin(cert)
	if err != nil {
		t.Fatal(err)
	}
	return relay.Name{Host: "agent.invalid", Port: 1, Pin: pin, Pinned: true}.TLS(testALPN)
}

// echo sends n bytes through conn and wants them back.
func echo(t testing.TB, conn *quicgo.Conn, n int) {
	t.Helper()
	s, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(hang))
	sent, got := sha256.New(), sha256.New()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(io.MultiWriter(s, sent), io.LimitReader(rand.Reader, int64(n))); err != nil {
			t.Errorf("send: %v", err)
		}
		_ = s.Close()
	})
	m, err := io.Copy(got, s)
	wg.Wait()
	if err != nil || m != int64(n) || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		t.Fatalf("%d of %d bytes came back, or others: %v", m, n, err)
	}
}
