package demo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/depinsim/x402/tunnel/proxy"
)

func TestContent(t *testing.T) {
	whole := make([]byte, 3*contentBlock+17)
	if _, err := (content{}).ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	for _, part := range [][2]int{{0, 1}, {1, contentBlock}, {contentBlock - 1, contentBlock + 1}, {5, len(whole)}, {len(whole) - 1, len(whole)}} {
		got := make([]byte, part[1]-part[0])
		if _, err := (content{}).ReadAt(got, int64(part[0])); err != nil || !bytes.Equal(got, whole[part[0]:part[1]]) {
			t.Errorf("%v differs, %v", part, err)
		}
	}
	if bytes.Equal(whole[:contentBlock], whole[contentBlock:2*contentBlock]) {
		t.Error("the blocks are the same")
	}
}

// serve runs an internet with a file of size bytes until the test ends.
func serve(t *testing.T, size int64, gated bool) *internet {
	t.Helper()
	n, err := newInternet(size, gated)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return n
}

// direct is a tunnel that ends here.
type direct struct{ net.Dialer }

func (d *direct) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}

func (d *direct) DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	return d.DialContext(ctx, "udp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}

// proxies serves SOCKS5 and HTTP until the test ends.
func proxies(t *testing.T) (socks, web string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	serve := func(run func(context.Context, net.Listener, proxy.Config) error) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := run(ctx, ln, proxy.Config{Tunnel: &direct{}}); err != nil {
				t.Error(err)
			}
		})
		return ln.Addr().String()
	}
	return serve(proxy.ServeSOCKS5), serve(proxy.ServeHTTP)
}

func TestFetchThroughProxies(t *testing.T) {
	n := serve(t, 1_000_001, false)
	socks, web := proxies(t)
	for i, url := range []string{"socks5h://" + socks, "http://" + web} {
		counted := int64(0)
		f := fetcher{name: url, proxy: url, url: n.url(i), half: n.halves[i], count: func(n int) { counted += int64(n) }}
		if err := f.run(t.Context()); err != nil {
			t.Error(err)
		}
		if counted != n.halves[i].size || f.resumed != 0 {
			t.Errorf("%d bytes counted, of %d, with %d breaks", counted, n.halves[i].size, f.resumed)
		}
	}
}

// TestGate checks that the rest of the file waits, also for one who comes back
// with a range, and that what was sent before comes at once.
func TestGate(t *testing.T) {
	n := serve(t, 100_000, true)
	for _, from := range []int64{0, 1000, 20_000} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url(0), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := io.CopyN(io.Discard, res.Body, 25_000-from); err != nil {
			t.Errorf("from %d: %d bytes, %v", from, m, err)
		}
		res.Body.Close()
	}
	res, err := http.Get(n.url(0))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 25_000); err != nil {
		t.Fatal(err)
	}
	n.open()
	if m, err := io.Copy(io.Discard, res.Body); m != 25_000 || err != nil {
		t.Errorf("%d bytes behind the gate, %v", m, err)
	}
}

// TestFetchResumes breaks every answer after a few bytes, and answers nothing
// at times.
func TestFetchResumes(t *testing.T) {
	n := serve(t, 300_000, false)
	requests := 0
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if requests%2 == 0 {
			http.Error(w, "no tunnel", http.StatusBadGateway)
			return
		}
		if requests < 6 {
			w = &brokenWriter{w, 40_000}
		}
		n.serve(w, r, 0)
	}))
	defer broken.Close()
	socks, _ := proxies(t)
	f := fetcher{name: "SOCKS5", proxy: "socks5h://" + socks, url: broken.URL, half: n.halves[0], count: func(int) {}}
	if err := f.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.resumed != 3 {
		t.Errorf("%d breaks", f.resumed)
	}
}

// A brokenWriter ends the connection after some bytes.
type brokenWriter struct {
	http.ResponseWriter
	left int
}

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(b)
}

// TestFetchRefusesOther checks that a wrong file is an error, and at once.
func TestFetchRefusesOther(t *testing.T) {
	n := serve(t, 2000, false)
	socks, _ := proxies(t)
	for name, answer := range map[string]http.HandlerFunc{
		"hash differs":         func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1000)) },
		"200 OK with 999":      func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 999)) },
		"404 Not Found with 0": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
	} {
		site := httptest.NewServer(answer)
		f := fetcher{name: "SOCKS5", proxy: "socks5h://" + socks, url: site.URL, half: n.halves[0], count: func(int) {}}
		if err := f.run(t.Context()); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(name, " differs")) {
			t.Errorf("%s: %v", name, err)
		}
		site.Close()
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	f := fetcher{name: "SOCKS5", proxy: "socks5h://" + socks, url: n.url(0), half: n.halves[0], count: func(int) {}}
	if err := f.run(ctx); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestEcho(t *testing.T) {
	n := serve(t, 0, false)
	socks, _ := proxies(t)
	if again, err := echo(t.Context(), socks, n.echo(), packetSizes()); err != nil || again != 0 {
		t.Errorf("%d sent again, %v", again, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := echo(ctx, socks, n.echo(), packetSizes()); err == nil {
		t.Error("echoed although cancelled")
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	if _, err := echo(t.Context(), nobody.Addr().String(), n.echo(), packetSizes()); err == nil {
		t.Error("echoed by nobody")
	}
}
