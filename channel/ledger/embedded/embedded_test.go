package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

func TestConformance(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Home { return open(t, t.TempDir()) })
}

// open opens the ledger in dir until the end of the test.
func open(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// fill gives a ledger a short history.
func fill(t testing.TB, l *Ledger) *ledgertest.Party {
	t.Helper()
	p := ledgertest.NewParty(t, l.Params(), 1)
	for _, op := range []ledger.Op{p.Issue(1000), p.DepositOp(t, 600), p.ClaimOp(t, 500, 300), p.Settle(), p.RefundOp(t, 50, 0)} {
		if _, err := l.Submit(t.Context(), ledger.Tx{Time: 5, Op: op}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b") // made on the way
	l := open(t, dir)
	p := fill(t, l)
	before, err := l.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	params, address := l.Params(), l.Address()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l = open(t, dir)
	if l.Params() != params || l.Address() != address || address.IsZero() {
		t.Errorf("reopened as %+v of %s, was %+v of %s", l.Params(), l.Address(), params, address)
	}
	after, err := l.Audit(t.Context())
	if err != nil || after != before {
		t.Errorf("%+v, %v, want %+v", after, err, before)
	}
	r, err := l.Submit(t.Context(), ledger.Tx{Time: 9, Op: p.Settle()}) // remembered
	if err != nil || r.Time != 5 || r.Height != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	ro, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close() // read-only
	if again, err := ro.Audit(t.Context()); err != nil || again != before {
		t.Errorf("%+v, %v, want %+v", again, err, before)
	}
	if _, err := ro.Submit(t.Context(), ledger.Tx{Time: 5, Op: p.Issue(1)}); err == nil {
		t.Error("a read-only ledger was written")
	}
}

// TestAssetName: the asset is the operator's credit by name, too. A ledger that
// was created with another name keeps it: signatures are checked by it.
func TestAssetName(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p := l.Params(); p.Name != "x402 credit" || p.Version != "2" {
		t.Errorf("a new ledger's asset is %q version %q", p.Name, p.Version)
	}
	edit(t, l, metaBucket, schemaKey, binary.BigEndian.AppendUint64(nil, schemaNamedUSDC))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, open := range []func(string) (*Ledger, error){Open, OpenReadOnly} {
		l, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if p := l.Params(); p.Name != "USDC" || p.Version != "2" {
			t.Errorf("the old ledger's asset is %q version %q", p.Name, p.Version)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIdentity(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	for _, l := range []*Ledger{a, b} {
		if id := l.Params().ChainID; id < 1<<40 || id > 1<<53 {
			t.Errorf("chain id %d is not between 2^40 and 2^53", id)
		}
	}
	if a.Params().ChainID == b.Params().ChainID || a.Params().Token == b.Params().Token {
		t.Error("two ledgers are one")
	}
	// What was signed for one is worth nothing on the other.
	p := ledgertest.NewParty(t, a.Params(), 1)
	if _, err := b.Submit(t.Context(), ledger.Tx{Time: 5, Op: p.Issue(1000)}); err != nil {
		t.Fatal(err)
	}
	for _, op := range []ledger.Op{p.DepositOp(t, 10), ledger.TransferOf(p.Transfer(10)), p.ClaimOp(t, 10, 10)} {
		_, err := b.Submit(t.Context(), ledger.Tx{Time: 5, Op: op})
		if _, ok := errors.AsType[*ledger.RefusedError](err); !ok {
			t.Errorf("%T of another ledger: %v", op, err)
		}
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	if _, err := OpenReadOnly(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}

func TestNoLedger(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenReadOnly(dir); !errors.Is(err, ErrNoLedger) {
		t.Errorf("got %v, want ErrNoLedger", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("an audit made %v, %v", files, err)
	}
}

// TestInterruptedCreation: a key without a database is used, and a database
// without its buckets is completed.
func TestInterruptedCreation(t *testing.T) {
	dir := t.TempDir()
	k, err := createKey(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, DBFile), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if l := open(t, dir); l.Address() != k.Address() {
		t.Error("the key was drawn again")
	}
}

func TestSchema(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	edit(t, l, metaBucket, schemaKey, binary.BigEndian.AppendUint64(nil, schema+1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, open := range []func(string) (*Ledger, error){Open, OpenReadOnly} {
		if _, err := open(dir); err == nil || !strings.Contains(err.Error(), "schema 3, this program knows 2") {
			t.Errorf("got %v", err)
		}
	}
}

// edit changes a record behind the ledger's back.
func edit(t testing.TB, l *Ledger, bucket, key, value []byte) {
	t.Helper()
	err := l.db.Update(func(tx *bolt.Tx) error {
		if value == nil {
			return tx.Bucket(bucket).Delete(key)
		}
		return tx.Bucket(bucket).Put(key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTampered: whoever edits the file is found by the audit, or at the latest
// when the record is used.
func TestTampered(t *testing.T) {
	height := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	for name, tamper := range map[string]func(*Ledger, *ledgertest.Party){
		"account": func(l *Ledger, p *ledgertest.Party) {
			edit(t, l, accountBucket, p.Config.Payer[:], height(1<<40))
		},
		"account cut": func(l *Ledger, p *ledgertest.Party) {
			edit(t, l, accountBucket, p.Config.Payer[:], []byte{1})
		},
		"account key": func(l *Ledger, _ *ledgertest.Party) { edit(t, l, accountBucket, []byte{1}, height(0)) },
		"receiver": func(l *Ledger, p *ledgertest.Party) {
			edit(t, l, receiverBucket, p.Config.Receiver[:], nil)
		},
		"channel": func(l *Ledger, p *ledgertest.Party) {
			edit(t, l, channelBucket, p.ID[:], ledger.Channel{Config: p.Config, Balance: 1}.Encode())
		},
		"channel key":   func(l *Ledger, _ *ledgertest.Party) { edit(t, l, channelBucket, []byte{1}, height(0)) },
		"nonce key":     func(l *Ledger, _ *ledgertest.Party) { edit(t, l, nonceBucket, []byte{1}, []byte{1}) },
		"totals":        func(l *Ledger, _ *ledgertest.Party) { edit(t, l, metaBucket, totalsKey, ledger.Totals{}.Encode()) },
		"totals cut":    func(l *Ledger, _ *ledgertest.Party) { edit(t, l, metaBucket, totalsKey, []byte{1}) },
		"entry gone":    func(l *Ledger, _ *ledgertest.Party) { edit(t, l, journalBucket, height(2), nil) },
		"last entry":    func(l *Ledger, _ *ledgertest.Party) { edit(t, l, journalBucket, height(5), nil) },
		"entry garbage": func(l *Ledger, _ *ledgertest.Party) { edit(t, l, journalBucket, height(2), []byte("x")) },
		"entry key":     func(l *Ledger, _ *ledgertest.Party) { edit(t, l, journalBucket, []byte("x"), []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, t.TempDir())
			p := fill(t, l)
			tamper(l, p)
			if _, err := l.Audit(t.Context()); err == nil {
				t.Error("not found")
			}
		})
	}
}

// TestCancelled: a request whose client has left does nothing.
func TestCancelled(t *testing.T) {
	l := open(t, t.TempDir())
	p := fill(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Submit(ctx, ledger.Tx{Time: 5, Op: p.Issue(1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := l.Read(ctx, ledger.Touch{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := l.Audit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestKeyIsPrivate(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for _, name := range []string{keyFile, DBFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if (channel.Address{}) == l.Params().Token {
		t.Error("asset has no address")
	}
}

// BenchmarkSubmit is one durable transaction.
func BenchmarkSubmit(b *testing.B) {
	l := open(b, b.TempDir())
	p := ledgertest.NewParty(b, l.Params(), 1)
	for b.Loop() {
		if _, err := l.Submit(b.Context(), ledger.Tx{Time: 5, Op: p.Issue(1)}); err != nil {
			b.Fatal(err)
		}
	}
}
