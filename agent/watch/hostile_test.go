package watch

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel"
)

// TestHostile: what is not the agent's own good claim is refused and not kept, and
// nothing takes the place of a higher one.
func TestHostile(t *testing.T) {
	simulated(t, func(w *world) {
		p, q := w.party(1, 1_000), w.party(2, 1_000)
		good := p.Claim(300, 250)
		change := func(f func(*agent.HandedClaim)) []byte {
			c := good
			c.Claims = append([]x402.VoucherClaim(nil), good.Claims...)
			h := agent.HandedClaim{Network: p.Params.Network(), Claim: c}
			f(&h)
			b, err := json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for name, b := range map[string][]byte{
			"nothing":           nil,
			"garbage":           []byte("\x00\xff"),
			"no object":         []byte("[]"),
			"deep":              []byte(strings.Repeat("[", 5_000)),
			"twice":             []byte(`{"network":"eip155:1","network":"eip155:2"}`),
			"empty":             []byte("{}"),
			"no network":        change(func(h *agent.HandedClaim) { h.Network = "" }),
			"odd network":       change(func(h *agent.HandedClaim) { h.Network = "solana:1" }),
			"other network":     change(func(h *agent.HandedClaim) { h.Network = "eip155:1" }),
			"no rows":           change(func(h *agent.HandedClaim) { h.Claim.Claims = nil }),
			"two rows":          change(func(h *agent.HandedClaim) { h.Claim.Claims = append(h.Claim.Claims, q.Row(300, 250)) }),
			"unsigned":          change(func(h *agent.HandedClaim) { h.Claim.Signature = nil }),
			"of nothing":        change(func(h *agent.HandedClaim) { h.Claim.Claims[0].TotalClaimed = 0 }),
			"above the voucher": change(func(h *agent.HandedClaim) { h.Claim.Claims[0].TotalClaimed = 301 }),
			"another total":     change(func(h *agent.HandedClaim) { h.Claim.Claims[0].TotalClaimed = 251 }),
			"another voucher":   change(func(h *agent.HandedClaim) { h.Claim.Claims[0].Voucher.Max = 400 }),
			"no payer":          change(func(h *agent.HandedClaim) { h.Claim.Claims[0].Voucher.Channel.PayerAuthorizer = channel.Address{} }),
			"another receiver":  change(func(h *agent.HandedClaim) { h.Claim.Claims[0].Voucher.Channel.Receiver = channel.Address{9} }),
			"no delay":          change(func(h *agent.HandedClaim) { h.Claim.Claims[0].Voucher.Channel.WithdrawDelay = 1 }),
			"bad voucher":       change(func(h *agent.HandedClaim) { h.Claim.Claims[0].Signature[3] ^= 1 }),
			"bad claim":         change(func(h *agent.HandedClaim) { s := *h.Claim.Signature; s[3] ^= 1; h.Claim.Signature = &s }),
			"signed by payer": change(func(h *agent.HandedClaim) {
				h.Claim = x402.SignClaim(p.Payer, p.Params.Domain(), h.Claim.Claims)
			}),
			"foreign": handed(q, 300, 250),
		} {
			if said := w.said(w.w.Take(p.Receiver.Address(), home(), b)); said.Error == "" || said.Amount != 0 || len(w.w.all) != 0 {
				t.Errorf("%s: %+v", name, said)
			}
		}
		w.taken(p, 300, 250)
		for _, lower := range []channel.Amount{1, 249, 250} {
			if said := w.take(p, 999, lower); said.Amount != 250 || said.Error != "" {
				t.Errorf("%d: %+v", lower, said)
			}
		}
		if said := w.said(w.w.Take(q.Receiver.Address(), home(), handed(p, 999, 900))); said.Error == "" {
			t.Errorf("another agent: %+v", said)
		}
		if got := w.w.all[p.ID]; got.total != 250 || got.state.Max != 300 {
			t.Errorf("kept are %d of %d", got.total, got.state.Max)
		}
		if states, err := w.w.store.Load(); err != nil || len(states) != 1 {
			t.Errorf("stored are %d, %v", len(states), err)
		}
	})
}

// TestFlood: channels that nobody has a deposit in take up a bounded room for a
// while, and no source all of it. Those of an agent are bounded too, and all.
func TestFlood(t *testing.T) {
	const free = 2
	for name, fill := range map[string]func(w *Watch, from netip.Prefix, by channel.Address){
		"of a source":  func(w *Watch, from netip.Prefix, _ channel.Address) { w.from[from] = sourceChannels - free },
		"not known":    func(w *Watch, _ netip.Prefix, _ channel.Address) { w.fresh = freshChannels - free },
		"of one agent": func(w *Watch, _ netip.Prefix, by channel.Address) { w.of[by] = agentChannels - free },
		"of all":       func(w *Watch, _ netip.Prefix, _ channel.Address) { w.cfg.Channels = free },
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(w *world) {
				w.breaks(func(string, string) *facilitator.Answer { return nil }) // it cannot say that they are made up
				p := w.party(1, 0)
				fill(w.w, tunnel.SourceOf(home()), p.Receiver.Address())
				for n := range 2 * free {
					p.Config.Salt[0]++
					p.ID = p.Params.Domain().ID(p.Config)
					if said := w.take(p, 300, 250); (said.Error == "") != (n < free) {
						t.Errorf("channel %d: %+v", n, said)
					}
				}
				w.taken(p0(p), 400, 350) // what is kept may rise
				w.breaks(nil)
				after(2 * time.Hour)
				if len(w.w.all) != 0 {
					t.Errorf("%d are kept that the ledger does not know", len(w.w.all))
				}
			})
		})
	}
}

// TestFloodHides: many channels that nobody has a deposit in do not keep a
// withdrawal from being seen.
func TestFloodHides(t *testing.T) {
	simulated(t, func(w *world) {
		p := w.party(1, 1_000)
		w.taken(p, 300, 250)
		after(time.Second)
		w.w.mu.Lock()
		good := *w.w.all[p.ID]
		for n := range freshChannels / 4 {
			k := good
			k.known, k.looked = false, time.Time{}
			k.state.ID = channel.ID{1, byte(n >> 8), byte(n)}
			w.w.all[k.state.ID] = &k
			w.w.of[k.agent()]++
			w.w.from[k.from]++
			w.w.fresh++
		}
		w.w.mu.Unlock()
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		after(defaultEvery + time.Minute)
		w.w.mu.Lock()
		left := w.w.fresh
		w.w.mu.Unlock()
		if got := w.channel(p).Claimed; got != 250 || left == 0 {
			t.Errorf("claimed are %d, of the flood %d are left", got, left)
		}
		after(2 * time.Hour)
		if len(w.w.all) != 0 || w.w.fresh != 0 || len(w.w.from) != 0 || len(w.w.of) != 0 {
			t.Errorf("%d are kept", len(w.w.all))
		}
	})
}

// p0 is the party with its first channel.
func p0(p *ledgertest.Party) *ledgertest.Party {
	first := *p
	first.Config.Salt[0] = 1
	first.ID = p.Params.Domain().ID(first.Config)
	return &first
}

// FuzzClaim: what is taken for a claim says what it was made of, in memory and on
// disk.
func FuzzClaim(f *testing.F) {
	p := ledgertest.NewParty(f, testParams(), 1)
	f.Add(handed(p, 300, 250))
	f.Add([]byte(`{"network":"eip155:1","claim":{"claims":[{}],"claimAuthorizerSignature":"0x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		network, c, err := parseClaim(b)
		if err != nil {
			return
		}
		if c.total == 0 || c.total > c.state.Max || c.agent().IsZero() {
			t.Errorf("%q: %+v", b, c)
		}
		again, err := json.Marshal(agent.HandedClaim{Network: network, Claim: c.message()})
		if err != nil {
			t.Fatal(err)
		}
		_, same, err := parseClaim(again)
		if err != nil || same.state.ID != c.state.ID || same.total != c.total || same.signature != c.signature {
			t.Errorf("%q: %+v, %v", again, same, err)
		}
		stored, err := c.record(time.Unix(1, 0)).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var s channel.State
		if err := s.UnmarshalBinary(stored); err != nil {
			t.Fatal(err)
		}
		back, seen, err := readRecord(s)
		if err != nil || seen != time.Unix(1, 0) || back.total != c.total || back.signature != c.signature || back.state.ID != c.state.ID || back.verify() == nil != (c.verify() == nil) {
			t.Errorf("%+v, %v", back, err)
		}
	})
}
