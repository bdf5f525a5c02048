package directory

import (
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// newAccount is one at 1 USD for a GB: a unit is 1,000 bytes.
func newAccount() *account {
	a := &account{policy: agent.CreditPolicy{}.WithDefaults(), balance: 1_000_000, total: 1_000_000}
	a.tally = must(agent.Tally{}.Next(agent.Price{Up: 1_000_000, Down: 1_000_000}))
	return a
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAccountCredit(t *testing.T) {
	a := newAccount()
	if got := a.limit(); got != 132_000 { // 128 KiB's worth, rounded up to units
		t.Errorf("a stranger may pass %d bytes", got)
	}
	a.update(100_000, 32_000)
	if owed := must(a.tally.Owed()); owed != 100 || a.limit() != 132_000 {
		t.Errorf("owed %d, may pass %d: what the buyer denies is not billed, and not more is let through", owed, a.limit())
	}
	if err := a.hear(32_000); err != nil {
		t.Fatal(err)
	}
	if a.update(100_000, 32_000); must(a.tally.Owed()) != 132 {
		t.Errorf("owed %d", must(a.tally.Owed()))
	}
	if err := a.hear(31_999); err == nil {
		t.Error("a count went back")
	}
	if err := a.hear(1 << 63); err != nil {
		t.Fatal(err)
	}
	if a.update(100_000, 32_000); must(a.tally.Owed()) != 132 {
		t.Errorf("owed %d by a count beyond what was passed on", must(a.tally.Owed()))
	}
	a.received = 32_000
	a.paid = 132
	if got := a.limit(); got != 264_000 {
		t.Errorf("after the first payment %d", got)
	}
	a.paid, a.rate = 40_000, 100_000_000
	if got := a.credit(); got != 40_000 {
		t.Errorf("credit %d after 40,000 were paid", got)
	}
	a.paid = 900_000
	if got := a.credit(); got != 50_000 {
		t.Errorf("credit %d, its cap is 50,000", got)
	}
	a.paid = 990_000
	if got := a.limit(); got != 1_000_000_000 {
		t.Errorf("%d bytes on a deposit of 1 USD", got)
	}
	a.others = 999_990
	if got := a.limit(); got != 990_010_000 || a.credit() != 10 {
		t.Errorf("%d bytes, credit %d beside others", got, a.credit())
	}
}

// TestAccountLoss: lost datagrams are forgiven up to a tenth, what is beyond is
// held, also against the next account, until it is paid for in advance.
func TestAccountLoss(t *testing.T) {
	a := newAccount()
	a.paid = 1_000
	a.update(0, 1_000_000)
	if err := a.hear(950_000); err != nil {
		t.Fatal(err)
	}
	a.update(0, 1_000_000)
	if a.gap() != 50_000 || a.forgiven() != 50_000 || a.exposed() != 0 {
		t.Errorf("gap %d, forgiven %d, exposed %d", a.gap(), a.forgiven(), a.exposed())
	}
	a.update(0, 2_000_000) // which the buyer denies
	if a.gap() != 1_050_000 || a.forgiven() != 95_000 {
		t.Errorf("gap %d, forgiven %d", a.gap(), a.forgiven())
	}
	if want := channel.Amount(905); a.exposed() != want {
		t.Errorf("exposed %d, want %d", a.exposed(), want)
	}
	a.close()
	if a.tally.Lost != 1_050_000 || a.gap() != 0 || a.held() != 955_000 || !a.tally.Ended {
		t.Errorf("lost %d, held %d", a.tally.Lost, a.held())
	}
	next := &account{policy: a.policy, balance: 1_000_000, total: 1_000_000, paid: 1_000}
	next.tally = must(resume(a.tally, agent.Hello{}, 0).Next(a.tally.Price))
	if got := next.trust(); got != 0 || next.overdrawn() {
		t.Errorf("trusted with %d, overdrawn %t", got, next.overdrawn())
	}
	if got := next.limit(); got != 0 {
		t.Errorf("%d bytes pass while more is held than is trusted", got)
	}
	next.paid = 2_100
	if got := next.limit(); got == 0 {
		t.Error("nothing passes after it was paid for in advance")
	}
}

// TestResume: the relay's record counts, and what the buyer admits beyond it of
// the same account.
func TestResume(t *testing.T) {
	own := agent.Tally{Session: 3, Price: agent.Price{Up: 5, Down: 5}, Up: 10, Down: 20, Lost: 8}
	for name, tt := range map[string]struct {
		own      agent.Counts
		up, down uint64
		lost     uint64
	}{
		"nothing":     {agent.Counts{}, 10, 20, 8},
		"less":        {agent.Counts{Session: 3, Up: 1, Down: 1}, 10, 20, 8},
		"more":        {agent.Counts{Session: 3, Up: 11, Down: 25}, 11, 25, 3},
		"much":        {agent.Counts{Session: 3, Up: 11, Down: 90}, 11, 90, 0},
		"of another":  {agent.Counts{Session: 2, Up: 99, Down: 99}, 10, 20, 8},
		"of a future": {agent.Counts{Session: 4, Up: 99, Down: 99}, 10, 20, 8},
	} {
		got := resume(own, agent.Hello{Own: tt.own}, 7)
		if got.Up != tt.up || got.Down != tt.down || got.Lost != tt.lost || got.Base != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := resume(agent.Tally{}, agent.Hello{Own: agent.Counts{Up: 9}}, 7); got.Base != 7 || got.Up != 0 {
		t.Errorf("without a record: %+v", got)
	}
}

func FuzzAccount(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint64(3), uint64(4), uint64(5))
	f.Fuzz(func(t *testing.T, up, down, received, paid, lost uint64) {
		a := newAccount()
		a.tally.Lost, a.paid = lost, channel.Amount(paid)
		up, down = up>>2, down>>2
		if err := a.hear(received); err != nil {
			t.Fatal(err)
		}
		a.update(up, down)
		if a.tally.Down > down || a.gap() > down || a.forgiven() > a.gap() || a.held() > lost {
			t.Errorf("%+v", a)
		}
		limit := a.limit()
		if most := uint64(1_000_000_000); limit > most+a.forgiven() {
			t.Errorf("%d bytes on a deposit of 1 USD", limit)
		}
		before := satAdd(a.tally.Lost, a.gap())
		a.close()
		if a.tally.Lost != before || a.gap() != 0 {
			t.Errorf("lost %d, want %d", a.tally.Lost, before)
		}
	})
}
