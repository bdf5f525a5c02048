package tunneltest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/depinsim/x402/tunnel"
)

// A sockets dialer connects every flow to one function over loopback.
type sockets struct {
	target func(net.Conn)
	wg     sync.WaitGroup
}

func (d *sockets) DialTCP(ctx context.Context, _ string, _ uint16) (net.Conn, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	d.wg.Go(func() {
		far, err := ln.Accept()
		if err != nil {
			return
		}
		defer far.Close()
		d.target(far)
	})
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp4", ln.Addr().String())
}

func (d *sockets) DialUDP(context.Context, string, uint16) (net.Conn, error) {
	here := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	a, err := net.ListenUDP("udp4", here)
	if err != nil {
		return nil, err
	}
	b, err := net.DialUDP("udp4", here, a.LocalAddr().(*net.UDPAddr))
	a.Close() // the far end takes its place, connected
	if err != nil {
		return nil, err
	}
	far, err := net.DialUDP("udp4", a.LocalAddr().(*net.UDPAddr), b.LocalAddr().(*net.UDPAddr))
	if err != nil {
		b.Close()
		return nil, err
	}
	d.wg.Go(func() {
		defer far.Close()
		d.target(far)
	})
	return b, nil
}

// Bench moves a MiB an operation through one flow: real sockets, both
// ends in this process.
func Bench(b *testing.B, dial Dial) {
	const size = 1 << 20
	b.Run("download", func(b *testing.B) {
		relay(b, dial, func(c net.Conn) {
			buf := make([]byte, 256<<10)
			for {
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		}, func(f *tunnel.Flow) error {
			_, err := io.CopyN(io.Discard, f, size)
			return err
		})
	})
	b.Run("upload", func(b *testing.B) {
		buf := make([]byte, size)
		relay(b, dial, func(c net.Conn) { io.Copy(io.Discard, c) }, func(f *tunnel.Flow) error {
			_, err := f.Write(buf)
			return err
		})
	})
}

func relay(b *testing.B, dial Dial, target func(net.Conn), move func(*tunnel.Flow) error) {
	d := &sockets{target: target}
	defer d.wg.Wait()
	Real(b, dial, Options{Config: tunnel.Config{Dialer: d}}, func(p *Pair) {
		f := p.dial(b, "host.test")
		defer f.Close()
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		for b.Loop() {
			if err := move(f); err != nil {
				b.Fatal(err)
			}
		}
	})
}
