package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/proxy"
	"github.com/depinsim/x402/tunnel/relay"
)

const (
	// listEvery is how old the list of offers may be, and listOld how old if
	// there is no newer one. An empty one is asked for again after listAgain.
	listEvery = 10 * time.Second
	listOld   = 5 * time.Minute
	listAgain = time.Second
	listTime  = 10 * time.Second
	listMost  = 1_000
	// badTime is how long an exit is left alone that has failed.
	badTime = 30 * time.Second
	// spread is among how many of the cheapest exits a connection without a
	// session chooses: each open one has a deposit in its channel.
	spread = 8
	// closeTime bounds the closing of the channel of an exit that is not used.
	closeTime = 2 * time.Minute
	// stopTime is how long agents have to be paid in order when the gateway stops,
	// and concludeTime how long one is looked for that was not: concludeMost at once.
	stopTime     = 4 * time.Second
	concludeTime = 30 * time.Second
	concludeMost = 8
	// maxSeats bounds the sessions that are remembered, and seatTime how long
	// one is that is not used.
	maxSeats = 1 << 16
	seatTime = 30 * time.Minute
)

// exits are the agents that the gateway buys from: opened when they are needed,
// closed and their deposits asked back when nobody has used them for a while.
type exits struct {
	cfg  Config
	log  *slog.Logger
	buy  func(buyer.Config) (buyer.Config, channel.ID, error) // fills in what all purchases share
	book *book                                                // notes which purchases have not ended in order
	work sync.WaitGroup                                       // purchases

	life context.Context // of purchases: they are abandoned when it ends
	end  context.CancelFunc

	listing sync.Mutex // one question to the relays at a time
	market  buyer.Market
	asked   time.Time // when that was

	mu     sync.Mutex
	offers []buyer.Found // cheapest first
	listed time.Time
	over   bool // nothing more is opened
	open   map[channel.Address]*exit
	bad    map[channel.Address]time.Time // until when
	seats  map[seatKey]seat
}

// A seatKey names a session of a customer's, and what it chose.
type seatKey struct {
	who accountID
	choice
}

// A seat is where a session leaves.
type seat struct {
	agent channel.Address
	since time.Time
	used  time.Time
}

func newExits(c Config, buy func(buyer.Config) (buyer.Config, channel.ID, error), book *book) *exits {
	x := &exits{
		cfg: c, log: c.Logger, buy: buy, book: book, market: buyer.Market{Reach: c.Reach, Logger: c.Logger},
		open: map[channel.Address]*exit{}, bad: map[channel.Address]time.Time{}, seats: map[seatKey]seat{},
	}
	x.life, x.end = context.WithCancel(context.Background())
	return x
}

// lookAt says where agents are looked for.
func (x *exits) lookAt(relays []relay.Name) {
	x.listing.Lock()
	defer x.listing.Unlock()
	x.market.Relays = relays
}

// list returns the offers that can be bought: paid where the gateway's money is,
// and reached without paying a relay.
func (x *exits) list(ctx context.Context) ([]buyer.Found, error) {
	x.mu.Lock()
	offers, age := x.offers, time.Since(x.listed)
	x.mu.Unlock()
	if len(offers) > 0 && age < listEvery {
		return offers, nil
	}
	if len(offers) == 0 || age >= listOld {
		x.listing.Lock()
	} else if !x.listing.TryLock() { // somebody is at it
		return offers, nil
	}
	defer x.listing.Unlock()
	if len(x.market.Relays) == 0 {
		return nil, noExit(errors.New("the gateway has not begun"))
	}
	x.mu.Lock()
	offers, age = x.offers, time.Since(x.listed)
	x.mu.Unlock()
	if wait := time.Since(x.asked); wait < listAgain || age < listEvery && len(offers) > 0 {
		return offers, nil
	}
	x.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	l, err := x.market.List(ctx, buyer.Want{Network: x.cfg.Payment.Network, Facilitators: []string{x.cfg.Payment.Facilitator}, Limit: listMost})
	if err != nil {
		if age < listOld {
			x.log.Warn("list offers", "err", err)
			return offers, nil
		}
		return nil, noExit(fmt.Errorf("no relay lists offers: %w", err))
	}
	offers = slices.DeleteFunc(l.Offers, func(f buyer.Found) bool {
		return f.Toll() > 0 || f.Offer.Payment.Asset != x.cfg.Payment.Asset
	})
	x.mu.Lock()
	defer x.mu.Unlock()
	x.offers, x.listed = offers, time.Now()
	return offers, nil
}

// fitting are the offers of a choice that cost a customer no more than most for
// a GB; 0: whatever they cost. There is at least one.
func (x *exits) fitting(ctx context.Context, c choice, most channel.Amount) ([]buyer.Found, error) {
	all, err := x.list(ctx)
	if err != nil {
		return nil, err
	}
	want := c.want()
	var found []buyer.Found
	dear := false
	for _, f := range all {
		switch {
		case !want.Accepts(f):
		case most > 0 && x.price(f).Max() > most:
			dear = true
		default:
			found = append(found, f)
		}
	}
	switch {
	case found != nil:
		return found, nil
	case dear:
		return nil, noExit(fmt.Errorf("no exit at %s USD per GB, the price of this credit, or less", most.USD()))
	case c.Country+c.Carrier+c.Tech == "":
		return nil, noExit(errors.New("no agent sells at present"))
	}
	return nil, noExit(errors.New("no agent of that country, carrier and technology sells at present"))
}

// noExit is told to customers.
func noExit(err error) error {
	return &proxy.RefusedError{
		Status: http.StatusServiceUnavailable, Err: err,
		Advice: "Try again later, or choose another country, carrier or technology.",
	}
}

// price is what a customer pays for what leaves by an offer.
func (x *exits) price(f buyer.Found) agent.Price { return f.Offer.Price.Raised(100 + x.cfg.FeePercent) }

// A ticket is what a connection asks of the exits.
type ticket struct {
	who    accountID
	choice choice
	most   channel.Amount // that a GB may cost
	tried  []channel.Address
	more   bool // there are others to try
}

// pick chooses an exit, and opens it if need be. Which ones were tried it leaves
// out.
func (x *exits) pick(ctx context.Context, t *ticket) (*exit, error) {
	found, err := x.fitting(ctx, t.choice, t.most)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	usable := slices.DeleteFunc(slices.Clone(found), func(f buyer.Found) bool {
		e := x.open[f.Offer.Agent]
		return slices.Contains(t.tried, f.Offer.Agent) || e != nil && e.closing
	})
	if good := slices.DeleteFunc(slices.Clone(usable), func(f buyer.Found) bool { return now.Before(x.bad[f.Offer.Agent]) }); len(good) > 0 {
		usable = good
	}
	if len(usable) == 0 {
		t.more = false
		return nil, exitError{noExit(errors.New("no exit answers at present"))}
	}
	t.more = len(usable) > 1
	f := x.choose(usable, t, now)
	t.tried = append(t.tried, f.Offer.Agent)
	e := x.open[f.Offer.Agent]
	switch {
	case e == nil:
		return x.start(f)
	case e.cost == f.Offer.Price || e.flows.Load() > 0 && e.price.Max() <= t.most:
		return e, nil // at the price that it was opened at
	case e.flows.Load() == 0:
		x.close(e)
	}
	return nil, exitError{errors.New("the exit has another price by now")}
}

// close begins to close an exit. The caller holds mu.
func (x *exits) close(e *exit) {
	e.closing = true
	e.stop()
}

// choose takes one of the offers: that of the session's seat, or else, of a few
// cheapest, any. The caller holds mu.
func (x *exits) choose(usable []buyer.Found, t *ticket, now time.Time) buyer.Found {
	few := usable[:min(len(usable), spread)]
	if t.choice.Session == "" {
		return few[rand.N(len(few))]
	}
	key := seatKey{t.who, t.choice}
	s, known := x.seats[key]
	due := t.choice.Rotate > 0 && now.Sub(s.since) >= t.choice.Rotate
	if i := slices.IndexFunc(usable, func(f buyer.Found) bool { return f.Offer.Agent == s.agent }); known && i >= 0 && !due {
		s.used = now
		x.seats[key] = s
		return usable[i]
	}
	if others := slices.DeleteFunc(slices.Clone(few), func(f buyer.Found) bool { return f.Offer.Agent == s.agent }); len(others) > 0 {
		few = others
	}
	f := few[rand.N(len(few))]
	if !known && len(x.seats) >= maxSeats {
		x.makeRoom(now)
	}
	x.seats[key] = seat{f.Offer.Agent, now, now}
	return f
}

// makeRoom forgets sessions, first those that were not used.
func (x *exits) makeRoom(now time.Time) {
	makeRoom(x.seats, maxSeats, func(s seat) bool { return now.Sub(s.used) >= seatTime })
}

// start begins a purchase. The caller holds mu.
func (x *exits) start(f buyer.Found) (*exit, error) {
	if x.over {
		return nil, exitError{errors.New("the gateway stops")}
	}
	if !x.hasRoom() {
		return nil, &proxy.RefusedError{
			Status: http.StatusServiceUnavailable, Err: errors.New("the gateway has no room for another exit"),
			Advice: "Try again later, or choose less.",
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &exit{
		found: f, cost: f.Offer.Price, price: x.price(f), fee: x.cfg.FeePercent, ready: make(chan struct{}), done: make(chan struct{}), stop: stop,
	}
	e.used.Store(time.Now().UnixNano())
	x.open[f.Offer.Agent] = e
	x.book.counts.opened.Add(1)
	x.work.Go(func() { x.run(ctx, e) })
	return e, nil
}

// hasRoom says whether there is room for another exit, and closes the one that
// was idle for longest if there is none otherwise. The caller holds mu.
func (x *exits) hasRoom() bool {
	used := 0
	var idle []*exit
	for _, e := range x.open {
		if e.closing {
			continue
		}
		if used++; e.flows.Load() == 0 {
			idle = append(idle, e)
		}
	}
	if used < x.cfg.MaxExits {
		return true
	}
	if len(idle) == 0 {
		return false
	}
	x.close(slices.MinFunc(idle, func(a, b *exit) int { return cmp.Compare(a.used.Load(), b.used.Load()) }))
	return true
}

// run buys from an agent until e is stopped or fails. One that was not used has
// its deposit asked back; one that failed may have it used when it is back, and
// so may all when the gateway is started again.
func (x *exits) run(ctx context.Context, e *exit) {
	who := e.found.Offer.Agent
	log := x.log.With("agent", who)
	log.Info("exit opened", "country", e.found.Country(), "price_up", e.cost.Up, "price_down", e.cost.Down)
	r, err := x.purchase(ctx, buyer.Config{
		Offer: e.found.Offer, Budget: exitBudget, MaxPrice: e.cost.Max(), Keep: true, Serve: e.serve, Logger: log,
	})
	e.err = errors.New("the exit was closed")
	x.mu.Lock()
	e.closing = true
	over := x.over
	if err != nil && !errors.Is(err, buyer.ErrBudget) { // with which the next begins
		log.Warn("exit failed", "err", err)
		x.book.counts.failed.Add(1)
		e.err = err
		x.shun(who)
	}
	x.mu.Unlock()
	close(e.done)
	if err == nil && !over {
		x.refund(log, e)
	}
	x.mu.Lock()
	delete(x.open, who)
	x.mu.Unlock()
	log.Info("exit closed", "up", r.Up, "down", r.Down, "owed", r.Owed, "signed", r.Signed)
}

// purchase buys, and notes before that the agent may be owed something, until the
// purchase has ended in order.
func (x *exits) purchase(ctx context.Context, c buyer.Config) (buyer.Result, error) {
	c.Abandon = x.life
	c, id, err := x.buy(c)
	if err == nil {
		err = x.book.began(id)
	}
	if err != nil {
		return buyer.Result{}, err
	}
	r, err := buyer.Run(ctx, c)
	if err == nil || errors.Is(err, buyer.ErrBudget) {
		err = errors.Join(err, x.book.ended(id))
	}
	return r, err
}

// refund asks an agent's deposit back.
func (x *exits) refund(log *slog.Logger, e *exit) {
	ctx, cancel := context.WithTimeout(x.life, closeTime)
	defer cancel()
	if _, err := x.purchase(ctx, buyer.Config{Offer: e.found.Offer, CloseOnly: true, Logger: log}); err != nil {
		log.Warn("the deposit was not given back; x402 wallet refund asks for it again", "err", err)
	}
}

// conclude pays an agent what is owed from a purchase that did not end in order, of
// which places bounds how many are at it. If the agent is bought from already, that
// does it.
func (x *exits) conclude(o agent.Offer, places chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over || x.open[o.Agent] != nil {
		return
	}
	ctx, stop := context.WithCancel(x.life)
	e := &exit{found: buyer.Found{Offer: o}, ready: make(chan struct{}), done: make(chan struct{}), stop: stop, closing: true}
	x.open[o.Agent] = e
	x.work.Go(func() {
		defer stop()
		x.payRest(ctx, o, places)
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.open, o.Agent)
	})
}

// payRest is conclude once it is begun.
func (x *exits) payRest(ctx context.Context, o agent.Offer, places chan struct{}) {
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	case <-ctx.Done():
		return
	}
	log := x.log.With("agent", o.Agent)
	ctx, cancel := context.WithTimeout(ctx, concludeTime)
	defer cancel()
	r, err := x.purchase(ctx, buyer.Config{Offer: o, CloseOnly: true, Keep: true, Budget: exitBudget, Logger: log})
	if err != nil {
		log.Warn("an agent could not be paid what is owed from before; it is paid when it is used again, or at the next start", "err", err)
		return
	}
	log.Info("paid an agent what was owed from before", "owed", r.Owed, "signed", r.Signed)
}

// shun leaves an agent alone for a while. The caller holds mu.
func (x *exits) shun(who channel.Address) {
	now := time.Now()
	for a, until := range x.bad {
		if now.After(until) {
			delete(x.bad, a)
		}
	}
	x.bad[who] = now.Add(badTime)
}

// failed notes that an exit did not do what another did.
func (x *exits) failed(who channel.Address) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shun(who)
}

// sweep closes exits that nobody uses, until ctx ends.
func (x *exits) sweep(ctx context.Context) error {
	tick := time.NewTicker(x.cfg.Idle / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		x.mu.Lock()
		for _, e := range x.open {
			if !e.closing && e.flows.Load() == 0 && time.Since(time.Unix(0, e.used.Load())) >= x.cfg.Idle {
				x.close(e)
			}
		}
		x.mu.Unlock()
	}
}

// stop ends all purchases, and waits for that: in order, but for agents that do
// not answer in time. They are paid at the next start.
func (x *exits) stop() {
	x.mu.Lock()
	x.over = true
	for _, e := range x.open {
		x.close(e)
	}
	x.mu.Unlock()
	defer x.end()
	defer time.AfterFunc(stopTime, x.end).Stop()
	x.work.Wait()
}

// countries are those of the offers that were listed last, in order.
func (x *exits) countries() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := map[string]bool{}
	for _, f := range x.offers {
		if c := f.Country(); c != "" {
			seen[c] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
