package buyer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// TollConfig says what relays may be paid. The zero TollConfig lets those be
// paid whose deposits the agent's own facilitator keeps, within MaxPrice.
type TollConfig struct {
	// Known are the tariffs that relays were heard to ask, by their addresses.
	Known map[string]toll.Tariff
	// Facilitators may keep deposits besides the agent's.
	Facilitators []string
	// Note is called before the first deposit with a relay, so that it can be
	// asked back later. May be nil.
	Note func(relay.Name, toll.Tariff) error
}

// ErrToll says that a relay is not paid, so that it is of no use: what it asks is
// more than what is allowed, or it counts more than passed.
var ErrToll = errors.New("the relay is not used")

// fares are what the relays that charge are paid in one purchase. The agent's
// channel knows nothing of them but that they share its budget.
type fares struct {
	cfg    Config
	budget *budget
	asked  atomic.Uint64 // by the agent, for a GB in the dearer direction

	life context.CancelFunc // ends what run began
	ctx  context.Context    // of the runs, which begin one by one
	wg   sync.WaitGroup

	mu      sync.Mutex
	by      map[string]*fare // by the relay's address
	refused map[string]error // likewise, of those that are not paid what they ask
}

// newFares returns the fares of a purchase; nil for a Config without a key,
// which can pay nobody.
func newFares(c Config) *fares {
	if c.Key == nil {
		return nil
	}
	s := &fares{cfg: c, budget: newBudget(c.Budget), by: map[string]*fare{}, refused: map[string]error{}}
	if c.incidental() {
		s.budget.total += incidentals
	}
	s.ctx, s.life = context.WithCancel(context.Background())
	s.asked.Store(uint64(c.Offer.Price.Max()))
	return s
}

// A budget is shared by the channels of a purchase, with the agent and with
// relays: together they sign no more than there is.
type budget struct {
	total channel.Amount

	mu   sync.Mutex
	used map[channel.ID]channel.Amount
}

func newBudget(total channel.Amount) *budget {
	return &budget{total: total, used: map[channel.ID]channel.Amount{}}
}

// share says that a channel has come to so much in this run, and returns how
// much it may come to.
func (b *budget) share(id channel.ID, used channel.Amount) channel.Amount {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[id] = used
	return b.room(id)
}

// grant returns how much of an amount a channel may sign for in this run, and
// takes it from what others may.
func (b *budget) grant(id channel.ID, want channel.Amount) channel.Amount {
	b.mu.Lock()
	defer b.mu.Unlock()
	want = min(want, b.room(id))
	b.used[id] = max(b.used[id], want)
	return want
}

// room is what others leave to a channel. The caller holds the lock.
func (b *budget) room(id channel.ID) channel.Amount {
	room := b.total
	for other, n := range b.used {
		if other != id {
			room -= min(room, n)
		}
	}
	return room
}

// find returns the fare of a relay: the one that there is, or one for a tariff
// that was known before. It is nil for a relay that is free as far as is known.
func (s *fares) find(c broker) (*fare, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	f, refused := s.by[c.address], s.refused[c.address]
	s.mu.Unlock()
	if t := s.cfg.Tolls.Known[c.address]; f == nil && !t.Free() {
		return s.add(c, t)
	}
	return f, refused
}

// add makes the fare of a relay that asks t, if that may be paid.
func (s *fares) add(c broker, t toll.Tariff) (*fare, error) {
	refused := s.allows(c.address, t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused[c.address] = refused; refused != nil {
		return nil, refused
	}
	if f := s.by[c.address]; f != nil {
		if f.tariff == t {
			return f, nil
		}
		return nil, fmt.Errorf("relay %s: %w: its tariff has changed; end, and connect again", c.address, ErrToll)
	}
	f, err := newFare(s, c, t)
	if err == nil {
		s.by[c.address] = f
	}
	return f, err
}

// allows says whether a relay may be paid what it asks.
func (s *fares) allows(address string, t toll.Tariff) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("relay %s: %w: %s", address, ErrToll, fmt.Sprintf(format, args...))
	}
	c, p := s.cfg, t.Payment
	agents, sum := channel.Amount(s.asked.Load()), channel.Amount(0)
	sum, err := agents.Add(t.Price)
	trusted := append([]string{c.Offer.Payment.Facilitator}, c.Tolls.Facilitators...)
	switch {
	case err != nil || c.incidental() && t.Price > mostIncidental:
		return refuse("it asks %s USD per GB", t.Price.USD())
	case !c.incidental() && sum > c.MaxPrice:
		return fmt.Errorf("%w: %w", ErrPrice, refuse("it asks %s USD per GB beside the agent's %s, at most %s are allowed together", t.Price.USD(), agents.USD(), c.MaxPrice.USD()))
	case !slices.ContainsFunc(trusted, func(u string) bool { return sameURL(u, p.Facilitator) }):
		return refuse("it is paid by way of %q, which this wallet was not used with: x402 wallet fund --facilitator names it", p.Facilitator)
	case p.MinDeposit > max(c.Deposit, leastDeposit):
		return refuse("it wants a deposit of %s USD, at most %s are put into a channel at a time", p.MinDeposit.USD(), c.Deposit.USD())
	}
	return nil
}

const (
	// leastDeposit is what is put into a channel with a relay, unless it wants more.
	leastDeposit = 100_000
	// incidentals are what relays may cost while nothing is bought but a token, or
	// a channel is closed.
	incidentals = 1_000
	// mostIncidental is a relay's price then: what passes costs less than that.
	mostIncidental = 4_000_000
)

// incidental says whether what passes is not what is bought.
func (c Config) incidental() bool { return c.CloseOnly || c.Salt != (channel.Hash{}) }

// price is what the relays that are used ask for a GB at most.
func (s *fares) price() (most channel.Amount) {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.by {
		most = max(most, f.tariff.Price)
	}
	return most
}

// all are the fares, by the relay's address.
func (s *fares) all() []*fare {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*fare
	for _, f := range s.by {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *fare) int { return cmp.Compare(a.relay.address, b.relay.address) })
	return all
}

// status is how the fares stand.
func (s *fares) status() []RelayStatus {
	var all []RelayStatus
	for _, f := range s.all() {
		all = append(all, *f.shown.Load())
	}
	return all
}

// hopeless says why there is no way to the agent that is not by a relay which is
// of no use; nil if there may be one.
func (r *reach) hopeless() error {
	if r.fares == nil || len(r.endpoints()) > 0 || len(r.relays) == 0 {
		return nil
	}
	var errs []error
	for _, c := range r.relays {
		f, err := r.fares.find(c)
		if err == nil && f != nil {
			err = f.useless()
		}
		if !errors.Is(err, ErrToll) {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// session asks a relay for a session, and opens an account for it if the relay
// wants to be paid. The count, which may be nil, is of what passes by it.
func (r *reach) session(ctx context.Context, c broker, q market.Request) (relay.Allotment, *path.Count, error) {
	f, _ := r.fares.find(c) // a relay that was refused may ask for less by now
	if f == nil {
		a, err := c.Session(ctx, q)
		refused, ok := errors.AsType[*market.RefusedError](err)
		if !ok || refused.Status != http.StatusPaymentRequired || r.fares == nil {
			return a, nil, err
		}
		t, err := toll.Parse(refused.Toll)
		if err == nil && t.Free() {
			err = errors.New("it wants to be paid, and does not say how")
		}
		if err != nil {
			return a, nil, fmt.Errorf("relay %s: %w", c.address, err)
		}
		if f, err = r.fares.add(c, t); err != nil {
			return a, nil, err
		}
	}
	return f.session(ctx, q)
}

// Unpaid says whether a way failed since its relay wants to be paid, by one who
// pays nobody.
func Unpaid(err error) bool {
	refused, ok := errors.AsType[*market.RefusedError](err)
	return ok && refused.Status == http.StatusPaymentRequired
}

// finish ends all fares: what is owed is paid, and what is left comes back
// unless it is to stay.
func (s *fares) finish(ctx context.Context) (results []RelayResult, err error) {
	if s == nil {
		return nil, nil
	}
	s.life()
	s.wg.Wait()
	all := s.all()
	results, errs := make([]RelayResult, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	for i, f := range all {
		wg.Go(func() { results[i], errs[i] = f.finish(ctx) })
	}
	wg.Wait()
	return results, errors.Join(errs...)
}

// A RelayStatus is how the account with a relay stands. Totals are the channel's.
type RelayStatus struct {
	Relay   string         `json:"relay"`
	Channel channel.ID     `json:"channel"`
	Price   channel.Amount `json:"price"` // for a GB
	Up      uint64         `json:"up"`
	Down    uint64         `json:"down"`
	Owed    channel.Amount `json:"owed"`
	Signed  channel.Amount `json:"signed"`
	Balance channel.Amount `json:"balance"`
	Error   string         `json:"error,omitempty"` // why it is not used any more
}

// A RelayResult is what a relay came to.
type RelayResult struct {
	Relay      string         `json:"relay"`
	Channel    channel.ID     `json:"channel"`
	Up         uint64         `json:"bytesUp"`
	Down       uint64         `json:"bytesDown"`
	Owed       channel.Amount `json:"owed"`
	Signed     channel.Amount `json:"signed"`
	Claimed    channel.Amount `json:"claimed"`
	Refunded   channel.Amount `json:"refunded"`
	WithdrawAt uint64         `json:"withdrawAt,omitempty"`
}
