package plan

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func testConfig() Config { return Config{Size: 20 * gb, ResetDay: 1, Used: gb} }

func firstSample() Sample {
	return Sample{
		Boot: [16]byte{1}, Up: time.Minute, Wall: time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC), Synced: true,
		Link: &Link{Index: 1, Framed: true, RxBytes: 5000, RxPackets: 5},
	}
}

// pass lets bytes go by a second later.
func pass(in *Sample, bytes uint64) {
	l := *in.Link
	l.RxBytes += bytes
	in.Link = &l
	in.Up += time.Second
	in.Wall = in.Wall.Add(time.Second)
}

func mustOpen(t *testing.T, f file, c Config) *Book {
	t.Helper()
	b, err := open(f, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustUse(t *testing.T, b *Book, sim string) {
	t.Helper()
	if _, err := b.Use(sim); err != nil {
		t.Fatal(err)
	}
}

func observe(t *testing.T, b *Book, in Sample) Decision {
	t.Helper()
	d, err := b.Observe(in)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func used(b *Book) uint64 {
	_, d, _ := b.Report()
	return d.Used
}

func TestRecord(t *testing.T) {
	s := NewState()
	n := uint64(0)
	s.words(func(v *uint64) { n++; *v = n })
	if n != recordWords {
		t.Errorf("%d words, want %d", n, recordWords)
	}
	for _, f := range s.flags() {
		*f = true
	}
	s.Boot, s.Link.Index, s.Ratio, s.Start, s.End = [16]byte{3, 2, 1}, 7, 1999, 5, 6
	r := record{number: 77, sim: simKey{9, 8}, state: s}
	b := r.append(nil)
	if len(b) != recordSize || recordSize > slotSize {
		t.Errorf("%d bytes, want %d, at most %d", len(b), recordSize, slotSize)
	}
	got, err := parseRecord(b)
	r.state.saved, r.state.loaded = s.Total, true
	all := cmp.AllowUnexported(record{}, State{}, learning{})
	if diff := cmp.Diff(r, got, all); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	for i := range b {
		bad := append([]byte(nil), b...)
		bad[i] ^= 0x10
		if _, err := parseRecord(bad); !errors.Is(err, errNoRecord) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

// TestSameBoot: an agent that was killed misses nothing.
func TestSameBoot(t *testing.T) {
	f := &memFile{}
	b, in := mustOpen(t, f, testConfig()), firstSample()
	mustUse(t, b, "a")
	observe(t, b, in)
	pass(&in, 3_000_000)
	observe(t, b, in)
	if used(b) != gb+3_000_000 {
		t.Errorf("used %d", used(b))
	}
	// Killed; what passes meanwhile is counted by the interface.
	pass(&in, 2_000_000)
	b = mustOpen(t, f, testConfig())
	mustUse(t, b, "a")
	if d := observe(t, b, in); d.Used != gb+5_000_000 {
		t.Errorf("used %d", d.Used)
	}
}

// TestPowerCut: after a power cut at any byte of any write no less is counted
// than was used, and not much more.
func TestPowerCut(t *testing.T) {
	c := testConfig()
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		f := &memFile{}
		in := firstSample()
		truth := c.Used
		cuts := uint64(0)
		for range 20 {
			b := mustOpen(t, f, c)
			mustUse(t, b, "a")
			first := true
			for range 1 + random.IntN(40) {
				bytes := uint64(random.IntN(40_000_000))
				pass(&in, bytes)
				if !first || cuts > 0 {
					truth += bytes
				}
				observe(t, b, in)
				first = false
			}
			// The last second before it is not seen.
			cuts++
			pass(&in, 1000)
			truth += 1000
			f = f.cut(random.IntN(recordSize + 1))
			in.Boot[0]++
			in.Up, in.Link = time.Second, &Link{Index: 1, Framed: true}
			b = mustOpen(t, f, c)
			mustUse(t, b, "a")
			if d := observe(t, b, in); d.Used < truth || d.Used > truth+cuts*2*c.ahead() {
				t.Fatalf("seed %d: used %d, in truth %d, after %d cuts", seed, d.Used, truth, cuts)
			}
		}
	}
}

// TestOrderlyStop: a reboot costs little.
func TestOrderlyStop(t *testing.T) {
	f := &memFile{}
	b, in := mustOpen(t, f, testConfig()), firstSample()
	mustUse(t, b, "a")
	observe(t, b, in)
	pass(&in, 3_000_000)
	observe(t, b, in)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Observe(in); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	in.Boot[0]++
	in.Up, in.Link = time.Minute, &Link{Index: 1, RxBytes: 10_000}
	b = mustOpen(t, f, testConfig())
	mustUse(t, b, "a")
	if d := observe(t, b, in); d.Used != gb+3_000_000+10_000+aheadAtEnd {
		t.Errorf("used %d", d.Used)
	}
}

// TestReplug: a modem that is plugged anew counts from nothing; what it carried
// since it was last read is taken to be as much as it ever is.
func TestReplug(t *testing.T) {
	f := &memFile{}
	b, in := mustOpen(t, f, testConfig()), firstSample()
	mustUse(t, b, "a")
	observe(t, b, in)
	pass(&in, 3_000_000)
	observe(t, b, in)
	truth := uint64(gb + 3_000_000)
	// It carries as much again before it is pulled.
	truth += 2_000_000
	in.Up += time.Second
	gone := in
	gone.Link = nil
	if d := observe(t, b, gone); d.Why != ReasonInterface {
		t.Errorf("%+v", d)
	}
	in.Up += time.Minute
	in.Link = &Link{Index: 2, RxBytes: 500}
	truth += 500
	if d := observe(t, b, in); d.Used < truth || d.Used > truth+2_000_000 {
		t.Errorf("used %d, in truth %d", d.Used, truth)
	}
	// It comes back between two samples.
	pass(&in, 1_000_000)
	observe(t, b, in)
	truth += 1_000_000 + 400
	in.Up += time.Second
	in.Link = &Link{Index: 3, RxBytes: 400}
	if d := observe(t, b, in); d.Used < truth || d.Used > truth+6_000_000 {
		t.Errorf("used %d, in truth %d", d.Used, truth)
	}
}

// TestSIMs: each has its own plan, and one that was never seen has none until
// the owner says what is used of it.
func TestSIMs(t *testing.T) {
	f := &memFile{}
	b, in := mustOpen(t, f, testConfig()), firstSample()
	if d := observe(t, b, in); d.Why != ReasonSIM {
		t.Errorf("without a SIM: %+v", d)
	}
	mustUse(t, b, "a")
	pass(&in, 3_000_000)
	observe(t, b, in)
	if changed, err := b.Use("b"); !changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
	pass(&in, 500)
	if d := observe(t, b, in); d.Why != ReasonSIM {
		t.Errorf("an unknown SIM: %+v", d)
	}
	if err := b.Enter(2 * gb); err != nil {
		t.Fatal(err)
	}
	pass(&in, 500)
	if d := observe(t, b, in); d.Why != "" || d.Used != 2*gb+500 {
		t.Errorf("%+v", d)
	}
	mustUse(t, b, "b") // looked at, and nothing since
	pass(&in, 700)
	observe(t, b, in)
	mustUse(t, b, "a")
	pass(&in, 100)
	// What passed since b was last seen is charged to both.
	if d := observe(t, b, in); d.Used != gb+3_000_000+700+100 || d.Why != "" {
		t.Errorf("%+v", d)
	}
	// Swapped while the agent was down.
	b = mustOpen(t, f, testConfig())
	mustUse(t, b, "b")
	pass(&in, 100)
	if d := observe(t, b, in); d.Why != "" || d.Used < 2*gb+500+700+100 || d.Used > 2*gb+500+700+300 {
		t.Errorf("%+v", d)
	}
	// More than there are places for, with plans that are in use.
	var err error
	for i := 0; err == nil && i < 2*maxSIMs; i++ {
		if _, err = b.Use(string(rune('c' + i))); err == nil {
			err = b.Enter(0)
		}
	}
	if !errors.Is(err, errManySIMs) {
		t.Errorf("too many: %v", err)
	}
	if d := observe(t, b, in); d.Why != ReasonSIM {
		t.Errorf("%+v", d)
	}
	mustUse(t, b, "a")
	if d := observe(t, b, in); d.Used < gb+3_000_000+700+100 || d.Why != "" {
		t.Errorf("%+v", d)
	}
}

// TestDamage: records that cannot be read are not forgotten usage.
func TestDamage(t *testing.T) {
	f := &memFile{}
	b, in := mustOpen(t, f, testConfig()), firstSample()
	mustUse(t, b, "a")
	observe(t, b, in)
	for i := range f.content {
		if f.content[i] != 0 {
			f.content[i] ^= 1
		}
	}
	b = mustOpen(t, f, testConfig())
	mustUse(t, b, "a")
	if d := observe(t, b, in); d.Why != ReasonSIM {
		t.Errorf("%+v", d)
	}
}

// TestFull: when nothing can be stored sales go on only as far as the last
// record allows.
func TestFull(t *testing.T) {
	f := &memFile{}
	c := testConfig()
	b, in := mustOpen(t, f, c), firstSample()
	mustUse(t, b, "a")
	observe(t, b, in)
	f.fail = errors.New("no space left on device")
	errs, sold := 0, uint64(0)
	for range 60 {
		d, err := b.Observe(in)
		if err != nil {
			errs++
		}
		if d.Why == ReasonStore {
			break
		}
		n := min(d.Bytes, 10_000_000)
		sold += n
		pass(&in, n)
	}
	if errs == 0 || sold < c.ahead()*9/10 || sold > c.ahead() {
		t.Errorf("%d errors, %d sold", errs, sold)
	}
	f.fail = nil
	pass(&in, 0)
	in.Up += saveRetry
	if d := observe(t, b, in); d.Why != "" || d.Used != gb+sold {
		t.Errorf("%+v", d)
	}
}

// TestBookFile: on a real file.
func TestBookFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plan")
	if _, err := Open(path, Config{}); err == nil || !strings.HasPrefix(err.Error(), "plan: size") {
		t.Errorf("%v", err)
	}
	in := firstSample()
	for i := range uint64(3) {
		b, err := Open(path, testConfig())
		if err != nil {
			t.Fatal(err)
		}
		mustUse(t, b, "a")
		pass(&in, 1000)
		if d := observe(t, b, in); d.Used != gb+1000*i {
			t.Errorf("used %d", d.Used)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	s := NewState()
	f.Add(record{number: 1, state: s}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		// With a right checksum the fuzzer gets behind it.
		if len(b) == recordSize {
			r := record{state: NewState()}.append(nil)
			copy(b, r[:4])
			b = withSum(b)
		}
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		got, err := parseRecord(r.append(nil))
		if diff := cmp.Diff(r, got, cmp.AllowUnexported(record{}, State{}, learning{}), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v, %s", err, diff)
		}
		in := firstSample()
		before := r.state.Used(testConfig())
		r.state.EntryKey = testConfig().entryKey()
		next, d := r.state.Next(testConfig(), in)
		if next.Start == r.state.Start && !r.state.Trial && d.Used < before {
			t.Errorf("used fell from %d to %d", before, d.Used)
		}
	})
}

// withSum sets a record's checksum.
func withSum(b []byte) []byte {
	n := recordSize - 4
	return binary.BigEndian.AppendUint32(append([]byte(nil), b[:n]...), crc32.Checksum(b[:n], castagnoli))
}
