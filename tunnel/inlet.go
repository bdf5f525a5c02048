package tunnel

import (
	"io"
	"net"
	"syscall"
)

// An inlet is what one direction of the agent's end of a flow is read from. It
// borrows its buffer, and if it can wait without one, as sockets and QUIC
// streams can, it has none while it waits. It belongs to one goroutine.
type inlet struct {
	from   io.Reader
	socket syscall.RawConn       // from's, or nil
	stream Waiter                // from, or nil
	try    func(fd uintptr) bool // reads socket; made once, since it allocates
	store  *store
	fit    fit
	chunk  *chunk // borrowed, or nil

	n   int // what try has read
	err error
}

func newInlet(from io.Reader, s *store) *inlet {
	in := &inlet{from: from, store: s}
	if conn, ok := from.(net.Conn); ok {
		in.socket = socketOf(conn)
	}
	in.try = in.readSocket
	in.stream, _ = from.(Waiter)
	return in
}

// next waits for bytes and returns them behind [Headroom] bytes of room. They
// are valid until the next call.
func (in *inlet) next() (b []byte, err error) {
	switch {
	case in.socket != nil:
		if err = in.socket.Read(in.try); err == nil {
			err = in.err
		}
	case in.stream != nil:
		in.close()
		in.stream.Wait()
		in.n, err = in.from.Read(in.room())
	default:
		in.n, err = in.from.Read(in.room())
	}
	if in.chunk == nil || in.n == 0 {
		return nil, err
	}
	in.fit.read(in.chunk.class, in.n, len(in.chunk.buf)-Headroom)
	return in.chunk.buf[:Headroom+in.n], err
}

// room is what to read into: a borrowed buffer of the fitting class.
func (in *inlet) room() []byte {
	if in.chunk != nil && in.chunk.class != in.fit.class {
		in.close()
	}
	if in.chunk == nil {
		in.chunk = in.store.lend(in.fit.class)
	}
	in.n = 0
	return in.chunk.buf[Headroom:]
}

// close gives the buffer back.
func (in *inlet) close() {
	if in.chunk != nil {
		in.store.giveBack(in.chunk)
		in.chunk = nil
	}
}

// datagrams is what an agent's end of a UDP flow is read from. Each datagram is
// read into a borrowed buffer that has room for the largest, and copied to one
// that has room for the largest so far.
type datagrams struct {
	from   net.Conn
	socket syscall.RawConn       // from's, or nil
	try    func(fd uintptr) bool // reads socket; made once, since it allocates
	store  *store
	buf    []byte

	err error // of the last try
}

func newDatagrams(from net.Conn, s *store) *datagrams {
	d := &datagrams{from: from, socket: socketOf(from), store: s}
	d.try = d.readSocket
	return d
}

// next waits for a datagram, which is valid until the next call.
func (d *datagrams) next() ([]byte, error) {
	if d.socket == nil {
		if d.buf == nil {
			d.buf = make([]byte, maxPayload)
		}
		n, err := d.from.Read(d.buf)
		return d.buf[:n], err
	}
	err := d.socket.Read(d.try)
	if err == nil {
		err = d.err
	}
	return d.buf, err
}
