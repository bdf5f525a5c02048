package plan

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A life is that of a router with a modem, of which everything is known.
type life struct {
	t      *testing.T
	random *rand.Rand
	c      Config
	narrow bool // the interface has counters of 32 bits

	now     time.Time
	booted  time.Time
	boots   byte
	off     time.Duration // how wrong the device's clock is
	synced  bool
	syncAt  time.Time // when NTP answers
	link    *Link
	index   uint32
	sim     string
	cards   map[string]*card
	roaming bool
	turned  time.Time // when roaming changed
	rate    uint64    // the household's, in bytes a second
	demand  uint64    // the buyers', payload
	lag     uint64    // of a sale, not yet on its way to the buyer

	file    *memFile
	book    *Book // nil: no agent runs
	looked  time.Time
	said    Decision
	unsure  uint64 // what may have passed uncounted, at pulled modems
	written uint64 // by former books
	syncs   uint64
	last    State // of the last sample, to compare
	lastAll uint64
	stats   struct {
		sold                                       uint64
		sales, reboots, cuts, pulled, jumps, swaps int
	}
}

// A card is the truth about a SIM.
type card struct {
	end   time.Time // of the period
	used  uint64
	known bool // the owner has said what is used
}

const (
	sellRate   = 1_500_000 // bytes of payload a second, at most
	houseRate  = 2_000_000
	aSecond    = sellRate*22/10 + houseRate
	yearOfDays = 365
)

func (l *life) card() *card {
	x := l.cards[l.sim]
	if x == nil {
		x = &card{}
		l.cards[l.sim] = x
	}
	if !l.now.Before(x.end) {
		_, x.end = l.c.period(l.now)
		x.used = 0
	}
	return x
}

// carry has bytes of the plan pass the interface.
func (l *life) carry(bytes uint64) {
	if l.link == nil || bytes == 0 {
		return
	}
	x := *l.link
	packets := bytes/1300 + 1
	x.RxBytes += bytes/3*2 + 14*packets
	x.TxBytes += bytes - bytes/3*2
	x.RxPackets += packets
	if l.narrow {
		x.RxBytes, x.TxBytes = x.RxBytes%narrow, x.TxBytes%narrow
	}
	l.link = &x
	l.card().used += bytes
}

func (l *life) sample(sold uint64) Sample {
	if !l.synced && !l.syncAt.IsZero() && !l.now.Before(l.syncAt) {
		l.synced, l.off = true, 0
	}
	in := Sample{
		Boot: [16]byte{l.boots}, Up: l.now.Sub(l.booted), Wall: l.now.Add(l.off), Synced: l.synced,
		Sold: sold, Roaming: l.roaming,
	}
	if l.link != nil {
		x := *l.link
		in.Link = &x
	}
	return in
}

// step lets time pass, with what the household and buyers do.
func (l *life) step(d time.Duration) {
	l.now = l.now.Add(d)
	x := l.card()
	ms := uint64(d / time.Millisecond)
	if !l.roaming {
		l.carry(l.rate / 1000 * ms)
	}
	if l.book == nil {
		l.lag = 0
		return
	}
	var sold uint64
	if l.link != nil {
		sold = min(l.said.Payload, l.demand/1000*ms)
		wire := sold*106/100 + l.lag
		l.lag = sold * 104 / 100
		l.carry(wire)
	}
	if sold > 0 {
		l.sell(x, sold, d)
	}
	if l.now.Sub(l.looked) >= time.Minute && l.link != nil {
		l.look()
	}
	var err error
	if l.said, err = l.book.Observe(l.sample(sold)); err != nil {
		l.t.Fatal(err)
	}
	l.audit(x)
}

// sell checks that what was sold could be.
func (l *life) sell(x *card, sold uint64, d time.Duration) {
	l.stats.sold += sold
	l.stats.sales++
	if d != time.Second {
		l.t.Fatalf("sold for %v without a look", d)
	}
	if l.roaming && l.now.Sub(l.turned) > time.Second {
		l.t.Fatalf("%v: sold abroad", l.now)
	}
	if most := l.c.Size - l.c.Reserve + l.unsure + aSecond; x.used > most {
		l.t.Fatalf("%v: %d are used, sold at %d, most is %d: %+v, %+v", l.now, x.used, sold, most, l.said, l.last)
	}
	if !l.c.open(l.now.In(l.c.zone())) && !l.c.open(l.now.Add(-2*time.Second).In(l.c.zone())) {
		l.t.Fatalf("%v: sold out of hours: %+v", l.now, l.last)
	}
}

// look is at the SIM; the owner tells what is used of a new one.
func (l *life) look() {
	changed, err := l.book.Use(l.sim)
	if err != nil {
		l.t.Fatal(err)
	}
	if changed {
		l.stats.swaps++
		l.last = State{}
	}
	l.looked = l.now
	x := l.card()
	if st, _, ok := l.book.Report(); ok && st.Unadmitted && l.synced && l.book.sampled && l.random.IntN(60) == 0 {
		if err := l.book.Enter(x.used); err != nil {
			l.t.Fatal(err)
		}
		x.known = true
		l.last = State{}
	}
}

// audit compares what the book knows with the truth.
func (l *life) audit(x *card) {
	s, d, ok := l.book.Report()
	if !ok || l.book.slots[l.book.current].newest.sim != keyOf(l.sim) {
		l.last = State{}
		return
	}
	if x.known && !s.Unadmitted && d.Used+l.unsure < x.used {
		l.t.Fatalf("%v: %d are used, the book says %d (%d unsure), %+v", l.now, x.used, d.Used, l.unsure, s)
	}
	if l.link == nil {
		l.last = State{}
		return
	}
	before := l.last
	all := l.link.all()
	same := before.Boot == s.Boot && before.Link.Index == s.Link.Index && before.Start == s.Start && before.Start != 0
	if counted := shares(s) - shares(before); same && !l.narrow && counted != all-l.lastAll {
		l.t.Fatalf("%v: %d were counted, %d passed", l.now, counted, all-l.lastAll)
	}
	l.last, l.lastAll = s, all
}

func shares(s State) uint64 { return s.Household + s.Sales + s.Overhead }

// start has the agent start.
func (l *life) start() {
	b, err := open(l.file, l.c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.book, l.last = b, State{}
	if l.said, err = b.Observe(l.sample(0)); err != nil {
		l.t.Fatal(err)
	}
	l.looked = l.now.Add(-40 * time.Second)
}

func (l *life) end() {
	if l.book != nil {
		syncs, bytes := l.book.Written()
		l.syncs += syncs
		l.written += bytes
		l.book = nil
	}
}

// reboot has the device start after a while, in 1970 until NTP answers.
func (l *life) reboot(after time.Duration) {
	l.now = l.now.Add(after)
	l.boots++
	l.booted = l.now
	l.off, l.synced = time.Unix(0, 0).Sub(l.now), false
	l.syncAt = l.now.Add(time.Duration(30+l.random.IntN(600)) * time.Second)
	if l.random.IntN(20) == 0 {
		l.syncAt = time.Time{} // not before the next start
	}
	l.index++
	l.link = &Link{Index: 1, Framed: true}
	l.start()
}

// happen does what happens now and then.
func (l *life) happen() {
	hours := func(n int) time.Duration { return time.Duration(l.random.IntN(n*60)) * time.Minute }
	switch l.random.IntN(300) {
	case 0: // the power goes
		l.file = l.file.cut(l.random.IntN(recordSize))
		l.end()
		if l.random.IntN(3) == 0 {
			l.swap()
		}
		l.stats.cuts++
		l.reboot(hours(48))
	case 1: // somebody restarts it
		if err := l.book.Close(); err != nil {
			l.t.Fatal(err)
		}
		l.end()
		l.step(time.Second)
		l.stats.reboots++
		l.reboot(time.Minute)
	case 2: // the agent dies, and comes back
		l.file = l.file.cut(l.random.IntN(recordSize))
		l.end()
		for range l.random.IntN(10) {
			l.step(time.Minute)
		}
		l.start()
	case 3, 4: // the modem is pulled, or falls off the bus
		l.pull(hours(2))
	case 5: // a trip
		l.roaming, l.turned = !l.roaming, l.now
	case 6: // somebody sets the clock
		l.off, l.synced = time.Duration(l.random.IntN(100*24)-50*24)*time.Hour, false
		l.syncAt = l.now.Add(hours(5))
		l.stats.jumps++
	case 7: // NTP tells nonsense for a while
		if l.synced {
			l.off, l.synced = time.Duration(l.random.IntN(50*24))*time.Hour, true
			for range 20 {
				l.step(time.Second)
			}
			l.off = 0
			l.stats.jumps++
		}
	case 8:
		l.swap()
		l.pull(hours(1))
	}
}

func (l *life) swap() {
	if l.sim = "b"; l.random.IntN(4) > 0 {
		l.sim = "a"
	}
}

func (l *life) pull(d time.Duration) {
	// What it carries since it was last read nobody will know.
	l.now = l.now.Add(time.Second)
	if !l.roaming {
		l.carry(l.rate)
	}
	l.unsure += houseRate / 20
	l.link, l.lag = nil, 0
	l.step(time.Second)
	for range l.random.IntN(3) {
		l.step(d)
	}
	l.index++
	l.link = &Link{Index: l.index, Framed: l.random.IntN(2) == 0}
	l.stats.pulled++
}

// live lives for days, an hour after the other.
func (l *life) live(days int) {
	end := l.now.AddDate(0, 0, days)
	day, syncs, written := l.now, uint64(0), uint64(0)
	for l.now.Before(end) {
		if l.now.Sub(day) >= 24*time.Hour {
			s, w := l.book.Written()
			if s, w = s+l.syncs-syncs, w+l.written-written; s > 24*60*60 || w > 60_000_000 {
				l.t.Fatalf("%v: %d syncs and %d bytes in a day", l.now, s, w)
			}
			day, syncs, written = l.now, syncs+s, written+w
		}
		l.hour()
		l.happen()
	}
}

func (l *life) hour() {
	l.rate = 0
	if l.random.IntN(10) == 0 {
		l.rate = uint64(l.random.IntN(houseRate / 20))
	}
	l.demand = 0
	if l.random.IntN(8) == 0 {
		l.demand = uint64(l.random.IntN(sellRate))
	}
	// Busy for some minutes, and then the rest of the hour.
	for range 60 * (1 + l.random.IntN(20)) {
		if l.demand == 0 || l.said.Payload == 0 {
			break
		}
		l.step(time.Second)
	}
	l.demand = 0
	for range l.random.IntN(60) {
		l.step(time.Minute)
	}
}

func newLife(t *testing.T, seed uint64) *life {
	l := &life{t: t, random: rand.New(rand.NewPCG(seed, 7)), file: &memFile{}, cards: map[string]*card{}, sim: "a"}
	l.now = time.Date(2026, 1, 20, 12, 0, 0, 0, time.UTC)
	l.c = Config{
		Size: 20 * gb, Used: gb, ResetDay: 1 + l.random.IntN(31), ResetHour: l.random.IntN(24), Zone: berlin(t),
		Reserve: uint64(l.random.IntN(5)) * gb, Margin: uint64(l.random.IntN(2)) * 3,
	}
	if seed%4 == 3 {
		night, err := ParseHours("22:00-14:00")
		if err != nil {
			t.Fatal(err)
		}
		l.c.Hours = []Hours{night}
	}
	l.narrow = seed%2 == 1
	l.reboot(time.Minute)
	x := l.card()
	x.used, x.known = l.c.Used, true
	return l
}

// TestLife lives months and years with all that can go wrong: what is sold is
// never more than there is, by more than a second of traffic; all that passes
// is counted, once, and little is written.
func TestLife(t *testing.T) {
	for seed := range uint64(12) {
		days := 30
		if seed == 0 {
			days = yearOfDays
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			l := newLife(t, seed)
			l.live(days)
			l.end()
			t.Logf("%d days: %+v, %d syncs, %d bytes written", days, l.stats, l.syncs, l.written)
			if least := uint64(days/30) * 2 * gb; l.stats.sold < least && l.c.Hours == nil {
				t.Errorf("only %d bytes were sold", l.stats.sold)
			}
		})
	}
}

// TestIdle: without traffic there is a write an hour.
func TestIdle(t *testing.T) {
	l := newLife(t, 0)
	for range 48 * 60 * 60 / 5 {
		l.step(5 * time.Second)
	}
	if syncs, bytes := l.book.Written(); syncs > 50 || bytes > 50*slotSize {
		t.Errorf("%d syncs and %d bytes in 48 hours", syncs, bytes)
	}
}
