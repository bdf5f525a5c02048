package tunnel

import (
	"sync"
	"sync/atomic"
)

// Classes of buffers: minBuffer doubled up to maxBuffer, and datagrams in
// buffers of the transport's.
const (
	minBuffer   = 4 << 10 // what a direction starts with
	maxClass    = 4
	maxBuffer   = minBuffer << maxClass // what full reads grow it to
	packetClass = maxClass + 1
)

// A chunk is a buffer and the part of it that is unread: buf[from:to].
type chunk struct {
	buf      []byte
	from, to int
	class    int // of buf; packetClass: buf is not from the store
}

// A store keeps the buffers of many flows.
type store struct {
	most  int32        // of lent, but for the smallest buffers
	lent  atomic.Int32 // bytes of buffers that are read into
	held  atomic.Int64 // bytes of buffers in queues
	spare [packetClass + 1]sync.Pool
}

// shares divide what is free: a direction borrows at most one of them, so that
// each of N busy ones comes to hold most/(N+shares).
const shares = 8

// lend returns an empty chunk of a class up to the one given: smaller ones as
// others take more, of the smallest as many as are asked for. It goes back by
// giveBack, or by back and later put.
func (s *store) lend(class int) *chunk {
	fair := (s.most - s.lent.Load()) / shares
	for class > 0 && int32(minBuffer)<<class > fair {
		class--
	}
	s.lent.Add(minBuffer << class)
	return s.get(class)
}

// back says that c is lent no more.
func (s *store) back(c *chunk) { s.lent.Add(-int32(len(c.buf))) }

func (s *store) giveBack(c *chunk) {
	s.back(c)
	s.put(c)
}

// get returns an empty chunk of a class up to maxClass.
func (s *store) get(class int) *chunk {
	if c, ok := s.spare[class].Get().(*chunk); ok {
		return c
	}
	return &chunk{buf: make([]byte, minBuffer<<class), class: class}
}

// wrap returns a chunk of a datagram, which it owns from now on.
func (s *store) wrap(datagram []byte) *chunk {
	c, ok := s.spare[packetClass].Get().(*chunk)
	if !ok {
		c = &chunk{class: packetClass}
	}
	c.buf, c.to = datagram, len(datagram)
	return c
}

// put takes back a chunk of get or wrap.
func (s *store) put(c *chunk) {
	if c.class == packetClass {
		c.buf = nil
	}
	c.from, c.to = 0, 0
	s.spare[c.class].Put(c)
}

// A fit is the class of the buffers that one direction is read into. It rises
// with a read that fills one, and falls after shortReads in a row that half of
// it would have done for: reads end at frames and packets, so one is no sign.
type fit struct{ class, short int }

const shortReads = 4

// read says that n of room bytes of a buffer of class were filled.
func (f *fit) read(class, n, room int) {
	switch {
	case n == room: // of a smaller one than wanted, there are no larger ones
		f.class, f.short = min(class+1, maxClass), 0
	case 2*n > room:
		f.class, f.short = class, 0
	default:
		f.class = class
		if f.short++; f.short == shortReads {
			f.class, f.short = max(class-1, 0), 0
		}
	}
}
