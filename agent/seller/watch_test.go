package seller

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apernet/quic-go/testutils/simnet"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/relay"
)

// A tower is a relay that keeps claims, or some of what that takes.
type tower struct {
	t      *testing.T
	greets bool
	keeps  func(agent.HandedClaim) agent.Watched // nil: it does not answer
	has    int                                   // as it says when the agent comes

	mu    sync.Mutex
	came  []visit
	at    []time.Time // claims that it was handed
	total map[channel.ID]channel.Amount
}

func (w *tower) answer(v visit, m relay.Message) (say []relay.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	watch := func(said agent.Watched) {
		b, err := json.Marshal(said)
		if err != nil {
			w.t.Error(err)
		}
		say = append(say, relay.Message{Type: relay.TypeWatch, Watch: b})
	}
	switch m.Type {
	case relay.TypeHello:
		w.came = append(w.came, v)
		if w.greets {
			watch(agent.Watched{Networks: []string{"eip155:1", "eip155:84532"}, Kept: w.has})
		}
	case relay.TypeWatch:
		var h agent.HandedClaim
		if err := json.Unmarshal(m.Watch, &h); err != nil || len(h.Claim.Claims) != 1 || h.Network != "eip155:84532" {
			w.t.Errorf("handed %s: %v", m.Watch, err)
			return nil
		}
		d, _ := agent.Payment{Network: h.Network}.Domain()
		id := d.ID(h.Claim.Claims[0].Voucher.Channel)
		w.at = append(w.at, time.Now())
		w.total[id] = h.Claim.Claims[0].TotalClaimed
		if w.keeps != nil {
			said := w.keeps(h)
			said.Channel = id
			watch(said)
		}
	}
	return say
}

// handed is how many claims came.
func (w *tower) handed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.at)
}

// visits are all connections so far.
func (w *tower) visits() []visit {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.came
}

// cut ends the newest connection.
func (w *tower) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.came[len(w.came)-1].CloseWithError(0, "")
}

func all(h agent.HandedClaim) agent.Watched {
	return agent.Watched{Amount: h.Claim.Claims[0].TotalClaimed}
}

// atTower runs an agent that has owed channels with something to claim, at a relay,
// in simulated time.
func atTower(t *testing.T, w *tower, owed int, f func(*Seller, *meteredNet)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := &meteredNet{nodes: map[string]simnet.PacketReceiver{}, sim: "10.0.0.1:4402"}
		key, err := quic.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		pin, err := quic.KeyHash(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		w.t, w.total = t, map[channel.ID]channel.Amount{}
		ctx, cancel := context.WithCancel(t.Context())
		conn := simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 443}, n)
		defer conn.Close()
		life, end := context.WithCancel(context.WithoutCancel(t.Context()))
		defer host{key, w.answer}.serve(life, t, conn)()
		defer end()
		s := lonely(t, dir, []relay.Name{{Host: "10.0.0.9", Port: 443, Pin: pin, Pinned: true}}, n)
		defer s.journal.Close()
		for i := range owed {
			owe(t, s, byte(i+1))
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := errors.Join(s.reach.run(ctx, ctx)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { s.handLoop(ctx) })
		f(s, n)
		cancel()
		wg.Wait()
		if err := errors.Join(s.reach.sessions.Wait(), s.reach.close()); err != nil {
			t.Error(err)
		}
	})
}

// TestHandedToRelay: all that is unclaimed is handed to a relay that keeps claims,
// once, and not faster than it takes them; and nothing to another.
func TestHandedToRelay(t *testing.T) {
	t.Run("keeps", func(t *testing.T) {
		const owed = 60
		w := &tower{greets: true, keeps: all}
		atTower(t, w, owed, func(s *Seller, n *meteredNet) {
			after(10 * time.Minute)
			if got := s.earnings().Watched; w.handed() != owed || len(w.total) != owed || got == 0 || got != s.earnings().Owed-s.earnings().Claimed {
				t.Errorf("%d handed over, watched are %d of %d", w.handed(), got, s.earnings().Owed)
			}
			for i := range w.at[:owed-40] {
				if d := w.at[i+40].Sub(w.at[i]); d < time.Minute {
					t.Errorf("41 claims in %v", d)
				}
			}
			w.has = owed
			for range 3 {
				w.cut()
				after(10 * time.Minute)
			}
			if len(w.visits()) != 4 || w.handed() != owed {
				t.Errorf("%d claims by %d connections", w.handed(), len(w.visits()))
			}
			w.has-- // it has lost one, and does not say which
			w.cut()
			after(10 * time.Minute)
			if w.handed() != 2*owed || s.earnings().Watched != s.earnings().Owed {
				t.Errorf("%d claims", w.handed())
			}
			before := n.carried()
			after(time.Hour)
			if got := n.carried() - before; got > idleBudget {
				t.Errorf("%d bytes in an idle hour", got)
			}
		})
	})
	t.Run("does not answer", func(t *testing.T) {
		w := &tower{greets: true}
		atTower(t, w, 3, func(s *Seller, _ *meteredNet) {
			after(time.Hour)
			s.handSoon()
			after(time.Hour)
			if w.handed() != 3 || s.earnings().Watched != 0 {
				t.Errorf("%d handed over, watched are %d", w.handed(), s.earnings().Watched)
			}
			w.cut()
			after(10 * time.Minute)
			if w.handed() != 6 {
				t.Errorf("%d handed over by two connections", w.handed())
			}
		})
	})
	t.Run("refuses", func(t *testing.T) {
		w := &tower{greets: true, keeps: func(agent.HandedClaim) agent.Watched { return agent.Watched{Error: "no room"} }}
		atTower(t, w, 3, func(s *Seller, _ *meteredNet) {
			after(time.Hour)
			if w.handed() != 3 || s.earnings().Watched != 0 {
				t.Errorf("%d handed over, watched are %d", w.handed(), s.earnings().Watched)
			}
		})
	})
	t.Run("is older", func(t *testing.T) {
		w := &tower{keeps: all}
		atTower(t, w, 3, func(s *Seller, _ *meteredNet) {
			s.handSoon()
			after(time.Hour)
			if w.handed() != 0 || len(w.visits()) != 1 {
				t.Errorf("%d handed over", w.handed())
			}
		})
	})
}

// TestHandedAtTheEnd: what has come together since the last time is handed over
// before an orderly stop ends the connection.
func TestHandedAtTheEnd(t *testing.T) {
	w := &tower{greets: true, keeps: all}
	atTower(t, w, 1, func(s *Seller, _ *meteredNet) {
		after(time.Minute)
		owe(t, s, 77)
		after(time.Hour)
		if w.handed() != 1 {
			t.Errorf("%d handed over", w.handed())
		}
	})
	if w.handed() != 2 {
		t.Errorf("%d handed over at the end", w.handed())
	}
}

// after lets simulated time go by until all is at rest.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// A till is a facilitator that keeps claims until they are worth their gas, and
// knows of withdrawals.
type till struct {
	plain bool // it is of others

	mu        sync.Mutex
	down      bool
	withdraws bool
	looks     int
	claims    []channel.Amount
	settled   int
	claimed   channel.Amount
}

func (f *till) Plain() bool { return f.plain }

func (f *till) Look(context.Context, string, x402.VoucherPayment) (i x402.ChannelInfo, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looks++; f.down {
		return i, facilitator.ErrUnavailable
	}
	i.Balance, i.TotalClaimed = 1e9, f.claimed
	if f.withdraws {
		i.WithdrawRequestedAt, i.FinalizeAfter = 1, 2
	}
	return i, nil
}

func (f *till) Claim(_ context.Context, _ string, c x402.Claim) (x402.SettlementResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims = append(f.claims, c.Claims[0].TotalClaimed)
	switch {
	case f.down:
		return x402.SettlementResponse{}, facilitator.ErrUnavailable
	case f.withdraws:
		f.claimed = c.Claims[0].TotalClaimed
		return x402.SettlementResponse{Success: true}, nil
	}
	return x402.SettlementResponse{}, &facilitator.RefusedError{Code: x402.ErrPending}
}

func (f *till) SettleReceiver(context.Context, string, channel.Address, channel.Address) (x402.SettlementResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled++
	return x402.SettlementResponse{}, &facilitator.RefusedError{Code: x402.ErrPending}
}

func (f *till) Refund(context.Context, string, x402.Refund) (x402.SettlementResponse, error) {
	return x402.SettlementResponse{}, facilitator.ErrUnavailable
}

// handed are the claims that came.
func (f *till) handed() []channel.Amount {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.claims)
}

// count reads one of the counts.
func (f *till) count(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}

// atTill runs an agent at a till, in simulated time. pay has its one buyer pay up to
// an amount.
func atTill(t *testing.T, f *till, then func(s *Seller, pay func(to channel.Amount, ended bool))) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := open(Config{
			StateDir: dir, Price: agent.Price{Up: 1e6, Down: 1e6}, Facilitator: f, SettleAt: 1e8,
			Payment: agent.Payment{Network: "eip155:84532", Facilitator: "http://f.example", Asset: channel.Address{1}, PayTo: channel.Address{2}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.journal.Close()
		key, err := channel.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		state, err := s.payee.Open(s.domain, agent.Offer{Agent: s.key.Address(), Payment: s.cfg.Payment}.Channel(key.Address()))
		if err == nil {
			_, err = s.observe(t.Context(), state.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.settleLoop(ctx) })
		wg.Go(func() { s.handLoop(ctx) })
		then(s, func(to channel.Amount, ended bool) {
			t.Helper()
			note, err := agent.Tally{Session: 1, Price: s.cfg.Price, Down: 1_000 * uint64(to)}.MarshalBinary()
			if err == nil {
				state, err = s.payee.Accept(s.domain.SignVoucher(key, state.ID, to), note)
			}
			if err != nil {
				t.Fatal(err)
			}
			s.noteDue(state, ended)
			synctest.Wait()
		})
		cancel()
		wg.Wait()
	})
}

// TestHandedToFacilitator: a channel's newest claim is handed over when 0.05 USD have
// come together, at most every ten minutes, and when sessions end, but not as often
// as a stranger has sessions.
func TestHandedToFacilitator(t *testing.T) {
	f := &till{}
	atTill(t, f, func(s *Seller, pay func(channel.Amount, bool)) {
		paid := channel.Amount(0)
		more := func(n channel.Amount, ended bool) {
			paid += n
			pay(paid, ended)
		}
		for range 2 {
			more(24_000, false)
			after(24 * time.Second)
		}
		if len(f.handed()) != 0 {
			t.Errorf("handed over %d", f.handed())
		}
		for range 150 {
			more(24_000, false)
			after(24 * time.Second)
		}
		if n := len(f.handed()); n < 6 || n > 7 {
			t.Errorf("handed over %d times in an hour", n)
		}
		if last := f.handed()[len(f.handed())-1]; s.earnings().Watched != last || last < paid-700_000 {
			t.Errorf("watched are %d, handed over %d, paid %d", s.earnings().Watched, last, paid)
		}
		if f.count(&f.settled) != 0 {
			t.Error("settled")
		}
		after(time.Hour)
		before := len(f.handed())
		more(12_000, true)
		if last := f.handed()[len(f.handed())-1]; len(f.handed()) != before+1 || last != paid {
			t.Errorf("%d of %d are handed over when the session has ended", last, paid)
		}
		for range 60 {
			more(12_000, true)
			after(time.Minute)
		}
		if n := len(f.handed()) - before; n > 1+relayTries+6+7 { // and those of 0.05 USD
			t.Errorf("handed over %d times in an hour of sessions", n)
		}
		before = len(f.handed())
		s.handSoon()
		synctest.Wait()
		s.handSoon()
		synctest.Wait()
		if n := len(f.handed()) - before; n > 1 {
			t.Errorf("%d times the same", n)
		}
	})
}

// TestHandedInVain: a facilitator that does not answer is asked ever more seldom,
// however much comes together.
func TestHandedInVain(t *testing.T) {
	f := &till{}
	atTill(t, f, func(_ *Seller, pay func(channel.Amount, bool)) {
		f.mu.Lock()
		f.down = true
		f.mu.Unlock()
		for i := range channel.Amount(6 * 20) {
			pay(100_000*(i+1), false)
			after(3 * time.Minute)
		}
		if n := len(f.handed()); n < 20 || n > 60 {
			t.Errorf("asked %d times in six hours", n)
		}
	})
}

// TestNotHandedToOthers: a facilitator that sends each claim to a chain gets no more
// than the settlements.
func TestNotHandedToOthers(t *testing.T) {
	f := &till{plain: true}
	atTill(t, f, func(_ *Seller, pay func(channel.Amount, bool)) {
		for i := range channel.Amount(6) {
			pay(100_000*(i+1), i%2 == 0)
			after(20 * time.Minute)
		}
		if len(f.handed()) != 0 {
			t.Errorf("handed over %d", f.handed())
		}
		after(24 * time.Hour)
		if len(f.handed()) != 1 || f.count(&f.settled) != 1 {
			t.Errorf("a day's settlement claims %d", f.handed())
		}
	})
}

// TestAlarm: an agent that a relay tells of a withdrawal claims at once. One that
// cries wolf does not make it ask often.
func TestAlarm(t *testing.T) {
	f := &till{}
	atTill(t, f, func(s *Seller, pay func(channel.Amount, bool)) {
		pay(1_000, false)
		id := s.payee.All()[0].ID
		l := &relayLink{r: &reach{s: s}, wards: map[channel.ID]ward{}}
		alarm := func(id channel.ID) {
			t.Helper()
			b, err := json.Marshal(agent.Watched{Channel: id, Withdraws: true})
			if err != nil {
				t.Fatal(err)
			}
			l.watched(b)
			synctest.Wait()
		}
		after(2 * time.Minute)
		before := f.count(&f.looks)
		for range 3_600 {
			alarm(id)
			after(time.Second)
		}
		if n := f.count(&f.looks) - before; n < 6 || n > 8 || len(f.handed()) != 0 { // one is the agent's own
			t.Errorf("%d questions in an hour of false alarms, claimed %d", n, f.handed())
		}
		after(alarmEvery)
		before = f.count(&f.looks)
		alarm(channel.ID{1})
		if f.count(&f.looks) != before {
			t.Error("asked about a channel of nobody")
		}
		f.mu.Lock()
		f.withdraws = true
		f.mu.Unlock()
		alarm(id)
		if len(f.handed()) != 1 || s.earnings().Claimed != 1_000 || f.count(&f.settled) != 1 {
			t.Errorf("claimed %d, settled %d times", f.handed(), f.count(&f.settled))
		}
	})
}

// TestDuly: of what waits for the settle loop, one wish to be paid out is enough.
func TestDuly(t *testing.T) {
	for name, wishes := range map[string][]bool{"first": {true, false}, "last": {false, true}, "twice": {true, true}} {
		s := &Seller{due: make(chan bool, 1)}
		for _, pay := range wishes {
			s.duly(pay)
		}
		if pay := <-s.due; !pay || len(s.due) > 0 {
			t.Errorf("%s: pays out %t, and %d more wait", name, pay, len(s.due))
		}
	}
}
