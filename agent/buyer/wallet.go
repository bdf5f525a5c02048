package buyer

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/depinsim/x402/channel"
)

// A Wallet is a key at rest: a file in the Web3 Secret Storage format,
// version 3, that other wallets can import. The file says the address in
// clear; the key needs the passphrase.
type Wallet struct {
	path    string
	text    []byte // the file
	store   keystore
	address channel.Address
}

var (
	// ErrWrongPassphrase says that a passphrase does not open a wallet.
	ErrWrongPassphrase = errors.New("wrong passphrase")
	// ErrWalletExists says that a file is in the way. Wallets are never
	// overwritten: there may be money on the key.
	ErrWalletExists = errors.New("there is a file already, and a wallet is never overwritten")
)

// maxWallet bounds a file before it is parsed; real ones have 500 bytes.
const maxWallet = 64 << 10

// CreateWallet draws a key and writes it to a new file at path.
func CreateWallet(path, passphrase string) (*Wallet, error) {
	key, err := channel.GenerateKey()
	if err != nil {
		return nil, err
	}
	return newWallet(path, key, passphrase, usualCost)
}

// ImportWallet writes the key in source to a new file at path. Source is the
// text of a version 3 keystore, whose passphrase is the given one and stays so,
// or 64 hexadecimal digits with or without 0x.
func ImportWallet(path string, source []byte, passphrase string) (*Wallet, error) {
	key, err := importKey(source, passphrase)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return newWallet(path, key, passphrase, usualCost)
}

func importKey(source []byte, passphrase string) (*channel.Key, error) {
	text := strings.TrimSpace(string(source))
	if strings.HasPrefix(text, "{") {
		store, err := parseKeystore([]byte(text))
		if err != nil {
			return nil, err
		}
		return store.open(passphrase)
	}
	b, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil || len(b) != 32 { // err would quote the key
		return nil, errors.New("want a keystore file, or a key of 64 hexadecimal digits")
	}
	return channel.ParseKey(b)
}

func newWallet(path string, key *channel.Key, passphrase string, c cost) (*Wallet, error) {
	if passphrase == "" {
		return nil, errors.New("the passphrase is empty")
	}
	store, err := sealKey(key, passphrase, c)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(store)
	if err != nil {
		return nil, err
	}
	if err := writeNew(path, append(text, '\n')); err != nil {
		return nil, err
	}
	// What counts is what can be read again.
	w, err := LoadWallet(path)
	if err != nil {
		return nil, err
	}
	if w.address != key.Address() {
		return nil, fmt.Errorf("wallet %s: reads back with another address", path)
	}
	return w, nil
}

// LoadWallet reads the wallet at path. It needs no passphrase.
func LoadWallet(path string) (*Wallet, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no wallet at %s: make one with x402 wallet new: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("wallet: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxWallet+1))
	if err != nil {
		return nil, fmt.Errorf("wallet: %w", err)
	}
	store, err := parseKeystore(text)
	if err != nil {
		return nil, fmt.Errorf("wallet %s: %w", path, err)
	}
	address, err := store.address()
	if err != nil {
		return nil, fmt.Errorf("wallet %s: %w", path, err)
	}
	return &Wallet{path: path, text: text, store: store, address: address}, nil
}

// Address returns the address that the file names. Open proves it.
func (w *Wallet) Address() channel.Address { return w.address }

// Open returns the key. It takes about half a second and 128 MiB, which is
// what a guess costs a thief. The error is ErrWrongPassphrase if the file is
// sound.
func (w *Wallet) Open(passphrase string) (*channel.Key, error) {
	key, err := w.store.open(passphrase)
	if err != nil {
		return nil, fmt.Errorf("wallet %s: %w", w.path, err)
	}
	return key, nil
}

// Backup writes a copy, which the same passphrase opens, to a new file at path.
func (w *Wallet) Backup(path string) error { return writeNew(path, w.text) }

// writeNew writes a file that only its owner can read, so that after a power
// loss at any instant it is there complete or not at all. It fails with
// ErrWalletExists if path exists.
func writeNew(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("wallet: %w", err)
	}
	temp := filepath.Join(dir, "."+filepath.Base(path)+"."+rand.Text())
	if err := writeSynced(temp, text); err != nil {
		return errors.Join(fmt.Errorf("wallet: %w", err), removeIfThere(temp))
	}
	if err := rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("wallet %s: %w", path, err), removeIfThere(temp))
	}
	if err := channel.SyncDir(dir); err != nil {
		return fmt.Errorf("wallet: %w", err)
	}
	return nil
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// rename gives temp the name path unless that is taken. A link does so in one
// step; file systems without links leave an instant between check and rename.
func rename(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil {
		return os.Remove(temp)
	}
	if _, serr := os.Lstat(path); serr == nil || errors.Is(err, fs.ErrExist) {
		return ErrWalletExists
	}
	return os.Rename(temp, path)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
