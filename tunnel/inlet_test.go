package tunnel

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// TestFit rises with full reads and falls after several small ones only.
func TestFit(t *testing.T) {
	var f fit
	const room = 1000
	for i, row := range []struct{ class, n, want int }{
		{0, 10, 0}, {0, room, 1}, {1, room, 2}, {2, room - 1, 2}, // as most
		{2, 1, 2}, {2, 1, 2}, {2, 1, 2}, {2, room, 3}, // three small ones and a full one
		{3, 1, 3}, {3, 1, 3}, {3, 1, 3}, {3, 501, 3}, {3, 1, 3}, // three and one of more than half
		{3, 1, 3}, {3, 1, 3}, {3, 1, 2}, // that was the fourth
		{1, room, 2},        // a smaller one was all there was
		{1, room / 2, 1},    // likewise
		{maxClass, room, 4}, // there is none above
	} {
		if f.read(row.class, row.n, room); f.class != row.want {
			t.Fatalf("row %d: class %d, want %d", i, f.class, row.want)
		}
	}
}

// TestLending divides what there is among those who borrow.
func TestLending(t *testing.T) {
	const most = 1 << 20
	s := &store{most: most}
	var lent []*chunk
	for range 1000 {
		lent = append(lent, s.lend(maxClass))
	}
	if c := lent[0]; len(c.buf) != maxBuffer {
		t.Errorf("the first gets %d bytes", len(c.buf))
	}
	if c := lent[999]; len(c.buf) != minBuffer {
		t.Errorf("the last gets %d bytes", len(c.buf))
	}
	if n := s.lent.Load(); n > most+1000*minBuffer {
		t.Errorf("%d bytes are lent", n)
	}
	for range 20 { // those who have too much for their number come down
		for i, c := range lent {
			s.giveBack(c)
			lent[i] = s.lend(maxClass)
		}
	}
	for _, c := range lent {
		if c.class != 0 {
			t.Fatalf("among a thousand one has %d bytes", len(c.buf))
		}
		s.giveBack(c)
	}
	if n := s.lent.Load(); n != 0 {
		t.Errorf("%d bytes are lent still", n)
	}
}

// A waiting stream has bytes when told.
type waiting struct {
	Stream
	lent func() int32
	seen int32 // what was lent while it was waited for
}

func (w *waiting) Wait()                      { w.seen = max(w.seen, w.lent()) }
func (w *waiting) Read(b []byte) (int, error) { return copy(b, "abc"), nil }

func TestInletOfStream(t *testing.T) {
	s := &store{most: 1 << 20}
	w := &waiting{lent: s.lent.Load}
	in := newInlet(w, s)
	for range 3 {
		if b, err := in.next(); err != nil || string(b[Headroom:]) != "abc" {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	if w.seen != 0 {
		t.Errorf("%d bytes were borrowed while it waited", w.seen)
	}
	if in.close(); s.lent.Load() != 0 {
		t.Error("the buffer is kept")
	}
}

// TestDatagrams reads datagrams of every size whole, the first ones too.
func TestDatagrams(t *testing.T) {
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := net.DialUDP("udp4", nil, far.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	for name, from := range map[string]net.Conn{"socket": near, "other": struct{ net.Conn }{near}} {
		in := newDatagrams(from, new(store))
		for _, n := range []int{maxPayload - 20, 1, 0, 1100, 2048, 2049, 0} { // 20: the IPv4 header's
			want := bytes.Repeat([]byte{byte(n)}, n)
			if _, err := far.WriteTo(want, near.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			got, err := in.next()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes: got %d, %v", name, n, len(got), err)
			}
		}
		near.SetReadDeadline(time.Now())
		if _, err := in.next(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: after the deadline: %v", name, err)
		}
		near.SetReadDeadline(time.Time{})
	}
}
