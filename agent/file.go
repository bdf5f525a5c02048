package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/depinsim/x402/channel"
)

// ReplaceFile writes a file so that after a power loss at any instant either
// the old or the new content is there, whole.
func ReplaceFile(path string, b []byte, mode fs.FileMode) error {
	err := replace(path, b, func(f *os.File) error { return errors.Join(f.Chmod(mode), f.Sync()) })
	if err != nil {
		return err
	}
	return channel.SyncDir(filepath.Dir(path))
}

// WriteReady writes the file by which a program says that it is ready: never a
// part of it. It need not survive a power loss, and is not synced.
func WriteReady(path string, b []byte) error {
	return replace(path, b, func(*os.File) error { return nil })
}

// RemoveReady removes what WriteReady wrote, if it is there.
func RemoveReady(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// replace renames a new file, which finish may prepare, to path.
func replace(path string, b []byte, finish func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, finish(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
