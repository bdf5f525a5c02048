package directory

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel/relay/server"
)

const pemKey = "PRIVATE KEY" // PKCS #8 (RFC 7468 §10)

// maxKeyFile bounds a key's file.
const maxKeyFile = 64 << 10

// loadKey reads the relay's own key. A file that is not there is an error
// that Is fs.ErrNotExist.
func loadKey(path string) (tls.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return tls.Certificate{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err = errors.Join(err, f.Close()); err != nil {
		return tls.Certificate{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return tls.Certificate{}, fmt.Errorf("%s: want a PEM block %q: restore it from a backup; with another key it is another relay", path, pemKey)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return tls.Certificate{}, fmt.Errorf("%s: want an ECDSA key", path)
	}
	return server.SelfSigned(key)
}

// makeKey writes a new key for the relay.
func makeKey(path string) (tls.Certificate, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := agent.ReplaceFile(path, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	return server.SelfSigned(key)
}

// ownKey reads the relay's own key, or makes it.
func ownKey(path string) (tls.Certificate, error) {
	c, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	return c, err
}

// A renewal is a certificate that another program renews in its files.
type renewal struct {
	cert, key string

	mu      sync.Mutex
	now     *tls.Certificate
	written time.Time // of the file
	looked  time.Time
}

// lookEvery is how often the files are looked at.
const lookEvery = time.Minute

// current returns the certificate as it is now in the files. One that cannot be
// read leaves the former in place.
func (r *renewal) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.now != nil && now.Sub(r.looked) < lookEvery {
		return r.now, nil
	}
	r.looked = now
	info, err := os.Stat(r.cert)
	if err == nil && (r.now == nil || !info.ModTime().Equal(r.written)) {
		var c tls.Certificate
		if c, err = tls.LoadX509KeyPair(r.cert, r.key); err == nil {
			r.now, r.written = &c, info.ModTime()
		}
	}
	if r.now == nil {
		return nil, err
	}
	return r.now, nil
}
