package tunnel

import (
	"sync"
	"sync/atomic"
)

const (
	minBuffer = 4 << 10  // what a flow starts with and returns to
	maxBuffer = 32 << 10 // what full reads grow it to
)

// A chunk is a buffer and the part of it that is unread: buf[from:to].
type chunk struct {
	buf      []byte
	from, to int
	class    int // of buf; packetClass: buf is not from the store
}

// Classes of buffers: minBuffer doubled up to maxBuffer, and datagrams in
// buffers of the transport's.
const (
	maxClass    = 3
	packetClass = maxClass + 1
)

// A store keeps the chunks of a client's flows.
type store struct {
	held  atomic.Int64 // bytes of buffers in queues
	spare [packetClass + 1]sync.Pool
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

// A buffer is what one direction of the agent's end reads into: small while
// little comes at a time, large after a read that filled the small one. Any
// other read gives the large one back, so that flows that fell silent after a
// burst hold the small one only.
type buffer struct {
	pool  *sync.Pool // of *[maxBuffer]byte
	small [minBuffer]byte
	large *[maxBuffer]byte // borrowed, or nil
}

func newBuffer(pool *sync.Pool) *buffer { return &buffer{pool: pool} }

// next is what to read into.
func (b *buffer) next() []byte {
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

// used says that n bytes were read into next and are done with.
func (b *buffer) used(n int) {
	switch {
	case b.large != nil && n < len(b.large):
		b.release()
	case b.large == nil && n == len(b.small):
		large, ok := b.pool.Get().(*[maxBuffer]byte)
		if !ok {
			large = new([maxBuffer]byte)
		}
		b.large = large
	}
}

func (b *buffer) release() {
	if b.large != nil {
		b.pool.Put(b.large)
		b.large = nil
	}
}
