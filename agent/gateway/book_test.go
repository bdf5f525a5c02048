package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

func newBook(t *testing.T) (b *book, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "credit.db")
	b, err := openBook(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	return b, path
}

func (b *book) mustCreate(t *testing.T, r record) (accountID, login) {
	t.Helper()
	if r.Price == 0 {
		r.Price = 4_000_000
	}
	if r.Expires == 0 {
		r.Expires = time.Now().Add(time.Hour).Unix()
	}
	l, err := b.create(r)
	if err != nil {
		t.Fatal(err)
	}
	return idOf(l.user), l
}

func (b *book) mustEnter(t *testing.T, id accountID) *account {
	t.Helper()
	a, err := b.enter(id, 100)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// spend counts bytes down by pieces, as flows do.
func (a *account) spend(ctx context.Context, price channel.Amount, bytes int) error {
	lane := a.lanes(agent.Price{Up: price, Down: price}).DownTCP
	for bytes > 0 {
		n := min(bytes, 64<<10)
		if err := lane.Reserve(ctx, n); err != nil {
			return err
		}
		lane.Deliver(n, n)
		bytes -= n
	}
	return nil
}

// TestCounting counts to the smallest part, and never beyond the credit.
func TestCounting(t *testing.T) {
	b, _ := newBook(t)
	id, _ := b.mustCreate(t, record{Paid: 10_000, Price: 10_000_000}) // 1 MB
	a := b.mustEnter(t, id)
	lanes := a.lanes(agent.Price{Up: 1, Down: 7_777_777})
	ctx := t.Context()
	for _, n := range []int{1, 999, 65_536} {
		for _, l := range []struct{ Reserve, Deliver int }{{n, n}, {n, 0}, {n, n / 2}} {
			if err := lanes.UpUDP.Reserve(ctx, l.Reserve); err != nil {
				t.Fatal(err)
			}
			lanes.UpUDP.Deliver(l.Reserve, l.Deliver)
			if err := lanes.DownTCP.Reserve(ctx, l.Reserve); err != nil {
				t.Fatal(err)
			}
			lanes.DownTCP.Deliver(l.Reserve, l.Deliver)
		}
	}
	const bytes = 1 + 0 + 999 + 499 + 65_536 + 32_768
	r, err := b.read(id)
	if want := uint64(bytes * (1 + 7_777_777)); err != nil || r.Up != bytes || r.Down != bytes || r.Spent != want || a.taken.Load() != want {
		t.Errorf("%+v, taken %d, %v; want %d", r, a.taken.Load(), err, want)
	}
	// At ten times the price that is left fewer bytes than asked for.
	if err := a.spend(ctx, 100_000_000, 200_000); !errors.Is(err, errSpent) {
		t.Errorf("%v", err)
	}
	if r, _ := b.read(id); r.Spent > r.limit() || r.left() > 6_554 { // what a piece of 64 KiB costs
		t.Errorf("%+v", r)
	}
}

// TestReload: what was stored is there after a kill, and what was not is within
// the bound, whatever the instant.
func TestReload(t *testing.T) {
	for _, bytes := range []int{0, 1, 1_000_000, unsavedMost / 2, unsavedMost, 3 * unsavedMost, 50_000_000} {
		b, path := newBook(t)
		id, l := b.mustCreate(t, record{Paid: 1_000_000, Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = b.run(ctx) })
		a := b.mustEnter(t, id)
		if err := a.spend(ctx, 4_000_000, bytes); err != nil {
			t.Fatal(err)
		}
		killed := filepath.Join(t.TempDir(), "killed.db") // the file as it is in this instant
		if err := b.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(killed, 0o600) }); err != nil {
			t.Fatal(err)
		}
		stop()
		wg.Wait()
		for file, most := range map[string]uint64{killed: unsavedMost + 64<<10, path: 0} {
			if file == path {
				if err := b.close(); err != nil {
					t.Fatal(err)
				}
			}
			c, err := openBook(file, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.read(id)
			// What is counted while a record is made may be in Spent alone.
			if err != nil || r.Down > uint64(bytes) || uint64(bytes)-r.Down > most || r.Spent < r.Down*4_000_000 || r.Spent > uint64(bytes)*4_000_000 {
				t.Errorf("%d bytes, %s: %+v, %v", bytes, filepath.Base(file), r, err)
			}
			if !r.opens(l.password) || r.opens("") || r.opens(l.user) || !r.allows(netip.MustParseAddr("192.0.2.7")) || r.allows(netip.MustParseAddr("192.0.3.7")) {
				t.Errorf("%s: another record", file)
			}
			if err := c.close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestSecrets: who has the file has no token and no password.
func TestSecrets(t *testing.T) {
	b, path := newBook(t)
	_, l := b.mustCreate(t, record{Paid: 1})
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(l.user) != 26 || len(l.password) != 26 || l.user == l.password || strings.Contains(string(text), l.user) || strings.Contains(string(text), l.password) {
		t.Errorf("%+v in the file, %v", l, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestFlowsWait: flows wait at the bound while the disk does not take what was
// counted, and go on when it does.
func TestFlowsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBook(t)
		id, _ := b.mustCreate(t, record{Paid: 1_000_000})
		a := b.mustEnter(t, id)
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { done <- a.spend(ctx, 4_000_000, 3*unsavedMost) })
		synctest.Wait()
		if u := a.unsaved(); u < unsavedMost || u > unsavedMost+64<<10 || len(done) > 0 {
			t.Errorf("%d bytes are counted and not stored", u)
		}
		for range 3 {
			if err := b.save(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		wg.Go(func() { done <- a.spend(ctx, 4_000_000, 3*unsavedMost) })
		synctest.Wait()
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("a flow that was ended: %v", err)
		}
		wg.Wait()
	})
}

// TestEnd closes an account under flows that count as fast as they can: what is
// given back and what was spent are never more than was paid.
func TestEnd(t *testing.T) {
	for range 20 {
		b, _ := newBook(t)
		id, _ := b.mustCreate(t, record{Paid: 1_000_000, Payer: channel.Address{1}})
		a := b.mustEnter(t, id)
		var wg sync.WaitGroup
		began := make(chan struct{}, 4)
		for range 4 {
			wg.Go(func() {
				began <- struct{}{}
				if err := a.spend(t.Context(), 4_000_000, 1<<40); !errors.Is(err, errEnded) && !errors.Is(err, errSpent) {
					t.Error(err)
				}
			})
		}
		ctx, stop := context.WithCancel(t.Context())
		var saving sync.WaitGroup
		saving.Go(func() { _ = b.run(ctx) })
		for range 4 {
			<-began
		}
		g := &Gateway{book: b}
		r, err := g.close(id)
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		stop()
		saving.Wait()
		now, err := b.read(id)
		back := channel.Amount(0)
		if r.Refund != nil {
			back = r.Refund.Amount
		}
		if err != nil || !now.Closed || uint64(back)*nano+now.Spent > 1_000_000*nano {
			t.Fatalf("%d given back, %+v, %v", back, now, err)
		}
		if _, err := b.enter(id, 100); !errors.Is(err, errEnded) {
			t.Errorf("a flow on it: %v", err)
		}
		if again, err := g.close(id); err != nil || again.Refund == nil != (r.Refund == nil) || r.Refund != nil && *again.Refund != *r.Refund {
			t.Errorf("closed again: %+v, %v", again.Refund, err)
		}
	}
}

// TestEnter bounds the flows of an account, the more the less is left.
func TestEnter(t *testing.T) {
	b, _ := newBook(t)
	for _, tt := range []struct {
		paid channel.Amount
		want int
	}{{8_000, 4 + 2_000_000/flowShare}, {2_000_000, 100}, {12, 4}} {
		id, _ := b.mustCreate(t, record{Paid: tt.paid})
		n := 0
		var err error
		for ; err == nil; n++ {
			_, err = b.enter(id, 100)
		}
		if n-1 != tt.want || !errors.Is(err, errFlows) {
			t.Errorf("%d units: %d flows, want %d: %v", tt.paid, n-1, tt.want, err)
		}
		a := b.open[id]
		b.leave(a)
		if _, err := b.enter(id, 100); err != nil {
			t.Errorf("after one has left: %v", err)
		}
	}
	poor, _ := b.mustCreate(t, record{Paid: 11})
	if _, err := b.enter(poor, 100); !errors.Is(err, errSpent) {
		t.Errorf("2,750 bytes left: %v", err)
	}
	old, _ := b.mustCreate(t, record{Paid: 1_000, Expires: time.Now().Unix()})
	if _, err := b.enter(old, 100); !errors.Is(err, errEnded) {
		t.Errorf("expired: %v", err)
	}
	pending, _ := b.mustCreate(t, record{Paid: 1_000, Pending: true})
	if _, err := b.enter(pending, 100); !errors.Is(err, errEnded) {
		t.Errorf("not paid: %v", err)
	}
	if _, err := b.enter(accountID{}, 100); !errors.Is(err, errNoAccount) {
		t.Errorf("nobody's: %v", err)
	}
}

// TestForget: accounts that nobody uses are not kept in memory.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBook(t)
		id, _ := b.mustCreate(t, record{Paid: 1_000_000})
		a := b.mustEnter(t, id)
		if err := a.spend(t.Context(), 4_000_000, 100); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{1, 1} {
			time.Sleep(2 * forgetAfter)
			if err := b.save(); err != nil || len(b.open) != want {
				t.Errorf("with a flow: %d in memory, %v", len(b.open), err)
			}
		}
		b.leave(a)
		if err := b.save(); err != nil || len(b.open) != 1 {
			t.Errorf("just left: %d, %v", len(b.open), err)
		}
		time.Sleep(2 * forgetAfter)
		if err := b.save(); err != nil || len(b.open) != 0 {
			t.Errorf("unused: %d, %v", len(b.open), err)
		}
		if r, err := b.read(id); err != nil || r.Down != 100 {
			t.Errorf("%+v %v", r, err)
		}
	})
}

// TestBookRefuses files that are not ours.
func TestBookRefuses(t *testing.T) {
	b, path := newBook(t)
	if _, err := openBook(path, nil); !errors.Is(err, channel.ErrInUse) {
		t.Errorf("open twice: %v", err)
	}
	change := func(bucket, key, value string) {
		t.Helper()
		err := b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), []byte(value)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	id := idOf("x")
	for _, text := range []string{"", "{", `{"version":2}`, `{"version":1,"paid":"1","spent":1000000001}`, `{"version":1,"paid":"1","refunded":"2"}`, `{"version":1,"paid":"9000000001"}`} {
		change(bucketAccounts, string(id[:]), text)
		if _, err := b.read(id); err == nil || errors.Is(err, errNoAccount) {
			t.Errorf("%s: %v", text, err)
		}
	}
	good, _ := b.mustCreate(t, record{Paid: 1})
	seen := 0
	if err := b.all(func(a accountID, _ record) { seen++; id = a }); err == nil || !strings.Contains(err.Error(), nameOf(idOf("x"))) || seen != 1 || id != good {
		t.Errorf("beside one that cannot be read %d are seen, %v", seen, err)
	}
	change(bucketMeta, keySchema, "2")
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openBook(path, nil); err == nil || !strings.Contains(err.Error(), `schema "2"`) {
		t.Errorf("another schema: %v", err)
	}
}

func TestPriceOf(t *testing.T) {
	for _, tt := range []struct {
		bytes uint64
		price channel.Amount
		want  channel.Amount
	}{{1_000_000_000, 4_400_000, 4_400_000}, {1_000_000, 4_400_000, 4_400}, {1_000_001, 4_400_000, 4_401}, {1, 1, 1}, {maxBytes, agent.MaxPrice, 1e15}} {
		if got, err := priceOf(tt.bytes, tt.price); err != nil || got != tt.want {
			t.Errorf("%+v: %d, %v", tt, got, err)
		}
	}
	if _, err := priceOf(1<<63, agent.MaxPrice); !errors.Is(err, channel.ErrOverflow) {
		t.Error(err)
	}
}

// FuzzPayment: what is read of a payment is stored as it was.
func FuzzPayment(f *testing.F) {
	f.Add([]byte(`{"version":1,"account":"0x` + strings.Repeat("11", 32) + `","by":{"signature":"0x` + strings.Repeat("22", 65) + `","authorization":{"from":"0x` +
		strings.Repeat("33", 20) + `","to":"0x` + strings.Repeat("44", 20) + `","value":"5","validAfter":"0","validBefore":"9","nonce":"0x` + strings.Repeat("55", 32) + `"}},"created":7,"state":"open"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"state":"sold"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePayment(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parsePayment(text); err != nil || again != p {
			t.Errorf("%+v, %v; was %+v", again, err, p)
		}
		_ = p.due(time.Now())
	})
}
