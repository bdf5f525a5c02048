package path

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
)

var (
	testKey   = Key{1, 2, 3}
	otherKey  = Key{1, 2, 4}
	testID    = ID{'s', 'e', 's', 's', 'i', 'o', 'n', '1'}
	testAddr4 = netip.MustParseAddrPort("192.0.2.7:4433")
	testAddr6 = netip.MustParseAddrPort("[2001:db8::7]:65535")
)

// samples is one packet of each kind.
func samples() map[Type][]byte {
	cookie := [CookieSize]byte{9, 8, 7}
	return map[Type][]byte{
		TypeBind:      Bind{testID, 7, cookie}.Append(nil, &testKey),
		TypeChallenge: Challenge{testID, 7, cookie}.Append(nil, &testKey),
		TypeBound:     Bound{testID, 7, testAddr4, testAddr6}.Append(nil, &testKey),
		TypeProbe:     Probe{testID, 7, true}.Append(nil, &testKey, 1200),
		TypeAck:       Ack{testID, 7, true, testAddr4}.Append(nil, &testKey, 1200),
	}
}

// reencode parses b as whatever it is under k and writes it again.
func reencode(b []byte, k *Key) (out []byte, ok bool) {
	if p, err := ParseBind(b, k); err == nil {
		return p.Append(nil, k), true
	}
	if p, err := ParseChallenge(b, k); err == nil {
		return p.Append(nil, k), true
	}
	if p, err := ParseBound(b, k); err == nil {
		return p.Append(nil, k), true
	}
	if p, err := ParseProbe(b, k); err == nil {
		return p.Append(nil, k, len(b)), true
	}
	if p, err := ParseAck(b, k); err == nil {
		return p.Append(nil, k, len(b)), true
	}
	return nil, false
}

// TestGolden holds the bytes that docs/PROTOCOL.md promises.
func TestGolden(t *testing.T) {
	want := map[Type]string{
		TypeBind:      "000173657373696f6e31000000000000000709080700000000000000000000000000",
		TypeChallenge: "000273657373696f6e31000000000000000709080700000000000000000000000000",
		TypeBound: "000373657373696f6e31000000000000000700000000000000000000ffffc00002071151" +
			"20010db8000000000000000000000007ffff",
		TypeProbe: "000473657373696f6e31000000000000000701",
		TypeAck:   "000573657373696f6e31000000000000000701" + "00000000000000000000ffffc00002071151",
	}
	length := map[Type]int{TypeBind: 70, TypeChallenge: 50, TypeBound: 70, TypeProbe: 1200, TypeAck: 1200}
	for typ, b := range samples() {
		if len(b) != length[typ] {
			t.Errorf("type %d: %d bytes, want %d", typ, len(b), length[typ])
		}
		head, _ := hex.DecodeString(want[typ])
		sum := mac(head, &testKey)
		if got := b[:len(head)+macSize]; !bytes.Equal(got, append(head, sum[:macSize]...)) {
			t.Errorf("type %d: %x", typ, got)
		}
		if again, ok := reencode(b, &testKey); !ok || !bytes.Equal(again, b) {
			t.Errorf("type %d does not survive a round: %x", typ, again)
		}
		gotType, id, counter, ok := Control(b)
		if !ok || gotType != typ || id != testID || counter != 7 {
			t.Errorf("Control: %d %x %d %v", gotType, id, counter, ok)
		}
	}
}

// TestForged changes every byte that counts, the key and the length.
func TestForged(t *testing.T) {
	authentic := map[Type]int{TypeBind: 50, TypeChallenge: 50, TypeBound: 70, TypeProbe: 35, TypeAck: 53}
	for typ, b := range samples() {
		for i := range authentic[typ] {
			b[i] ^= 0x40
			if _, ok := reencode(b, &testKey); ok {
				t.Errorf("type %d: byte %d changed and taken", typ, i)
			}
			b[i] ^= 0x40
		}
		if _, ok := reencode(b, &otherKey); ok {
			t.Errorf("type %d: taken under another key", typ)
		}
		shortest := map[Type]int{TypeProbe: MinProbe, TypeAck: MinProbe}[typ]
		for n := range b {
			if _, ok := reencode(b[:n], &testKey); ok != (shortest > 0 && n >= shortest) {
				t.Errorf("type %d of %d bytes: taken %v", typ, n, ok)
			}
		}
		if _, ok := reencode(append(b, make([]byte, MaxProbe)...), &testKey); ok {
			t.Errorf("type %d: taken with %d bytes", typ, len(b)+MaxProbe)
		}
	}
}

func TestProbeSizes(t *testing.T) {
	for _, tt := range []struct{ size, want int }{{0, MinProbe}, {1400, 1400}, {9000, MaxProbe}} {
		if got := len(Probe{}.Append(nil, &testKey, tt.size)); got != tt.want {
			t.Errorf("probe of %d: %d bytes, want %d", tt.size, got, tt.want)
		}
		if got := len(Ack{}.Append(nil, &testKey, tt.size)); got != tt.want {
			t.Errorf("ack of %d: %d bytes, want %d", tt.size, got, tt.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, a := range []netip.AddrPort{{}, testAddr4, testAddr6} {
		p, err := ParseBound(Bound{Self: a}.Append(nil, &testKey), &testKey)
		if err != nil || p.Self != a || p.Peer.IsValid() {
			t.Errorf("%v came back as %v, %v, %v", a, p.Self, p.Peer, err)
		}
	}
}

func FuzzPacket(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, control := Control(b)
		again, ok := reencode(b, &testKey)
		if !ok {
			return
		}
		if !control || len(again) != len(b) {
			t.Fatalf("%x came back as %x", b, again)
		}
		if third, ok := reencode(again, &testKey); !ok || !bytes.Equal(third, again) {
			t.Fatalf("%x came back as %x", again, third)
		}
	})
}
