package channel

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseAmount(t *testing.T) {
	for _, row := range []struct {
		in   string
		want Amount
		ok   bool
	}{
		{"0", 0, true},
		{"100", 100, true},
		{"18446744073709551615", math.MaxUint64, true},
		{"18446744073709551616", 0, false},
		{"18446744073709551620", 0, false},
		{"340282366920938463463374607431768211455", 0, false},
		{"", 0, false},
		{" 1", 0, false},
		{"1 ", 0, false},
		{"+1", 0, false},
		{"-1", 0, false},
		{"01", 0, false},
		{"00", 0, false},
		{"1e3", 0, false},
		{"1_000", 0, false},
		{"0x10", 0, false},
		{"1.0", 0, false},
		{"١", 0, false},
	} {
		got, err := ParseAmount(row.in)
		if (err == nil) != row.ok || got != row.want {
			t.Errorf("ParseAmount(%q) = %d, %v", row.in, got, err)
		}
	}
	if _, err := ParseAmount("18446744073709551616"); !errors.Is(err, ErrOverflow) {
		t.Errorf("2^64: %v, want ErrOverflow", err)
	}
	if _, err := ParseAmount(strings.Repeat("x", 1<<20)); err == nil || len(err.Error()) > 200 {
		t.Error("a megabyte of text is repeated in the error")
	}
}

func TestAmountArithmetic(t *testing.T) {
	const max = Amount(math.MaxUint64)
	if got, err := Amount(2).Add(3); got != 5 || err != nil {
		t.Errorf("2+3 = %d, %v", got, err)
	}
	if got, err := (max - 1).Add(1); got != max || err != nil {
		t.Errorf("max-1+1 = %d, %v", got, err)
	}
	if _, err := max.Add(1); !errors.Is(err, ErrOverflow) {
		t.Errorf("max+1: %v", err)
	}
	if _, err := max.Add(max); !errors.Is(err, ErrOverflow) {
		t.Errorf("max+max: %v", err)
	}
	if a, b, c := Amount(2).Plus(3), (max - 1).Plus(1), max.Plus(1); a != 5 || b != max || c != max {
		t.Errorf("2+3 = %d, max-1+1 = %d, at most %d", a, b, c)
	}
	if got, err := Amount(3).Sub(3); got != 0 || err != nil {
		t.Errorf("3-3 = %d, %v", got, err)
	}
	if _, err := Amount(2).Sub(3); !errors.Is(err, ErrOverflow) {
		t.Errorf("2-3: %v", err)
	}
}

func TestUSD(t *testing.T) {
	for _, row := range []struct {
		amount Amount
		text   string
	}{
		{0, "0.00"},
		{1, "0.000001"},
		{100, "0.0001"},
		{10_000, "0.01"},
		{1_250_000, "1.25"},
		{1_200_000, "1.20"},
		{2_000_000, "2.00"},
		{12_345_678, "12.345678"},
		{math.MaxUint64, "18446744073709.551615"},
	} {
		if got := row.amount.USD(); got != row.text {
			t.Errorf("Amount(%d).USD() = %s, want %s", row.amount, got, row.text)
		}
		if got, err := ParseUSD(row.text); got != row.amount || err != nil {
			t.Errorf("ParseUSD(%s) = %d, %v", row.text, got, err)
		}
	}
	for in, want := range map[string]Amount{"2": 2_000_000, "0.5": 500_000, "3.1": 3_100_000, "0.000000": 0} {
		if got, err := ParseUSD(in); got != want || err != nil {
			t.Errorf("ParseUSD(%s) = %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ".", "1.", ".5", "-1", "+1", "1,5", "1.0000001", "1e3", "$1", "1.-5", "1.2.3", " 1", "01.5",
		"18446744073710", "18446744073709.551616"} {
		if got, err := ParseUSD(in); err == nil {
			t.Errorf("ParseUSD(%q) = %d, want an error", in, got)
		}
	}
}

func TestAmountJSON(t *testing.T) {
	for _, in := range []string{`"100"`, `100`} {
		var a Amount
		if err := json.Unmarshal([]byte(in), &a); err != nil || a != 100 {
			t.Errorf("%s: %d, %v", in, a, err)
		}
	}
	for _, in := range []string{`null`, `""`, `"-1"`, `-1`, `1.5`, `1e2`, `true`, `{}`, `"1\u0030"`, `[1]`} {
		a := Amount(7)
		if err := json.Unmarshal([]byte(in), &a); err == nil || a != 7 {
			t.Errorf("%s gave %d, %v", in, a, err)
		}
	}
	b, err := json.Marshal(map[string]Amount{"a": math.MaxUint64})
	if err != nil || string(b) != `{"a":"18446744073709551615"}` {
		t.Errorf("%s, %v", b, err)
	}
}

func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"", "0", "100", "18446744073709551615", "18446744073709551616", "-1", "007"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAmount(s)
		if err == nil && a.String() != s {
			t.Errorf("ParseAmount(%q) = %d", s, a)
		}
	})
}

func FuzzParseUSD(f *testing.F) {
	for _, s := range []string{"", "0", "2.00", "0.0001", "18446744073709.551615", "1.0000001", "1.", ".1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseUSD(s)
		if err != nil {
			return
		}
		again, err := ParseUSD(a.USD())
		if err != nil || again != a {
			t.Errorf("ParseUSD(%q) = %d, whose USD() %q gives %d, %v", s, a, a.USD(), again, err)
		}
		if trimmed := strings.TrimRight(strings.TrimRight(s, "0"), "."); !strings.HasPrefix(a.USD(), trimmed) && trimmed != "" {
			t.Errorf("ParseUSD(%q).USD() = %q", s, a.USD())
		}
	})
}
