package channel

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrOverflow is returned when an amount would exceed 64 bits or fall below
// zero. Nothing that counts money wraps.
var ErrOverflow = errors.New("amount overflows")

// usdUnits is how many atomic units one USD has: the assets we price in carry
// six decimals, like USDC.
const usdUnits = 1_000_000

// Amount is a sum in atomic units of the channel's asset (USDC: 1e-6 USD).
// Its text and JSON form is a decimal string, as in the x402 standard; a bare
// JSON integer is accepted too. The standard's uint128 is wider, but no
// deposit of this network exceeds 1.8e13 USD: a larger number is an error.
type Amount uint64

// ParseAmount reads a canonical decimal integer: digits only, no sign, no
// space, no leading zero, at most 64 bits.
func ParseAmount(s string) (Amount, error) {
	v, err := parseUint(s)
	if err != nil {
		return 0, fmt.Errorf("amount %q: %w", clip(s), err)
	}
	return Amount(v), nil
}

// Add returns a+b, or ErrOverflow.
func (a Amount) Add(b Amount) (Amount, error) {
	if a+b < a {
		return 0, fmt.Errorf("%d + %d: %w", a, b, ErrOverflow)
	}
	return a + b, nil
}

// Plus returns a+b, or the largest amount if that is more.
func (a Amount) Plus(b Amount) Amount {
	if a+b < a {
		return ^Amount(0)
	}
	return a + b
}

// Sub returns a-b, or ErrOverflow when b is larger.
func (a Amount) Sub(b Amount) (Amount, error) {
	if b > a {
		return 0, fmt.Errorf("%d - %d: %w", a, b, ErrOverflow)
	}
	return a - b, nil
}

// String returns the decimal atomic units.
func (a Amount) String() string { return strconv.FormatUint(uint64(a), 10) }

// USD returns the amount in dollars, exactly, with two to six decimals:
// "0.0001", "2.00".
func (a Amount) USD() string {
	s := fmt.Sprintf("%d.%06d", uint64(a)/usdUnits, uint64(a)%usdUnits)
	for strings.HasSuffix(s, "0") && s[len(s)-3] != '.' {
		s = s[:len(s)-1]
	}
	return s
}

// ParseUSD reads dollars: digits, and optionally a point followed by one to
// six digits. Anything finer than an atomic unit is an error.
func ParseUSD(s string) (Amount, error) {
	whole, frac, point := strings.Cut(s, ".")
	w, err := parseUint(whole)
	if err != nil {
		return 0, fmt.Errorf("amount %q in USD: %w", clip(s), err)
	}
	if w > (1<<64-1)/usdUnits {
		return 0, fmt.Errorf("amount %q in USD: %w", clip(s), ErrOverflow)
	}
	if !point {
		return Amount(w * usdUnits), nil
	}
	if len(frac) == 0 || len(frac) > 6 {
		return 0, fmt.Errorf("amount %q in USD: want one to six decimals", clip(s))
	}
	var f uint64
	for _, c := range []byte(frac + "000000"[len(frac):]) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("amount %q in USD: not a decimal number", clip(s))
		}
		f = f*10 + uint64(c-'0')
	}
	a, err := Amount(w * usdUnits).Add(Amount(f))
	if err != nil {
		return 0, fmt.Errorf("amount %q in USD: %w", clip(s), ErrOverflow)
	}
	return a, nil
}

// MarshalText writes the decimal string.
func (a Amount) MarshalText() ([]byte, error) {
	return strconv.AppendUint(nil, uint64(a), 10), nil
}

// UnmarshalText reads what ParseAmount reads.
func (a *Amount) UnmarshalText(text []byte) error {
	v, err := ParseAmount(string(text))
	if err != nil {
		return err
	}
	*a = v
	return nil
}

// UnmarshalJSON reads a decimal string, or a bare integer as some clients
// write. null is refused: an amount that was not said is not zero.
func (a *Amount) UnmarshalJSON(b []byte) error {
	if n := len(b); n >= 2 && b[0] == '"' && b[n-1] == '"' {
		b = b[1 : n-1]
	}
	return a.UnmarshalText(b)
}

// parseUint is strconv.ParseUint for canonical decimals only, so that one
// number has one spelling.
func parseUint(s string) (uint64, error) {
	if s == "" {
		return 0, errors.New("empty")
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, errors.New("leading zero")
	}
	var v uint64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, errors.New("not a decimal number")
		}
		d := uint64(c - '0')
		if v > (1<<64-1-d)/10 {
			return 0, ErrOverflow
		}
		v = v*10 + d
	}
	return v, nil
}

// clip bounds what an error repeats of a peer's text.
func clip(s string) string {
	const limit = 80
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
