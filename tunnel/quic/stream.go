package quic

import (
	"context"
	"errors"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/quicvarint"

	"github.com/depinsim/x402/tunnel"
)

// stream is a request's stream at either end.
type stream struct {
	*quicgo.Stream
	content
	link *link
	box  *inbox // of an extended CONNECT
}

var _ tunnel.Framer = (*stream)(nil)

func (s *stream) ID() uint64        { return uint64(s.StreamID()) }
func (s *stream) Abort(code uint64) { s.CancelWrite(quicgo.StreamErrorCode(code)) }

func (s *stream) Stop(code uint64) {
	s.CancelRead(quicgo.StreamErrorCode(code))
	s.box.close()
}

// giveUp ends both directions.
func (s *stream) giveUp(code errCode) {
	s.Abort(uint64(code))
	s.Stop(uint64(code))
}

// judge ends what the peer's fault has spoilt, and explains it.
func (s *stream) judge(err error) error {
	f, ok := errors.AsType[*fault](err)
	switch {
	case !ok:
		return explain(err)
	case f.message:
		s.giveUp(f.code)
	default:
		s.link.fail(f.code, f.err)
	}
	return err
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.read(b)
	if err == nil {
		return n, nil
	}
	return n, s.judge(err)
}

// A piece is what a write that brings no room is copied to. One is held while
// its write waits.
type piece [tunnel.Headroom + 32<<10]byte

// Write copies b to where there is room for a head.
func (s *stream) Write(b []byte) (int, error) { return s.link.writePieces(b, s.WriteFramed) }

func (l *link) writePieces(b []byte, write func([]byte) (int, error)) (int, error) {
	p, _ := l.pieces.Get().(*piece)
	defer l.pieces.Put(p)
	total := 0
	for total < len(b) {
		n := copy(p[tunnel.Headroom:], b[total:])
		n, err := write(p[:tunnel.Headroom+n])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// WriteFramed writes a DATA frame (RFC 9114 §7.2.1) of what is behind the room
// in b, head and content in one piece: a piece of three bytes would wake the
// connection to send a packet of them.
func (s *stream) WriteFramed(b []byte) (int, error) {
	f := frame(b)
	n, err := s.Stream.Write(f)
	return max(n-(len(f)+tunnel.Headroom-len(b)), 0), explain(err)
}

// frame is b with the frame's head at the end of the room in front.
func frame(b []byte) []byte {
	var head [tunnel.Headroom]byte
	h := quicvarint.Append(append(head[:0], frameData), uint64(len(b)-tunnel.Headroom))
	start := tunnel.Headroom - len(h)
	copy(b[start:], h)
	return b[start:]
}

func (s *stream) SendDatagram(b []byte) error { return s.link.sendDatagram(s.StreamID(), b) }

func (s *stream) ReceiveDatagram(ctx context.Context) ([]byte, error) { return s.box.receive(ctx) }
