package agent_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
)

// A deaf socket of a buyer's hears nothing before hear is closed, and records
// what it sends.
type deaf struct {
	net.PacketConn
	hear chan struct{} // closed by listen
	once sync.Once

	mu   sync.Mutex
	sent [][]byte
}

func newDeaf(t *testing.T) *deaf {
	return &deaf{PacketConn: listenUDP(t), hear: make(chan struct{})}
}

func (d *deaf) listen() { d.once.Do(func() { close(d.hear) }) }

func (d *deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	<-d.hear
	return d.PacketConn.ReadFrom(b)
}

// SetReadDeadline ends the silence too, for a transport that closes waits for who
// reads.
func (d *deaf) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		d.listen()
	}
	return d.PacketConn.SetReadDeadline(t)
}

func (d *deaf) WriteTo(b []byte, to net.Addr) (int, error) {
	d.mu.Lock()
	d.sent = append(d.sent, bytes.Clone(b))
	d.mu.Unlock()
	return d.PacketConn.WriteTo(b, to)
}

// replay sends all that the socket has sent to an address, from another port.
func (d *deaf) replay(t *testing.T, to string) {
	t.Helper()
	d.mu.Lock()
	sent := d.sent
	d.mu.Unlock()
	socket := listenUDP(t)
	addr := must(net.ResolveUDPAddr("udp", to))
	for _, b := range sent {
		if _, err := socket.WriteTo(b, addr); err != nil {
			t.Fatal(err)
		}
	}
	// A packet of a version that nobody speaks is answered at once (RFC 9000
	// §6.1), when all before it have been read; it may be dropped, like any.
	unspoken := append([]byte("\xc0\x1a\x2a\x3a\x4a\x0812345678\x00"), make([]byte, 1200)...)
	answered := false
	until(t, "for the agent to have read all", func() bool {
		if _, err := socket.WriteTo(unspoken, addr); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2000)
		socket.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for n, _, err := socket.ReadFrom(b); err == nil && !answered; n, _, err = socket.ReadFrom(b) {
			answered = n > 5 && string(b[1:5]) == "\x00\x00\x00\x00"
		}
		return answered
	})
}

// A counted site counts what it is asked for, and calls asked each time.
type countedSite struct {
	*httptest.Server
	hits  atomic.Int64
	asked func()
}

func newCountedSite(t *testing.T) *countedSite {
	s := &countedSite{asked: func() {}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		s.asked()
		pages(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// A comeback is a purchase that may come back by the last one's ticket.
type comeback struct {
	*purchase
	on screen
}

// back buys, keeps its deposit, and waits for the agent as long as it takes.
func (m *market) back(change func(*buyer.Config)) *comeback {
	m.t.Helper()
	p := &comeback{}
	p.purchase = m.buy(func(c *buyer.Config) {
		c.Keep, c.OnStatus, c.Reach.Early = true, p.on.show, time.Minute
		c.Tickets = buyer.KnownTickets{Dir: filepath.Join(m.dir, "tickets")}
		if change != nil {
			change(c)
		}
	})
	return p
}

// leave waits for the next ticket and ends the purchase, which has to have come
// back or not.
func (m *market) leave(p *comeback, resumed bool) {
	m.t.Helper()
	m.ticket(p.purchase)
	until(m.t, "for the session to be shown", func() bool { return p.on.now().State == "connected" })
	if s := p.on.now(); s.Resumed != resumed {
		m.t.Errorf("status %+v", s)
	}
	p.stop(m.t)
}

// refunded ends what comebacks have kept.
func (m *market) refunded() {
	m.t.Helper()
	p := m.buy(func(c *buyer.Config) { c.CloseOnly = true })
	<-p.done
	m.settled(p)
}

// ticket waits until the purchase's session has given one, which is stored.
func (m *market) ticket(p *purchase) {
	m.t.Helper()
	path := filepath.Join(m.dir, "tickets", p.id.String())
	until(m.t, "for a ticket", func() bool {
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm() != 0o600 {
			m.t.Errorf("mode %v", info.Mode())
		}
		return err == nil
	})
}

// TestComeBack buys, and comes back: what is wanted reaches its target before
// the buyer has heard anything of the agent. What it sent is then sent again by
// somebody else, to the agent and to one that was started anew.
func TestComeBack(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := newCountedSite(t)
	p := m.back(nil)
	fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
	m.leave(p, false)
	for range 2 {
		d := newDeaf(t)
		site.asked = d.listen
		p = m.back(func(c *buyer.Config) { c.Socket = borrowed(d) })
		fetch(t, p.through(), site.URL+"/2000000", 2_000_000)
		upload(t, p.through(), site.URL+"/", 1_000_000)
		m.leave(p, true)
		hits, owed := site.hits.Load(), p.result.Owed
		d.replay(t, m.cfg.Listen)
		m.agent.stop(t)
		if site.hits.Load() != hits {
			t.Error("the site was asked again")
		}
		m.startAgent()
		m.offer() // it is there
		d.replay(t, m.cfg.Listen)
		p = m.back(nil) // which waits for the handshake: the agent knows no tickets
		fetch(t, p.through(), site.URL+"/1000", 1000)
		m.leave(p, false)
		if site.hits.Load() != hits+1 || p.result.Owed < owed || p.result.Owed > owed+100 {
			t.Errorf("asked %d times, want %d; owed %d after %d", site.hits.Load(), hits+1, p.result.Owed, owed)
		}
	}
	m.refunded()
}

// TestComeBackToNobody comes back to an agent that was started anew, with a
// request that has been sent before the buyer hears so: it arrives once.
func TestComeBackToNobody(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := newCountedSite(t)
	p := m.back(nil)
	fetch(t, p.through(), site.URL+"/1000", 1000)
	m.leave(p, false)
	m.agent.stop(t)
	m.startAgent()
	d := newDeaf(t)
	p = m.back(func(c *buyer.Config) { c.Socket = borrowed(d) })
	c := p.dial(t, strings.TrimPrefix(site.URL, "http://"))
	if _, err := io.WriteString(c, "GET /100000 HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	until(t, "for the request to be sent", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.sent) > 2 // two are the hello of TLS
	})
	d.listen()
	if b, err := io.ReadAll(c); len(b) < 100_000 || err != nil {
		t.Errorf("read %d bytes: %v", len(b), err)
	}
	m.leave(p, false)
	if hits := site.hits.Load(); hits != 2 {
		t.Errorf("the site was asked %d times", hits)
	}
	m.refunded()
}

// TestComeBackUnheard comes back to an agent of which nothing is heard: it is
// looked for anew, and what was sent is not sent again.
func TestComeBackUnheard(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := newCountedSite(t)
	p := m.back(nil)
	fetch(t, p.through(), site.URL+"/1000", 1000)
	m.leave(p, false)
	d := newDeaf(t)
	p = m.back(func(c *buyer.Config) { c.Reach.Early, c.Socket = 50*time.Millisecond, borrowed(d) })
	if c, err := dialSOCKS(p.socks, strings.TrimPrefix(site.URL, "http://")); err == nil { // the buyer may have given up by now
		io.WriteString(c, "GET /1000 HTTP/1.0\r\n\r\n")
		io.Copy(io.Discard, c) // until it does
		c.Close()
	}
	d.listen()
	fetch(t, p.through(), site.URL+"/1000", 1000)
	if hits := site.hits.Load(); hits > 3 {
		t.Errorf("the site was asked %d times", hits)
	}
	m.leave(p, false)
	m.refunded()
}

// TestComeBackByRelay comes back to an agent that is behind a relay.
func TestComeBackByRelay(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	m := newMarketOf(t, func(c *seller.Config) { c.Relays = []relay.Name{r.name} })
	site := newCountedSite(t)
	offer := r.listed(m)
	for i := range 3 {
		p := m.back(func(c *buyer.Config) {
			c.Offer, c.Reach.Transport, c.Reach.NoDirect = offer, buyer.QUIC, true
		})
		fetch(t, p.through(), site.URL+"/1000000", 1_000_000)
		m.leave(p, i > 0)
	}
	m.refunded()
}

// resume comes back by the ticket of the session that connect opened, and says
// nothing yet.
func (c *cheat) resume() (conn *quic.ClientConn, ctl *tunnel.Control, secret [32]byte) {
	c.t.Helper()
	var ticket *quic.Ticket
	until(c.t, "for a ticket", func() (ok bool) {
		ticket = must(c.conn.Ticket())
		return ticket != nil
	})
	dialer := quic.NewDialer(listenUDP(c.t))
	conn, err := dialer.Resume(c.t.Context(), must(net.ResolveUDPAddr("udp", c.offer.Endpoints[0])), ticket)
	if err != nil {
		c.t.Fatal(err)
	}
	first := c.conn
	c.t.Cleanup(func() {
		first.Close(tunnel.ReasonDone, "")
		conn.Close(tunnel.ReasonDone, "")
		dialer.Close()
	})
	if ctl, err = tunnel.OpenControl(c.t.Context(), conn, "x402.invalid", agent.KnownCapsule); err != nil {
		c.t.Fatal(err)
	}
	return conn, ctl, ticket.Secret
}

func (c *cheat) hello() agent.Hello {
	return agent.Hello{Versions: []int{agent.ProtocolVersion}, Network: c.offer.Payment.Network, Config: c.config(), Price: c.offer.Price}
}

// comeBack resumes with an early hello of the test's.
func (c *cheat) comeBack(seal func(secret [32]byte, h agent.Hello) []byte) {
	c.t.Helper()
	conn, ctl, secret := c.resume()
	if err := ctl.Send(agent.CapsuleEarly, seal(secret, c.hello())); err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.ctl = conn, ctl
}

// early seals an early hello as it should be.
func (c *cheat) early(secret [32]byte, h agent.Hello) []byte {
	return must(agent.SealEarlyHello(c.key, secret, h))
}

// answer is the type of the first capsule that the agent sends, 0 for none.
func (c *cheat) answer() uint64 {
	c.t.Helper()
	capsule, err := c.ctl.Receive()
	if err != nil {
		return 0
	}
	return capsule.Type
}

// TestEarlyHelloIsProven spoils early hellos.
func TestEarlyHelloIsProven(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	c := newCheat(m, 1_000_000)
	other := newCheat(m, 1_000_000)
	for name, tt := range map[string]struct {
		seal func(secret [32]byte, h agent.Hello) []byte
		want uint64
	}{
		"good": {c.early, agent.CapsuleTerms},
		"of another ticket": {func(secret [32]byte, h agent.Hello) []byte {
			secret[0]++
			return c.early(secret, h)
		}, 0},
		"signed as a hello": {func(secret [32]byte, h agent.Hello) []byte {
			return must(agent.SealHello(c.key, secret, h))
		}, 0},
		"by another": {func(secret [32]byte, h agent.Hello) []byte {
			return must(agent.SealEarlyHello(other.key, secret, h))
		}, 0},
		"of another channel": {func(secret [32]byte, h agent.Hello) []byte {
			h.Config = other.config()
			return must(agent.SealEarlyHello(other.key, secret, h))
		}, 0},
		"empty": {func([32]byte, agent.Hello) []byte { return nil }, 0},
		"below the price": {func(secret [32]byte, h agent.Hello) []byte {
			h.Price.Down--
			return c.early(secret, h)
		}, agent.CapsuleNotice},
	} {
		c.connect(nil)
		c.terms()
		c.comeBack(tt.seal)
		if got := c.answer(); got != tt.want {
			t.Errorf("%s: answered with %#x, want %#x", name, got, tt.want)
		}
		c.conn.Close(tunnel.ReasonDone, "")
	}
}

// TestEarlyHelloComesLate has an early hello wait on a resumed connection while
// its buyer begins another session: it does not end that.
func TestEarlyHelloComesLate(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	c := newCheat(m, 1_000_000)
	c.connect(nil)
	session := c.terms().Session
	conn, ctl, secret := c.resume()
	if err := conn.Settled(t.Context()); err != nil || !conn.Early() {
		t.Fatal("not resumed", err)
	}
	c.connect(nil)
	if got := c.terms().Session; got != session+1 {
		t.Errorf("session %d after %d", got, session)
	}
	if err := ctl.Send(agent.CapsuleEarly, c.early(secret, c.hello())); err != nil {
		t.Fatal(err)
	}
	capsule := must(ctl.Receive())
	if n, err := agent.ParseNotice(capsule.Value); capsule.Type != agent.CapsuleNotice || err != nil || n.Code != agent.NoticeBusy {
		t.Errorf("answered with %#x %+v %v", capsule.Type, n, err)
	}
	<-conn.Context().Done()
	if err := c.conn.Context().Err(); err != nil {
		t.Errorf("the other session has ended: %v", context.Cause(c.conn.Context()))
	}
}

// TestWithdrawalBeside begins a withdrawal and comes back: the agent does not
// wait for the ledger, and ends the session when it hears of it.
func TestWithdrawalBeside(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	c := newCheat(m, 1_000_000)
	c.connect(nil)
	c.terms()
	w := x402.Withdraw{Network: m.params.Network(), Step: x402.WithdrawInitiate, Channel: c.id, Amount: 200_000}
	if _, err := m.fac.Withdraw(t.Context(), w.Sign(c.key, c.domain)); err != nil {
		t.Fatal(err)
	}
	c.comeBack(c.early)
	var got []uint64
	for {
		typ := c.answer()
		if typ == 0 {
			break
		}
		got = append(got, typ)
	}
	if len(got) == 0 || got[0] != agent.CapsuleTerms {
		t.Errorf("answered with %#x", got)
	}
	<-c.conn.Context().Done()
	if err := context.Cause(c.conn.Context()); !strings.Contains(err.Error(), "withdrawal") {
		t.Errorf("ended with %v", err)
	}
	c.connect(nil)
	if n := c.notice(); n.Code != agent.NoticeRefused {
		t.Errorf("notice %+v", n)
	}
}
