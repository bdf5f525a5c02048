package seller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/meter"
	"github.com/depinsim/x402/meter/plan"
	"github.com/depinsim/x402/tunnel"
)

// A PlanConfig says what of a SIM's data plan may be sold.
type PlanConfig struct {
	plan.Config
	// Interface is where the plan's bytes pass. Default: the policy's.
	Interface string
	// Rate bounds what is sent to buyers, like Config.Rate. 0 is no bound.
	Rate uint64
	// Sample replaces the device's counters and clocks in tests.
	Sample func() (plan.Sample, error)
}

// check names what is wrong.
func (p *PlanConfig) check() error {
	if err := p.Config.Check(); err != nil {
		return fmt.Errorf("plan.%w", err)
	}
	if p.Interface == "" && p.Sample == nil {
		return errors.New("plan.interface: missing: set it, or policy.interface, to the modem's network interface, such as 'wwan0': its counters say what is used")
	}
	return nil
}

// A ration lets buyers have as much of the plan as may be sold:
//
//	device ─→ sample ─→ book ─→ decision ─┬─→ meter ─→ lanes of all flows
//	                                      ├─→ hello, token: refused
//	                                      ├─→ sessions leave, the offer is withdrawn
//	                                      └─→ price
//
// One goroutine, planLoop, owns the fields without a comment of their own.
type ration struct {
	cfg    PlanConfig
	book   *plan.Book
	sample func() (plan.Sample, error)
	absent func() error         // why a sample has no interface
	asked  chan chan<- struct{} // for a look at once; unbuffered
	meter  *meter.Meter         // payload of all buyers

	limit, withheld uint64 // of the meter: all that was granted, and taken back
	counted         uint64 // payload, at the last look
	chunk           uint64 // how much is granted at a time
	lookedAt        time.Time
	movedAt         time.Time // when something was sold last
	listedAt        time.Time // when the relays were told
	failed          string    // the last error, to be told once

	mu      sync.Mutex
	said    plan.Decision
	since   time.Time // when selling stopped; zero: it has not
	listed  bool      // relays have the offer
	problem error     // of the interface or the file
}

const (
	planBusy  = time.Second     // between two looks, while something is sold
	planIdle  = 2 * time.Second // and while nothing is: the household may use much at once
	planLeast = 20 * time.Millisecond
	// planHold is for how long sessions wait for selling to go on before they
	// are ended, planSoon for how long if it is known when that is.
	planHold  = 5 * time.Second
	planSoon  = 30 * time.Second
	planGrace = 2 * time.Second // for flows of a session that is ended
	// relistEvery bounds how often relays are told.
	relistEvery = 10 * time.Second
	// firstChunk is what is granted at first. It doubles when it is used up at
	// once, so that it comes to half a second of traffic.
	firstChunk = 128 << 10
	chunkTime  = 250 * time.Millisecond
	maxChunk   = 256 << 20
)

// planFile is the plan's file in the state directory.
const planFile = "plan"

// openRation opens the plan's book. An InterfaceOfModem is w's.
func openRation(c Config, w *way) (*ration, error) {
	r := &ration{
		cfg: *c.Plan, sample: c.Plan.Sample, absent: func() error { return nil },
		meter: meter.New(meter.Config{WeightUp: 1, WeightDown: 1}), chunk: firstChunk,
		asked: make(chan chan<- struct{}),
		said:  plan.Decision{Why: plan.ReasonSIM, Price: 100}, since: time.Now(),
	}
	switch {
	case r.sample != nil:
	case r.cfg.Interface == InterfaceOfModem:
		r.sample, r.absent = sampleOf(w)
	default:
		d, err := plan.NewDevice(r.cfg.Interface)
		if err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
		r.sample, r.absent = d.Sample, d.Err
	}
	var err error
	r.book, err = plan.Open(filepath.Join(c.StateDir, planFile), r.cfg.Config)
	return r, err
}

// sampleOf looks at the counters of the interface that the modem has at present.
func sampleOf(w *way) (sample func() (plan.Sample, error), absent func() error) {
	var d *plan.Device
	at := ""
	sample = func() (plan.Sample, error) {
		name := w.name()
		if name == "" {
			return plan.Sample{}, errNoInterface
		}
		if d == nil || name != at {
			var err error
			if d, err = plan.NewDevice(name); err != nil {
				return plan.Sample{}, err
			}
			at = name
		}
		return d.Sample()
	}
	return sample, func() error { return d.Err() } // asked after a sample only
}

// planLoop keeps the ration up to date until ctx ends.
func (s *Seller) planLoop(ctx context.Context) error {
	r := s.ration
	if r == nil {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var asked chan<- struct{}
		select {
		case <-ctx.Done():
			_, err := r.look(time.Now(), s.sim.roams()) // for the last bytes
			if err != nil {
				s.log.Debug("plan", "err", err)
			}
			return nil
		case <-r.meter.Starved():
			if early := planLeast - time.Since(r.lookedAt); early > 0 {
				timer.Reset(early)
				continue
			}
		case asked = <-r.asked:
		case <-timer.C:
		}
		now := time.Now()
		s.lookAtPlan(ctx, now)
		if asked != nil {
			close(asked)
		}
		next := planIdle
		if now.Sub(r.movedAt) < planHold || s.anybody() {
			next = planBusy
		}
		timer.Reset(next)
	}
}

// anybody says whether there is anybody who may buy at any moment.
func (s *Seller) anybody() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)+len(s.uses) > 0
}

// lookAtPlan takes a sample and acts on what it comes to.
func (s *Seller) lookAtPlan(ctx context.Context, now time.Time) {
	r := s.ration
	d, err := r.look(now, s.sim.roams())
	if text := fmt.Sprint(err); err != nil && text != r.failed {
		s.log.Error("plan", "err", err)
		r.failed = text
	} else if err == nil {
		r.failed = ""
	}
	r.mu.Lock()
	before := r.said
	r.said, r.problem = d, err
	switch {
	case d.Why == "":
		r.since = time.Time{}
	case before.Why == "" || r.since.IsZero():
		r.since = now
	}
	since := r.since
	r.mu.Unlock()
	if d.Why != before.Why {
		s.log.Info("plan", "state", cmp.Or(string(d.Why), "selling"), "left", d.Left, "until", d.Until)
	}
	if d.Price != before.Price {
		s.log.Info("the price follows the plan", "percent", d.Price)
		s.republish(ctx)
	}
	hold := planHold
	if !d.Until.IsZero() && r.clock().Add(planSoon).After(d.Until) {
		hold = planSoon
	}
	over := d.Why != "" && now.Sub(since) >= hold
	if over {
		s.sendAway(planNotice(d))
	}
	s.list(ctx, now, d.Why == "" || !over)
}

// look counts, and lets the meter go as far as it may.
func (r *ration) look(now time.Time, roaming bool) (plan.Decision, error) {
	in, err := r.sample()
	if err != nil {
		r.grant(0)
		return plan.Decision{Why: plan.ReasonInterface, Price: max(r.price(), 100)}, err
	}
	c := r.meter.Reading()
	counted := c.Up() + c.Down()
	in.Sold, in.Roaming = counted-r.counted, roaming
	if in.Sold > 0 {
		r.movedAt = now
	}
	r.fitChunk(in.Sold, now.Sub(r.lookedAt))
	r.counted, r.lookedAt = counted, now
	d, err := r.book.Observe(in)
	r.grant(min(d.Payload, r.chunk))
	if in.Link == nil {
		err = errors.Join(err, r.absent())
	}
	return d, err
}

// refresh has planLoop look now, if it runs.
func (r *ration) refresh() {
	done := make(chan struct{})
	timeout := time.After(planBusy)
	select {
	case r.asked <- done:
	case <-timeout:
		return
	}
	select {
	case <-done:
	case <-timeout:
	}
}

// fitChunk has the chunk follow the traffic.
func (r *ration) fitChunk(sold uint64, elapsed time.Duration) {
	switch {
	case elapsed < chunkTime && sold >= r.chunk/2:
		r.chunk = min(2*r.chunk, maxChunk)
	case elapsed >= 2*chunkTime && sold < r.chunk/2:
		r.chunk = max(r.chunk/2, firstChunk)
	}
}

// grant lets buyers have so much from now on, and no more.
func (r *ration) grant(bytes uint64) {
	have := r.limit - min(r.limit, r.withheld+r.counted)
	if bytes > have {
		r.limit += bytes - have
		r.meter.Extend(r.limit)
		return
	}
	done, cancel := context.WithCancel(context.Background())
	cancel() // nothing is waited for
	for excess := have - bytes; excess > 0; {
		n, err := r.meter.DownTCP.ReserveUpTo(done, int(min(excess, 1<<30)))
		if err != nil {
			return // the rest is under way
		}
		r.withheld += uint64(n)
		excess -= uint64(n)
	}
}

// clock is the time that the plan goes by.
func (r *ration) clock() time.Time {
	s, _, _ := r.book.Report()
	return time.Unix(0, s.Time)
}

func (r *ration) why() plan.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Why
}

func (r *ration) price() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Price
}

// refuses is why nothing may be sold, or nil.
func (r *ration) refuses() *agent.Notice {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said.Why == "" {
		return nil
	}
	n := planNotice(r.said)
	return &n
}

// planNotice tells a buyer why nothing is sold, as far as it is his business.
func planNotice(d plan.Decision) agent.Notice {
	n := agent.Notice{Code: agent.NoticePlan}
	switch d.Why {
	case plan.ReasonSpent:
		n.Text = "the agent's data plan is used up"
	case plan.ReasonDaily:
		n.Text = "the agent has sold what it sells in a day"
	case plan.ReasonHourly:
		n.Text = "the agent has sold what it sells in an hour"
	case plan.ReasonHours:
		n.Code, n.Text = agent.NoticePaused, "the agent sells at other hours"
	case plan.ReasonRoaming:
		n.Code, n.Text = agent.NoticePaused, "the agent does not sell abroad"
	default:
		n.Code, n.Text = agent.NoticePaused, "the agent does not know now what is left of its data plan"
	}
	if !d.Until.IsZero() {
		n.Text += "; it goes on at " + d.Until.UTC().Format("2006-01-02 15:04 MST")
	}
	return n
}

// sendAway has all sessions leave, and the flows of tokens end.
func (s *Seller) sendAway(n agent.Notice) {
	s.mu.Lock()
	var all []*session
	for _, x := range s.sessions {
		all = append(all, x)
	}
	s.mu.Unlock()
	for _, x := range all {
		x.leave(n)
	}
	s.stopUses()
}

// list has the relays list the offer, or not.
func (s *Seller) list(ctx context.Context, now time.Time, listed bool) {
	r := s.ration
	r.mu.Lock()
	same := listed == r.listed || now.Sub(r.listedAt) < relistEvery && !r.listedAt.IsZero()
	if !same {
		r.listed, r.listedAt = listed, now
	}
	r.mu.Unlock()
	if same {
		return
	}
	s.tellRelays(ctx)
}

// listedOffer is what relays list: nothing while nothing is sold.
func (s *Seller) listedOffer() []byte {
	if r := s.ration; r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.listed {
			return nil
		}
	}
	return s.signedOffer()
}

// price is the present one.
func (s *Seller) price() agent.Price {
	if s.ration == nil {
		return s.cfg.Price
	}
	return s.cfg.Price.Raised(s.ration.price())
}

// useSIM tells the plan's book which SIM is in.
func (s *Seller) useSIM(sim string) {
	if s.ration == nil {
		return
	}
	changed, err := s.ration.book.Use(sim)
	if err != nil {
		s.log.Error("plan", "err", err)
	}
	if changed {
		s.log.Warn("another SIM is in; its plan counts from now on")
	}
	if s.ration.why() == plan.ReasonSIM || changed {
		s.ration.refresh()
	}
}

// A planLane lets through what both the buyer's credit and the plan cover.
type planLane struct {
	tunnel.Lane // the session's, or the token's
	plan        *meter.Lane
}

// Reserve implements tunnel.Lane.
func (l planLane) Reserve(ctx context.Context, n int) error {
	if err := l.Lane.Reserve(ctx, n); err != nil {
		return err
	}
	if err := l.plan.Reserve(ctx, n); err != nil {
		l.Lane.Deliver(n, 0)
		return err
	}
	return nil
}

// ReserveSome implements tunnel.Rationed.
func (l planLane) ReserveSome(ctx context.Context, n int) (int, error) {
	var err error
	if r, ok := l.Lane.(tunnel.Rationed); ok {
		n, err = r.ReserveSome(ctx, n)
	} else {
		err = l.Lane.Reserve(ctx, n)
	}
	if err != nil {
		return 0, err
	}
	some, err := l.plan.ReserveUpTo(ctx, n)
	if some < n {
		l.Lane.Deliver(n-some, 0)
	}
	return some, err
}

// Deliver implements tunnel.Lane.
func (l planLane) Deliver(reserved, delivered int) {
	l.Lane.Deliver(reserved, delivered)
	l.plan.Deliver(reserved, delivered)
}

// planned puts the plan behind the lanes of a session or a token.
func (s *Seller) planned(l tunnel.Lanes) tunnel.Lanes {
	if s.ration == nil {
		return l
	}
	m := s.ration.meter
	return tunnel.Lanes{
		UpTCP: planLane{l.UpTCP, m.UpTCP}, DownTCP: planLane{l.DownTCP, m.DownTCP},
		UpUDP: planLane{l.UpUDP, m.UpUDP}, DownUDP: planLane{l.DownUDP, m.DownUDP},
	}
}

var _ tunnel.Rationed = planLane{}
