package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/depinsim/x402/channel"
)

const (
	bucketAccounts = "accounts"
	bucketMeta     = "meta"
	keySchema      = "schema"
	schema         = "1"

	// lockWait is how long another process that has the file is waited for.
	lockWait = 500 * time.Millisecond
	// saveEvery is how often counts are stored that have changed.
	saveEvery = time.Second
	// forgetAfter is how long an account stays in memory that nobody uses: longer
	// than the tunnel reads and counts a flow that was closed, which is 30 s.
	forgetAfter = time.Minute
)

// errNoAccount says that there is no such account, or that the password is not
// its.
var errNoAccount = errors.New("no such credit, or another password")

// A book keeps the accounts in one bbolt file: the record of each under the hash
// of its token, so that whoever reads the file can spend nothing. A change of a
// record is durable when it returns; counts follow, see unsavedMost. It is safe
// for concurrent use.
type book struct {
	db     *bbolt.DB
	log    *slog.Logger
	counts *counts
	due    chan struct{} // one token: counts are to be stored soon; dropped when there is one

	writing sync.Mutex // one change of records at a time; taken before mu

	mu    sync.Mutex
	open  map[accountID]*account
	saved chan struct{} // closed after the next round of saving, and replaced
	shut  bool
}

// openBook opens the file, creating it with mode 0600 if missing.
func openBook(path string, log *slog.Logger) (*book, error) {
	_, statErr := os.Stat(path)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("accounts %s: %w", path, channel.ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("accounts %s: %w", path, err)
	}
	err = db.Update(prepareBook)
	if err == nil && errors.Is(statErr, os.ErrNotExist) {
		err = channel.SyncDir(filepath.Dir(path)) // bbolt syncs the file, not its name
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("accounts %s: %w", path, err), db.Close())
	}
	return &book{db: db, log: log, counts: new(counts), due: make(chan struct{}, 1), open: map[accountID]*account{}, saved: make(chan struct{})}, nil
}

func prepareBook(tx *bbolt.Tx) error {
	if meta := tx.Bucket([]byte(bucketMeta)); meta != nil {
		if v := string(meta.Get([]byte(keySchema))); v != schema {
			return fmt.Errorf("schema %.10q, this program knows %s", v, schema)
		}
		for _, name := range []string{bucketPayments, bucketPurchases} { // files of before have none
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}
	if k, _ := tx.Cursor().First(); k != nil {
		return errors.New("is another program's file")
	}
	for _, name := range []string{bucketAccounts, bucketPayments, bucketPurchases} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	meta, err := tx.CreateBucket([]byte(bucketMeta))
	if err != nil {
		return err
	}
	return meta.Put([]byte(keySchema), []byte(schema))
}

// close stores the last counts and closes the file.
func (b *book) close() error {
	err := b.save()
	b.mu.Lock()
	b.shut = true
	for _, a := range b.open {
		a.taken.Or(ended)
	}
	b.mu.Unlock()
	return errors.Join(err, b.db.Close())
}

// A login is what a customer shows: it is known to him alone.
type login struct{ user, password string }

func newLogin() login {
	return login{strings.ToLower(rand.Text()), strings.ToLower(rand.Text())} // 130 bits each
}

// create stores a new account.
func (b *book) create(r record) (login, error) {
	l := newLogin()
	b.writing.Lock()
	defer b.writing.Unlock()
	return l, b.put(idOf(l.user), r.of(l))
}

// of is a new account's record as it is stored.
func (r record) of(l login) record {
	r.Version, r.Secret = recordVersion, sha256.Sum256([]byte(l.password))
	return r
}

// put stores a record.
func (b *book) put(id accountID, r record) error {
	err := b.db.Update(func(tx *bbolt.Tx) error { return putRecord(tx, id, r) })
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	return nil
}

func putRecord(tx *bbolt.Tx, id accountID, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketAccounts)).Put(id[:], text)
}

// load reads a record.
func (b *book) load(id accountID) (r record, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		text := tx.Bucket([]byte(bucketAccounts)).Get(id[:])
		if text == nil {
			return errNoAccount
		}
		r, err = parseRecord(text)
		return err
	})
	return r, err
}

// all calls f with every account, as it is now. What cannot be read is told in the
// end, and keeps f from no other.
func (b *book) all(f func(accountID, record)) error {
	var ids []accountID
	err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketAccounts)).ForEach(func(k, _ []byte) error {
			if len(k) != len(accountID{}) {
				return errors.New("accounts: a key that is no hash")
			}
			ids = append(ids, accountID(k))
			return nil
		})
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		switch r, err := b.read(id); {
		case err == nil:
			f(id, r)
		case !errors.Is(err, errNoAccount): // deleted meanwhile
			errs = append(errs, fmt.Errorf("credit %s: %w", nameOf(id), err))
		}
	}
	return errors.Join(errs...)
}

// read returns an account's record with the counts of now.
func (b *book) read(id accountID) (record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.open[id]; a != nil {
		return a.now(), nil
	}
	return b.load(id)
}

// now is the record with the counts of now. The caller holds book.mu.
func (a *account) now() record {
	r := a.record
	r.Up, r.Down = a.up.Load(), a.down.Load()
	r.Spent = a.spent.Load() // after them: lanes count it before
	return r
}

// enter returns the account of a new flow, of which there may be most at a time;
// leave ends the flow.
func (b *book) enter(id accountID, most int) (*account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut {
		return nil, errEnded
	}
	a := b.open[id]
	if a == nil {
		r, err := b.load(id)
		if err != nil {
			return nil, err
		}
		a = b.use(id, r)
	}
	r, taken, limit := a.now(), a.taken.Load(), a.limit.Load()
	// What is under way to a customer who does not read was not reserved: the
	// less he has left, the fewer flows.
	few := 4 + int(min(r.bytesLeft()/flowShare, uint64(most)))
	switch {
	case taken&ended != 0 || r.expired(time.Now()):
		return nil, errEnded
	case bytesAt(limit-min(limit, taken), r.Price) < leastLeft:
		return nil, errSpent
	case a.flows >= min(few, most):
		return nil, errFlows
	}
	a.flows++
	return a, nil
}

var errFlows = errors.New("too many connections at once for what is left of the credit")

const (
	// flowShare is how many bytes an account has left for each of its flows.
	flowShare = 256 << 10
	// leastLeft is how many bytes have to be left for a flow: a packet or two.
	leastLeft = 3_000
)

// use takes an account into memory. The caller holds mu.
func (b *book) use(id accountID, r record) *account {
	a := &account{id: id, book: b, record: r, used: time.Now()}
	a.taken.Store(r.Spent)
	a.spent.Store(r.Spent)
	a.up.Store(r.Up)
	a.down.Store(r.Down)
	a.stored.Store(r.Up + r.Down)
	a.limit.Store(r.limit())
	if r.Closed || r.Pending {
		a.taken.Or(ended)
	}
	b.open[id] = a
	return a
}

func (b *book) leave(a *account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.flows--
	a.used = time.Now()
}

// change stores a change of an account's record, and then applies it.
func (b *book) change(id accountID, f func(*record) error) (record, error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	return b.apply(id, f)
}

// end closes an account and does f: nothing is spent any more beyond what f sees.
func (b *book) end(id accountID, f func(*record) error) (record, error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	a, err := b.get(id)
	if err != nil {
		return record{}, err
	}
	before := a.taken.Or(ended)
	r, err := b.apply(id, func(r *record) error {
		r.Spent, r.Closed = before&^ended, true // what flows have reserved they may yet spend
		return f(r)
	})
	if err != nil && before&ended == 0 {
		a.taken.And(^uint64(ended))
	}
	return r, err
}

// get returns an account that is in memory from now on.
func (b *book) get(id accountID) (*account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.open[id]; a != nil {
		return a, nil
	}
	r, err := b.load(id)
	if err != nil {
		return nil, err
	}
	return b.use(id, r), nil
}

// apply is change for one who holds writing.
func (b *book) apply(id accountID, f func(*record) error) (record, error) {
	r, err := b.read(id)
	if err != nil {
		return r, err
	}
	if err := f(&r); err != nil {
		return r, err
	}
	if err := b.put(id, r); err != nil {
		return r, err
	}
	b.became(id, r)
	return r, nil
}

// became takes over a record that was stored. The caller holds writing.
func (b *book) became(id accountID, r record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.open[id]
	if a == nil {
		return
	}
	was := a.record
	a.record = r
	a.limit.Store(r.limit())
	if was.Pending && !r.Pending && !r.Closed {
		a.taken.And(^uint64(ended))
	}
}

// run stores counts until ctx ends.
func (b *book) run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-b.due:
		}
		if err := b.save(); err != nil {
			b.log.Error("store what was used", "err", err) // flows wait, and it is tried again
		}
	}
}

func (b *book) saveSoon() {
	select {
	case b.due <- struct{}{}:
	default:
	}
}

// awaitSave waits until what a has counted is stored, to within the bound.
func (b *book) awaitSave(ctx context.Context, a *account) error {
	for {
		b.mu.Lock()
		saved := b.saved
		b.mu.Unlock()
		if a.unsaved() < unsavedMost {
			return nil
		}
		b.saveSoon()
		select {
		case <-saved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if a.taken.Load()&ended != 0 {
			return errEnded
		}
	}
}

// save stores all counts that have changed, in one transaction, and forgets who
// is not used any more.
func (b *book) save() error {
	b.writing.Lock()
	defer b.writing.Unlock()
	var changed []*account
	var records []record
	b.mu.Lock()
	for id, a := range b.open {
		switch {
		case a.unsaved() > 0:
			changed, records = append(changed, a), append(records, a.now())
		case a.flows == 0 && time.Since(a.used) > forgetAfter:
			delete(b.open, id)
		}
	}
	b.mu.Unlock()
	if len(changed) == 0 {
		return nil
	}
	err := b.db.Update(func(tx *bbolt.Tx) error {
		for i, r := range records {
			if err := putRecord(tx, changed[i].id, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	for i, a := range changed {
		a.stored.Store(records[i].Up + records[i].Down)
	}
	b.mu.Lock()
	close(b.saved)
	b.saved = make(chan struct{})
	b.mu.Unlock()
	return nil
}

// forget deletes accounts that are over.
func (b *book) forget(ids []accountID) error {
	if len(ids) == 0 {
		return nil
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.db.Update(func(tx *bbolt.Tx) error {
		for _, id := range ids {
			if b.open[id] != nil {
				continue
			}
			if err := tx.Bucket([]byte(bucketAccounts)).Delete(id[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
