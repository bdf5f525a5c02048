package agent_test

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/tunnel/relay"
	relaymarket "github.com/depinsim/x402/tunnel/relay/market"
)

// A meeting is a running relay.
type meeting struct {
	*running
	name    relay.Name
	keyFile string
}

// startRelay starts a relay on this machine, which ends with the test.
func startRelay(t *testing.T) *meeting { return startRelayOf(t, nil) }

// startRelayOf starts one that is set up differently.
func startRelayOf(t *testing.T, change func(*directory.Config)) *meeting {
	t.Helper()
	ready := make(chan relay.Name, 1)
	here := netip.MustParseAddr("127.0.0.1")
	cfg := directory.Config{
		Listen: netip.AddrPortFrom(here, 0), Public: []netip.Addr{here}, KeyFile: filepath.Join(t.TempDir(), "relay.key"),
		Ready: func(n relay.Name, _ net.Addr) error {
			ready <- n
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	r := &meeting{running: start(func(ctx context.Context) error { return directory.Run(ctx, cfg) }), keyFile: cfg.KeyFile}
	t.Cleanup(func() {
		r.cancel()
		<-r.done
	})
	select {
	case r.name = <-ready:
	case <-r.done:
		t.Fatal(r.err)
	}
	return r
}

// listed waits until a relay lists the market's agent, and returns its offer.
func (r *meeting) listed(m *market) agent.Offer {
	m.t.Helper()
	c := relaymarket.New(relaymarket.Config{Name: r.name})
	defer c.Close()
	var o agent.Offer
	until(m.t, "for the agent to be listed", func() bool {
		p, err := c.Offers(m.t.Context(), relaymarket.Query{})
		if err != nil || len(p.Offers) != 1 {
			return false
		}
		o, err = agent.ParseOffer(p.Offers[0].Offer)
		return err == nil
	})
	return o
}

// TestRelay buys through a relay by QUIC and by TLS from an agent that names no
// address of its own.
func TestRelay(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	m := newMarketOf(t, func(c *seller.Config) { c.Relays = []relay.Name{r.name} })
	site := web(t)
	offer := r.listed(m)
	if len(offer.Endpoints) > 0 {
		t.Errorf("the offer names %v", offer.Endpoints)
	}
	for _, transport := range []string{buyer.QUIC, buyer.TLS} {
		p := m.buy(func(c *buyer.Config) {
			c.Offer, c.Reach = offer, buyer.ReachConfig{Transport: transport, NoDirect: true}
		})
		fetch(t, p.through(), site.URL+"/5000000", 5_000_000)
		upload(t, p.through(), site.URL+"/", 2_000_000)
		p.stop(t)
		m.settled(p)
	}
}

// TestRelayDies ends the relay under a download that may not go directly. It
// goes on through another.
func TestRelayDies(t *testing.T) {
	t.Parallel()
	const size = 40_000_000
	first, second := startRelay(t), startRelay(t)
	m := newMarketOf(t, func(c *seller.Config) { c.Relays = []relay.Name{first.name, second.name} })
	site := web(t)
	first.listed(m)
	offer := second.listed(m)
	var on screen
	p := m.buy(func(c *buyer.Config) {
		c.Offer, c.Reach, c.OnStatus = offer, buyer.ReachConfig{Transport: buyer.QUIC, NoDirect: true}, on.show
	})
	res, err := p.through().Get(site.URL + "/" + strconv.Itoa(size))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	expect(t, res.Body, 1_000_000)
	until(t, "for the relay to be said", func() bool { return on.now().Relay != "" })
	if on.now().Relay == first.name.Address() {
		first.stop(t)
	} else {
		second.stop(t)
	}
	expect(t, res.Body, size-1_000_000)
	p.stop(t)
	m.settled(p)
}
