package tunneltest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Net is an internet in memory: hosts by name and port. It implements
// tunnel.Dialer.
type Net struct {
	mu  sync.Mutex
	tcp map[string]func(*Conn)
	udp map[string]func(net.Conn)
	wg  sync.WaitGroup
}

// HandleTCP answers connections to host:port with f, each in a goroutine.
func (n *Net) HandleTCP(hostport string, f func(*Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tcp == nil {
		n.tcp = make(map[string]func(*Conn))
	}
	n.tcp[hostport] = f
}

// HandleUDP answers flows to host:port with f: one Read or Write is a packet.
func (n *Net) HandleUDP(hostport string, f func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.udp == nil {
		n.udp = make(map[string]func(net.Conn))
	}
	n.udp[hostport] = f
}

// DialTCP connects to a handler; a host without one refuses.
func (n *Net) DialTCP(_ context.Context, host string, port uint16) (net.Conn, error) {
	n.mu.Lock()
	f := n.tcp[key(host, port)]
	n.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("dial tcp %s: %w", key(host, port), syscall.ECONNREFUSED)
	}
	near, far := Pipe()
	n.wg.Go(func() {
		defer far.Close()
		f(far)
	})
	return near, nil
}

// DialUDP connects to a handler; without one, packets vanish.
func (n *Net) DialUDP(_ context.Context, host string, port uint16) (net.Conn, error) {
	n.mu.Lock()
	f := n.udp[key(host, port)]
	n.mu.Unlock()
	near, far := net.Pipe()
	n.wg.Go(func() {
		defer far.Close()
		if f != nil {
			f(far)
			return
		}
		b := make([]byte, 1<<16)
		for {
			if _, err := far.Read(b); err != nil {
				return
			}
		}
	})
	return near, nil
}

// Wait waits for all handlers.
func (n *Net) Wait() { n.wg.Wait() }

func key(host string, port uint16) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
