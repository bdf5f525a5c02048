// Package embedded keeps a ledger in one bbolt file: records, and the journal
// of every transaction, changed together in one durable commit. A process that
// is killed at any instant leaves either all of a transaction or nothing.
//
// A directory holds ledger.db and ledger.key. Creating it draws the key and
// the chain id; the asset's address derives from the key, so that no signature
// made for one ledger is worth anything on another.
package embedded

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// ErrInUse is returned by Open while another process has the ledger open.
var ErrInUse = errors.New("ledger in use by another process")

// ErrNoLedger is returned by OpenReadOnly for a directory without a ledger.
var ErrNoLedger = errors.New("no ledger here")

// DBFile is the database's name in its folder.
const DBFile = "ledger.db"

const (
	schema      = 2
	lockTimeout = time.Second

	keyFile = "ledger.key"

	// The EIP-712 domain of the asset. Wallets show the name to those who sign:
	// it is the operator's credit, and not Circle's.
	assetName    = "x402 credit"
	assetVersion = "2"
	// Ledgers of schema 1 were created with this name, by which all that was
	// signed for them is checked.
	schemaNamedUSDC = 1
	nameOfSchema1   = "USDC"
)

// Buckets, and the keys of the first.
var (
	metaBucket     = []byte("meta")
	accountBucket  = []byte("accounts")
	receiverBucket = []byte("receivers")
	channelBucket  = []byte("channels")
	nonceBucket    = []byte("nonces")
	journalBucket  = []byte("journal") // height, big-endian, to entry
	intentBucket   = []byte("intents") // intent to height

	schemaKey  = []byte("schema")
	chainKey   = []byte("chain id")
	addressKey = []byte("ledger address")
	totalsKey  = []byte("totals")
)

// A Ledger is an open ledger. It is safe for concurrent use; transactions run
// one after the other, reads beside them.
type Ledger struct {
	db     *bolt.DB
	key    *channel.Key // nil if opened read-only
	params ledger.Params
}

// Open opens the ledger in dir and creates it, and dir, if there is none. It
// waits at most a second for another process to let go of it.
func Open(dir string) (*Ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	db, err := openDB(dir, false)
	if err != nil {
		return nil, err
	}
	l := &Ledger{db: db}
	if err := l.load(dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return l, nil
}

// OpenReadOnly opens an existing ledger for Read and Audit.
func OpenReadOnly(dir string) (*Ledger, error) {
	if _, err := os.Stat(filepath.Join(dir, DBFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoLedger)
	}
	db, err := openDB(dir, true)
	if err != nil {
		return nil, err
	}
	l := &Ledger{db: db}
	if err := db.View(l.readMeta); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", dir, err), db.Close())
	}
	return l, nil
}

func openDB(dir string, readOnly bool) (*bolt.DB, error) {
	db, err := bolt.Open(filepath.Join(dir, DBFile), 0o600, &bolt.Options{
		Timeout:  lockTimeout,
		ReadOnly: readOnly,
		// Rebuilding the free list at start is cheaper than writing it with
		// every commit.
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return db, nil
}

// load reads the ledger's parameters and key, or draws them. The key is on the
// disk before the database names its address; a key without a database, left
// by a creation that was cut short, is used.
func (l *Ledger) load(dir string) error {
	fresh := false
	err := l.db.View(func(tx *bolt.Tx) error {
		if fresh = tx.Bucket(metaBucket) == nil; fresh {
			return nil
		}
		return l.readMeta(tx)
	})
	if err != nil {
		return fmt.Errorf("ledger %s: %w", dir, err)
	}
	path := filepath.Join(dir, keyFile)
	l.key, err = loadKey(path, fresh)
	if err != nil {
		return fmt.Errorf("ledger key: %w", err)
	}
	if fresh {
		if err := l.create(); err != nil {
			return fmt.Errorf("create ledger in %s: %w", dir, err)
		}
	}
	if l.params.Token != assetOf(l.key) {
		return fmt.Errorf("ledger key: %s belongs to another ledger", path)
	}
	return nil
}

// create writes an empty ledger. The chain id is between 2^40 and 2^53: beyond
// those of public chains, and exact in JavaScript.
func (l *Ledger) create() error {
	span := new(big.Int).SetUint64(1<<53 - channel.FirstPrivate)
	n, err := rand.Int(rand.Reader, span)
	if err != nil {
		return err
	}
	chain := n.Uint64() + channel.FirstPrivate
	err = l.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{metaBucket, accountBucket, receiverBucket, channelBucket, nonceBucket, journalBucket, intentBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(metaBucket)
		address := l.key.Address()
		return errors.Join(
			meta.Put(schemaKey, binary.BigEndian.AppendUint64(nil, schema)),
			meta.Put(chainKey, binary.BigEndian.AppendUint64(nil, chain)),
			meta.Put(addressKey, address[:]),
			meta.Put(totalsKey, ledger.Totals{}.Encode()),
		)
	})
	if err != nil {
		return err
	}
	return l.db.View(l.readMeta)
}

// readMeta reads the parameters. A schema that this program does not know is
// refused before anything else is looked at.
func (l *Ledger) readMeta(tx *bolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return ErrNoLedger
	}
	version, err := readUint(meta.Get(schemaKey))
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	name := assetName
	switch version {
	case schema:
	case schemaNamedUSDC:
		name = nameOfSchema1
	default:
		return fmt.Errorf("schema %d, this program knows %d", version, schema)
	}
	chain, err := readUint(meta.Get(chainKey))
	if err != nil {
		return fmt.Errorf("chain id: %w", err)
	}
	address := meta.Get(addressKey)
	if len(address) != len(channel.Address{}) {
		return fmt.Errorf("ledger address: %d bytes", len(address))
	}
	l.params = ledger.Params{
		ChainID: chain, Token: assetAddress(channel.Address(address)),
		Name: name, Version: assetVersion, FeeDivisor: ledger.FeeDivisor,
	}
	return nil
}

// assetAddress derives the asset's address: one that has no private key.
func assetAddress(ledgerKey channel.Address) channel.Address {
	h := channel.Keccak256([]byte("x402 embedded ledger asset"), ledgerKey[:])
	return channel.Address(h[12:])
}

func assetOf(k *channel.Key) channel.Address { return assetAddress(k.Address()) }

// Params returns what the ledger was created with.
func (l *Ledger) Params() ledger.Params { return l.params }

// Address is the account of the ledger's key, which stands for its operator.
// It is zero if the ledger was opened read-only.
func (l *Ledger) Address() channel.Address {
	if l.key == nil {
		return channel.Address{}
	}
	return l.key.Address()
}

// Close releases the file.
func (l *Ledger) Close() error { return l.db.Close() }

// Submit runs tx and returns once it is on the disk; see [ledger.Execute]. An
// error that is no *ledger.RefusedError means that the store failed. Then
// nothing of tx was kept, or all of it if the very last sync failed; the same tx
// again tells.
func (l *Ledger) Submit(ctx context.Context, tx ledger.Tx) (r ledger.Receipt, err error) {
	if err := ctx.Err(); err != nil {
		return ledger.Receipt{}, err
	}
	err = l.db.Update(func(b *bolt.Tx) error {
		r, err = ledger.Execute(l.params, &view{tx: b, params: l.params}, tx)
		return err
	})
	if err == nil {
		return r, nil
	}
	if _, ok := errors.AsType[*ledger.RefusedError](err); !ok {
		err = fmt.Errorf("ledger: %w", err)
	}
	return ledger.Receipt{}, err
}

// Read returns a snapshot of the records named.
func (l *Ledger) Read(ctx context.Context, t ledger.Touch) (s ledger.State, err error) {
	if err := ctx.Err(); err != nil {
		return ledger.State{}, err
	}
	err = l.db.View(func(b *bolt.Tx) error {
		s, err = (&view{tx: b, params: l.params}).Load(t)
		return err
	})
	if err != nil {
		return ledger.State{}, fmt.Errorf("ledger: %w", err)
	}
	return s, nil
}

// Audit recomputes the whole ledger from its journal and compares; see
// [ledger.Replay]. It sees one snapshot while transactions go on.
func (l *Ledger) Audit(ctx context.Context) (report ledger.Report, err error) {
	err = l.db.View(func(b *bolt.Tx) error {
		v := &view{tx: b, params: l.params}
		live, err := v.all()
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		report, err = ledger.Replay(ctx, live, v.journal)
		return err
	})
	return report, err
}

func readUint(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%d bytes, want 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
