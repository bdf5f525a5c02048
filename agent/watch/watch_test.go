package watch

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// TestWithdrawn: the agent is off, its payer takes his deposit back, and the watch
// claims the newest that it was handed long before he can.
func TestWithdrawn(t *testing.T) {
	simulated(t, func(w *world) {
		p, other := w.party(1, 1_000), w.party(2, 1_000)
		w.taken(p, 300, 250)
		w.taken(p, 700, 600)
		w.taken(other, 500, 400)
		after(time.Hour)
		if w.count("POST /settle") != 0 {
			t.Error("claimed without need")
		}
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		after(defaultEvery + time.Minute)
		if got := w.channel(p).Claimed; got != 600 {
			t.Errorf("claimed are %d", got)
		}
		if got := w.channel(other).Claimed; got != 0 {
			t.Errorf("of another channel %d are claimed", got)
		}
		after(ledgertest.Delay * time.Second)
		w.submit(p.WithdrawOp(t, x402.WithdrawFinalize, 0, 1))
		if s, err := w.ledger.Read(t.Context(), ledger.Touch{Accounts: []channel.Address{p.Config.Payer}}); err != nil || s.Accounts[p.Config.Payer] != 9_400 {
			t.Errorf("the payer has %v, %v", s.Accounts, err)
		}
		if n := w.count("POST /settle"); n != 1 {
			t.Errorf("claimed %d times", n)
		}
		if len(w.w.all) != 1 || w.w.all[other.ID] == nil {
			t.Errorf("%d are kept", len(w.w.all))
		}
	})
}

// TestTold: an agent that is there is told at once, and its channels are asked about
// seldom while nothing is wrong with them.
func TestTold(t *testing.T) {
	simulated(t, func(w *world) {
		p := w.party(1, 1_000)
		w.connect(p, true)
		w.taken(p, 300, 250)
		after(24 * time.Hour)
		if n := w.count("GET /v1/channels"); n < 20 || n > 26 {
			t.Errorf("%d questions in a day about an agent that is there", n)
		}
		w.connect(p, false)
		before := w.count("GET /v1/channels")
		after(24 * time.Hour)
		if n := w.count("GET /v1/channels") - before; n < 270 || n > 290 {
			t.Errorf("%d questions in a day about one that is not", n)
		}
		w.connect(p, true)
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		after(hereTimes * defaultEvery)
		if len(w.told) == 0 || !w.told[0].Withdraws || w.told[0].Channel != p.ID || w.told[0].Amount != 250 {
			t.Errorf("told %+v", w.told)
		}
		if got := w.channel(p).Claimed; got != 250 {
			t.Errorf("claimed are %d", got)
		}
	})
}

// TestFacilitatorDown: it is asked ever more seldom, and what is to be claimed is
// claimed when it is back.
func TestFacilitatorDown(t *testing.T) {
	simulated(t, func(w *world) {
		p := w.party(1, 1_000)
		w.taken(p, 300, 250)
		after(time.Minute)
		for name, fault := range map[string]*facilitator.Answer{
			"down": nil, "broken": {Status: 502}, "nonsense": {Status: 200, Body: []byte("<html>")}, "another": {Status: 404, Body: []byte(`{"error":"invalid_network"}`)},
		} {
			before := w.count("")
			w.breaks(func(string, string) *facilitator.Answer { return fault })
			after(6 * time.Hour)
			if n := w.count("") - before; n < 30 || n > 80 {
				t.Errorf("%s: %d questions in six hours", name, n)
			}
		}
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		w.breaks(func(method, _ string) *facilitator.Answer { // it answers, and takes nothing
			if method == http.MethodPost {
				return nil
			}
			return &facilitator.Answer{}
		})
		after(time.Hour)
		if w.count("POST /settle") == 0 {
			t.Error("not tried")
		}
		w.breaks(nil)
		after(retryMax + time.Minute)
		if got := w.channel(p).Claimed; got != 250 {
			t.Errorf("claimed are %d", got)
		}
	})
}

// TestLateFacilitator: nothing is taken before the facilitator has said for what it
// is one; agents are told then.
func TestLateFacilitator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.breaks(func(string, string) *facilitator.Answer { return nil })
		stop := w.run()
		defer stop()
		after(time.Hour)
		p := w.party(1, 1_000)
		if said := w.take(p, 300, 250); said.Error == "" || w.w.Greeting([20]byte{}) != nil {
			t.Errorf("%+v", said)
		}
		w.breaks(nil)
		after(retryMax + time.Minute)
		w.taken(p, 300, 250)
		if g := w.said(w.w.Greeting(p.Receiver.Address())); len(g.Networks) != 1 || g.Kept != 1 {
			t.Errorf("%+v", g)
		}
	})
}

// TestOthers: a facilitator that has none of our calls is asked by the voucher that is
// kept. A channel that does not cover it any more holds up no other.
func TestOthers(t *testing.T) {
	simulated(t, func(w *world) {
		w.breaks(func(_, path string) *facilitator.Answer {
			if strings.HasPrefix(path, "/v1/") {
				return &facilitator.Answer{Status: 404}
			}
			return &facilitator.Answer{}
		})
		p, less := w.party(1, 1_000), w.party(2, 1_000)
		w.taken(p, 300, 250)
		w.taken(less, 300, 250)
		after(time.Minute)
		if !w.w.all[p.ID].known || !w.w.all[less.ID].known {
			t.Error("not found")
		}
		w.submit(less.RefundOp(t, 900, 0))
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		after(defaultEvery + time.Minute)
		if got := w.channel(p).Claimed; got != 250 {
			t.Errorf("claimed are %d", got)
		}
		after(time.Hour)
		if len(w.w.all) != 0 || w.w.counts.lost.Load() != 1 {
			t.Errorf("%d are kept, %d lost", len(w.w.all), w.w.counts.lost.Load())
		}
	})
}

// TestRestart: what was taken is there after the next start, and a withdrawal that
// began meanwhile is seen.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stop := w.run()
		synctest.Wait()
		p := w.party(1, 1_000)
		w.taken(p, 300, 250)
		stop()
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		after(20 * time.Hour)
		w.open()
		stop = w.run()
		defer stop()
		after(time.Minute)
		if got := w.channel(p).Claimed; got != 250 {
			t.Errorf("claimed are %d", got)
		}
		after(time.Hour)
		if len(w.w.all) != 0 {
			t.Error("kept for nothing")
		}
	})
}

// TestPending: a claim that the facilitator keeps is handed to it again while the
// payer withdraws, until the ledger says that it is booked.
func TestPending(t *testing.T) {
	simulated(t, func(w *world) {
		p := w.party(1, 1_000)
		w.taken(p, 300, 250)
		w.breaks(func(method, _ string) *facilitator.Answer {
			if method == http.MethodPost {
				return &facilitator.Answer{Status: 200, Body: fmt.Appendf(nil, `{"success":false,"errorReason":%q,"transaction":"","network":%q}`, x402.ErrPending, p.Params.Network())}
			}
			return &facilitator.Answer{}
		})
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 1_000, 0))
		after(time.Hour)
		if n := w.count("POST /settle"); n < 10 || n > 14 {
			t.Errorf("asked %d times in an hour", n)
		}
		w.breaks(nil)
		w.submit(p.ClaimOp(t, 300, 250))
		after(time.Hour)
		if len(w.w.all) != 0 || w.w.counts.claims.Load() != 0 {
			t.Errorf("%d are kept, %d claimed", len(w.w.all), w.w.counts.claims.Load())
		}
	})
}

// TestForgotten: channels that are claimed, empty, or unknown to the ledger are kept
// no longer; that of an agent that never comes back is claimed first.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.w.cfg.Every = time.Hour
		defer w.run()()
		synctest.Wait()
		claimed, empty, unknown, left := w.party(1, 1_000), w.party(2, 1_000), w.party(3, 0), w.party(4, 1_000)
		for _, p := range []*ledgertest.Party{claimed, empty, unknown, left} {
			w.taken(p, 300, 250)
		}
		w.connect(unknown, true)
		after(time.Second)
		w.submit(claimed.ClaimOp(t, 300, 250))
		w.submit(empty.RefundOp(t, 1_000, 0))
		after(2 * time.Hour)
		if len(w.w.all) != 1 || w.w.all[left.ID] == nil || w.w.fresh != 0 || len(w.w.from) != 0 || len(w.w.of) != 1 {
			t.Errorf("%d are kept, %d fresh from %d of %d", len(w.w.all), w.w.fresh, len(w.w.from), len(w.w.of))
		}
		if w.w.counts.lost.Load() != 1 || len(w.told) != 1 || w.told[0].Channel != unknown.ID || w.told[0].Error == "" {
			t.Errorf("%d are lost, told is %+v", w.w.counts.lost.Load(), w.told)
		}
		after(20 * 24 * time.Hour)
		w.connect(left, true) // and gone again
		after(13 * time.Hour)
		w.connect(left, false)
		after(20 * 24 * time.Hour)
		if w.channel(left).Claimed != 0 {
			t.Error("claimed before its time")
		}
		after(11 * 24 * time.Hour)
		if got := w.channel(left).Claimed; got != 250 || len(w.w.all) != 0 {
			t.Errorf("claimed are %d, %d are kept", got, len(w.w.all))
		}
		if states, err := w.w.store.Load(); err != nil || len(states) != 0 {
			t.Errorf("stored are %d, %v", len(states), err)
		}
	})
}

// TestLess: the payer has taken a part of the deposit back already, and the claim
// exceeds what is left. Nobody can claim less with that signature: it is tried
// while he withdraws, no more often than it is looked at.
func TestLess(t *testing.T) {
	simulated(t, func(w *world) {
		p := w.party(1, 1_000)
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 500, 0))
		after(ledgertest.Delay * time.Second)
		w.submit(p.WithdrawOp(t, x402.WithdrawFinalize, 0, 1))
		w.taken(p, 700, 600)
		w.submit(p.WithdrawOp(t, x402.WithdrawInitiate, 500, 1))
		after(time.Hour)
		if n := w.count("POST /settle"); n < 10 || n > 14 || w.channel(p).Claimed != 0 {
			t.Errorf("asked %d times in an hour", n)
		}
		w.taken(p, 800, 700)
		w.submit(p.DepositOp(t, 500)) // which ends nothing
		after(time.Hour)
		if got := w.channel(p).Claimed; got != 700 {
			t.Errorf("claimed are %d", got)
		}
	})
}

// TestMetrics: the figures are those of what happened, and name nobody.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	defer w.w.Close()
	r := prometheus.NewRegistry()
	r.MustRegister(w.w.Collectors()...)
	if said := w.said(w.w.Take([20]byte{1}, home(), nil)); said.Error == "" {
		t.Errorf("%+v", said)
	}
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		want := 0.0
		if f.GetName() == "x402_relay_watch_refused_total" {
			want = 1
		}
		m := f.GetMetric()
		if len(m) != 1 || len(m[0].GetLabel()) != 0 || m[0].GetCounter().GetValue()+m[0].GetGauge().GetValue() != want {
			t.Errorf("%s: %v", f.GetName(), m)
		}
	}
	if len(all) != 8 {
		t.Errorf("%d figures", len(all))
	}
}
