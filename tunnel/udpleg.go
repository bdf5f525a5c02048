package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The agent's end of a UDP flow. Every packet is counted with
// [PacketOverhead]. While the credit is spent packets wait in the socket and
// in the transport's queue and are dropped there, as on a slow link.
//
//	up:   datagram or capsule → lane.Reserve → target.Write → lane.Deliver
//	down: target.Read → lane.Reserve → datagram or capsule → lane.Deliver
type udpLeg struct {
	stream  Stream
	packets *packets
	target  net.Conn
	store   *store
	idle    time.Duration
	ctx     context.Context
	end     context.CancelFunc
	active  atomic.Bool // a packet has passed since down last looked
}

func (s *Session) serveUDP(h Header, c Call, e entry) {
	host, port, err := parseUDPTarget(h.Path)
	if err != nil {
		s.refuse(c, StatusBadRequest, err.Error())
		return
	}
	str, target := s.reach(e.ctx, c, Fields{"capsule-protocol": {"?1"}}, func(ctx context.Context) (net.Conn, error) {
		return s.cfg.Dialer.DialUDP(ctx, host, port)
	})
	if str == nil {
		return
	}
	if c, ok := target.(interface{ SetReadBuffer(int) error }); ok {
		_ = c.SetReadBuffer(targetBuffer) // what the kernel allows is good enough
	}
	l := &udpLeg{stream: str, packets: newPackets(str), target: target, store: &s.store, idle: s.cfg.UDPIdle}
	l.ctx, l.end = context.WithCancel(e.ctx)
	defer context.AfterFunc(e.ctx, l.finish)()
	s.enlist(str.ID(), flow{cancel: l.finish, target: target})
	defer s.delist(str.ID())
	up := func(payload []byte) error { return l.up(e.lanes.UpUDP, payload) }
	var wg sync.WaitGroup
	wg.Go(func() { s.ended(l, l.packets.receiveDatagrams(l.ctx, up)) })
	wg.Go(func() { s.ended(l, l.down(e.lanes.DownUDP)) })
	s.ended(l, l.packets.receiveCapsules(up))
	wg.Wait()
}

// ended ends a flow of which one part has ended.
func (s *Session) ended(l *udpLeg, err error) {
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && l.ctx.Err() == nil {
		s.cfg.Logger.Debug("udp flow", "err", err)
	}
	l.finish()
}

// finish ends all parts of the flow. It may be called again.
func (l *udpLeg) finish() {
	l.end()
	_ = l.target.Close() // it may have been closed by another part
	l.packets.close()
	l.stream.Stop(codeCanceled)
}

func (l *udpLeg) up(lane Lane, payload []byte) error {
	n := len(payload) + PacketOverhead
	if err := lane.Reserve(l.ctx, n); err != nil {
		return err
	}
	l.active.Store(true)
	if _, err := l.target.Write(payload); err != nil {
		lane.Deliver(n, 0)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // an ICMP error of an earlier packet, or one too large: UDP loses packets
	}
	lane.Deliver(n, n)
	return nil
}

// targetBuffer is what a target may send while down waits for its turn: 20 ms
// at 20,000 packets a second.
const targetBuffer = 512 << 10

// maxFaults is how many ICMP errors in a row a flow survives: the target's
// port may open later.
const maxFaults = 64

// down relays until the flow ends and returns why, never nil.
func (l *udpLeg) down(lane Lane) error {
	in := newDatagrams(l.target, l.store)
	if err := l.target.SetReadDeadline(time.Now().Add(l.idle)); err != nil {
		return err
	}
	for faults := 0; ; {
		payload, err := in.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !l.active.Swap(false) {
				return errIdle
			}
			if err := l.target.SetReadDeadline(time.Now().Add(l.idle)); err != nil {
				return err
			}
			continue
		case err != nil:
			if faults++; faults == maxFaults || l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
				return err
			}
			continue
		}
		faults = 0
		l.active.Store(true)
		if err := l.send(lane, payload); err != nil {
			return err
		}
	}
}

func (l *udpLeg) send(lane Lane, payload []byte) error {
	cost := len(payload) + PacketOverhead
	if err := lane.Reserve(l.ctx, cost); err != nil {
		return err
	}
	if err := l.packets.send(payload); err != nil {
		lane.Deliver(cost, 0)
		return err
	}
	lane.Deliver(cost, cost)
	return nil
}

var errIdle = errors.New("tunnel: idle")
