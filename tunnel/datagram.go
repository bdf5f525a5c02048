package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// packets sends and receives the UDP payloads of one CONNECT-UDP stream: as
// HTTP datagrams where they fit a packet, as DATAGRAM capsules on the stream
// where they do not or where the transport has no datagrams (RFC 9298 §5).
type packets struct {
	stream Stream
	dgram  Packeter // nil: capsules only

	sending chan struct{} // holds a token while a payload is sent, or closing
	framed  []byte        // what a payload is framed in; the token's

	closing sync.Once
	closed  atomic.Bool
}

func newPackets(s Stream) *packets {
	p := &packets{stream: s, sending: make(chan struct{}, 1)}
	p.dgram, _ = s.(Packeter)
	return p
}

// contextPayload is the context ID of UDP payloads, RFC 9298 §4.
const contextPayload = 0

// send sends one payload.
func (p *packets) send(payload []byte) error {
	p.sending <- struct{}{}
	defer func() { <-p.sending }()
	if p.closed.Load() {
		return net.ErrClosed
	}
	p.frame(payload)
	if p.dgram != nil {
		err := p.dgram.SendDatagram(p.framed)
		if !errors.Is(err, ErrTooLarge) {
			return err
		}
	}
	return p.writeCapsule()
}

// sendCapsule sends one payload in the stream.
func (p *packets) sendCapsule(payload []byte) error {
	p.sending <- struct{}{}
	defer func() { <-p.sending }()
	p.frame(payload)
	return p.writeCapsule()
}

// frame makes a datagram of payload, behind room for what goes before it.
func (p *packets) frame(payload []byte) {
	var head [Headroom + 1]byte
	head[Headroom] = contextPayload
	p.framed = append(append(p.framed[:0], head[:]...), payload...)
}

func (p *packets) writeCapsule() error {
	var head [Headroom]byte
	h := appendVarint(append(head[:0], capsuleDatagram), uint64(len(p.framed)-Headroom))
	start := Headroom - len(h)
	copy(p.framed[start:], h)
	_, err := p.stream.Write(p.framed[start:])
	return err
}

// close ends the sending direction: in order, unless a send is under way,
// which may be stuck. It may be called again.
func (p *packets) close() {
	p.closing.Do(func() {
		p.closed.Store(true)
		select {
		case p.sending <- struct{}{}:
			defer func() { <-p.sending }()
			_ = p.stream.Close() // the peer may have stopped it first
		default:
			p.stream.Abort(codeCanceled)
		}
	})
}

// receiveDatagrams hands every payload that arrives as an HTTP datagram to f,
// which owns it, until ctx or the stream ends or f fails. It returns why, never
// nil.
func (p *packets) receiveDatagrams(ctx context.Context, f func(payload []byte) error) error {
	if p.dgram == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	var err error
	for err == nil {
		var b []byte
		if b, err = p.dgram.ReceiveDatagram(ctx); err == nil {
			err = handPayload(b, f)
		}
	}
	return err
}

// receiveCapsules hands every payload that arrives as a capsule to f, which
// may use it until it returns, until the stream ends or f fails. It returns
// why: io.EOF when the peer ended the stream in order, never nil.
func (p *packets) receiveCapsules(f func(payload []byte) error) error {
	r := bufio.NewReaderSize(p.stream, 512)
	known := func(typ uint64) bool { return typ == capsuleDatagram }
	var buf []byte
	var err error
	for err == nil {
		var b []byte
		if _, b, err = readCapsule(r, buf, maxDatagramCapsule, known); err == nil {
			err = handPayload(b, f)
			buf = b[:cap(b)]
		}
	}
	return err
}

// handPayload takes the context ID off an HTTP datagram. Datagrams of unknown
// contexts are dropped (RFC 9298 §4).
func handPayload(b []byte, f func(payload []byte) error) error {
	id, payload, err := cutVarint(b)
	if err != nil {
		return fmt.Errorf("tunnel: datagram: %w", err)
	}
	if id != contextPayload {
		return nil
	}
	return f(payload)
}
