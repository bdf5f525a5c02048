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
