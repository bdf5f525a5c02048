package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// scale is how many agents the tests of scale have: 200, or X402_AGENTS.
func scale(t testing.TB) int {
	t.Helper()
	s := os.Getenv("X402_AGENTS")
	if s == "" {
		return 200
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 10 {
		t.Fatalf("X402_AGENTS=%q: want a number", s)
	}
	return n
}

// tcpFrom dials the relay from an address of the loopback.
func (r *rig) tcpFrom(t testing.TB, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: hang}
	c, err := d.DialContext(t.Context(), "tcp", r.name.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// tlsFrom does so, and shakes hands.
func (r *rig) tlsFrom(t testing.TB, from, alpn string) *tls.Conn {
	t.Helper()
	c := tls.Client(r.tcpFrom(t, from), r.name.TLS(alpn))
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// ended waits until the relay ends a connection, and says how long that took.
func ended(t testing.TB, c net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	_ = c.SetReadDeadline(began.Add(hang))
	_, err := io.Copy(io.Discard, c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("it does not end")
	}
	return time.Since(began)
}

// TestSlowLoris: connections that say little take a bounded number of places
// of their own source, and end; others are served meanwhile.
func TestSlowLoris(t *testing.T) {
	r := startRelay(t, func(c *Config) { c.Limits.SourceConnections, c.patience = 40, 3*time.Second })
	const attacker = "127.0.0.66"
	starts := []func() net.Conn{
		func() net.Conn { return r.tcpFrom(t, attacker) }, // says nothing
		func() net.Conn { // half a preamble
			c := r.tcpFrom(t, attacker)
			_, _ = io.WriteString(c, "\x00x402s")
			return c
		},
		func() net.Conn { // half a TLS record
			c := r.tcpFrom(t, attacker)
			_, _ = io.WriteString(c, "\x16\x03\x01\x02\x00")
			return c
		},
		func() net.Conn { // half a request
			c := r.tlsFrom(t, attacker, "http/1.1")
			_, _ = io.WriteString(c, "GET /v1/offers HTTP/1.1\r\nHost: x\r\nX-A: ")
			return c
		},
		func() net.Conn { // half a body
			c := r.tlsFrom(t, attacker, "http/1.1")
			_, _ = io.WriteString(c, "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
			return c
		},
		func() net.Conn { // half a hello
			c := r.tlsFrom(t, attacker, relay.ALPN)
			_, _ = io.WriteString(c, "\x00\x50{")
			return c
		},
	}
	var slow []net.Conn
	for i := range 36 {
		slow = append(slow, starts[i%len(starts)]())
	}
	for range 100 { // beyond the limit they are reset, some before they know
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(attacker)}}
		if c, err := d.DialContext(t.Context(), "tcp", r.name.Address()); err == nil {
			slow = append(slow, c)
			defer c.Close()
		}
	}
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	if _, err := client.Offers(t.Context(), market.Query{}); err != nil {
		t.Errorf("an honest buyer: %v", err)
	}
	if n := r.conns.count(); n > 41 {
		t.Errorf("%d connections", n)
	}
	var wg sync.WaitGroup
	var longest atomic.Int64
	for _, c := range slow {
		wg.Go(func() { longest.Store(max(longest.Load(), int64(ended(t, c)))) })
	}
	wg.Wait()
	if d := time.Duration(longest.Load()); d > hang/2 {
		t.Errorf("one stayed for %s", d)
	}
}

// TestHostileControl: what an agent may not say ends its connection, and no
// other.
func TestHostileControl(t *testing.T) {
	r := startRelay(t, nil)
	hello := func(c *tls.Conn, a relay.Address, change func(*relay.Message)) relay.Message {
		state := c.ConnectionState()
		e, err := state.ExportKeyingMaterial(relay.ExporterLabel, nil, 32)
		if err != nil {
			t.Fatal(err)
		}
		m := relay.Message{Type: relay.TypeHello, Version: 1, Agent: a, Signature: fakeSignature(a, [32]byte(e))}
		if change != nil {
			change(&m)
		}
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(b)
		_ = c.SetReadDeadline(time.Now().Add(hang))
		answer, err := relay.ReadMessage(c)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	victim := r.tlsFrom(t, "127.0.0.1", relay.ALPN)
	if m := hello(victim, testAgent(1), nil); m.Type != relay.TypeWelcome {
		t.Fatalf("%+v", m)
	}
	for code, change := range map[string]func(*relay.Message){
		relay.CodeSignature: func(m *relay.Message) { m.Agent = testAgent(1); m.Signature[0] ^= 1 },
		relay.CodeVersion:   func(m *relay.Message) { m.Version = 2 },
	} {
		c := r.tlsFrom(t, "127.0.0.1", relay.ALPN)
		if m := hello(c, testAgent(2), change); m.Type != relay.TypeNotice || m.Code != code {
			t.Errorf("%s: %+v", code, m)
		}
		ended(t, c)
	}
	// A hello that was recorded on one connection is nothing on another.
	var recorded relay.Signature
	hello(r.tlsFrom(t, "127.0.0.1", relay.ALPN), testAgent(3), func(m *relay.Message) { recorded = m.Signature })
	if m := hello(r.tlsFrom(t, "127.0.0.1", relay.ALPN), testAgent(3), func(m *relay.Message) { m.Signature = recorded }); m.Code != relay.CodeSignature {
		t.Errorf("replayed: %+v", m)
	}
	for name, b := range map[string][]byte{
		"too long":     append([]byte{0xff, 0xff}, bytes.Repeat([]byte(" "), 1<<16)...),
		"no JSON":      {0, 2, 'x', 'x'},
		"a flood":      bytes.Repeat([]byte("\x00\x0f"+`{"type":"ping"}`), 200),
		"HTTP":         []byte("GET / HTTP/1.1\r\n\r\n"),
		"wrong hex":    []byte("\x00\x1b" + `{"type":"end","id":"zz0011"`),
		"only a start": {0, 5},
	} {
		c := r.tlsFrom(t, "127.0.0.1", relay.ALPN)
		if m := hello(c, testAgent(4), nil); m.Type != relay.TypeWelcome {
			t.Fatalf("%s: %+v", name, m)
		}
		_, _ = c.Write(b)
		if name == "only a start" {
			_ = c.CloseWrite()
		}
		ended(t, c)
	}
	// Ending another's session does nothing.
	s := testSession(t)
	s.tcp = true
	if err := r.table.add(s); err != nil {
		t.Fatal(err)
	}
	c := r.tlsFrom(t, "127.0.0.1", relay.ALPN)
	hello(c, testAgent(5), nil)
	b, err := relay.Message{Type: relay.TypeEnd, Allotment: &relay.Allotment{ID: s.id}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write(append(b, "\x00\x0f"+`{"type":"ping"}`...))
	if m, err := relay.ReadMessage(c); err != nil || m.Type != relay.TypePing {
		t.Errorf("%+v, %v", m, err)
	}
	if r.table.get(s.id) == nil {
		t.Error("another agent ended the session")
	}
	// And the victim of all this is still there.
	_, _ = victim.Write([]byte("\x00\x0f" + `{"type":"ping"}`))
	_ = victim.SetReadDeadline(time.Now().Add(hang))
	if m, err := relay.ReadMessage(victim); err != nil || m.Type != relay.TypePing {
		t.Errorf("the victim: %+v, %v", m, err)
	}
	// Its owner comes again: then the old connection is told and ended.
	if m := hello(r.tlsFrom(t, "127.0.0.1", relay.ALPN), testAgent(1), nil); m.Type != relay.TypeWelcome {
		t.Errorf("again: %+v", m)
	}
	if m, err := relay.ReadMessage(victim); err != nil || m.Code != relay.CodeReplaced {
		t.Errorf("replaced: %+v, %v", m, err)
	}
	ended(t, victim)
}

// request is an HTTP request to the relay.
func (r *rig) request(t testing.TB, c *http.Client, method, path, body string) (int, http.Header, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.name.Address()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// clientFrom is an HTTP client at an address of the loopback. It speaks HTTP/2
// if it may.
func (r *rig) clientFrom(t testing.TB, from string, two bool) *http.Client {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	tr := &http.Transport{DialContext: d.DialContext, TLSClientConfig: r.name.TLS(), ForceAttemptHTTP2: two, MaxIdleConnsPerHost: 8}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestAPI(t *testing.T) {
	r := startRelay(t, func(c *Config) {
		c.Limits.SessionRequests = Rate{30, time.Hour}
		c.Limits.Requests = Rate{40, time.Hour}
	})
	sessions := make(chan relay.Allotment, 100)
	a, err := relay.DialTCP(t.Context(), r.tcpFrom(t, "127.0.0.1"), r.config(testAgent(1), sessions))
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, a)
	agent := testAgent(1).String()
	c := r.clientFrom(t, "127.0.0.1", true)
	for body, want := range map[string]int{
		`{"agent":"` + agent + `"}`:                               200,
		`{"agent":"` + agent + `","transport":"tcp"}`:             200,
		`{"agent":"` + agent + `","open":true,"later":1}`:         200,
		`{"agent":"` + agent + `","open":true,"direct":true}`:     400,
		`{"agent":"` + agent + `","transport":"tcp","open":true}`: 400,
		`{"agent":"` + agent + `","transport":"sctp"}`:            400,
		`{"agent":"` + testAgent(2).String() + `"}`:               404,
		`{"agent":"0x12"}`:                                        400,
		`{}`:                                                      400,
		``:                                                        400,
		`[]`:                                                      400,
		`{"agent":"` + agent + `","x":"` + strings.Repeat("x", 5000) + `"}`: 400,
	} {
		status, h, text := r.request(t, c, http.MethodPost, "/v1/sessions", body)
		if status != want || h.Get("Content-Type") != "application/json" || status != 200 && !strings.Contains(text, `"error":"`) {
			t.Errorf("%.80s: %d %s, want %d", body, status, text, want)
		}
	}
	for range 3 {
		select {
		case <-sessions:
		case <-time.After(hang):
			t.Error("the agent was not told of a session")
		}
	}
	for _, q := range []string{"GET /v1/sessions", "DELETE /v1/offers", "POST /v1/offers", "GET /", "GET /metrics", "GET /v1/"} {
		method, path, _ := strings.Cut(q, " ")
		if status, _, _ := r.request(t, c, method, path, ""); status != 404 && status != 405 {
			t.Errorf("%s: %d", q, status)
		}
	}
	if status, _, text := r.request(t, c, http.MethodGet, "/v1/address", ""); status != 200 || text != `{"address":"127.0.0.1"}`+"\n" {
		t.Errorf("%d %s", status, text)
	}
	if status, _, text := r.request(t, c, http.MethodGet, "/healthz", ""); status != 200 || text != `{"status":"ok"}`+"\n" {
		t.Errorf("health: %d %s", status, text)
	}
	// Limits of the rate: of sessions first, then of everything, each source's own.
	counts := map[int]int{}
	for range 40 {
		status, h, _ := r.request(t, c, http.MethodPost, "/v1/sessions", `{}`)
		if counts[status]++; status == 429 && h.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if counts[400] != 18 || counts[429] != 22 {
		t.Errorf("%v", counts)
	}
	if status, _, _ := r.request(t, c, http.MethodGet, "/v1/offers", ""); status != 429 {
		t.Errorf("offers: %d", status)
	}
	if status, _, _ := r.request(t, r.clientFrom(t, "127.0.0.2", false), http.MethodGet, "/v1/offers", ""); status != 200 {
		t.Errorf("another source: %d", status)
	}
}

// heap is how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHalfOpen asks for sessions that nobody comes to, from many sources, by
// the thousands (100,000 with X402_AGENTS=5000); starts handshakes that never
// end; and floods ports and the control port with forged packets. Memory stays
// where it was, and an honest buyer's transfer goes on.
func TestHalfOpen(t *testing.T) {
	r := startRelay(t, func(c *Config) {
		c.Limits = Limits{Sessions: 300, AgentSessions: 250, Requests: Rate{1 << 20, time.Second}, SessionRequests: Rate{1 << 20, time.Second}}
	})
	_, _, conn := meet(t, r, market.Request{})
	victim := testAgent(9)
	flooded := make(chan relay.Allotment, 1000)
	a, err := relay.DialTCP(t.Context(), r.tcpFrom(t, "127.0.0.1"), r.config(victim, flooded))
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, a)
	echo(t, conn, 1<<20)
	before := heap()

	attempts := 20 * scale(t)
	var wg sync.WaitGroup
	var refused, made atomic.Int64
	const floods = 16
	for i := range floods {
		c := r.clientFrom(t, fmt.Sprintf("127.0.7.%d", i+1), false)
		wg.Go(func() {
			for range attempts / floods {
				switch status, _, text := r.request(t, c, http.MethodPost, "/v1/sessions", `{"agent":"`+victim.String()+`"}`); status {
				case 200:
					made.Add(1)
				case 503:
					refused.Add(1)
				default:
					t.Errorf("%d %s", status, text)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	var noise sync.WaitGroup
	noise.Go(func() { r.flood(t, flooded, stop) })
	over := make(chan struct{})
	noise.Go(func() { wg.Wait(); close(over) })
	rounds := 0
	for done := false; !done; rounds++ { // meanwhile
		echo(t, conn, 1<<20)
		select {
		case <-over:
			done = true
		default:
		}
	}
	close(stop)
	noise.Wait()
	echo(t, conn, 4<<20)
	after := heap()
	t.Logf("%d attempts: %d sessions, %d refused; %d MiB there and back meanwhile; heap %d → %d KiB",
		attempts, made.Load(), refused.Load(), rounds, before>>10, after>>10)
	if made.Load() > 251 || r.table.count() > 251 {
		t.Errorf("%d sessions made, %d there", made.Load(), r.table.count())
	}
	if after > before+64<<20 {
		t.Errorf("%d MiB more", (after-before)>>20)
	}
	if n := len(r.attempts); n > handshakes {
		t.Errorf("%d handshakes", n)
	}
}

// flood sends forged packets to the control port and to sessions' ports, from
// many addresses, until stop.
func (r *rig) flood(t testing.TB, sessions chan relay.Allotment, stop chan struct{}) {
	initials := recordInitials(t, r, 100)
	key := path.Key{1}
	var known []relay.Allotment
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case a := <-sessions:
			known = append(known, a)
		default:
		}
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i)|1)})
		if err != nil {
			t.Error(err)
			return
		}
		for _, b := range initials[i%80 : i%80+20] {
			_, _ = conn.WriteTo(b, r.addr())
		}
		for _, a := range known[:min(len(known), 50)] {
			for _, b := range [][]byte{
				path.Bind{Session: path.ID(a.ID), Counter: uint64(i)}.Append(nil, &key), packet(i, 1300), {0}, {0, 1, 2},
			} {
				_, _ = conn.WriteToUDPAddrPort(b, a.Address)
			}
		}
		_ = conn.Close()
	}
}

// recordInitials returns the first packets of handshakes.
func recordInitials(t testing.TB, r *rig, n int) (all [][]byte) {
	t.Helper()
	for range n {
		u, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		rec := &recorder{PacketConn: u, first: cancel}
		tr := &quicgo.Transport{Conn: rec}
		if _, err := tr.Dial(ctx, r.addr(), r.name.TLS(relay.ALPN), nil); err == nil {
			t.Error("connected to nobody")
		}
		_ = tr.Close()
		_ = u.Close()
		all = append(all, rec.packet)
	}
	return all
}

// A recorder keeps the first packet, and sends none.
type recorder struct {
	net.PacketConn
	once   sync.Once
	packet []byte
	first  func()
}

func (r *recorder) WriteTo(b []byte, _ net.Addr) (int, error) {
	r.once.Do(func() { r.packet = bytes.Clone(b); r.first() })
	return len(b), nil
}

// TestManyHandshakes: a source that has finished many handshakes is refused
// more, over QUIC and over TCP; another is not.
func TestManyHandshakes(t *testing.T) {
	r := startRelay(t, func(c *Config) { c.Limits.Hellos, c.Limits.Handshakes = Rate{5, time.Hour}, Rate{5, time.Hour} })
	dial := func(from string) error {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		tr := &quicgo.Transport{Conn: u}
		defer tr.Close()
		ctx, cancel := context.WithTimeout(t.Context(), hang)
		defer cancel()
		conn, err := tr.Dial(ctx, r.addr(), r.name.TLS(relay.ALPN), nil)
		if err == nil {
			err = conn.CloseWithError(0, "")
		}
		return err
	}
	done := 0
	for range 20 {
		if dial("127.0.0.66") == nil {
			done++
		}
	}
	if done != 10 { // five, and five with a proven address
		t.Errorf("%d handshakes", done)
	}
	if err := dial("127.0.0.67"); err != nil {
		t.Errorf("another source: %v", err)
	}
	tcp := 0
	for range 20 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 68)}}
		c, err := d.DialContext(t.Context(), "tcp", r.name.Address())
		if err != nil {
			continue
		}
		if tls.Client(c, r.name.TLS("http/1.1")).HandshakeContext(t.Context()) == nil {
			tcp++
		}
		_ = c.Close()
	}
	if tcp != 5 {
		t.Errorf("%d handshakes over TCP", tcp)
	}
	r.tlsFrom(t, "127.0.0.1", "http/1.1")
}

// TestHandshakes: thousands of handshakes that nobody finishes are bounded, and
// an agent gets in all the same.
func TestHandshakes(t *testing.T) {
	r := startRelay(t, nil)
	sock, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 9, 9, 9)})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for _, b := range recordInitials(t, r, 300) {
		if _, err := sock.WriteTo(b, r.addr()); err != nil {
			t.Fatal(err)
		}
	}
	// What is sent back, unasked: at most three times, by RFC 9000 §8.1, and
	// from some number on only a Retry, which is shorter than the question.
	agent := newParty(t, path.Config{})
	a, err := relay.DialQUIC(t.Context(), agent.transport, r.addr(), r.config(testAgent(1), nil))
	if err != nil {
		t.Fatalf("an honest agent: %v", err)
	}
	runAgent(t, a)
	if n := len(r.attempts); n > crowded+2 {
		t.Errorf("%d handshakes under way, from %d on addresses must answer first", n, crowded)
	}
}
