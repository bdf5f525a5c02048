package netlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Namespace is a host or a router of a lab, with interfaces, routes and
// sockets of its own.
type Namespace struct{ name string }

// Name is what `ip netns exec` calls it.
func (n *Namespace) Name() string { return n.name }

// Command is argv inside. `ip netns exec` becomes argv, so that the process id
// is the program's. It is killed when this process ends, however that happens.
func (n *Namespace) Command(ctx context.Context, argv ...string) *exec.Cmd {
	argv = append([]string{"ip", "netns", "exec", n.name}, argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	dieWithParent(cmd)
	return cmd
}

// Do calls f on a thread that is inside: sockets that f makes itself, not by
// goroutines that it starts, belong to the namespace for as long as they live.
func (n *Namespace) Do(f func() error) error {
	return inside(filepath.Join(folder, n.name), f)
}

// ListenPacket opens a packet socket inside. The address has no name to
// resolve.
func (n *Namespace) ListenPacket(network, address string) (conn net.PacketConn, err error) {
	err = n.Do(func() error {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// Listen opens a listener inside. The address has no name to resolve.
func (n *Namespace) Listen(network, address string) (ln net.Listener, err error) {
	err = n.Do(func() error {
		ln, err = net.Listen(network, address)
		return err
	})
	return ln, err
}

// DialContext connects from inside. The address has no name to resolve.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Route sends what is for to by way of a neighbour.
func (n *Namespace) Route(ctx context.Context, to netip.Prefix, via netip.Addr) error {
	return ip(ctx, "-n", n.name, "route", "replace", to.String(), "via", via.String())
}

// defaultRoute is for what leaves by a device. The first device's comes before
// another's.
func (n *Namespace) defaultRoute(ctx context.Context, device string, via netip.Addr) error {
	if device == "eth0" {
		return n.Route(ctx, everything, via)
	}
	return ip(ctx, "-n", n.name, "route", "add", everything.String(), "via", via.String(), "dev", device, "metric", "100")
}

// Address adds an address to an interface.
func (n *Namespace) Address(ctx context.Context, device string, address netip.Prefix) error {
	return ip(ctx, "-n", n.name, "address", "add", address.String(), "dev", device)
}

// Readdress replaces an address of an interface, as a new lease does: sockets
// bound to the old one are dead, and the interface's routes are gone. It then
// routes everything by way of the gateway.
func (n *Namespace) Readdress(ctx context.Context, device string, change [2]netip.Prefix, gateway netip.Addr) error {
	if err := ip(ctx, "-n", n.name, "address", "delete", change[0].String(), "dev", device); err != nil {
		return err
	}
	if err := n.Address(ctx, device, change[1]); err != nil {
		return err
	}
	return n.Route(ctx, everything, gateway)
}

// everything is where a default route goes.
var everything = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// Sysctl sets a key of net inside: ipv4/ip_forward.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0) })
}

// nft runs a script of nft(8) inside.
func (n *Namespace) nft(ctx context.Context, script string) error {
	cmd := n.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(string(text)))
	}
	return nil
}

// An End is where a wire enters a namespace.
type End struct {
	Namespace *Namespace
	Device    string
	Address   netip.Prefix
}

// Veth joins two ends by a wire as fast as the machine, with offloads on.
func (l *Lab) Veth(ctx context.Context, a, b End) error {
	if err := ip(ctx, "link", "add", a.Device, "netns", a.Namespace.name, "type", "veth",
		"peer", "name", b.Device, "netns", b.Namespace.name); err != nil {
		return err
	}
	for _, e := range []End{a, b} {
		if err := e.up(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (e End) up(ctx context.Context) error {
	if err := e.Namespace.Address(ctx, e.Device, e.Address); err != nil {
		return err
	}
	return ip(ctx, "-n", e.Namespace.name, "link", "set", "dev", e.Device, "up")
}
