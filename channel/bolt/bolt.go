// Package bolt keeps channel states in a bbolt file: for buyers, relays and
// facilitators. Routers use channel.Journal instead, since this one maps its
// file into memory, which jffs2 cannot, and writes whole pages, which wears
// flash.
//
// One process has the file at a time. Each Save is one transaction, durable
// when it returns; after an error the file is as it was before, and Save may
// be tried again.
package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/depinsim/x402/channel"
)

// The file's buckets: in channels the state under its channel id and in order
// the ids as they came; in meta the schema version.
const (
	bucketChannels = "channels"
	bucketOrder    = "order"
	bucketMeta     = "meta"
	keySchema      = "schema"
)

// lockWait is how long Open waits for another process to finish: long enough
// for a restart that overlaps, short enough for a person.
const lockWait = 500 * time.Millisecond

// A migration turns a file of one schema version into one of the next, within
// the transaction that opens it.
type migration func(*bbolt.Tx) error

// A Store is a channel.Store in one bbolt file. It is safe for concurrent use.
type Store struct {
	path string
	db   *bbolt.DB
}

var _ channel.Store = (*Store)(nil)

// Open opens the file, creating it with mode 0600 if missing; its directory
// must exist. The error Is channel.ErrInUse when another process has it.
func Open(path string) (*Store, error) {
	return open(path, nil)
}

// open knows the schema versions 1 to len(migrations)+1; migrations[0] leads
// from 1 to 2.
func open(path string, migrations []migration) (*Store, error) {
	_, statErr := os.Stat(path)
	var db *bbolt.DB
	err := guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("wallet %s: %w", path, channel.ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("wallet %s: %w", path, err)
	}
	s := &Store{path, db}
	err = s.update(func(tx *bbolt.Tx) error { return prepare(tx, migrations) })
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = channel.SyncDir(filepath.Dir(path)) // bbolt syncs the file, not its name
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wallet %s: %w", path, err), db.Close())
	}
	return s, nil
}

// prepare makes the buckets of a new file, or brings an old one up to date.
// A file that is as it should be is not written.
func prepare(tx *bbolt.Tx, migrations []migration) error {
	newest := uint32(len(migrations) + 1)
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return errors.New("is not a wallet")
		}
		return create(tx, newest)
	}
	v := meta.Get([]byte(keySchema))
	if len(v) != 4 {
		return errors.New("has no schema version")
	}
	version := binary.BigEndian.Uint32(v)
	if version == 0 || version > newest {
		return fmt.Errorf("schema %d, this program knows %d", version, newest)
	}
	if version == newest {
		return errUnchanged
	}
	for ; version < newest; version++ {
		if err := migrations[version-1](tx); err != nil {
			return fmt.Errorf("migrate from schema %d: %w", version, err)
		}
	}
	return putSchema(meta, newest)
}

func create(tx *bbolt.Tx, schema uint32) error {
	for _, name := range []string{bucketChannels, bucketOrder} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	meta, err := tx.CreateBucket([]byte(bucketMeta))
	if err != nil {
		return err
	}
	return putSchema(meta, schema)
}

func putSchema(meta *bbolt.Bucket, schema uint32) error {
	return meta.Put([]byte(keySchema), binary.BigEndian.AppendUint32(nil, schema))
}

// errUnchanged rolls a transaction back without being an error.
var errUnchanged = errors.New("unchanged")

func (s *Store) update(f func(*bbolt.Tx) error) error {
	err := guard(func() error { return s.db.Update(f) })
	switch {
	case errors.Is(err, errUnchanged):
		return nil
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return net.ErrClosed
	}
	return err
}

// Load returns every channel once, in the order in which they were first
// saved. A state that does not decode is an error that names its channel.
func (s *Store) Load() ([]channel.State, error) {
	var states []channel.State
	err := guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) (err error) {
			states, err = loadAll(tx)
			return err
		})
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("wallet %s: %w", s.path, err)
	}
	return states, nil
}

func loadAll(tx *bbolt.Tx) (states []channel.State, err error) {
	values := tx.Bucket([]byte(bucketChannels))
	err = tx.Bucket([]byte(bucketOrder)).ForEach(func(_, id []byte) error {
		var state channel.State
		if err := state.UnmarshalBinary(values.Get(id)); err != nil {
			return fmt.Errorf("%w: channel %x: %w", channel.ErrCorrupt, id, err)
		}
		states = append(states, state)
		return nil
	})
	return states, err
}

// Save stores the state; it is durable when Save returns nil.
func (s *Store) Save(state channel.State) error {
	value, err := state.MarshalBinary()
	if err != nil {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		values := tx.Bucket([]byte(bucketChannels))
		if values.Get(state.ID[:]) == nil {
			order := tx.Bucket([]byte(bucketOrder))
			n, err := order.NextSequence()
			if err != nil {
				return err
			}
			if err := order.Put(binary.BigEndian.AppendUint64(nil, n), state.ID[:]); err != nil {
				return err
			}
		}
		return values.Put(state.ID[:], value)
	})
	if err != nil {
		return fmt.Errorf("wallet %s: %w", s.path, err)
	}
	return nil
}

// Delete forgets a channel, durably when it returns nil. It is no error if there is
// none.
func (s *Store) Delete(id channel.ID) error {
	err := s.update(func(tx *bbolt.Tx) error {
		values := tx.Bucket([]byte(bucketChannels))
		if values.Get(id[:]) == nil {
			return errUnchanged
		}
		c := tx.Bucket([]byte(bucketOrder)).Cursor()
		k, v := c.First()
		for k != nil && string(v) != string(id[:]) {
			k, v = c.Next()
		}
		if k != nil {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return values.Delete(id[:])
	})
	if err != nil {
		return fmt.Errorf("wallet %s: %w", s.path, err)
	}
	return nil
}

// Close releases the file. Everything saved is already durable.
func (s *Store) Close() error { return s.db.Close() }

// guard turns into an error what bbolt does with a damaged file: it panics, or
// reads beyond the end of what it mapped.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", channel.ErrCorrupt, r)
		}
	}()
	return f()
}
