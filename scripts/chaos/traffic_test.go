package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// traffic is the internet and those who use it through the buyer's proxies. It
// counts at its own sockets what the tunnel was given and what came out of it,
// with 28 bytes more for each datagram.
type traffic struct {
	hub              *hub
	web              net.Listener
	udp              *net.UDPConn
	socks, http      *net.TCPListener // the buyer's; nobody accepts here
	upSent, upGot    atomic.Uint64
	downSent         atomic.Uint64
	downGot, echoed  atomic.Uint64 // the second: of the first, what came in datagrams
	flows, broken    atomic.Uint64
	packets, answers atomic.Uint64
}

const (
	packetOverhead = 28
	maxFlow        = 6 << 20
	flowTime       = 30 * time.Second // for one read or write of a client
	echoTime       = 300 * time.Millisecond
	againAfter     = 20 * time.Millisecond
)

// pattern is what is sent both ways, over and over.
const pattern = "The quick brown fox jumps over the lazy dog 0123456789, sphinx of black quartz, judge my vow.\n"

var block = []byte(strings.Repeat(pattern, 700)) // about 64 KiB of it

func newTraffic(h *hub) (tr *traffic, err error) {
	tr = &traffic{hub: h}
	if tr.web, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if tr.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		return nil, err
	}
	for _, ln := range []**net.TCPListener{&tr.socks, &tr.http} {
		if *ln, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			return nil, err
		}
	}
	return tr, nil
}

func (tr *traffic) String() string {
	return fmt.Sprintf("up %d of %d, down %d of %d bytes arrived; %d flows, %d broken; %d of %d datagrams answered",
		tr.upGot.Load(), tr.upSent.Load(), tr.downGot.Load(), tr.downSent.Load(),
		tr.flows.Load(), tr.broken.Load(), tr.answers.Load(), tr.packets.Load())
}

// serve is the internet, until ctx ends.
func (tr *traffic) serve(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-gctx.Done()
		return errors.Join(tr.web.Close(), tr.udp.Close())
	})
	g.Go(tr.echo)
	g.Go(func() error {
		for {
			c, err := tr.web.Accept()
			if err != nil {
				return err
			}
			g.Go(func() error {
				defer c.Close()
				defer context.AfterFunc(gctx, func() { c.Close() })()
				_ = answer(&counted{Conn: c, in: &tr.upGot, out: &tr.downSent, hub: tr.hub}) // the client sees what is wrong
				return nil
			})
		}
	})
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// answer serves one flow: "GET n" sends n bytes, "PUT n" takes them and says so.
func answer(c net.Conn) error {
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	word, number, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	if word == "GET" {
		return send(c, n)
	}
	if err := check(r, n); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c, n)
	return err
}

func (tr *traffic) echo() error {
	b := make([]byte, 64<<10)
	for {
		n, from, err := tr.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		tr.upGot.Add(uint64(n) + packetOverhead)
		if _, err := tr.udp.WriteToUDPAddrPort(b[:n], from); err != nil {
			continue // the agent's socket has gone
		}
		tr.downSent.Add(uint64(n) + packetOverhead)
	}
}

// use makes flows of all kinds, until ctx ends. It fails only if what arrives
// is not what was sent.
func (tr *traffic) use(ctx context.Context, seed uint64) error {
	g, gctx := errgroup.WithContext(ctx)
	users := []func(context.Context, *rand.Rand) error{tr.download, tr.download, tr.upload, tr.browse, tr.ping}
	for i, user := range users {
		rng := rand.New(rand.NewPCG(seed, uint64(i+1)))
		g.Go(func() error {
			for gctx.Err() == nil {
				err := user(gctx, rng)
				if errors.Is(err, errContent) {
					return err
				}
				if err == nil {
					tr.flows.Add(1)
					continue
				}
				tr.broken.Add(1)
				select { // a tunnel that is down refuses at once
				case <-gctx.Done():
				case <-time.After(againAfter):
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (tr *traffic) download(ctx context.Context, rng *rand.Rand) error {
	return tr.flow(ctx, tr.viaSOCKS(), func(c net.Conn) error { return get(c, 1+rng.IntN(maxFlow)) })
}

func (tr *traffic) upload(ctx context.Context, rng *rand.Rand) error {
	return tr.flow(ctx, tr.viaSOCKS(), func(c net.Conn) error { return put(c, 1+rng.IntN(maxFlow)) })
}

// browse makes small flows in both directions through the HTTP proxy, and
// leaves some of them early.
func (tr *traffic) browse(ctx context.Context, rng *rand.Rand) error {
	n := 1 + rng.IntN(200<<10)
	return tr.flow(ctx, tr.viaHTTP(), func(c net.Conn) error {
		switch rng.IntN(4) {
		case 0:
			return put(c, n)
		case 1: // goes away in the middle
			if _, err := fmt.Fprintf(c, "GET %d\n", 2*n); err != nil {
				return err
			}
			return check(c, n)
		}
		return get(c, n)
	})
}

func get(c net.Conn, n int) error {
	if _, err := fmt.Fprintf(c, "GET %d\n", n); err != nil {
		return err
	}
	return check(c, n)
}

func put(c net.Conn, n int) error {
	if _, err := fmt.Fprintf(c, "PUT %d\n", n); err != nil {
		return err
	}
	if err := send(c, n); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && line != strconv.Itoa(n)+"\n" {
		err = fmt.Errorf("%w: %q after an upload of %d bytes", errContent, line, n)
	}
	return err
}

func send(w io.Writer, n int) error {
	for n > 0 {
		k, err := w.Write(block[:min(n, len(block))])
		n -= k
		if err != nil {
			return err
		}
	}
	return nil
}

// errContent says that something else arrived than was sent.
var errContent = errors.New("not what was sent")

// check reads n bytes of the pattern.
func check(r io.Reader, n int) error {
	b := make([]byte, len(block))
	for n > 0 {
		k, err := io.ReadFull(r, b[:min(n, len(b))])
		if !bytes.Equal(b[:k], block[:k]) {
			return errContent
		}
		n -= k
		if err != nil {
			return err
		}
	}
	return nil
}

// A route is one of the buyer's proxies.
type route struct {
	proxy *net.TCPListener
	hello func(net.Conn) error // asks for the web server
}

func (tr *traffic) viaSOCKS() route {
	return route{tr.socks, func(c net.Conn) error { _, err := negotiate(c, 1, tr.web.Addr()); return err }}
}

func (tr *traffic) viaHTTP() route {
	return route{tr.http, func(c net.Conn) error {
		if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", tr.web.Addr()); err != nil {
			return err
		}
		// The server speaks second, so that nothing of it is read here.
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		return err
	}}
}

// flow dials the web server and runs f on the connection. While there is no
// buyer the connection waits in the listener for the next one.
func (tr *traffic) flow(ctx context.Context, r route, f func(net.Conn) error) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.proxy.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetDeadline(time.Now().Add(flowTime)); err != nil {
		return err
	}
	if err := r.hello(c); err != nil {
		return err
	}
	return f(&counted{Conn: c, in: &tr.downGot, out: &tr.upSent, hub: tr.hub, patience: flowTime})
}

// negotiate asks a SOCKS5 proxy for a target (RFC 1928) and returns the address
// that it answers with. Both are IPv4.
func negotiate(c net.Conn, command byte, target net.Addr) (netip.AddrPort, error) {
	to, err := netip.ParseAddrPort(target.String())
	if err != nil {
		return to, err
	}
	request := append([]byte{5, 1, 0, 5, command, 0, 1}, to.Addr().AsSlice()...)
	request = binary.BigEndian.AppendUint16(request, to.Port())
	if _, err := c.Write(request); err != nil {
		return to, err
	}
	var reply [2 + 10]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return to, err
	}
	if reply[1] != 0 || reply[3] != 0 || reply[5] != 1 {
		return to, fmt.Errorf("SOCKS answers % x", reply)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[6:10])), binary.BigEndian.Uint16(reply[10:])), nil
}

// ping sends datagrams to the echo server through UDP ASSOCIATE, one after the
// other, until the association ends.
func (tr *traffic) ping(ctx context.Context, rng *rand.Rand) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", tr.socks.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.SetDeadline(time.Now().Add(flowTime)); err != nil {
		return err
	}
	relay, err := negotiate(c, 3, &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		return err
	}
	s, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		return err
	}
	defer s.Close()
	for range 1 + rng.IntN(500) {
		if err := tr.exchange(s, rng); err != nil {
			return err
		}
	}
	return nil
}

// exchange sends one datagram and waits a moment for its echo.
func (tr *traffic) exchange(s *net.UDPConn, rng *rand.Rand) error {
	const header = 10 // of SOCKS5 with an IPv4 address
	to := tr.udp.LocalAddr().(*net.UDPAddr)
	n := 8 + rng.IntN(1300)
	b := append([]byte{0, 0, 0, 1}, to.IP.To4()...)
	b = binary.BigEndian.AppendUint16(b, uint16(to.Port))
	b = binary.BigEndian.AppendUint64(b, tr.packets.Add(1))
	b = append(b, block[:n-8]...)
	tr.upSent.Add(uint64(n) + packetOverhead)
	if _, err := s.Write(b); err != nil {
		return err
	}
	if err := s.SetReadDeadline(time.Now().Add(echoTime)); err != nil {
		return err
	}
	in := make([]byte, 64<<10)
	for {
		k, err := s.Read(in)
		if err != nil {
			return err
		}
		tr.downGot.Add(uint64(k-header) + packetOverhead)
		tr.echoed.Add(uint64(k-header) + packetOverhead)
		tr.hub.carried(k)
		if bytes.Equal(in[header:k], b[header:]) {
			tr.answers.Add(1)
			return nil
		} // else the late echo of another
	}
}

// A counted connection adds what it reads when it has come and what it writes
// before it goes, so that in never is too much and out never too little.
type counted struct {
	net.Conn
	in, out  *atomic.Uint64
	hub      *hub          // told of what comes
	patience time.Duration // of each read and write; 0: endless
}

func (c *counted) Read(b []byte) (int, error) {
	if c.patience > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(b)
	c.in.Add(uint64(n))
	if n > 0 {
		c.hub.carried(n)
	}
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	if c.patience > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return 0, err
		}
	}
	c.out.Add(uint64(len(b)))
	n, err := c.Conn.Write(b)
	c.out.Add(-uint64(len(b) - n))
	return n, err
}
