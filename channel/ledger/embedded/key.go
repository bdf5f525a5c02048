package embedded

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/depinsim/x402/channel"
)

// loadKey reads the key in path: 64 hexadecimal digits and a newline. If create
// is set and there is none, it draws one.
func loadKey(path string, create bool) (*channel.Key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		return createKey(path)
	}
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: not hexadecimal", path) // without the digits that the error would repeat
	}
	k, err := channel.ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// createKey writes a new key to path, whole and durable or not at all.
func createKey(path string) (_ *channel.Key, err error) {
	k, err := channel.GenerateKey()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ledger.key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = fmt.Fprintln(f, hex.EncodeToString(k.Bytes()))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, err
	}
	return k, channel.SyncDir(filepath.Dir(path))
}
