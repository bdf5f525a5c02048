package agent_test

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
)

// A cheat is a buyer made by hand: it speaks the protocol and keeps to none of
// its duties unless the test does it.
type cheat struct {
	t      *testing.T
	m      *market
	key    *channel.Key
	offer  agent.Offer
	salt   channel.Hash // of the channel; zero but for a token's
	domain channel.Domain
	id     channel.ID
	conn   *quic.ClientConn
	ctl    *tunnel.Control
	client *tunnel.Client
	meter  *meter.Meter
	base   uint64              // of the terms: what was downloaded before the session
	in     chan tunnel.Capsule // closed when the session ends
	wg     sync.WaitGroup
}

// newCheat has a funded channel with the market's agent.
func newCheat(m *market, deposit channel.Amount) *cheat {
	m.t.Helper()
	return newSaltedCheat(m, deposit, channel.Hash{})
}

func newSaltedCheat(m *market, deposit channel.Amount, salt channel.Hash) *cheat {
	m.t.Helper()
	c := &cheat{t: m.t, m: m, offer: m.offer(), salt: salt}
	var err error
	if c.key, err = channel.GenerateKey(); err != nil {
		m.t.Fatal(err)
	}
	if c.domain, err = c.offer.Payment.Domain(); err != nil {
		m.t.Fatal(err)
	}
	c.id = c.domain.ID(c.config())
	ref := channel.Hash(c.id)
	if _, err := m.fac.Faucet(m.t.Context(), x402.FaucetRequest{Address: c.key.Address(), Amount: deposit, Ref: ref}); err != nil {
		m.t.Fatal(err)
	}
	c.deposit(deposit)
	return c
}

func (c *cheat) config() channel.Config {
	cfg := c.offer.Channel(c.key.Address())
	cfg.Salt = c.salt
	return cfg
}

func (c *cheat) deposit(amount channel.Amount) {
	c.t.Helper()
	token, err := c.offer.Payment.Token()
	if err != nil {
		c.t.Fatal(err)
	}
	var salt channel.Hash
	rand.Read(salt[:])
	d := x402.DepositRequest{
		Domain: c.domain, Token: token, Config: c.config(), Amount: amount,
		Voucher: c.domain.SignVoucher(c.key, c.id, 0), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()), Salt: salt,
	}.Sign(c.key)
	if _, err := c.m.fac.Deposit(c.t.Context(), c.offer.Payment.Network, token, d); err != nil {
		c.t.Fatal(err)
	}
}

// connect opens a session; change may spoil the hello.
func (c *cheat) connect(change func(*agent.Hello)) {
	c.t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	dialer := quic.NewDialer(socket)
	addr, err := net.ResolveUDPAddr("udp", c.offer.Endpoints[0])
	if err != nil {
		c.t.Fatal(err)
	}
	hash := [32]byte(c.offer.TunnelKey)
	if c.conn, err = dialer.Dial(c.t.Context(), addr, &hash); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		c.conn.Close(tunnel.ReasonDone, "")
		c.wg.Wait()
		dialer.Close()
		socket.Close()
	})
	if c.ctl, err = tunnel.OpenControl(c.t.Context(), c.conn, "x402.invalid", agent.KnownCapsule); err != nil {
		c.t.Fatal(err)
	}
	exporter, err := c.conn.ExportKey(agent.ExporterLabel)
	if err != nil {
		c.t.Fatal(err)
	}
	h := agent.Hello{
		Versions: []int{agent.ProtocolVersion}, Network: c.offer.Payment.Network,
		Config: c.config(), Price: c.offer.Price,
	}
	if change != nil {
		change(&h)
	}
	b, err := agent.SealHello(c.key, exporter, h)
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(agent.CapsuleHello, b)
	c.meter = meter.New(meter.Config{})
	c.client = tunnel.NewClient(c.conn, c.ctl, tunnel.Lanes{UpTCP: c.meter.UpTCP, DownTCP: c.meter.DownTCP, UpUDP: c.meter.UpUDP, DownUDP: c.meter.DownUDP})
	c.in = make(chan tunnel.Capsule, 10_000)
	in, ctl := c.in, c.ctl // connect may be called again
	c.wg.Go(func() {
		defer close(in)
		for {
			capsule, err := ctl.Receive()
			if err != nil {
				return
			}
			in <- capsule
		}
	})
}

func (c *cheat) send(typ uint64, b []byte) {
	c.t.Helper()
	if err := c.ctl.Send(typ, b); err != nil {
		c.t.Fatal(err)
	}
}

// await returns the next capsule of a type.
func (c *cheat) await(typ uint64) []byte {
	c.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case capsule, ok := <-c.in:
			if !ok {
				c.t.Fatalf("the session ended: %v", context.Cause(c.conn.Context()))
			}
			if capsule.Type == typ {
				return capsule.Value
			}
		case <-timeout:
			c.t.Fatalf("no capsule %#x", typ)
		}
	}
}

func (c *cheat) terms() agent.Terms {
	c.t.Helper()
	terms, err := agent.ParseTerms(c.await(agent.CapsuleTerms))
	if err != nil {
		c.t.Fatal(err)
	}
	c.base = terms.BaseDown
	return terms
}

func (c *cheat) notice() agent.Notice {
	c.t.Helper()
	n, err := agent.ParseNotice(c.await(agent.CapsuleNotice))
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// download begins a download of the site's and returns how much of it comes
// before the agent waits for money, by the agent's own word.
func (c *cheat) download(site string, size int) uint64 {
	c.t.Helper()
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(site, "http://"))
	n, _ := strconv.Atoi(port)
	before := c.meter.Reading().Down()
	f, err := c.client.DialTCP(c.t.Context(), host, uint16(n))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.WriteString(f, "GET /"+strconv.Itoa(size)+" HTTP/1.0\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
	c.wg.Go(func() { _, _ = io.Copy(io.Discard, f) }) // until it is closed
	until(c.t, "for the agent to wait for money", func() bool {
		x, ok := c.m.session(c.id)
		sent := x.Gap + x.Down - c.base
		return ok && x.Blocked && sent == c.meter.Reading().Down()
	})
	f.Close()
	until(c.t, "for the agent to give the download up", func() bool {
		x, ok := c.m.session(c.id)
		return ok && !x.Blocked
	})
	return c.meter.Reading().Down() - before
}

func (c *cheat) reading(received uint64) {
	c.t.Helper()
	c.send(agent.CapsuleReading, agent.AppendReading(nil, agent.Reading{ReceivedTCP: received}))
}

func (c *cheat) pay(v channel.Voucher) {
	c.t.Helper()
	c.send(agent.CapsuleVoucher, agent.AppendVoucher(nil, v))
}

// stranger is what an agent trusts a stranger with, in bytes at 4 USD/GB.
const stranger = 128<<10 + 1000

func TestBuyerWhoNeverPays(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	c := newCheat(m, 1_000_000)
	c.connect(nil)
	c.terms()
	got := c.download(site.URL, 10_000_000)
	for range 3 { // coming back, with the same story, gives nothing more
		c.conn.Close(tunnel.ReasonDone, "")
		c.connect(nil)
		c.terms()
		got += c.download(site.URL, 10_000_000)
	}
	if got > stranger {
		t.Errorf("got %d bytes for nothing", got)
	}
	m.agent.stop(t)
}

// TestBuyerWhoDenies acknowledges nothing, or less than it got.
func TestBuyerWhoDenies(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	c := newCheat(m, 1_000_000)
	c.connect(nil)
	c.terms()
	got := c.download(site.URL, 10_000_000)
	c.reading(got / 2)
	c.pay(c.domain.SignVoucher(c.key, c.id, channel.Amount(got/2*4/1000)))
	more := c.download(site.URL, 10_000_000)
	if got+more > 2*stranger {
		t.Errorf("got %d bytes, paid half of %d", got+more, got)
	}
	m.agent.stop(t)
}

func TestBuyersBadVouchers(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	c := newCheat(m, 100_000)
	c.connect(nil)
	c.terms()
	got := c.download(site.URL, 10_000_000)
	owed := channel.Amount(got*4/1000) + 1
	other, _ := channel.GenerateKey()
	good := c.domain.SignVoucher(c.key, c.id, owed)
	bad := map[string]channel.Voucher{
		"garbage signature":   {Channel: c.id, Max: owed, Signature: channel.Signature{1, 2, 3}},
		"somebody else's":     c.domain.SignVoucher(other, c.id, owed),
		"for another channel": {Channel: c.id, Max: owed, Signature: c.domain.SignVoucher(c.key, channel.ID{7}, owed).Signature},
		"above the deposit":   c.domain.SignVoucher(c.key, c.id, 100_001),
		"another chain":       channel.Domain{ChainID: 1, Contract: c.domain.Contract}.SignVoucher(c.key, c.id, owed),
		"another contract":    channel.Domain{ChainID: c.domain.ChainID, Contract: channel.Address{1}}.SignVoucher(c.key, c.id, owed),
		"another amount's":    {Channel: c.id, Max: owed + 1, Signature: good.Signature},
		"v of 0 or 1":         {Channel: c.id, Max: owed, Signature: lowV(good.Signature)},
		"malleable (high s)":  {Channel: c.id, Max: owed, Signature: highS(good.Signature)},
	}
	for name, v := range bad {
		c.pay(v)
		n := c.notice()
		if n.Code != agent.NoticeVoucher || n.Text == "" {
			t.Errorf("%s: %+v", name, n)
		}
	}
	more := c.download(site.URL, 10_000_000)
	if got+more > stranger {
		t.Errorf("bad vouchers bought %d bytes", more)
	}
	// The session carries on: a good one still counts, once.
	got = c.meter.Reading().Down()
	c.reading(got)
	c.pay(good)
	c.pay(good)
	until(t, "the good voucher is taken", func() bool { x, ok := m.session(c.id); return ok && x.Paid == owed })
	more = c.download(site.URL, 10_000_000)
	// It pays for 64 KiB, less what the next buffer does not fit into: one of 64
	// KiB comes behind smaller ones that held 60.
	if more < 32<<10 || more > stranger+1000 {
		t.Errorf("a good voucher bought %d bytes", more)
	}
	m.agent.stop(t)
	if got := m.balance(m.payTo); got != owed-owed/100_000 {
		t.Errorf("the agent was paid %d for a voucher of %d", got, owed)
	}
}

// highS returns the other signature of the same message (EIP-2).
func highS(s channel.Signature) channel.Signature {
	n := [32]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
		0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41}
	borrow := 0
	for i := 31; i >= 0; i-- {
		d := int(n[i]) - int(s[32+i]) - borrow
		borrow = 0
		if d < 0 {
			d, borrow = d+256, 1
		}
		s[32+i] = byte(d)
	}
	s[64] ^= 27 ^ 28
	return s
}

// lowV returns a signature as wallets write it that count from 0.
func lowV(s channel.Signature) channel.Signature {
	s[64] -= 27
	return s
}

func TestRefusedHellos(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	c := newCheat(m, 100_000)
	for name, tt := range map[string]struct {
		change func(*agent.Hello)
		reason tunnel.Reason
	}{
		"version":         {func(h *agent.Hello) { h.Versions = []int{99} }, tunnel.ReasonVersion},
		"somebody else":   {func(h *agent.Hello) { h.Config.PayerAuthorizer = channel.Address{1} }, tunnel.ReasonAuth},
		"contract wallet": {func(h *agent.Hello) { h.Config.PayerAuthorizer = channel.Address{} }, tunnel.ReasonAuth},
		"another payee":   {func(h *agent.Hello) { h.Config.Receiver = channel.Address{1} }, tunnel.ReasonRefused},
		"another token":   {func(h *agent.Hello) { h.Config.Token = channel.Address{1} }, tunnel.ReasonRefused},
		"another network": {func(h *agent.Hello) { h.Network = "eip155:1" }, tunnel.ReasonRefused},
		"short delay":     {func(h *agent.Hello) { h.Config.WithdrawDelay = 900 }, tunnel.ReasonRefused},
		"cheap":           {func(h *agent.Hello) { h.Price.Down-- }, tunnel.ReasonRefused},
		"no deposit":      {func(h *agent.Hello) { h.Config.Salt = channel.Hash{1} }, tunnel.ReasonRefused},
	} {
		c.connect(tt.change)
		select {
		case <-c.conn.Context().Done():
		case <-time.After(time.Minute):
			t.Fatalf("%s: still connected", name)
		}
		ce, ok := context.Cause(c.conn.Context()).(*tunnel.CloseError)
		if !ok || ce.Reason != tt.reason || ce.Text == "" {
			t.Errorf("%s: closed by %v", name, context.Cause(c.conn.Context()))
		}
	}
	m.agent.stop(t)
}

// TestSecondSessionReplacesFirst is a buyer who comes back before the agent
// has noticed that the old connection is dead.
func TestSecondSessionReplacesFirst(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	c := newCheat(m, 100_000)
	c.connect(nil)
	first, conn := c.terms(), c.conn
	c.connect(nil)
	second := c.terms()
	if second.Session != first.Session+1 {
		t.Errorf("sessions %d and %d", first.Session, second.Session)
	}
	<-conn.Context().Done()
	if ce, ok := context.Cause(conn.Context()).(*tunnel.CloseError); !ok || ce.Reason != tunnel.ReasonReplaced {
		t.Errorf("the first ended with %v", context.Cause(conn.Context()))
	}
	m.agent.stop(t)
}
