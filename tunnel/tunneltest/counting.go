package tunneltest

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/depinsim/x402/tunnel"
)

// A counting dialer knows what really passed at the targets.
type counting struct {
	tunnel.Dialer
	wroteTCP, readTCP, wroteUDP, readUDP atomic.Uint64
}

func (d *counting) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	c, err := d.Dialer.DialTCP(ctx, host, port)
	if err != nil {
		return nil, err
	}
	t, ok := c.(target)
	if !ok {
		return nil, errors.New("not like TCP")
	}
	return &countedTCP{t, d}, nil
}

func (d *counting) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	c, err := d.Dialer.DialUDP(ctx, host, port)
	if err != nil {
		return nil, err
	}
	return &countedUDP{c, d}, nil
}

// check holds the agent's count against what passed: uploads were written to
// targets to the byte, downloads were read from them.
func (d *counting) check(t testing.TB, p *Pair) {
	t.Helper()
	a := p.Agent.Totals()
	if a.UpTCP != d.wroteTCP.Load() || a.UpUDP != d.wroteUDP.Load() {
		t.Errorf("targets took %d and %d, the agent counts %+v", d.wroteTCP.Load(), d.wroteUDP.Load(), a)
	}
	if a.DownTCP > d.readTCP.Load() || a.DownUDP > d.readUDP.Load() {
		t.Errorf("targets gave %d and %d, the agent counts %+v", d.readTCP.Load(), d.readUDP.Load(), a)
	}
}

type countedTCP struct {
	target
	d *counting
}

func (c *countedTCP) Read(b []byte) (int, error) {
	n, err := c.target.Read(b)
	c.d.readTCP.Add(uint64(n))
	return n, err
}

func (c *countedTCP) Write(b []byte) (int, error) {
	n, err := c.target.Write(b)
	c.d.wroteTCP.Add(uint64(n))
	return n, err
}

type countedUDP struct {
	net.Conn
	d *counting
}

func (c *countedUDP) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		c.d.readUDP.Add(uint64(n + tunnel.PacketOverhead))
	}
	return n, err
}

func (c *countedUDP) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err == nil {
		c.d.wroteUDP.Add(uint64(n + tunnel.PacketOverhead))
	}
	return n, err
}
