package main

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

type relaySettings struct {
	Host    string         `json:"host"`
	Dir     string         `json:"dir"`   // for the key, and what a toll needs
	Price   channel.Amount `json:"price"` // of a GB; 0: free
	Payment agent.Payment  `json:"payment"`
}

type relayReady struct {
	Name string `json:"name"`
}

// relayRole is x402-relay run, as far as that matters here.
func relayRole(c console) error {
	var s relaySettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	ip, err := netip.ParseAddr(s.Host)
	if err != nil {
		return err
	}
	return c.serve(func(ctx context.Context) error {
		return directory.Run(ctx, directory.Config{
			Listen: netip.AddrPortFrom(ip, 0), KeyFile: filepath.Join(s.Dir, "relay.key"),
			Toll:  directory.TollConfig{Price: s.Price, Payment: s.Payment, StateDir: filepath.Join(s.Dir, "toll")},
			Ready: func(name relay.Name, _ net.Addr) error { return c.enc.Encode(relayReady{name.String()}) },
		})
	})
}

// leastForRelay is what buyers must have in a channel with a relay that charges:
// so much that no deposit comes between, as with the agent.
const leastForRelay = 1_000_000_000

// startRelay starts a relay on the agent's side, which is paid by way of the
// market's facilitator if it charges, and returns its name.
func (m *market) startRelay(ctx context.Context, price channel.Amount) (*process, string, error) {
	s := relaySettings{Host: m.b.lab.addr[agentSide], Dir: m.dir, Price: price}
	if price > 0 {
		p := m.ready.Params
		s.Payment = agent.Payment{
			Network: p.Network(), Facilitator: m.ready.Facilitator, Asset: p.Token, AssetName: p.Name, AssetVersion: p.Version,
			PayTo: channel.Address{0xbb}, MinDeposit: leastForRelay,
		}
	}
	p, err := m.b.startRole(ctx, agentSide, "relay", s)
	if err != nil {
		return nil, "", err
	}
	var ready relayReady
	err = p.answer(ctx, &ready, answerTime)
	return p, ready.Name, err
}
