package tunnel

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func known(uint64) bool { return true }

// TestVarint has the examples of RFC 9000 Appendix A.1 and the borders.
func TestVarint(t *testing.T) {
	for v, want := range map[uint64]string{
		151288809941952652: "\xc2\x19\x7c\x5e\xff\x14\xe8\x8c",
		494878333:          "\x9d\x7f\x3e\x7d",
		15293:              "\x7b\xbd",
		37:                 "\x25",
		0:                  "\x00",
		1<<6 - 1:           "\x3f",
		1 << 6:             "\x40\x40",
		1<<62 - 1:          "\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		if got := string(appendVarint(nil, v)); got != want {
			t.Errorf("%d: %x, want %x", v, got, want)
		}
		got, rest, err := cutVarint([]byte(want + "rest"))
		if got != v || string(rest) != "rest" || err != nil {
			t.Errorf("%x: %d %q %v", want, got, rest, err)
		}
		for n := range len(want) {
			if _, _, err := cutVarint([]byte(want[:n])); err == nil {
				t.Errorf("%x cut to %d is decoded", want, n)
			}
			wantErr := io.ErrUnexpectedEOF
			if n == 0 {
				wantErr = io.EOF
			}
			if _, err := readVarint(strings.NewReader(want[:n])); err != wantErr {
				t.Errorf("%x cut to %d: %v", want, n, err)
			}
		}
	}
}

func TestVarintOver62Bits(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("encoded")
		}
	}()
	appendVarint(nil, 1<<62)
}

func TestCapsules(t *testing.T) {
	wire := appendCapsule(nil, 0x1234, []byte("skipped"))
	wire = appendCapsule(wire, 7, []byte("one"))
	wire = appendCapsule(wire, 7, nil)
	wire = appendCapsule(wire, 7, bytes.Repeat([]byte("x"), 100))
	r := bufio.NewReader(bytes.NewReader(wire))
	only7 := func(typ uint64) bool { return typ == 7 }
	buf := make([]byte, 3)
	for _, want := range []string{"one", ""} {
		typ, value, err := readCapsule(r, buf, 99, only7)
		if typ != 7 || string(value) != want || err != nil {
			t.Errorf("%d %q %v", typ, value, err)
		}
		if len(value) > 0 && &value[0] != &buf[0] {
			t.Error("the buffer that fits is not used")
		}
	}
	if _, _, err := readCapsule(r, buf, 99, only7); err == nil || err == io.EOF {
		t.Errorf("over the limit: %v", err)
	}
	for n := range wire { // cut anywhere: a clean end only between two capsules
		r := bufio.NewReader(bytes.NewReader(wire[:n]))
		var err error
		for err == nil {
			_, _, err = readCapsule(r, nil, 1000, known)
		}
		starts := []int{0, 10, 15, 17}
		clean := false
		for _, s := range starts {
			clean = clean || n == s
		}
		if clean != (err == io.EOF) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
}

// FuzzCapsule reads any bytes as capsules: within the limit, and what is read
// encodes back to what was there.
func FuzzCapsule(f *testing.F) {
	f.Add([]byte{}, 10)
	f.Add(appendCapsule(appendCapsule(nil, 1, []byte("a")), math.MaxInt32, []byte("bc")), 100)
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1<<20)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit &= 1<<16 - 1
		r := bufio.NewReaderSize(bytes.NewReader(b), 16)
		var encoded []byte
		for {
			typ, value, err := readCapsule(r, nil, limit, known)
			if err != nil {
				break
			}
			if len(value) > limit {
				t.Fatalf("%d bytes, limit %d", len(value), limit)
			}
			encoded = appendCapsule(encoded, typ, value)
		}
		// Encoding is unique only for the shortest varints.
		again := bufio.NewReader(bytes.NewReader(encoded))
		var twice []byte
		for {
			typ, value, err := readCapsule(again, nil, limit, known)
			if err != nil {
				if err != io.EOF {
					t.Fatal(err)
				}
				break
			}
			twice = appendCapsule(twice, typ, value)
		}
		if !bytes.Equal(encoded, twice) {
			t.Fatal("does not encode back")
		}
		if v, _, err := cutVarint(b); err == nil {
			if got, _, err := cutVarint(appendVarint(nil, v)); got != v || err != nil {
				t.Fatalf("%d: %d, %v", v, got, err)
			}
		}
	})
}

// FuzzControl hands any bytes to both ends of a control stream.
func FuzzControl(f *testing.F) {
	f.Add(appendCapsule(nil, capsulePause, []byte{4}))
	f.Add(appendCapsule(nil, capsuleCancel, []byte{4, 4}))
	f.Add(appendCapsule(appendCapsule(nil, capsuleResume, appendVarint(nil, 1<<61)), 0x7402_0010, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, steer := range []func(typ, id uint64){nil, func(typ, id uint64) {
			if !isSteering(typ) || id >= 1<<62 {
				t.Errorf("order %#x of stream %d", typ, id)
			}
		}} {
			c := newControl(readStream{bytes.NewReader(b)}, steer, func(typ uint64) bool { return typ >= 0x7402_0010 })
			for {
				got, err := c.Receive()
				if err != nil {
					break
				}
				if got.Type < 0x7402_0010 || len(got.Value) > MaxCapsule {
					t.Errorf("capsule %#x of %d bytes", got.Type, len(got.Value))
				}
			}
		}
	})
}

// A readStream is a stream on which something has arrived.
type readStream struct{ io.Reader }

func (readStream) Write(b []byte) (int, error) { return len(b), nil }
func (readStream) Close() error                { return nil }
func (readStream) ID() uint64                  { return 0 }
func (readStream) Abort(uint64)                {}
func (readStream) Stop(uint64)                 {}

func TestControlRefusesLongCapsules(t *testing.T) {
	c := newControl(readStream{nil}, nil, known)
	if err := c.Send(0x7402_0010, make([]byte, MaxCapsule)); err != nil {
		t.Error(err)
	}
	if err := c.Send(0x7402_0010, make([]byte, MaxCapsule+1)); err == nil {
		t.Error("sent")
	}
}

func TestHandPayload(t *testing.T) {
	got := ""
	take := func(b []byte) error { got += string(b) + "|"; return nil }
	for _, b := range []string{"\x00a", "\x00", "\x40\x00b", "\x02other context"} {
		if err := handPayload([]byte(b), take); err != nil {
			t.Errorf("%q: %v", b, err)
		}
	}
	if got != "a||b|" {
		t.Errorf("got %q", got)
	}
	if err := handPayload(nil, take); !errors.Is(err, errVarint) {
		t.Errorf("empty: %v", err)
	}
}
