package x402

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of what is decoded.
const (
	MaxBody   = 256 << 10 // bytes of JSON: a claim of MaxClaims rows fits
	MaxHeader = 16 << 10  // bytes of JSON in a header; a deposit takes about 2,000
	maxDepth  = 24        // nested objects and arrays
)

// Unmarshal decodes one JSON value of at most [MaxBody] bytes. It refuses
// deeper nesting than any message has, trailing data, and an object in which
// two names differ in nothing but case: readers disagree about which of two
// "amount" members counts, and no payment may depend on that.
func Unmarshal(data []byte, v any) error {
	if len(data) > MaxBody {
		return fmt.Errorf("json: %d bytes, at most %d", len(data), MaxBody)
	}
	if err := checkJSON(data); err != nil {
		return fmt.Errorf("json: %w", err)
	}
	return json.Unmarshal(data, v)
}

// EncodeHeader returns v as the value of one of the x402 headers.
func EncodeHeader(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	if len(b) > MaxHeader {
		return "", fmt.Errorf("header: %d bytes of JSON, at most %d", len(b), MaxHeader)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// DecodeHeader reads the value of one of the x402 headers, by the rules of
// [Unmarshal].
func DecodeHeader(s string, v any) error {
	if len(s) > base64.StdEncoding.EncodedLen(MaxHeader) {
		return fmt.Errorf("header: %d bytes, too long", len(s))
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	return Unmarshal(b, v)
}

// DecodeRequired reads PAYMENT-REQUIRED as a client does: it leaves out the ways to
// pay that are not for this package, those of other networks, whose addresses
// have other forms, and amounts beyond 64 bits. One such must not hide the others.
func DecodeRequired(s string) (PaymentRequired, error) {
	type plain PaymentRequired
	var all struct {
		plain
		Accepts []json.RawMessage `json:"accepts"`
	}
	if err := DecodeHeader(s, &all); err != nil {
		return PaymentRequired{}, err
	}
	p := PaymentRequired(all.plain)
	for _, text := range all.Accepts {
		var r Requirements
		if json.Unmarshal(text, &r) == nil {
			p.Accepts = append(p.Accepts, r)
		}
	}
	return p, nil
}

// HexBytes are written as 0x and hexadecimal digits.
type HexBytes []byte

// MarshalText writes the digits.
func (h HexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode([]byte("0x"), h), nil }

// UnmarshalText reads them.
func (h *HexBytes) UnmarshalText(text []byte) error {
	digits, ok := bytes.CutPrefix(text, []byte("0x"))
	if !ok {
		return errors.New("hexadecimal: does not start with 0x")
	}
	b, err := hex.AppendDecode(nil, digits)
	if err != nil {
		return errors.New("hexadecimal: not even digits 0 to 9 and a to f")
	}
	*h = b
	return nil
}

// checkJSON walks data once and applies the rules that encoding/json does not.
func checkJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // no float64 on the way
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the value")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	names := map[string]bool{} // of an object
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			// encoding/json matches names without regard to case.
			name := strings.ToLower(fmt.Sprint(t))
			if names[name] {
				return fmt.Errorf("member %.32q appears twice", name)
			}
			names[name] = true
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
