package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// site serves handler as http://shop.test through a tunnel of its own.
func site(t *testing.T, handler http.HandlerFunc) *testTunnel {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return &testTunnel{names: map[string]string{"shop.test:80": srv.Listener.Addr().String()}}
}

// client uses the proxy at addr.
func client(t *testing.T, addr string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Proxy:                 http.ProxyURL(&url.URL{Scheme: "http", Host: addr}),
		ExpectContinueTimeout: 20 * time.Second,
		DisableCompression:    true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// The target sees what the program sent, less the hop-by-hop fields.
func TestHTTPHeaders(t *testing.T) {
	var seen *http.Request
	tunnel := site(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		w.Header()["Content-Type"] = nil
		w.Header()["Date"] = nil
		w.Header().Set("Connection", "X-Private")
		w.Header().Set("X-Private", "hop")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-Kept", "end")
		io.WriteString(w, "<html>")
	})
	c := dial(t, start(t, ServeHTTP, Config{Tunnel: tunnel}))
	send(t, c, []byte("GET http://shop.test/a%2Fb?x=1;y=%zz HTTP/1.1\r\nHost: other.test\r\n"+
		"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic dTpw\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTE: gzip\r\n"+
		"X-Forwarded-For: 192.0.2.9\r\nAuthorization: Basic eDp5\r\nX-End: 1\r\n\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "<html>" || resp.Header.Get("X-Kept") != "end" {
		t.Errorf("got %q, %v", body, resp.Header)
	}
	for _, name := range []string{"X-Private", "Keep-Alive", "Date", "Content-Type", "Via"} {
		if v, ok := resp.Header[name]; ok {
			t.Errorf("answer has %s: %q", name, v)
		}
	}
	want := http.Header{"X-Forwarded-For": {"192.0.2.9"}, "Authorization": {"Basic eDp5"}, "X-End": {"1"}}
	if fmt.Sprint(seen.Header) != fmt.Sprint(want) {
		t.Errorf("target saw %v, want %v", seen.Header, want)
	}
	if seen.Host != "shop.test" || seen.RequestURI != "/a%2Fb?x=1;y=%zz" {
		t.Errorf("target saw host %q, URI %q", seen.Host, seen.RequestURI)
	}
}

func TestHTTPKeepAlive(t *testing.T) {
	tunnel := site(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	c := client(t, start(t, ServeHTTP, Config{Tunnel: tunnel}))
	for range 5 {
		if resp, body := get(t, c, "http://shop.test/"); resp.StatusCode != 200 || body == "" {
			t.Fatalf("got %s, %q", resp.Status, body)
		}
	}
	if got := tunnel.requests(); len(got) != 1 {
		t.Errorf("%d flows for five requests", len(got))
	}
}

func TestHTTPChunkedAndTrailers(t *testing.T) {
	tunnel := site(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%d %v %v %s", len(body), err, r.TransferEncoding, r.Trailer.Get("X-Count"))
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "42")
	})
	c := client(t, start(t, ServeHTTP, Config{Tunnel: tunnel}))
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://shop.test/", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Count": nil}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100 {
			w.Write(make([]byte, 1000))
		}
		req.Trailer.Set("X-Count", "100")
		w.Close()
	})
	resp, err := c.Do(req)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if string(body) != "100000 <nil> [chunked] 100" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
	if got := resp.Trailer.Get("X-Sum"); got != "42" {
		t.Errorf("trailer %q", got)
	}
}

// A slow answer passes as it comes.
func TestHTTPStreams(t *testing.T) {
	next := make(chan struct{})
	tunnel := site(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "line %d\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	resp, err := client(t, start(t, ServeHTTP, Config{Tunnel: tunnel})).Get("http://shop.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("line %d\n", i) || err != nil {
			t.Fatalf("got %q, %v", line, err)
		}
		next <- struct{}{}
	}
}

func TestHTTPExpectContinue(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		read := false
		tunnel := site(t, func(w http.ResponseWriter, r *http.Request) {
			if !wanted {
				http.Error(w, "too large", http.StatusRequestEntityTooLarge)
				return
			}
			io.Copy(w, r.Body)
		})
		c := client(t, start(t, ServeHTTP, Config{Tunnel: tunnel}))
		body := io.MultiReader(readFunc(func([]byte) (int, error) { read = true; return 0, io.EOF }), strings.NewReader("body"))
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://shop.test/", body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = 4
		req.Header.Set("Expect", "100-continue")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if wanted && string(got) != "body" || !wanted && resp.StatusCode != 413 || read != wanted {
			t.Errorf("wanted %v: got %s, %q, body sent %v", wanted, resp.Status, got, read)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

func TestHTTPConnect(t *testing.T) {
	for _, strict := range []bool{false, true} {
		tunnel := &testTunnel{names: map[string]string{"shop.test:443": serveTCP(t, echo)}}
		c := dial(t, start(t, ServeHTTP, Config{Tunnel: tunnel, Strict: strict}))
		send(t, c, []byte("CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\nearly "))
		expect(t, c, []byte("HTTP/1.1 200 OK\r\n\r\n"))
		send(t, c, []byte("late"))
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "early late" || err != nil {
			t.Errorf("strict %v: got %q, %v", strict, got, err)
		}
	}
}

func TestHTTPConnectOptimisticRefusalResets(t *testing.T) {
	tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return refusedFlow(syscall.ECONNREFUSED), nil }}
	c := dial(t, start(t, ServeHTTP, Config{Tunnel: tunnel}))
	send(t, c, []byte("CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n"))
	expectReset(t, c) // whether or not 200 came before
}

func TestHTTPRefusal(t *testing.T) {
	var refused error
	tunnel := &testTunnel{tcp: func(string, uint16) (net.Conn, error) { return refusedFlow(refused), nil }}
	strict := start(t, ServeHTTP, Config{Tunnel: tunnel, Strict: true})
	optimistic := start(t, ServeHTTP, Config{Tunnel: tunnel})
	for _, tt := range []struct {
		err    error
		status int
		kind   string
	}{
		{syscall.ECONNREFUSED, 502, "connection_refused"},
		{context.DeadlineExceeded, 504, "connection_timeout"},
		{&net.DNSError{Err: "no such host", Name: "shop.test", IsNotFound: true}, 502, "dns_error"},
		{blockedError{}, 502, "destination_ip_prohibited"},
		{kindError("connection_limit_reached"), 503, "connection_limit_reached"},
		{net.ErrClosed, 503, "proxy_internal_error"},
	} {
		refused = tt.err
		for name, request := range map[string]string{
			strict:       "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n",
			strict + " ": "GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n",
			optimistic:   "GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n",
		} {
			c := dial(t, strings.TrimSpace(name))
			send(t, c, []byte(request))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if status := resp.Header.Get("Proxy-Status"); resp.StatusCode != tt.status || !strings.HasPrefix(status, "x402; error="+tt.kind+";") {
				t.Errorf("%v: got %s, %q", tt.err, resp.Status, status)
			}
			if !strings.Contains(string(body), explain(tt.err).advice) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("%v: got %s %q", tt.err, resp.Header.Get("Content-Type"), body)
			}
		}
	}
}

func TestHTTPBadRequests(t *testing.T) {
	addr := start(t, ServeHTTP, Config{Tunnel: &testTunnel{}})
	for _, tt := range []struct {
		in     string
		status int
		text   string
	}{
		{"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400, "This is an HTTP proxy"},
		{"OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, "This is an HTTP proxy"},
		{"GET https://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, "through CONNECT only"},
		{"GET ftp://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 501, "not \"ftp\""},
		{"GET http://shop.test:0/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, "port 0"},
		{"GET http://sh_op~.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, "not a domain name"},
		{"GET http://[fe80::1%25eth0]/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, "zone"},
		{"CONNECT shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, "host:port"},
		{"CONNECT /path HTTP/1.1\r\nHost: shop.test:443\r\n\r\n", 400, "host:port"},
		{"CONNECT shop.test:http HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, ""},
		{"\x05\x01\x00\r\n\r\n", 400, ""},
		{"GET http://shop.test/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, ""},
		{"GET http://shop.test/ HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxRequestHeader) + "\r\n\r\n", 431, ""},
	} {
		c := dial(t, addr)
		send(t, c, []byte(tt.in))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%.60q: %v", tt.in, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.text) {
			t.Errorf("%.60q: got %s, %q; want %d, %q", tt.in, resp.Status, body, tt.status, tt.text)
		}
	}
}

func TestHTTPPassword(t *testing.T) {
	tunnel := site(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header) })
	addr := start(t, ServeHTTP, Config{Tunnel: tunnel, User: "u", Password: "pw"})
	for user, want := range map[string]int{"": 407, "u:pw@": 200, "u:no@": 407, "v:pw@": 407} {
		proxyURL, err := url.Parse("http://" + user + addr)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{Proxy: http.ProxyURL(proxyURL), DisableCompression: true}
		resp, body := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "http://shop.test/")
		if resp.StatusCode != want || strings.Contains(body, "Proxy") && want == 200 {
			t.Errorf("%q: got %s, %q", user, resp.Status, body)
		}
		if want == 407 && resp.Header.Get("Proxy-Authenticate") != `Basic realm="x402"` {
			t.Errorf("%q: got %v", user, resp.Header)
		}
		tr.CloseIdleConnections()
	}
}

// A target that breaks off in the middle of its answer does not look finished.
func TestHTTPTruncatedAnswer(t *testing.T) {
	tunnel := site(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := client(t, start(t, ServeHTTP, Config{Tunnel: tunnel})).Get("http://shop.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "half" || err == nil {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestHTTPSlowHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		run(t, func(ctx context.Context) error { return ServeHTTP(ctx, ln, Config{Tunnel: &testTunnel{}}) })
		for _, in := range []string{"", "GET http://shop.test/ HTTP/1.1\r\n", "GET http://shop.test/ HTTP/1.1\r\nX: "} {
			c := ln.dial()
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, b := range []byte(in) {
					time.Sleep(50 * time.Millisecond)
					c.Write([]byte{b})
				}
			})
			io.ReadAll(c)
			if took := time.Since(began); took > 11*time.Second {
				t.Errorf("%q: closed after %v", in, took)
			}
			wg.Wait()
		}
	})
}

// Cancelling ends requests and tunnels in every state; synctest sees that no
// goroutine is left.
func TestHTTPShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flow1, far1 := newFlow()
		flow2, far2 := newFlow()
		flows := map[string]net.Conn{"connect": flow1, "get": flow2}
		tunnel := &testTunnel{tcp: func(host string, _ uint16) (net.Conn, error) { return flows[host], nil }}
		ln := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := ServeHTTP(ctx, ln, Config{Tunnel: tunnel}); err != nil {
				t.Error(err)
			}
		})
		quiet, tunneled, asking := ln.dial(), ln.dial(), ln.dial()
		send(t, tunneled, []byte("CONNECT connect:443 HTTP/1.1\r\nHost: connect\r\n\r\n"))
		expect(t, tunneled, []byte("HTTP/1.1 200 OK\r\n\r\n"))
		send(t, asking, []byte("GET http://get/ HTTP/1.1\r\nHost: get\r\n\r\n"))
		if _, err := http.ReadRequest(bufio.NewReader(far2)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		for name, r := range map[string]io.Reader{"quiet": quiet, "tunnelled": tunneled, "asking": asking} {
			if b, err := io.ReadAll(r); len(b) > 0 {
				t.Errorf("%s: read %q, %v", name, b, err)
			}
		}
		for name, r := range map[string]io.Reader{"connect": far1, "get": far2} {
			if _, err := io.ReadAll(r); !errors.Is(err, net.ErrClosed) {
				t.Errorf("flow %s: %v", name, err)
			}
		}
	})
}
