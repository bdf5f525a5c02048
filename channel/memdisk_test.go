package channel

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"syscall"
)

var errCrashed = errors.New("crashed")

// A memDisk is a disk as unkind as POSIX allows. It keeps apart what programs
// see and what would survive a loss of power: data until its file is synced,
// names until the directory is. A failed sync drops what it should have
// written, and no later sync brings it back, as on Linux.
//
// Every byte written and every other call is one step. It stops dead when
// steps reaches crashAt, and fails the calls numbered from failFrom to failTo.
type memDisk struct {
	steps, crashAt          int
	calls, failFrom, failTo int
	seen                    map[string]*memFile
	durable                 map[string]*memFile   // names at the last sync
	history                 []map[string]*memFile // all since, any of which a power cut may leave
}

type memFile struct {
	disk          *memDisk
	seen, durable []byte
	pending       []memWrite // since the last sync
}

// A memWrite puts data at off; nil data cuts the file there.
type memWrite struct {
	off  int64
	data []byte
}

func newMemDisk() *memDisk {
	d := &memDisk{crashAt: 1 << 30, seen: map[string]*memFile{}}
	d.keepNames()
	return d
}

// step counts one call of so many steps and returns how many of them may be
// done and with which error it ends.
func (d *memDisk) step(n int, fault error) (int, error) {
	d.calls++
	if d.steps >= d.crashAt {
		return 0, errCrashed
	}
	if d.steps+n > d.crashAt {
		n = d.crashAt - d.steps
		d.steps = d.crashAt
		return n, errCrashed
	}
	d.steps += n
	if call := d.calls - 1; call >= d.failFrom && call < d.failTo {
		return n / 2, fault
	}
	return n, nil
}

func (d *memDisk) keepNames() {
	d.durable = maps.Clone(d.seen)
	d.history = []map[string]*memFile{d.durable}
}

func (d *memDisk) ReadFile(name string) ([]byte, error) {
	f, ok := d.seen[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(f.seen), nil
}

func (d *memDisk) Create(name string) (file, error) {
	if _, err := d.step(1, syscall.EROFS); err != nil {
		return nil, err
	}
	f, ok := d.seen[name]
	if !ok {
		f = &memFile{disk: d}
		d.seen[name] = f
		d.history = append(d.history, maps.Clone(d.seen))
	}
	f.apply(memWrite{})
	return f, nil
}

func (d *memDisk) Rename(from, to string) error {
	if _, err := d.step(1, syscall.EIO); err != nil {
		return err
	}
	d.seen[to] = d.seen[from]
	delete(d.seen, from)
	d.history = append(d.history, maps.Clone(d.seen))
	return nil
}

func (d *memDisk) Sync() error {
	if _, err := d.step(1, syscall.EIO); err != nil {
		return err
	}
	d.keepNames()
	return nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.disk.step(len(p), syscall.ENOSPC)
	if n > 0 {
		f.apply(memWrite{off, bytes.Clone(p[:n])})
	}
	return n, err
}

func (f *memFile) Truncate(size int64) error {
	if _, err := f.disk.step(1, syscall.EIO); err != nil {
		return err
	}
	f.apply(memWrite{off: size})
	return nil
}

func (f *memFile) Sync() error {
	_, err := f.disk.step(1, syscall.EIO)
	if errors.Is(err, errCrashed) {
		return err
	}
	if err == nil {
		for _, w := range f.pending {
			f.durable = w.on(f.durable)
		}
	}
	f.pending = nil
	return err
}

func (f *memFile) Close() error { return nil }

func (f *memFile) apply(w memWrite) {
	f.seen = w.on(f.seen)
	f.pending = append(f.pending, w)
}

// on returns b after the write.
func (w memWrite) on(b []byte) []byte {
	if w.data == nil {
		return slices.Clone(b[:min(int(w.off), len(b))])
	}
	b = slices.Clone(b)
	if short := int(w.off) + len(w.data) - len(b); short > 0 {
		b = append(b, make([]byte, short)...)
	}
	copy(b[w.off:], w.data)
	return b
}

// What a power cut may do to a write that was not synced. Only the last of
// several may survive too: the disk writes in the order it likes.
var tears = map[string]func(b []byte, last bool) []byte{
	"nothing of it": nil,
	"all of it":     func(b []byte, _ bool) []byte { return b },
	"zeros":         func(b []byte, _ bool) []byte { return make([]byte, len(b)) },
	"garbage":       func(b []byte, _ bool) []byte { return bytes.Repeat([]byte{0xa5}, len(b)) },
	"the first half": func(b []byte, _ bool) []byte {
		return append(bytes.Clone(b[:len(b)/2]), make([]byte, len(b)-len(b)/2)...)
	},
	"the second half": func(b []byte, _ bool) []byte {
		return append(make([]byte, len(b)/2), b[len(b)/2:]...)
	},
	"the last write": func(b []byte, last bool) []byte {
		if last {
			return b
		}
		return make([]byte, len(b))
	},
}

// afterPowerCut calls f with every disk that a loss of power may leave.
func (d *memDisk) afterPowerCut(f func(what string, left *memDisk)) {
	for what, tear := range tears {
		for _, names := range d.history {
			left := newMemDisk()
			for name, old := range names {
				b := old.durable
				for i, w := range old.pending {
					switch {
					case tear == nil:
					case w.data == nil:
						b = w.on(b)
					default:
						b = memWrite{w.off, tear(w.data, i == len(old.pending)-1)}.on(b)
					}
				}
				left.seen[name] = &memFile{disk: left, seen: b, durable: b}
			}
			left.keepNames()
			f(what, left)
		}
	}
}

// restarted returns the disk as a program sees it that was killed and started
// again, without a loss of power.
func (d *memDisk) restarted() *memDisk {
	d.crashAt, d.failFrom, d.failTo = 1<<30, 0, 0
	return d
}
