package agent

import (
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
)

// testReceipt is of a session with bytes both ways, paid by a voucher.
func testReceipt(t testing.TB) Receipt {
	t.Helper()
	d, err := testOffer().Payment.Domain()
	if err != nil {
		t.Fatal(err)
	}
	o := testOffer()
	o.Agent = testKey(t, 1).Address()
	s, err := channel.NewState(d, o.Channel(testKey(t, 2).Address()))
	if err != nil {
		t.Fatal(err)
	}
	s.Balance, s.Max = 10_000, 2_600
	s.Signature = d.SignVoucher(testKey(t, 2), s.ID, s.Max).Signature
	tally := Tally{
		Session: 4, Price: Price{Up: 500_000, Down: 800_000}, Base: 1_000, BaseUp: 10, BaseDown: 20,
		Up: 10 + 1_000_001, Down: 20 + 1_500_000, Lost: 9, Ended: true,
	}
	return NewReceipt(s, tally, 1_767_225_600).Sign(testKey(t, 1))
}

// TestReceiptGolden pins what is signed, so that others can implement it.
// testdata/receipt.txt has the receipt in hex, and its fields as CSV and JSON.
func TestReceiptGolden(t *testing.T) {
	r := testReceipt(t)
	b := AppendReceipt(nil, r)
	if len(b) != ReceiptSize {
		t.Errorf("%d bytes, want %d", len(b), ReceiptSize)
	}
	kept := KeptReceipt{Receipt: r, Kept: 1_767_225_601}
	got := hex.EncodeToString(b) + "\n" + strings.ReplaceAll(string(AppendReceipts(nil, []KeptReceipt{kept}, true)), "\r\n", "\n") +
		string(AppendReceipts(nil, []KeptReceipt{kept}, false))
	want, err := os.ReadFile("testdata/receipt.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
	if err := r.Verify(); err != nil {
		t.Error(err)
	}
	if session, unpaid := r.Amounts(); session != 1_701 || unpaid != 101 { // 500.0005 and 1,200, rounded up once
		t.Errorf("amounts %d and %d", session, unpaid)
	}
	back, err := ParseReceipt(b)
	if err != nil || back != r {
		t.Errorf("%+v, %v", back, err)
	}
}

// TestReceiptTampered changes every bit of a receipt, and cuts it anywhere.
func TestReceiptTampered(t *testing.T) {
	b := AppendReceipt(nil, testReceipt(t))
	for i := range 8 * len(b) {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if r, err := ParseReceipt(bad); err == nil && r.Verify() == nil {
			t.Errorf("bit %d of byte %d changed", i%8, i/8)
		}
	}
	for n := range len(b) {
		if _, err := ParseReceipt(b[:n]); err == nil {
			t.Errorf("cut to %d", n)
		}
	}
	if _, err := ParseReceipt(append(b, 0)); err == nil {
		t.Error("a byte more")
	}
}

// TestReceiptSigners: a receipt is the agent's, its voucher the payer's, and
// nobody else's.
func TestReceiptSigners(t *testing.T) {
	good := testReceipt(t)
	for name, change := range map[string]func(*Receipt){
		"another agent":     func(r *Receipt) { *r = r.Sign(testKey(t, 3)) },
		"the payer":         func(r *Receipt) { *r = r.Sign(testKey(t, 2)) },
		"another's voucher": func(r *Receipt) { r.Voucher = r.Domain.SignVoucher(testKey(t, 3), r.Channel(), r.Max).Signature },
		"of another amount": func(r *Receipt) { r.Max++ },
		"of another channel": func(r *Receipt) {
			r.Voucher = r.Domain.SignVoucher(testKey(t, 2), channel.ID{1}, r.Max).Signature
		},
		"without a signature": func(r *Receipt) { r.Voucher = channel.Signature{} },
		"of nothing":          func(r *Receipt) { r.Max = 0 },
		"without an agent":    func(r *Receipt) { r.Config.ReceiverAuthorizer = channel.Address{} },
		"less than before":    func(r *Receipt) { r.Total.Up = r.Total.BaseUp - 1 },
		"no session":          func(r *Receipt) { r.Total.Session = 0 },
		"too much":            func(r *Receipt) { r.Total.Down, r.Total.Price.Down = 1<<63, MaxPrice },
		"after all years":     func(r *Receipt) { r.Time = maxTime + 1 },
	} {
		r := good
		change(&r)
		if r.Signature == good.Signature {
			r = r.Sign(testKey(t, 1))
		}
		if err := r.Verify(); err == nil {
			t.Errorf("%s: it is good", name)
		}
	}
	r := good
	r.Max, r.Voucher = 0, channel.Signature{}
	if err := r.Sign(testKey(t, 1)).Verify(); err != nil {
		t.Errorf("before the first voucher: %v", err)
	}
}

// fieldsOf reads one line of JSON.
func fieldsOf(t testing.TB, r KeptReceipt) map[string]string {
	t.Helper()
	var fields map[string]string
	if err := json.Unmarshal(AppendJSON(nil, r.Fields()), &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// TestReceiptFields changes every field: it is noticed when the receipt is read or
// when it is verified, but for those that the keeper has added.
func TestReceiptFields(t *testing.T) {
	kept := KeptReceipt{Receipt: testReceipt(t), Kept: 1_767_225_601, Note: `=1+1, "he" says`}
	back, err := ReceiptOf(fieldsOf(t, kept))
	if err != nil || back != kept {
		t.Fatalf("%+v, %v", back, err)
	}
	for _, f := range kept.Fields() {
		for _, value := range []string{"", "1", f.Value + "0", "-" + f.Value, strings.ToUpper(f.Value), "2027-01-01T00:00:00Z", address(7).String(), channel.Hash{7}.String(), strings.Repeat("9", 20)} {
			fields := fieldsOf(t, kept)
			fields[f.Name] = value
			r, err := ReceiptOf(fields)
			if err == nil {
				err = r.Verify()
			}
			if err == nil && value != f.Value && f.Name != "note" && f.Name != "kept" {
				t.Errorf("%s: %q instead of %q", f.Name, value, f.Value)
			}
		}
		fields := fieldsOf(t, kept)
		delete(fields, f.Name)
		r, err := ReceiptOf(fields)
		if err == nil && (r.Verify() == nil) != (r.Receipt == kept.Receipt) {
			t.Errorf("without %s", f.Name)
		}
	}
}

// TestReceiptCSV reads back what a spreadsheet would, in which nothing is a formula.
func TestReceiptCSV(t *testing.T) {
	for _, note := range []string{"", "plain", `a "b", c`, "two\nlines"} {
		kept := KeptReceipt{Receipt: testReceipt(t), Note: note}
		rows, err := csv.NewReader(bytes.NewReader(AppendReceipts(nil, []KeptReceipt{kept}, true))).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Fatalf("%q: %v, %v", note, rows, err)
		}
		fields := map[string]string{}
		for i, name := range rows[0] {
			fields[name] = rows[1][i]
		}
		if back, err := ReceiptOf(fields); err != nil || back != kept {
			t.Errorf("%q: %+v, %v", note, back, err)
		}
	}
	for _, formula := range []string{"=1", "+1", "-1", "@a", "\ta", "\ra"} {
		got, err := csv.NewReader(bytes.NewReader(AppendCSV(nil, []Field{{"note", formula}}, false))).Read()
		if want := strings.ReplaceAll("'"+formula, "\r\n", "\n"); err != nil || got[0] != want {
			t.Errorf("%q: %q, %v", formula, got, err)
		}
	}
}

func TestLatestReceipts(t *testing.T) {
	make := func(session, down uint64) KeptReceipt {
		r := KeptReceipt{Receipt: testReceipt(t)}
		r.Total.Session, r.Total.Down = session, down
		return r
	}
	got := LatestReceipts([]KeptReceipt{make(1, 100), make(2, 300), make(1, 200), make(2, 250)})
	if diff := cmp.Diff([]KeptReceipt{make(1, 200), make(2, 300)}, got); diff != "" {
		t.Error(diff)
	}
}

func TestKeptSince(t *testing.T) {
	all := []KeptReceipt{{Kept: 1_767_225_599}, {Kept: 1_767_225_600}} // around the year's end
	for text, n := range map[string]int{"": 2, "2025-12-31": 2, "2026-01-01": 1, "2026-01-02": 0, "2025-12-31T23:59:59Z": 2, "2026-01-01T01:00:00+01:00": 1} {
		if got, err := KeptSince(all, text); err != nil || len(got) != n {
			t.Errorf("%q: %d, %v", text, len(got), err)
		}
	}
	if _, err := KeptSince(all, "now"); err == nil {
		t.Error("now is a day")
	}
}

func FuzzReceipt(f *testing.F) {
	f.Add(AppendReceipt(nil, testReceipt(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReceipt(b)
		if err != nil {
			return
		}
		if !bytes.Equal(AppendReceipt(nil, r), b) {
			t.Errorf("%x is not what was read", b)
		}
		kept := KeptReceipt{Receipt: r}
		if back, err := ReceiptOf(fieldsOf(t, kept)); err != nil || back != kept {
			t.Errorf("as text: %+v, %v", back, err)
		}
		_ = r.Verify()
	})
}
