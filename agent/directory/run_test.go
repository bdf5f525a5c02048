package directory

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// patience bounds what should be there at once.
const patience = time.Minute

// A running relay.
type running struct {
	name    relay.Name
	metrics net.Addr
	stop    func() error // and wait
}

// loopback is the config of a relay of this machine.
func loopback(t *testing.T) Config {
	return Config{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Host: "127.0.0.1", KeyFile: filepath.Join(t.TempDir(), "key")}
}

func run(t *testing.T, c Config) *running {
	t.Helper()
	return runWith(t, c, Run)
}

func runWith(t *testing.T, c Config, f func(context.Context, Config) error) *running {
	t.Helper()
	r := new(running)
	ready, errc := make(chan struct{}), make(chan error, 1) // ready is closed when r is filled
	c.Ready = func(n relay.Name, metrics net.Addr) error {
		r.name, r.metrics = n, metrics
		close(ready)
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { errc <- f(ctx, c) })
	r.stop = sync.OnceValue(func() error {
		cancel()
		wg.Wait()
		return <-errc
	})
	t.Cleanup(func() { _ = r.stop() })
	select {
	case <-ready:
		return r
	case err := <-errc:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	return nil
}

// A seller is an agent's end of a control connection.
type seller struct {
	key      *channel.Key
	control  *relay.Agent
	sessions chan relay.Allotment
	ended    chan error
}

func (r *running) sell(t *testing.T, n int, price channel.Amount) *seller {
	t.Helper()
	s := &seller{key: testKey(t, n), sessions: make(chan relay.Allotment, 1), ended: make(chan error, 1)}
	o := testOffer()
	o.Relays, o.Price = []string{r.name.String()}, agent.Price{Up: price, Down: price}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &quicgo.Transport{Conn: conn}
	to, err := net.ResolveUDPAddr("udp", r.name.Address())
	if err != nil {
		t.Fatal(err)
	}
	s.control, err = relay.DialQUIC(t.Context(), transport, to, relay.AgentConfig{
		Name: r.name, Agent: relay.Address(s.key.Address()), Offer: func() []byte { return sign(t, s.key, o) },
		Sign: func(e [32]byte) (relay.Signature, error) {
			return relay.Signature(s.key.Sign(agent.RelayDigest(e))), nil
		},
		Session: func(a relay.Allotment) { s.sessions <- a },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { s.ended <- s.control.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = transport.Close()
		_ = conn.Close()
	})
	return s
}

// listed asks until so many offers are listed.
func listed(t *testing.T, c *market.Client, q market.Query, want int) []agent.Offer {
	t.Helper()
	tick, end := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		p, err := c.Offers(t.Context(), q)
		if e, ok := errors.AsType[*market.RefusedError](err); err != nil && (!ok || e.Status != http.StatusTooManyRequests) {
			t.Fatal(err)
		}
		if len(p.Offers) == want {
			var offers []agent.Offer
			for _, l := range p.Offers {
				o, err := agent.ParseOffer(l.Offer)
				if err != nil {
					t.Fatal(err)
				}
				offers = append(offers, o)
			}
			return offers
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%d offers, want %d", len(p.Offers), want)
		}
	}
}

// TestMarket is the relay's whole story: two agents publish, a buyer chooses
// the cheaper one and sends him a packet.
func TestMarket(t *testing.T) {
	r := run(t, loopback(t))
	dear, cheap := r.sell(t, 0, 4_000_000), r.sell(t, 1, 3_000_000)
	buyer := market.New(market.Config{Name: r.name})
	defer buyer.Close()
	offers := listed(t, buyer, market.Query{Country: "de", Technology: "lte", MaxPrice: "4.00"}, 2)
	if offers[0].Agent != cheap.key.Address() || offers[1].Agent != dear.key.Address() {
		t.Errorf("%s before %s", offers[0].Agent, offers[1].Agent)
	}
	mine, err := buyer.Session(t.Context(), market.Request{Agent: relay.Address(offers[0].Agent)})
	if err != nil {
		t.Fatal(err)
	}
	theirs := <-cheap.sessions
	if theirs.ID != mine.ID || theirs.Token == mine.Token || theirs.Address == mine.Address {
		t.Errorf("%+v and %+v", theirs, mine)
	}
	a, b := bind(t, theirs), bind(t, mine)
	b.exchange(t, a, "hello")
	a.exchange(t, b, "who is there?")

	// An agent that is not there, and one that publishes what is not right.
	_, err = buyer.Session(t.Context(), market.Request{Agent: relay.Address{1}})
	if e, ok := errors.AsType[*market.RefusedError](err); !ok || e.Status != http.StatusNotFound {
		t.Errorf("%v", err)
	}
	o := testOffer()
	o.Seq, o.Price = 9, agent.Price{}
	if err := dear.control.Publish(t.Context(), sign(t, dear.key, o)); err != nil { // names another relay
		t.Fatal(err)
	}
	o.Relays = []string{r.name.String()}
	o.Seq = 10
	if err := cheap.control.Publish(t.Context(), sign(t, cheap.key, o)); err != nil {
		t.Fatal(err)
	}
	free := listed(t, buyer, market.Query{MaxPrice: "0"}, 1)
	if free[0].Agent != cheap.key.Address() {
		t.Error("an offer that names another relay is listed")
	}
}

// TestDrain stops a relay: the agents hear of it.
func TestDrain(t *testing.T) {
	c := loopback(t)
	c.Drain = patience // it ends before: nobody is in a session
	r := run(t, c)
	s := r.sell(t, 0, 1)
	buyer := market.New(market.Config{Name: r.name})
	defer buyer.Close()
	listed(t, buyer, market.Query{}, 1) // so the relay knows him
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if err := <-s.ended; !errors.Is(err, relay.ErrDrain) {
		t.Errorf("the agent hears %v", err)
	}
}

// TestForged comes with another's name.
func TestForged(t *testing.T) {
	r := run(t, loopback(t))
	me, victim := testKey(t, 0), testKey(t, 1)
	conn, err := net.Dial("tcp", r.name.Address())
	if err != nil {
		t.Fatal(err)
	}
	_, err = relay.DialTCP(t.Context(), conn, relay.AgentConfig{
		Name: r.name, Agent: relay.Address(victim.Address()),
		Sign: func(e [32]byte) (relay.Signature, error) { return relay.Signature(me.Sign(agent.RelayDigest(e))), nil },
	})
	if e, ok := errors.AsType[*relay.NoticeError](err); !ok || e.Code != relay.CodeSignature {
		t.Errorf("%v", err)
	}
}

// TestSameName starts a relay again: it is the same one.
func TestSameName(t *testing.T) {
	c := loopback(t)
	first := run(t, c)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	again := run(t, c).name
	again.Port = first.name.Port // which may be another's by now
	if again != first.name {
		t.Errorf("%s, and then %s", first.name, again)
	}
}

func TestMetrics(t *testing.T) {
	c := loopback(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Metrics = l.Addr().String()
	if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "metrics: ") {
		t.Errorf("a port in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.Metrics = "127.0.0.1:0"
	r := run(t, c)
	resp, err := http.Get("http://" + r.metrics.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(body, []byte("\nx402_relay_agents 0\n")) {
		t.Errorf("%.2000s", body)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// TestCannotRun is what keeps a relay from starting.
func TestCannotRun(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for want, change := range map[string]func(*Config){
		"key: ":                           func(c *Config) { c.KeyFile = "/dev/null/x" },
		"certificate: ":                   func(c *Config) { c.CertFile, c.KeyFile = "none", "none" },
		"public: ":                        func(c *Config) { c.Host = "2001:db8::1" },
		"address already in use":          func(c *Config) { c.Listen = netip.MustParseAddrPort(l.Addr().String()) },
		"cannot assign requested address": func(c *Config) { c.Listen = netip.MustParseAddrPort("192.0.2.1:0") },
		"not ready":                       func(c *Config) { c.Ready = func(relay.Name, net.Addr) error { return errors.New("not ready") } },
	} {
		c := loopback(t)
		change(&c)
		if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// TestCertificate serves a certificate that stands for itself: the name has no
// pin.
func TestCertificate(t *testing.T) {
	c := loopback(t)
	c.CertFile, c.KeyFile = certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	r := run(t, c)
	if r.name.Pinned {
		t.Errorf("%s", r.name)
	}
	conn, err := tls.Dial("tcp", r.name.Address(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(names, []string{"relay.example"}) {
		t.Errorf("%v", names)
	}
}

func TestAddresses(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, test := range []struct {
		listen, host string
		given, want  []netip.Addr
	}{
		{"[::]:1", "192.0.2.1", nil, []netip.Addr{four}},
		{"[::]:1", "2001:db8::1", nil, []netip.Addr{six}},
		{"0.0.0.0:1", "192.0.2.1", nil, []netip.Addr{four}},
		{"0.0.0.0:1", "2001:db8::1", nil, nil},
		{"[2001:db8::9]:1", "192.0.2.1", nil, nil},
		{"[::]:1", "none.invalid", []netip.Addr{six, four}, []netip.Addr{four, six}},
		{"10.0.0.1:1", "none.invalid", []netip.Addr{six, four}, []netip.Addr{four}},
	} {
		c := Config{Listen: netip.MustParseAddrPort(test.listen), Host: test.host, Public: test.given}
		got, err := c.addresses(t.Context())
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
	}
}

// An end is one side of a session.
type end struct {
	conn    net.PacketConn
	relay   net.Addr
	packets chan string // the newest; others are dropped
}

// bind takes a side's place in a session.
func bind(t *testing.T, a relay.Allotment) *end {
	t.Helper()
	s, err := path.Listen(t.Context(), path.Config{Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	e := &end{s.PacketConn(), net.UDPAddrFromAddrPort(a.Address), make(chan string, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("path: %v", err)
		}
	})
	wg.Go(e.read)
	t.Cleanup(func() {
		cancel()
		_ = s.Close()
		wg.Wait()
	})
	bctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	b, err := s.Bind(bctx, path.Relay{Addr: a.Address, Session: path.ID(a.ID), Token: path.Key(a.Token)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return e
}

// read reads until the socket is closed.
func (e *end) read() {
	b := make([]byte, 2048)
	for {
		n, _, err := e.conn.ReadFrom(b)
		if err != nil {
			return
		}
		select {
		case e.packets <- string(b[:n]):
		default:
		}
	}
}

// exchange sends a packet until it arrives at the other end.
func (e *end) exchange(t *testing.T, other *end, text string) {
	t.Helper()
	tick, end := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		if _, err := e.conn.WriteTo([]byte(text), e.relay); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-other.packets:
			if got == text {
				return
			}
		case <-tick.C:
		case <-end:
			t.Fatalf("%q never arrived", text)
		}
	}
}
