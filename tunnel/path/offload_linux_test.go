package path

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	quicgo "github.com/apernet/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// noGRO makes a socket read packet by packet, as quic-go does by itself.
func (s *Socket) noGRO(t testing.TB) {
	b := *s.below.Load()
	b.gro = false
	control(b.udp, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 0); err != nil {
			t.Fatal(err)
		}
	})
	s.below.Store(&b)
}

func cpu(t testing.TB) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// TestBatch sends a batch that the kernel segments, and reads what it coalesced
// by the few, with our own packets in between.
func TestBatch(t *testing.T) {
	s := must[*Socket](t)(Listen(context.Background(), Config{Addr: "127.0.0.1:0"}))
	defer s.Close()
	from := must[net.PacketConn](t)(net.ListenPacket("udp", "127.0.0.1:0"))
	defer from.Close()
	if !s.below.Load().gro {
		t.Error("the kernel does not coalesce")
	}
	const size, n = 1000, 21
	batch := make([]byte, size*n-300)
	_, _ = rand.Read(batch)
	want := [][]byte{}
	for i := range n {
		p := batch[i*size : min((i+1)*size, len(batch))]
		p[0] = 0x40
		if i%5 == 2 {
			p[0] = 0
			continue
		}
		want = append(want, p)
	}
	sendBatch(t, from.(*net.UDPConn), batch, size, addrPort(s.LocalAddr()))
	conn := s.PacketConn().(interface {
		ReadBatch([]ipv4.Message, int) (int, error)
	})
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, MaxProbe)}, make([]byte, oobSize)
	}
	for len(want) > 0 {
		n, err := conn.ReadBatch(ms, 0)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		for _, m := range ms[:n] {
			if got := m.Buffers[0][:m.N]; !bytes.Equal(got, want[0]) {
				t.Fatalf("%d bytes, want %d; %d packets to come", len(got), len(want[0]), len(want))
			}
			if m.Addr.String() != from.LocalAddr().String() || m.NN != 0 {
				t.Fatal(m.Addr, m.NN)
			}
			want = want[1:]
		}
	}
}

// BenchmarkTransfer is one big flow over loopback. CPU-s/GB is both ends'.
func BenchmarkTransfer(b *testing.B) {
	const size = 64 << 20
	for _, name := range []string{"bare", "plain", "GRO"} {
		b.Run(name, func(b *testing.B) {
			var conns [2]net.PacketConn
			for i := range conns {
				if name == "bare" {
					conns[i] = must[net.PacketConn](b)(net.ListenPacket("udp", "127.0.0.1:0"))
					defer conns[i].Close()
					continue
				}
				s := must[*Socket](b)(Listen(context.Background(), Config{Addr: "127.0.0.1:0"}))
				defer s.Close()
				if name == "plain" {
					s.noGRO(b)
				}
				conns[i] = s.PacketConn()
			}
			stream := benchStream(b, conns[0], conns[1])
			buf := make([]byte, 32<<10)
			_, _ = stream.Write(buf[:1])
			b.SetBytes(size)
			b.ReportAllocs()
			start := cpu(b)
			for b.Loop() {
				for got := 0; got < size; {
					n, err := stream.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
			b.ReportMetric((cpu(b)-start)/(float64(b.N)*size/1e9), "CPU-s/GB")
		})
	}
}

// BenchmarkPing is a stream's byte there and back.
func BenchmarkPing(b *testing.B) {
	for _, name := range []string{"plain", "GRO"} {
		b.Run(name, func(b *testing.B) {
			c := newCouple(b, Config{Addr: "127.0.0.1:0"}, Config{Addr: "127.0.0.1:0"})
			defer c.close()
			if name == "plain" {
				c.buyer.sock.noGRO(b)
				c.agent.sock.noGRO(b)
			}
			c.dial(c.agent.sock.LocalAddr())
			stream := must[*quicgo.Stream](b)(c.buyer.conn.OpenStreamSync(c.ctx))
			defer stream.Close()
			var x [1]byte
			for b.Loop() {
				if _, err := stream.Write(x[:]); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(stream, x[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchStream returns a stream on which the other side writes without end.
func benchStream(b *testing.B, server, client net.PacketConn) *quicgo.Stream {
	sc, cc := tlsConfigs(b)
	st, ct := &quicgo.Transport{Conn: server}, &quicgo.Transport{Conn: client}
	ln := must[*quicgo.Listener](b)(st.Listen(sc, nil))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	b.Cleanup(func() {
		cancel()
		_ = ct.Close()
		_ = st.Close()
		wg.Wait()
	})
	wg.Go(func() {
		conn, err := ln.Accept(ctx)
		if err != nil {
			b.Error(err)
			return
		}
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			b.Error(err)
			return
		}
		buf := make([]byte, 64<<10)
		for {
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
	conn := must[*quicgo.Conn](b)(ct.Dial(ctx, server.LocalAddr(), cc, nil))
	return must[*quicgo.Stream](b)(conn.OpenStreamSync(ctx))
}

// sendBatch sends packets of one size by one call.
func sendBatch(t testing.TB, c *net.UDPConn, b []byte, size uint16, to netip.AddrPort) {
	oob := appendMessage(nil, unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, size))
	if _, _, err := c.WriteMsgUDPAddrPort(b, oob, to); err != nil {
		t.Fatal(err)
	}
}

// FuzzControlMessages parses and rewrites what no kernel would say.
func FuzzControlMessages(f *testing.F) {
	local := appendLocal(nil, netip.MustParseAddr("192.0.2.1"))
	gro := appendMessage(nil, unix.IPPROTO_UDP, unix.UDP_GRO, []byte{100, 0, 0, 0})
	f.Add(append(appendMessage(local, unix.IPPROTO_IP, unix.IP_TOS, []byte{1}), gro...), true)
	f.Add(appendLocal(gro, netip.MustParseAddr("2001:db8::1")), false)
	f.Fuzz(func(t *testing.T, oob []byte, v4 bool) {
		to, has := testAddr6, hasLocal(oob)
		if v4 {
			to = testAddr4
		}
		_, _ = localAddr(oob), segmentSize(oob)
		if out := rewrite(nil, oob, &route{to: to}); hasLocal(out) {
			t.Fatalf("%x kept its source in %x", oob, out)
		}
		copied := bytes.Clone(oob)
		_, n := cutGRO(copied)
		if n > len(oob) || hasLocal(copied[:n]) != has {
			t.Fatalf("%x became %x", oob, copied[:n])
		}
	})
}
