package quic

import (
	"context"
	"errors"
	"net"
	"sync"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/quicvarint"
)

const (
	// boxPackets is how many datagrams may wait for a stream in any case, and
	// boxBytes how much may wait for all streams of a connection: 20 ms of
	// 20,000 packets a second.
	boxPackets = 32
	boxBytes   = 512 << 10

	maxQuarterID = 1<<60 - 1 // RFC 9297 §2.1
)

var errQuarterID = errors.New("datagram of an impossible stream")

// inboxes keep the datagrams of a connection until their streams fetch them. A
// goroutine takes them from the connection, which holds 128 and drops the rest,
// as fast as they come: a stream's goroutine may have to wait for its turn.
type inboxes struct {
	mu   sync.Mutex
	byID map[uint64]*inbox // by quarter stream ID
	held int               // bytes in all of them
}

// An inbox holds the datagrams of one stream. Its fields are under inboxes.mu.
type inbox struct {
	all     *inboxes
	id      uint64
	news    chan struct{} // one token: look again; never closed
	packets [][]byte      // from head on
	head    int
	closed  bool
}

func newInboxes() *inboxes { return &inboxes{byID: make(map[uint64]*inbox)} }

// open makes an inbox for a stream.
func (x *inboxes) open(id quicgo.StreamID) *inbox {
	box := &inbox{all: x, id: uint64(id) / 4, news: make(chan struct{}, 1)}
	x.mu.Lock()
	x.byID[box.id] = box
	x.mu.Unlock()
	return box
}

// close throws away what is left. It may be called again, and of nil.
func (b *inbox) close() {
	if b == nil {
		return
	}
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	for ; b.head < len(b.packets); b.head++ {
		b.all.held -= len(b.packets[b.head])
	}
	b.packets, b.head, b.closed = nil, 0, true
	delete(b.all.byID, b.id)
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// put hands a datagram to the stream with a quarter ID. It is dropped if the
// stream is not there, not yet or no more, or does not fetch what it has.
func (x *inboxes) put(id uint64, packet []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.byID[id]
	if b == nil || len(b.packets)-b.head >= boxPackets && x.held+len(packet) > boxBytes {
		return
	}
	if len(b.packets) == cap(b.packets) && 2*b.head > len(b.packets) { // use the room in front
		n := copy(b.packets, b.packets[b.head:])
		clear(b.packets[n:])
		b.packets, b.head = b.packets[:n], 0
	}
	b.packets = append(b.packets, packet)
	x.held += len(packet)
	b.signal()
}

// receive waits for the next datagram.
func (b *inbox) receive(ctx context.Context) ([]byte, error) {
	for {
		if packet, closed := b.next(); packet != nil {
			return packet, nil
		} else if closed {
			return nil, net.ErrClosed
		}
		select {
		case <-b.news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (b *inbox) next() (packet []byte, closed bool) {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	if b.head == len(b.packets) {
		return nil, b.closed
	}
	packet = b.packets[b.head]
	b.packets[b.head] = nil
	if b.head++; b.head == len(b.packets) {
		b.packets, b.head = b.packets[:0], 0
	}
	b.all.held -= len(packet)
	return packet, false
}

// receiveDatagrams hands out the connection's datagrams until it ends.
func (l *link) receiveDatagrams() {
	for {
		b, err := l.conn.ReceiveDatagram(l.ctx)
		if err != nil {
			return
		}
		id, n, err := quicvarint.Parse(b)
		switch {
		case err != nil:
			l.fail(codeDatagram, err)
			return
		case id > maxQuarterID:
			l.fail(codeDatagram, errQuarterID)
			return
		}
		l.boxes.put(id, b[n:])
	}
}
