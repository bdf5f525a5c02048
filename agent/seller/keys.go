package seller

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/quic"
)

// Files of the state directory.
const (
	deviceKeyFile = "device.key" // secp256k1, hex; made on first start, never leaves
	tunnelKeyFile = "tunnel.key" // P-256, PEM
	offerSeqFile  = "offer.seq"
	offerFile     = "offer.json"
)

// channelsFolder is the folder of a line's in which its journal is.
const channelsFolder = "channels"

// linesFolder is the folder of the state directory in which lines have theirs.
const linesFolder = "sims"

// lineDir is where the line with an ID has its files.
func lineDir(root, id string) string { return filepath.Join(root, linesFolder, id) }

// root is the state directory of the whole agent.
func (c Config) root() string {
	if c.ID == "" {
		return c.StateDir
	}
	return filepath.Dir(filepath.Dir(c.StateDir))
}

func (s *Seller) loadKeys() error {
	if err := os.MkdirAll(s.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	var err error
	if s.key, err = loadDeviceKey(s.cfg.root()); err != nil {
		return fmt.Errorf("device key: %w", err)
	}
	if id := s.cfg.ID; id != "" {
		derived := s.key.Derive("x402 sim v1 " + id)
		if s.key, err = channel.ParseKey(derived[:]); err != nil {
			return fmt.Errorf("key of %s: %w", id, err)
		}
	}
	if err := s.loadTunnelKey(); err != nil {
		return fmt.Errorf("tunnel key: %w", err)
	}
	return nil
}

// loadDeviceKey returns the key in a state directory, made if there is none.
func loadDeviceKey(dir string) (*channel.Key, error) {
	path := filepath.Join(dir, deviceKeyFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key, err := channel.GenerateKey()
		if err != nil {
			return nil, err
		}
		return key, agent.ReplaceFile(path, []byte(hex.EncodeToString(key.Bytes())+"\n"), 0o600)
	case err != nil:
		return nil, err
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: not a hexadecimal key: restore it from a backup", path)
	}
	return channel.ParseKey(raw)
}

func (s *Seller) loadTunnelKey() error {
	path := filepath.Join(s.cfg.StateDir, tunnelKeyFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s.tls, err = quic.GenerateKey(); err != nil {
			return err
		}
		der, err := x509.MarshalECPrivateKey(s.tls)
		if err != nil {
			return err
		}
		return agent.ReplaceFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
	case err != nil:
		return err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("%s: not PEM: remove it and a new one is made", path)
	}
	var key *ecdsa.PrivateKey
	if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.tls = key
	return nil
}

// nextSeq is one more than the last offer's, also across restarts.
func (s *Seller) nextSeq() (uint64, error) {
	path := filepath.Join(s.cfg.StateDir, offerSeqFile)
	var last uint64
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if last, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	seq := last + 1
	return seq, agent.ReplaceFile(path, []byte(strconv.FormatUint(seq, 10)+"\n"), 0o600)
}

// removeOffer takes away what writeOffer left.
func (s *Seller) removeOffer() error {
	err := os.Remove(filepath.Join(s.cfg.StateDir, offerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeOffer leaves the signed offer where its owner can take it from.
func (s *Seller) writeOffer(b []byte) error {
	return agent.ReplaceFile(filepath.Join(s.cfg.StateDir, offerFile), append(b[:len(b):len(b)], '\n'), 0o644)
}
