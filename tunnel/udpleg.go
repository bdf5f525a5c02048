package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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
	packets *packets
	target  net.Conn
	idle    time.Duration
	lastUp  atomic.Int64 // monotonic, nanoseconds since start
	start   time.Time
}

func (s *Session) serveUDP(h Header, c Call) {
	host, port, err := parseUDPTarget(h.Path)
	if err != nil {
		s.refuse(c, http.StatusBadRequest, err.Error())
		return
	}
	dctx, cancel := context.WithTimeout(s.conn.Context(), s.cfg.DialTimeout)
	target, err := s.cfg.Dialer.DialUDP(dctx, host, port)
	cancel()
	if err != nil {
		s.refuseDial(c, err)
		return
	}
	defer target.Close()
	str, err := c.Accept(http.Header{"Capsule-Protocol": {"?1"}})
	if err != nil {
		s.cfg.Logger.Debug("accept flow", "err", err)
		return
	}
	s.mu.Lock()
	lanes := s.lanes
	s.mu.Unlock()
	ctx, end := context.WithCancel(s.conn.Context())
	defer end()
	l := &udpLeg{packets: newPackets(str), target: target, idle: s.cfg.UDPIdle, start: time.Now()}
	up := func(payload []byte) error { return l.up(ctx, lanes.UpUDP, payload) }
	finish := func() { // whichever direction ends, ends the flow
		end()
		_ = target.Close() // the deferred one closes again
		_ = str.Close()    // the buyer may have gone first
		str.Stop(codeCanceled)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer finish()
		if err := l.packets.receiveDatagrams(ctx, up); err != nil {
			s.cfg.Logger.Debug("udp flow", "err", err)
		}
	})
	wg.Go(func() {
		defer finish()
		if err := l.down(ctx, lanes.DownUDP); err != nil {
			s.cfg.Logger.Debug("udp flow", "err", err)
		}
	})
	if err := l.packets.receiveCapsules(up); err != nil && !errors.Is(err, io.EOF) {
		s.cfg.Logger.Debug("udp flow", "err", err)
	}
	finish()
	wg.Wait()
}

func (l *udpLeg) up(ctx context.Context, lane Lane, payload []byte) error {
	n := len(payload) + PacketOverhead
	if err := lane.Reserve(ctx, n); err != nil {
		return err
	}
	if _, err := l.target.Write(payload); err != nil {
		lane.Deliver(n, 0)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // an ICMP error of an earlier packet, or one too large: UDP loses packets
	}
	lane.Deliver(n, n)
	l.lastUp.Store(int64(time.Since(l.start)))
	return nil
}

func (l *udpLeg) down(ctx context.Context, lane Lane) error {
	buf := make([]byte, 2048) // an Ethernet frame; grows to the largest datagram
	for {
		if err := l.target.SetReadDeadline(time.Now().Add(l.idle)); err != nil {
			return err
		}
		n, err := l.target.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(l.start)-time.Duration(l.lastUp.Load()) >= l.idle {
				return errIdle
			}
			continue
		case errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF):
			return err
		case err != nil:
			if ctx.Err() != nil {
				return err
			}
			continue // an ICMP error: the target's port may open later
		}
		if n == len(buf) && n < maxDatagramCapsule {
			buf = make([]byte, maxDatagramCapsule) // this one was cut short: drop it, as a full link would
			continue
		}
		cost := n + PacketOverhead
		if err := lane.Reserve(ctx, cost); err != nil {
			return err
		}
		if err := l.packets.send(buf[:n]); err != nil {
			lane.Deliver(cost, 0)
			return err
		}
		lane.Deliver(cost, cost)
	}
}

var errIdle = errors.New("tunnel: idle")
