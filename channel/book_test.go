package channel

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
)

// A memStore is a Store in memory that can be told to fail, and counts.
type memStore struct {
	mu     sync.Mutex
	states map[ID]State
	order  []ID
	saves  int
	fail   error
	before func(State) // called in Save, outside the lock
}

func newMemStore(states ...State) *memStore {
	m := &memStore{states: map[ID]State{}}
	for _, s := range states {
		m.states[s.ID] = s
		m.order = append(m.order, s.ID)
	}
	return m
}

func (m *memStore) Load() ([]State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []State
	for _, id := range m.order {
		all = append(all, m.states[id])
	}
	return all, m.fail
}

func (m *memStore) Save(s State) error {
	if m.before != nil {
		m.before(s)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if _, ok := m.states[s.ID]; !ok {
		m.order = append(m.order, s.ID)
	}
	m.saves++
	m.states[s.ID] = s
	return nil
}

func (m *memStore) Close() error { return nil }

func (m *memStore) get(id ID) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.states[id]
}

func mustPayee(t testing.TB, s Store) *Payee {
	t.Helper()
	p, err := NewPayee(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustPayer(t testing.TB, s Store) *Payer {
	t.Helper()
	p, err := NewPayer(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A buyer and a seller, each with a store, through a channel's whole life.
func TestPayerPaysPayee(t *testing.T) {
	d, c, k := goldenDomain(), goldenConfig(t), goldenKey(t)
	buyer, seller := newMemStore(), newMemStore()
	payer, payee := mustPayer(t, buyer), mustPayee(t, seller)
	s, err := payer.Open(d, c)
	if err != nil {
		t.Fatal(err)
	}
	id := s.ID
	_, err = payee.Accept(d.SignVoucher(k, id, 1), nil)
	wantReason(t, "before Open", err, ReasonUnknown)
	if _, err := payee.Open(d, c); err != nil {
		t.Fatal(err)
	}
	_, err = payer.Sign(k, id, 1, nil)
	wantReason(t, "no balance", err, ReasonBalance)
	for _, observe := range []func(ID, Amount, Amount, uint64, uint64) (State, error){payer.Observe, payee.Observe} {
		if _, err := observe(id, 1000, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	for max := Amount(100); max <= 1000; max += 300 {
		v, err := payer.Sign(k, id, max, []byte("signed"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := payee.Accept(v, fmt.Appendf(nil, "%d", max))
		if err != nil || s.Max != max || string(s.Note) != max.String() {
			t.Fatalf("%+v, %v", s, err)
		}
		if got := seller.get(id); got.Max != max || string(got.Note) != max.String() {
			t.Fatalf("not stored: %+v", got)
		}
	}
	if _, err := payee.Freeze(id); err != nil {
		t.Fatal(err)
	}
	if s, err := payee.Observe(id, 1000, 1000, 1, 0); err != nil || s.Phase != Frozen {
		t.Fatalf("%+v, %v", s, err)
	}
	// Both find everything again after a restart.
	payer, payee = mustPayer(t, buyer), mustPayee(t, seller)
	if s, ok := payer.Get(id); !ok || s.Max != 1000 || string(s.Note) != "signed" {
		t.Errorf("payer: %+v", s)
	}
	if s, ok := payee.Get(id); !ok || s.Max != 1000 || s.Claimed != 1000 || s.Phase != Frozen || s.RefundNonce != 1 {
		t.Errorf("payee: %+v", s)
	}
	if s, err := payee.Thaw(id); err != nil || s.Phase != Open {
		t.Errorf("Thaw: %+v, %v", s, err)
	}
	if s, err := payee.Open(d, c); err != nil || s.Max != 1000 {
		t.Errorf("Open of a known channel: %+v, %v", s, err)
	}
}

func TestPayerRefuses(t *testing.T) {
	other, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	s := opened(t)
	store := newMemStore(s)
	p := mustPayer(t, store)
	k, id := goldenKey(t), s.ID
	if _, err := p.Sign(k, id, 200, nil); err != nil {
		t.Fatal(err)
	}
	saves := store.saves
	for name, row := range map[string]struct {
		key    *Key
		id     ID
		max    Amount
		note   int
		reason Reason
	}{
		"unknown":   {k, ID{1}, 300, 0, ReasonUnknown},
		"same":      {k, id, 200, 0, ReasonAmount},
		"falls":     {k, id, 199, 0, ReasonAmount},
		"over":      {k, id, 1001, 0, ReasonBalance},
		"other key": {other, id, 300, 0, ReasonSignature},
		"long note": {k, id, 300, MaxNote + 1, ReasonNote},
	} {
		v, err := p.Sign(row.key, row.id, row.max, make([]byte, row.note))
		wantReason(t, name, err, row.reason)
		if v != (Voucher{}) {
			t.Errorf("%s: a voucher came with the refusal", name)
		}
	}
	if _, err := p.Freeze(id); err != nil {
		t.Fatal(err)
	}
	_, err = p.Sign(k, id, 300, nil)
	wantReason(t, "frozen", err, ReasonFrozen)
	if got, _ := p.Get(id); got.Max != 200 || store.saves != saves+1 {
		t.Errorf("%d saves, %+v", store.saves-saves, got)
	}
}

// What the store refuses did not happen: not in memory, not for the peer. The
// same voucher is good once the store is.
func TestStoreFailure(t *testing.T) {
	s := opened(t)
	store := newMemStore(s)
	payee, payer := mustPayee(t, store), mustPayer(t, newMemStore(s))
	v := s.Domain.SignVoucher(goldenKey(t), s.ID, 200)
	store.fail = errors.New("no space left on device")
	if got, err := payee.Accept(v, []byte("x")); !errors.Is(err, store.fail) || got.Max != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, ok := errors.AsType[*StateError](func() error { _, err := payee.Accept(v, nil); return err }()); ok {
		t.Error("a full disk is blamed on the voucher")
	}
	for what, f := range map[string]func() (State, error){
		"Observe": func() (State, error) { return payee.Observe(s.ID, 2000, 100, 0, 0) },
		"Note":    func() (State, error) { return payee.Note(s.ID, []byte("x")) },
		"Freeze":  func() (State, error) { return payee.Freeze(s.ID) },
	} {
		if _, err := f(); !errors.Is(err, store.fail) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := s.Config
	other.Salt[5] = 5
	if _, err := payee.Open(s.Domain, other); !errors.Is(err, store.fail) {
		t.Errorf("Open: %v", err)
	}
	if got, _ := payee.Get(s.ID); !got.equal(s) || len(payee.All()) != 1 {
		t.Errorf("memory moved before the disk: %+v", payee.All())
	}
	if _, ok := payee.Get(s.Domain.ID(other)); ok {
		t.Error("a channel that was not stored is there")
	}
	store.fail = nil
	if got, err := payee.Accept(v, nil); err != nil || got.Max != 200 {
		t.Errorf("again: %+v, %v", got, err)
	}
	payer.store.(*memStore).fail = net.ErrClosed
	if v, err := payer.Sign(goldenKey(t), s.ID, 200, nil); !errors.Is(err, net.ErrClosed) || v != (Voucher{}) {
		t.Errorf("Sign: %v, %v", v, err)
	}
	payer.store.(*memStore).fail = nil
	if again, err := payer.Sign(goldenKey(t), s.ID, 200, nil); err != nil || again != v {
		t.Errorf("Sign again: %v, %v", again, err)
	}
	store.fail = errors.New("unreadable")
	if _, err := NewPayee(store); !errors.Is(err, store.fail) {
		t.Errorf("NewPayee: %v", err)
	}
	if _, err := NewPayer(store); !errors.Is(err, store.fail) {
		t.Errorf("NewPayer: %v", err)
	}
}

// A look at the ledger that shows nothing new writes nothing.
func TestNoWriteWithoutChange(t *testing.T) {
	s := opened(t)
	store := newMemStore(s)
	p := mustPayee(t, store)
	for range 10 {
		if _, err := p.Observe(s.ID, s.Balance, s.Claimed, s.RefundNonce, s.WithdrawAt); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Thaw(s.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Note(s.ID, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Open(s.Domain, s.Config); err != nil {
			t.Fatal(err)
		}
	}
	if store.saves != 0 {
		t.Errorf("%d saves", store.saves)
	}
	if _, err := p.Note(s.ID, []byte("x")); err != nil || store.saves != 1 {
		t.Errorf("%d saves, %v", store.saves, err)
	}
	if got, err := p.Note(s.ID, []byte{}); err != nil || store.saves != 2 || len(got.Note) != 0 {
		t.Errorf("clearing the note: %d saves, %v", store.saves, err)
	}
}

// The states that are handed out are the caller's to change.
func TestStatesAreCopies(t *testing.T) {
	s := opened(t)
	p := mustPayee(t, newMemStore(s))
	note := []byte("abc")
	got, err := p.Note(s.ID, note)
	if err != nil {
		t.Fatal(err)
	}
	note[0], got.Note[1] = 'x', 'x'
	p.All()[0].Note[2] = 'x'
	if got, _ = p.Get(s.ID); string(got.Note) != "abc" {
		t.Errorf("%q", got.Note)
	}
}

// Many goroutines offer the same rising vouchers: each amount is accepted
// once, saved in rising order, and never seen by readers before it is stored.
func TestPayeeRace(t *testing.T) {
	first := opened(t)
	k := goldenKey(t)
	vouchers := make([]Voucher, 40)
	for i := range vouchers {
		vouchers[i] = first.Domain.SignVoucher(k, first.ID, Amount(101+i))
	}
	var last Amount
	store := newMemStore(first)
	store.before = func(s State) {
		if s.Max <= last { // unguarded on purpose: the race detector watches the turns
			t.Errorf("saved %d after %d", s.Max, last)
		}
		last = s.Max
	}
	p := mustPayee(t, store)
	var accepted sync.Map
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i, v := range vouchers {
				if (i+g)%4 == 3 {
					continue
				}
				s, err := p.Accept(v, nil)
				if err == nil {
					if _, twice := accepted.LoadOrStore(s.Max, g); twice {
						t.Errorf("%d accepted twice", s.Max)
					}
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				s, _ := p.Get(first.ID)
				if stored := store.get(first.ID); stored.Max < s.Max {
					t.Errorf("%d is shown, %d is stored", s.Max, stored.Max)
				}
				p.All()
			}
		})
	}
	wg.Wait()
	if s, _ := p.Get(first.ID); s.Max != vouchers[len(vouchers)-1].Max {
		t.Errorf("ended at %d", s.Max)
	}
}

// One channel whose disk hangs stops neither another channel nor a reader.
func TestChannelsDoNotWaitForEachOther(t *testing.T) {
	both := twoChannels(t)
	for i := range both {
		both[i].Balance = 1000
	}
	store := newMemStore(both...)
	entered, release := make(chan struct{}), make(chan struct{})
	store.before = func(s State) {
		if s.ID == both[0].ID {
			close(entered)
			<-release
		}
	}
	p := mustPayee(t, store)
	k := goldenKey(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := p.Accept(both[0].Domain.SignVoucher(k, both[0].ID, 500), nil); err != nil {
			t.Error(err)
		}
	})
	<-entered
	if s, err := p.Accept(both[1].Domain.SignVoucher(k, both[1].ID, 500), nil); err != nil || s.Max != 500 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, ok := p.Get(both[0].ID); !ok || s.Max != 0 || len(p.All()) != 2 {
		t.Errorf("%+v, %v", s, ok)
	}
	close(release)
	wg.Wait()
	if s, _ := p.Get(both[0].ID); s.Max != 500 {
		t.Errorf("%+v", s)
	}
}

// Opening one channel many times at once saves it once.
func TestOpenRace(t *testing.T) {
	store := newMemStore()
	p := mustPayee(t, store)
	d, c := goldenDomain(), goldenConfig(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := p.Open(d, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if store.saves != 1 || len(p.All()) != 1 {
		t.Errorf("%d saves", store.saves)
	}
	c.WithdrawDelay = 1
	_, err := p.Open(d, c)
	wantReason(t, "bad config", err, ReasonDelay)
}
