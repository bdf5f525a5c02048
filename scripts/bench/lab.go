package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// A side is where a process runs.
type side int

const (
	agentSide side = iota // with target and facilitator
	buyerSide             // with the load
)

// A lab is the path between the two sides: a veth pair or an emulated link
// between two network namespaces, or loopback.
type lab struct {
	describe string
	net      *netlab.Lab          // nil: loopback
	hosts    [2]*netlab.Namespace // likewise
	addr     [2]string            // of each side
	link     *netlab.Link         // from the agent (A) to the buyer (B); nil: not emulated
}

// openLab makes namespaces if this process may, and says why if not.
func openLab(ctx context.Context, loopback bool) (*lab, error) {
	local := &lab{describe: "loopback", addr: [2]string{"127.0.0.1", "127.0.0.1"}}
	if loopback {
		return local, nil
	}
	if err := netlab.Missing(); err != nil {
		local.describe = fmt.Sprintf("loopback (%v)", err)
		return local, nil
	}
	l, err := openPair(ctx, func(n *netlab.Lab, a, b netlab.End) (*netlab.Link, error) { return nil, n.Veth(ctx, a, b) })
	if err == nil {
		l.describe = "veth pair between two network namespaces, offloads on"
	}
	return l, err
}

// openLink makes namespaces with an emulated link between them.
func openLink(ctx context.Context) (*lab, error) {
	return openPair(ctx, func(n *netlab.Lab, a, b netlab.End) (*netlab.Link, error) { return n.Link(ctx, a, b) })
}

// openPair makes two namespaces and joins them.
func openPair(ctx context.Context, join func(*netlab.Lab, netlab.End, netlab.End) (*netlab.Link, error)) (*lab, error) {
	n, err := netlab.Open(ctx)
	if err != nil {
		return nil, err
	}
	// RFC 2544 gave 198.18.0.0/15 to benchmarks.
	l := &lab{net: n, addr: [2]string{"198.18.0.1", "198.18.0.2"}}
	var ends [2]netlab.End
	for i, name := range []string{"agent", "buyer"} {
		if l.hosts[i], err = n.Namespace(ctx, name); err != nil {
			return nil, errors.Join(err, l.close())
		}
		ends[i] = netlab.End{Namespace: l.hosts[i], Device: "x402", Address: netip.PrefixFrom(netip.MustParseAddr(l.addr[i]), 24)}
	}
	if l.link, err = join(n, ends[0], ends[1]); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// close removes the namespaces, and with them what joins them.
func (l *lab) close() error {
	if l.net == nil {
		return nil
	}
	return l.net.Close()
}

// command is argv on a side; the process id is the program's.
func (l *lab) command(ctx context.Context, s side, argv ...string) *exec.Cmd {
	if l.net == nil {
		return exec.CommandContext(ctx, argv[0], argv[1:]...)
	}
	return l.hosts[s].Command(ctx, argv...)
}

// freePort is one that nobody uses on a side, for TCP or UDP.
func (l *lab) freePort(s side, network string) (port int, err error) {
	find := func() error {
		if network == "udp" {
			conn, err := net.ListenPacket("udp4", l.addr[s]+":0")
			if err != nil {
				return err
			}
			port = conn.LocalAddr().(*net.UDPAddr).Port
			return conn.Close()
		}
		ln, err := net.Listen("tcp4", l.addr[s]+":0")
		if err != nil {
			return err
		}
		port = ln.Addr().(*net.TCPAddr).Port
		return ln.Close()
	}
	if l.net == nil {
		err = find()
		return port, err
	}
	err = l.hosts[s].Do(find)
	return port, err
}

// mobile is a link as a good cellular connection has it: 50 Mbit/s, a round trip
// of 40 ms and a queue of 100 ms.
func mobile(loss float64) netlab.Shape {
	return netlab.Shape{Rate: 50_000_000, Delay: oneWay, Queue: 100 * time.Millisecond, Loss: loss}
}
