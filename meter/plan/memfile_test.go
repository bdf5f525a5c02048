package plan

import (
	"errors"
	"io"
)

// A memFile is a file that a power cut takes back to what was synced, with some
// of what was not.
type memFile struct {
	durable, content []byte
	from, to         int // written and not synced
	fail             error
	syncs            int
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	if off >= int64(len(f.content)) {
		return 0, io.EOF
	}
	n := copy(b, f.content[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	if f.fail != nil {
		return 0, f.fail
	}
	if end := int(off) + len(b); end > len(f.content) {
		f.content = append(f.content, make([]byte, end-len(f.content))...)
	}
	f.from, f.to = int(off), int(off)+len(b)
	return copy(f.content[off:], b), nil
}

func (f *memFile) Sync() error {
	if f.fail != nil {
		return f.fail
	}
	f.durable = append([]byte(nil), f.content...)
	f.from, f.to = 0, 0
	f.syncs++
	return nil
}

func (f *memFile) Close() error {
	if f.content == nil && f.durable == nil {
		return errors.New("closed before anything was written")
	}
	return nil
}

// cut is the file after a power cut that left n bytes of the last write.
func (f *memFile) cut(n int) *memFile {
	b := append([]byte(nil), f.durable...)
	if n = min(n, f.to-f.from); n > 0 {
		if f.from+n > len(b) {
			b = append(b, make([]byte, f.from+n-len(b))...)
		}
		copy(b[f.from:f.from+n], f.content[f.from:])
	}
	return &memFile{durable: b, content: append([]byte(nil), b...)}
}

var _ file = (*memFile)(nil)
