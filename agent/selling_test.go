package agent_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel"
)

// A sluggish dialer's targets take what they are sent, but say so only after
// they were closed, and then late.
type sluggish struct {
	writing chan struct{} // closed when something was sent
	ended   chan struct{} // closed when the session's totals were stored
}

func (s *sluggish) DialTCP(context.Context, string, uint16) (net.Conn, error) {
	near, far := net.Pipe()
	return &sluggishConn{Conn: near, far: far, s: s, closed: make(chan struct{})}, nil
}

func (*sluggish) DialUDP(context.Context, string, uint16) (net.Conn, error) {
	return nil, net.ErrClosed
}

type sluggishConn struct {
	net.Conn
	far    net.Conn
	s      *sluggish
	closed chan struct{}
	once   sync.Once
}

func (c *sluggishConn) Write(b []byte) (int, error) {
	close(c.s.writing)
	<-c.closed
	select {
	case <-c.s.ended: // too early
	case <-time.After(100 * time.Millisecond):
	}
	return len(b), nil
}

func (c *sluggishConn) CloseWrite() error { return nil }

func (c *sluggishConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.far.Close()
	return c.Conn.Close()
}

// A listener to a log closes ended when a message is logged.
type listener struct {
	slog.Handler
	message string
	ended   chan struct{}
}

func (l listener) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == l.message {
		close(l.ended)
	}
	return l.Handler.Handle(ctx, r)
}

func (l listener) WithAttrs(a []slog.Attr) slog.Handler {
	l.Handler = l.Handler.WithAttrs(a)
	return l
}

// TestLastDeliveryCounts: what a target takes while the session ends is in the
// totals that are stored.
func TestLastDeliveryCounts(t *testing.T) {
	t.Parallel()
	s := &sluggish{writing: make(chan struct{}), ended: make(chan struct{})}
	m := newMarketOf(t, func(c *seller.Config) {
		c.Dialer = s
		c.Logger = slog.New(listener{c.Logger.Handler(), "session closed", s.ended})
	})
	c := newCheat(m, 100_000)
	c.connect(nil)
	c.terms()
	f, err := c.client.DialTCP(t.Context(), "example.com", 80)
	if err != nil {
		t.Fatal(err)
	}
	const sent = "what is sent up"
	if _, err := io.WriteString(f, sent); err != nil {
		t.Fatal(err)
	}
	<-s.writing
	c.conn.Close(tunnel.ReasonDone, "")
	<-s.ended
	var all seller.Earnings
	until(t, "for the totals", func() bool {
		_, lives := m.session(c.id)
		return !lives && seller.DialControl(m.cfg.ControlPath()).Get(t.Context(), "earnings", &all) == nil
	})
	i := slices.IndexFunc(all.Channels, func(e seller.ChannelEarnings) bool { return e.Channel == c.id })
	if i < 0 || all.Channels[i].Up != uint64(len(sent)) {
		t.Errorf("%d bytes were taken, counted are %+v", len(sent), all.Channels)
	}
	m.agent.stop(t)
}

// TestTooMuchIsHeld: a buyer who cannot pay as much in advance as is held
// against it is told so. One who says that a crash cut it off pays for a part of
// that, and is served.
func TestTooMuchIsHeld(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	c := newCheat(m, 1_000_000)
	c.connect(nil)
	c.terms()
	lost := c.download(site.URL, 10_000_000)
	c.pay(c.domain.SignVoucher(c.key, c.id, 800))
	until(t, "for the payment", func() bool {
		x, _ := m.session(c.id)
		return x.Paid == 800
	})
	lost += c.download(site.URL, 10_000_000)
	if lost < 263_000 {
		t.Fatalf("only %d bytes are denied", lost)
	}
	c.conn.Close(tunnel.ReasonDone, "")
	m.agent.stop(t)
	m.cfg.Price = agent.Price{Up: 40_000_000, Down: 40_000_000} // of what is held, too
	m.startAgent()
	c.offer = m.offer()
	c.connect(nil)
	if terms := c.terms(); terms.Credit != 0 {
		t.Errorf("trusted with %d", terms.Credit)
	}
	at := netip.MustParseAddrPort(strings.TrimPrefix(site.URL, "http://"))
	f, err := c.client.DialTCP(t.Context(), at.Addr().String(), at.Port())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if n := c.notice(); n.Code != agent.NoticeHeld || !strings.Contains(n.Text, "more than can be paid in advance") {
		t.Errorf("notice %+v", n)
	}
	c.connect(func(h *agent.Hello) { h.Own = agent.Counts{Session: 2, Cut: true} })
	terms := c.terms()
	if credit := channel.Amount(128 << 10 * 40 / 1000); terms.Base < credit || terms.Base > credit+2 || terms.Credit != 0 {
		t.Errorf("%d are owed after a crash, with %d of credit", terms.Base, terms.Credit)
	}
	c.pay(c.domain.SignVoucher(c.key, c.id, terms.Base+20_000))
	until(t, "for the payment", func() bool {
		x, _ := m.session(c.id)
		return x.Paid > 800
	})
	if got := c.download(site.URL, 10_000_000); got < 32<<10 {
		t.Errorf("20,000 in advance bought %d bytes", got)
	}
	c.conn.Close(tunnel.ReasonDone, "")
	m.agent.stop(t)
}

// TestLeastDeposit: a channel below the least deposit is not served, whether it
// is known or not, until there is more.
func TestLeastDeposit(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { c.Payment.MinDeposit = 100_000 })
	known, stranger := newCheat(m, 100_000), newCheat(m, 99_999)
	known.connect(nil)
	known.terms()
	known.conn.Close(tunnel.ReasonDone, "")
	m.agent.stop(t)
	m.cfg.Payment.MinDeposit = 100_001
	m.startAgent()
	for name, c := range map[string]*cheat{"known": known, "a stranger": stranger} {
		c.offer = m.offer()
		c.connect(nil)
		if n := c.notice(); n.Code != agent.NoticeDeposit || !strings.Contains(n.Text, "asks for at least 0.100001: deposit more") {
			t.Errorf("%s: notice %+v", name, n)
		}
	}
	faucet := x402.FaucetRequest{Address: known.key.Address(), Amount: 2, Ref: channel.Hash{9}}
	if _, err := m.fac.Faucet(t.Context(), faucet); err != nil {
		t.Fatal(err)
	}
	known.deposit(2)
	known.connect(nil)
	if terms := known.terms(); terms.Balance != 100_002 {
		t.Errorf("served with %d", terms.Balance)
	}
	m.agent.stop(t)
}
