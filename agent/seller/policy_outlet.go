package seller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// InterfaceOfModem, as the name of an interface, is the one that the line's
// modem brings along.
const InterfaceOfModem = "auto"

// A way is the network interface that sockets leave by. Nil is as the device
// routes.
type way struct {
	fixed   string
	modem   atomic.Pointer[string] // InterfaceOfModem: its name while the modem is there
	changed chan struct{}          // one token: the modem's came or went
}

// newWay returns the way out of the interface of that name; empty is any. An
// interface may come later: a modem's does.
func newWay(name string) (*way, error) {
	switch name {
	case "":
		return nil, nil
	case InterfaceOfModem:
		name = ""
	}
	if err := canBind(name); err != nil {
		return nil, err
	}
	return &way{fixed: name, changed: make(chan struct{}, 1)}, nil
}

// name is the interface's at present, "" while there is none.
func (w *way) name() string {
	if w.fixed != "" {
		return w.fixed
	}
	if name := w.modem.Load(); name != nil {
		return *name
	}
	return ""
}

// use takes the interface of the modem.
func (w *way) use(name string) {
	if w == nil || w.fixed != "" {
		return
	}
	w.modem.Store(&name)
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

var errNoInterface = errors.New("the modem's network interface is not known")

// bind ties a socket to the interface, for [net.Dialer] and [net.ListenConfig].
func (w *way) bind(_, _ string, c syscall.RawConn) error {
	name := w.name()
	if name == "" {
		return errNoInterface
	}
	return bindConn(c, name)
}

func bindConn(c syscall.RawConn, name string) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = bindTo(fd, name) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("bind to %s: %w", name, err)
	}
	return nil
}

// keepAlive finds dead targets without spending the data plan on idle ones.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: 30 * time.Second, Count: 4}

// An outlet opens sockets to addresses that have been checked.
type outlet struct{ dialer net.Dialer }

// newOutlet returns an outlet whose sockets leave by w.
func newOutlet(w *way) *outlet {
	o := &outlet{net.Dialer{KeepAliveConfig: keepAlive}}
	if w != nil {
		o.dialer.Control = w.bind
	}
	return o
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
