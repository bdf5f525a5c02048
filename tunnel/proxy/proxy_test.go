package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A testTunnel is a Tunnel whose far end is this process: it knows names that
// no resolver knows, and remembers what it was asked for.
type testTunnel struct {
	names map[string]string // host:port asked for → address dialled
	tcp   func(host string, port uint16) (net.Conn, error)
	udp   func(host string, port uint16) (net.Conn, error)

	mu    sync.Mutex
	asked []string
}

func (tt *testTunnel) note(host string, port uint16) string {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	asked := net.JoinHostPort(host, strconv.Itoa(int(port)))
	tt.asked = append(tt.asked, asked)
	return asked
}

func (tt *testTunnel) requests() []string {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return append([]string(nil), tt.asked...)
}

func (tt *testTunnel) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	asked := tt.note(host, port)
	if tt.tcp != nil {
		return tt.tcp(host, port)
	}
	return tt.dial(ctx, "tcp", asked)
}

func (tt *testTunnel) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	asked := tt.note(host, port)
	if tt.udp != nil {
		return tt.udp(host, port)
	}
	return tt.dial(ctx, "udp", asked)
}

func (tt *testTunnel) dial(ctx context.Context, network, asked string) (net.Conn, error) {
	to, ok := tt.names[asked]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: asked, IsNotFound: true}
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// A memFlow is one end of a flow in memory, with half-close.
type memFlow struct {
	net.Conn // for the methods that nobody calls
	r        *io.PipeReader
	w        *io.PipeWriter
	answer   error // of Established
}

// newFlow returns both ends of a flow: the proxy's and the target's.
func newFlow() (flow, far *memFlow) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &memFlow{r: r1, w: w2}, &memFlow{r: r2, w: w1}
}

// refusedFlow is what an optimistic tunnel returns before it knows better.
func refusedFlow(err error) *memFlow {
	flow, far := newFlow()
	flow.answer = err
	far.fail(err)
	return flow
}

func (f *memFlow) Read(b []byte) (int, error)            { return f.r.Read(b) }
func (f *memFlow) Write(b []byte) (int, error)           { return f.w.Write(b) }
func (f *memFlow) CloseWrite() error                     { return f.w.Close() }
func (f *memFlow) Established(ctx context.Context) error { return f.answer }
func (f *memFlow) SetDeadline(time.Time) error           { return nil }
func (f *memFlow) SetReadDeadline(time.Time) error       { return nil }
func (f *memFlow) SetWriteDeadline(time.Time) error      { return nil }
func (f *memFlow) LocalAddr() net.Addr                   { return &net.TCPAddr{} }
func (f *memFlow) RemoteAddr() net.Addr                  { return &net.TCPAddr{} }
func (f *memFlow) fail(err error)                        { f.r.CloseWithError(err); f.w.CloseWithError(err) }
func (f *memFlow) Close() error                          { f.fail(net.ErrClosed); return nil }

// A pipeListener hands out the far ends of pipes, for tests in simulated time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// dial returns a connection whose other end is accepted as a TCP connection.
func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- tcpLike{far}
	return near
}

// tcpLike is a pipe with the addresses of a TCP connection.
type tcpLike struct{ net.Conn }

func (tcpLike) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080} }
func (tcpLike) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000} }

type serveFunc func(context.Context, net.Listener, Config) error

// start serves on loopback until the test ends, and returns the address.
func start(t *testing.T, serve serveFunc, cfg Config) string {
	t.Helper()
	ln := listen(t)
	run(t, func(ctx context.Context) error { return serve(ctx, ln, cfg) })
	return ln.Addr().String()
}

// run runs f until the test ends, and fails the test if f does.
func run(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f(ctx); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// serveTCP calls handle for each connection to the address it returns.
func serveTCP(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	ln := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute)) // a hang fails the test
	return c.(*net.TCPConn)
}

func send(t *testing.T, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

// expect reads as many bytes as want has and compares.
func expect(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("read %x and %v, want %x", got[:n], err, want)
	}
	if string(got) != string(want) {
		t.Fatalf("read %x, want %x", got, want)
	}
}

// expectReset reads until the connection ends, which must be by a reset.
func expectReset(t *testing.T, r io.Reader) {
	t.Helper()
	if b, err := io.ReadAll(r); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %q and %v, want a reset", b, err)
	}
}

// lookPath returns the program's path. Without it the test is skipped, except
// where everything must run.
func lookPath(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		} else {
			t.Skip(err)
		}
	}
	return path
}

type blockedError struct{}

func (blockedError) Error() string   { return "blocked: private use" }
func (blockedError) Blocked() string { return "private use" }

type kindError string

func (e kindError) Error() string     { return string(e) }
func (e kindError) ErrorKind() string { return string(e) }

func TestCheckListener(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, tt := range []struct {
		addr net.Addr
		user string
		ok   bool
	}{
		{tcp("127.0.0.1:1080"), "", true},
		{tcp("127.8.9.10:1080"), "", true},
		{tcp("[::1]:1080"), "", true},
		{tcp("[::ffff:127.0.0.1]:1080"), "", true},
		{&net.UnixAddr{Name: "/run/x402/socks"}, "", true},
		{tcp("0.0.0.0:1080"), "", false},
		{tcp("[::]:1080"), "", false},
		{&net.TCPAddr{Port: 1080}, "", false},
		{tcp("192.168.1.2:1080"), "", false},
		{tcp("[fe80::1]:1080"), "", false},
		{tcp("192.168.1.2:1080"), "u", true},
	} {
		err := Config{User: tt.user}.CheckListener(tt.addr)
		if _, refused := errors.AsType[*OpenListenerError](err); refused == tt.ok {
			t.Errorf("%v with user %q: %v, want ok %v", tt.addr, tt.user, err, tt.ok)
		}
	}
}

func TestServeChecksConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no tunnel":        {},
		"user only":        {Tunnel: &testTunnel{}, User: "u"},
		"password only":    {Tunnel: &testTunnel{}, Password: "p"},
		"long user":        {Tunnel: &testTunnel{}, User: string(make([]byte, 256)), Password: "p"},
		"negative limit":   {Tunnel: &testTunnel{}, MaxConns: -1},
		"negative timeout": {Tunnel: &testTunnel{}, UDPIdle: -1},
	} {
		for _, serve := range []serveFunc{ServeSOCKS5, ServeHTTP} {
			ln := listen(t)
			if err := serve(t.Context(), ln, cfg); err == nil {
				t.Errorf("%s: served", name)
			}
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: listener left open: %v", name, err)
			}
		}
	}
}

func TestServeRefusesOpenListener(t *testing.T) {
	for _, serve := range []serveFunc{ServeSOCKS5, ServeHTTP} {
		ln, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		err = serve(t.Context(), ln, Config{Tunnel: &testTunnel{}})
		if _, ok := errors.AsType[*OpenListenerError](err); !ok {
			t.Errorf("got %v", err)
		}
	}
}

// A listener that fails ends Serve with its error, and nothing stays behind.
func TestServeListenerFails(t *testing.T) {
	for _, serve := range []serveFunc{ServeSOCKS5, ServeHTTP} {
		ln := listen(t)
		ln.Close()
		if err := serve(t.Context(), ln, Config{Tunnel: &testTunnel{}}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestErrorKind(t *testing.T) {
	for _, tt := range []struct {
		err    error
		kind   string
		reply  byte
		status int
	}{
		{syscall.ECONNREFUSED, "connection_refused", 5, 502},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}, "destination_ip_unroutable", 3, 502},
		{syscall.EHOSTUNREACH, "destination_unavailable", 4, 503},
		{context.DeadlineExceeded, "connection_timeout", 4, 504},
		{syscall.ETIMEDOUT, "connection_timeout", 4, 504},
		{&net.DNSError{IsNotFound: true}, "dns_error", 4, 502},
		{&net.DNSError{IsTimeout: true}, "dns_timeout", 4, 504},
		{blockedError{}, "destination_ip_prohibited", 2, 502},
		{errors.Join(io.EOF, blockedError{}), "destination_ip_prohibited", 2, 502},
		{net.ErrClosed, "proxy_internal_error", 1, 503},
		{io.EOF, "connection_terminated", 1, 502},
		{kindError("connection_limit_reached"), "connection_limit_reached", 1, 503},
		{kindError("destination_not_found"), "destination_not_found", 4, 500},
		{kindError("http_request_denied"), "http_request_denied", 2, 403},
		{kindError("tomorrows_kind"), "connection_terminated", 1, 502},
		{kindError(""), "connection_terminated", 1, 502},
	} {
		got := explain(tt.err)
		if got.kind != tt.kind || got.reply != tt.reply || got.status != tt.status {
			t.Errorf("%v: got %s, reply %d, status %d; want %s, %d, %d", tt.err, got.kind, got.reply, got.status, tt.kind, tt.reply, tt.status)
		}
	}
	got := proxyStatus("dns_error", "no \"such\"\nhost\\ é"+string(make([]byte, 300)))
	if want := `x402; error=dns_error; details="no  such  host"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		host, want string // want is empty for an error
	}{
		{"example.com", "example.com"},
		{"example.com.", "example.com."},
		{"EXAMPLE.com", "EXAMPLE.com"},
		{"_acme.example.com", "_acme.example.com"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"192.0.2.1", "192.0.2.1"},
		{"127.1", "127.1"}, // the far end judges spellings
		{"2001:db8::1", "2001:db8::1"},
		{"[2001:db8:0::1]", "2001:db8::1"},
		{"fe80::1%eth0", ""},
		{"", ""},
		{"a b", ""},
		{"a\x00b", ""},
		{"user@host", ""},
		{"host/path", ""},
		{"host:80", ""},
		{"\xff\xfe", ""},
		{string(make([]byte, 254)), ""},
	} {
		got, err := newTarget(tt.host, 80)
		if got.host != tt.want || (err == nil) == (tt.want == "") {
			t.Errorf("%q: got %q, %v; want %q", tt.host, got.host, err, tt.want)
		}
	}
	if _, err := newTarget("example.com", 0); err == nil {
		t.Error("port 0 accepted")
	}
	for _, tt := range []struct {
		authority string
		zero      uint16
		want      string
	}{
		{"example.com:443", 0, "example.com:443"},
		{"[2001:db8::1]:443", 0, "[2001:db8::1]:443"},
		{"example.com", 80, "example.com:80"},
		{"[2001:db8::1]", 80, "[2001:db8::1]:80"},
		{"example.com:", 80, "example.com:80"},
		{"example.com", 0, ""},
		{"example.com:", 0, ""},
		{"example.com:0", 80, ""},
		{"example.com:http", 80, ""},
		{"example.com:65536", 80, ""},
		{":80", 0, ""},
		{"", 80, ""},
	} {
		got, err := parseTarget(tt.authority, tt.zero)
		if err != nil && tt.want == "" {
			continue
		}
		if got.String() != tt.want || err != nil {
			t.Errorf("%q: got %q, %v; want %q", tt.authority, got, err, tt.want)
		}
	}
}
