package seller

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/meter/plan"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// aheadAtEnd is what is charged for what may pass while no agent runs.
const aheadAtEnd = 5e6

// TestPlanOfEachSIM puts cards into a modem, one after the other: each has its
// plan, one that is new has none until the owner says what is used of it, and
// one that is abroad is not sold.
func TestPlanOfEachSIM(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		today()
		r := &router{card: "a", used: map[string]uint64{}, ends: map[string]time.Time{}, reset: monthly(1)}
		r.start(0)
		visit := func(card modemtest.Card, registration int, see func(s *Seller)) {
			m, err := modemtest.New(modemtest.Config{Card: card, Registration: registration})
			if err != nil {
				t.Fatal(err)
			}
			s := planSeller(t, dir, r, plan.Config{Size: 1e9, Used: 2e8, ResetDay: 1})
			s.cfg.Modem, s.sim.wanted, s.cards.sellNew = &modem.Config{Open: m.Dial}, true, true
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { m.Run(ctx) })
			wg.Go(func() { s.watchSIM(ctx) })
			wg.Go(func() { s.planLoop(ctx) })
			time.Sleep(30 * time.Second)
			see(s)
			cancel()
			wg.Wait()
			if err := s.ration.book.Close(); err != nil {
				t.Error(err)
			}
			if err := s.journal.Close(); err != nil {
				t.Error(err)
			}
		}
		first := modemtest.Card{IMSI: "262011234567890", ICCID: "8949020000012345678"}
		second := modemtest.Card{IMSI: "262019876543210", ICCID: "8949020000087654321"}
		want := func(s *Seller, why plan.Reason, used uint64) {
			t.Helper()
			if st := s.planStatus(); st.Why != string(why) || st.Used < used || st.Used > used+aheadAtEnd {
				t.Errorf("%+v, want %q with %d used", st, why, used)
			}
		}
		visit(first, 1, func(s *Seller) {
			want(s, "", 2e8)
			r.mu.Lock()
			r.pass(3e8)
			r.mu.Unlock()
			want(s, "", 5e8)
		})
		visit(second, 1, func(s *Seller) {
			want(s, plan.ReasonSIM, 0)
			if n := s.refuses(); n == nil || n.Code != agent.NoticePaused {
				t.Errorf("%+v", n)
			}
			if found := s.planProblems(); len(found) != 1 {
				t.Errorf("%+v", found)
			}
			if _, err := s.setUsed("700000000"); err != nil {
				t.Error(err)
			}
			want(s, "", 7e8)
		})
		visit(first, 5, func(s *Seller) { want(s, plan.ReasonRoaming, 5e8) })
		visit(second, 1, func(s *Seller) { want(s, "", 7e8) })
		b, err := os.ReadFile(filepath.Join(dir, planFile))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []modemtest.Card{first, second} {
			if bytes.Contains(b, []byte(c.IMSI)) || bytes.Contains(b, []byte(c.ICCID)) {
				t.Error("the file names a SIM")
			}
		}
	})
}
