package plan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// maxSIMs bounds the file. Each SIM has two places, which are written in
	// turn, in different blocks of the disk: a power cut tears one at most.
	maxSIMs  = 32
	slotSize = 512
	halfSize = maxSIMs * slotSize

	saveEvery = time.Hour
	saveRetry = 10 * time.Second
	saveLeast = time.Second // between two records
	// aheadAtEnd is what a stopped agent has its plan charged for when the
	// device is started anew: what passed after it stopped.
	aheadAtEnd = 4e6
)

// A file is what a Book needs of its file.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// A Book keeps the plans of the SIMs that were in one modem, one of which is in
// use. It is safe for concurrent use.
type Book struct {
	cfg Config

	// mu is held across writes: the order of records is that of states.
	mu      sync.Mutex
	file    file
	slots   []slot
	number  uint64 // of the newest record
	damaged bool   // there were records, and none can be read

	current int // into slots; -1: no SIM is known to be in
	state   State
	said    Decision
	first   Sample
	last    Sample
	sampled bool
	sure    *Link // at the last sample when the SIM was known to be in

	savedUp    time.Duration // of the newest record in this run
	savedStart int64
	stale      bool // there is no record yet of the SIM in this run
	failedUp   time.Duration
	failed     error
	syncs      uint64
	written    uint64
}

// A slot is what the file has of one SIM.
type slot struct {
	newest record
	half   int // where that is
}

// ErrClosed is returned by a Book that was closed; it Is net.ErrClosed.
var ErrClosed = fmt.Errorf("plan: %w", net.ErrClosed)

// Open opens the book at path, or makes it.
func Open(path string, c Config) (*Book, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b, err := open(f, c)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("plan %s: %w", path, err), f.Close())
	}
	return b, nil
}

func open(f file, c Config) (*Book, error) {
	b := &Book{cfg: c, file: f, current: -1}
	content := make([]byte, 2*halfSize)
	n, err := f.ReadAt(content, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for i := range maxSIMs {
		found := slot{half: -1}
		for half := range 2 {
			at := half*halfSize + i*slotSize
			r, err := parseRecord(content[at : at+slotSize])
			if err == nil && (found.half < 0 || r.number > found.newest.number) {
				found = slot{r, half}
			}
			if err != nil && !errors.Is(err, errNoRecord) {
				return nil, err
			}
		}
		b.slots = append(b.slots, found)
		b.number = max(b.number, found.newest.number)
	}
	if b.number == 0 {
		for _, c := range content[:n] {
			b.damaged = b.damaged || c != 0
		}
	}
	return b, nil
}

// syncDir makes the names in a directory durable, where the file system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// errManySIMs says that the file is full.
var errManySIMs = fmt.Errorf("plan: more than %d SIMs, all with a plan in use", maxSIMs)

func keyOf(sim string) simKey {
	sum := sha256.Sum256([]byte(sim))
	return simKey(sum[:16])
}

// Use says which SIM is in, by any text that is its own, such as a keyed hash
// of its number. It is to be called whenever that was looked at: what passes
// between the last look at one SIM and the first at another is charged to both.
// changed is true if another SIM was in before.
func (b *Book) Use(sim string) (changed bool, err error) {
	key := keyOf(sim)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return false, ErrClosed
	}
	if b.current >= 0 && b.slots[b.current].newest.sim == key {
		b.sure = b.last.Link
		return false, nil
	}
	changed = b.current >= 0
	before, next, fresh := b.newest(), -1, true
	for i, s := range b.slots {
		if s.half >= 0 && s.newest.sim == key {
			next, fresh = i, false
		}
	}
	if changed {
		before = record{state: b.state, number: b.number}
		err = b.putAway()
	}
	if next < 0 {
		if next = b.place(); next < 0 {
			b.current = -1
			return changed, errManySIMs
		}
		b.slots[next] = slot{record{sim: key, state: NewState()}, -1}
	}
	s := b.slots[next].newest.state
	if fresh {
		s.Unadmitted = before.number > 0 || b.damaged
		if s.Unadmitted {
			s.EntryKey = b.cfg.entryKey() // that was said of another SIM
		}
	}
	if changed || !fresh && b.slots[next].newest.number < before.number {
		s = s.follow(before.state, b.sure)
	}
	b.current, b.state, b.stale, b.sure = next, s, true, b.last.Link
	b.savedStart, b.failed = s.Start, nil
	if b.sampled {
		if fresh && !changed {
			s, _ = s.Next(b.cfg, b.first)
		}
		in := b.last
		in.Sold = 0
		b.state, b.said = s.Next(b.cfg, in)
	}
	return changed, err
}

// putAway stores the state of a SIM that was taken out. If that fails it is
// remembered until the agent stops; what may have been used without a record is
// charged after that.
func (b *Book) putAway() error {
	err := b.save(0)
	if err != nil {
		s := b.state
		s.Ahead = 0
		b.slots[b.current].newest.state = s
	}
	return err
}

// follow is the state of a SIM that takes the place of another, which was seen
// for sure when the interface had counted sure; nil if that was never.
func (s State) follow(o State, sure *Link) State {
	if s.loaded {
		s.unseen(s.Ahead) // 0 if it was taken out while the agent ran
	}
	if o.Known && (!s.Known || o.Time > s.Time) {
		s.Time, s.Latest, s.Known = o.Time, o.Latest, true
	}
	s.Anchored, s.Doubt = o.Anchored && s.Known, o.Doubt
	s.Boot, s.Up, s.Link, s.Seen, s.Ahead = o.Boot, o.Up, o.Link, o.Seen, 0
	if sure != nil {
		s.Link = *sure
	}
	return s
}

// newest is the newest record of any SIM.
func (b *Book) newest() (r record) {
	for _, s := range b.slots {
		if s.half >= 0 && s.newest.number > r.number {
			r = s.newest
		}
	}
	return r
}

// place is a place for a new SIM: a free one, or that of a SIM whose last known
// period is over. It is -1 if there is none.
func (b *Book) place() int {
	now := b.newest().state.unix()
	oldest := -1
	for i, s := range b.slots {
		if s.half < 0 {
			return i
		}
		over := s.newest.state.Known && s.newest.state.End <= now && i != b.current
		if over && (oldest < 0 || s.newest.number < b.slots[oldest].newest.number) {
			oldest = i
		}
	}
	return oldest
}

// Observe takes a sample, stores what is due, and says what may be sold. An
// error is one of storing; sales end when what may be used without a record is.
func (b *Book) Observe(in Sample) (Decision, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return Decision{Price: 100, Why: ReasonStore}, ErrClosed
	}
	if !b.sampled {
		b.first, b.sampled = in, true
		b.first.Sold = 0
	}
	b.last = in
	if b.current < 0 {
		return Decision{Price: 100, Why: ReasonSIM}, nil
	}
	b.state, b.said = b.state.Next(b.cfg, in)
	if !b.due() {
		if b.said.Why == ReasonStore && b.failed == nil { // for less than a second
			b.said.Why = ""
		}
		return b.said, nil
	}
	if err := b.save(b.cfg.ahead()); err != nil {
		return b.said, err
	}
	b.said = b.state.decide(b.cfg, in)
	return b.said, nil
}

// due says whether the state is to be stored.
func (b *Book) due() bool {
	up := b.last.Up
	switch s := b.state; {
	case b.failed != nil && up-b.failedUp < saveRetry:
		return false
	case b.stale:
		return true
	case up-b.savedUp < saveLeast:
		return false
	default:
		return s.unsaved() >= b.cfg.ahead()/2 || up-b.savedUp >= saveEvery ||
			s.Start != b.savedStart && up-b.savedUp >= saveRetry
	}
}

// save stores the state, with what may be used before the next record.
func (b *Book) save(ahead uint64) error {
	s := &b.slots[b.current]
	state := b.state
	state.Ahead = ahead
	r := record{number: b.number + 1, sim: s.newest.sim, state: state}
	half := 1 - max(s.half, 0)
	buf := r.append(make([]byte, 0, recordSize))
	b.number++
	n, err := b.file.WriteAt(buf, int64(half*halfSize+b.current*slotSize))
	b.written += uint64(n)
	if err == nil {
		b.syncs++
		err = b.file.Sync()
	}
	if err != nil {
		b.failed, b.failedUp = err, b.last.Up
		return fmt.Errorf("plan: store what is used: %w", err)
	}
	b.state.Ahead, b.state.saved = ahead, state.Total
	s.newest, s.half = record{r.number, r.sim, b.state}, half
	b.stale, b.failed = false, nil
	b.savedUp, b.savedStart = b.last.Up, state.Start
	return nil
}

// Enter takes over from the owner what is used of the plan now. It makes a SIM
// known that was not.
func (b *Book) Enter(used uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.file == nil:
		return ErrClosed
	case b.current < 0 || !b.sampled:
		return errors.New("the SIM or its interface has not been seen yet: try again in a moment")
	case used > MaxSize:
		return errors.New("more than a plan can have")
	}
	in := b.last
	in.Sold = 0
	b.state = b.state.Enter(b.cfg, used, in)
	err := b.save(b.cfg.ahead())
	b.said = b.state.decide(b.cfg, in)
	return err
}

// Report returns the state and what was decided last, and whether a SIM is
// known to be in.
func (b *Book) Report() (State, Decision, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, b.said, b.current >= 0
}

// Written returns how often the book has synced its file, and how many bytes it
// has written.
func (b *Book) Written() (syncs, bytes uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.syncs, b.written
}

// Close stores what is known and closes the file. Later calls return ErrClosed.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return ErrClosed
	}
	var err error
	if b.current >= 0 && b.sampled {
		err = b.save(aheadAtEnd)
	}
	err = errors.Join(err, b.file.Close())
	b.file = nil
	return err
}

var _ file = (*os.File)(nil)
