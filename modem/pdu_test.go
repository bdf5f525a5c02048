package modem

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// delivered makes of a PDU to be sent the one that comes in at the other end.
func delivered(t *testing.T, submit, from string) string {
	t.Helper()
	raw, err := hex.DecodeString(submit)
	if err != nil || raw[0] != 0 || raw[1]&0x3f != 1 {
		t.Fatalf("%s is no message to be sent", submit)
	}
	address := 2 + (int(raw[3])+1)/2
	rest := raw[3+address:] // protocol, coding, length, data
	sender, err := encodeAddress(from)
	if err != nil {
		t.Fatal(err)
	}
	pdu := append([]byte{0, raw[1] &^ 3}, sender...)
	pdu = append(append(pdu, rest[:2]...), 0x42, 0x11, 0x82, 0x51, 0x32, 0x51, 0x80)
	return hex.EncodeToString(append(pdu, rest[2:]...))
}

// TestPDURoundTrip sends texts at both sides of each limit and reads them back.
func TestPDURoundTrip(t *testing.T) {
	for _, text := range []string{
		"", "x", "@£$¥èéùìòÇ\nØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ", "^{}[]~|\\€", "Привет, 世界 😀", strings.Repeat("1234567", 9), strings.Repeat("a", 160), strings.Repeat("a", 161),
		strings.Repeat("a", 152) + "€€", strings.Repeat("a", 306) + "€", strings.Repeat("é€", 200), strings.Repeat("я", 70), strings.Repeat("я", 71), strings.Repeat("x", 66) + "😀😀😀世",
	} {
		pdus, err := encodeParts("+49170123456", text, 7)
		if err != nil {
			t.Errorf("%.20q: %v", text, err)
			continue
		}
		var list []stored
		for i, pdu := range pdus {
			p, err := decodePart(delivered(t, pdu, "+1234567"))
			if err != nil {
				t.Errorf("%.20q: %v", text, err)
			}
			list = append([]stored{{index: i, part: p}}, list...) // the last one comes first
		}
		got := joinParts(list)
		if len(got) != 1 || got[0].Text != text || got[0].From != "+1234567" || got[0].Missing != 0 || len(got[0].Indexes) != len(pdus) {
			t.Errorf("%q became %+v", text, got)
		}
		if want := time.Date(2024, 11, 28, 15, 23, 15, 0, time.FixedZone("", 2*3600)); !got[0].Time.Equal(want) {
			t.Errorf("%v, want %v", got[0].Time, want)
		}
		if len(list) > 1 {
			if got := joinParts(list[1:]); len(got) != 1 || got[0].Missing != 1 || got[0].Text != text[:len(got[0].Text)] {
				t.Errorf("without the last part: %+v", got)
			}
		}
	}
}

// TestPDUVectors has what others print in their guides.
func TestPDUVectors(t *testing.T) {
	if got := fmt.Sprintf("%X", pack7([]byte("hellohello"), 0)); got != "E8329BFD4697D9EC37" {
		t.Errorf("hellohello: %s", got)
	}
	if got := fmt.Sprintf("%X", packUSSD([]byte("*100#"))); got != "AA180C3602" {
		t.Errorf("*100#: %s", got)
	}
	if got := fmt.Sprintf("%X", packUSSD([]byte("*1#*2#*"))); !strings.HasSuffix(fmt.Sprintf("%X", unpack7(pack7([]byte("*1#*2#*\r"), 0), 8, 0)), "0D") || len(got) != 14 {
		t.Errorf("padding: %s", got)
	}
	p, err := decodePart("07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07")
	if err != nil || p.text != "How are you?" || p.from != "+31641600986" || !p.time.Equal(time.Date(2002, 8, 26, 19, 37, 41, 0, time.UTC)) {
		t.Errorf("%+v, %v", p, err)
	}
	// The name of the sender: 7 septets.
	p, err = decodePart("00040ED0CDF7F9CD7E930100004211825132518003" + "C8F71D")
	if err != nil || p.from != "Mogens" && p.from == "" || p.text != "How" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{
		"", "00", "zz", "0791", "07911326040000F0040B911346610089F600002080629173", // torn
		"0001000B916407281553F80000AA0AE8329BFD4697D9EC37", // sent, not delivered
		"0004FF91" + strings.Repeat("00", 200), "00440491214300004211825132518002" + "05", strings.Repeat("00", 301),
	} {
		if p, err := decodePart(bad); err == nil {
			t.Errorf("%s: %+v", bad, p)
		}
	}
	for dcs, want := range map[int]coding{0: septets, 0x08: ucs2, 0x04: octets, 0x18: ucs2, 0x20: octets, 0xf0: septets, 0xf4: octets, 0xf5: octets, 0xe0: ucs2, 0xc8: septets, 0xd0: septets, 0x11: septets} {
		if got := codingOf(dcs); got != want {
			t.Errorf("coding 0x%02x: %d", dcs, got)
		}
	}
	for stamp, want := range map[string]bool{"42118251325180": true, "00000000000000": false, "4A118251325180": false, "42218251325180": true, "42118251325188": true, "42118251326780": false} {
		raw, err := hex.DecodeString(stamp)
		if err != nil || timestamp(raw).IsZero() == want {
			t.Errorf("%s: %v, %v", stamp, timestamp(raw), err)
		}
	}
}

func TestParseCMGL(t *testing.T) {
	const pdu = "07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07"
	list := parseCMGL([]string{
		"^RSSI:17", "+CMGL: 3,0,,30", "+CREG: 1", "0791", pdu, pdu, "+CMGL: 4,1,\"x,y\",30", "RING", pdu, "+CMGL: x,1,,30", pdu, "+CMGL: 5,1,,31", pdu, "+CMGL: 6,1",
	})
	if len(list) != 2 || list[0].index != 3 || list[0].read || list[1].index != 4 || !list[1].read || list[1].text != "How are you?" {
		t.Errorf("%+v", list)
	}
}

func TestParseCUSD(t *testing.T) {
	for line, want := range map[string]cusd{
		`+CUSD: 0,"Hi, 5",15`:              {0, "Hi, 5"},
		`+CUSD: 1,"say ""x"" now"`:         {1, `say ""x"" now`},
		`+CUSD: 2`:                         {2, ""},
		`+CUSD:4`:                          {4, ""},
		`+CUSD: 0,"00480069",72`:           {0, "Hi"},
		`+CUSD: 0,"D83DDE00",72`:           {0, "😀"},
		`+CUSD: 0,"C2004800690021",17`:     {0, "Hi!"},
		`+CUSD: 0,"abc",17`:                {0, "abc"},
		"+CUSD: 0,\"a\x1b[31m\u202eb\",15": {0, "a[31mb"},
		`+CUSD: 9,"x"`:                     {-1, ""},
		`+CUSD: `:                          {-1, ""},
		`+CSQ: 1,2`:                        {-1, ""},
	} {
		got, ok := parseCUSD(line, false)
		if !ok {
			got = cusd{-1, ""}
		}
		if got != want {
			t.Errorf("%s: %+v", line, got)
		}
	}
	if got, _ := parseCUSD(`+CUSD: 0,"E8329BFD4697D9EC37",15`, true); got.text != "hellohello" {
		t.Errorf("packed: %+v", got)
	}
}

// FuzzPDU reads what a network may send: nothing fails, and what is read fits
// for being shown.
func FuzzPDU(f *testing.F) {
	f.Add("07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07")
	f.Add("0791947101670000440C919471173205960000421182513251800A0500030A0201C2E231")
	f.Add("0791947101670000040C919471173205960008421182513251800E0042006100640020263AD83DDE00")
	f.Fuzz(func(t *testing.T, pdu string) {
		p, err := decodePart(pdu)
		if err != nil {
			return
		}
		if !utf8.ValidString(p.text) || !utf8.ValidString(p.from) || strings.ContainsAny(p.text+p.from, "\x00\x1b\r") || p.seq < 1 || p.seq > p.of || p.of > 255 {
			t.Errorf("%+v", p)
		}
		list := parseCMGL([]string{fmt.Sprintf("+CMGL: 1,0,,%d", len(pdu)/2-1-int(mustByte(pdu))), pdu, "+CMGL: 2,1,,20", pdu})
		if got := joinParts(list); len(got) > len(list) || len(list) > 0 && len(got) == 0 {
			t.Errorf("%d messages of %d parts", len(got), len(list))
		}
	})
}

func mustByte(pdu string) byte {
	raw, err := hex.DecodeString(pdu[:2])
	if err != nil {
		return 0
	}
	return raw[0]
}

// FuzzText sends any text and reads it back, and reads any USSD.
func FuzzText(f *testing.F) {
	f.Add("Hello €", "+49170123456", `+CUSD: 0,"E8329BFD4697D9EC37",15`)
	f.Add(strings.Repeat("😀", 99), "12345", "+CUSD: 1,\"a\nb\",72")
	f.Fuzz(func(t *testing.T, text, to, line string) {
		for _, packed := range []bool{false, true} {
			if u, ok := parseCUSD(line, packed); ok && (u.m < 0 || u.m > 5 || strings.ContainsAny(u.text, "\x00\x1b\r")) {
				t.Errorf("%+v", u)
			}
		}
		pdus, err := encodeParts(to, text, 1)
		if err != nil || !utf8.ValidString(text) {
			return
		}
		var list []stored
		for _, pdu := range pdus {
			p, err := decodePart(delivered(t, pdu, "12345"))
			if err != nil || len(pdu) > 2*176 {
				t.Fatalf("%q: %s: %v", text, pdu, err)
			}
			list = append(list, stored{part: p})
		}
		if got := joinParts(list); len(got) != 1 || got[0].Text != printable(text) {
			t.Errorf("%q became %+v", text, got)
		}
	})
}
