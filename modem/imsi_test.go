package modem_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/depinsim/x402/modem"
)

// TestRedaction prints an IMSI and a PIN every way there is.
func TestRedaction(t *testing.T) {
	const number, secret = "262019876543210", "48151623"
	imsi, err := modem.ParseIMSI(number, 2)
	if err != nil {
		t.Fatal(err)
	}
	p := pin(t, secret)
	type holder struct {
		IMSI modem.IMSI
		PIN  modem.PIN
	}
	type hidden struct {
		imsi modem.IMSI
		pin  modem.PIN
		ptr  *modem.IMSI
	}
	values := []any{
		imsi, &imsi, p, &p, holder{imsi, p}, &holder{imsi, p}, hidden{imsi, p, &imsi}, &hidden{imsi, p, &imsi},
		[]modem.IMSI{imsi}, map[string]modem.PIN{"pin": p}, modem.Identity{IMSI: imsi}, []any{imsi, p},
		map[modem.IMSI]modem.PIN{imsi: p}, fmt.Errorf("x: %v %w", p, fmt.Errorf("%s", imsi)),
	}
	var out strings.Builder
	for _, v := range values {
		for _, verb := range "bcdeEfFgGoOpqstTUvxX" {
			for _, flags := range []string{"", "+", "#", "-20", "020", " ", ".3", "+#"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
			}
		}
		fmt.Fprintln(&out, v)
		fmt.Fprint(&out, v)
		if text, err := json.Marshal(v); err == nil {
			out.Write(text)
		}
		if text, err := xml.Marshal(v); err == nil {
			out.Write(text)
		}
		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("x", "v", v, slog.Group("g", "v", v))
		}
		out.Write(log.Bytes())
	}
	out.WriteString(imsi.String() + p.String() + imsi.LogValue().String())
	for _, digits := range []string{number, number[5:], secret, fmt.Sprintf("%x", number), fmt.Sprintf("%X", secret)} {
		if strings.Contains(out.String(), digits) {
			t.Errorf("%s shows", digits)
		}
	}
	for _, want := range []string{"imsi(redacted)", "pin(redacted)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s does not show", want)
		}
	}
	if imsi.Digits() != number {
		t.Error("the digits are lost")
	}
}

func TestIMSI(t *testing.T) {
	var zero modem.IMSI
	if !zero.IsZero() || zero.Digits()+zero.MCC()+zero.MNC() != "" {
		t.Error("the zero IMSI is not empty")
	}
	a, err := modem.ParseIMSI("310260123456789", 3)
	if err != nil || a.MCC() != "310" || a.MNC() != "260" || a.IsZero() {
		t.Errorf("%s %s, %v", a.MCC(), a.MNC(), err)
	}
	b, _ := modem.ParseIMSI("310260123456789", 2)
	if b.MNC() != "26" || !a.Equal(b) || a.Equal(zero) {
		t.Error("unequal")
	}
	for _, bad := range []string{"", "12345", "1234567890123456", "12345a", "123 456", "١٢٣٤٥٦"} {
		if _, err := modem.ParseIMSI(bad, 2); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := modem.ParseIMSI("310260123456789", 4); err == nil {
		t.Error("a network code of 4 digits")
	}
}

func TestParsePIN(t *testing.T) {
	for _, good := range []string{"0000", "12345678"} {
		if p, err := modem.ParsePIN(good); err != nil || p.IsZero() {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "123", "123456789", "12a4", "12 4"} {
		if p, err := modem.ParsePIN(bad); err == nil || !p.IsZero() || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestRedact: the number goes wherever its digits follow each other, with one
// other character between two of them at most; other numbers stay.
func TestRedact(t *testing.T) {
	imsi, err := modem.ParseIMSI("262019876543217", 2)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                                "",
		"Balance: 9876543210":             "Balance: 9876543210",
		"IMSI 262019876543217":            "IMSI 26201imsi(redacted)",
		"262-01-9876543217, 9876 543 217": "262-01-imsi(redacted), imsi(redacted)",
		"9\u00a08\u00a07\u00a06\u00a05\u00a04\u00a03\u00a02\u00a01\u00a07": "imsi(redacted)",
		"9..876543217":  "9..876543217",
		"987654321":     "987654321",
		"9876543217":    "imsi(redacted)",
		"9879876543217": "987imsi(redacted)",
	} {
		if got := imsi.Redact(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got := (modem.IMSI{}).Redact(text); got != text {
			t.Errorf("no number, %q: %q", text, got)
		}
	}
	for text, want := range map[string]string{
		"49303d39383736353433323137": "imsi(redacted)", // ASCII
		"9876543217ff":               "imsi(redacted)", // half octets
		"8967452371":                 "imsi(redacted)", // swapped
		"deadbeef":                   "deadbeef",
	} {
		m := modem.Message{Binary: true, Text: text, From: "9876543217"}
		if m.Redact(imsi); m.Text != want || m.From != "imsi(redacted)" {
			t.Errorf("%s: %+v", text, m)
		}
	}
}
