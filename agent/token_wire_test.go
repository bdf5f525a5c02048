package agent

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
)

// TestToken pins the shape of tokens and of the field that carries them.
func TestToken(t *testing.T) {
	secret, id := [32]byte{1}, channel.ID{2, 31: 3}
	token := NewToken(secret, id)
	const want = "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAMDKWmWmC2i7P8ugUceG8-0"
	if token != want {
		t.Errorf("token %s, want %s", token, want)
	}
	if got, err := OpenToken(secret, token); got != id || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, ok := TokenChannel(token); got != id || !ok {
		t.Errorf("%s, %v", got, ok)
	}
	if got := Credentials(token); got != "Basic "+base64.StdEncoding.EncodeToString([]byte("x402:"+token)) {
		t.Error(got)
	}
	for _, field := range []string{Credentials(token), "bearer " + token, "BEARER   " + token, "Basic " + base64.StdEncoding.EncodeToString([]byte(":"+token))} {
		if got, err := ParseCredentials(field); got != token || err != nil {
			t.Errorf("%q: %s, %v", field, got, err)
		}
	}
	for i := range token { // every character counts
		b := []byte(token)
		b[i] = 'A' + (b[i]+1)%26
		if _, err := OpenToken(secret, string(b)); string(b) != token && err == nil {
			t.Errorf("%s is taken", b)
		}
	}
	for _, bad := range []string{"", token[:63], token + "A", token[:63] + "=", token[:32] + "\n" + token[33:], strings.Repeat("-", 64), strings.ToLower(token)} {
		if _, err := OpenToken(secret, bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := OpenToken([32]byte{2}, token); err == nil {
		t.Error("another secret's is taken")
	}
}

func TestTokenAmount(t *testing.T) {
	for _, row := range []struct {
		price Price
		bytes uint64
		want  channel.Amount
	}{
		{Price{4_000_000, 4_000_000}, 500_000_000, 2_000_000},
		{Price{1, 4_000_000}, 100_001, 401},
		{Price{4_000_000, 1}, 100_001, 401},
		{Price{}, MaxTokenBytes, 1},
		{Price{MaxPrice, MaxPrice}, MaxTokenBytes, 1_000_000_000_000_000_000},
	} {
		if got, err := TokenAmount(row.price, row.bytes); got != row.want || err != nil {
			t.Errorf("%+v: %d, %v", row, got, err)
		}
		// However the bytes are used, they never cost more.
		for _, up := range []uint64{0, 1, row.bytes / 3, row.bytes} {
			owed, err := Tally{Price: row.price, Up: up, Down: row.bytes - up}.Owed()
			if err != nil || owed > row.want {
				t.Errorf("%+v: %d up cost %d, %v", row, up, owed, err)
			}
		}
	}
	for _, bytes := range []uint64{0, MinTokenBytes - 1, MaxTokenBytes + 1, math.MaxUint64} {
		if _, err := TokenAmount(Price{}, bytes); err == nil {
			t.Errorf("%d bytes", bytes)
		}
	}
}

// TestTokenTally: what a token came to is stored with what it was sold for, and
// goes on as the base of a session on its channel.
func TestTokenTally(t *testing.T) {
	want := Tally{Session: 1, Price: Price{Up: 3, Down: 4}, Up: 7, Down: 8, Prepaid: 100_000, Void: true}
	b, err := want.MarshalBinary()
	if err != nil || len(b) > channel.MaxNote {
		t.Fatal(len(b), err)
	}
	var got Tally
	if err := got.UnmarshalBinary(b); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for i, spoil := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)-1] },
		func(b []byte) []byte { return append(b, 0) },
		func(b []byte) []byte { b[0] = 1; return b },
		func(b []byte) []byte { b[0] = 3; return b },
		func(b []byte) []byte { b[tallySize-1] = 4; return b },
		func(b []byte) []byte { clear(b[tallySize:]); return b },
		func(b []byte) []byte { b[tallySize] = 0xff; return b },
		func(b []byte) []byte { return b[:tallySize] },
	} {
		if err := got.UnmarshalBinary(spoil(append([]byte(nil), b...))); err == nil || got != want {
			t.Errorf("%d: taken", i)
		}
	}
	want.Void = false
	next, err := want.Next(Price{5, 6})
	if err != nil || next.Prepaid != 0 || next.Base != 1 || next.Up != 7 || next.Down != 8 {
		t.Errorf("%+v, %v", next, err)
	}
}

func FuzzToken(f *testing.F) {
	secret := [32]byte{1}
	f.Add(NewToken(secret, channel.ID{2}))
	f.Add(NewToken([32]byte{}, channel.ID{}))
	f.Add(strings.Repeat("\n", 64))
	f.Fuzz(func(t *testing.T, token string) {
		id, err := OpenToken(secret, token)
		if err == nil && NewToken(secret, id) != token {
			t.Errorf("%q is taken for %q", token, NewToken(secret, id))
		}
		if err != nil && id != (channel.ID{}) {
			t.Error("half opened")
		}
		if named, ok := TokenChannel(token); err == nil && (!ok || named != id) {
			t.Errorf("%q names %s", token, named)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	token := NewToken([32]byte{1}, channel.ID{2})
	f.Add(Credentials(token))
	f.Add("Bearer " + token)
	f.Add("Basic OjpBQUFB")
	f.Add("bAsIc")
	f.Fuzz(func(t *testing.T, field string) {
		token, err := ParseCredentials(field)
		if err != nil {
			if token != "" {
				t.Errorf("%q with %v", token, err)
			}
			return
		}
		if again, err := ParseCredentials(Credentials(token)); again != token || err != nil {
			t.Errorf("%q: %q, %v", token, again, err)
		}
	})
}

// FuzzTokenCapsules reads any bytes as a wish for a token and as one.
func FuzzTokenCapsules(f *testing.F) {
	for _, v := range []any{TokenRequest{Bytes: 5}, TokenGrant{Token: NewToken([32]byte{1}, channel.ID{2}), Bytes: 1, Price: Price{1, 2}}} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ParseTokenRequest(b)
		if g, err := ParseTokenGrant(b); err == nil {
			if _, ok := TokenChannel(g.Token); !ok {
				t.Errorf("%q", g.Token)
			}
		}
	})
}
