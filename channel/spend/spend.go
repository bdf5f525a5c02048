// Package spend is an x402 client: an http.RoundTripper that pays for what it is
// asked to pay for, within limits, by the schemes batch-settlement (a voucher on
// a channel, which it opens and tops up) and exact (one transfer).
//
//	t, err := spend.New(spend.Config{Key: key, Store: store, MaxPrice: 1_000, Budget: 50_000,
//		Assets: []spend.Asset{{Token: token, Ledger: client}}})
//	resp, err := (&http.Client{Transport: t}).Get(url)
//	err = t.RefundAll(ctx) // at the end
//
// It signs for no asset that is not listed, for no request above MaxPrice, and in
// all for no more than Budget. Its own count of what was charged is what it signs
// by, stored before a voucher leaves: a server that counts more is believed only
// as far as a request of ours was not answered, or as a voucher proves that our
// record is the older one.
//
// What is left in a channel stays there until Refund, or until the payer takes
// it by a timed withdrawal, which needs no server.
package spend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// Config configures a Transport. Zero fields have the defaults named.
type Config struct {
	Key    *channel.Key
	Store  channel.Store // keeps the channels; the caller's to close
	Assets []Asset       // may be paid with
	// MaxPrice is the most that one request may cost.
	MaxPrice channel.Amount
	// Budget is the most that all requests of the Transport may cost.
	Budget channel.Amount
	// Deposit is how much is put into a channel at a time, unless the server
	// wants more. Default: 10 times the price.
	Deposit channel.Amount
	// MaxDeposit is the most that is put into a channel at a time. Default
	// 250,000 (0.25 USD).
	MaxDeposit channel.Amount
	// MaxLocked is the most that lies in all channels at a time, beyond what is
	// charged: a server can give it back late. Default: 4 times MaxDeposit.
	MaxLocked channel.Amount
	// Schemes are how may be paid, best first, among offers of one price.
	// Default: batch-settlement, then exact.
	Schemes []string
	// Base sends the requests. Default: http.DefaultTransport.
	Base http.RoundTripper
	// OnPayment hears of every payment that was answered, from the goroutine of
	// its request.
	OnPayment func(Payment)
}

// An Asset may be paid with.
type Asset struct {
	Token  channel.Token
	Ledger Ledger
}

// A Ledger says what a channel holds. *facilitator.Client is one.
type Ledger interface {
	Channel(ctx context.Context, network string, id channel.ID) (x402.ChannelInfo, error)
}

var _ Ledger = (*facilitator.Client)(nil)

// A Payment is one that was made.
type Payment struct {
	URL         string         `json:"url"`
	Scheme      string         `json:"scheme"`
	Network     string         `json:"network"`
	Channel     *channel.ID    `json:"channel,omitempty"` // of batch-settlement
	Charged     channel.Amount `json:"charged"`
	Deposited   channel.Amount `json:"deposited"` // into the channel, with this request
	Transaction string         `json:"transaction,omitempty"`
}

// Why a request is not paid for.
var (
	ErrPrice  = errors.New("over the highest price")
	ErrBudget = errors.New("the budget is used up")
	ErrOffer  = errors.New("nothing on offer that may be paid")
	// ErrCount says that a server claims more than was signed for it.
	ErrCount = errors.New("the server's count is not ours")
)

// Salt is that of the channels that are paid into by HTTP. It keeps them apart
// from those of tunnels with the same seller, which are counted differently.
func Salt() channel.Hash { return channel.Keccak256([]byte("x402 http")) }

// A Transport is an http.RoundTripper that pays. It is safe for concurrent use;
// requests that are paid from one channel follow each other as far as their
// answers' heads.
type Transport struct {
	cfg   Config
	payer *channel.Payer

	mu    sync.Mutex
	lanes map[channel.ID]*lane
	exact channel.Amount // what exact payments may have cost
}

// A lane is one channel in use. Its fields are those of who has the turn.
type lane struct {
	turn    chan struct{} // one token
	asset   Asset
	config  channel.Config
	id      channel.ID
	looked  bool // at the ledger
	wasOpen bool // before the last voucher was signed; see record
	drafted bool // the last payment carried the draft
	// Where it was used last.
	method, url string
	broken      error // why no more is signed

	// Guarded by Transport.mu: what it costs this Transport, where cost is behind
	// base, and what it holds, a deposit under way included.
	base, cost, earlier, holds channel.Amount
}

// New returns a transport that knows the channels in cfg.Store.
func New(cfg Config) (*Transport, error) {
	if cfg.Key == nil || cfg.Store == nil {
		return nil, errors.New("spend: Config needs a Key and a Store")
	}
	if len(cfg.Assets) == 0 {
		return nil, errors.New("spend: Config.Assets is empty: nothing could be paid")
	}
	for _, a := range cfg.Assets {
		if a.Ledger == nil || a.Token.ChainID == 0 || a.Token.Address.IsZero() {
			return nil, errors.New("spend: Config.Assets: each needs a Token and a Ledger")
		}
	}
	if cfg.MaxPrice == 0 || cfg.Budget == 0 {
		return nil, errors.New("spend: Config needs a MaxPrice and a Budget")
	}
	if cfg.MaxDeposit == 0 {
		cfg.MaxDeposit = 250_000
	}
	if cfg.MaxLocked == 0 {
		cfg.MaxLocked = 4 * min(cfg.MaxDeposit, 1<<60)
	}
	if len(cfg.Schemes) == 0 {
		cfg.Schemes = []string{x402.SchemeBatch, x402.SchemeExact}
	}
	if cfg.Base == nil {
		cfg.Base = http.DefaultTransport
	}
	payer, err := channel.NewPayer(cfg.Store)
	if err != nil {
		return nil, err
	}
	return &Transport{cfg: cfg, payer: payer, lanes: map[channel.ID]*lane{}}, nil
}

// Spent is what all requests have cost, or may have, where that is not known.
func (t *Transport) Spent() channel.Amount {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spent()
}

// spent counts; none of its sums overflows, since each was within the budget.
func (t *Transport) spent() channel.Amount {
	sum := t.exact
	for _, l := range t.lanes {
		sum += l.earlier + l.cost
	}
	return sum
}

// reserve counts a request on a lane, in full, before it is signed for.
func (t *Transport) reserve(l *lane, top channel.Amount) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.spent() - l.cost
	if cost := top - l.base; rest > t.cfg.Budget || cost > t.cfg.Budget-rest {
		return fmt.Errorf("%w: %s of %s USD are spent", ErrBudget, t.spent().USD(), t.cfg.Budget.USD())
	}
	l.cost = top - l.base
	return nil
}

// lock counts a deposit before it is signed for.
func (t *Transport) lock(l *lane, amount channel.Amount) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := amount
	for _, o := range t.lanes {
		sum += min(o.holds-min(o.holds, o.base+o.cost), 1<<48) // no sum of them overflows
	}
	if sum > t.cfg.MaxLocked {
		return fmt.Errorf("%w: a deposit of %s USD, at most %s may lie in all channels", ErrBudget, amount.USD(), t.cfg.MaxLocked.USD())
	}
	l.holds += amount
	return nil
}

// charged says what was charged on a lane in all.
func (t *Transport) charged(l *lane, total channel.Amount) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.cost = total - l.base
}

// rebase goes on from another count, without forgetting what was spent.
func (t *Transport) rebase(l *lane, was, is channel.Amount) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if is > was { // it was charged after all
		l.cost = is - l.base
		return
	}
	l.earlier, l.cost, l.base = l.earlier+was-l.base, 0, is
}

// enter waits for the turn on the channel that a requirement is paid from.
func (t *Transport) enter(ctx context.Context, c choice) (*lane, error) {
	config := channel.Config{
		Payer: t.cfg.Key.Address(), PayerAuthorizer: t.cfg.Key.Address(),
		Receiver: c.PayTo, ReceiverAuthorizer: *c.Extra.ReceiverAuthorizer,
		Token: c.Asset, WithdrawDelay: *c.Extra.WithdrawDelay, Salt: Salt(),
	}
	id := c.domain().ID(config)
	t.mu.Lock()
	l := t.lanes[id]
	if l == nil {
		l = &lane{turn: make(chan struct{}, 1), asset: c.asset, config: config, id: id}
		t.lanes[id] = l
	}
	t.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		return l, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *lane) leave() { <-l.turn }
