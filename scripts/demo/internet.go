package demo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// An internet is what the buyer reaches through the agent: a web server with
// one file, in two halves, and a UDP echo server.
type internet struct {
	halves [2]half
	// opened is closed to let the web server send the rest of each half. It
	// holds back the second part of them until the agent has been killed, so
	// that the kill is always in the middle of both.
	opened chan struct{}
	web    net.Listener
	udp    *net.UDPConn
}

// A half of the file.
type half struct {
	from, size int64 // in content
	gate       int64 // what is sent before opened is closed
}

// newInternet listens; run serves. With gated the file's second parts are held
// back until open.
func newInternet(size int64, gated bool) (*internet, error) {
	n := &internet{opened: make(chan struct{})}
	n.halves = [2]half{{0, size / 2, size / 4}, {size / 2, size - size/2, (size - size/2) / 2}}
	if !gated {
		n.open()
	}
	var err error
	if n.web, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	n.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, errors.Join(err, n.web.Close())
	}
	return n, nil
}

// open lets the rest of the file out. It is called once.
func (n *internet) open() { close(n.opened) }

// url is where half i is.
func (n *internet) url(i int) string { return fmt.Sprintf("http://%s/half/%d", n.web.Addr(), i+1) }

// echo is the address of the UDP echo server.
func (n *internet) echo() netip.AddrPort { return n.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// run serves until ctx ends.
func (n *internet) run(ctx context.Context) error {
	mux := http.NewServeMux()
	for i := range n.halves {
		mux.HandleFunc(fmt.Sprintf("GET /half/%d", i+1), func(w http.ResponseWriter, r *http.Request) { n.serve(w, r, i) })
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(n.web) })
	g.Go(n.echoPackets)
	g.Go(func() error {
		<-gctx.Done()
		return errors.Join(srv.Close(), n.udp.Close())
	})
	if err := g.Wait(); ctx.Err() == nil {
		return fmt.Errorf("the demo's web server: %w", err)
	}
	return nil
}

// serve answers with one half, or the range of it that is asked for.
func (n *internet) serve(w http.ResponseWriter, r *http.Request, i int) {
	h := n.halves[i]
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, &gatedReader{
		SectionReader: io.NewSectionReader(content{}, h.from, h.size), gate: h.gate, opened: n.opened,
		flush: http.NewResponseController(w).Flush, gone: r.Context().Done(),
	})
}

// A gatedReader reads on behind gate only after opened is closed. What was read
// before that is flushed first.
type gatedReader struct {
	*io.SectionReader
	gate   int64
	opened <-chan struct{}
	flush  func() error
	gone   <-chan struct{} // closed when the client has left
}

func (g *gatedReader) Read(b []byte) (int, error) {
	at, err := g.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	select {
	case <-g.opened:
		return g.SectionReader.Read(b)
	default:
	}
	if at < g.gate {
		return g.SectionReader.Read(b[:min(int64(len(b)), g.gate-at)])
	}
	if err := g.flush(); err != nil {
		return 0, err
	}
	select {
	case <-g.opened:
		return g.SectionReader.Read(b)
	case <-g.gone:
		return 0, net.ErrClosed
	}
}

// echoPackets sends every datagram back.
func (n *internet) echoPackets() error {
	b := make([]byte, 64<<10)
	for {
		size, from, err := n.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		if _, err := n.udp.WriteToUDPAddrPort(b[:size], from); err != nil {
			return err
		}
	}
}

// content is an endless file that looks random and can be read anywhere.
type content struct{}

const contentBlock = 32 << 10

// ReadAt fills b with what is at off. Block i of the content are the first
// bytes that ChaCha8 makes of the seed i.
func (content) ReadAt(b []byte, off int64) (int, error) {
	block := make([]byte, contentBlock)
	for n := 0; n < len(b); {
		at := off + int64(n)
		var seed [32]byte
		binary.LittleEndian.PutUint64(seed[:], uint64(at/contentBlock))
		if _, err := rand.NewChaCha8(seed).Read(block); err != nil {
			return n, err
		}
		n += copy(b[n:], block[at%contentBlock:])
	}
	return len(b), nil
}

// sum is the SHA-256 of a half.
func (h half) sum() ([sha256.Size]byte, error) {
	s := sha256.New()
	_, err := io.Copy(s, io.NewSectionReader(content{}, h.from, h.size))
	return [sha256.Size]byte(s.Sum(nil)), err
}
