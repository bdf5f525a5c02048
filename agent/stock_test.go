package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/http3"
	"golang.org/x/net/websocket"

	"github.com/depinsim/x402/agent/buyer"
)

// tool returns a program's path. Without it the test is skipped, except where
// everything must run.
func tool(t *testing.T, program string) string {
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

// curl runs curl and returns what it printed and its exit code.
func curl(t *testing.T, args ...string) (out, complaint string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "curl"), append([]string{"-q", "-sS", "--max-time", "60"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // no proxy of the machine's
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		code = exit.ExitCode()
	}
	return stdout.String(), stderr.String(), code
}

// secureWeb is a server with a certificate for example.com, and the file of
// who signed that.
func secureWeb(t *testing.T, h http.Handler) (s *httptest.Server, at, ca string) {
	t.Helper()
	s = httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, "example.com:" + port(s.Listener.Addr()), ca
}

func port(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

func TestCurl(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := "http://example.com:" + port(web(t).Listener.Addr())
	_, at, ca := secureWeb(t, http.HandlerFunc(pages))
	const n = 700_000
	text := string(must(io.ReadAll(io.LimitReader(page(), n))))
	file := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := m.buy(nil)
	socks, viaHTTP := []string{"--socks5-hostname", p.socks}, []string{"-x", "http://" + p.http}
	for name, tt := range map[string]struct {
		proxy, args []string
		want        string
	}{
		"SOCKS5":                  {socks, []string{site + "/700000"}, text},
		"SOCKS5, TLS":             {socks, []string{"--cacert", ca, "https://" + at + "/700000"}, text},
		"SOCKS5, up":              {socks, []string{"-T", file, site + "/"}, "700000"},
		"CONNECT, TLS":            {viaHTTP, []string{"--cacert", ca, "https://" + at + "/700000"}, text},
		"CONNECT, HTTP/2":         {viaHTTP, []string{"--http2", "--cacert", ca, "https://" + at + "/700000"}, text},
		"CONNECT, up":             {viaHTTP, []string{"--cacert", ca, "-T", file, "https://" + at + "/"}, "700000"},
		"CONNECT, plain":          {viaHTTP, []string{"--proxytunnel", site + "/700000"}, text},
		"absolute-form":           {viaHTTP, []string{site + "/700000"}, text},
		"absolute-form, up":       {viaHTTP, []string{"-T", file, site + "/"}, "700000"},
		"absolute-form, expect":   {viaHTTP, []string{"-H", "Expect: 100-continue", "-T", file, site + "/"}, "700000"},
		"absolute-form, two":      {viaHTTP, []string{site + "/3", site + "/3"}, text[:3] + text[:3]},
		"absolute-form, HTTP/1.0": {viaHTTP, []string{"-0", site + "/700000"}, text},
		"nothing":                 {socks, []string{site + "/0"}, ""},
	} {
		if got, complaint, code := curl(t, append(tt.proxy, tt.args...)...); got != tt.want || code != 0 {
			t.Errorf("%s: got %d bytes, exit code %d: %s", name, len(got), code, complaint)
		}
	}
	p.stop(t)
	m.settled(p)
}

// TestRefusedTargets asks for what the agent's policy or its resolver refuses.
func TestRefusedTargets(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	tool(t, "curl")
	ln := listen(t)
	closed := ln.Addr().String()
	ln.Close()

	p := m.buy(func(c *buyer.Config) { c.Proxy.Strict = true })
	for target, tt := range map[string]struct {
		reply, page string // of SOCKS5 (RFC 1928 section 6) and of HTTP
	}{
		"10.0.0.1":           {"(2)", "does not allow"},
		"192.168.1.1":        {"(2)", "does not allow"},
		"169.254.169.254":    {"(2)", "does not allow"},
		"[::1]":              {"(2)", "does not allow"},
		"[::ffff:10.0.0.1]":  {"(2)", "does not allow"},
		"inside.test":        {"(2)", "does not allow"},
		"127.0.0.1:25":       {"(2)", "does not allow"},
		"nowhere.test":       {"(4)", "name was not found"},
		"no.such.name.at.al": {"(4)", "name was not found"},
		closed:               {"(5)", "Nothing listens"},
	} {
		_, complaint, code := curl(t, "-g", "--socks5-hostname", p.socks, "http://"+target+"/")
		if code != 97 || !strings.Contains(complaint, tt.reply) { // CURLE_PROXY
			t.Errorf("%s: SOCKS5: exit code %d: %s", target, code, complaint)
		}
		_, complaint, code = curl(t, "-g", "--proxytunnel", "-x", "http://"+p.http, "http://"+target+"/")
		if code != 56 || !strings.Contains(complaint, " 502") { // CURLE_RECV_ERROR
			t.Errorf("%s: CONNECT: exit code %d: %s", target, code, complaint)
		}
		refusedPage(t, p, target, tt.page)
	}
	p.stop(t)
	m.settled(p)
	if p.result.Signed != 0 {
		t.Errorf("paid %d for nothing", p.result.Signed)
	}

	// The optimistic way has told the program that it is connected: all that is
	// left is a reset. The same channel is used, which was refunded in full.
	p = m.buy(nil)
	for _, args := range [][]string{
		{"--socks5-hostname", p.socks, "http://inside.test/"},
		{"--socks5-hostname", p.socks, "https://nowhere.test/"},
		{"-x", "http://" + p.http, "https://inside.test/"},
	} {
		// Which of curl's calls meets it is up to the timing.
		if out, complaint, code := curl(t, args...); code == 0 || code == 28 || complaint == "" { // CURLE_OPERATION_TIMEDOUT
			t.Errorf("%v: exit code %d: %s%s", args, code, out, complaint)
		}
	}
	refusedPage(t, p, "inside.test", "does not allow")
	refusedPage(t, p, "nowhere.test", "name was not found")
	fetch(t, p.through(), web(t).URL+"/1000", 1000)
	p.stop(t)
	m.settled(p)
}

func refusedPage(t *testing.T, p *purchase, target, want string) {
	t.Helper()
	page, complaint, code := curl(t, "-g", "-i", "-x", "http://"+p.http, "http://"+target+"/")
	if code != 0 || !strings.HasPrefix(page, "HTTP/1.1 502 ") || !strings.Contains(page, want) || !strings.Contains(page, "Proxy-Status: ") {
		t.Errorf("%s: absolute-form: exit code %d: %s%s", target, code, page, complaint)
	}
}

// dial connects to host:port through the purchase's SOCKS5 proxy, by hand, so
// that nothing stands between the test and the connection.
func (p *purchase) dial(t *testing.T, target string) *net.TCPConn {
	t.Helper()
	c, err := dialSOCKS(p.socks, target)
	return kept(t, c, err)
}

// connect is dial through the HTTP proxy.
func (p *purchase) connect(t *testing.T, target string) *net.TCPConn {
	t.Helper()
	c, err := dialCONNECT(p.http, target)
	return kept(t, c, err)
}

// kept is c, which ends with the test.
func kept(t *testing.T, c *net.TCPConn, err error) *net.TCPConn {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialSOCKS(proxy, target string) (*net.TCPConn, error) {
	c, answer, err := askSOCKS(proxy, 1, wireAddress(target))
	if err == nil && answer[1] != 0 {
		err = errors.Join(fmt.Errorf("SOCKS5 reply %d", answer[1]), c.Close())
	}
	return c, err
}

// askSOCKS sends a request without a password (RFC 1928 sections 3 and 4).
func askSOCKS(proxy string, command byte, address []byte) (c *net.TCPConn, answer [10]byte, err error) {
	if c, err = dialTCP(proxy); err != nil {
		return nil, answer, err
	}
	var method [2]byte
	_, err1 := c.Write([]byte{5, 1, 0})
	_, err2 := io.ReadFull(c, method[:])
	_, err3 := c.Write(append([]byte{5, command, 0}, address...))
	_, err4 := io.ReadFull(c, answer[:])
	if err = errors.Join(err1, err2, err3, err4); err != nil {
		err = errors.Join(err, c.Close())
	}
	return c, answer, err
}

func dialCONNECT(proxy, target string) (*net.TCPConn, error) {
	c, err := dialTCP(proxy)
	if err != nil {
		return nil, err
	}
	const want = "HTTP/1.1 200 OK\r\n\r\n"
	got := make([]byte, len(want))
	_, err1 := io.WriteString(c, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
	_, err2 := io.ReadFull(c, got)
	if err = errors.Join(err1, err2); err == nil && string(got) != want {
		err = fmt.Errorf("answer %q", got)
	}
	if err != nil {
		err = errors.Join(err, c.Close())
	}
	return c, err
}

func dialTCP(addr string) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// wireAddress is a target as a name, by RFC 1928 section 5.
func wireAddress(target string) []byte {
	host, port, _ := net.SplitHostPort(target)
	n, _ := strconv.Atoi(port)
	return append(append([]byte{3, byte(len(host))}, host...), byte(n>>8), byte(n))
}

func expect(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// An absolute connection makes the first request one in absolute-form, as a
// browser's to a proxy.
type absolute struct {
	net.Conn
	host string
	once sync.Once
}

func (a *absolute) Write(b []byte) (int, error) {
	n := len(b)
	a.once.Do(func() { b = bytes.Replace(b, []byte("GET /"), []byte("GET http://"+a.host+"/"), 1) })
	_, err := a.Conn.Write(b)
	return n, err
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	s := httptest.NewServer(websocket.Handler(func(c *websocket.Conn) {
		for {
			var b []byte
			if websocket.Message.Receive(c, &b) != nil || websocket.Message.Send(c, b) != nil {
				return
			}
		}
	}))
	defer s.Close()
	target := "example.com:" + port(s.Listener.Addr())
	p := m.buy(nil)
	plain, err := dialTCP(p.http)
	for name, conn := range map[string]net.Conn{
		"SOCKS5":        p.dial(t, target),
		"CONNECT":       p.connect(t, target),
		"absolute-form": &absolute{Conn: kept(t, plain, err), host: target},
	} {
		c, err := websocket.NewClient(must(websocket.NewConfig("ws://"+target+"/chat", "http://"+target+"/")), conn)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, n := range []int{0, 1, 125, 126, 5000, 65536, 300_000} {
			sent := must(io.ReadAll(io.LimitReader(page(), int64(n))))
			var got []byte
			if err := errors.Join(websocket.Message.Send(c, sent), websocket.Message.Receive(c, &got)); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%s: a message of %d bytes came back with %d: %v", name, n, len(got), err)
			}
		}
		c.Close()
	}
	p.stop(t)
	m.settled(p)
}

// An associated socket sends and receives UDP by a UDP ASSOCIATE (RFC 1928
// section 7). Addresses are targets by name.
type associated struct {
	net.PacketConn
	control net.Conn
	relay   net.Addr
}

type target string

func (target) Network() string  { return "udp" }
func (a target) String() string { return string(a) }

// associate asks the purchase's SOCKS5 proxy for an association.
func (p *purchase) associate(t *testing.T) *associated {
	t.Helper()
	a, err := associate(p.socks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.end)
	return a
}

func associate(proxy string) (*associated, error) {
	c, answer, err := askSOCKS(proxy, 3, []byte{1, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return nil, err
	}
	if answer[1] != 0 || answer[3] != 1 {
		return nil, errors.Join(fmt.Errorf("SOCKS5 answer %v", answer), c.Close())
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &associated{socket, c, &net.UDPAddr{IP: answer[4:8], Port: int(answer[8])<<8 | int(answer[9])}}, nil
}

// end may be called again.
func (a *associated) end() {
	a.control.Close()
	a.PacketConn.Close()
}

func (a *associated) WriteTo(b []byte, to net.Addr) (int, error) {
	head := append([]byte{0, 0, 0}, wireAddress(to.String())...)
	_, err := a.PacketConn.WriteTo(append(head, b...), a.relay)
	return len(b), err
}

func (a *associated) ReadFrom(b []byte) (int, net.Addr, error) {
	buf := make([]byte, 1<<16)
	n, _, err := a.PacketConn.ReadFrom(buf)
	if err != nil {
		return 0, nil, err
	}
	buf = buf[:n]
	if n < 7 || buf[3] != 3 || n < 7+int(buf[4]) {
		return 0, nil, fmt.Errorf("datagram %.20x", buf)
	}
	host, rest := string(buf[5:5+buf[4]]), buf[5+buf[4]:]
	from := net.JoinHostPort(host, strconv.Itoa(int(rest[0])<<8|int(rest[1])))
	return copy(b, rest[2:]), target(from), nil
}

func TestHTTP3(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	s, _, _ := secureWeb(t, http.HandlerFunc(pages))
	socket := listenUDP(t)
	h3 := &http3.Server{Handler: http.HandlerFunc(pages), TLSConfig: http3.ConfigureTLSConfig(s.TLS.Clone())}
	serving := start(func(context.Context) error { return h3.Serve(socket) })
	defer func() {
		h3.Close()
		<-serving.done
	}()
	site := "https://example.com:" + port(socket.LocalAddr())

	p := m.buy(nil)
	udp := p.associate(t)
	client := &quicgo.Transport{Conn: udp}
	rt := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs},
		Dial: func(ctx context.Context, addr string, tc *tls.Config, qc *quicgo.Config) (*quicgo.Conn, error) {
			return client.DialEarly(ctx, target(addr), tc, qc)
		},
	}
	c := &http.Client{Transport: rt}
	fetch(t, c, site+"/2000000", 2_000_000)
	upload(t, c, site+"/", 1_000_000)
	rt.Close()
	client.Close()
	p.stop(t)
	if r := p.result; r.Down < 2_000_000 || r.Up < 1_000_000 {
		t.Errorf("result %+v", r)
	}
	m.settled(p)
}

// An echo is a UDP server that sends back what it gets.
type echo struct {
	socket net.PacketConn
	got    atomic.Uint64 // bytes, and 28 a datagram
	*running
}

func newEcho(t *testing.T) *echo {
	e := &echo{socket: listenUDP(t)}
	e.running = start(func(context.Context) error {
		b := make([]byte, 1<<16)
		for {
			n, from, err := e.socket.ReadFrom(b)
			if err != nil {
				return nil // closed
			}
			e.got.Add(uint64(n) + 28)
			if _, err := e.socket.WriteTo(b[:n], from); err != nil {
				return err
			}
		}
	})
	t.Cleanup(func() {
		e.socket.Close()
		<-e.done
	})
	return e
}

// TestUDPEcho is with datagrams that fit a packet of the tunnel and with such
// that do not. Datagrams may get lost, and then are sent again; those that
// came are counted to the byte.
func TestUDPEcho(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	e := newEcho(t)
	p := m.buy(nil)
	udp := p.associate(t)
	to := target("example.com:" + port(e.socket.LocalAddr()))
	var got uint64
	for range 40 {
		for _, n := range []int{1100, 5000, 0, 1, 1472, 60_000} {
			got += udp.roundTrip(t, n, to)
		}
	}
	udp.end()
	p.stop(t)
	if r := p.result; r.Up != e.got.Load() || r.Down != got {
		t.Errorf("%d up and %d down were counted, %d and %d came", r.Up, r.Down, e.got.Load(), got)
	}
	m.settled(p)
}

// roundTrip sends n bytes until they come back and returns what came.
func (a *associated) roundTrip(t *testing.T, n int, to net.Addr) (got uint64) {
	t.Helper()
	sent := must(io.ReadAll(io.LimitReader(page(), int64(n))))
	buf := make([]byte, 1<<16)
	for range 10 {
		if _, err := a.WriteTo(sent, to); err != nil {
			t.Fatal(err)
		}
		a.SetReadDeadline(time.Now().Add(15 * time.Second))
		for {
			k, from, err := a.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // lost
			}
			if err != nil || from != to {
				t.Fatalf("a datagram of %d bytes from %v: %v", k, from, err)
			}
			got += uint64(k) + 28
			if bytes.Equal(buf[:k], sent) {
				return got
			}
		}
	}
	t.Fatalf("datagrams of %d bytes do not come back", n)
	return got
}

// TestGitClone clones from git's own server side, over HTTPS.
func TestGitClone(t *testing.T) {
	t.Parallel()
	git := tool(t, "git")
	dir := t.TempDir()
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@test", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@test",
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), git, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	backend := filepath.Join(run("--exec-path"), "git-http-backend")
	repo := filepath.Join(dir, "repo")
	run("init", "-q", repo)
	if err := os.WriteFile(filepath.Join(repo, "page"), must(io.ReadAll(io.LimitReader(page(), 1_000_000))), 0o600); err != nil {
		t.Fatal(err)
	}
	run("-C", repo, "add", "page")
	run("-C", repo, "commit", "-q", "-m", "page")
	head := run("-C", repo, "rev-parse", "HEAD")

	_, at, ca := secureWeb(t, &cgi.Handler{
		Path: backend, Dir: dir,
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1"},
	})
	m := newMarket(t)
	p := m.buy(nil)
	for name, proxy := range map[string]string{"socks": "socks5h://" + p.socks, "http": "http://" + p.http} {
		clone := filepath.Join(dir, name)
		run("-c", "http.proxy="+proxy, "-c", "http.sslCAInfo="+ca, "clone", "-q", "https://"+at+"/repo/.git", clone)
		if got := run("-C", clone, "rev-parse", "HEAD"); got != head {
			t.Errorf("%s: cloned %s, want %s", name, got, head)
		}
		run("-C", clone, "fsck", "--strict")
	}
	p.stop(t)
	if p.result.Down < 2_000_000 {
		t.Errorf("result %+v", p.result)
	}
	m.settled(p)
}

// TestParallelDownloads has 200 downloads begin before the first may end.
func TestParallelDownloads(t *testing.T) {
	t.Parallel()
	const n, size = 200, 100_000
	m := newMarket(t)
	var all sync.WaitGroup
	all.Add(n)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait()
		pages(w, r)
	}))
	defer s.Close()
	p := m.buy(nil)
	viaHTTP := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: p.http}), DisableKeepAlives: true,
	}}
	var wg sync.WaitGroup
	for i := range n {
		c := p.through()
		if i%2 == 1 {
			c = viaHTTP
		}
		wg.Go(func() {
			res, err := c.Get(s.URL + "/" + strconv.Itoa(size))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
				t.Errorf("fetched %d bytes: %v", n, err)
			}
		})
	}
	wg.Wait()
	p.stop(t)
	m.settled(p)
}
