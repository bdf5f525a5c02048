package ledger_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

// everyOp is one operation of each kind.
func everyOp(t testing.TB) []ledger.Op {
	p := ledgertest.NewParty(t, params(), 1)
	return []ledger.Op{
		p.Issue(5),
		ledger.Redeem{Ref: channel.Hash{1}, From: p.Config.Payer, Amount: 3, Memo: strings.Repeat("m", ledger.MaxMemo)},
		ledger.TransferOf(p.Transfer(7)),
		p.DepositOp(t, 9),
		p.ClaimOp(t, 11, 10),
		p.Settle(),
		p.RefundOp(t, 12, 3),
		p.RefundOp(t, 12, 3, p.Row(5, 4), p.Row(6, 6)),
		p.WithdrawOp(t, x402.WithdrawInitiate, 13, 1),
		p.WithdrawOp(t, x402.WithdrawFinalize, 0, 2),
	}
}

func TestCodec(t *testing.T) {
	seen := map[channel.Hash]bool{}
	for _, op := range everyOp(t) {
		tx := ledger.Tx{Time: 1 << 33, Op: op}
		b := tx.Encode()
		got, err := ledger.DecodeTx(b)
		if err != nil {
			t.Errorf("%T: %v", op, err)
			continue
		}
		if diff := cmp.Diff(tx, got); diff != "" {
			t.Errorf("%T (-in +out):\n%s", op, diff)
		}
		for n := range b { // a record cut at any byte is an error, not half a transaction
			if _, err := ledger.DecodeTx(b[:n]); err == nil {
				t.Errorf("%T: %d of %d bytes were accepted", op, n, len(b))
			}
		}
		if _, err := ledger.DecodeTx(append(b, 0)); err == nil {
			t.Errorf("%T: a byte too many was accepted", op)
		}
		e := ledger.Entry{Tx: tx, Amount: 5, Fee: 1}
		if again, err := ledger.DecodeEntry(e.Encode()); err != nil || !cmp.Equal(e, again) {
			t.Errorf("%T: entry %+v, %v", op, again, err)
		}
		h1, h2 := tx.Hash(1), tx.Hash(2)
		if h1 == h2 || seen[h1] || seen[h2] {
			t.Errorf("%T: hash is not its own", op)
		}
		seen[h1], seen[h2] = true, true
	}
	bad := ledger.Tx{Time: 1, Op: everyOp(t)[0]}.Encode()
	bad[0]++
	if _, err := ledger.DecodeTx(bad); err == nil || !strings.Contains(err.Error(), "version 2, want 1") {
		t.Errorf("another version: %v", err)
	}
	bad[0], bad[1] = 1, 99
	if _, err := ledger.DecodeTx(bad); err == nil || !strings.Contains(err.Error(), "kind 99") {
		t.Errorf("another kind: %v", err)
	}
}

func FuzzDecodeTx(f *testing.F) {
	for _, op := range everyOp(f) {
		f.Add(ledger.Tx{Time: 7, Op: op}.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tx, err := ledger.DecodeTx(b)
		if err != nil {
			return
		}
		if !bytes.Equal(tx.Encode(), b) {
			t.Errorf("%x is read as %+v and written as %x", b, tx, tx.Encode())
		}
		ledger.Apply(ledger.NewState(params()), tx) // must not panic
	})
}

func FuzzDecodeRecords(f *testing.F) {
	f.Add(ledger.Channel{Balance: 5, WithdrawAt: 1}.Encode())
	f.Add(ledger.Receiver{Claimed: 1}.Encode())
	f.Add(ledger.Totals{Height: 1, Fees: 2}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ledger.DecodeChannel(b); err == nil && !bytes.Equal(c.Encode(), b) {
			t.Errorf("channel %x is written as %x", b, c.Encode())
		}
		if r, err := ledger.DecodeReceiver(b); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Errorf("receiver %x is written as %x", b, r.Encode())
		}
		if x, err := ledger.DecodeTotals(b); err == nil && !bytes.Equal(x.Encode(), b) {
			t.Errorf("totals %x are written as %x", b, x.Encode())
		}
		ledger.DecodeEntry(b) // must not panic
	})
}

// TestPure: Apply changes nothing that it was given, refused or not, and gives
// the same for the same.
func TestPure(t *testing.T) {
	h := ledgertest.NewHistory(t, params(), 2)
	rng := rand.New(rand.NewPCG(3, 4))
	s := ledger.NewState(params())
	for i := range 300 {
		who := byte(rng.UintN(2))
		op := h.Op(t, byte(rng.UintN(ledgertest.Kinds)), who, channel.Amount(rng.Uint64N(1<<rng.UintN(20))))
		tx := ledger.Tx{Time: 1000 + uint64(i)*40_000, Op: op}
		before := ledger.NewState(s.Params)
		before.Totals, before.Receipt = s.Totals, s.Receipt
		maps.Copy(before.Accounts, s.Accounts)
		maps.Copy(before.Receivers, s.Receivers)
		maps.Copy(before.Channels, s.Channels)
		maps.Copy(before.Nonces, s.Nonces)
		next, err := ledger.Apply(s, tx)
		again, againErr := ledger.Apply(s, tx)
		if diff := cmp.Diff(before, s); diff != "" {
			t.Fatalf("Apply(%T) changed its argument:\n%s", op, diff)
		}
		if !cmp.Equal(next, again) || (err == nil) != (againErr == nil) {
			t.Fatalf("Apply(%T) is not deterministic", op)
		}
		if err == nil {
			h.Done(op, who)
			s = next
		}
	}
}

// TestTouches: Apply needs no record, and changes none, that Touches does not
// name. A home that loads only those gives what the whole ledger gives.
func TestTouches(t *testing.T) {
	m := ledger.NewMemory(params()) // loads only what is touched
	whole := ledger.NewState(params())
	h := ledgertest.NewHistory(t, params(), 3)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range 300 {
		who := byte(rng.UintN(3))
		op := h.Op(t, byte(rng.UintN(ledgertest.Kinds-1)), who, channel.Amount(rng.Uint64N(1<<rng.UintN(20))))
		tx := ledger.Tx{Time: 1000 + uint64(i)*40_000, Op: op}
		next, err := ledger.Apply(whole, tx)
		r, homeErr := m.Submit(t.Context(), tx)
		if err != nil { // a settlement of nothing new is answered by the last one
			if _, ok := errors.AsType[*ledger.RefusedError](err); !ok || homeErr == nil && r.Height > whole.Totals.Height {
				t.Fatalf("%T: %v, home %v", op, err, homeErr)
			}
			continue
		}
		if homeErr != nil || r != next.Receipt {
			t.Fatalf("%T: home gives %+v, %v, want %+v", op, r, homeErr, next.Receipt)
		}
		h.Done(op, who)
		whole = next
	}
	if _, err := m.Audit(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzApply reads a history from its input, four bytes a step. Whatever it is,
// credit is neither made nor lost, and the journal gives the ledger again.
func FuzzApply(f *testing.F) {
	f.Add([]byte{0, 0, 9, 200, 3, 0, 5, 100, 5, 0, 5, 90, 10, 0, 0, 0, 6, 0, 4, 50})
	f.Add([]byte{0, 0, 40, 1, 0, 1, 40, 1, 4, 1, 39, 3, 8, 1, 30, 7, 7, 1, 38, 1, 9, 1, 0, 200, 11, 0, 0, 0})
	f.Add([]byte{0, 0, 63, 1, 0, 0, 63, 1, 3, 0, 62, 1, 5, 0, 61, 1, 255, 0, 0, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		m := ledger.NewMemory(params())
		h := ledgertest.NewHistory(t, params(), 2)
		now := uint64(1)
		for n := 0; len(steps) >= 4 && n < 64; steps, n = steps[4:], n+1 {
			kind, who := steps[0], steps[1]
			amount := channel.Amount(steps[3]) << (steps[2] % 64)
			op := h.Op(t, kind, who, amount)
			_, err := m.Submit(t.Context(), ledger.Tx{Time: now, Op: op})
			if _, ok := errors.AsType[*ledger.RefusedError](err); err != nil && !ok {
				t.Fatalf("%T: %v", op, err)
			}
			if err == nil {
				h.Done(op, who)
			}
			now += uint64(steps[3]) * 500
		}
		if _, err := m.Audit(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReplay: an audit finds every kind of tampering.
func TestReplay(t *testing.T) {
	p := ledgertest.NewParty(t, params(), 1)
	ops := []ledger.Op{p.Issue(1000), p.DepositOp(t, 600), p.ClaimOp(t, 500, 300), p.Settle()}
	type book struct {
		state   ledger.State
		journal []ledger.Entry
	}
	build := func() book {
		b := book{state: ledger.NewState(params())}
		for _, op := range ops {
			tx := ledger.Tx{Time: 5, Op: op}
			next, err := ledger.Apply(b.state, tx)
			if err != nil {
				t.Fatal(err)
			}
			b.state = next
			b.journal = append(b.journal, ledger.Entry{Tx: tx, Amount: next.Receipt.Amount, Fee: next.Receipt.Fee})
		}
		return b
	}
	replay := func(b book) error {
		_, err := ledger.Replay(t.Context(), b.state, func(yield func(ledger.Entry, error) bool) {
			for _, e := range b.journal {
				if !yield(e, nil) {
					return
				}
			}
		})
		return err
	}
	if err := replay(build()); err != nil {
		t.Fatal(err)
	}
	payer, receiver := p.Config.Payer, p.Config.Receiver
	for name, tamper := range map[string]func(*book){
		"richer account": func(b *book) { b.state.Accounts[payer]++ },
		"swapped accounts": func(b *book) {
			b.state.Accounts[payer], b.state.Accounts[receiver] = b.state.Accounts[receiver], b.state.Accounts[payer]
		},
		"made credit":      func(b *book) { b.state.Accounts[payer]++; b.state.Totals.Accounts++; b.state.Totals.Issued++ },
		"lost nonce":       func(b *book) { clear(b.state.Nonces) },
		"new nonce":        func(b *book) { b.state.Nonces[ledger.NonceKey{From: payer}] = true },
		"lost channel":     func(b *book) { clear(b.state.Channels) },
		"more claimed":     func(b *book) { r := b.state.Receivers[receiver]; r.Claimed++; b.state.Receivers[receiver] = r },
		"refund nonce":     func(b *book) { c := b.state.Channels[p.ID]; c.RefundNonce++; b.state.Channels[p.ID] = c },
		"missing entry":    func(b *book) { b.journal = b.journal[:3] },
		"entry in between": func(b *book) { b.journal = append(b.journal[:1], b.journal[2:]...) },
		"another amount":   func(b *book) { b.journal[2].Amount++ },
		"another time":     func(b *book) { b.journal[1].Tx.Time = 1 << 63 },
		"same entry twice": func(b *book) { b.journal = append(b.journal, b.journal[3]) },
		"forged claim": func(b *book) {
			c := ops[2].(ledger.Claim)
			c.Signature[3] ^= 1
			b.journal[2].Tx.Op = c
		},
	} {
		b := build()
		tamper(&b)
		if err := replay(b); err == nil {
			t.Errorf("%s was not found", name)
		}
	}
}

func TestFee(t *testing.T) {
	p := params()
	var sum channel.Amount
	rng := rand.New(rand.NewPCG(7, 8))
	settled := channel.Amount(0)
	for range 1000 {
		more := channel.Amount(rng.Uint64N(300_000))
		sum += p.Fee(settled+more) - p.Fee(settled)
		settled += more
	}
	if sum != settled/100_000 {
		t.Errorf("fees are %s, want %s", sum, settled/100_000)
	}
	if f := p.Fee(99_999); f != 0 {
		t.Errorf("fee of 99999 is %s", f)
	}
	p.FeeDivisor = 0
	if f := p.Fee(1 << 60); f != 0 {
		t.Errorf("fee without a fee is %s", f)
	}
}

func BenchmarkApplyClaim(b *testing.B) {
	p := ledgertest.NewParty(b, params(), 1)
	s := ledger.NewState(params())
	for _, op := range []ledger.Op{p.Issue(1000), p.DepositOp(b, 1000)} {
		next, err := ledger.Apply(s, ledger.Tx{Time: 5, Op: op})
		if err != nil {
			b.Fatal(err)
		}
		s = next
	}
	tx := ledger.Tx{Time: 5, Op: p.ClaimOp(b, 500, 500)}
	for b.Loop() {
		if _, err := ledger.Apply(s, tx); err != nil {
			b.Fatal(err)
		}
	}
}
