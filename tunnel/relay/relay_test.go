package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const testPin = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"relay.example:443":                           "relay.example:443",
		"Relay.Example:443":                           "relay.example:443",
		"192.0.2.1:4433#" + testPin:                   "192.0.2.1:4433#" + testPin,
		"[2001:db8::1]:1#" + strings.ToUpper(testPin): "[2001:db8::1]:1#" + testPin,
		"a_b-c.d:65535":                               "a_b-c.d:65535",
	} {
		n, err := ParseName(in)
		if err != nil || n.String() != want {
			t.Errorf("%s: %s, %v, want %s", in, n, err, want)
		}
	}
	for _, in := range []string{
		"", "relay", "relay:", ":443", "relay:0", "relay:65536", "relay:-1", "relay:4 ", "relay:x", "re lay:1", "-relay:1", "a..b:1", ".a:1",
		"relay:1#", "relay:1#00", "relay:1#" + testPin + "00", "relay:1#" + strings.Repeat("x", 64), "#" + testPin,
		"a\x1b[2J:1", "a\u202eb:1", "täst:1", "[fe80::1%eth0]:1", "2001:db8::1:1", "[relay]:1:2", "[2001:DB8:0::1]:443x",
		strings.Repeat("a", 64) + ":1", strings.Repeat("a.", 127) + "a:1", "relay:1#" + testPin + "#" + testPin,
	} {
		if n, err := ParseName(in); err == nil {
			t.Errorf("%q: %s", in, n)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("relay.example:443#" + testPin)
	f.Add("[2001:db8::1]:1")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		again, err := ParseName(n.String())
		if err != nil || again != n || len(n.String()) > MaxName {
			t.Errorf("%q: %s, %s, %v", s, n, again, err)
		}
	})
}

func testMessages() []Message {
	return []Message{
		{Type: TypeHello, Version: 1, Agent: Address{1}, Signature: Signature{2}},
		{Type: TypeOffer, Offer: json.RawMessage(`{"offer":{},"signature":"0x"}`)},
		{Type: TypeWelcome, Version: 1, Observed: netip.MustParseAddrPort("[2001:db8::1]:7")},
		{Type: TypeSession, Allotment: &Allotment{ID: SessionID{1}, Token: Token{2}, Address: netip.MustParseAddrPort("192.0.2.1:7"), TCP: true, Expires: 60}},
		{Type: TypeEnd, Allotment: &Allotment{ID: SessionID{1}}},
		{Type: TypePing},
		{Type: TypeNotice, Code: CodeLimit, Text: "enough"},
		{Type: TypeDrain},
		{Type: TypeWatch, Watch: json.RawMessage(`{"amount":"7"}`)},
	}
}

func TestMessages(t *testing.T) {
	var b []byte
	for _, m := range testMessages() {
		var err error
		if b, err = m.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	r := bytes.NewReader(b)
	for _, want := range testMessages() {
		got, err := ReadMessage(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}, Token{})); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := ReadMessage(r); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	// The wire is flat, and says no more than it must.
	ping, err := Message{Type: TypePing}.Append(nil)
	if err != nil || string(ping) != "\x00\x0f"+`{"type":"ping"}` {
		t.Errorf("%q, %v", ping, err)
	}
	end, err := Message{Type: TypeEnd, Allotment: &Allotment{ID: SessionID{0xab}}}.Append(nil)
	if err != nil || string(end[2:]) != `{"type":"end","id":"ab00000000000000"}` {
		t.Errorf("%q, %v", end, err)
	}
}

func TestBadMessages(t *testing.T) {
	frame := func(n int, s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(n))) + s }
	for name, s := range map[string]string{
		"half a length":   "\x00",
		"cut":             frame(20, `{"type":"ping"}`),
		"too long":        frame(MaxMessage+1, strings.Repeat(" ", MaxMessage+1)),
		"empty":           frame(0, ""),
		"no JSON":         frame(3, "abc"),
		"two values":      frame(4, "{}{}"),
		"a list":          frame(2, "[]"),
		"a short agent":   frame(22, `{"agent":"0x00112233"}`),
		"a long token":    frame(78, `{"token":"`+testPin+"00"+`"}`),
		"a bad address":   frame(17, `{"address":"x:1"}`),
		"a long session":  frame(25, `{"id":"00112233445566778"}`),
		"negative expiry": frame(14, `{"expires":-1}`),
	} {
		if m, err := ReadMessage(strings.NewReader(s)); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if _, err := (Message{Type: TypeOffer, Offer: json.RawMessage(`"` + strings.Repeat("x", MaxMessage) + `"`)}).Append(nil); err == nil {
		t.Error("a long message was sent")
	}
	good := *testMessages()[3].Allotment
	for name, change := range map[string]func(*Allotment){
		"no session": func(a *Allotment) { a.ID = SessionID{} },
		"no token":   func(a *Allotment) { a.Token = Token{} },
		"no address": func(a *Allotment) { a.Address = netip.AddrPort{} },
		"no port":    func(a *Allotment) { a.Address = netip.AddrPortFrom(a.Address.Addr(), 0) },
		"nowhere":    func(a *Allotment) { a.Address = netip.MustParseAddrPort("0.0.0.0:1") },
		"a zone":     func(a *Allotment) { a.Address = netip.MustParseAddrPort("[fe80::1%x]:1") },
	} {
		a := good
		change(&a)
		if a.Check() == nil {
			t.Errorf("%s: usable", name)
		}
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range testMessages() {
		b, err := m.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		if m.Offer != nil && !json.Valid(m.Offer) || m.Watch != nil && !json.Valid(m.Watch) {
			t.Errorf("offer %q", m.Offer)
		}
		again, err := m.Append(nil)
		if err != nil { // what was short in another spelling may be too long in ours
			if !strings.Contains(err.Error(), "at most") {
				t.Error(err)
			}
			return
		}
		back, err := ReadMessage(bytes.NewReader(again))
		if err != nil || back.Type != m.Type || (back.Allotment == nil) != (m.Allotment == nil) {
			t.Errorf("%q: %+v, then %+v, %v", b, m, back, err)
		}
	})
}

// TestTokenHidden prints a token in every way there is.
func TestTokenHidden(t *testing.T) {
	tok := Token{0xde, 0xad, 0xbe, 0xef}
	a := Allotment{ID: SessionID{1}, Token: tok}
	m := Message{Type: TypeSession, Allotment: &a}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", tok, "allotment", a, "message", m)
	var text strings.Builder
	text.WriteString(log.String())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
		text.WriteString(fmt.Sprintf(verb, tok) + fmt.Sprintf(verb, a) + fmt.Sprintf(verb, &a))
	}
	text.WriteString(fmt.Sprintf("%v %+v %#v", m, m, m))
	for _, leak := range []string{"dead", "DEAD", "222 173", "222, 173", "0xde"} {
		if strings.Contains(text.String(), leak) {
			t.Errorf("%q in %s", leak, text.String())
		}
	}
}

func TestPreamble(t *testing.T) {
	id, tok := SessionID{1, 2}, Token{3}
	b := Preamble(id, tok)
	if got, ok := PreambleSession(b); !ok || got != id || len(b) != PreambleSize || b[0] != 0 {
		t.Errorf("%x: %s, %v", b, got, ok)
	}
	if !PreambleBy(b, tok) || PreambleBy(b, Token{4}) || PreambleBy(b[1:], tok) || PreambleBy(nil, tok) {
		t.Error("whose it is")
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if id, ok := PreambleSession(c); ok && PreambleBy(c, tok) {
			t.Errorf("byte %d changed: still of %s", i, id)
		}
	}
}
