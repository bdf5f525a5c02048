package seller

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// keepAlive finds dead targets without spending the data plan on idle ones.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: 30 * time.Second, Count: 4}

// An outlet opens sockets to addresses that have been checked.
type outlet struct{ dialer net.Dialer }

// newOutlet returns an outlet whose sockets use only the interface of that
// name; empty is any. An interface may come later: a modem's does.
func newOutlet(name string) (*outlet, error) {
	o := &outlet{net.Dialer{KeepAliveConfig: keepAlive}}
	if name == "" {
		return o, nil
	}
	bind, err := bindTo(name)
	if err != nil {
		return nil, err
	}
	o.dialer.Control = func(_, _ string, c syscall.RawConn) error {
		var berr error
		if err := c.Control(func(fd uintptr) { berr = bind(fd) }); err != nil {
			return err
		}
		if berr != nil {
			return fmt.Errorf("bind to %s: %w", name, berr)
		}
		return nil
	}
	return o, nil
}

func (o *outlet) connect(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	// An address is no name: the dialer looks nothing up.
	return o.dialer.DialContext(ctx, network, to.String())
}

// resolver returns the device's resolver. Its queries use the outlet, except
// those to servers on the device or in its own networks.
func (o *outlet) resolver() *net.Resolver {
	if o.dialer.Control == nil {
		return &net.Resolver{PreferGo: true}
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, server string) (net.Conn, error) {
		dialer := &net.Dialer{}
		if at, err := netip.ParseAddrPort(server); err == nil && isPublic(at.Addr()) {
			dialer = &o.dialer
		}
		return dialer.DialContext(ctx, network, server)
	}}
}

func isPublic(addr netip.Addr) bool { return surroundings{}.refuses(addr.Unmap().WithZone("")) == "" }
