package channel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// A ledgerbook remembers what a journal said was durable and what it was
// asked to save, so that what is found after a crash can be judged.
type ledgerbook struct {
	acked map[ID]Amount // the newest Max that is promised
	asked map[ID][]State
}

func newLedgerbook() *ledgerbook {
	return &ledgerbook{map[ID]Amount{}, map[ID][]State{}}
}

// check finds fault with the states loaded after a crash: each promised
// channel is there, at what was promised or newer, and as it was saved.
func (l *ledgerbook) check(states []State) error {
	found := map[ID]bool{}
	for _, s := range states {
		found[s.ID] = true
		if s.Max < l.acked[s.ID] {
			return fmt.Errorf("channel %.10s is at %d, promised was %d", s.ID, s.Max, l.acked[s.ID])
		}
		if !slices.ContainsFunc(l.asked[s.ID], func(a State) bool {
			return a.equal(s) && a.Domain == s.Domain && a.Config == s.Config
		}) {
			return fmt.Errorf("channel %.10s has a state that was never saved: %+v", s.ID, s)
		}
	}
	for id := range l.acked {
		if !found[id] {
			return fmt.Errorf("channel %.10s is lost", id)
		}
	}
	return nil
}

func (l *ledgerbook) clone() *ledgerbook {
	c := newLedgerbook()
	maps.Copy(c.acked, l.acked)
	c.asked = l.asked
	return c
}

// workload saves the states of two channels in turn, one after the other with
// a note, enough for a rewrite. A failed save is tried once more. It returns
// when the disk crashed, having closed nothing.
func workload(d *memDisk, l *ledgerbook, first []State, saves int) {
	j, err := openJournal(d, journalName)
	if err != nil {
		return
	}
	j.floor = 1000
	for i := range saves {
		s := first[i%len(first)]
		s.Max = Amount(i + 1)
		s.Signature[0] = byte(i)
		if i%3 == 0 {
			s.Note = fmt.Appendf(nil, "note %d", i)
		}
		l.asked[s.ID] = append(l.asked[s.ID], s)
		err := j.Save(s)
		if err != nil && !errors.Is(err, errCrashed) {
			err = j.Save(s)
		}
		if err == nil {
			l.acked[s.ID] = s.Max
		}
	}
}

func twoChannels(t testing.TB) []State {
	a := opened(t)
	c := a.Config
	c.Salt[0] = 1
	b, err := NewState(a.Domain, c)
	if err != nil {
		t.Fatal(err)
	}
	return []State{a, b}
}

const crashSaves = 26

// TestJournalPowerCut cuts the power after every single byte and call of a
// run with several rewrites, and tears what was not synced in every way it
// knows.
func TestJournalPowerCut(t *testing.T) {
	first := twoChannels(t)
	whole := newMemDisk()
	workload(whole, newLedgerbook(), first, crashSaves)
	images, rewrites, judged := 0, 0, judge{}
	for at := range whole.steps + 1 {
		d, l := newMemDisk(), newLedgerbook()
		d.crashAt = at
		workload(d, l, first, crashSaves)
		d.afterPowerCut(func(what string, left *memDisk) {
			images++
			if len(d.history) > 1 {
				rewrites++
			}
			judged.mustFind(t, left, l, func() string {
				return fmt.Sprintf("power cut at step %d, left %s", at, what)
			})
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d steps, %d images, %d of them within a rewrite, %d different", whole.steps, images, rewrites, len(judged))
	if rewrites == 0 {
		t.Error("no rewrite was cut")
	}
}

// A judge remembers which images it has judged: opening reads one file, so
// the same bytes under the same promises need no second look.
type judge map[string]bool

func (g judge) mustFind(t *testing.T, d *memDisk, l *ledgerbook, what func() string) {
	t.Helper()
	key := fmt.Sprint(l.acked)
	if f := d.seen[journalName]; f != nil {
		key += string(f.seen)
	}
	if g[key] {
		return
	}
	g[key] = true
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Errorf("%s: %v", what(), err)
		return
	}
	states, err := j.Load()
	if err == nil {
		err = l.check(states)
	}
	if err != nil {
		t.Errorf("%s: %v", what(), err)
	}
}

// TestJournalSecondPowerCut cuts the power again while the first cut is being
// recovered from.
func TestJournalSecondPowerCut(t *testing.T) {
	first := twoChannels(t)
	whole := newMemDisk()
	workload(whole, newLedgerbook(), first, 6)
	images, judged := 0, judge{}
	for at := 0; at <= whole.steps; at += 13 {
		d, l := newMemDisk(), newLedgerbook()
		d.crashAt = at
		workload(d, l, first, 6)
		d.afterPowerCut(func(what string, left *memDisk) {
			for again := 0; ; again += 23 {
				second := left.copy()
				second.crashAt = again
				_, err := openJournal(second, journalName)
				second.afterPowerCut(func(then string, last *memDisk) {
					images++
					judged.mustFind(t, last, l, func() string {
						return fmt.Sprintf("power cuts at %d (%s) and %d (%s)", at, what, again, then)
					})
				})
				if err == nil || t.Failed() {
					return
				}
			}
		})
	}
	t.Logf("%d images, %d different", images, len(judged))
}

// copy returns the same disk, for another try; nothing on it is unsynced.
func (d *memDisk) copy() *memDisk {
	c := newMemDisk()
	for name, f := range d.seen {
		c.seen[name] = &memFile{disk: c, seen: f.seen, durable: f.durable}
	}
	c.keepNames()
	return c
}

// TestJournalFaults fails every call in turn, alone or with those after it:
// no room, input/output errors, a read-only disk. Then either the power is cut,
// or the program is restarted, trusts what it finds, and the power is cut
// after that: a page that the kernel failed to write still reads as good.
func TestJournalFaults(t *testing.T) {
	first := twoChannels(t)
	whole := newMemDisk()
	workload(whole, newLedgerbook(), first, crashSaves)
	for from := range whole.calls {
		for _, n := range []int{1, 2, 3, 7, 1 << 20} {
			for _, saves := range []int{1, 3, 8, crashSaves} {
				what := fmt.Sprintf("%d calls from %d fail, %d saves", n, from, saves)
				d, l := newMemDisk(), newLedgerbook()
				d.failFrom, d.failTo = from, from+n
				workload(d, l, first, saves)
				d.afterPowerCut(func(left string, image *memDisk) {
					judge{}.mustFind(t, image, l, func() string { return what + ", power cut, left " + left })
				})
				restart(t, d.restarted(), l.clone(), what)
				if t.Failed() {
					return
				}
			}
		}
	}
}

func restart(t *testing.T, d *memDisk, l *ledgerbook, what string) {
	t.Helper()
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Errorf("%s, restarted: %v", what, err)
		return
	}
	states, err := j.Load()
	if err == nil {
		err = l.check(states)
	}
	if err != nil {
		t.Errorf("%s, restarted: %v", what, err)
	}
	for _, s := range states {
		l.acked[s.ID] = s.Max // whoever loaded it acts on it
	}
	d.afterPowerCut(func(left string, image *memDisk) {
		judge{}.mustFind(t, image, l, func() string { return what + ", restarted, power cut, left " + left })
	})
}

// A write that fails leaves nothing behind, and a file whose sync failed is
// not appended to again.
func TestJournalAfterAFault(t *testing.T) {
	d := newMemDisk()
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Fatal(err)
	}
	s := opened(t)
	mustSave(t, j, s)
	file := d.seen[journalName]
	size := len(file.seen)
	for call, rewritten := range []bool{false, true} { // the write, the sync
		s.Max++
		d.failFrom, d.failTo = d.calls+call, d.calls+call+1
		if err := j.Save(s); err == nil {
			t.Fatal("the fault was not met")
		}
		if got := len(d.seen[journalName].seen); !rewritten && got != size {
			t.Errorf("%d bytes were left of a failed write", got-size)
		}
		mustSave(t, j, s)
		if now := d.seen[journalName] != file; now != rewritten {
			t.Errorf("fault in call %d: rewritten is %v, want %v", call, now, rewritten)
		}
	}
}

// A run of faults ends, and the journal goes on by itself: every save that
// was promised is there, and later saves succeed.
func TestJournalRecoversFromFaults(t *testing.T) {
	first := twoChannels(t)[:1]
	for from := 4; from < 30; from++ {
		d, l := newMemDisk(), newLedgerbook()
		j, err := openJournal(d, journalName)
		if err != nil {
			t.Fatal(err)
		}
		d.failFrom, d.failTo = from, from+9
		var failed int
		for i := range 30 {
			s := first[0]
			s.Max = Amount(i + 1)
			l.asked[s.ID] = append(l.asked[s.ID], s)
			if err := j.Save(s); err == nil {
				l.acked[s.ID] = s.Max
			} else {
				failed++
			}
		}
		if failed == 0 || l.acked[first[0].ID] != 30 {
			t.Errorf("faults from call %d: %d saves failed, newest is %d", from, failed, l.acked[first[0].ID])
		}
		d.afterPowerCut(func(left string, image *memDisk) {
			judge{}.mustFind(t, image, l, func() string { return fmt.Sprintf("faults from call %d, left %s", from, left) })
		})
	}
}
