package seller

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/testutils/simnet"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/h2"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
)

// What the SIM may carry in an hour without a buyer.
const (
	idleBudget   = 64 << 10  // beside each relay that is there
	outageBudget = 256 << 10 // while something is not
)

// What an attempt costs that is not simulated: four SYNs of a connection that
// nobody answers (Linux repeats them after 1, 3 and 7 s), a resolver's questions
// of a name (two servers, two kinds of address, asked twice).
const (
	costSYN = 4 * 60
	costDNS = 8 * 70
	costTLS = 8 << 10 // a connection that is made and then answers nonsense
)

// A meteredNet is an internet of 40 ms that counts what its first node sends
// and gets, as IP packets.
type meteredNet struct {
	mu    sync.Mutex
	nodes map[string]simnet.PacketReceiver
	sim   string // the counted node's address
	bytes int
}

func (n *meteredNet) AddNode(a net.Addr, r simnet.PacketReceiver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[a.String()] = r
}

func (n *meteredNet) SendPacket(p simnet.Packet) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.To.String() == n.sim || p.From.String() == n.sim {
		n.bytes += len(p.Data) + 28
	}
	if to := n.nodes[p.To.String()]; to != nil {
		time.AfterFunc(20*time.Millisecond, func() { to.RecvPacket(p) })
	}
	return nil
}

func (n *meteredNet) add(bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes += bytes
}

func (n *meteredNet) carried() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bytes
}

// welcomer is a relay that welcomes agents and gives them nothing to do.
func welcomer(ctx context.Context, t *testing.T, conn net.PacketConn, key *ecdsa.PrivateKey) func() {
	return host{key: key}.serve(ctx, t, conn)
}

// A host is a relay that welcomes agents, and says what answer says to what they
// say. Nil says nothing.
type host struct {
	key    *ecdsa.PrivateKey
	answer func(visit, relay.Message) []relay.Message
}

// A visit is an agent's connection to a relay.
type visit struct {
	*quicgo.Conn
	stream *quicgo.Stream
}

func (v visit) say(messages ...relay.Message) error {
	for _, m := range messages {
		b, err := m.Append(nil)
		if err != nil {
			return err
		}
		if _, err := v.stream.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// serve serves until ctx ends or the function that it returns is called.
func (h host) serve(ctx context.Context, t *testing.T, conn net.PacketConn) func() {
	cert, err := h2.Certificate(h.key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := quicgo.Listen(conn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{relay.ALPN}},
		&quicgo.Config{MaxIdleTimeout: relay.Silence})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { h.welcome(ctx, c) })
		}
	})
	return func() {
		ln.Close()
		wg.Wait()
	}
}

func (h host) welcome(ctx context.Context, c *quicgo.Conn) {
	s, err := c.AcceptStream(ctx)
	v := visit{c, s}
	for err == nil {
		var m relay.Message
		if m, err = relay.ReadMessage(s); err != nil {
			return
		}
		var say []relay.Message
		if m.Type == relay.TypeHello {
			say = append(say, relay.Message{Type: relay.TypeWelcome, Version: relay.Version, Observed: netip.MustParseAddrPort("192.0.2.7:7")})
		}
		if h.answer != nil {
			say = append(say, h.answer(v, m)...)
		}
		err = v.say(say...)
	}
}

// TestFrugal leaves agents alone for hours, with their relay there, gone, or
// without a name: what they send and get is bounded.
func TestFrugal(t *testing.T) {
	const hours = 3
	for _, tt := range []struct {
		name  string
		host  string
		relay bool // is there
		count int
		most  int
	}{
		{"idle", "10.0.0.9", true, 1, idleBudget},
		{"relay down", "10.0.0.9", false, 1, outageBudget},
		{"four relays down", "10.0.0.9", false, 4, outageBudget},
		{"DNS down", "relay.example", true, 1, outageBudget},
		{"DNS down for four", "relay.example", true, 4, outageBudget},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				n := &meteredNet{nodes: map[string]simnet.PacketReceiver{}, sim: "10.0.0.1:4402"}
				key, err := quic.GenerateKey()
				if err != nil {
					t.Fatal(err)
				}
				pin, err := quic.KeyHash(&key.PublicKey)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if tt.relay {
					conn := simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 443}, n)
					defer conn.Close()
					defer welcomer(ctx, t, conn, key)()
				}
				s := lonely(t, dir, slices.Repeat([]relay.Name{{Host: tt.host, Port: 443, Pin: pin, Pinned: true}}, tt.count), n)
				defer s.journal.Close()
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := s.reach.run(ctx, ctx); err != nil {
						t.Error(err)
					}
				})
				if tt.most == idleBudget {
					time.Sleep(time.Minute) // of simulated time; the start is not idle
				}
				for hour := range hours {
					before := n.carried()
					time.Sleep(time.Hour)
					got := n.carried() - before
					t.Logf("hour %d: %d bytes", hour+1, got)
					if got > tt.most {
						t.Errorf("hour %d: %d bytes, at most %d are meant to be", hour+1, got, tt.most)
					}
				}
				if up := s.relays[0].status().Connected; up != (tt.name == "idle") {
					t.Errorf("connected: %v, %s", up, s.relays[0].status().Error)
				}
				cancel()
				wg.Wait()
				if err := errors.Join(s.reach.sessions.Wait(), s.reach.close()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestAllRelaysBack: after an outage of ours, when all relays answer again, they
// are found within the time of one attempt, and the first that answers has the
// others tried; also when it was not the first outage in the hour.
func TestAllRelaysBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := &meteredNet{nodes: map[string]simnet.PacketReceiver{}, sim: "10.0.0.1:4402"}
		key, err := quic.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		pin, err := quic.KeyHash(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		var names []relay.Name
		for i := range 4 {
			names = append(names, relay.Name{Host: netip.AddrFrom4([4]byte{10, 0, 0, byte(9 + i)}).String(), Port: 443, Pin: pin, Pinned: true})
		}
		ctx, cancel := context.WithCancel(t.Context())
		s := lonely(t, dir, names, n)
		defer s.journal.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.reach.run(ctx, ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(20 * time.Minute)
		for _, name := range names {
			conn := simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.ParseIP(name.Host).To4(), Port: 443}, n)
			defer conn.Close()
			defer welcomer(ctx, t, conn, key)()
		}
		began := time.Now()
		first, all := time.Duration(0), time.Duration(0)
		for all == 0 {
			time.Sleep(time.Second)
			up := 0
			for _, l := range s.relays {
				if l.status().Connected {
					up++
				}
			}
			took := time.Since(began)
			if took > 2*time.Hour {
				t.Fatalf("%d relays after %v", up, took)
			}
			if up > 0 && first == 0 {
				first = took
			}
			if up == len(names) {
				all = took
			}
		}
		t.Logf("the first after %v, all after %v", first, all)
		if first > relayTriesPer+time.Minute || all > first+time.Minute {
			t.Errorf("the first after %v, all after %v", first, all)
		}
		cancel()
		wg.Wait()
		if err := errors.Join(s.reach.sessions.Wait(), s.reach.close()); err != nil {
			t.Error(err)
		}
	})
}

// lonely is an agent at relays, of which only the reach runs.
func lonely(t *testing.T, dir string, names []relay.Name, n *meteredNet) *Seller {
	t.Helper()
	s, err := open(Config{
		StateDir: dir, Listen: n.sim, Price: agent.Price{Up: 1, Down: 1}, Relays: names,
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "http://facilitator.example", Asset: channel.Address{1}, PayTo: channel.Address{2},
		},
		Socket: func(context.Context, string) (net.PacketConn, error) {
			return simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4402}, n), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.reach, err = s.openReach(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.reach.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		n.add(costSYN)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.reach.lookup = func(ctx context.Context, _, host string) ([]netip.Addr, error) {
		if a, err := netip.ParseAddr(host); err == nil {
			return []netip.Addr{a}, nil
		}
		n.add(costDNS)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.addr, s.relays = s.reach.quic.Addr(), s.reach.relays
	if err := s.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// A goneFacilitator answers nothing, and counts how often it was asked.
type goneFacilitator struct {
	Facilitator
	n *meteredNet
}

func (f goneFacilitator) gone() error {
	f.n.add(costTLS)
	return facilitator.ErrUnavailable
}

func (f goneFacilitator) Look(context.Context, string, x402.VoucherPayment) (x402.ChannelInfo, error) {
	return x402.ChannelInfo{}, f.gone()
}

func (f goneFacilitator) Claim(context.Context, string, x402.Claim) (x402.SettlementResponse, error) {
	return x402.SettlementResponse{}, f.gone()
}

func (f goneFacilitator) SettleReceiver(context.Context, string, channel.Address, channel.Address) (x402.SettlementResponse, error) {
	return x402.SettlementResponse{}, f.gone()
}

// TestFrugalWithoutFacilitator has twenty channels to claim, and nobody who
// takes the claim.
func TestFrugalWithoutFacilitator(t *testing.T) {
	const hours = 3
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := &meteredNet{}
		s, err := open(Config{
			StateDir: dir, Price: agent.Price{Up: 1e6, Down: 1e6}, Facilitator: goneFacilitator{n: n}, SettleEvery: time.Hour,
			Payment: agent.Payment{
				Network: "eip155:84532", Facilitator: "http://facilitator.example", Asset: channel.Address{1}, PayTo: channel.Address{2},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.journal.Close()
		for i := range 20 {
			owe(t, s, byte(i+1))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.settleLoop(ctx) })
		time.Sleep(hours * time.Hour)
		if got := n.carried() / hours; got == 0 || got > outageBudget {
			t.Errorf("%d bytes an hour, at most %d are meant to be", got, outageBudget)
		}
		cancel()
		wg.Wait()
	})
}

// owe gives the agent a channel with 1,000 units to claim.
func owe(t *testing.T, s *Seller, salt byte) {
	t.Helper()
	key, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	cfg := agent.Offer{Agent: s.key.Address(), Payment: s.cfg.Payment}.Channel(key.Address())
	cfg.Salt[0] = salt
	state, err := s.payee.Open(s.domain, cfg)
	if err == nil {
		_, err = s.payee.Observe(state.ID, 100_000, 0, 0, 0)
	}
	note, merr := (agent.Tally{Session: 1, Price: s.cfg.Price, Down: 1_000_000}).MarshalBinary()
	if err = errors.Join(err, merr); err == nil {
		_, err = s.payee.Accept(s.domain.SignVoucher(key, state.ID, 1000), note)
	}
	if err != nil {
		t.Fatal(err)
	}
}
