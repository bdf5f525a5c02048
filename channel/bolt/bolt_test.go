package bolt

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/depinsim/x402/channel"
)

func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustSave(t testing.TB, s *Store, states ...channel.State) {
	t.Helper()
	for _, state := range states {
		if err := s.Save(state); err != nil {
			t.Fatal(err)
		}
	}
}

func wantStates(t testing.TB, s *Store, want ...channel.State) {
	t.Helper()
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

// newState returns the n-th channel between two strangers.
func newState(t testing.TB, n byte) channel.State {
	t.Helper()
	s, err := channel.NewState(
		channel.Domain{ChainID: 84532, Contract: channel.SettlementContract()},
		channel.Config{
			Payer: channel.Address{1}, PayerAuthorizer: channel.Address{1},
			Receiver: channel.Address{2}, ReceiverAuthorizer: channel.Address{2},
			Token: channel.Address{3}, WithdrawDelay: 86400, Salt: channel.Hash{n},
		})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.db")
	s := mustOpen(t, path)
	if got, err := s.Load(); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	var states []channel.State
	for n := range byte(20) {
		states = append(states, newState(t, 100-n))
	}
	mustSave(t, s, states...)
	states[3].Max, states[3].Signature[0], states[3].Note = 7, 8, []byte("nine")
	states[0].Phase, states[0].Balance, states[0].Claimed = channel.Frozen, 100, 50
	mustSave(t, s, states[3], states[0])
	wantStates(t, s, states...)
	mustClose(t, s)
	s = mustOpen(t, path)
	defer s.Close()
	wantStates(t, s, states...)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	long := states[0]
	long.Note = make([]byte, channel.MaxNote+1)
	if _, ok := errors.AsType[*channel.StateError](s.Save(long)); !ok {
		t.Error("a note too long was saved")
	}
}

func TestDelete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.db")
	s := mustOpen(t, path)
	one, two, three := newState(t, 3), newState(t, 1), newState(t, 2)
	mustSave(t, s, one, two, three)
	for range 2 { // the second time there is none
		if err := s.Delete(two.ID); err != nil {
			t.Fatal(err)
		}
		wantStates(t, s, one, three)
	}
	mustSave(t, s, two)
	mustClose(t, s)
	s = mustOpen(t, path)
	wantStates(t, s, one, three, two)
	mustClose(t, s)
	if err := s.Delete(two.ID); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestStoreIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.db")
	s := mustOpen(t, path)
	_, err := Open(path)
	if want := "wallet " + path + ": in use by another process"; !errors.Is(err, channel.ErrInUse) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	mustClose(t, s)
	mustClose(t, mustOpen(t, path))
}

func TestStoreClosed(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "wallet.db"))
	mustClose(t, s)
	_, err := s.Load()
	for what, err := range map[string]error{"Load": err, "Save": s.Save(newState(t, 1))} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	schema := func(v uint32) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return putSchema(tx.Bucket([]byte(bucketMeta)), v) }
	}
	for name, row := range map[string]struct {
		change func(*bbolt.Tx) error
		want   string
	}{
		"newer":     {schema(2), "schema 2, this program knows 1"},
		"zero":      {schema(0), "schema 0, this program knows 1"},
		"no schema": {func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Delete([]byte(keySchema)) }, "has no schema version"},
		"foreign": {func(tx *bbolt.Tx) error {
			return tx.DeleteBucket([]byte(bucketMeta))
		}, "is not a wallet"},
	} {
		path := filepath.Join(dir, name)
		s := mustOpen(t, path)
		if err := s.update(row.change); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, dir, filepath.Join(dir, "missing", "wallet.db")} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A file of an older schema is brought up to date in the transaction that
// opens it, or not at all.
func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.db")
	s := mustOpen(t, path)
	state := newState(t, 1)
	mustSave(t, s, state)
	mustClose(t, s)

	var ran []int
	step := func(n int, err error) migration {
		return func(tx *bbolt.Tx) error {
			ran = append(ran, n)
			return errors.Join(err, tx.Bucket([]byte(bucketMeta)).Put([]byte("note"), []byte{byte(n)}))
		}
	}
	broken := errors.New("broken")
	if _, err := open(path, []migration{step(1, nil), step(2, broken)}); !errors.Is(err, broken) || !strings.Contains(err.Error(), "migrate from schema 2") {
		t.Fatalf("%v", err)
	}
	s = mustOpen(t, path) // still version 1
	wantStates(t, s, state)
	mustClose(t, s)
	ran = nil
	for range 2 {
		s, err := open(path, []migration{step(1, nil), step(2, nil)})
		if err != nil {
			t.Fatal(err)
		}
		wantStates(t, s, state)
		mustClose(t, s)
	}
	if d := cmp.Diff([]int{1, 2}, ran); d != "" {
		t.Error(d)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "schema 3, this program knows 1") {
		t.Errorf("older program: %v", err)
	}
}

// Damage is told, never a panic: each page in turn is overwritten, and the
// file cut at each page.
func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "wallet.db")
	s := mustOpen(t, path)
	for n := range byte(40) {
		mustSave(t, s, newState(t, n))
	}
	page := s.db.Info().PageSize
	mustClose(t, s)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	try := func(b []byte) {
		t.Helper()
		bad := filepath.Join(t.TempDir(), "bad.db")
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(bad)
		if err == nil {
			_, err = s.Load()
			s.Close()
		}
		if err != nil {
			told++
		}
	}
	for at := 0; at < len(whole); at += page {
		for _, fill := range []byte{0x00, 0xff, 0x5a} {
			b := append([]byte(nil), whole...)
			for i := range page {
				b[at+i] = fill
			}
			try(b)
		}
		try(whole[:at])
	}
	if told == 0 {
		t.Error("no damage was noticed")
	}
}

// A state whose bytes changed is refused by name, not loaded.
func TestDamagedState(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "wallet.db"))
	defer s.Close()
	state := newState(t, 1)
	state.Max = 1000
	mustSave(t, s, state)
	err := s.update(func(tx *bbolt.Tx) error {
		values := tx.Bucket([]byte(bucketChannels))
		b := append([]byte(nil), values.Get(state.ID[:])...)
		b[len(b)-80] ^= 1
		return values.Put(state.ID[:], b)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, channel.ErrCorrupt) || !strings.Contains(err.Error(), state.ID.String()[2:]) {
		t.Errorf("%v", err)
	}
}

// A payee over a store: what it accepted is there for the next one.
func TestPayeeOnStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.db")
	s := mustOpen(t, path)
	k, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	p, err := channel.NewPayee(s)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range byte(4) {
		state := newState(t, n)
		c := state.Config
		c.PayerAuthorizer = k.Address()
		wg.Go(func() {
			st, err := p.Open(state.Domain, c)
			if err == nil {
				st, err = p.Observe(st.ID, 1000, 0, 0, 0)
			}
			for max := channel.Amount(1); err == nil && max <= 10; max++ {
				st, err = p.Accept(st.Domain.SignVoucher(k, st.ID, max), binary.BigEndian.AppendUint64(nil, uint64(max)))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mustClose(t, s)
	s = mustOpen(t, path)
	defer s.Close()
	states, err := s.Load()
	if err != nil || len(states) != 4 {
		t.Fatalf("%d states, %v", len(states), err)
	}
	for _, st := range states {
		if st.Max != 10 || binary.BigEndian.Uint64(st.Note) != 10 {
			t.Errorf("%+v", st)
		}
	}
}

func BenchmarkSave(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "wallet.db"))
	defer s.Close()
	state := newState(b, 1)
	for b.Loop() {
		state.Max++
		mustSave(b, s, state)
	}
}
