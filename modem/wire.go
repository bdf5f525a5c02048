package modem

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

// maxLine bounds a line. The longest answer that is read here has about 100
// bytes; what is longer is noise, and the at package would give up for good
// after 64 KiB without an end of line.
const maxLine = 2048

// A wire stands between a port and the at package and hands it whole lines in
// the form that it understands. One goroutine reads.
type wire struct {
	port    io.ReadWriteCloser
	opened  time.Time
	last    atomic.Int64 // when the last byte came, in nanoseconds since opened
	lines   lineFilter   // the reader's
	tap     atomic.Pointer[tap]
	pending []byte    // the reader's: filtered, not yet read
	buf     [512]byte // the reader's
}

func newWire(port io.ReadWriteCloser) *wire { return &wire{port: port, opened: time.Now()} }

// A tap hears every line that comes, whoever it is for. What finds the channel
// full is lost.
type tap struct{ lines chan string }

func (w *wire) Write(p []byte) (int, error) { return w.port.Write(p) }

// Read blocks until there is a whole line. A port that keeps returning nothing
// and no error has lost its device.
func (w *wire) Read(p []byte) (int, error) {
	for idle := 0; len(w.pending) == 0; {
		n, err := w.port.Read(w.buf[:])
		if n > 0 {
			idle = 0
			w.last.Store(int64(time.Since(w.opened)))
			w.pending = w.lines.feed(w.pending[:0], w.buf[:n])
			w.listen()
			continue
		}
		if idle++; err == nil && idle == 100 {
			err = io.ErrNoProgress
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, w.pending)
	w.pending = w.pending[n:]
	return n, nil
}

// listen hands new lines to the tap.
func (w *wire) listen() {
	tap := w.tap.Load()
	if tap == nil {
		return
	}
	for line := range bytes.Lines(w.pending) {
		select {
		case tap.lines <- string(bytes.TrimSuffix(line, []byte{'\n'})):
		default:
		}
	}
}

// quiet is how long nothing has come.
func (w *wire) quiet() time.Duration {
	return time.Since(w.opened) - time.Duration(w.last.Load())
}

// A lineFilter cuts what a modem sends into lines. CR, LF and any mix of them
// end one, since modems send "\r\r\n" while they echo; control characters and
// what does not begin like text is line noise; empty and overlong lines vanish.
type lineFilter struct {
	line []byte
	skip bool // the line is too long: drop the rest of it
	// prompt is set by the writer before a command that is answered by "> " and
	// no end of line; the filter takes one as a line then.
	prompt atomic.Bool
}

// feed appends the lines that in completes to out, each with a LF, and keeps an
// unfinished one for the next call.
func (f *lineFilter) feed(out, in []byte) []byte {
	for _, c := range in {
		switch {
		case c == '\r' || c == '\n':
			if line := final(bytes.TrimSpace(f.line)); len(line) > 0 && !f.skip {
				out = append(append(out, line...), '\n')
			}
			f.line, f.skip = f.line[:0], false
		case c < ' ' || c == 0x7f:
		case c >= 0x80 && len(f.line) == 0: // no line begins outside ASCII
		case len(f.line) == maxLine:
			f.skip = true
		case c == '>' && len(f.line) == 0 && f.prompt.Swap(false):
			out = append(out, ">\n"...)
		default:
			f.line = append(f.line, c)
		}
	}
	return out
}

// final turns the final lines that only some modems know into those of the
// standard; the at package would wait for another one until it times out.
func final(line []byte) []byte {
	switch string(line) {
	case "COMMAND NOT SUPPORT", "COMMAND NOT SUPPORTED":
		return []byte("+CME ERROR: 4")
	case "TOO MANY PARAMETERS":
		return []byte("+CME ERROR: 50")
	}
	return line
}
