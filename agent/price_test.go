package agent

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/depinsim/x402/channel"
)

// exact is what up and down bytes cost at p, by another way.
func exact(p Price, up, down uint64) *big.Int {
	num := func(v uint64) *big.Int { return new(big.Int).SetUint64(v) }
	sum := num(up)
	sum.Mul(sum, num(uint64(p.Up)))
	d := num(down)
	sum.Add(sum, d.Mul(d, num(uint64(p.Down))))
	sum.Add(sum, big.NewInt(GB-1))
	return sum.Div(sum, big.NewInt(GB))
}

func TestCost(t *testing.T) {
	for _, row := range []struct {
		p        Price
		up, down uint64
		want     channel.Amount
	}{
		{Price{}, math.MaxUint64, math.MaxUint64, 0},
		{Price{Up: 1, Down: 1}, 0, 0, 0},
		{Price{Up: 1, Down: 1}, 1, 0, 1}, // rounded up
		{Price{Up: 1, Down: 1}, GB / 2, GB / 2, 1},
		{Price{Up: 1, Down: 1}, GB / 2, GB/2 + 1, 2}, // once, not for each direction
		{Price{Up: 800_000, Down: 800_000}, 0, 50_000_000, 40_000},
		{Price{Up: 1, Down: 2}, 3 * GB, 5 * GB, 13},
		{Price{Up: GB, Down: GB}, 7, 8, 15},
	} {
		if got, err := row.p.cost(row.up, row.down); got != row.want || err != nil {
			t.Errorf("%+v %d %d: %d %v, want %d", row.p, row.up, row.down, got, err, row.want)
		}
	}
}

// anyNumber is small, large or at a border.
func anyNumber(r *rand.Rand) uint64 {
	switch r.IntN(4) {
	case 0:
		return uint64(r.IntN(3))
	case 1:
		return math.MaxUint64 - uint64(r.IntN(3))
	default:
		return r.Uint64() >> r.IntN(64)
	}
}

// TestMoneyProperties holds prices against math/big: a cost is exact or an
// overflow, and a limit lets pass exactly what its amount pays for.
func TestMoneyProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	most := new(big.Int).SetUint64(math.MaxUint64)
	for range 200_000 {
		p := Price{Up: channel.Amount(anyNumber(r)), Down: channel.Amount(anyNumber(r))}
		up, down := anyNumber(r), anyNumber(r)
		got, err := p.cost(up, down)
		want := exact(p, up, down)
		if (err == nil) != (want.Cmp(most) <= 0) {
			t.Fatalf("%+v %d %d: %v, exactly %s", p, up, down, err, want)
		}
		if err == nil && want.Uint64() != uint64(got) {
			t.Fatalf("%+v %d %d: %d, want %s", p, up, down, got, want)
		}
		if err != nil && !errors.Is(err, channel.ErrOverflow) {
			t.Fatal(err)
		}
	}
}

func TestLimits(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		p := Price{Up: channel.Amount(anyNumber(r) % (MaxPrice + 1)), Down: channel.Amount(anyNumber(r) % (MaxPrice + 1))}
		if r.IntN(8) == 0 {
			p.Down = p.Up
		}
		amount := channel.Amount(anyNumber(r))
		wu, wd := p.Weights()
		if wu*uint64(p.Down) != wd*uint64(p.Up) && p.Max() < 1<<31 { // no overflow there
			t.Fatalf("%+v: weights %d and %d", p, wu, wd)
		}
		limit := p.Limit(amount)
		// The weighted bytes within the limit are those that cost no more.
		up, down := anyNumber(r)>>30, anyNumber(r)>>30
		weighted := new(big.Int).Mul(new(big.Int).SetUint64(up), new(big.Int).SetUint64(wu))
		weighted.Add(weighted, new(big.Int).Mul(new(big.Int).SetUint64(down), new(big.Int).SetUint64(wd)))
		within := weighted.Cmp(new(big.Int).SetUint64(limit)) <= 0
		paid := exact(p, up, down).Cmp(new(big.Int).SetUint64(uint64(amount))) <= 0
		if within != paid && limit != math.MaxUint64 {
			t.Fatalf("%+v, %d pays for a limit of %d: %d up and %d down are within: %v, paid: %v", p, amount, limit, up, down, within, paid)
		}
	}
}

func TestPriceCheck(t *testing.T) {
	for p, ok := range map[Price]bool{
		{}: true, {Up: MaxPrice, Down: MaxPrice}: true, {Up: MaxPrice + 1}: false, {Down: math.MaxUint64}: false,
	} {
		if err := p.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestTallyOverSessions(t *testing.T) {
	var tally Tally
	owed := func() channel.Amount {
		t.Helper()
		a, err := tally.Owed()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if owed() != 0 {
		t.Error("nothing is owed at first")
	}
	var err error
	for i, price := range []Price{{Up: 1, Down: 3}, {Up: 2, Down: 2}} { // either way 4 and a little
		if tally, err = tally.Next(price); err != nil {
			t.Fatal(err)
		}
		if tally.Session != uint64(i+1) || tally.Ended {
			t.Errorf("%+v", tally)
		}
		before := owed()
		tally.Up += GB
		tally.Down += GB + 1
		tally.Lost += 7
		if owed() != before+5 {
			t.Errorf("session %d: %d is owed, want %d", i+1, owed(), before+5)
		}
	}
	if tally.BaseUp != GB || tally.BaseDown != GB+1 || tally.Lost != 14 {
		t.Errorf("%+v", tally)
	}
	tally.Base = math.MaxUint64
	if _, err := tally.Owed(); !errors.Is(err, channel.ErrOverflow) {
		t.Errorf("overflow: %v", err)
	}
	if _, err := tally.Next(Price{}); !errors.Is(err, channel.ErrOverflow) {
		t.Errorf("overflow: %v", err)
	}
}

func TestMerge(t *testing.T) {
	old := Tally{Session: 4, Up: 10, Down: 20}
	for _, row := range []struct{ a, b, want Tally }{
		{old, Tally{Session: 3, Up: 99, Down: 99}, old},
		{old, Tally{Session: 5, Up: 1}, Tally{Session: 5, Up: 1}},
		{old, Tally{Session: 4, Up: 11, Down: 19}, Tally{Session: 4, Up: 11, Down: 20}},
	} {
		if got := row.a.Merge(row.b); got != row.want {
			t.Errorf("%+v and %+v: %+v", row.a, row.b, got)
		}
	}
}

func FuzzTally(f *testing.F) {
	b, err := Tally{Session: 1, Price: Price{Up: 2, Down: 3}, Base: 4, BaseUp: 5, BaseDown: 6, Up: 7, Down: 8, Lost: 9, Ended: true}.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{3})
	if b, err = (Tally{Session: 1, Price: Price{Up: 2, Down: 3}, Up: 7, Down: 8, Ended: true, Prepaid: 9, Void: true}).MarshalBinary(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var tally Tally
		if tally.UnmarshalBinary(b) != nil || len(b) == 0 {
			if tally != (Tally{}) {
				t.Error("half decoded")
			}
			return
		}
		if again, err := tally.MarshalBinary(); err != nil || string(again) != string(b) {
			t.Errorf("%x encodes back as %x, %v", b, again, err)
		}
		owed, err := tally.Owed()
		if err == nil && owed < tally.Base {
			t.Errorf("%+v owes %d", tally, owed)
		}
	})
}

// TestTakeOver: who was cut off by a crash pays for what was lost, up to the
// credit above its own counts, and nobody else pays for any of it.
func TestTakeOver(t *testing.T) {
	own := Tally{
		Session: 3, Price: Price{Up: 4_000_000, Down: 4_000_000}, // 250 bytes a unit
		Base: 10_000, BaseUp: 500_000, BaseDown: 2_000_000, Up: 500_000, Down: 2_100_000, Lost: 20_000_000,
	}
	for name, tt := range map[string]struct {
		counts Counts
		paid   channel.Amount
		want   uint64
	}{
		"all that it counted is stored": {Counts{3, 500_000, 2_100_000, true}, 10_400, 2_600_000},
		"the agent has heard of more":   {Counts{3, 500_000, 2_050_000, true}, 10_200, 2_500_000},
		"much more":                     {Counts{3, 0, 0, true}, 100, 31_250},
		"no more than the most":         {Counts{3, 500_000, 2_100_000, true}, 1 << 62, 12_500_000},
		"it admits more uploads":        {Counts{3, 600_000, 2_100_000, true}, 10_400, 2_700_000},
		"no more than was lost":         {Counts{3, 1 << 40, 1 << 40, true}, 10_400, 20_000_000},
		"counts that are worth no sum":  {Counts{3, 1<<64 - 1, 1<<64 - 1, true}, 10_400, 20_000_000},
		"another session":               {Counts{2, 500_000, 2_100_000, true}, 10_400, 0},
		"no crash":                      {Counts{3, 500_000, 2_100_000, false}, 10_400, 0},
	} {
		got := own.TakeOver(tt.counts, tt.paid, 1<<62)
		if got.Down-own.Down != tt.want || own.Lost-got.Lost != tt.want {
			t.Errorf("%s: %d of %d bytes are taken over, want %d", name, got.Down-own.Down, own.Lost, tt.want)
		}
		if tt.counts.Up > 1<<20 {
			continue
		}
		his := own
		his.Up, his.Down = max(tt.counts.Up, own.BaseUp), max(tt.counts.Down, own.BaseDown)
		known, _ := his.Owed()
		credit := CreditPolicy{}.WithDefaults().Credit(own.Price, tt.paid, 1<<60)
		if owed, _ := got.Owed(); owed > known+credit && tt.want > 0 {
			t.Errorf("%s: %d are owed, by the buyer's counts %d", name, owed, known)
		}
	}
	if got := own.TakeOver(Counts{3, 0, 0, true}, 10_400, 10_500); got.Down-own.Down != 25_000 {
		t.Errorf("of a deposit that covers 100 more, %d bytes are taken over", got.Down-own.Down)
	}
	free := own
	free.Price.Down = 0
	if got := free.TakeOver(Counts{3, 0, 0, true}, 10_400, 1<<62); got != free {
		t.Errorf("of bytes that cost nothing %d are taken over", got.Down-free.Down)
	}
}
