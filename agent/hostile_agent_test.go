package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// A crook is an agent made by hand: it relays, and says of what it relayed
// whatever the test wants.
type crook struct {
	net   tunneltest.Net
	offer agent.Offer
	terms func(agent.Hello) agent.Terms
	// lie may change a reading before it is sent.
	lie func(*agent.Reading)
	// sell answers a wish for a token on a channel; nil: it does not.
	sell func(channel.ID, agent.TokenRequest) agent.TokenGrant
	// receipt makes of a true receipt the one that is given, and has it signed; nil:
	// it runs away before that.
	receipt func(agent.Receipt) agent.Receipt
	device  *channel.Key

	mu       sync.Mutex
	vouchers []channel.Amount
	voucher  channel.Voucher // the newest
	reason   error           // why the last connection ended
}

// listen serves one connection after the other until the test ends.
func (c *crook) listen(t *testing.T, m *market) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key, err := quic.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if c.device, err = channel.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	ln, err := quic.Listen(quic.ListenConfig{Conn: socket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := quic.KeyHash(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	c.offer = agent.Offer{
		Agent: c.device.Address(), Endpoints: []string{socket.LocalAddr().String()}, TunnelKey: hash,
		Price: m.cfg.Price, Payment: m.offer().Payment,
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, _, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			wg.Go(func() { c.serve(t, conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
		c.net.Wait()
		socket.Close()
	})
}

func (c *crook) serve(t *testing.T, conn tunnel.ServerConn) {
	s := tunnel.NewSession(conn, tunnel.Config{Dialer: &c.net, Known: agent.KnownCapsule})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		err := s.Run()
		c.mu.Lock()
		c.reason = err
		c.mu.Unlock()
	})
	ctl, err := s.Control(context.Background())
	if err != nil {
		return
	}
	hello, err := ctl.Receive()
	if err != nil {
		return
	}
	exporter, err := conn.ExportKey(agent.ExporterLabel)
	if err != nil {
		return
	}
	h, err := agent.OpenHello(exporter, hello.Value)
	if err != nil {
		t.Error(err)
		return
	}
	b, err := json.Marshal(c.terms(h))
	if err != nil {
		t.Error(err)
		return
	}
	if ctl.Send(agent.CapsuleTerms, b) != nil {
		return
	}
	mt := meter.New(meter.Config{})
	defer mt.Close(nil)
	s.Admit(tunnel.Lanes{UpTCP: mt.UpTCP, DownTCP: mt.DownTCP, UpUDP: mt.UpUDP, DownUDP: mt.DownUDP})
	id := must(c.offer.Payment.Domain()).ID(h.Config)
	ends := func(typ uint64) bool {
		if c.receipt == nil {
			return false
		}
		switch typ {
		case agent.CapsuleDrain:
			s.Drain(context.Background())
			r := mt.Reading()
			_ = ctl.Send(agent.CapsuleReading, agent.AppendReading(nil, agent.Reading{
				ReceivedTCP: r.UpTCP, ReceivedUDP: r.UpUDP, SentTCP: r.DownTCP, SentUDP: r.DownUDP, Credit: 500, Paid: c.last(),
			}))
			return ctl.Send(agent.CapsuleDrain, nil) == nil
		case agent.CapsuleReceipt:
			return ctl.Send(agent.CapsuleReceipt, agent.AppendReceipt(nil, c.receipt(c.truth(h, mt.Reading())))) == nil
		}
		return false
	}
	wg.Go(func() { c.read(ctl, conn, id, ends) })
	for {
		r := mt.Reading()
		reading := agent.Reading{
			ReceivedTCP: r.UpTCP, ReceivedUDP: r.UpUDP, SentTCP: r.DownTCP, SentUDP: r.DownUDP, Credit: 500, Paid: c.last(),
		}
		c.lie(&reading)
		if ctl.Send(agent.CapsuleReading, agent.AppendReading(nil, reading)) != nil {
			return
		}
		select {
		case <-conn.Context().Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// truth is the receipt of a session.
func (c *crook) truth(h agent.Hello, r meter.Reading) agent.Receipt {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := channel.NewState(must(c.offer.Payment.Domain()), h.Config)
	if err != nil {
		panic(err)
	}
	s.Max, s.Signature = c.voucher.Max, c.voucher.Signature
	return agent.NewReceipt(s, agent.Tally{Session: 1, Price: h.Price, Up: r.Up(), Down: r.Down()}, 0)
}

// read remembers what is signed, and runs away when the buyer wants to end, unless
// that is done otherwise.
func (c *crook) read(ctl *tunnel.Control, conn tunnel.ServerConn, id channel.ID, ends func(typ uint64) bool) {
	for {
		capsule, err := ctl.Receive()
		if err != nil {
			return
		}
		if ends(capsule.Type) {
			continue
		}
		if capsule.Type == agent.CapsuleDrain {
			conn.Close(tunnel.ReasonDone, "")
			return
		}
		if r, err := agent.ParseTokenRequest(capsule.Value); capsule.Type == agent.CapsuleRequest && err == nil && c.sell != nil {
			if ctl.Send(agent.CapsuleToken, must(json.Marshal(c.sell(id, r)))) != nil {
				return
			}
		}
		if capsule.Type != agent.CapsuleVoucher {
			continue
		}
		if v, err := agent.ParseVoucher(id, capsule.Value); err == nil {
			c.mu.Lock()
			c.vouchers, c.voucher = append(c.vouchers, v.Max), v
			c.mu.Unlock()
		}
	}
}

func (c *crook) last() channel.Amount {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.vouchers) == 0 {
		return 0
	}
	return c.vouchers[len(c.vouchers)-1]
}

func honest(h agent.Hello) agent.Terms {
	return agent.Terms{Version: agent.ProtocolVersion, Session: 1, Price: h.Price, Balance: 250_000, Credit: 500}
}

// victim buys from the crook until the purchase ends, sending up bytes.
func victim(t *testing.T, m *market, c *crook, up int) (buyer.Result, error) {
	t.Helper()
	store, err := bolt.Open(t.TempDir() + "/channels.db")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	socks := listen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		p := &purchase{socks: socks.Addr().String()}
		res, err := p.through().Post("http://sink.test/", "application/octet-stream", strings.NewReader(strings.Repeat("x", up)))
		if err == nil {
			res.Body.Close()
		}
	})
	return buyer.Run(ctx, buyer.Config{
		Key: m.wallet, Store: store, Offer: c.offer, Budget: 1_000_000, MaxPrice: 5_000_000, SOCKS: socks,
		Logger: m.log.With("side", "victim"),
	})
}

func TestAgentWhoOvercounts(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	defer m.agent.stop(t)
	const up = 100_000
	for name, c := range map[string]*crook{
		"uploads": {terms: honest, lie: func(r *agent.Reading) { r.ReceivedTCP = 10*r.ReceivedTCP + 1_000_000 }},
		"a debt from before": {lie: func(*agent.Reading) {}, terms: func(h agent.Hello) agent.Terms {
			terms := honest(h)
			terms.Base = 600
			return terms
		}},
		"a dearer price": {lie: func(*agent.Reading) {}, terms: func(h agent.Hello) agent.Terms {
			terms := honest(h)
			terms.Price.Down++
			return terms
		}},
		"a foreign voucher": {lie: func(*agent.Reading) {}, terms: func(h agent.Hello) agent.Terms {
			terms := honest(h)
			terms.Base, terms.Voucher = 600, channel.Voucher{Max: 600, Signature: channel.Signature{64: 27}}
			return terms
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c.net.HandleTCP("sink.test:80", func(conn *tunneltest.Conn) { io.Copy(io.Discard, conn) })
			c.listen(t, m)
			r, err := victim(t, m, c, up)
			if err == nil || !strings.Contains(err.Error(), "overcounts") {
				t.Errorf("ended with %v", err)
			}
			if most := channel.Amount((up+10_000)*4/1000 + 1); r.Signed > most {
				t.Errorf("signed %d for %d bytes", r.Signed, up)
			}
		})
	}
}

// TestAgentWhoAsksForMore owes nothing but claims a debt in its readings; the
// buyer goes by its own count and signs no more.
func TestAgentWhoAsksForMore(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	defer m.agent.stop(t)
	c := &crook{terms: honest, lie: func(r *agent.Reading) { r.Owed, r.SentTCP = 500_000, r.SentTCP+1<<30 }}
	c.net.HandleTCP("sink.test:80", func(conn *tunneltest.Conn) {
		io.CopyN(io.Discard, conn, 100_000)
		io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n")
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
	c.listen(t, m)
	store, err := bolt.Open(t.TempDir() + "/channels.db")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	socks := listen(t)
	var result buyer.Result
	p := &purchase{socks: socks.Addr().String(), running: start(func(ctx context.Context) (err error) {
		result, err = buyer.Run(ctx, buyer.Config{
			Key: m.wallet, Store: store, Offer: c.offer, Budget: 1_000_000, MaxPrice: 5_000_000, SOCKS: socks, Keep: true,
		})
		return err
	})}
	res, err := p.through().Post("http://sink.test/", "text/plain", strings.NewReader(strings.Repeat("x", 100_000)))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	until(t, "for a voucher", func() bool { return c.last() > 0 })
	p.cancel()
	<-p.done
	if most := channel.Amount(110_000*4/1000 + 1); result.Signed > most || result.Signed == 0 {
		t.Errorf("signed %d", result.Signed)
	}
	if p.err == nil || !strings.Contains(p.err.Error(), "stays in the channel") {
		t.Errorf("ended with %v", p.err)
	}
}

// TestUnreachableAgent has a deposit in a channel whose agent is gone: the
// buyer begins the withdrawal and says until when it has to wait.
func TestUnreachableAgent(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	p := m.buy(func(c *buyer.Config) { c.Keep = true })
	fetch(t, p.through(), web(t).URL+"/1000", 1000)
	p.stop(t)
	offer := m.offer()
	m.agent.stop(t)
	store, err := bolt.Open(m.dir + "/channels.db")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	r, err := buyer.Run(ctx, buyer.Config{Key: m.wallet, Store: store, Offer: offer, CloseOnly: true, Logger: m.log})
	if err == nil || r.WithdrawAt == 0 || !strings.Contains(err.Error(), "withdraw") {
		t.Errorf("result %+v, error %v", r, err)
	}
	if errors.Is(err, context.Canceled) && err.Error() == "" {
		t.Error("no reason given")
	}
	info, err := m.fac.Channel(t.Context(), m.params.Network(), r.Channel)
	if err != nil || info.FinalizeAfter != r.WithdrawAt {
		t.Errorf("the ledger says %+v, %v", info, err)
	}
}
