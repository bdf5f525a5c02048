package seller

import (
	"context"
	"net"
	"syscall"
	"time"
)

// wayEvery is how often a look is taken whether the line's interface is still
// the one that its socket is tied to.
const wayEvery = 3 * time.Second

// An iface is an interface as it is now. One that was unplugged comes back with
// another index, and sockets that were tied to it stay dead.
type iface struct {
	name  string
	index int
}

// present is the line's interface, zero while it is not there.
func (w *way) present() iface {
	name := w.name()
	if name == "" {
		return iface{}
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return iface{}
	}
	return iface{name, i.Index}
}

// listenBound opens a UDP socket that is tied to the line's interface. While
// that is not there it is tied to the loopback: nothing leaves by another
// line's.
func (r *reach) listenBound(ctx context.Context, listen string) (net.PacketConn, error) {
	at := r.s.way.present()
	name := at.name
	if name == "" {
		name = "lo"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return bindConn(c, name) }}
	conn, err := lc.ListenPacket(ctx, "udp", listen)
	if err == nil {
		r.bound = at
	}
	return conn, err
}

// follow ties the socket to the line's interface whenever that comes, until ctx
// ends.
func (r *reach) follow(ctx context.Context) error {
	tick := time.NewTicker(wayEvery)
	defer tick.Stop()
	for told := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-r.s.way.changed:
		case <-tick.C:
		}
		at := r.s.way.present()
		if at == r.bound {
			continue
		}
		err := r.socket.Rebind(ctx)
		if err == nil {
			r.s.log.Info("the tunnel leaves by", "interface", at.name)
			for _, l := range r.relays {
				l.doubts()
			}
		} else if !told && ctx.Err() == nil {
			r.s.log.Warn("the tunnel's interface", "interface", at.name, "err", err)
		}
		told = err != nil
	}
}
