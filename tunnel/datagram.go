package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync"
)

// packets sends and receives the UDP payloads of one CONNECT-UDP stream: as
// HTTP datagrams where they fit a packet, as DATAGRAM capsules on the stream
// where they do not or where the transport has no datagrams (RFC 9298 §5).
type packets struct {
	stream Stream
	dgram  Packeter // nil: capsules only

	mu  sync.Mutex // serialises capsules; held across one Write
	buf []byte     // what a payload is framed in
}

func newPackets(s Stream) *packets {
	p := &packets{stream: s}
	p.dgram, _ = s.(Packeter)
	return p
}

// contextPayload is the context ID of UDP payloads, RFC 9298 §4.
const contextPayload = 0

// send sends one payload. It may be called by one goroutine at a time.
func (p *packets) send(payload []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buf = append(append(p.buf[:0], contextPayload), payload...)
	if p.dgram != nil {
		err := p.dgram.SendDatagram(p.buf)
		if !errors.Is(err, ErrTooLarge) {
			return err
		}
	}
	b := appendVarint(make([]byte, 0, len(p.buf)+8), capsuleDatagram)
	b = appendVarint(b, uint64(len(p.buf)))
	_, err := p.stream.Write(append(b, p.buf...))
	return err
}

// receiveDatagrams hands every payload that arrives as an HTTP datagram to f,
// until ctx or the stream ends or f fails.
func (p *packets) receiveDatagrams(ctx context.Context, f func(payload []byte) error) error {
	if p.dgram == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for {
		b, err := p.dgram.ReceiveDatagram(ctx)
		if err != nil {
			return err
		}
		if err := handPayload(b, f); err != nil {
			return err
		}
	}
}

// receiveCapsules hands every payload that arrives as a capsule to f, until
// the stream ends or f fails. It returns io.EOF when the peer ended it in order.
func (p *packets) receiveCapsules(f func(payload []byte) error) error {
	r := bufio.NewReaderSize(p.stream, 512)
	buf := make([]byte, 0)
	known := func(typ uint64) bool { return typ == capsuleDatagram }
	for {
		_, b, err := readCapsule(r, buf, maxDatagramCapsule, known)
		if err != nil {
			return err
		}
		if cap(b) > cap(buf) {
			buf = b[:cap(b)]
		}
		if err := handPayload(b, f); err != nil {
			return err
		}
	}
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
