package quic

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/apernet/quic-go/http3"
	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
)

// A fault is what a peer did against HTTP/3.
type fault struct {
	code    http3.ErrCode
	message bool // an error of the stream; else of the connection (RFC 9114 §8)
	err     error
}

func (f *fault) Error() string { return "http3: " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// malformed is a fault of a message (RFC 9114 §4.1.2).
func malformed(format string, args ...any) error {
	return &fault{http3.ErrCodeMessageError, true, fmt.Errorf(format, args...)}
}

// broke is a fault of the connection.
func broke(code http3.ErrCode, format string, args ...any) error {
	return &fault{code, false, fmt.Errorf(format, args...)}
}

// frames are those of a request's stream (RFC 9114 §7.1) as a client reads
// them.
type frames struct {
	r    io.Reader
	left uint64 // of the last one's payload
	head [8]byte
}

// Frames that are an error on a request's stream: those of control streams and
// what HTTP/2 had (RFC 9114 §7.2 and §11.2.1).
var badRequestFrames = [...]uint64{0x02, 0x03, frameSettings, 0x06, frameGoAway, 0x08, 0x09, frameMaxPushID}

// next begins the next DATA or HEADERS frame; unknown ones it skips (RFC 9114
// §9). It returns io.EOF where the stream ends between two.
func (f *frames) next() (typ uint64, err error) {
	for {
		// A frame has two bytes at least, one of the type and one of the length:
		// most often two reads do.
		if n, err := io.ReadFull(f.r, f.head[:2]); err != nil {
			if n > 0 {
				err = cut(err)
			}
			return 0, err
		}
		second := f.head[1]
		if size := 1 << (f.head[0] >> 6); size == 1 {
			typ = uint64(f.head[0])
		} else {
			if typ, err = f.varint(2, size); err != nil {
				return 0, err
			}
			if _, err = io.ReadFull(f.r, f.head[:1]); err != nil {
				return 0, cut(err)
			}
			second = f.head[0]
		}
		f.head[0] = second
		if f.left, err = f.varint(1, 1<<(second>>6)); err != nil {
			return 0, err
		}
		switch {
		case typ == frameData, typ == frameHeaders:
			return typ, nil
		case typ == framePromise: // RFC 9114 §7.2.5: no push was allowed
			return 0, broke(http3.ErrCodeIDError, "a promise of a push")
		case slices.Contains(badRequestFrames[:], typ):
			return 0, broke(http3.ErrCodeFrameUnexpected, "frame %#x in an answer", typ)
		}
		if err := f.skip(); err != nil {
			return 0, err
		}
	}
}

// varint reads the rest of a number of size bytes, of which head has some.
func (f *frames) varint(have, size int) (uint64, error) {
	if _, err := io.ReadFull(f.r, f.head[have:size]); err != nil {
		return 0, cut(err)
	}
	v, _, err := quicvarint.Parse(f.head[:size])
	return v, err
}

// cut is the error of a read within a frame (RFC 9114 §7.1).
func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return broke(http3.ErrCodeFrameError, "a frame that was cut off")
	}
	return err
}

func (f *frames) skip() error {
	n, err := io.CopyN(io.Discard, f.r, int64(min(f.left, math.MaxInt64)))
	f.left -= uint64(n)
	if err != nil {
		return cut(err)
	}
	return nil
}

// payload reads a frame that may have up to maxHeader bytes.
func (f *frames) payload() ([]byte, error) {
	if f.left > maxHeader {
		return nil, &fault{http3.ErrCodeExcessiveLoad, true, fmt.Errorf("a field section of %d bytes", f.left)}
	}
	b := make([]byte, f.left)
	f.left = 0
	if _, err := io.ReadFull(f.r, b); err != nil {
		return nil, cut(err)
	}
	return b, nil
}

// An answer is read from a request's stream: start, then read to its end.
type answer struct {
	frames
	method string // of the request

	length   int64 // of the content that is to come; -1: unknown
	trailers bool  // they were read
	broken   bool  // and say that the content breaks off
}

// mostInterim is how many interim answers (RFC 9110 §15.2) an answer may have.
const mostInterim = 8

// start reads the head.
func (a *answer) start() (status int, fields http.Header, err error) {
	for range mostInterim {
		typ, err := a.next()
		switch {
		case err == io.EOF:
			return 0, nil, malformed("no answer: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return 0, nil, err
		case typ != frameHeaders:
			return 0, nil, broke(http3.ErrCodeFrameUnexpected, "content before a head")
		}
		block, err := a.payload()
		if err != nil {
			return 0, nil, err
		}
		if status, fields, err = parseAnswer(block); err != nil {
			return 0, nil, err
		}
		if status >= 200 {
			a.length, err = contentLength(a.method, status, fields)
			return status, fields, err
		}
	}
	return 0, nil, &fault{http3.ErrCodeExcessiveLoad, true, fmt.Errorf("more than %d interim answers", mostInterim)}
}

// contentLength is how long the content of an answer is to be; -1 is unknown
// (RFC 9110 §8.6 and §9.3.6, RFC 9114 §4.1.2).
func contentLength(method string, status int, fields http.Header) (int64, error) {
	values := fields.Values("Content-Length")
	if len(values) == 0 || method == http.MethodHead || method == http.MethodConnect && status < 300 ||
		status == http.StatusNoContent || status == http.StatusNotModified {
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil || slices.ContainsFunc(values, func(v string) bool { return v != values[0] }) {
		return 0, malformed("content-length %q", values)
	}
	return int64(n), nil
}

// read reads content. It returns [tunnel.ErrBroken] behind the last byte when
// the trailers say that it breaks off there.
func (a *answer) read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for a.left == 0 {
		if err := a.advance(); err != nil {
			return 0, err
		}
	}
	n, err := a.r.Read(b[:min(uint64(len(b)), a.left)])
	a.left -= uint64(n)
	if a.length >= 0 {
		a.length -= int64(n)
	}
	if err == io.EOF {
		if a.left > 0 {
			return n, cut(err)
		}
		return n, a.end()
	}
	return n, err
}

// advance goes to the next frame of content.
func (a *answer) advance() error {
	typ, err := a.next()
	switch {
	case err == io.EOF:
		return a.end()
	case err != nil:
		return err
	case a.trailers:
		return broke(http3.ErrCodeFrameUnexpected, "frame %#x behind trailers", typ)
	case typ == frameData:
		if a.length >= 0 && a.left > uint64(a.length) {
			return malformed("more content than was announced")
		}
		return nil
	}
	block, err := a.payload()
	if err != nil {
		return err
	}
	fields, err := parseTrailers(block)
	if err != nil {
		return err
	}
	a.trailers, a.broken = true, fields.Get("Proxy-Status") != ""
	return nil
}

// end is how an answer ends where its stream does.
func (a *answer) end() error {
	switch {
	case a.broken:
		return tunnel.ErrBroken
	case a.length > 0:
		return malformed("%d bytes of content are missing: %w", a.length, io.ErrUnexpectedEOF)
	}
	return io.EOF
}
