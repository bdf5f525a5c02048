package agent_test

import (
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/tunnel/relay"
)

// relayTo is who is paid by a relay that charges.
var relayTo = channel.Address{0xbb}

// A tollhouse is a market whose agent is behind a relay that charges.
type tollhouse struct {
	*market
	relay *meeting
	state string // the relay's directory
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
	control := seller.DialControl(h.cfg.ControlPath())
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
