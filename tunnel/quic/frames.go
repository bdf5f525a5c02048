package quic

import (
	"io"
	"math"
	"slices"

	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
)

// frames are those of a request's stream (RFC 9114 §7.1) as one end reads them.
type frames struct {
	r     io.Reader
	agent bool   // which end it is
	left  uint64 // of the last one's payload
	head  [8]byte
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
		case typ == framePromise && !f.agent: // RFC 9114 §7.2.5: no push was allowed
			return 0, broke(codeID, "a promise of a push")
		case typ == framePromise, slices.Contains(badRequestFrames[:], typ):
			return 0, broke(codeFrameUnexpected, "frame %#x on a request's stream", typ)
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
		return broke(codeFrame, "a frame that was cut off")
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

// payload reads a field section of up to maxHeader bytes. It takes room as the
// bytes come.
func (f *frames) payload() ([]byte, error) {
	if f.left > maxHeader {
		return nil, tooMuch("a field section of %d bytes", f.left)
	}
	var b []byte
	for f.left > 0 {
		n := min(f.left, 1<<10)
		b = append(b, make([]byte, n)...)
		f.left -= n
		if _, err := io.ReadFull(f.r, b[uint64(len(b))-n:]); err != nil {
			return nil, cut(err)
		}
	}
	return b, nil
}

// readRequest reads the head that a request's stream begins with.
func (f *frames) readRequest() (tunnel.Header, error) {
	typ, err := f.next()
	switch {
	case err == io.EOF:
		return tunnel.Header{}, &fault{codeRequestIncomplete, true, io.ErrUnexpectedEOF}
	case err != nil:
		return tunnel.Header{}, err
	case typ != frameHeaders:
		return tunnel.Header{}, broke(codeFrameUnexpected, "content before a head")
	}
	block, err := f.payload()
	if err != nil {
		return tunnel.Header{}, err
	}
	return parseRequest(block)
}

// mostInterim is how many interim answers (RFC 9110 §15.2) an answer may have.
const mostInterim = 8

// readAnswer reads the head of the answer to a request.
func (f *frames) readAnswer() (status int, fields tunnel.Fields, err error) {
	for range mostInterim {
		typ, err := f.next()
		switch {
		case err == io.EOF:
			return 0, nil, malformed("no answer: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return 0, nil, err
		case typ != frameHeaders:
			return 0, nil, broke(codeFrameUnexpected, "content before a head")
		}
		block, err := f.payload()
		if err != nil {
			return 0, nil, err
		}
		if status, fields, err = parseAnswer(block); err != nil {
			return 0, nil, err
		}
		if status >= 200 {
			return status, fields, nil
		}
	}
	return 0, nil, tooMuch("more than %d interim answers", mostInterim)
}

// content is what follows the head on a request's stream.
type content struct {
	frames
	length   int64 // that is to come; -1: unknown
	trailers bool  // they were read
	broken   bool  // and say that the content breaks off
}

// read reads content. It returns [tunnel.ErrBroken] behind the last byte when
// the trailers say that it breaks off there.
func (c *content) read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for c.left == 0 {
		if err := c.advance(); err != nil {
			return 0, err
		}
	}
	n, err := c.r.Read(b[:min(uint64(len(b)), c.left)])
	c.left -= uint64(n)
	if c.length >= 0 {
		c.length -= int64(n)
	}
	if err == io.EOF {
		if c.left > 0 {
			return n, cut(err)
		}
		return n, c.end()
	}
	return n, err
}

// advance goes to the next frame of content.
func (c *content) advance() error {
	typ, err := c.next()
	switch {
	case err == io.EOF:
		return c.end()
	case err != nil:
		return err
	case c.trailers:
		return broke(codeFrameUnexpected, "frame %#x behind trailers", typ)
	case typ == frameData:
		if c.length >= 0 && c.left > uint64(c.length) {
			return malformed("more content than was announced")
		}
		return nil
	case c.agent: // RFC 9114 §4.4: it accepts nothing but CONNECTs
		return broke(codeFrameUnexpected, "trailers of a CONNECT")
	}
	block, err := c.payload()
	if err != nil {
		return err
	}
	fields, err := parseTrailers(block)
	if err != nil {
		return err
	}
	c.trailers, c.broken = true, fields.Get("proxy-status") != ""
	return nil
}

// end is how the content ends where its stream does.
func (c *content) end() error {
	switch {
	case c.broken:
		return tunnel.ErrBroken
	case c.length > 0:
		return malformed("%d bytes of content are missing: %w", c.length, io.ErrUnexpectedEOF)
	}
	return io.EOF
}
