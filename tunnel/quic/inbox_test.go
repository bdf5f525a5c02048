package quic

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// fetch takes all that an inbox has.
func fetch(t *testing.T, b *inbox) (packets []string) {
	t.Helper()
	for {
		packet, closed := b.next()
		if packet == nil {
			if closed {
				t.Error("it is closed")
			}
			return packets
		}
		packets = append(packets, string(packet))
	}
}

func TestInboxOrder(t *testing.T) {
	x := newInboxes()
	b := x.open(8)
	var want, got []byte
	for i := range 2000 { // more come than are fetched, and then none
		x.put(2, []byte{byte(i)})
		want = append(want, byte(i))
		if i%3 == 0 {
			packet, err := b.receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, packet...)
		}
	}
	for _, packet := range fetch(t, b) {
		got = append(got, packet...)
	}
	if string(got) != string(want) {
		t.Errorf("got %d packets in another order than %d", len(got), len(want))
	}
	if x.held != 0 {
		t.Errorf("%d bytes are held", x.held)
	}
}

// TestInboxBounds: streams that fetch nothing hold little more than is said,
// and each of the others can hold as much as it ever could.
func TestInboxBounds(t *testing.T) {
	x := newInboxes()
	packet := make([]byte, 1200)
	for id := range 100 {
		b := x.open(quicgo.StreamID(4 * id))
		for range 1000 {
			x.put(b.id, packet)
		}
		if n := len(b.packets); n < boxPackets || id > 0 && n != boxPackets {
			t.Fatalf("stream %d holds %d packets", id, n)
		}
	}
	if most := boxBytes + 100*boxPackets*len(packet); x.held > most {
		t.Errorf("%d bytes are held, at most %d may be", x.held, most)
	}
}

func TestInboxEnds(t *testing.T) {
	x := newInboxes()
	x.put(1, []byte("of nobody"))
	b := x.open(4)
	x.put(1, []byte("a"))
	if got := fetch(t, b); len(got) != 1 || got[0] != "a" {
		t.Errorf("got %q", got)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errQuarterID)
	if _, err := b.receive(ctx); !errors.Is(err, errQuarterID) {
		t.Errorf("cancelled: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := b.receive(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
	b.close()
	b.close()
	wg.Wait()
	(*inbox)(nil).close()
	if x.put(1, []byte("late")); x.held != 0 || len(x.byID) != 0 {
		t.Errorf("%d bytes and %d inboxes are left", x.held, len(x.byID))
	}
}

// TestBurst sends packets to a target that takes none for a while: none is
// lost. They come in parts of less than what the library holds, each followed
// by an answer, so that it depends on no goroutine's turn whether one is lost
// before the inbox.
func TestBurst(t *testing.T) {
	const burst, part = 300, 50
	var targets tunneltest.Net
	release, got := make(chan struct{}), make(chan int)
	targets.HandleUDP("slow.test:9", func(c net.Conn) {
		<-release
		c.SetReadDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 1500)
		for i := range burst {
			if _, err := c.Read(b); err != nil {
				t.Errorf("packet %d: %v", i, err)
				break
			}
			got <- int(b[0]) | int(b[1])<<8
		}
		close(got)
	})
	targets.HandleTCP("echo.test:7", func(c *tunneltest.Conn) {
		io.Copy(c, c)
	})
	client, stop := between(t, tunnel.Config{Dialer: &targets})
	defer stop()
	f, err := client.DialUDP(t.Context(), "slow.test", 9)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Established(t.Context()); err != nil {
		t.Fatal(err)
	}
	echo, err := client.DialTCP(t.Context(), "echo.test", 7)
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	for i := range burst {
		packet := make([]byte, 1100)
		packet[0], packet[1] = byte(i), byte(i>>8)
		if _, err := f.Write(packet); err != nil {
			t.Fatal(err)
		}
		if (i+1)%part != 0 {
			continue
		}
		if _, err := echo.Write([]byte("x")); err != nil { // behind the packets
			t.Fatal(err)
		}
		if _, err := echo.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	want := 0
	for n := range got {
		if n != want {
			t.Fatalf("packet %d instead of %d", n, want)
		}
		want++
	}
}

// between connects a client to a session over loopback.
func between(t *testing.T, c tunnel.Config) (*tunnel.Client, func()) {
	t.Helper()
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	var sockets [2]*net.UDPConn
	for i := range sockets {
		if sockets[i], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := Listen(ListenConfig{Conn: sockets[0], Key: key})
	if err != nil {
		t.Fatal(err)
	}
	lanes := func() tunnel.Lanes {
		c := tunneltest.NewCounter(1 << 40)
		return tunnel.Lanes{UpTCP: c.UpTCP, DownTCP: c.DownTCP, UpUDP: c.UpUDP, DownUDP: c.DownUDP}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, _, err := ln.Accept(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		s := tunnel.NewSession(conn, c)
		s.Admit(lanes())
		_ = s.Run()
	})
	dialer := NewDialer(sockets[1])
	conn, err := dialer.Dial(t.Context(), sockets[0].LocalAddr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	control, err := tunnel.OpenControl(t.Context(), conn, "agent", func(uint64) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return tunnel.NewClient(conn, control, lanes()), func() {
		conn.Close(tunnel.ReasonDone, "")
		ln.Close()
		dialer.Close()
		wg.Wait()
		sockets[0].Close()
		sockets[1].Close()
	}
}
