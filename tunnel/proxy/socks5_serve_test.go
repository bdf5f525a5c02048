package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// connectRequest is greeting and request for a domain name, in one write as
// an optimistic client sends them.
func connectRequest(name string, port uint16) []byte {
	b := []byte{5, 1, 0, 5, 1, 0, 3, byte(len(name))}
	return append(append(b, name...), byte(port>>8), byte(port))
}

var connected = []byte{5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0}

func connectReply(code byte) []byte { return []byte{5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0} }

// echo sends back what comes, and the end when it comes.
func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

func TestSOCKS5PassesNameOn(t *testing.T) {
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": serveTCP(t, echo)}}
	c := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	send(t, c, append(connectRequest("shop.test", 80), "early "...))
	expect(t, c, connected)
	send(t, c, []byte("late"))
	expect(t, c, []byte("early late"))
	if got := tunnel.requests(); len(got) != 1 || got[0] != "shop.test:80" {
		t.Errorf("tunnel was asked for %q", got)
	}
}

func TestSOCKS5Reply(t *testing.T) {
	var refused error
	tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return refusedFlow(refused), nil }}
	addr := start(t, ServeSOCKS5, Config{Tunnel: tunnel, Strict: true})
	for _, tt := range []struct {
		err  error
		code byte
	}{
		{blockedError{}, replyNotAllowed},
		{syscall.ENETUNREACH, replyNetUnreachable},
		{syscall.EHOSTUNREACH, replyHostUnreachable},
		{syscall.ECONNREFUSED, replyRefused},
		{&net.DNSError{IsNotFound: true}, replyHostUnreachable},
		{kindError("connection_timeout"), replyHostUnreachable},
		{io.ErrUnexpectedEOF, replyFailure},
	} {
		refused = tt.err
		c := dial(t, addr)
		send(t, c, connectRequest("shop.test", 80))
		expect(t, c, connectReply(tt.code))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
	}
}

// Errors of the dial itself, such as a closed tunnel, are told in both modes.
func TestSOCKS5DialError(t *testing.T) {
	tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return nil, net.ErrClosed }}
	for _, strict := range []bool{false, true} {
		c := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel, Strict: strict}))
		send(t, c, connectRequest("shop.test", 80))
		expect(t, c, connectReply(replyFailure))
	}
}

func TestSOCKS5OptimisticRefusalResets(t *testing.T) {
	tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return refusedFlow(syscall.ECONNREFUSED), nil }}
	c := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	send(t, c, connectRequest("shop.test", 80))
	got := make([]byte, len(connected))
	if n, err := io.ReadFull(c, got); err != nil {
		if !errors.Is(err, syscall.ECONNRESET) { // the reset may overtake the answer
			t.Fatalf("read %x and %v", got[:n], err)
		}
		return
	}
	expectReset(t, c)
}

func TestSOCKS5BadRequests(t *testing.T) {
	addr := start(t, ServeSOCKS5, Config{Tunnel: &testTunnel{}})
	for name, tt := range map[string]struct{ in, want string }{
		"bind":              {"\x05\x01\x00\x05\x02\x00\x01\xc0\x00\x02\x01\x00\x50", "\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"},
		"address type":      {"\x05\x01\x00\x05\x01\x00\x09\xc0\x00\x02\x01\x00\x50", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"},
		"port 0":            {"\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x00", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		"name with a slash": {"\x05\x01\x00\x05\x01\x00\x03\x03a/b\x00\x50", "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"},
		"no method":         {"\x05\x01\x01", "\x05\xff"},
		"http":              {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ""},
		"socks4":            {"\x04\x01\x00\x50\xc0\x00\x02\x01u\x00", ""},
	} {
		c := dial(t, addr)
		send(t, c, []byte(tt.in))
		got, err := io.ReadAll(c)
		if string(got) != tt.want || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %x, %v; want %x", name, got, err, tt.want)
		}
	}
}

// answers holds what comes back for all that a client sends against what is wanted.
func answers(t *testing.T, addr string, wanted map[string]string) {
	t.Helper()
	for in, want := range wanted {
		c := dial(t, addr)
		send(t, c, []byte(in))
		c.CloseWrite()
		got, err := io.ReadAll(c)
		if string(got) != want || err != nil {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestSOCKS5Password(t *testing.T) {
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": serveTCP(t, echo)}}
	addr := start(t, ServeSOCKS5, Config{Tunnel: tunnel, User: "u", Password: "pw"})
	request := string(connectRequest("shop.test", 80)[3:])
	answers(t, addr, map[string]string{
		"\x05\x02\x00\x02\x01\x01u\x02pw" + request + "hi": "\x05\x02\x01\x00" + string(connected[2:]) + "hi",
		"\x05\x01\x02\x01\x01u\x02no":                      "\x05\x02\x01\x01",
		"\x05\x01\x02\x01\x01x\x02pw":                      "\x05\x02\x01\x01",
		"\x05\x01\x02\x01\x00\x00":                         "\x05\x02\x01\x01",
		"\x05\x01\x00":                                     "\x05\xff",
	})
}

func TestSOCKS5HalfClose(t *testing.T) {
	upload := make([]byte, 3<<20)
	rand.Read(upload)
	target := serveTCP(t, func(c *net.TCPConn) {
		// The answer begins only after the end of the request.
		got, err := io.ReadAll(c)
		fmt.Fprintf(c, "%v %v", string(got) == string(upload), err)
	})
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": target}}
	c := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	send(t, c, connectRequest("shop.test", 80))
	expect(t, c, connected)
	send(t, c, upload)
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "true <nil>" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSOCKS5HalfCloseByTarget(t *testing.T) {
	heard := make(chan string, 1)
	target := serveTCP(t, func(c *net.TCPConn) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		heard <- string(got)
	})
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": target}}
	c := dial(t, start(t, ServeSOCKS5, Config{Tunnel: tunnel}))
	send(t, c, connectRequest("shop.test", 80))
	expect(t, c, connected)
	if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	send(t, c, []byte("still here"))
	c.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("target heard %q", got)
	}
}

// A reset passes both ways.
func TestSOCKS5Reset(t *testing.T) {
	heard := make(chan error, 1)
	target := serveTCP(t, func(c *net.TCPConn) {
		var b [1]byte
		if io.ReadFull(c, b[:]); b[0] == 'r' {
			c.SetLinger(0)
			return
		}
		_, err := c.Read(b[:])
		heard <- err
	})
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": target}}
	addr := start(t, ServeSOCKS5, Config{Tunnel: tunnel})

	c := dial(t, addr)
	send(t, c, connectRequest("shop.test", 80))
	expect(t, c, connected)
	send(t, c, []byte("r"))
	expectReset(t, c)

	c = dial(t, addr)
	send(t, c, connectRequest("shop.test", 80))
	expect(t, c, connected)
	send(t, c, []byte("x"))
	c.SetLinger(0)
	c.Close()
	if err := <-heard; err == nil {
		t.Error("the target heard nothing")
	}
}

func TestSOCKS5MaxConns(t *testing.T) {
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": serveTCP(t, echo)}}
	addr := start(t, ServeSOCKS5, Config{Tunnel: tunnel, MaxConns: 1})
	first := dial(t, addr)
	send(t, first, connectRequest("shop.test", 80))
	expect(t, first, connected)
	if c, err := net.Dial("tcp", addr); err == nil { // the reset may overtake the connect
		expectReset(t, c.(*net.TCPConn))
		c.Close()
	}
	first.CloseWrite()
	if _, err := io.ReadAll(first); err != nil {
		t.Fatal(err)
	}
	// The place is free as soon as the relay has closed its end.
	for !placed(addr) {
	}
}

// placed says whether a connection to the proxy at addr gets a place.
func placed(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	if _, err := c.Write(connectRequest("shop.test", 80)); err != nil {
		return false
	}
	_, err = io.ReadFull(c, make([]byte, len(connected)))
	return err == nil
}

func TestSOCKS5ParallelFlows(t *testing.T) {
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": serveTCP(t, echo)}}
	addr := start(t, ServeSOCKS5, Config{Tunnel: tunnel})
	var wg sync.WaitGroup
	for i := range 200 {
		c := dial(t, addr)
		wg.Go(func() {
			want := make([]byte, 10_000+i)
			rand.Read(want)
			send(t, c, connectRequest("shop.test", 80))
			expect(t, c, connected)
			wg.Go(func() { c.Write(want); c.CloseWrite() })
			if got, err := io.ReadAll(c); string(got) != string(want) || err != nil {
				t.Errorf("flow %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

// Clients that dribble their handshake, or stop in it, lose the connection.
func TestSOCKS5SlowHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		run(t, func(ctx context.Context) error { return ServeSOCKS5(ctx, ln, Config{Tunnel: &testTunnel{}}) })
		for stop := range connectRequest("shop.test", 80) {
			c := ln.dial()
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, b := range connectRequest("shop.test", 80)[:stop] {
					time.Sleep(100 * time.Millisecond)
					c.Write([]byte{b})
				}
			})
			if _, err := io.ReadAll(c); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took != 10*time.Second {
				t.Errorf("%d bytes: closed after %v", stop, took)
			}
			wg.Wait()
		}
	})
}

func TestSOCKS5IdleConnectionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flow, far := newFlow()
		tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return flow, nil }}
		ln := newPipeListener()
		run(t, func(ctx context.Context) error { return ServeSOCKS5(ctx, ln, Config{Tunnel: tunnel}) })
		c := ln.dial()
		socksConnect(t, c, "shop.test", 80)
		time.Sleep(30 * time.Minute)
		send(t, c, []byte("question"))
		expect(t, far, []byte("question"))
		send(t, far, []byte("answer"))
		expect(t, c, []byte("answer"))
	})
}

// socksConnect goes through the handshake in the proxy's own pace, as a pipe
// holds nothing.
func socksConnect(t *testing.T, c net.Conn, name string, port uint16) {
	t.Helper()
	b := connectRequest(name, port)
	send(t, c, b[:3])
	expect(t, c, connected[:2])
	send(t, c, b[3:])
	expect(t, c, connected[2:])
}

// The far end that never answers costs DialTimeout in strict mode.
func TestSOCKS5StrictTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) {
			flow, _ := newFlow()
			return silentFlow{flow}, nil
		}}
		ln := newPipeListener()
		run(t, func(ctx context.Context) error {
			return ServeSOCKS5(ctx, ln, Config{Tunnel: tunnel, Strict: true})
		})
		c := ln.dial()
		b := connectRequest("shop.test", 80)
		send(t, c, b[:3])
		expect(t, c, connected[:2])
		send(t, c, b[3:])
		began := time.Now()
		expect(t, c, connectReply(replyHostUnreachable)[2:])
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("answered after %v", took)
		}
	})
}

// A silentFlow never hears from the far end.
type silentFlow struct{ *memFlow }

func (silentFlow) Established(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A tunnel that blocks in its dial is given up by DialTimeout too, and a flow
// that it made outlives that time.
func TestDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, err := Config{Tunnel: &testTunnel{}}.fill()
		if err != nil {
			t.Fatal(err)
		}
		g := &gate{cfg: cfg}
		_, _, err = g.dial(t.Context(), func(ctx context.Context, _ string, _ uint16) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, target{"shop.test", 80})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		var bound context.Context
		_, end, err := g.dial(t.Context(), func(ctx context.Context, _ string, _ uint16) (net.Conn, error) {
			bound = ctx
			return nil, nil
		}, target{"shop.test", 80})
		time.Sleep(time.Hour)
		if err != nil || bound.Err() != nil {
			t.Errorf("got %v, context %v", err, bound.Err())
		}
		end()
		if bound.Err() == nil {
			t.Error("end released nothing")
		}
	})
}

// Cancelling ends connections in every state; synctest sees that no goroutine
// is left.
func TestSOCKS5Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flow, far := newFlow()
		tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return flow, nil }}
		ln := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := ServeSOCKS5(ctx, ln, Config{Tunnel: tunnel}); err != nil {
				t.Error(err)
			}
		})
		quiet, busy := ln.dial(), ln.dial()
		socksConnect(t, busy, "shop.test", 80)
		synctest.Wait()
		cancel()
		wg.Wait()
		for name, r := range map[string]io.Reader{"in handshake": quiet, "connected": busy, "flow": far} {
			if b, err := io.ReadAll(r); len(b) > 0 || name == "flow" && !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: read %q, %v", name, b, err)
			}
		}
	})
}

func TestSOCKS5Curl(t *testing.T) {
	curl := lookPath(t, "curl")
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.Host)
	}))
	defer site.Close()
	tunnel := &testTunnel{names: map[string]string{"shop.test:80": site.Listener.Addr().String()}}
	addr := start(t, ServeSOCKS5, Config{Tunnel: tunnel, User: "u", Password: "pw"})
	got, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", "-x", "socks5h://u:pw@"+addr, "http://shop.test/").CombinedOutput()
	if string(got) != "GET shop.test" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	got, err = exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", "-x", "socks5h://u:wrong@"+addr, "http://shop.test/").CombinedOutput()
	if err == nil || !strings.Contains(string(got), "curl: (97)") {
		t.Errorf("wrong password: got %q, %v", got, err)
	}
}
