package directory

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// TollConfig says what a relay charges for what it passes on. Zero fields have
// the defaults named.
type TollConfig struct {
	Price   channel.Amount // for 1e9 bytes, both directions alike; 0: nothing
	Payment agent.Payment
	// StateDir holds the key of the relay's channels, vouchers and totals.
	StateDir string
	Credit   agent.CreditPolicy
	// TotalCredit bounds what all payers together may owe. Default 20 times
	// Credit.Cap.
	TotalCredit channel.Amount
	// SettleEvery is the longest time between two settlements. Default 24 h.
	SettleEvery time.Duration
	// SettleAt is the unclaimed amount that settles at once. Default 1,000,000
	// (1 USD).
	SettleAt channel.Amount

	// Facilitator replaces the real one in tests.
	Facilitator Facilitator
}

// Defaults of a toll, in the file and without one.
const (
	defaultWithdrawDelay = 24 * time.Hour
	defaultMinDeposit    = 100_000
	defaultSettleEvery   = 24 * time.Hour
	defaultSettleAt      = 1_000_000
)

func (c TollConfig) withDefaults() TollConfig {
	c.Credit = c.Credit.WithDefaults()
	if c.TotalCredit == 0 {
		c.TotalCredit = 20 * c.Credit.Cap
	}
	if c.SettleEvery == 0 {
		c.SettleEvery = defaultSettleEvery
	}
	if c.SettleAt == 0 {
		c.SettleAt = defaultSettleAt
	}
	if c.Payment.WithdrawDelay == 0 {
		c.Payment.WithdrawDelay = uint64(defaultWithdrawDelay / time.Second)
	}
	if c.Payment.MinDeposit == 0 {
		c.Payment.MinDeposit = defaultMinDeposit
	}
	return c
}

func (c TollConfig) check() error {
	p := agent.Price{Up: c.Price, Down: c.Price}
	return errors.Join(p.Check(), c.Credit.WithDefaults().Check(p), c.Payment.Check())
}

// A Facilitator settles the relay's channels. *facilitator.Client is one.
type Facilitator interface {
	Channel(ctx context.Context, network string, id channel.ID) (x402.ChannelInfo, error)
	Claim(ctx context.Context, network string, c x402.Claim) (x402.SettlementResponse, error)
	SettleReceiver(ctx context.Context, network string, receiver, token channel.Address) (x402.SettlementResponse, error)
	Refund(ctx context.Context, network string, r x402.Refund) (x402.SettlementResponse, error)
}

var _ Facilitator = (*facilitator.Client)(nil)

// A Toll is the relay as a seller: it opens accounts for who has a deposit in a
// channel with it, lets their sessions pass as far as they are paid for, and
// turns vouchers into money. It implements the relay server's Toll. Run keeps
// accounts going; Close closes the records.
type Toll struct {
	cfg    TollConfig
	log    *slog.Logger
	key    *channel.Key
	domain channel.Domain
	tariff toll.Tariff
	text   json.RawMessage // the tariff
	fac    Facilitator
	store  *bolt.Store
	payee  *channel.Payee
	asking chan struct{} // one place for each question to the facilitator that a buyer causes
	ending chan *stay    // whose channel is to be closed; served by Run, refused when full
	due    chan struct{} // one token: enough is unclaimed to settle
	counts tollCounts
	// exposed is what may be lost by all accounts, as of the last beat, and stale
	// says that what former ones left behind is another sum by now.
	exposed atomic.Uint64
	stale   atomic.Bool

	mu      sync.Mutex
	stays   map[string]*stay     // by credential; those that have ended too, for a while
	present map[channel.ID]*stay // that have not ended, one for each channel
	busy    map[channel.ID]bool  // of which a hello is being answered, or that are being closed
	left    channel.Amount       // what channels without a stay owe and denied
}

// tollCounts are what has happened since the start, in atomic units.
type tollCounts struct{ earned, paid, claimed, unpaid atomic.Uint64 }

var _ server.Toll = (*Toll)(nil)

// Files of the state directory.
const (
	tollKeyFile   = "channel.key" // secp256k1, hex; made on first start
	tollStoreFile = "channels.db"
)

// Bounds of what strangers can make a relay do at once.
const (
	mostAsking = 16
	mostEnding = 256
	mostStays  = 20_000
)

// OpenToll opens the records of a relay that charges.
func OpenToll(c TollConfig, log *slog.Logger) (*Toll, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c = c.withDefaults()
	t := &Toll{
		cfg: c, log: log, fac: c.Facilitator,
		asking: make(chan struct{}, mostAsking), ending: make(chan *stay, mostEnding), due: make(chan struct{}, 1),
		stays: map[string]*stay{}, present: map[channel.ID]*stay{}, busy: map[channel.ID]bool{},
	}
	err := c.check()
	if err != nil {
		return nil, err
	}
	if t.domain, err = c.Payment.Domain(); err != nil {
		return nil, err
	}
	if t.fac == nil {
		if t.fac, err = nethttp.New(nethttp.Config{URL: c.Payment.Facilitator}); err != nil {
			return nil, err
		}
	}
	if t.key, err = channelKey(c.StateDir); err != nil {
		return nil, fmt.Errorf("key of channels: %w", err)
	}
	t.tariff = toll.Tariff{Price: c.Price, Authorizer: t.key.Address(), Payment: c.Payment}
	if t.text, err = json.Marshal(t.tariff); err != nil {
		return nil, err
	}
	if t.store, err = bolt.Open(filepath.Join(c.StateDir, tollStoreFile)); err != nil {
		return nil, err
	}
	if t.payee, err = channel.NewPayee(t.store); err != nil {
		return nil, errors.Join(err, t.store.Close())
	}
	t.countLeft()
	return t, nil
}

// channelKey reads the key of the relay's channels, or makes it.
func channelKey(dir string) (*channel.Key, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, tollKeyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := channel.GenerateKey()
		if err != nil {
			return nil, err
		}
		return k, agent.ReplaceFile(path, []byte(hex.EncodeToString(k.Bytes())+"\n"), 0o600)
	}
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(raw) != 32 { // err would quote the key
		return nil, fmt.Errorf("%s: want 64 hexadecimal digits: restore it from a backup", path)
	}
	return channel.ParseKey(raw)
}

// Close closes the records. Everything that was saved is durable.
func (t *Toll) Close() error { return t.store.Close() }

// Tariff is what the relay asks, as it tells it.
func (t *Toll) Tariff() json.RawMessage { return t.text }

const (
	beatEvery  = 200 * time.Millisecond
	countEvery = time.Second // all channels are looked through
	enders     = 4           // channels that are closed at once
)

// Run keeps accounts and settles until ctx is cancelled; then it ends all
// accounts and settles once more.
func (t *Toll) Run(ctx context.Context) error {
	t.log.Info("charging for what is passed on", "price", t.cfg.Price, "network", t.cfg.Payment.Network, "to", t.cfg.Payment.PayTo)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.beat(gctx) })
	g.Go(func() error { return t.settleLoop(gctx) })
	for range enders {
		g.Go(func() error { return t.endLoop(gctx) })
	}
	err := g.Wait()
	for _, s := range t.all() {
		s.turn.Lock()
		t.end(s, agent.NoticeDraining)
		s.turn.Unlock()
	}
	t.lastSettle(context.WithoutCancel(ctx))
	return err
}

// beat looks after the accounts.
func (t *Toll) beat(ctx context.Context) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	var counted time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if now.Sub(counted) >= countEvery && t.stale.Swap(false) {
				t.countLeft()
				counted = now
			}
			all := t.all()
			exposed, each := t.exposures(all)
			t.exposed.Store(uint64(exposed))
			for i, s := range all {
				if s.turn.TryLock() { // else a payment is being stored, and looks after it
					t.look(s, now, exposed-each[i])
					s.turn.Unlock()
				}
			}
			t.forget(now)
		}
	}
}

// all are the accounts that have not ended.
func (t *Toll) all() []*stay {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*stay, 0, len(t.present))
	for _, s := range t.present {
		all = append(all, s)
	}
	return all
}

// exposures are what the relay may lose by all accounts, and by each of them.
// What former ones left behind counts at most for half of the bound, so that
// strangers cannot use it up for good.
func (t *Toll) exposures(all []*stay) (sum channel.Amount, each []channel.Amount) {
	t.mu.Lock()
	sum = min(t.left, t.cfg.TotalCredit/2)
	t.mu.Unlock()
	for _, s := range all {
		e := channel.Amount(s.exposed.Load())
		e = min(e, 1<<40) // no sum of them overflows
		sum += e
		each = append(each, e)
	}
	return sum, each
}

// countLeft sums up what channels without an account owe and denied.
func (t *Toll) countLeft() {
	states := t.payee.All()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = 0
	for _, state := range states {
		var tally agent.Tally
		if t.present[state.ID] != nil || tally.UnmarshalBinary(state.Note) != nil {
			continue
		}
		gone := account{policy: t.cfg.Credit, tally: tally, paid: max(state.Max, state.Claimed)}
		t.left = t.left.Plus(gone.exposed())
	}
}

// newCredential draws a secret.
func newCredential() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}
