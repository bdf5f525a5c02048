package channel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func mustOpen(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func mustSave(t testing.TB, s Store, states ...State) {
	t.Helper()
	for _, state := range states {
		if err := s.Save(state); err != nil {
			t.Fatal(err)
		}
	}
}

func wantStates(t testing.TB, s Store, want ...State) {
	t.Helper()
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func TestJournalKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "journal")
	j := mustOpen(t, dir)
	wantStates(t, j)
	a, b := fullState(t), twoChannels(t)[1]
	mustSave(t, j, a, b)
	a.Max, a.Phase, a.Note = 300, Open, nil
	mustSave(t, j, a)
	wantStates(t, j, a, b)
	for range 3 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = mustOpen(t, dir)
		wantStates(t, j, a, b)
		if j.Dropped() != 0 {
			t.Errorf("%d bytes dropped", j.Dropped())
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name, perm := range map[string]os.FileMode{".": os.ModeDir | 0o700, "journal": 0o600, "lock": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != perm {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// Neither the caller's slice nor a loaded one reaches into the journal.
func TestJournalOwnsItsNotes(t *testing.T) {
	j := mustOpen(t, t.TempDir())
	defer j.Close()
	s := opened(t)
	s.Note = []byte("abc")
	mustSave(t, j, s)
	s.Note[0] = 'x'
	loaded, err := j.Load()
	if err != nil || string(loaded[0].Note) != "abc" {
		t.Fatalf("%q, %v", loaded[0].Note, err)
	}
	loaded[0].Note[1] = 'x'
	if loaded, _ = j.Load(); string(loaded[0].Note) != "abc" {
		t.Errorf("%q", loaded[0].Note)
	}
	s.Note = make([]byte, MaxNote+1)
	wantReason(t, "long note", j.Save(s), ReasonNote)
}

func TestJournalIsLocked(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	_, err := OpenJournal(dir)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second open: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir).Close()
}

// TestLockGivenBack: a directory is free when its lock is closed, though a process
// that was being started meanwhile has the file too.
func TestLockGivenBack(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := unix.Dup(int(lock.(dirLock).Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = lockDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestJournalClosed(t *testing.T) {
	j := mustOpen(t, t.TempDir())
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := j.Load()
	for what, err := range map[string]error{"Load": err, "Save": j.Save(opened(t)), "Close": j.Close()} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// A voucher costs one sync and at most 256 bytes of flash; growth costs a
// rewrite now and then.
func TestJournalBudget(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	defer j.Close()
	s := fullState(t)
	mustSave(t, j, s)
	syncs, written := j.SyncCount(), j.Written()
	const saves = 5000
	var largest int64
	for i := range saves {
		s.Max = Amount(1000 + i)
		mustSave(t, j, s)
		info, err := os.Stat(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	syncs, written = j.SyncCount()-syncs, j.Written()-written
	if syncs > saves+saves/100 {
		t.Errorf("%d syncs for %d saves", syncs, saves)
	}
	if written > saves*256 {
		t.Errorf("%d bytes a save", written/saves)
	}
	if largest > compactSize+256 {
		t.Errorf("the file grew to %d bytes", largest)
	}
	wantStates(t, j, s)
}

// Many channels make a larger file, but not a rewrite at every save.
func TestJournalManyChannels(t *testing.T) {
	d := newMemDisk()
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Fatal(err)
	}
	states := make([]State, 120)
	for i := range states {
		c := goldenConfig(t)
		binary.BigEndian.PutUint64(c.Salt[:], uint64(i))
		if states[i], err = NewState(goldenDomain(), c); err != nil {
			t.Fatal(err)
		}
	}
	mustSave(t, j, states...)
	written := j.Written()
	for round := range 20 {
		for i := range states {
			states[i].Max = Amount(round + 1)
		}
		mustSave(t, j, states...)
	}
	if perSave := (j.Written() - written) / (20 * 120); perSave > 256 {
		t.Errorf("%d bytes a save", perSave)
	}
	wantStates(t, j, states...)
}

// journalFile returns the bytes of a journal with some states, and where its
// records begin.
func journalFile(t testing.TB) (b []byte, starts []int) {
	d := newMemDisk()
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Fatal(err)
	}
	s := fullState(t)
	mustSave(t, j, s, twoChannels(t)[1])
	s.Max = 300
	mustSave(t, j, s)
	b, err = d.ReadFile(journalName)
	if err != nil {
		t.Fatal(err)
	}
	for at := headerSize; at < len(b); {
		starts = append(starts, at)
		_, _, size, ok := nextRecord(b[at:])
		if !ok {
			t.Fatalf("no record at %d", at)
		}
		at += size
	}
	return b, starts
}

// A torn end is dropped and its size told; the records before it stand.
func TestJournalTornTail(t *testing.T) {
	whole, starts := journalFile(t)
	last := starts[len(starts)-1]
	for n := range len(whole) - last {
		checkTail(t, whole[:last+n], n, fullState(t).Max)
	}
	for _, tail := range [][]byte{{0}, {1}, bytes.Repeat([]byte{0}, 4096), bytes.Repeat([]byte{2}, 1000), []byte("garbage"), whole[starts[0] : starts[0]+100]} {
		checkTail(t, append(bytes.Clone(whole), tail...), len(tail), 300)
	}
}

func checkTail(t *testing.T, b []byte, dropped int, max Amount) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, journalName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, dir)
	defer j.Close()
	states, err := j.Load()
	if err != nil || len(states) != 2 || states[0].Max != max || j.Dropped() != dropped {
		t.Errorf("%d bytes: %d states, Max %d want %d, %d dropped want %d, %v", len(b), len(states), states[0].Max, max, j.Dropped(), dropped, err)
	}
}

// A single bit that is wrong anywhere but in the last record is told with
// file and offset, and the file is left as it was.
func TestJournalCorrupt(t *testing.T) {
	whole, starts := journalFile(t)
	dir := t.TempDir()
	path := filepath.Join(dir, journalName)
	record := -1
	for at := range starts[len(starts)-1] {
		if record+1 < len(starts) && at >= starts[record+1] {
			record++
		}
		bad := bytes.Clone(whole)
		bad[at] ^= 0x40
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenJournal(dir)
		offset := "offset 0:"
		if record >= 0 {
			offset = fmt.Sprintf("offset %d:", starts[record])
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), offset) {
			t.Fatalf("byte %d: %v, want it to name %s and %s", at, err, path, offset)
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, bad) {
			t.Fatalf("byte %d: the file was changed, %v", at, err)
		}
	}
}

func TestJournalRefusesOtherFiles(t *testing.T) {
	whole, starts := journalFile(t)
	future := bytes.Clone(whole)
	future[len(journalMagic)+3] = 2
	binary.BigEndian.PutUint32(future[len(journalMagic)+4:], crc32.Checksum(future[:len(journalMagic)+4], castagnoli))
	orphan := append(bytes.Clone(whole[:headerSize]), whole[starts[1]:]...)
	badPhase := appendRecord(bytes.Clone(whole), recordState, func(b []byte) []byte {
		s := fullState(t)
		s.Phase = 9
		return appendState(b, s)
	})
	for name, row := range map[string]struct {
		file []byte
		want string
	}{
		"empty":        {nil, "no journal header"},
		"half header":  {whole[:headerSize/2], "no journal header"},
		"other format": {bytes.Repeat([]byte("text\n"), 100), "no journal header"},
		"newer schema": {future, "schema 2, this program knows 1"},
		"orphan state": {orphan, "without its config"},
		"bad phase":    {badPhase, "phase(9)"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, journalName), row.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(dir); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
		// The lock is not left behind.
		if f, err := lockDir(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			f.Close()
		}
	}
}

func TestJournalNeedsADirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{path, filepath.Join(path, "sub")} {
		if _, err := OpenJournal(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// A disk on which nothing can be written: opening says so, and what was there
// stays.
func TestJournalReadOnly(t *testing.T) {
	d := newMemDisk()
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Fatal(err)
	}
	s := fullState(t)
	mustSave(t, j, s)
	d.failFrom, d.failTo = 0, 1<<30
	if _, err := openJournal(d, "/etc/x402/journal"); err == nil || err.Error() != "journal /etc/x402/journal: read-only file system" {
		t.Errorf("%v", err)
	}
	d.failTo = 0
	if j, err = openJournal(d, journalName); err != nil {
		t.Fatal(err)
	}
	wantStates(t, j, s)
}

// A file that fails for good is told by its right name, and replaced by the
// next Save.
func TestJournalReplacesABrokenFile(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	s := fullState(t)
	mustSave(t, j, s)
	j.file.Close()
	s.Max++
	err := j.Save(s)
	if want := "journal " + filepath.Join(dir, journalName) + ": write: file already closed"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	mustSave(t, j, s)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, dir)
	defer j.Close()
	wantStates(t, j, s)
}

// With no room for a second file the journal still goes on in the first, and
// is rewritten when there is room.
func TestJournalGrowsWhenItCannotShrink(t *testing.T) {
	d := newMemDisk()
	j, err := openJournal(d, journalName)
	if err != nil {
		t.Fatal(err)
	}
	s := opened(t)
	mustSave(t, j, s)
	for j.size <= compactSize {
		s.Max++
		mustSave(t, j, s)
	}
	d.failFrom, d.failTo = d.calls, d.calls+1 // the new file
	s.Max++
	mustSave(t, j, s)
	if j.size <= compactSize {
		t.Error("the fault was not met")
	}
	for range 2 * compactSize / stateSize {
		s.Max++
		mustSave(t, j, s)
	}
	if j.size > compactSize {
		t.Errorf("still %d bytes", j.size)
	}
	wantStates(t, j, s)
}

func FuzzJournalLoad(f *testing.F) {
	whole, starts := journalFile(f)
	f.Add(whole)
	f.Add(whole[:headerSize])
	for _, at := range starts {
		f.Add(whole[:at+10])
		f.Add(append(bytes.Clone(whole[:at]), whole[at+5:]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newMemDisk()
		d.seen[journalName] = &memFile{disk: d, seen: b, durable: b}
		d.keepNames()
		j, err := openJournal(d, journalName)
		if err != nil {
			if left, _ := d.ReadFile(journalName); !bytes.Equal(left, b) {
				t.Fatal("the file was changed")
			}
			return
		}
		states, err := j.Load()
		if err != nil {
			t.Fatal(err)
		}
		// What was loaded is there the next time, and can be saved.
		if j, err = openJournal(d, journalName); err != nil || j.Dropped() != 0 {
			t.Fatalf("%d bytes dropped, %v", j.Dropped(), err)
		}
		wantStates(t, j, states...)
		mustSave(t, j, states...)
		wantStates(t, j, states...)
	})
}

func BenchmarkJournalSave(b *testing.B) {
	j := mustOpen(b, b.TempDir())
	defer j.Close()
	s := fullState(b)
	b.ReportAllocs()
	for b.Loop() {
		s.Max++
		mustSave(b, j, s)
	}
	b.ReportMetric(float64(j.Written())/float64(b.N), "B-written/op")
	b.ReportMetric(float64(j.SyncCount())/float64(b.N), "syncs/op")
}
