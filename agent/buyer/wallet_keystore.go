package buyer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/scrypt"

	"github.com/depinsim/x402/channel"
)

// A keystore is the JSON of the Web3 Secret Storage Definition, version 3
// (ethereum.org, "Web3 Secret Storage Definition").
type keystore struct {
	Address string         `json:"address,omitempty"` // 40 digits, usually without 0x
	Crypto  keystoreCrypto `json:"crypto"`
	ID      string         `json:"id"`
	Version int            `json:"version"`
}

type keystoreCrypto struct {
	Cipher       string   `json:"cipher"`
	Ciphertext   hexBytes `json:"ciphertext"`
	CipherParams struct {
		IV hexBytes `json:"iv"`
	} `json:"cipherparams"`
	KDF       string         `json:"kdf"`
	KDFParams keystoreParams `json:"kdfparams"`
	MAC       hexBytes       `json:"mac"`
}

// keystoreParams are those of scrypt (N, R, P) or of pbkdf2 (C, PRF).
type keystoreParams struct {
	DKLen int      `json:"dklen"`
	N     int      `json:"n,omitempty"`
	R     int      `json:"r,omitempty"`
	P     int      `json:"p,omitempty"`
	C     int      `json:"c,omitempty"`
	PRF   string   `json:"prf,omitempty"`
	Salt  hexBytes `json:"salt"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// cost are scrypt's parameters: n rounds over 128·n·r bytes.
type cost struct{ n, r, p int }

// usualCost is what the OWASP Password Storage Cheat Sheet names first.
var usualCost = cost{n: 1 << 17, r: 8, p: 1}

// Bounds for files of others. Usual are 2^18 rounds, 256 MiB, 2^21 blocks.
const (
	maxScryptBytes  = 512 << 20 // 128·n·r
	maxScryptBlocks = 1 << 24   // n·r·p, which is time
	maxIterations   = 10_000_000
	maxSalt         = 1024
	keyLen          = 32
)

// parseKeystore reads and checks a keystore, so that opening it is safe.
func parseKeystore(text []byte) (keystore, error) {
	var k keystore
	if len(text) > maxWallet {
		return k, fmt.Errorf("keystore: more than %d bytes", maxWallet)
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return k, fmt.Errorf("keystore: %w", err)
	}
	c := k.Crypto
	switch {
	case k.Version != 3:
		return k, fmt.Errorf("keystore: version %d, want 3", k.Version)
	case c.Cipher != "aes-128-ctr":
		return k, fmt.Errorf("keystore: cipher %.32q, want aes-128-ctr", c.Cipher)
	case len(c.CipherParams.IV) != aes.BlockSize:
		return k, fmt.Errorf("keystore: iv of %d bytes, want %d", len(c.CipherParams.IV), aes.BlockSize)
	case len(c.Ciphertext) != keyLen:
		return k, fmt.Errorf("keystore: ciphertext of %d bytes, want %d", len(c.Ciphertext), keyLen)
	case len(c.MAC) != len(channel.Hash{}):
		return k, fmt.Errorf("keystore: mac of %d bytes, want %d", len(c.MAC), len(channel.Hash{}))
	}
	return k, c.checkKDF()
}

func (c keystoreCrypto) checkKDF() error {
	p := c.KDFParams
	switch {
	case p.DKLen != keyLen:
		return fmt.Errorf("keystore: dklen %d, want %d", p.DKLen, keyLen)
	case len(p.Salt) > maxSalt:
		return fmt.Errorf("keystore: salt of %d bytes, want up to %d", len(p.Salt), maxSalt)
	}
	switch c.KDF {
	case "scrypt":
		if p.N <= 1 || p.N&(p.N-1) != 0 || p.R <= 0 || p.P <= 0 {
			return fmt.Errorf("keystore: scrypt with n=%d r=%d p=%d: out of range", p.N, p.R, p.P)
		}
		// Divisions do not overflow.
		if p.R > maxScryptBytes/128/p.N || p.P > maxScryptBlocks/p.N/p.R {
			return fmt.Errorf("keystore: scrypt with n=%d r=%d p=%d: needs too much memory or time", p.N, p.R, p.P)
		}
	case "pbkdf2":
		if p.PRF != "hmac-sha256" {
			return fmt.Errorf("keystore: prf %.32q, want hmac-sha256", p.PRF)
		}
		if p.C <= 0 || p.C > maxIterations {
			return fmt.Errorf("keystore: pbkdf2 with c=%d, want 1 to %d", p.C, maxIterations)
		}
	default:
		return fmt.Errorf("keystore: kdf %.32q, want scrypt or pbkdf2", c.KDF)
	}
	return nil
}

// address returns what the file names; nothing proves it.
func (k keystore) address() (channel.Address, error) {
	if k.Address == "" {
		return channel.Address{}, errors.New("keystore: names no address: use x402 wallet import")
	}
	a, err := channel.ParseAddress("0x" + strings.TrimPrefix(k.Address, "0x"))
	if err != nil {
		return channel.Address{}, fmt.Errorf("keystore: %w", err)
	}
	return a, nil
}

// open decrypts the key. The keystore has been checked.
func (k keystore) open(passphrase string) (*channel.Key, error) {
	derived, err := k.Crypto.derive(passphrase)
	if err != nil {
		return nil, err
	}
	mac := channel.Keccak256(derived[16:32], k.Crypto.Ciphertext)
	if subtle.ConstantTimeCompare(mac[:], k.Crypto.MAC) != 1 {
		return nil, ErrWrongPassphrase
	}
	secret, err := k.Crypto.crypt(derived, k.Crypto.Ciphertext)
	if err != nil {
		return nil, err
	}
	key, err := channel.ParseKey(secret)
	if err != nil {
		return nil, fmt.Errorf("keystore: %w", err)
	}
	if k.Address != "" {
		if named, err := k.address(); err != nil || named != key.Address() {
			return nil, fmt.Errorf("keystore: the key belongs to %s, but the file names %.64q: it was changed", key.Address(), k.Address)
		}
	}
	return key, nil
}

func (c keystoreCrypto) derive(passphrase string) ([]byte, error) {
	p := c.KDFParams
	if c.KDF == "pbkdf2" {
		return pbkdf2.Key(sha256.New, passphrase, p.Salt, p.C, p.DKLen)
	}
	return scrypt.Key([]byte(passphrase), p.Salt, p.N, p.R, p.P, p.DKLen)
}

// crypt encrypts or decrypts, which is the same in counter mode.
func (c keystoreCrypto) crypt(derived, in []byte) ([]byte, error) {
	block, err := aes.NewCipher(derived[:16])
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(in))
	cipher.NewCTR(block, c.CipherParams.IV).XORKeyStream(out, in)
	return out, nil
}

// sealKey encrypts key with fresh salt and iv.
func sealKey(key *channel.Key, passphrase string, c cost) (keystore, error) {
	k := keystore{Version: 3, ID: newUUID()}
	address := key.Address()
	k.Address = hex.EncodeToString(address[:])
	k.Crypto.Cipher, k.Crypto.KDF = "aes-128-ctr", "scrypt"
	k.Crypto.KDFParams = keystoreParams{DKLen: keyLen, N: c.n, R: c.r, P: c.p, Salt: randomBytes(32)}
	k.Crypto.CipherParams.IV = randomBytes(aes.BlockSize)
	derived, err := k.Crypto.derive(passphrase)
	if err != nil {
		return keystore{}, err
	}
	if k.Crypto.Ciphertext, err = k.Crypto.crypt(derived, key.Bytes()); err != nil {
		return keystore{}, err
	}
	mac := channel.Keccak256(derived[16:32], k.Crypto.Ciphertext)
	k.Crypto.MAC = mac[:]
	return k, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// newUUID returns a random UUID (RFC 9562 section 5.4).
func newUUID() string {
	b := randomBytes(16)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
