//go:build unix

package tunnel

import (
	"io"
	"net"
	"syscall"
)

// socketOf returns what c can be read by without a buffer while it waits, or
// nil.
func socketOf(c net.Conn) syscall.RawConn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil // it is closed, as Read will say
	}
	return raw
}

// readSocket reads into a borrowed buffer what is there. It reports false, and
// keeps none, when nothing is.
func (in *inlet) readSocket(fd uintptr) bool {
	in.n, in.err = readNow(fd, in.room())
	if in.err == syscall.EAGAIN {
		in.close()
		return false
	}
	if in.n == 0 && in.err == nil {
		in.err = io.EOF
	}
	return true
}

// readSocket reads the next datagram, if there is one.
func (d *datagrams) readSocket(fd uintptr) bool {
	c := d.store.get(maxClass)
	defer d.store.put(c)
	n, err := readNow(fd, c.buf)
	if err == syscall.EAGAIN {
		return false
	}
	d.buf, d.err = append(d.buf[:0], c.buf[:n]...), err
	return true
}

// readNow reads what is there, or returns EAGAIN.
func readNow(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), b)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
