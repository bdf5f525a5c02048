package agent_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	relaymarket "github.com/depinsim/x402/tunnel/relay/market"
	relayserver "github.com/depinsim/x402/tunnel/relay/server"
)

// relayTo is who is paid by a relay that charges.
var relayTo = channel.Address{0xbb}

// A tollhouse is a market whose agent is behind a relay that charges.
type tollhouse struct {
	*market
	relay *meeting
	cfg   directory.Config // the relay's
	state string           // its directory
	site  string
	offer agent.Offer
}

// newTollhouse returns a market behind a relay at a price for a GB.
func newTollhouse(t *testing.T, price channel.Amount, change func(*directory.Config)) *tollhouse {
	t.Helper()
	h := &tollhouse{state: filepath.Join(t.TempDir(), "toll"), site: web(t).URL}
	h.market = newMarketOf(t, func(c *seller.Config) {
		h.relay = startRelayOf(t, func(d *directory.Config) {
			d.Logger = c.Logger.With("side", "relay")
			d.Toll = directory.TollConfig{Price: price, StateDir: h.state, Payment: c.Payment}
			d.Toll.Payment.PayTo = relayTo
			if change != nil {
				change(d)
			}
			h.cfg = *d
		})
		c.Relays = []relay.Name{h.relay.name}
	})
	h.offer = h.relay.listed(h.market)
	return h
}

// through buys by the relay alone.
func (h *tollhouse) through(transport string, change func(*buyer.Config)) *purchase {
	h.t.Helper()
	return h.buy(func(c *buyer.Config) {
		c.Offer, c.Reach = h.offer, buyer.ReachConfig{Transport: transport, NoDirect: true}
		if change != nil {
			change(c)
		}
	})
}

// records are what the relay has of its channels, once it is stopped.
func (h *tollhouse) records() []channel.State {
	h.t.Helper()
	h.relay.stop(h.t)
	store, err := bolt.Open(filepath.Join(h.state, "channels.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer store.Close()
	return must(store.Load())
}

// balanced holds what both sides, the relay's record and the ledger say of a
// purchase against each other. It ends the relay.
func (h *tollhouse) balanced(p *purchase) (r buyer.RelayResult) {
	h.t.Helper()
	<-p.done
	control := seller.DialControl(h.market.cfg.ControlPath())
	if _, err := control.Settle(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	if len(p.result.Relays) != 1 {
		h.t.Fatalf("relays %+v", p.result.Relays)
	}
	r = p.result.Relays[0]
	states := h.records()
	if len(states) != 1 || states[0].ID != r.Channel {
		h.t.Fatalf("the relay has %d channels", len(states))
	}
	var tally agent.Tally
	if err := tally.UnmarshalBinary(states[0].Note); err != nil {
		h.t.Fatal(err)
	}
	owed := must(tally.Owed())
	if tally.Up != r.Up || tally.Down != r.Down || owed != r.Owed {
		h.t.Errorf("the buyer counts %d up, %d down and %d owed, the relay %d, %d and %d", r.Up, r.Down, r.Owed, tally.Up, tally.Down, owed)
	}
	if r.Claimed != min(r.Owed, r.Signed) || states[0].Claimed != r.Claimed {
		h.t.Errorf("owed %d, signed %d, claimed %d and by the relay %d", r.Owed, r.Signed, r.Claimed, states[0].Claimed)
	}
	agents := p.result
	if spent := wealth - h.balance(h.wallet.Address()); spent != agents.Claimed+r.Claimed {
		h.t.Errorf("the payer spent %d, claimed are %d and %d", spent, agents.Claimed, r.Claimed)
	}
	for to, claimed := range map[channel.Address]channel.Amount{h.payTo: agents.Claimed, relayTo: r.Claimed} {
		if got, want := h.balance(to), claimed-claimed/100_000; got != want {
			h.t.Errorf("%s has %d, want %d", to, got, want)
		}
	}
	totals := must(h.fac.Totals(h.t.Context(), h.params.Network()))
	if totals.Escrow != 0 || totals.Unsettled != 0 || totals.Fees != agents.Claimed/100_000+r.Claimed/100_000 {
		h.t.Errorf("the ledger has %+v", totals)
	}
	return r
}

// TestRelayIsPaid buys through a relay that charges, by QUIC and by TLS: agent
// and relay have what both sides counted, to the unit.
func TestRelayIsPaid(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{buyer.QUIC, buyer.TLS} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			h := newTollhouse(t, 1_000_000, nil)
			p := h.through(transport, nil)
			fetch(t, p.through(), h.site+"/8000000", 8_000_000)
			upload(t, p.through(), h.site+"/", 3_000_000)
			p.stop(t)
			r := h.balanced(p)
			if r.Down < 8_000_000 || r.Up < 3_000_000 || r.Claimed < 11_000 {
				t.Errorf("result %+v", r)
			}
		})
	}
}

// TestDirectIsFree pays the relay for what passed by it until the direct path
// was found, and for nothing more.
func TestDirectIsFree(t *testing.T) {
	t.Parallel()
	h := newTollhouse(t, 1_000_000, nil)
	var on screen
	p := h.buy(func(c *buyer.Config) {
		c.Offer, c.Reach, c.OnStatus = h.offer, buyer.ReachConfig{Transport: buyer.QUIC}, on.show
	})
	fetch(t, p.through(), h.site+"/1000", 1_000)
	until(t, "for the direct path", func() bool { return on.now().Direct })
	passed := func() uint64 {
		for _, r := range on.now().Relays {
			return r.Up + r.Down
		}
		return 0
	}
	until(t, "for the relay to be paid", func() bool { return passed() > 0 })
	before := passed()
	fetch(t, p.through(), h.site+"/20000000", 20_000_000)
	p.stop(t)
	r := h.balanced(p)
	if r.Up+r.Down > before+500_000 || r.Claimed == 0 || p.result.Down < 20_000_000 {
		t.Errorf("by the relay %d bytes before and %d at the end, for %d", before, r.Up+r.Down, r.Claimed)
	}
}

// TestRelayOverPrice refuses a relay that is too dear together with the agent,
// before anything is deposited.
func TestRelayOverPrice(t *testing.T) {
	t.Parallel()
	h := newTollhouse(t, 1_000_001, nil)
	for _, known := range []map[string]toll.Tariff{buyer.AskTolls(t.Context(), h.offer), nil} { // told before, and late
		p := h.through(buyer.QUIC, func(c *buyer.Config) { c.Tolls.Known = known }) // at 5 USD in all
		<-p.done
		if !errors.Is(p.err, buyer.ErrPrice) || !strings.Contains(p.err.Error(), "it asks 1.000001 USD per GB beside the agent's 4.00, at most 5.00 are allowed together") {
			t.Errorf("%v: %v", known, p.err)
		}
		if len(p.result.Relays) != 0 {
			t.Errorf("%v: %+v", known, p.result.Relays)
		}
		if known != nil && h.balance(h.wallet.Address()) != wealth {
			t.Error("money was moved")
		}
	}
}

// TestBudgetIsShared ends the purchase when agent and relay together have come to
// the budget.
func TestBudgetIsShared(t *testing.T) {
	t.Parallel()
	const budget = 200_000
	h := newTollhouse(t, 1_000_000, nil)
	p := h.through(buyer.QUIC, func(c *buyer.Config) { c.Budget = budget })
	res, err := p.through().Get(h.site + "/60000000") // for 240,000 and 60,000
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("60 MB came through")
	}
	<-p.done
	if !errors.Is(p.err, buyer.ErrBudget) {
		t.Errorf("ended with %v", p.err)
	}
	r := h.balanced(p)
	if sum := p.result.Signed + r.Signed; sum > budget || sum < budget*8/10 {
		t.Errorf("signed %d and %d on a budget of %d", p.result.Signed, r.Signed, budget)
	}
}

// TestRelayKeeps leaves the deposit with the relay, goes on from it, and has it
// refunded by itself.
func TestRelayKeeps(t *testing.T) {
	t.Parallel()
	h := newTollhouse(t, 1_000_000, nil)
	var last buyer.RelayResult
	for range 2 {
		p := h.through(buyer.QUIC, func(c *buyer.Config) { c.Keep = true })
		fetch(t, p.through(), h.site+"/1000000", 1_000_000)
		p.stop(t)
		r := p.result.Relays[0]
		if r.Refunded != 0 || r.Signed < last.Signed+1_000 || r.Owed != r.Signed || r.Down < last.Down+1_000_000 {
			t.Errorf("%+v after %+v", r, last)
		}
		last = r
	}
	store := must(bolt.Open(filepath.Join(h.dir, "channels.db")))
	defer store.Close()
	tariff := buyer.AskTolls(t.Context(), h.offer)[h.relay.name.Address()]
	r, err := buyer.RefundRelay(t.Context(), buyer.Config{Key: h.wallet, Store: store, Offer: tariff.Offer(h.relay.name), Logger: h.log})
	if err != nil || r.Claimed != last.Signed || r.Claimed+r.Refunded != 100_000 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRelayReturns starts the relay again under a purchase: it goes on, and the
// totals go on from where they were.
func TestRelayReturns(t *testing.T) {
	t.Parallel()
	h := newTollhouse(t, 1_000_000, nil)
	var on screen
	p := h.through(buyer.QUIC, func(c *buyer.Config) { c.OnStatus = on.show })
	fetch(t, p.through(), h.site+"/2000000", 2_000_000)
	h.relay.stop(t)
	again := h.cfg
	again.Listen = netip.AddrPortFrom(again.Listen.Addr(), h.relay.name.Port)
	h.relay = startRelayOf(t, func(c *directory.Config) {
		ready := c.Ready
		*c = again
		c.Ready = ready
	})
	fetch(t, p.through(), h.site+"/2000000", 2_000_000)
	p.stop(t)
	if r := h.balanced(p); r.Down < 4_000_000 {
		t.Errorf("%+v", r)
	}
}

// A liar is a relay's HTTPS as its operator may alter it: requests are passed on
// after before, and what is answered goes through change.
func (r *meeting) liar(t *testing.T, before func(path string), change func(path string, answer map[string]any)) relay.Name {
	t.Helper()
	b := must(os.ReadFile(r.keyFile))
	block, _ := pem.Decode(b)
	key := must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*ecdsa.PrivateKey)
	behind := &http.Client{Transport: &http.Transport{TLSClientConfig: r.name.TLS("http/1.1")}}
	t.Cleanup(behind.CloseIdleConnections)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, asked *http.Request) {
		before(asked.URL.Path)
		q, err := http.NewRequestWithContext(asked.Context(), asked.Method, "https://"+r.name.Address()+asked.URL.RequestURI(), asked.Body)
		if err != nil {
			return
		}
		q.Header = asked.Header.Clone()
		a, err := behind.Do(q)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer a.Body.Close()
		text, _ := io.ReadAll(a.Body)
		said := map[string]any{}
		if a.StatusCode == http.StatusOK && json.Unmarshal(text, &said) == nil {
			change(asked.URL.Path, said)
			text, _ = json.Marshal(said)
		}
		w.WriteHeader(a.StatusCode)
		w.Write(text)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{must(relayserver.SelfSigned(key))}, NextProtos: []string{"http/1.1"}}
	s.StartTLS()
	t.Cleanup(s.Close)
	name := r.name
	name.Port = s.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	return name
}

// rival starts a second relay for the agent, of which nothing is had by the name
// returned before first is closed: a busy machine does not decide which relay is
// used first.
func (h *tollhouse) rival(first <-chan struct{}) relay.Name {
	h.t.Helper()
	r := startRelay(h.t)
	h.agent.stop(h.t)
	h.market.cfg.Relays = append(h.market.cfg.Relays, r.name)
	h.startAgent()
	h.offer = r.listed(h.market)
	h.relay.listed(h.market)
	return r.liar(h.t, func(string) {
		select {
		case <-first:
		case <-h.t.Context().Done():
		}
	}, func(string, map[string]any) {})
}

// TestRelayOvercounts has a relay claim more than was sent: it is paid for what
// was sent, and left for another one.
func TestRelayOvercounts(t *testing.T) {
	t.Parallel()
	h := newTollhouse(t, 1_000_000, nil)
	used := make(chan struct{})
	other := h.rival(used)
	more := 0
	liar := h.relay.liar(t, func(string) {}, func(path string, said map[string]any) {
		if path == toll.PayPath {
			more += 10_000_000
			up, _ := strconv.Atoi(said["up"].(string))
			said["up"], said["owed"] = strconv.Itoa(up+more), strconv.Itoa(up+more)
		}
	})
	h.offer.Relays = []string{liar.String(), other.String()}
	var on screen
	p := h.through(buyer.QUIC, func(c *buyer.Config) { c.OnStatus = on.show })
	fetch(t, p.through(), h.site+"/1000000", 1_000_000)
	close(used)
	until(t, "for the relay to be left", func() bool {
		fetch(t, p.through(), h.site+"/100000", 100_000)
		return on.now().Relay == other.Address()
	})
	p.stop(t)
	r := p.result.Relays[0]
	if most := (r.Up+r.Down)/1_000 + 1; r.Signed > channel.Amount(most) || r.Up > 2_000_000 {
		t.Errorf("%+v", r)
	}
	var text strings.Builder
	for _, x := range on.now().Relays {
		text.WriteString(x.Error)
	}
	if !strings.Contains(text.String(), "bytes to the agent,") {
		t.Errorf("said %q", text.String())
	}
	if r.Claimed > r.Signed || (r.Claimed+r.Refunded)%100_000 != 0 { // all that was deposited
		t.Errorf("%+v", r)
	}
}

// TestRelayForwardsNothing has a relay answer binds, take payments and forward
// nothing, while it claims to have passed on all that was sent: it earns no more
// than a stranger's credit, and the buyer goes elsewhere.
func TestRelayForwardsNothing(t *testing.T) {
	t.Parallel()
	h := newTollhouse(t, 1_000_000, nil)
	hole := newHole(t)
	other := h.rival(hole.used)
	liar := h.relay.liar(t, func(string) {}, func(path string, said map[string]any) {
		switch path {
		case relaymarket.SessionsPath:
			said["address"] = hole.open(said["id"].(string), said["token"].(string)).String()
		case toll.PayPath:
			said["up"] = strconv.FormatUint(hole.swallowed.Load(), 10)
			said["owed"] = strconv.FormatUint(hole.swallowed.Load()/1_000+1, 10)
		}
	})
	h.offer.Relays = []string{liar.String(), other.String()}
	p := h.through(buyer.QUIC, nil)
	fetch(t, p.through(), h.site+"/1000000", 1_000_000)
	p.stop(t)
	i := slices.IndexFunc(p.result.Relays, func(r buyer.RelayResult) bool { return r.Relay == liar.Address() })
	if i < 0 {
		t.Fatalf("%+v", p.result.Relays)
	}
	if r := p.result.Relays[i]; hole.swallowed.Load() == 0 || r.Signed > 132 || r.Up > hole.swallowed.Load() || r.Down != 0 {
		t.Errorf("%+v, of %d bytes that were swallowed", r, hole.swallowed.Load())
	}
}

// A hole is a relay's ports that answer binds and swallow the rest.
type hole struct {
	t         *testing.T
	swallowed atomic.Uint64
	used      chan struct{} // closed when something was swallowed
	once      sync.Once     // closes it
	wg        sync.WaitGroup
}

func newHole(t *testing.T) *hole {
	h := &hole{t: t, used: make(chan struct{})}
	t.Cleanup(h.wg.Wait) // after the sockets are closed
	return h
}

// open opens a port for a session's buyer.
func (h *hole) open(id, token string) net.Addr {
	var session relay.SessionID
	var key relay.Token
	if err := errors.Join(session.UnmarshalText([]byte(id)), key.UnmarshalText([]byte(token))); err != nil {
		h.t.Error(err)
	}
	socket := must(net.ListenPacket("udp", "127.0.0.1:0"))
	h.t.Cleanup(func() { socket.Close() })
	h.wg.Go(func() {
		b := make([]byte, 2000)
		for {
			n, from, err := socket.ReadFrom(b)
			if err != nil {
				return
			}
			bind, err := path.ParseBind(b[:n], (*path.Key)(&key))
			if err != nil {
				h.swallowed.Add(uint64(n))
				h.once.Do(func() { close(h.used) })
				continue
			}
			self := from.(*net.UDPAddr).AddrPort()
			socket.WriteTo(path.Bound{Session: path.ID(session), Counter: bind.Counter, Self: self}.Append(nil, (*path.Key)(&key)), from)
		}
	})
	return socket.LocalAddr()
}
