package path

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
)

// The way of a packet that arrives:
//
//	1 fill     the kernel hands over a batch: with UDP_GRO up to 64 KiB of
//	           packets of one sender and one size, else some messages
//	2 accept   our own packets go to Run; QUIC's get their peer's address
//	3 split    the batch is copied into quic-go's buffers, packet by packet

// A reader is what the reading goroutine keeps between two calls.
type reader struct {
	buf, oob []byte // a batch and its control messages
	rest     []byte // what of buf is not yet handed out
	size     int    // of each packet in rest but the last
	oobn     int
	source   netip.AddrPort // of buf
	from     net.Addr       // what QUIC is told of it; nil before its first packet for QUIC

	last  netip.AddrPort // from whom the last batch was,
	known *table         // by which table,
	peer  *peer          // who that is, or
	addr  *net.UDPAddr   // what QUIC was told of somebody unknown

	noted [32]noted // in turn
	notes int
}

// read reads at least one packet for QUIC into ms.
func (s *Socket) read(ms []ipv4.Message, flags int) (int, error) {
	for {
		if n := s.reader.split(s, ms); n > 0 {
			return n, nil
		}
		b := s.below.Load()
		n, err := s.fill(b, ms, flags)
		if err != nil {
			if err = s.recover(b, err); err != nil {
				return 0, err
			}
			continue
		}
		if n > 0 {
			return n, nil
		}
	}
}

// fill waits for packets. Those that it puts into ms it counts; others are in
// the reader.
func (s *Socket) fill(b *below, ms []ipv4.Message, flags int) (int, error) {
	switch {
	case b.udp == nil:
		n, from, err := b.ReadFrom(ms[0].Buffers[0])
		if err != nil {
			return 0, err
		}
		ms[0].N, ms[0].NN, ms[0].Addr = n, 0, from
		return s.filter(ms[:1]), nil
	case b.gro:
		return 0, s.fillGRO(b)
	case len(ms) == 1: // Windows has no ReadBatch
		m := &ms[0]
		var err error
		m.N, m.NN, m.Flags, m.Addr, err = readMsg(b.udp, m.Buffers[0], m.OOB)
		if err != nil {
			return 0, err
		}
		return s.filter(ms), nil
	}
	n, err := b.batch.ReadBatch(ms, flags)
	if err != nil {
		return 0, err
	}
	return s.filter(ms[:n]), nil
}

func readMsg(c *net.UDPConn, b, oob []byte) (n, oobn, flags int, a net.Addr, err error) {
	n, oobn, flags, from, err := c.ReadMsgUDPAddrPort(b, oob)
	return n, oobn, flags, net.UDPAddrFromAddrPort(from), err
}

const (
	groSize = 1 << 16 // pages that no batch has reached are not resident
	oobSize = 128     // as quic-go's
)

func (s *Socket) fillGRO(b *below) error {
	r := &s.reader
	if r.buf == nil {
		r.buf, r.oob = make([]byte, groSize), make([]byte, oobSize)
	}
	n, oobn, _, from, err := b.udp.ReadMsgUDPAddrPort(r.buf, r.oob)
	if err != nil || n == 0 {
		return err
	}
	r.size, r.oobn = cutGRO(r.oob[:oobn])
	if r.size <= 0 || r.size > n {
		r.size = n
	}
	r.rest, r.source, r.from = r.buf[:n], unmap(from), nil
	s.countReceived(r.rest, r.size, r.source)
	return nil
}

// split hands out the batch: all of it that fits into ms.
func (r *reader) split(s *Socket, ms []ipv4.Message) int {
	n := 0
	for len(r.rest) > 0 && n < len(ms) {
		segment := r.rest[:min(r.size, len(r.rest))]
		r.rest = r.rest[len(segment):]
		if segment[0] == 0 {
			s.hear(segment, r.source, r.oob[:r.oobn])
			continue
		}
		if foreign(segment) {
			s.pass(segment, r.source)
			continue
		}
		if r.from == nil {
			r.from = s.accept(r.source, segment)
		}
		m := &ms[n]
		m.N = copy(m.Buffers[0], segment)
		m.NN = copy(m.OOB, r.oob[:r.oobn])
		m.Addr, m.Flags = r.from, 0
		n++
	}
	return n
}

// filter takes our own packets out of ms and names the others' senders. It
// copies, since quic-go knows its buffers by their place.
func (s *Socket) filter(ms []ipv4.Message) int {
	n := 0
	for i := range ms {
		m := &ms[i]
		b, from := m.Buffers[0][:m.N], addrPort(m.Addr)
		if len(b) == 0 {
			continue
		}
		s.countReceived(b, len(b), from)
		if b[0] == 0 {
			s.hear(b, from, m.OOB[:m.NN])
			continue
		}
		if foreign(b) {
			s.pass(b, from)
			continue
		}
		to := &ms[n]
		if n != i {
			to.N, to.Flags = copy(to.Buffers[0], b), m.Flags
			to.NN = copy(to.OOB, m.OOB[:m.NN])
		}
		to.Addr = s.accept(from, b)
		n++
	}
	return n
}

// cidSize is the length of the connection IDs that quic-go chooses.
const cidSize = 4

// cid returns the connection ID that a packet is for, if it is one of ours, and
// whether the packet is of an established connection: has a short header (RFC
// 9000 §17.2, §17.3.1).
func cid(b []byte) (id uint32, ours, short bool) {
	switch {
	case len(b) > cidSize && b[0]&0xc0 == 0x40:
		return binary.BigEndian.Uint32(b[1:]), true, true
	case len(b) > 6+cidSize && b[0]&0x80 != 0 && b[5] == cidSize:
		return binary.BigEndian.Uint32(b[6:]), true, false
	}
	return 0, false, false
}

// accept counts a batch of QUIC's and returns the address that QUIC is told. b
// is its first packet.
func (s *Socket) accept(from netip.AddrPort, b []byte) *net.UDPAddr {
	r := &s.reader
	s.received.Add(1)
	t := s.table.Load()
	if from != r.last || t != r.known {
		r.last, r.known, r.peer, r.addr = from, t, t.in[from], nil
	}
	p := r.peer
	id, ours, short := cid(b)
	if p == nil && short {
		if moved := r.byCID(t, id); moved != nil {
			moved.received.Add(1)
			select {
			case s.strangers <- stranger{moved, from}:
			default:
			}
			return moved.virtual
		}
	}
	if p == nil && t.out[from] != nil { // QUIC knows another one by this address
		p = s.state.guest(from)
	}
	if p == nil {
		if ours {
			r.note(from, id)
		}
		if r.addr == nil {
			r.addr = net.UDPAddrFromAddrPort(from)
		}
		return r.addr
	}
	p.received.Add(1)
	if ours && p.cids[0] != id {
		p.cids[0], p.cids[1] = id, p.cids[0]
	}
	return p.virtual
}

// A noted connection ID is one that somebody writes to who is not attached.
type noted struct {
	from netip.AddrPort
	id   uint32
}

func (r *reader) note(from netip.AddrPort, id uint32) {
	n := noted{from, id}
	if r.noted[(r.notes+len(r.noted)-1)%len(r.noted)] != n {
		r.noted[r.notes%len(r.noted)] = n
		r.notes++
	}
}

// byCID returns the peer that writes to a connection ID: one that has moved
// and is not yet heard to say so. QUIC authenticates what it is handed, so it
// need not know that; did it know, quic-go would migrate on its own, which it
// can twice.
func (r *reader) byCID(t *table, id uint32) *peer {
	for _, p := range t.out {
		if id != 0 && (p.cids[0] == id || p.cids[1] == id) {
			return p
		}
	}
	for _, n := range r.noted { // before it was attached
		if p := t.out[n.from]; n.id == id && id != 0 && p != nil {
			p.cids[0], p.cids[1] = id, p.cids[0]
			return p
		}
	}
	return nil
}

// hear passes a control packet to Run if it claims to be for something here.
func (s *Socket) hear(b []byte, from netip.AddrPort, oob []byte) {
	if _, id, _, ok := Control(b); !ok || !s.table.Load().own[id] {
		return
	}
	s.received.Add(1)
	select {
	case s.control <- heard{from: from, local: localAddr(oob), b: append([]byte(nil), b...)}:
	default:
	}
}
