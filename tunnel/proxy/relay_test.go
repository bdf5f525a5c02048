package proxy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

// The buffer starts small and doubles while reads fill it.
func TestCopyBytesGrowsItsBuffer(t *testing.T) {
	var sizes []int
	left := 200 << 10
	src := readFunc(func(b []byte) (int, error) {
		sizes = append(sizes, len(b))
		if left == 0 {
			return 0, io.EOF
		}
		n := min(len(b), left)
		if len(sizes) == 3 { // a short read leaves the size alone
			n = 1
		}
		left -= n
		return n, nil
	})
	var dst bytes.Buffer
	if rerr, werr := copyBytes(&dst, src); rerr != nil || werr != nil || dst.Len() != 200<<10 {
		t.Fatalf("copied %d bytes, %v, %v", dst.Len(), rerr, werr)
	}
	if want := []int{4 << 10, 8 << 10, 16 << 10, 16 << 10, 32 << 10, 64 << 10}; !slices.Equal(sizes[:6], want) || slices.Max(sizes) != maxBuffer {
		t.Errorf("read into %d, want %d and so on", sizes, want)
	}
}

func TestCopyBytesTellsWhichSideFailed(t *testing.T) {
	errRead, errWrite := errors.New("read"), errors.New("write")
	good := func() io.Reader { return bytes.NewReader([]byte("x")) } // an io.WriterTo
	for name, tt := range map[string]struct {
		src        io.Reader
		dst        io.Writer
		rerr, werr error
	}{
		"both fine":              {good(), io.Discard, nil, nil},
		"reader fails":           {readFunc(func([]byte) (int, error) { return 0, errRead }), io.Discard, errRead, nil},
		"reader fails with data": {readFunc(func([]byte) (int, error) { return 1, errRead }), io.Discard, errRead, nil},
		"writer fails":           {struct{ io.Reader }{good()}, failingWriter{errWrite}, nil, errWrite},
		"WriterTo's read fails":  {failingWriterTo{errRead}, io.Discard, errRead, nil},
		"WriterTo's write fails": {good(), failingWriter{errWrite}, nil, errWrite},
	} {
		if rerr, werr := copyBytes(tt.dst, tt.src); rerr != tt.rerr || werr != tt.werr {
			t.Errorf("%s: got %v, %v; want %v, %v", name, rerr, werr, tt.rerr, tt.werr)
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

type failingWriterTo struct{ err error }

func (f failingWriterTo) Read([]byte) (int, error)           { return 0, f.err }
func (f failingWriterTo) WriteTo(w io.Writer) (int64, error) { return 0, f.err }
