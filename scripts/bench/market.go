package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
)

const (
	perGB = 4_000_000         // price of a gigabyte, in atomic units
	funds = 1_000_000_000_000 // a million USD: no purchase of a bench ends for money
)

// A market is one of ours with all that it needs: the site, an agent that
// sells, and buyers.
type market struct {
	b      *bench
	name   string
	dir    string // of agent and buyers
	site   *process
	ready  siteReady
	agent  *process
	offer  string // path
	listen string // the agent's address; "": it is only reached by a relay
	ctl    *seller.Control
	key    *channel.Key
	store  string // path
}

// agentFile is the agent's configuration.
const agentFile = `state_dir = "state"
%s
[log]
level = "warn"
[modem]
port = "none"
[price]
per_gb = %q
[payment]
facilitator = %q
network = %q
asset = %q
asset_name = %q
asset_version = %q
pay_to = %q
[limits]
flows = %d
[policy]
allow_networks = [%q]
`

// openMarket starts site and agent below a folder of their own. program begins
// the agent's command line; nil runs it as a role of this program.
func (b *bench) openMarket(ctx context.Context, name string, program []string) (*market, error) {
	m, err := b.newMarket(ctx, name)
	if err != nil {
		return nil, err
	}
	return m, m.sell(ctx, program, fmt.Sprintf("listen = %q", net.JoinHostPort(b.lab.addr[agentSide], "0")))
}

// newMarket starts a site, below a folder of its own.
func (b *bench) newMarket(ctx context.Context, name string) (*market, error) {
	m := &market{b: b, name: name, dir: filepath.Join(b.dir, name)}
	m.store = filepath.Join(m.dir, "buyer.db")
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if m.key, err = channel.GenerateKey(); err != nil {
		return nil, err
	}
	m.site, m.ready, err = b.startSite(ctx, siteSettings{b.lab.addr[agentSide], m.key.Address(), funds, []string{"cubic", "bbr"}})
	return m, err
}

// sell starts the agent, and is told where it listens by lines of its
// configuration.
func (m *market) sell(ctx context.Context, program []string, listen string) (err error) {
	p := m.ready.Params
	config := filepath.Join(m.dir, "agent.toml")
	text := fmt.Sprintf(agentFile, listen, channel.Amount(perGB).USD(), m.ready.Facilitator, p.Network(), p.Token, p.Name, p.Version,
		channel.Address{0xaa}, 1100, netip.PrefixFrom(netip.MustParseAddr(m.b.lab.addr[agentSide]), 24).Masked())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	m.offer = filepath.Join(m.dir, "state", "offer.json")
	m.ctl = seller.DialControl(filepath.Join(m.dir, "state", "control.sock"))
	if program != nil {
		m.agent, err = m.b.start(ctx, agentSide, m.name+"-agent", append(slices.Clone(program), "run", "--config", config)...)
	} else {
		m.agent, err = m.b.startRole(ctx, agentSide, "agent", agentSettings{config, m.b.profile("ours-agent")})
	}
	if err != nil {
		return err
	}
	return m.awaitOffer(ctx)
}

// startSite starts a site.
func (b *bench) startSite(ctx context.Context, s siteSettings) (p *process, r siteReady, err error) {
	if p, err = b.startRole(ctx, agentSide, "site", s); err != nil {
		return nil, r, err
	}
	return p, r, p.answer(ctx, &r, answerTime)
}

// awaitOffer waits until the agent has written its offer.
func (m *market) awaitOffer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for {
		o, err := readOffer(m.offer)
		if err == nil {
			if len(o.Endpoints) > 0 {
				m.listen = o.Endpoints[0]
			}
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-m.agent.done:
			return fmt.Errorf("the agent has ended: %s", m.agent.lastWords())
		default:
		}
		if !wait(ctx, 5*time.Millisecond) {
			return fmt.Errorf("no offer: %w: %s", context.Cause(ctx), m.agent.lastWords())
		}
	}
}

func readOffer(path string) (agent.Offer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return agent.Offer{}, err
	}
	return agent.ParseOffer(text)
}

// status asks the agent.
func (m *market) status(ctx context.Context) (s seller.Status, err error) {
	err = m.ctl.Get(ctx, "status", &s)
	return s, err
}

type agentSettings struct {
	Config  string `json:"config"`
	Profile string `json:"profile"`
}

// agentRole is x402-agent run, as far as that matters here.
func agentRole(c console) error {
	var s agentSettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	cfg, err := seller.LoadConfig(s.Config)
	if err != nil {
		return err
	}
	debug.SetGCPercent(50)
	return profiled(s.Profile, func() error {
		return c.serve(func(ctx context.Context) error { return seller.Run(ctx, cfg) })
	})
}

// buyerSettings are those of x402 connect that matter here.
type buyerSettings struct {
	Key      string `json:"key"`
	Store    string `json:"store"`
	Tickets  string `json:"tickets"`  // path
	Offer    string `json:"offer"`    // path
	Endpoint string `json:"endpoint"` // instead of the offer's
	Keep     bool   `json:"keep"`
	Relayed  bool   `json:"relayed"` // by relays only
	Profile  string `json:"profile"`
}

// buy starts a buyer and returns the address of its SOCKS5 proxy. With keep it
// leaves its deposit in the channel at the end, for the next buyer.
func (m *market) buy(ctx context.Context, endpoint string, keep bool) (*process, string, error) {
	return m.buyBy(ctx, buyerSettings{Endpoint: endpoint, Keep: keep})
}

// buyBy is like it; what is the market's is filled in.
func (m *market) buyBy(ctx context.Context, s buyerSettings) (*process, string, error) {
	s.Tickets = m.tickets()
	s.Key, s.Store, s.Offer, s.Profile = hex.EncodeToString(m.key.Bytes()), m.store, m.offer, m.b.profile("ours-buyer")
	p, err := m.b.startRole(ctx, buyerSide, "buyer", s)
	if err != nil {
		return nil, "", err
	}
	var ready bareReady
	err = p.answer(ctx, &ready, answerTime)
	return p, ready.Addr, err
}

// tickets is where the market's buyers keep theirs.
func (m *market) tickets() string { return m.store + ".tickets" }

// buyerRole answers with a bareReady when its proxy listens, and at the end
// with the buyer.Result, and whether the last session came back by a ticket.
func buyerRole(c console) error {
	var s buyerSettings
	if err := c.dec.Decode(&s); err != nil {
		return err
	}
	var resumed atomic.Bool
	cfg := buyer.Config{
		Budget: funds / 4, Deposit: funds / 4, MaxPrice: 2 * perGB, Keep: s.Keep,
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Tickets:  buyer.KnownTickets{Dir: s.Tickets},
		OnStatus: func(s buyer.Status) { resumed.Store(s.Resumed) },
	}
	secret, err := hex.DecodeString(s.Key)
	if err != nil {
		return err
	}
	if cfg.Key, err = channel.ParseKey(secret); err != nil {
		return err
	}
	if cfg.Offer, err = readOffer(s.Offer); err != nil {
		return err
	}
	if s.Endpoint != "" {
		cfg.Offer.Endpoints = []string{s.Endpoint}
	}
	cfg.Reach.NoDirect = s.Relayed
	store, err := bolt.Open(s.Store)
	if err != nil {
		return err
	}
	defer store.Close()
	cfg.Store = store
	if cfg.SOCKS, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if err := c.enc.Encode(bareReady{cfg.SOCKS.Addr().String()}); err != nil {
		return err
	}
	return profiled(s.Profile, func() error {
		return c.serve(func(ctx context.Context) error {
			r, err := buyer.Run(ctx, cfg)
			if err != nil {
				return err
			}
			return c.enc.Encode(struct {
				buyer.Result
				Resumed bool `json:"resumed"`
			}{r, resumed.Load()})
		})
	})
}
