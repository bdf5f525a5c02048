package channel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// The files of a journal: the one in use, and the next one until it is
// complete. A third, "lock", is always empty.
const (
	journalName = "journal"
	journalNext = "journal.new"
)

// The header of a journal: magic, schema version, CRC-32C of both.
const (
	journalMagic  = "x402jnl\n"
	journalSchema = 1
	headerSize    = len(journalMagic) + 4 + 4
)

// A journal is rewritten when it exceeds compactSize and compactRatio times
// what is live in it.
const (
	compactSize  = 64 << 10
	compactRatio = 4
)

// ErrCorrupt is returned for a store that was damaged after it was written; in
// a journal, a bad record with good ones behind it, or a bad header. A power
// cut does not do that, so nothing is guessed; the error names the place.
var ErrCorrupt = errors.New("corrupt")

// A Journal is a Store for flash: one file to which each Save appends one
// record of at most 256 bytes and syncs it, rewritten when it has grown. It
// needs a directory of its own, locked for this process. It is safe for
// concurrent use.
//
// When a write fails the file is cut back to the last good record. When a sync
// fails, the kernel may have dropped what it could not write, so the file is
// not trusted any more: the next Save writes all states into a new one. For
// the same reason opening rewrites the file before anything in it is used.
type Journal struct {
	path string // of the file, for errors
	disk disk
	lock io.Closer

	// mu is held across writes: the journal has one end, and the order of its
	// records is the order of saves. It guards all below.
	mu      sync.Mutex
	file    file // nil before the first rewrite
	trusted bool // all records up to size are durable and nothing follows them
	closed  bool
	size    int64
	live    int64 // about the size after a rewrite
	floor   int64 // no rewrite for growth below this size
	retryAt int64 // nor below this one: the last did not succeed
	states  []State
	index   map[ID]int // into states
	dropped int
	syncs   uint64
	written uint64
}

// OpenJournal opens the journal in dir, creating both if missing, and rewrites
// it: a directory that cannot be written is found out here. The error Is
// ErrInUse when another process has it and ErrCorrupt when it is damaged; the
// files are then as they were.
func OpenJournal(dir string) (*Journal, error) {
	dir = filepath.Clean(dir)
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", dir, err)
	}
	j, err := openJournal(osDisk{dir}, filepath.Join(dir, journalName))
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	j.lock = lock
	return j, nil
}

func openJournal(d disk, path string) (*Journal, error) {
	j := &Journal{path: path, disk: d, floor: compactSize, index: make(map[ID]int)}
	b, err := d.ReadFile(journalName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("journal: %w", err)
	default:
		good, err := j.parse(b)
		if err != nil {
			return nil, fmt.Errorf("journal %s: %w", path, err)
		}
		j.dropped = len(b) - good
	}
	if err := j.rewrite(nil); err != nil {
		if j.file != nil {
			err = errors.Join(err, j.file.Close())
		}
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, nil
}

// Load returns every channel once, in the order in which they were first
// saved.
func (j *Journal) Load() ([]State, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, j.errClosed()
	}
	states := slices.Clone(j.states)
	for i := range states {
		states[i].Note = slices.Clone(states[i].Note)
	}
	return states, nil
}

// Save appends the state and syncs it: one sync, two for a channel's first
// state and when the file is rewritten. After an error the states saved before
// are intact, and Save may be tried again; whether the failed one is found on
// the next start is open.
func (j *Journal) Save(s State) error {
	s, err := s.withNote(s.Note)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return j.errClosed()
	}
	if !j.trusted || j.grown() {
		err := j.rewrite(&s)
		if err == nil {
			j.remember(s)
			return nil
		}
		if !j.trusted {
			return fmt.Errorf("journal %s: %w", j.path, err)
		}
		// The old file is as good as before: it only could not be shrunk, for
		// instance since the disk has no room for two. Go on with it.
		j.retryAt = 2 * j.size
	}
	if err := j.add(s); err != nil {
		// The system's error names the file as it was when it was made.
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = fmt.Errorf("%s: %w", e.Op, e.Err)
		}
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	j.remember(s)
	return nil
}

// Close releases the directory. Everything saved is already durable.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return j.errClosed()
	}
	j.closed = true
	err := j.file.Close()
	if j.lock != nil {
		err = errors.Join(err, j.lock.Close())
	}
	return err
}

// Dropped returns how many bytes of an unfinished write were found at the end
// of the file and dropped on opening: what a power cut leaves. It is for the
// log.
func (j *Journal) Dropped() int { return j.dropped }

// SyncCount returns how often the journal has synced a file or its directory.
func (j *Journal) SyncCount() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.syncs
}

// Written returns how many bytes the journal has written.
func (j *Journal) Written() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.written
}

func (j *Journal) errClosed() error { return fmt.Errorf("journal %s: %w", j.path, net.ErrClosed) }

func (j *Journal) grown() bool {
	return j.size > max(j.floor, j.retryAt, compactRatio*j.live)
}

func (j *Journal) remember(s State) {
	if i, ok := j.index[s.ID]; ok {
		j.states[i] = s
		return
	}
	j.index[s.ID] = len(j.states)
	j.states = append(j.states, s)
}

// add appends the state to the file. A new channel's config is synced before
// its state is written: were both in flight at once, a power cut could leave
// the second without the first, which looks like damage.
func (j *Journal) add(s State) error {
	if _, known := j.index[s.ID]; !known {
		if err := j.append(appendConfigRecord(make([]byte, 0, maxRecord), s)); err != nil {
			return err
		}
		j.live += recordOverhead + ConfigSize + maxRecord
	}
	return j.append(appendStateRecord(make([]byte, 0, maxRecord), s))
}

func (j *Journal) append(record []byte) error {
	n, err := j.file.WriteAt(record, j.size)
	j.written += uint64(n)
	if err != nil {
		if cut := j.file.Truncate(j.size); cut != nil {
			j.trusted = false
			err = errors.Join(err, cut)
		}
		return err
	}
	j.syncs++
	if err := j.file.Sync(); err != nil {
		j.trusted = false
		return err
	}
	j.size += int64(len(record))
	return nil
}

// rewrite puts the live states, and one more if given, into a new file and
// that in the place of the old one. On an error before the rename the old file
// is what it was; after it the journal is not trusted, since a power cut may
// bring back either.
func (j *Journal) rewrite(more *State) error {
	f, err := j.disk.Create(journalNext)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(io.NewOffsetWriter(f, 0), 4096)
	size := j.writeAll(w, more)
	if err = w.Flush(); err == nil {
		j.syncs++
		err = f.Sync()
	}
	j.written += uint64(size)
	if err != nil {
		// The room is needed: the disk may be full.
		return errors.Join(err, f.Truncate(0), f.Close())
	}
	j.trusted = false
	if j.file != nil {
		j.file.Close() // all it holds is in the new file
	}
	j.file, j.size, j.live, j.retryAt = f, size, size, 0
	if err := j.disk.Rename(journalNext, journalName); err != nil {
		return err
	}
	j.syncs++
	if err := j.disk.Sync(); err != nil {
		return err
	}
	j.trusted = true
	return nil
}

// writeAll writes the header and the records. The errors of w show in Flush.
func (j *Journal) writeAll(w *bufio.Writer, more *State) (size int64) {
	buf := binary.BigEndian.AppendUint32([]byte(journalMagic), journalSchema)
	buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
	put := func(s State) {
		buf = appendStateRecord(appendConfigRecord(buf, s), s)
		w.Write(buf)
		size += int64(len(buf))
		buf = buf[:0]
	}
	w.Write(buf)
	size, buf = int64(len(buf)), buf[:0]
	for _, s := range j.states {
		if more != nil && s.ID == more.ID {
			s, more = *more, nil
		}
		put(s)
	}
	if more != nil {
		put(*more)
	}
	return size
}

// parse reads the records of a file into j.states and returns where the good
// ones end. What follows is the torn end of the last write, unless a good
// record follows further on.
func (j *Journal) parse(b []byte) (good int, err error) {
	if err := checkHeader(b); err != nil {
		return 0, err
	}
	configs := make(map[ID]State)
	good = headerSize
	for good < len(b) {
		kind, payload, size, ok := nextRecord(b[good:])
		if !ok {
			break
		}
		switch kind {
		case recordConfig:
			d, c := DecodeConfig(payload)
			s := State{Domain: d, Config: c, ID: d.ID(c)}
			configs[s.ID] = s
		case recordState:
			s, err := decodeState(payload)
			if err != nil {
				return 0, fmt.Errorf("%w at offset %d: %v", ErrCorrupt, good, err)
			}
			known, ok := configs[s.ID]
			if !ok {
				return 0, fmt.Errorf("%w at offset %d: state of channel %s without its config", ErrCorrupt, good, s.ID)
			}
			s.Domain, s.Config = known.Domain, known.Config
			j.remember(s)
		}
		good += size
	}
	for off := good + 1; off < len(b); off++ {
		if _, _, _, ok := nextRecord(b[off:]); ok {
			return 0, fmt.Errorf("%w at offset %d: bad record, good ones follow at %d", ErrCorrupt, good, off)
		}
	}
	return good, nil
}

func checkHeader(b []byte) error {
	n := len(journalMagic)
	if len(b) < headerSize || string(b[:n]) != journalMagic ||
		crc32.Checksum(b[:n+4], castagnoli) != binary.BigEndian.Uint32(b[n+4:]) {
		return fmt.Errorf("%w at offset 0: no journal header", ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(b[n:]); v != journalSchema {
		return fmt.Errorf("schema %d, this program knows %d", v, journalSchema)
	}
	return nil
}

var _ Store = (*Journal)(nil)

var _ disk = osDisk{}

var _ file = (*os.File)(nil)
