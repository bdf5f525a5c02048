package seller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter/plan"
	"github.com/depinsim/x402/tunnel"
)

// A router is a device with a modem, in simulated time.
type router struct {
	mu      sync.Mutex
	boot    byte
	booted  time.Time
	off     time.Duration // how wrong its clock is
	syncAt  time.Time     // when NTP answers
	link    *plan.Link
	card    string            // the SIM that is in
	used    map[string]uint64 // in truth, in the period
	ends    map[string]time.Time
	sold    uint64 // payload, in all
	reset   func(time.Time) time.Time
	looks   int
	atZero  time.Time // when the household's traffic was counted last
	rate    uint64    // the household's
	failing error
}

func (r *router) sample() (plan.Sample, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live()
	r.looks++
	now := time.Now()
	in := plan.Sample{Boot: [16]byte{r.boot}, Up: now.Sub(r.booted), Wall: now.Add(r.off)}
	if in.Synced = !now.Before(r.syncAt); in.Synced {
		in.Wall = now
	}
	if r.link != nil {
		l := *r.link
		in.Link = &l
	}
	return in, r.failing
}

// live has the household's traffic pass up to now. The caller holds mu.
func (r *router) live() {
	now := time.Now()
	r.pass(r.rate / 1000 * uint64(now.Sub(r.atZero)/time.Millisecond))
	r.atZero = now
}

// pass has bytes pass the interface. The caller holds mu.
func (r *router) pass(bytes uint64) {
	if now := time.Now(); !now.Before(r.ends[r.card]) {
		r.ends[r.card], r.used[r.card] = r.reset(now), 0
	}
	if r.link == nil {
		return
	}
	r.link.RxBytes += bytes
	r.used[r.card] += bytes
}

// start boots the router after a while.
func (r *router) start(off time.Duration) {
	r.mu.Lock()
	r.rate, r.atZero = 0, time.Now()
	r.mu.Unlock()
	time.Sleep(off)
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boot++
	r.booted, r.atZero = time.Now(), time.Now()
	r.syncAt, r.off = time.Now().Add(time.Minute), time.Until(time.Unix(0, 0))
	r.link = &plan.Link{Index: uint32(r.boot)}
}

// monthly is when a plan that begins anew on a day does so next.
func monthly(day int) func(time.Time) time.Time {
	return func(now time.Time) time.Time {
		y, m, _ := now.UTC().Date()
		if at := time.Date(y, m, day, 0, 0, 0, 0, time.UTC); at.After(now) {
			return at
		}
		return time.Date(y, m+1, day, 0, 0, 0, 0, time.UTC)
	}
}

// today has simulated time come to where clocks may be.
func today() {
	time.Sleep(time.Until(time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)))
	synctest.Wait()
}

func planSeller(t *testing.T, dir string, r *router, c plan.Config) *Seller {
	t.Helper()
	s, err := open(Config{
		StateDir: dir, Price: agent.Price{Up: 1e6, Down: 1e6}, Facilitator: goneFacilitator{n: &meteredNet{}}, Endpoints: []string{"sim.example:4402"},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "http://facilitator.example", Asset: channel.Address{1}, PayTo: channel.Address{2},
		},
		Plan: &PlanConfig{Config: c, Sample: r.sample},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A freeLane is a session's whose credit is never spent.
type freeLane struct{}

func (freeLane) Reserve(context.Context, int) error { return nil }
func (freeLane) Deliver(int, int)                   {}

const (
	buyersRate = 2_000_000 // bytes of payload a second
	piece      = 32 << 10
)

// download is a buyer who takes all he is given, at the line's rate.
func download(ctx context.Context, t *testing.T, s *Seller, r *router) {
	lane, ok := s.planned(tunnel.Lanes{UpTCP: freeLane{}, DownTCP: freeLane{}, UpUDP: freeLane{}, DownUDP: freeLane{}}).DownTCP.(planLane)
	if !ok {
		t.Error("no lane of the plan's")
		return
	}
	const size = 8 * piece
	for {
		n, err := lane.ReserveSome(ctx, size)
		if err != nil {
			return
		}
		lane.Deliver(n, n)
		r.mu.Lock()
		r.live()
		r.pass(uint64(n) * 21 / 10)
		r.sold += uint64(n)
		used := r.used[r.card]
		r.mu.Unlock()
		if most := s.cfg.Plan.Size - s.cfg.Plan.Reserve + aSecond; used > most {
			t.Errorf("%v: %d are used, most is %d", time.Now(), used, most)
		}
		select {
		case <-time.After(time.Duration(n) * time.Second / buyersRate):
		case <-ctx.Done():
			return
		}
	}
}

// aSecond is what passes in one.
const aSecond = buyersRate*21/10 + 200_000

// TestPlanMonth sells for a month, with a reset in it, while the router is started
// anew, the SIM travels and is swapped, the modem is pulled and the clock jumps.
func TestPlanMonth(t *testing.T) {
	const days = 31
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		today()
		c := plan.Config{Size: 3e9, Reserve: 5e8, ResetDay: 17, Daily: 8e8, Margin: 3}
		random := rand.New(rand.NewPCG(1, 2))
		r := &router{card: "a", used: map[string]uint64{}, ends: map[string]time.Time{}, reset: monthly(c.ResetDay)}
		begin := time.Now()
		swapped := false
		var syncs, written uint64
		for time.Since(begin) < days*24*time.Hour {
			r.start(time.Duration(random.IntN(300)) * time.Minute)
			s := planSeller(t, dir, r, c)
			ctx, cancel := context.WithCancel(t.Context())
			s.lookAtPlan(ctx, time.Now())
			var wg sync.WaitGroup
			wg.Go(func() { s.planLoop(ctx) })
			time.Sleep(10 * time.Second) // for the SIM
			for range 1 + random.IntN(5) {
				s.useSIM(r.card)
				happens(ctx, t, s, r, random)
			}
			if random.IntN(4) == 0 {
				swapped = true
				s.useSIM(r.card)
				r.swap(s)
				time.Sleep(time.Minute)
				if n := s.refuses(); r.card == "b" && n == nil && s.planStatus().Entered == 0 {
					t.Error("a SIM of which nothing is known is sold")
				}
				r.mu.Lock()
				used := r.used[r.card]
				r.mu.Unlock()
				if _, err := s.setUsed(fmt.Sprint(used + 200_000*10)); err != nil {
					t.Error(err)
				}
			}
			cancel()
			wg.Wait()
			if random.IntN(2) == 0 { // in order; else the power went
				if err := s.ration.book.Close(); err != nil {
					t.Error(err)
				}
			}
			n, b := s.ration.book.Written()
			syncs, written = syncs+n, written+b
			if err := s.journal.Close(); err != nil {
				t.Error(err)
			}
		}
		t.Logf("%d bytes sold, %d looks, %d syncs, %d bytes written", r.sold, r.looks, syncs, written)
		if r.sold < 1e9 || !swapped {
			t.Errorf("only %d bytes were sold, swapped %v", r.sold, swapped)
		}
		if most := uint64(days * 24 * 60); syncs > most || written > days*60e6 {
			t.Errorf("%d syncs, %d bytes written", syncs, written)
		}
	})
}

// swap puts another SIM in. The modem is gone for as long.
func (r *router) swap(s *Seller) {
	r.mu.Lock()
	r.live()
	r.link = nil
	r.mu.Unlock()
	time.Sleep(time.Minute)
	synctest.Wait()
	r.mu.Lock()
	if r.card == "a" {
		r.card = "b"
	} else {
		r.card = "a"
	}
	r.live()
	r.link = &plan.Link{Index: uint32(100 + r.looks)}
	card := r.card
	r.mu.Unlock()
	s.useSIM(card)
}

// happens has some hours go by.
func happens(ctx context.Context, t *testing.T, s *Seller, r *router, random *rand.Rand) {
	var wg sync.WaitGroup
	bctx, cancel := context.WithTimeout(ctx, time.Duration(1+random.IntN(60))*time.Minute)
	defer cancel()
	roams := random.IntN(6) == 0
	s.sim.mu.Lock()
	s.sim.status.Roaming = roams
	s.sim.mu.Unlock()
	r.mu.Lock()
	r.live()
	r.rate = uint64(random.IntN(100_000))
	switch random.IntN(4) {
	case 0: // somebody sets the clock
		r.syncAt, r.off = time.Now().Add(time.Hour), time.Duration(random.IntN(200)-100)*24*time.Hour
	case 1: // the modem falls off the bus
		r.link = &plan.Link{Index: uint32(100 + r.looks)}
	}
	r.mu.Unlock()
	time.Sleep(planIdle + time.Second) // until that is seen
	r.mu.Lock()
	before := r.sold
	r.mu.Unlock()
	wg.Go(func() { download(bctx, t, s, r) })
	wg.Wait()
	r.mu.Lock()
	if sold := r.sold - before; roams && sold > 0 {
		t.Errorf("%d bytes were sold abroad", sold)
	}
	if r.link != nil && random.IntN(5) == 0 {
		r.rate = 10_000
	}
	r.mu.Unlock()
	time.Sleep(time.Duration(random.IntN(600)) * time.Minute)
	synctest.Wait()
}

// TestPlanNotices: what buyers and the owner are told, and that sessions wait a
// moment before they are sent away.
func TestPlanNotices(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		today()
		r := &router{card: "a", used: map[string]uint64{}, ends: map[string]time.Time{}, reset: monthly(1)}
		r.start(0)
		s := planSeller(t, dir, r, plan.Config{Size: 1e9, Reserve: 1e8, ResetDay: 1, Steps: []plan.Step{{Left: 50, Price: 150}}})
		defer s.journal.Close()
		ctx := t.Context()
		look := func() { s.lookAtPlan(ctx, time.Now()) }
		look()
		if n := s.refuses(); n == nil || n.Code != agent.NoticePaused || s.listedOffer() != nil {
			t.Errorf("before the SIM is read: %+v", n)
		}
		s.useSIM("a")
		time.Sleep(2 * time.Minute) // NTP answers
		look()
		if n := s.refuses(); n != nil {
			t.Fatalf("%+v", n)
		}
		if err := s.publish(ctx); err != nil {
			t.Fatal(err)
		}
		if o, err := agent.ParseOffer(s.listedOffer()); err != nil || o.Price.Down != 1e6 {
			t.Errorf("%+v, %v", o, err)
		}
		r.mu.Lock()
		r.pass(5e8)
		r.mu.Unlock()
		time.Sleep(planIdle)
		look()
		if o, err := agent.ParseOffer(s.listedOffer()); err != nil || o.Price.Down != 1.5e6 || o.Seq != 2 {
			t.Errorf("at less than half: %+v, %v", o, err)
		}
		r.mu.Lock()
		r.pass(5e8)
		r.mu.Unlock()
		look()
		n := s.refuses()
		if n == nil || n.Code != agent.NoticePlan || n.Text != "the agent's data plan is used up; it goes on at 2026-02-01 00:00 UTC" {
			t.Errorf("%+v", n)
		}
		if s.listedOffer() == nil {
			t.Error("the offer is withdrawn at once")
		}
		time.Sleep(relistEvery)
		look()
		if s.listedOffer() != nil {
			t.Error("the offer is still listed")
		}
		if st := s.planStatus(); st.Why != "spent" || st.Used != 1e9 || st.Household != 1e9 || st.Clock != "ntp" {
			t.Errorf("%+v", st)
		}
		if p, err := s.setUsed("100000000"); err != nil || p.Used != 1e8 || p.Entered != 1e8 || p.Household != 1e9 || p.Correction != -9e8 {
			t.Errorf("%+v, %v", p, err)
		}
		time.Sleep(relistEvery)
		look()
		if n := s.refuses(); n != nil || s.listedOffer() == nil {
			t.Errorf("%+v", n)
		}
		for _, bad := range []string{"x", "-1", "99999999999999999999"} {
			if _, err := s.setUsed(bad); err == nil {
				t.Errorf("%s is taken", bad)
			}
		}
		r.failing = errors.New("no such device")
		look()
		if found := s.planProblems(); len(found) != 1 || !strings.Contains(found[0].What, "no such device") {
			t.Errorf("%+v", found)
		}
	})
}

// TestPlanTakesBack: what was granted and not used is taken back when nothing
// may be sold any more.
func TestPlanTakesBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		today()
		r := &router{card: "a", used: map[string]uint64{}, ends: map[string]time.Time{}, reset: monthly(1)}
		r.start(0)
		s := planSeller(t, dir, r, plan.Config{Size: 1e9, ResetDay: 1})
		defer s.journal.Close()
		s.useSIM("a")
		s.lookAtPlan(t.Context(), time.Now())
		lane, ctx := s.ration.meter.DownTCP, t.Context()
		n, err := lane.ReserveUpTo(ctx, 1000)
		if n != 1000 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		lane.Deliver(1000, 1000)
		r.mu.Lock()
		r.pass(1e9)
		r.mu.Unlock()
		s.lookAtPlan(ctx, time.Now())
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if n, err := lane.ReserveUpTo(short, 1); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
	})
}
