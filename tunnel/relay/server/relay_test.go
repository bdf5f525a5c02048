package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// meet brings a buyer and an agent together by a relay, over UDP.
func meet(t *testing.T, r *rig, q market.Request) (buyer, agent *party, conn *quicgo.Conn) {
	t.Helper()
	agent = newParty(t, path.Config{})
	tls := agent.serveEcho(t)
	sessions := make(chan relay.Allotment, 4)
	a, err := relay.DialQUIC(t.Context(), agent.transport, r.addr(), r.config(testAgent(1), sessions))
	if err != nil {
		t.Fatal(err)
	}
	if want := agent.socket.LocalAddr().String(); a.Observed().String() != want {
		t.Errorf("observed %s, want %s", a.Observed(), want)
	}
	runAgent(t, a)
	r.dir.until(t, "offer", func() bool { return r.dir.offers[testAgent(1)] == `"offer"` })

	client := market.New(market.Config{Name: r.name})
	t.Cleanup(client.Close)
	page, err := client.Offers(t.Context(), market.Query{})
	if err != nil || len(page.Offers) != 1 {
		t.Fatalf("offers %+v, %v", page, err)
	}
	q.Agent = testAgent(1)
	mine, err := client.Session(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	theirs := <-sessions
	if mine.ID != theirs.ID || mine.Token == theirs.Token || mine.Address == theirs.Address || mine.Expires != 60 {
		t.Fatalf("buyer has %+v, agent %+v", mine, theirs)
	}
	agent.bind(t, theirs)
	buyer = newParty(t, path.Config{})
	b := buyer.bind(t, mine)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	conn, err = buyer.transport.Dial(ctx, udpAddr(b.Addr()), tls, &quicgo.Config{})
	if err != nil {
		t.Fatalf("dial through the relay: %v", err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	switch peer := b.Peer(); {
	case q.Direct && peer.String() != agent.socket.LocalAddr().String():
		t.Errorf("direct: peer %s, agent is at %s", peer, agent.socket.LocalAddr())
	case !q.Direct && peer != (netip.AddrPort{}):
		t.Errorf("not direct, and yet the peer is told: %s", peer)
	}
	return buyer, agent, conn
}

// TestThrough moves megabytes both ways through the relay, end to end.
func TestThrough(t *testing.T) {
	for name, direct := range map[string]bool{"relayed": false, "addresses told": true} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, nil)
			_, _, conn := meet(t, r, market.Request{Direct: direct})
			echo(t, conn, 8<<20)
			if n := r.packets.passed.Load(); n < 16<<20 {
				t.Errorf("%d bytes counted", n)
			}
		})
	}
}

// TestAgentMoves: the agent gets another address, binds again, and the
// connection goes on.
func TestAgentMoves(t *testing.T) {
	r := startRelay(t, nil)
	buyer, agent, conn := meet(t, r, market.Request{})
	echo(t, conn, 1<<20)
	before := agent.socket.LocalAddr().String()
	if err := agent.socket.Rebind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if agent.socket.LocalAddr().String() == before {
		t.Fatal("the agent did not move")
	}
	echo(t, conn, 1<<20)
	if err := buyer.socket.Rebind(t.Context()); err != nil {
		t.Fatal(err)
	}
	echo(t, conn, 1<<20)
}

// known brings an agent to the relay, and returns it with its sessions.
func known(t testing.TB, r *rig, n byte) (*party, *relay.Agent, chan relay.Allotment, chan error) {
	t.Helper()
	p := newParty(t, path.Config{})
	sessions := make(chan relay.Allotment, 16)
	a, err := relay.DialQUIC(t.Context(), p.transport, r.addr(), r.config(testAgent(n), sessions))
	if err != nil {
		t.Fatal(err)
	}
	return p, a, sessions, runAgent(t, a)
}

// TestOpen: a QUIC client that knows nothing of relays uses an open session,
// and who comes later does not.
func TestOpen(t *testing.T) {
	r := startRelay(t, nil)
	agent, _, sessions, _ := known(t, r, 1)
	tls := agent.serveEcho(t)
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	mine, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Open: true})
	if err != nil {
		t.Fatal(err)
	}
	agent.bind(t, <-sessions)
	dial := func(ctx context.Context) (*quicgo.Conn, error) {
		u, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		tr := &quicgo.Transport{Conn: u}
		t.Cleanup(func() { _ = tr.Close(); _ = u.Close() })
		return tr.Dial(ctx, udpAddr(mine.Address), tls, &quicgo.Config{})
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	echo(t, conn, 4<<20)
	late, cancelLate := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancelLate()
	if _, err := dial(late); err == nil {
		t.Error("a second client got the port")
	}
	echo(t, conn, 1<<20)
}

// TestSymmetric: both ends are behind NATs that use another port for each
// destination, so that the relay sees them elsewhere at each of its ports.
func TestSymmetric(t *testing.T) {
	r := startRelay(t, nil)
	nat := func(context.Context, string) (net.PacketConn, error) { return newSymmetric() }
	agent := newParty(t, path.Config{Open: nat})
	tls := agent.serveEcho(t)
	sessions := make(chan relay.Allotment, 4)
	a, err := relay.DialQUIC(t.Context(), agent.transport, r.addr(), r.config(testAgent(1), sessions))
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, a)
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	mine, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	agent.bind(t, <-sessions)
	buyer := newParty(t, path.Config{Open: nat})
	b := buyer.bind(t, mine)
	if b.Peer() == a.Observed() || !b.Peer().IsValid() {
		t.Errorf("the agent is at %s everywhere", b.Peer())
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	conn, err := buyer.transport.Dial(ctx, udpAddr(b.Addr()), tls, &quicgo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	echo(t, conn, 4<<20)
}

// A symmetric NAT has a socket for each destination.
type symmetric struct {
	mu     sync.Mutex
	out    map[string]net.PacketConn
	in     chan datagram // of all sockets; a full one drops
	done   chan struct{}
	wg     sync.WaitGroup
	expiry time.Time
	poke   chan struct{}
}

type datagram struct {
	b    []byte
	from net.Addr
}

func newSymmetric() (net.PacketConn, error) {
	return &symmetric{out: map[string]net.PacketConn{}, in: make(chan datagram, 1024), done: make(chan struct{}), poke: make(chan struct{}, 1)}, nil
}

func (s *symmetric) WriteTo(b []byte, to net.Addr) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.out[to.String()]
	if u == nil {
		select {
		case <-s.done:
			return 0, net.ErrClosed
		default:
		}
		var err error
		if u, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			return 0, err
		}
		s.out[to.String()] = u
		s.wg.Go(func() {
			for {
				b := make([]byte, 2000)
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				if from.String() != to.String() { // endpoint-dependent filtering
					continue
				}
				select {
				case s.in <- datagram{b[:n], from}:
				default:
				}
			}
		})
	}
	return u.WriteTo(b, to)
}

func (s *symmetric) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		s.mu.Lock()
		expired := !s.expiry.IsZero() && !time.Now().Before(s.expiry)
		s.mu.Unlock()
		if expired {
			return 0, nil, os.ErrDeadlineExceeded
		}
		select {
		case d := <-s.in:
			return copy(b, d.b), d.from, nil
		case <-s.done:
			return 0, nil, net.ErrClosed
		case <-s.poke:
		}
	}
}

func (s *symmetric) Close() error {
	s.mu.Lock()
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	for _, u := range s.out {
		_ = u.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *symmetric) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }
func (s *symmetric) SetDeadline(t time.Time) error {
	return s.SetReadDeadline(t)
}
func (s *symmetric) SetWriteDeadline(time.Time) error { return nil }
func (s *symmetric) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.expiry = t
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
	return nil
}

// TestSplice: two TCP connections become one, with half-close, for who has the
// tokens and once.
func TestSplice(t *testing.T) {
	for name, rate := range map[string]uint64{"free": 0, "limited": 64 << 20} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, func(c *Config) { c.Limits.SessionBytes = rate })
			sessions := make(chan relay.Allotment, 4)
			ended := make(chan relay.SessionID, 4)
			cfg := r.config(testAgent(1), sessions)
			cfg.Ended = func(id relay.SessionID) { ended <- id }
			a, err := relay.DialTCP(t.Context(), r.tcpFrom(t, "127.0.0.1"), cfg)
			if err != nil {
				t.Fatal(err)
			}
			runAgent(t, a)
			client := market.New(market.Config{Name: r.name})
			defer client.Close()
			mine, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Transport: "tcp"})
			if err != nil {
				t.Fatal(err)
			}
			theirs := <-sessions
			if !mine.TCP || !theirs.TCP || mine.Address.Port() != r.Port() || mine.Token == theirs.Token {
				t.Fatalf("%+v, %+v", mine, theirs)
			}
			join := func(a relay.Allotment, change func([]byte)) *net.TCPConn {
				c := r.tcpFrom(t, "127.0.0.1")
				b := relay.Preamble(a.ID, a.Token)
				if change != nil {
					change(b)
				}
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
				return c.(*net.TCPConn)
			}
			for i := range relay.PreambleSize { // forged ones are closed, and take nothing
				hostile := join(mine, func(b []byte) { b[i] ^= 0x01 })
				_ = hostile.CloseWrite()
				_ = hostile.SetReadDeadline(time.Now().Add(hang))
				if n, err := hostile.Read(make([]byte, 1)); err == nil {
					t.Fatalf("byte %d changed: %d bytes came", i, n)
				}
			}
			buyer := join(mine, nil)
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
			var wg sync.WaitGroup
			wg.Go(func() { // before the agent has come
				if _, err := buyer.Write(sent); err != nil {
					t.Error(err)
				}
				_ = buyer.CloseWrite()
			})
			agent := join(theirs, nil)
			_ = agent.SetReadDeadline(time.Now().Add(hang))
			got, err := io.ReadAll(agent)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes: %v", len(got), len(sent), err)
			}
			wg.Wait()
			// The buyer's half is closed; the agent's still carries.
			if _, err := agent.Write(sent[:1<<20]); err != nil {
				t.Error(err)
			}
			replay := join(mine, nil)
			_ = replay.SetReadDeadline(time.Now().Add(hang))
			if n, err := replay.Read(make([]byte, 1)); err == nil {
				t.Errorf("a preamble was replayed: %d bytes came", n)
			}
			_ = agent.Close()
			_ = buyer.SetReadDeadline(time.Now().Add(hang))
			if got, err = io.ReadAll(buyer); err != nil || !bytes.Equal(got, sent[:1<<20]) {
				t.Errorf("%d bytes back: %v", len(got), err)
			}
			select {
			case id := <-ended:
				if id != mine.ID {
					t.Errorf("%s ended", id)
				}
			case <-time.After(hang):
				t.Error("the agent is not told of the end")
			}
			if n := r.packets.passed.Load(); n != 5<<20 {
				t.Errorf("%d bytes counted", n)
			}
		})
	}
}

// TestSpliceAlone: a side that nobody comes for is closed at the end.
func TestSpliceAlone(t *testing.T) {
	r := startRelay(t, nil)
	_, a, sessions, _ := known(t, r, 1)
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	mine, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Transport: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	<-sessions
	c := r.tcpFrom(t, "127.0.0.1")
	if _, err := c.Write(relay.Preamble(mine.ID, mine.Token)); err != nil {
		t.Fatal(err)
	}
	if err := a.End(t.Context(), mine.ID); err != nil { // the agent does not want it
		t.Fatal(err)
	}
	ended(t, c)
	if _, err := client.Session(t.Context(), market.Request{Agent: testAgent(1), Transport: "tcp"}); err != nil {
		t.Error(err)
	}
}

// TestDrain: agents are told of the end; sessions go on meanwhile, new ones are
// not made; a relay with the same key has its agents back.
func TestDrain(t *testing.T) {
	cert := testCertificate(t)
	port := uint16(0)
	start := func() *rig {
		return startRelay(t, func(c *Config) {
			c.Certificate, c.Drain = cert, time.Minute
			c.Listen = netip.AddrPortFrom(c.Listen.Addr(), port)
		})
	}
	r := start()
	port = r.Port()
	_, _, conn := meet(t, r, market.Request{})
	_, a, _, errc := known(t, r, 2)
	stopped := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.stop(); close(stopped) })
	if err := <-errc; !errors.Is(err, relay.ErrDrain) {
		t.Errorf("the agent was told %v", err)
	}
	if err := a.Publish(t.Context(), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("publish: %v", err)
	}
	echo(t, conn, 1<<20)
	late := newParty(t, path.Config{})
	if _, err := relay.DialQUIC(t.Context(), late.transport, r.addr(), r.config(testAgent(3), nil)); !errors.Is(err, relay.ErrDrain) {
		t.Errorf("a late agent: %v", err)
	}
	if status, _, _ := r.request(t, r.clientFrom(t, "127.0.0.1", false), "GET", "/healthz", ""); status != 503 {
		t.Errorf("health %d", status)
	}
	for _, s := range r.table.all() { // the last session ends, and so does the relay
		r.endSession(s, false)
	}
	<-stopped
	wg.Wait()
	again := start()
	if again.name != r.name {
		t.Errorf("%s is now %s", r.name, again.name)
	}
	known(t, again, 2)
	again.dir.until(t, "the offer", func() bool { return again.dir.offers[testAgent(2)] != "" })
}

// TestChangedOffer: an offer that changes while the agent is let in is not lost.
func TestChangedOffer(t *testing.T) {
	r := startRelay(t, nil)
	offer := `"old"`
	c := r.config(testAgent(1), nil)
	c.Offer = func() []byte { return []byte(offer) }
	a, err := relay.DialQUIC(t.Context(), newParty(t, path.Config{}).transport, r.addr(), c)
	if err != nil {
		t.Fatal(err)
	}
	offer = `"new"`
	runAgent(t, a)
	r.dir.until(t, "the new offer", func() bool { return r.dir.offers[testAgent(1)] == offer })
}

// TestOffersReach: what agents publish is handed to the directory, and what it
// refuses is told.
func TestOffersReach(t *testing.T) {
	r := startRelay(t, nil)
	_, a, _, errc := known(t, r, 1)
	for _, o := range []string{`"one"`, `"bad"`, `"two"`} {
		if err := a.Publish(t.Context(), []byte(o)); err != nil {
			t.Fatal(err)
		}
	}
	r.dir.until(t, "two", func() bool { return r.dir.offers[testAgent(1)] == `"two"` })
	for range 30 { // too often is refused, and is no reason to end
		if err := a.Publish(t.Context(), []byte(`"three"`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Publish(t.Context(), nil); err != nil { // however often it offered
		t.Fatal(err)
	}
	r.dir.until(t, "the offer is withdrawn", func() bool { return r.dir.offers[testAgent(1)] == "" })
	if from := r.dir.from[testAgent(1)]; from != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("it came from %s", from)
	}
	select {
	case err := <-errc:
		t.Fatalf("the agent's connection ended: %v", err)
	default:
	}
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	if _, err := client.Offers(t.Context(), market.Query{}); err != nil {
		t.Error(err)
	}
	_, _, _, again := known(t, r, 1) // comes by another socket
	if err := <-errc; err == nil || !strings.Contains(err.Error(), relay.CodeReplaced) {
		t.Errorf("the old connection: %v", err)
	}
	select {
	case err := <-again:
		t.Errorf("the new connection: %v", err)
	default:
	}
	r.dir.until(t, "the agent is there", func() bool { return r.dir.seen[testAgent(1)] })
}
