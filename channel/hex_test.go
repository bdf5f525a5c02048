package channel

import (
	"encoding/json"
	"strings"
	"testing"
)

// The examples of EIP-55.
var eip55 = []string{
	"0x52908400098527886E0F7030069857D2E4169EE7",
	"0x8617E340B3D01FA5F11F306F4090FD50E238070D",
	"0xde709f2102306220921060314715629080e2fb77",
	"0x27b1fdb04752bbc536007a920d24acb045561c26",
	"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
	"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
	"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
	"0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
}

func TestAddress(t *testing.T) {
	for _, want := range eip55 {
		for _, in := range []string{want, strings.ToLower(want), "0x" + strings.ToUpper(want[2:])} {
			a, err := ParseAddress(in)
			if err != nil || a.String() != want {
				t.Errorf("ParseAddress(%s) = %s, %v", in, a, err)
			}
		}
	}
	for _, in := range []string{"", "0x", "0x00", strings.Repeat("0", 40), "0X" + strings.Repeat("0", 40),
		"0x" + strings.Repeat("0", 39) + "g", "0x" + strings.Repeat("0", 41), " 0x" + strings.Repeat("0", 40),
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("ParseAddress(%q) = %s, want an error", in, a)
		}
	}
	if (Address{1}).IsZero() || !(Address{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestHexJSON(t *testing.T) {
	type all struct {
		A Address
		H Hash
		I ID
		S Signature
	}
	in := all{Address{1, 0xab}, Hash{2}, ID{3, 31: 0xff}, Signature{4, 64: 27}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s\ncame back as %+v, %v", b, out, err)
	}
	if in.H.String() != "0x02"+strings.Repeat("0", 62) {
		t.Errorf("Hash prints %s", in.H)
	}
	if id, err := ParseID(strings.ToUpper(in.I.String()[2:])); err == nil {
		t.Errorf("an ID without 0x gave %s", id)
	}
	if id, err := ParseID("0x" + strings.ToUpper(in.I.String()[2:])); err != nil || id != in.I {
		t.Errorf("upper case ID: %s, %v", id, err)
	}
	// A wrong text leaves the value alone.
	for _, bad := range []string{`"0x01"`, `"0x` + strings.Repeat("0", 63) + `x"`, `5`} {
		h := Hash{9}
		if err := json.Unmarshal([]byte(bad), &h); err == nil || h != (Hash{9}) {
			t.Errorf("%s: %s, %v", bad, h, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range eip55 {
		f.Add(s)
		f.Add(strings.ToLower(s))
	}
	f.Add("0x")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if !strings.EqualFold(a.String(), s) {
			t.Errorf("ParseAddress(%q) = %s", s, a)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%s does not parse: %v", a, err)
		}
	})
}
