package path

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// write sends b to the peer that QUIC knows by addr. What a path that moves or
// heals may cure is no error, since quic-go ends a connection by the first;
// only the packets of a handshake to somebody unknown fail, so that a dial
// says what it met.
func (s *Socket) write(b, oob []byte, addr *net.UDPAddr) error {
	to := addrPort(addr)
	p := s.table.Load().out[to]
	if p == nil {
		err := s.send(b, oob, to)
		if err == nil || forQUIC(err, oob) || len(b) > 0 && b[0]&0x80 != 0 {
			return err
		}
		return s.swallow(err)
	}
	if p.keeping.Load() {
		p.keep.add(b)
	}
	r := p.route.Load()
	if r.rewrite {
		var space [oobSize]byte
		oob = rewrite(space[:0], oob, r)
	}
	err := s.send(b, oob, r.to)
	if badSource(err) && hasLocal(oob) { // our address has gone
		fresh := &route{to: r.to, rewrite: true}
		var space [oobSize]byte
		oob = rewrite(space[:0], oob, fresh)
		if err = s.send(b, oob, r.to); err == nil {
			p.route.CompareAndSwap(r, fresh)
		}
	}
	switch {
	case err == nil:
		p.sent.Add(1)
		if size := segmentSize(oob); size > p.segment.Load() {
			p.segment.Store(size)
		} else if size == 0 && uint32(len(b)) > p.single.Load() {
			p.single.Store(uint32(len(b)))
		}
		return nil
	case forQUIC(err, oob):
		return err
	}
	p.failed.Add(1)
	return s.swallow(err)
}

func (s *Socket) send(b, oob []byte, to netip.AddrPort) error {
	w := s.below.Load()
	var err error
	if w.udp == nil {
		_, err = w.WriteTo(b, net.UDPAddrFromAddrPort(to))
	} else if _, _, err = w.udp.WriteMsgUDPAddrPort(b, oob, to); errors.Is(err, syscall.EPERM) { // sometimes a first packet's: golang/go#63322
		_, _, err = w.udp.WriteMsgUDPAddrPort(b, oob, to)
	}
	if err == nil {
		s.countSent(b, to)
	}
	return err
}

// forQUIC says whether quic-go knows what to do: send smaller packets, or
// without segmentation.
func forQUIC(err error, oob []byte) bool {
	return errors.Is(err, syscall.EMSGSIZE) ||
		segmentSize(oob) > 0 && (errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EINVAL))
}

// swallow forgets the error of a socket that is open.
func (s *Socket) swallow(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return err
	}
	return nil
}
