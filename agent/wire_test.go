package agent

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
)

func testHello(t testing.TB) Hello {
	return Hello{
		Versions: []int{ProtocolVersion}, Network: "eip155:84532",
		Config: testOffer().Channel(testKey(t, 2).Address()), Price: testOffer().Price,
		Own:   Counts{Session: 3, Up: 1 << 60, Down: 5},
		Proof: NewProof([32]byte{9}, channel.ID{8}, testTally()),
	}
}

func testTally() Tally {
	return Tally{Session: 4, Price: Price{Up: 1, Down: 2}, Base: 3, BaseUp: 5, BaseDown: 6, Up: 7, Down: 8, Lost: 9, Ended: true}
}

func testReading() Reading {
	return Reading{
		ReceivedTCP: 1, ReceivedUDP: 2, ReceivedPackets: 3, SentTCP: 4, SentUDP: 5, SentPackets: 6,
		Owed: 7, Paid: 8, Credit: 9,
	}
}

func testVoucher(t testing.TB) channel.Voucher {
	t.Helper()
	d, err := testOffer().Payment.Domain()
	if err != nil {
		t.Fatal(err)
	}
	return d.SignVoucher(testKey(t, 2), channel.ID{8}, 123_456)
}

// TestGolden pins every encoding, so that others can implement them; signing
// is deterministic (RFC 6979). testdata/golden.txt has a name and hex a line.
func TestGolden(t *testing.T) {
	hello, err := SealHello(testKey(t, 2), [32]byte{1}, testHello(t))
	if err != nil {
		t.Fatal(err)
	}
	early, err := SealEarlyHello(testKey(t, 2), [32]byte{1}, testHello(t))
	if err != nil {
		t.Fatal(err)
	}
	withVoucher := testHello(t)
	withVoucher.Voucher = testVoucher(t)
	showing, err := SealHello(testKey(t, 2), [32]byte{1}, withVoucher)
	if err != nil {
		t.Fatal(err)
	}
	tally, err := testTally().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	withProof := testReading()
	withProof.Proof = NewProof([32]byte{9}, channel.ID{8}, testTally())
	terms, err := json.Marshal(Terms{Version: 1, Session: 2, Price: testOffer().Price, Base: 3, BaseUp: 4, BaseDown: 5, Balance: 6, Credit: 7, Voucher: testVoucher(t)})
	if err != nil {
		t.Fatal(err)
	}
	direct := testOffer()
	direct.Relays = nil
	var got strings.Builder
	for _, row := range []struct {
		name string
		b    []byte
	}{
		{"offer", signed(t, direct)},
		{"offer-with-relays", signed(t, testOffer())},
		{"hello", hello},
		{"early-hello", early},
		{"hello-with-voucher", showing},
		{"terms", terms},
		{"voucher", AppendVoucher(nil, testVoucher(t))},
		{"tally", tally},
		{"proof", withProof.Proof},
		{"reading", AppendReading(nil, testReading())},
		{"reading-with-proof", AppendReading(nil, withProof)},
	} {
		got.WriteString(row.name + " " + hex.EncodeToString(row.b) + "\n")
	}
	want, err := os.ReadFile("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestHello(t *testing.T) {
	exporter := [32]byte{1}
	h := testHello(t)
	h.Voucher = testVoucher(t)
	b, err := SealHello(testKey(t, 2), exporter, h)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 4096 {
		t.Errorf("%d bytes do not fit a capsule", len(b))
	}
	got, err := OpenHello(exporter, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h, got); diff != "" {
		t.Error(diff)
	}
	if _, err := OpenHello([32]byte{2}, b); err == nil {
		t.Error("replayed on another connection")
	}
	for i := range b {
		tampered := bytes.Clone(b)
		tampered[i] ^= 1
		if _, err := OpenHello(exporter, tampered); err == nil {
			t.Errorf("byte %d changed", i)
		}
	}
	for n := range len(b) {
		if _, err := OpenHello(exporter, b[:n]); err == nil {
			t.Errorf("cut to %d", n)
		}
	}
	if _, err := OpenEarlyHello(exporter, b); err == nil {
		t.Error("taken for an early one")
	}
	early, err := SealEarlyHello(testKey(t, 2), exporter, testHello(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenEarlyHello(exporter, early); err != nil || cmp.Diff(testHello(t), got) != "" {
		t.Errorf("early: %+v %v", got, err)
	}
	if _, err := OpenHello(exporter, early); err == nil {
		t.Error("an early one is taken for another")
	}
	if b, err = SealHello(testKey(t, 3), exporter, testHello(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHello(exporter, b); err == nil {
		t.Error("signed by another than the payer")
	}
}

func TestHelloChecks(t *testing.T) {
	exporter := [32]byte{1}
	for name, row := range map[string]struct {
		change func(*Hello)
		ok     bool
	}{
		"another version too": {func(h *Hello) { h.Versions = []int{9, 1} }, true},
		"no version":          {func(h *Hello) { h.Versions = nil }, false},
		"a later version":     {func(h *Hello) { h.Versions = []int{2} }, false},
		"price":               {func(h *Hello) { h.Price.Up = MaxPrice + 1 }, false},
		"no authorizer":       {func(h *Hello) { h.Config.PayerAuthorizer = channel.Address{} }, false},
	} {
		h := testHello(t)
		row.change(&h)
		b, err := SealHello(testKey(t, 2), exporter, h)
		if err != nil {
			t.Fatal(err)
		}
		_, err = OpenHello(exporter, b)
		if (err == nil) != row.ok {
			t.Errorf("%s: %v", name, err)
		}
		v, ok := errors.AsType[*VersionError](err)
		if ok != strings.Contains(name, " version") && !row.ok {
			t.Errorf("%s: %v", name, err)
		}
		if ok && !strings.Contains(v.Error(), "this program 1") {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestVoucherCapsule(t *testing.T) {
	v := testVoucher(t)
	b := AppendVoucher(nil, v)
	got, err := ParseVoucher(v.Channel, b)
	if got != v || err != nil || len(b) != 81 {
		t.Errorf("%+v, %v, %d bytes", got, err, len(b))
	}
	b[0] = 1 // 2^120
	if _, err := ParseVoucher(v.Channel, b); !errors.Is(err, channel.ErrOverflow) {
		t.Errorf("over 64 bits: %v", err)
	}
	for _, n := range []int{0, 80, 82} {
		if _, err := ParseVoucher(v.Channel, make([]byte, n)); err == nil {
			t.Errorf("%d bytes", n)
		}
	}
}

func TestReading(t *testing.T) {
	r := testReading()
	r.Proof = NewProof([32]byte{9}, channel.ID{8}, testTally())
	for _, want := range []Reading{{}, testReading(), r, {ReceivedTCP: math.MaxUint64, SentUDP: math.MaxUint64, Owed: math.MaxUint64}} {
		b := AppendReading(nil, want)
		got, err := ParseReading(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for n := range len(b) {
			if _, err := ParseReading(b[:n]); err == nil && n != readingSize {
				t.Errorf("cut to %d of %d", n, len(b))
			}
		}
	}
	if testReading().Received() != 3 || testReading().Sent() != 9 {
		t.Error("sums")
	}
	for _, r := range []Reading{{ReceivedTCP: math.MaxUint64, ReceivedUDP: 1}, {SentTCP: 1, SentUDP: math.MaxUint64}} {
		if _, err := ParseReading(AppendReading(nil, r)); err == nil {
			t.Errorf("%+v", r)
		}
	}
	later := AppendReading(nil, testReading())
	later[0] = 2
	if _, err := ParseReading(later); err == nil {
		t.Error("another version")
	}
}

func TestProof(t *testing.T) {
	secret, id := [32]byte{9}, channel.ID{8}
	p := NewProof(secret, id, testTally())
	if got, err := p.Open(secret, id); got != testTally() || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range p {
		forged := bytes.Clone(p)
		forged[i] ^= 1
		if _, err := Proof(forged).Open(secret, id); err == nil {
			t.Errorf("byte %d changed", i)
		}
	}
	if _, err := p.Open([32]byte{1}, id); err == nil {
		t.Error("another agent's")
	}
	if _, err := p.Open(secret, channel.ID{7}); err == nil {
		t.Error("another channel's")
	}
	if _, err := Proof(nil).Open(secret, id); err == nil {
		t.Error("none")
	}
}

func TestJSONCapsules(t *testing.T) {
	want := Terms{Version: 1, Session: math.MaxUint64, Price: Price{1, 2}, Base: 3, BaseUp: 4, BaseDown: 5, Balance: 6, Credit: 7, Voucher: testVoucher(t)}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseTerms(b)
	if got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if tally := got.Tally(); tally.Session != want.Session || tally.Up != 4 || tally.Down != 5 || tally.Base != 3 || tally.BaseUp != 4 || tally.BaseDown != 5 {
		t.Errorf("%+v", tally)
	}
	for _, bad := range []string{"", "{", "null x", string(b) + "}", string(b) + "]", string(b) + string(b), `{"price":{"up":"1000000000001","down":"0"}}`, `{"base":1.5}`} {
		if _, err := ParseTerms([]byte(bad)); err == nil {
			t.Errorf("%q", bad)
		}
	}
	if c, err := ParseClosing([]byte(`{"refund":true,"later":1}`)); !c.Refund || err != nil {
		t.Errorf("%+v, %v", c, err)
	}
	// What a peer says is shown to people.
	evil, err := json.Marshal("\x1b[2J\u202e" + strings.Repeat("é", 1000) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	n, err := ParseNotice([]byte(`{"code":` + string(evil) + `,"text":` + string(evil) + `}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseClosed([]byte(`{"claimed":"1","refunded":"2","error":` + string(evil) + `}`))
	if err != nil || c.Claimed != 1 || c.Refunded != 2 {
		t.Fatal(c, err)
	}
	for _, s := range []string{n.Code, n.Text, n.Error(), c.Error} {
		if strings.ContainsFunc(s, steers) || len([]rune(s)) > maxShown || !strings.Contains(s, "éé") {
			t.Errorf("%q", s)
		}
	}
}

// TestParseRotated: nothing is charged for an address that is the same.
func TestParseRotated(t *testing.T) {
	r, err := ParseRotated([]byte(`{"changed":true,"old":"192.0.2.1","new":"192.0.2.2","price":"20000"}`))
	if err != nil || !r.Changed || r.Price != 20_000 || r.Old.String() != "192.0.2.1" || r.New.String() != "192.0.2.2" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{`{"changed":false,"price":"1"}`, `{"price":"-1"}`, `{"old":"x"}`, ``} {
		if r, err := ParseRotated([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, r)
		}
	}
	if q, err := ParseRotateRequest([]byte(`{"price":"7"}`)); err != nil || q.Price != 7 {
		t.Errorf("%+v, %v", q, err)
	}
}

func TestKnownCapsules(t *testing.T) {
	for typ, want := range map[uint64]bool{0: false, CapsuleHello - 1: false, CapsuleHello: true, CapsuleVoucher: true, CapsuleNotice: true, CapsuleToken: true, CapsuleEarly: true, CapsuleRotated: true, CapsuleReceipt: true, CapsuleReceipt + 1: false} {
		if KnownCapsule(typ) != want {
			t.Errorf("%#x", typ)
		}
	}
}

func FuzzHello(f *testing.F) {
	b, err := SealHello(testKey(f, 2), [32]byte{1}, testHello(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(make([]byte, 65))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := OpenHello([32]byte{1}, b)
		if err == nil && (h.Price.Check() != nil || h.Config.PayerAuthorizer.IsZero()) {
			t.Errorf("%+v", h)
		}
	})
}

func FuzzReading(f *testing.F) {
	r := testReading()
	f.Add(AppendReading(nil, r))
	r.Proof = NewProof([32]byte{9}, channel.ID{8}, testTally())
	f.Add(AppendReading(nil, r))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReading(b)
		if err != nil {
			return
		}
		if !bytes.Equal(AppendReading(nil, r), b) {
			t.Errorf("%x encodes back as %x", b, AppendReading(nil, r))
		}
		if r.Received() < r.ReceivedTCP || r.Sent() < r.SentUDP {
			t.Error("sums overflow")
		}
		if _, err := r.Proof.Open([32]byte{1}, channel.ID{}); err == nil {
			t.Error("a forged proof")
		}
	})
}

func FuzzProof(f *testing.F) {
	f.Add([]byte(NewProof([32]byte{9}, channel.ID{8}, testTally())))
	f.Fuzz(func(t *testing.T, b []byte) {
		tally, err := Proof(b).Open([32]byte{9}, channel.ID{8})
		if err == nil && !bytes.Equal(NewProof([32]byte{9}, channel.ID{8}, tally), b) {
			t.Errorf("%x", b)
		}
	})
}

func FuzzVoucher(f *testing.F) {
	f.Add(AppendVoucher(nil, testVoucher(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseVoucher(channel.ID{8}, b)
		if err == nil && !bytes.Equal(AppendVoucher(nil, v), b) {
			t.Errorf("%x encodes back as %x", b, AppendVoucher(nil, v))
		}
	})
}

// FuzzTerms reads any bytes as each of the capsules that are JSON.
func FuzzTerms(f *testing.F) {
	for _, v := range []any{
		Terms{Version: 1, Voucher: testVoucher(f)}, Notice{Code: NoticePrice, Text: "x", Price: &Price{1, 2}},
		Closing{Refund: true}, Closed{Claimed: 1, Error: "x"},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if terms, err := ParseTerms(b); err == nil {
			if terms.Price.Check() != nil {
				t.Errorf("%+v", terms)
			}
			if owed, err := terms.Tally().Owed(); owed != terms.Base || err != nil {
				t.Errorf("terms begin with %d owed, %v", owed, err)
			}
		}
		n, _ := ParseNotice(b)
		_, _ = ParseRotateRequest(b)
		_, _ = ParseRotated(b)
		c, _ := ParseClosed(b)
		for _, s := range []string{n.Code, n.Text, c.Error} {
			if strings.ContainsFunc(s, steers) {
				t.Errorf("%q", s)
			}
		}
		_, _ = ParseClosing(b)
	})
}
