package proxy

import (
	"context"
	"io"
	"net"
	"sync"
)

// Sizes of a copy buffer: idle connections hold little, busy ones copy in few
// calls.
const (
	minBuffer = 4 << 10
	maxBuffer = 64 << 10
)

// A relay joins a local connection with a flow of the tunnel, and owns both
// while run is on.
//
//	local EOF ────────────────→ half-close the flow
//	local error ──────────────→ close both
//	flow EOF ─────────────────→ half-close local
//	flow error (refused, reset) → reset local, close the flow
//	flow takes no more bytes ─→ the flow's other direction decides
type relay struct {
	local, flow net.Conn
	early       io.Reader // what was read from local before; may be nil
}

// run copies until both directions have ended or ctx is cancelled, and closes
// both connections. The error is the flow's, nil when it ended in order.
func (r relay) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.abort)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(r.up)
	err := r.down()
	wg.Wait()
	r.local.Close()
	r.flow.Close()
	return err
}

func (r relay) abort() {
	reset(r.local)
	r.flow.Close()
}

func (r relay) up() {
	if r.early != nil {
		if rerr, werr := copyBytes(r.flow, r.early); rerr != nil || werr != nil {
			return
		}
	}
	rerr, werr := copyBytes(r.flow, r.local)
	switch {
	case werr != nil:
		// A target may stop reading and still answer (RFC 9112 section 9.6),
		// so this ends nothing: a flow that is dead fails in down too.
	case rerr != nil:
		r.abort()
	case closeWrite(r.flow) != nil:
		r.abort()
	}
}

func (r relay) down() error {
	rerr, werr := copyBytes(r.local, r.flow)
	if rerr != nil || werr != nil || closeWrite(r.local) != nil {
		r.abort()
	}
	return rerr
}

// copyBytes copies until src ends, and tells the side that failed. It copies
// through one buffer that grows while reads fill it, or leaves that to src if
// it is an io.WriterTo.
func copyBytes(dst io.Writer, src io.Reader) (readErr, writeErr error) {
	if w, ok := src.(io.WriterTo); ok {
		to := &errWriter{w: dst}
		_, err := w.WriteTo(to)
		if to.err != nil {
			return nil, to.err
		}
		return err, nil
	}
	buf := make([]byte, minBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return nil, werr
			}
		}
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
		if n == len(buf) && n < maxBuffer {
			buf = make([]byte, 2*n)
		}
	}
}

// An errWriter remembers that writing failed, which the error of an
// io.WriterTo does not tell.
type errWriter struct {
	w   io.Writer
	err error
}

func (w *errWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	if err != nil {
		w.err = err
	}
	return n, err
}

// closeWrite half-closes c; a connection that cannot is closed.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// reset closes c so that its peer sees a reset instead of an end.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0) // fails only when c is closed
	}
	c.Close()
}
