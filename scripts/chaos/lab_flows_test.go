package chaos

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// A site is what flows go to, on two ports: pages for curl, and one for flows
// that last until they are told to end. It counts at its own sockets what came
// and what it gave; of a flow that ended in order all of that arrived.
type site struct {
	ctx      context.Context
	stop     context.CancelFunc
	w        *netlab.World
	hub      *hub
	in, out  atomic.Uint64
	up, down pulse // of flows that last
	lasting  net.Listener
	pages    net.Listener
	web      *http.Server
	work     sync.WaitGroup
}

const (
	socksAddr   = "127.0.0.1:1080"
	lastingPort = 7
	pagesPort   = 80
)

// A pulse watches what arrives.
type pulse struct {
	mu   sync.Mutex
	n    uint64
	last time.Time
	gap  time.Duration // longest between two arrivals, since beat
}

func (p *pulse) beat(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.n += uint64(n)
	p.gap = max(p.gap, now.Sub(p.last))
	p.last = now
}

// count is what has arrived so far.
func (p *pulse) count() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// rest returns the longest time without an arrival since it was last asked.
func (p *pulse) rest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := p.gap
	p.gap = 0
	return gap.Round(time.Millisecond)
}

// openSite opens one at an address of a namespace.
func openSite(w *netlab.World, h *hub, host *netlab.Namespace, at netip.Addr) (*site, error) {
	s := &site{w: w, hub: h}
	s.ctx, s.stop = context.WithCancel(context.Background())
	var err, err2 error
	s.lasting, err = host.Listen("tcp", netip.AddrPortFrom(at, lastingPort).String())
	s.pages, err2 = host.Listen("tcp", netip.AddrPortFrom(at, pagesPort).String())
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	s.web = &http.Server{Handler: http.HandlerFunc(s.page)}
	s.work.Go(func() { _ = s.web.Serve(tapped{s.pages, s}) }) // until close
	s.work.Go(func() {
		for {
			c, err := s.lasting.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() {
				defer c.Close()
				defer context.AfterFunc(s.ctx, func() { c.Close() })()
				_ = s.last(s.tap(c), c.(*net.TCPConn)) // the client sees what is wrong
			})
		}
	})
	return s, nil
}

func (s *site) close() {
	s.stop()
	_, _ = s.lasting.Close(), s.web.Close() // the test is over
	s.work.Wait()
}

func (s *site) String() string {
	return fmt.Sprintf("%d bytes came up, %d went down", s.in.Load(), s.out.Load())
}

// tap counts a connection's bytes.
func (s *site) tap(c net.Conn) net.Conn {
	return &counted{Conn: c, in: &s.in, out: &s.out, hub: s.hub}
}

// tapped are connections whose bytes are counted.
type tapped struct {
	net.Listener
	s *site
}

func (t tapped) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return t.s.tap(c), nil
}

// page answers GET /n with n bytes, and anything else with the size of what it
// was sent.
func (s *site) page(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		n, err := checkAll(r.Body, func(int) {})
		fmt.Fprintln(w, n, err)
		return
	}
	n, err := strconv.Atoi(strings.Trim(r.URL.Path, "/"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_ = send(w, n) // curl sees it
}

// last serves one flow: "down" gives the pattern until the client's end of the
// stream, "up" takes it until then and says how much it was.
func (s *site) last(c net.Conn, raw *net.TCPConn) error {
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	if line == "up\n" {
		n, err := checkAll(r, s.up.beat)
		if err == nil {
			_, err = fmt.Fprintln(c, n)
		}
		return err
	}
	var over atomic.Bool
	var listening sync.WaitGroup
	listening.Go(func() {
		_, _ = io.Copy(io.Discard, r) // whatever ends it
		over.Store(true)
	})
	defer listening.Wait()
	defer c.Close()
	for !over.Load() {
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
	return raw.CloseWrite()
}

// checkAll reads the pattern to its end, and says how long it was.
func checkAll(r io.Reader, beat func(int)) (n uint64, err error) {
	b := make([]byte, 16<<10)
	for {
		k, err := r.Read(b)
		for at := 0; at < k; {
			want := block[(n+uint64(at))%uint64(len(block)):]
			m := min(len(want), k-at)
			if !bytes.Equal(b[at:at+m], want[:m]) {
				return n, errContent
			}
			at += m
		}
		n += uint64(k)
		if k > 0 {
			beat(k)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// A flow is one that lasts, from the buyer's network through its proxy.
type flow struct {
	name  string
	pulse *pulse
	over  chan struct{} // closed to end it
	done  chan struct{} // closed when it has ended
	n     uint64        // bytes of pattern; read after done, like err
	err   error
}

// flow begins one: "up" or "down".
func (s *site) flow(name string) *flow {
	f := &flow{name: name, pulse: &s.down, over: make(chan struct{}), done: make(chan struct{})}
	run := f.takes
	if name == "up" {
		f.pulse, run = &s.up, f.gives
	}
	s.work.Go(func() {
		err := s.through(f, run)
		s.hub.tell(func() { f.err = err; close(f.done) })
	})
	return f
}

// through runs a flow on a connection through the proxy.
func (s *site) through(f *flow, run func(*net.TCPConn, *hub) error) error {
	conn, err := s.w.Buyer.DialContext(s.ctx, "tcp", socksAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	if _, err := negotiate(conn, 1, s.lasting.Addr()); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, f.name); err != nil {
		return err
	}
	return run(conn.(*net.TCPConn), s.hub)
}

func (f *flow) takes(c *net.TCPConn, h *hub) (err error) {
	var ending sync.WaitGroup
	defer ending.Wait()
	ended := make(chan struct{})
	defer close(ended)
	ending.Go(func() {
		select {
		case <-f.over:
			_ = c.CloseWrite() // it may have ended by itself
		case <-ended:
		}
	})
	f.n, err = checkAll(c, func(n int) {
		f.pulse.beat(n)
		h.carried(n)
	})
	return err
}

func (f *flow) gives(c *net.TCPConn, _ *hub) error {
	for ended := false; !ended; {
		select {
		case <-f.over:
			ended = true
		default:
			n, err := c.Write(block)
			f.n += uint64(n)
			if err != nil {
				return err
			}
		}
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if want := fmt.Sprintln(f.n); err == nil && string(answer) != want {
		err = fmt.Errorf("%w: %q of %s", errContent, answer, want)
	}
	return err
}

// ended is whether it has. It is asked within reach, or after that.
func (f *flow) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}
