package channel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A disk is what a Journal needs of its directory; tests give one that fails.
type disk interface {
	ReadFile(name string) ([]byte, error)
	Create(name string) (file, error) // empty, whatever was there
	Rename(from, to string) error
	Sync() error // makes names durable
}

// A file is what a Journal needs of a file. Plain positioned writes: jffs2,
// which routers have, cannot map a file for writing.
type file interface {
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// maxJournal bounds what is read into memory at the start. It is 150 thousand
// channels; a router has some hundred.
const maxJournal = 64 << 20

// osDisk is a directory of the system's.
type osDisk struct{ dir string }

func (d osDisk) ReadFile(name string) ([]byte, error) {
	path := filepath.Join(d.dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxJournal {
		return nil, fmt.Errorf("%s: %d bytes, limit %d", path, info.Size(), maxJournal)
	}
	return os.ReadFile(path)
}

func (d osDisk) Create(name string) (file, error) {
	return os.OpenFile(filepath.Join(d.dir, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (d osDisk) Rename(from, to string) error {
	return os.Rename(filepath.Join(d.dir, from), filepath.Join(d.dir, to))
}

func (d osDisk) Sync() error { return SyncDir(d.dir) }

// SyncDir makes the names in a directory durable. File systems that have no
// such call answer EINVAL; there is nothing more to be had of them.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// makeDir creates dir and what is missing above it, durably.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// A dirLock is a directory that is taken. It is given back in so many words: a
// process that is being started has the file too until it runs its program.
type dirLock struct{ *os.File }

// Close gives the directory back.
func (l dirLock) Close() error {
	return errors.Join(unix.Flock(int(l.Fd()), unix.LOCK_UN), l.File.Close())
}

// lockDir takes the directory for this process until the lock is closed,
// which the kernel does when the process dies. The journal itself cannot carry
// the lock, since it is replaced by renames.
func lockDir(dir string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return dirLock{f}, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
}
