// Package watch is a relay as a watchtower. Agents hand it their newest claims, and
// it has them booked when a payer takes his deposit back while the agent is off.
//
//	agent ── claim ──▶ Watch ── how is the channel? ──▶ facilitator
//	      ◀─ withdraws ─┘  └─── claim, if the payer withdraws ─▶ ┘
//
// A claim can pay nobody but the channel's receiver, and is signed by the agent: a
// relay can neither take nor redirect anything. It can fail to act, and it learns
// who pays the agent, and how much. It asks only facilitators that its operator
// lists. What agents can make it keep is bounded, and what the ledger does not know
// is not kept for long.
package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// Bounds of what agents can make a watch keep.
const (
	defaultChannels = 20_000
	agentChannels   = 256
	// Channels that the ledger was not asked about yet: all, and of one source. To
	// make one up costs nothing; to have the ledger know it takes a deposit.
	freshChannels  = 2_048
	sourceChannels = 64
)

// storeFile is in the state directory.
const storeFile = "watch.db"

// Config says what a Watch keeps.
type Config struct {
	// Facilitators are URLs, by which it asks and claims. Nobody else is asked.
	Facilitators []string
	StateDir     string // made if it is not there
	Channels     int    // the most that are kept; 0: 20,000
	// Every is how often it asks about a channel of an agent that is off; 0: 5 min.
	// One that is connected asks itself, and its channels are asked about a twelfth as
	// often.
	Every  time.Duration
	Logger *slog.Logger

	// Dial replaces the real clients in tests.
	Dial func(url string) (Facilitator, error)
}

// A Facilitator tells of channels and books claims. *facilitator.Client is one.
type Facilitator interface {
	Supported(ctx context.Context) (x402.Supported, error)
	Look(ctx context.Context, network string, v x402.VoucherPayment) (x402.ChannelInfo, error)
	Claim(ctx context.Context, network string, c x402.Claim) (x402.SettlementResponse, error)
}

var _ Facilitator = (*facilitator.Client)(nil)

// Agents are the control connections of a relay.
type Agents interface {
	Connected(agent [20]byte) bool
	Tell(agent [20]byte, text []byte) bool
	GreetAll()
}

// A Watch keeps claims. It is safe for concurrent use, and implements the relay
// server's Watch. Run acts; Close closes the records.
type Watch struct {
	cfg     Config
	log     *slog.Logger
	store   *bolt.Store
	clients []Facilitator // like cfg.Facilitators
	agents  Agents        // set by Run
	counts  counts

	writing sync.Mutex // one change of the records at a time; taken before mu

	mu       sync.Mutex
	networks map[string]*network
	all      map[channel.ID]*kept
	of       map[channel.Address]int // how many are an agent's
	fresh    int                     // how many the ledger was not asked about
	from     map[netip.Prefix]int    // of these
}

// A network is one that claims are kept of.
type network struct {
	name    string
	clients []Facilitator // on it, in the operator's order; only added to
	wake    chan struct{} // one token: there is something new to look at
}

// A kept is a claim that is kept.
type kept struct {
	claim
	network string
	seen    time.Time // when the agent was last there, as it is stored
	from    netip.Prefix

	known     bool      // the ledger knows the channel
	looked    time.Time // when it was last asked; zero: it is to be asked now
	misses    int       // looks in a row that found nothing to claim from
	withdraws bool
	said      bool // that the claim was refused, or is kept by the facilitator
}

var _ server.Watch = (*Watch)(nil)

// Open opens the records.
func Open(c Config) (*Watch, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Channels == 0 {
		c.Channels = defaultChannels
	}
	if c.Every == 0 {
		c.Every = defaultEvery
	}
	if c.Dial == nil {
		c.Dial = func(url string) (Facilitator, error) { return nethttp.New(nethttp.Config{URL: url}) }
	}
	w := &Watch{
		cfg: c, log: c.Logger, networks: map[string]*network{}, all: map[channel.ID]*kept{},
		of: map[channel.Address]int{}, from: map[netip.Prefix]int{},
	}
	for _, url := range c.Facilitators {
		client, err := c.Dial(url)
		if err != nil {
			return nil, err
		}
		w.clients = append(w.clients, client)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if w.store, err = bolt.Open(filepath.Join(c.StateDir, storeFile)); err != nil {
		return nil, err
	}
	states, err := w.store.Load()
	for _, s := range states {
		claim, seen, rerr := readRecord(s)
		if err = errors.Join(err, rerr); rerr == nil {
			w.all[s.ID] = &kept{claim: claim, network: channel.NetworkName(s.Domain.ChainID), seen: seen, known: true}
			w.of[claim.agent()]++
		}
	}
	if err != nil {
		return nil, errors.Join(err, w.store.Close())
	}
	return w, nil
}

// Close closes the records. Everything that was taken is durable.
func (w *Watch) Close() error { return w.store.Close() }

// Greeting tells an agent on which networks claims are kept, and how many of its
// own, so that it hands in again what this relay has lost; nil: on none yet.
func (w *Watch) Greeting(who [20]byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.networks) == 0 {
		return nil
	}
	said := agent.Watched{Kept: w.of[who]}
	for name := range w.networks {
		said.Networks = append(said.Networks, name)
	}
	slices.Sort(said.Networks)
	return text(said)
}

func text(said agent.Watched) []byte {
	b, err := json.Marshal(said)
	if err != nil {
		panic("watch: " + err.Error()) // our own type always marshals
	}
	return b
}

// Take keeps what an agent handed in, durably when it returns, and says how the
// relay stands with the channel.
func (w *Watch) Take(who [20]byte, from netip.Addr, handed []byte) []byte {
	said, err := w.take(who, tunnel.SourceOf(from), handed)
	if err != nil {
		w.counts.refused.Add(1)
		w.log.Debug("claim not taken", "agent", channel.Address(who), "err", err)
		said.Error = err.Error()
	}
	return text(said)
}

func (w *Watch) take(who channel.Address, from netip.Prefix, handed []byte) (said agent.Watched, err error) {
	name, c, err := parseClaim(handed)
	said.Channel = c.state.ID
	if err != nil {
		return said, err
	}
	if c.agent() != who {
		return said, errors.New("the channel's receiverAuthorizer is another agent")
	}
	if said.Amount, err = w.room(c, name, from); err != nil || said.Amount >= c.total {
		return said, err
	}
	if err := c.verify(); err != nil {
		return said, err
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	if said.Amount, err = w.room(c, name, from); err != nil || said.Amount >= c.total { // it may be another's turn now
		return said, err
	}
	now := time.Now()
	if err := w.store.Save(c.record(now)); err != nil {
		w.log.Error("store a claim", "err", err)
		return said, errors.New("the relay could not store it; hand it in again")
	}
	said.Amount = c.total
	w.keep(&kept{claim: c, network: name, seen: now, from: from})
	return said, nil
}

// room says how much is kept of the channel already, and why no more is.
func (w *Watch) room(c claim, name string, from netip.Prefix) (channel.Amount, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.all[c.state.ID]; old != nil {
		return old.total, nil
	}
	switch {
	case w.networks[name] == nil:
		return 0, fmt.Errorf("%s is not watched here", name)
	case w.of[c.agent()] >= agentChannels:
		return 0, fmt.Errorf("%d channels of this agent are kept, and no more", agentChannels)
	case len(w.all) >= w.cfg.Channels || w.fresh >= freshChannels || w.from[from] >= sourceChannels:
		return 0, errors.New("no room for another channel now; hand it in again later")
	}
	return 0, nil
}

// keep takes into memory what is stored.
func (w *Watch) keep(k *kept) {
	w.counts.taken.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.all[k.state.ID]; old != nil {
		old.claim, old.seen, old.said = k.claim, k.seen, false
		if old.withdraws {
			old.looked = time.Time{}
		}
	} else {
		w.all[k.state.ID] = k
		w.of[k.agent()]++
		w.fresh++
		w.from[k.from]++
	}
	if n := w.networks[k.network]; n != nil {
		n.poke()
	}
}

func (n *network) poke() {
	select {
	case n.wake <- struct{}{}:
	default: // it will be looked at
	}
}

// confirm notes that the ledger was asked about a channel that is k's, so that it
// does not count as fresh any more. The caller holds mu.
func (w *Watch) confirm(k *kept) {
	if k.known {
		return
	}
	k.known = true
	w.fresh--
	if w.from[k.from]--; w.from[k.from] <= 0 {
		delete(w.from, k.from)
	}
}

// forget lets a claim go, unless there is a newer one. What could not be deleted is
// looked at again.
func (w *Watch) forget(was kept) {
	w.writing.Lock()
	defer w.writing.Unlock()
	id := was.state.ID
	if now, ok := w.change(id, func(*kept) {}); !ok || now.total != was.total {
		return
	}
	if err := w.store.Delete(id); err != nil {
		w.log.Error("delete a claim", "err", err)
		return
	}
	w.change(id, func(k *kept) {
		w.confirm(k)
		delete(w.all, id)
		if w.of[k.agent()]--; w.of[k.agent()] <= 0 {
			delete(w.of, k.agent())
		}
	})
}

// Run asks about the channels, claims, and tells agents, until ctx is cancelled.
func (w *Watch) Run(ctx context.Context, agents Agents) error {
	w.agents = agents
	g, gctx := errgroup.WithContext(ctx)
	for i, client := range w.clients {
		g.Go(func() error { return w.learn(gctx, g, i, client) })
	}
	return g.Wait()
}

// maxNetworks bounds what a facilitator's answer makes a relay tell agents.
const maxNetworks = 16

// learn asks a facilitator for its networks, until it answers, and has them watched.
func (w *Watch) learn(ctx context.Context, g *errgroup.Group, i int, client Facilitator) error {
	var b backOff
	for {
		s, err := client.Supported(ctx)
		if err == nil {
			return w.watch(ctx, g, client, s.Networks())
		}
		if b.first() {
			w.log.Warn("no answer from a facilitator; nothing is watched there yet", "facilitator", w.cfg.Facilitators[i], "err", err)
		}
		if !sleep(ctx, b.next()) {
			return nil
		}
	}
}

// watch begins to watch networks by a facilitator, or by one more.
func (w *Watch) watch(ctx context.Context, g *errgroup.Group, client Facilitator, names []string) error {
	for _, name := range names[:min(len(names), maxNetworks)] {
		if _, err := channel.ParseNetwork(name); err != nil {
			continue
		}
		w.mu.Lock()
		n, known := w.networks[name]
		if !known {
			n = &network{name: name, wake: make(chan struct{}, 1)}
			w.networks[name] = n
		}
		n.clients = append(n.clients, client)
		w.mu.Unlock()
		if !known {
			g.Go(func() error { return w.poll(ctx, n) })
		}
	}
	w.agents.GreetAll()
	return nil
}
