package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

// A hub is a relay, and agents that only pretend to sell.
type hub struct {
	name    relay.Name
	stop    context.CancelFunc
	running sync.WaitGroup
}

// startHub runs a relay on loopback.
func startHub(dir string, charge directory.TollConfig) (*hub, error) {
	ctx, stop := context.WithCancel(context.Background())
	h := &hub{stop: stop}
	ready, ended := make(chan relay.Name, 1), make(chan error, 1)
	h.running.Go(func() {
		ended <- directory.Run(ctx, directory.Config{
			Listen: netip.MustParseAddrPort("127.0.0.1:0"), Host: "127.0.0.1", KeyFile: filepath.Join(dir, "relay.key"),
			Toll:  charge,
			Ready: func(n relay.Name, _ net.Addr) error { ready <- n; return nil },
		})
	})
	select {
	case h.name = <-ready:
		return h, nil
	case err := <-ended:
		stop()
		return nil, err
	}
}

func (h *hub) close() {
	h.stop()
	h.running.Wait()
}

// ghost has the relay list an agent that does not answer. It returns its
// address.
func (h *hub) ghost(o agent.Offer) (channel.Address, error) {
	key, err := channel.GenerateKey()
	if err != nil {
		return channel.Address{}, err
	}
	o.Relays, o.Seq = []string{h.name.String()}, 1
	signed, err := agent.SignOffer(key, o)
	if err != nil {
		return channel.Address{}, err
	}
	ctx, stop := context.WithCancel(context.Background())
	old := h.stop
	h.stop = func() { stop(); old() }
	conn, err := net.Dial("tcp", h.name.Address())
	if err != nil {
		return channel.Address{}, err
	}
	a, err := relay.DialTCP(ctx, conn, relay.AgentConfig{
		Name: h.name, Agent: relay.Address(key.Address()), Offer: func() []byte { return signed },
		Sign:    func(e [32]byte) (relay.Signature, error) { return relay.Signature(key.Sign(agent.RelayDigest(e))), nil },
		Session: func(relay.Allotment) {},
		Ended:   func(relay.SessionID) {},
	})
	if err != nil {
		return channel.Address{}, err
	}
	h.running.Go(func() { _ = a.Run(ctx) }) // it ends with the hub
	return key.Address(), h.lists(key.Address())
}

// lists waits until the relay lists an agent.
func (h *hub) lists(who channel.Address) error {
	ctx, cancel := context.WithTimeout(context.Background(), playTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := buyer.Market{Relays: []relay.Name{h.name}}.List(ctx, buyer.Want{Agent: who.String()})
		if err == nil && len(l.Offers) == 1 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, errors.New("the relay does not list the agent"))
		case <-tick.C:
		}
	}
}

// scriptRelay is `relay start`, which sets $RELAY to the name of a relay that
// the next market's agent is known at, and $RELAYAT to its address; or `relay
// stop`.
func scriptRelay(ts *testscript.TestScript, _ bool, args []string) {
	s := onStage(ts)
	if args[0] == "stop" {
		s.hub.close()
		return
	}
	var charge directory.TollConfig
	if args[0] == "toll" { // as the market's agent is paid, for so much a GB; the agent comes to it
		charge = directory.TollConfig{StateDir: ts.MkAbs("toll"), Payment: s.market.cfg.Payment}
		charge.Payment.PayTo = channel.Address{0xbb}
		var err error
		charge.Price, err = channel.ParseUSD(args[1])
		ts.Check(err)
	}
	h, err := startHub(ts.Getenv("WORK"), charge)
	ts.Check(err)
	ts.Defer(h.close)
	if charge.Price > 0 {
		ts.Check(s.market.stopAgent())
		s.market.cfg.Relays = []relay.Name{h.name}
		s.market.startAgent()
	}
	s.hub = h
	ts.Setenv("RELAY", h.name.String())
	ts.Setenv("RELAYAT", h.name.Address())
	ts.Setenv("WRONGRELAY", otherPin(h.name.String()))
}

// scriptListed is `listed`: the relay lists the market's agent.
func scriptListed(ts *testscript.TestScript, _ bool, _ []string) {
	a, err := channel.ParseAddress(ts.Getenv("AGENTKEY"))
	ts.Check(err)
	ts.Check(onStage(ts).hub.lists(a))
}

// scriptGhost is `ghost NAME PRICE MCC MNC OPERATOR TECH`: the relay lists an
// agent that does not answer, and asks so much. $NAME is its address.
func scriptGhost(ts *testscript.TestScript, _ bool, args []string) {
	price, err := channel.ParseUSD(args[1])
	ts.Check(err)
	facilitator := "http://127.0.0.1:1"
	if f := ts.Getenv("FACILITATOR"); f != "" {
		facilitator = f
	}
	a, err := onStage(ts).hub.ghost(agent.Offer{
		TunnelKey: channel.Hash{9}, Price: agent.Price{Up: price, Down: price},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: facilitator, Asset: channel.Address{3},
			AssetName: "USDC", AssetVersion: "2", PayTo: channel.Address{4}, WithdrawDelay: 86400, MinDeposit: 5,
		},
		SIM: agent.SIM{MCC: args[2], MNC: args[3], Operator: args[4], Technology: args[5], Evidence: agent.EvidenceClaimed},
	})
	ts.Check(err)
	ts.Setenv(args[0], a.String())
}

// otherPin changes a digit of a relay's pin.
func otherPin(name string) string {
	last := name[len(name)-1:]
	n, _ := strconv.ParseUint(last, 16, 8)
	return strings.TrimSuffix(name, last) + strconv.FormatUint((n+1)%16, 16)
}
