package agent_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
)

// A prepaid is a token of the market's wallet, and how it was bought.
type prepaid struct {
	buyer.Token
	m     *market
	salt  channel.Hash
	offer agent.Offer
}

// token buys one.
func (m *market) token(bytes uint64) *prepaid {
	m.t.Helper()
	return m.tokenOf(m.offer(), bytes)
}

func (m *market) tokenOf(o agent.Offer, bytes uint64) *prepaid {
	m.t.Helper()
	p := &prepaid{m: m, offer: o}
	rand.Read(p.salt[:])
	var err error
	p.withStore(func(c buyer.Config) {
		p.Token, err = buyer.BuyToken(m.t.Context(), c, bytes)
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

func (p *prepaid) withStore(do func(buyer.Config)) {
	m := p.m
	m.t.Helper()
	store, err := bolt.Open(filepath.Join(m.dir, "channels.db"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer store.Close()
	do(buyer.Config{
		Key: m.wallet, Store: store, Offer: p.offer, MaxPrice: 1_000_000_000, Salt: p.salt, Logger: m.log.With("side", "buyer"), Receipts: m.kept(),
	})
}

// close has the agent claim and refund.
func (p *prepaid) close() (r buyer.Result, err error) {
	p.withStore(func(c buyer.Config) {
		c.CloseOnly = true
		r, err = buyer.Run(p.m.t.Context(), c)
	})
	return r, err
}

// earned is what the agent says of the token's channel.
func (p *prepaid) earned() seller.ChannelEarnings {
	p.m.t.Helper()
	var all seller.Earnings
	if err := seller.DialControl(p.m.cfg.ControlPath()).Get(p.m.t.Context(), "earnings", &all); err != nil {
		p.m.t.Fatal(err)
	}
	i := slices.IndexFunc(all.Channels, func(c seller.ChannelEarnings) bool { return c.Channel == p.Channel })
	if i < 0 {
		p.m.t.Fatalf("the agent does not know channel %s", p.Channel)
	}
	return all.Channels[i]
}

// counted waits until the agent's count is up and down.
func (p *prepaid) counted(up, down uint64) {
	p.m.t.Helper()
	var e seller.ChannelEarnings
	defer func() {
		if p.m.t.Failed() {
			p.m.t.Logf("the agent counts %d up and %d down, want %d and %d", e.Up, e.Down, up, down)
		}
	}()
	until(p.m.t, "for the agent to count the same", func() bool {
		e = p.earned()
		return e.Up == up && e.Down == down
	})
}

// ended holds where the money went against what was counted: nothing but that
// was claimed, and the rest is back. The token was the market's only purchase.
func (p *prepaid) ended(up, down uint64) {
	m := p.m
	m.t.Helper()
	until(m.t, "for the rest of the deposit to come back", func() bool { e := p.earned(); return e.Balance == e.Claimed })
	if _, err := seller.DialControl(m.cfg.ControlPath()).Settle(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	price := m.cfg.Price
	owed := (channel.Amount(up)*price.Up + channel.Amount(down)*price.Down + agent.GB - 1) / agent.GB
	if e := p.earned(); e.Up != up || e.Down != down || e.Owed != owed || e.Claimed != owed || e.Paid != p.Amount {
		m.t.Errorf("earned %+v, want %d up, %d down, %d claimed of %d paid", e, up, down, owed, p.Amount)
	}
	if spent := wealth - m.balance(m.wallet.Address()); spent != owed || spent > p.Amount {
		m.t.Errorf("the payer spent %d, owed are %d, paid were %d", spent, owed, p.Amount)
	}
	if got := m.balance(m.payTo); got != owed-owed/100_000 {
		m.t.Errorf("the receiver has %d of %d", got, owed)
	}
	if totals := must(m.fac.Totals(m.t.Context(), m.params.Network())); totals.Escrow != 0 || totals.Unsettled != 0 {
		m.t.Errorf("the ledger has %+v", totals)
	}
}

// An outsider is an HTTP/3 client that knows nothing of this program, on quic-go
// itself and not on the fork that the agent has.
type outsider struct {
	t    *testing.T
	conn *quic.Conn
	h3   *http3.ClientConn
	// up and down count the bytes of the flows.
	up, down atomic.Uint64
}

// pinned accepts the agent that the market's offer names, whatever its
// certificate says.
func (m *market) pinned() *tls.Config {
	want := m.offer().TunnelKey
	return &tls.Config{
		NextProtos: []string{http3.NextProtoH3}, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo) != want {
				return errors.New("another key")
			}
			return nil
		},
	}
}

func (m *market) outsider() *outsider {
	m.t.Helper()
	return m.outsiderAt(m.cfg.Listen)
}

// outsiderAt reaches the agent at a port of a relay.
func (m *market) outsiderAt(addr string) *outsider {
	m.t.Helper()
	conn, err := quic.DialAddr(m.t.Context(), addr, m.pinned(), &quic.Config{EnableDatagrams: true})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.CloseWithError(0x100, "") })
	return &outsider{t: m.t, conn: conn, h3: (&http3.Transport{EnableDatagrams: true}).NewClientConn(conn)}
}

// connect opens a TCP flow (RFC 9114 section 4.4) with the credentials given. The
// stream is nil when the answer is no.
func (s *outsider) connect(target string, credentials ...string) (*flowOf, *http.Response) {
	s.t.Helper()
	f, res, err := s.open(s.t.Context(), target, credentials...)
	if err != nil {
		s.t.Fatal(err)
	}
	return f, res
}

func (s *outsider) open(ctx context.Context, target string, credentials ...string) (*flowOf, *http.Response, error) {
	str, err := s.h3.OpenRequestStream(ctx)
	if err != nil {
		return nil, nil, err
	}
	req := &http.Request{Method: http.MethodConnect, Host: target, URL: &url.URL{Host: target}, Header: http.Header{}}
	if len(credentials) > 0 {
		req.Header["Proxy-Authorization"] = credentials
	}
	if err := str.SendRequestHeader(req); err != nil {
		return nil, nil, err
	}
	res, err := str.ReadResponse()
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, res, err
	}
	return &flowOf{str, s}, res, nil
}

// through returns a client that goes by the token.
func (s *outsider) through(token string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, target string) (net.Conn, error) {
			f, res, err := s.open(ctx, target, agent.Credentials(token))
			if err == nil && f == nil {
				err = errors.New(res.Status)
			}
			if err != nil {
				return nil, err
			}
			return f, nil
		},
	}}
}

// A flowOf is a TCP flow of an outsider's, as a net.Conn that counts.
type flowOf struct {
	*http3.RequestStream
	s *outsider
}

func (f *flowOf) Read(b []byte) (int, error) {
	n, err := f.RequestStream.Read(b)
	f.s.down.Add(uint64(n))
	return n, err
}

func (f *flowOf) Write(b []byte) (int, error) {
	n, err := f.RequestStream.Write(b)
	f.s.up.Add(uint64(n))
	return n, err
}

func (f *flowOf) Close() error {
	f.CancelRead(0x100)
	return f.RequestStream.Close()
}

func (f *flowOf) LocalAddr() net.Addr  { return f.s.conn.LocalAddr() }
func (f *flowOf) RemoteAddr() net.Addr { return f.s.conn.RemoteAddr() }
