package h2

import (
	"context"
	"time"

	"github.com/depinsim/x402/tunnel/bbr"
)

// A pacer keeps a connection to its share of a cap. The streams of a connection
// take turns: one waits for the cap, and while it does so what is no stream's
// data still leaves.
type pacer struct {
	turn   chan struct{} // holds a token from begin to end
	sender bbr.Sender    // the token's, as is timer
	timer  *time.Timer
}

// newPacer returns nil, which bounds nothing, for a nil cap.
func newPacer(c *bbr.Cap) *pacer {
	if c == nil {
		return nil
	}
	p := &pacer{turn: make(chan struct{}, 1), sender: c.Sender(), timer: time.NewTimer(0)}
	p.timer.Stop()
	return p
}

// begin waits until some of want bytes may be sent, and says how many. It is
// false if cut was closed before. After a true one follows end.
func (p *pacer) begin(cut <-chan struct{}, want int) (int, bool) {
	if p == nil {
		return want, true
	}
	select {
	case p.turn <- struct{}{}:
	case <-cut:
		return 0, false
	}
	for {
		n, wait := p.sender.Allow(time.Now(), want)
		if n > 0 {
			return n, true
		}
		p.timer.Reset(wait)
		select {
		case <-p.timer.C:
		case <-cut:
			p.timer.Stop()
			p.end()
			return 0, false
		}
	}
}

// sent is told what was written between begin and end. On the wire every 16 KiB
// have 22 bytes of TLS (RFC 8446 §5.2), and then every 1,448 have 52 of IP and TCP.
func (p *pacer) sent(n int) {
	if p != nil {
		n += 22 * (1 + n>>14)
		p.sender.Sent(n + 52*(1+n/1448))
	}
}

func (p *pacer) end() {
	if p != nil {
		<-p.turn
	}
}

// sendData writes part of b, at least one byte, and returns how much.
func (l *link) sendData(s *stream, b []byte) (int, error) {
	for {
		if err := s.awaitWindow(); err != nil {
			return 0, err
		}
		most, ok := l.pace.begin(s.cut, min(len(b), batch))
		if !ok {
			continue // for the reason
		}
		n, err := l.sendPart(s, b[:most])
		l.pace.end()
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// sendPart writes part of b, or nothing if others were faster.
func (l *link) sendPart(s *stream, b []byte) (int, error) {
	select {
	case l.token <- struct{}{}:
	case <-s.cut:
		return 0, nil // for the reason
	}
	n, err := l.frameData(s, b)
	lost := false
	if n > 0 {
		l.pace.sent(len(l.out))
		lost = l.write() != nil
	}
	<-l.token
	if lost {
		<-l.ctx.Done()
		return n, context.Cause(l.ctx)
	}
	return n, err
}

// frameData puts control and then part of b into out. What is counted as sent
// when the write fails may have arrived in part, so all of it is.
func (l *link) frameData(s *stream, b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.sendErr != nil {
		return 0, s.sendErr
	}
	n := int(min(int64(len(b)), s.sendWindow, l.window.send))
	if n <= 0 {
		return 0, nil // others were faster
	}
	s.sendWindow -= int64(n)
	l.window.send -= int64(n)
	l.takeControl()
	for rest := b[:n]; len(rest) > 0; {
		part := rest[:min(len(rest), maxFrame-headSize)] // with its head one record of TLS
		rest = rest[len(part):]
		l.out = append(appendHead(l.out, head{len(part), frameData, 0, s.id}), part...)
	}
	return n, nil
}
