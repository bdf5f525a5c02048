package facilitator

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// says returns a client of a server that sends these bytes in answer to every
// request, and hangs up.
func says(t *testing.T, answer string) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for conn, err := ln.Accept(); err == nil; conn, err = ln.Accept() {
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.Copy(io.Discard, req.Body)
				io.WriteString(conn, answer)
			}
			conn.Close()
		}
	})
	c, err := NewDirect("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDirectAnswers: whatever a server sends, it is an answer or none.
func TestDirectAnswers(t *testing.T) {
	const yes = `{"success":true,"transaction":"0x1","network":"eip155:5"}`
	full := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(yes), yes)
	for name, tt := range map[string]struct{ answer, want string }{
		"length":         {full, ""},
		"to the end":     {"HTTP/1.1 200 OK\r\n\r\n" + yes, ""},
		"old":            {"HTTP/1.0 200 OK\r\n\r\n" + yes, ""},
		"chunked":        {fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(yes), yes), ""},
		"interim":        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + full, ""},
		"interim alone":  {"HTTP/1.1 100 Continue\r\n\r\n", "ended before the answer"},
		"interim always": {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50_000), "too long"},
		"switching":      {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101"},
		"nothing":        {"", "ended before the answer"},
		"half a header":  {"HTTP/1.1 200 OK\r\nContent-Le", "ended before"},
		"header no end":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20), "too long"},
		"too short":      {full[:len(full)-1], "unexpected EOF"},
		"no http":        {"SSH-2.0-OpenSSH\r\n\r\n", "malformed HTTP"},
		"too long":       {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat(" ", 2<<20) + yes, "nonsense"},
		"large chunk":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n7fffffffffffffff\r\n" + strings.Repeat(" ", 2<<20), "nonsense"},
		"many chunks":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\n \r\n", 1<<20), "too long"},
		"large number":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8000000000000000\r\n", "malformed HTTP chunk"},
		"chunk no end":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n", "malformed HTTP chunk"},
		"half a chunk":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{", "unexpected EOF"},
		"chunks, length": {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5; a=b\r\n%s\r\n%x\r\n%s\r\n0\r\nX: y\r\n\r\n", yes[:5], len(yes)-5, yes[5:]), ""},
		"gzip":           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "not supported"},
		"chunked twice":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "not supported"},
		"old chunks":     {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "not supported"},
		"two lengths":    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "malformed HTTP length"},
		"one length":     {"HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(yes)) + "\r\ncontent-length:" + fmt.Sprint(len(yes)) + "\r\n\r\n" + yes, ""},
		"no number":      {"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}", "malformed HTTP length"},
		"long length":    {"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n" + strings.Repeat(" ", 2<<20), "nonsense"},
		"folded":         {"HTTP/1.1 200 OK\r\nX: y\r\n z: y\r\n\r\n" + yes, "malformed HTTP field"},
		"no colon":       {"HTTP/1.1 200 OK\r\nX\r\n\r\n" + yes, "malformed HTTP field"},
		"space of name":  {"HTTP/1.1 200 OK\r\nX : y\r\n\r\n" + yes, "malformed HTTP field"},
		"other version":  {"HTTP/2.0 200 OK\r\n\r\n" + yes, "malformed HTTP"},
		"status of 4":    {"HTTP/1.1 2000 OK\r\n\r\n" + yes, "malformed HTTP"},
		"status below":   {"HTTP/1.1 099 OK\r\n\r\n" + yes, "malformed HTTP"},
		"bare":           {"HTTP/1.1 200\n\n" + yes, ""},
		"no content":     {"HTTP/1.1 204 No Content\r\n\r\n", "status 204"},
		"moved":          {"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://www.f.test/settle\r\nContent-Length: 0\r\n\r\n", `has moved to "https://www.f.test/settle"`},
	} {
		_, err := says(t, tt.answer).SettleReceiver(t.Context(), "eip155:5", channel.Address{1}, channel.Address{2})
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// TestDirectHangs: neither a silent server nor one that trickles holds a call
// up, nor one whose caller has left.
func TestDirectHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer server.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for tick := time.NewTicker(time.Second); ; <-tick.C {
				if _, err := io.WriteString(server, "H"); err != nil {
					return
				}
			}
		})
		wg.Go(func() { io.Copy(io.Discard, server) })
		start := time.Now()
		_, err := exchange(client, []byte("GET / HTTP/1.1\r\n\r\n"))
		if got := time.Since(start); err == nil || got != callTime {
			t.Errorf("after %v: %v", got, err)
		}
		client.Close()
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := NewDirect("http://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Supported(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.HasSuffix(err.Error(), "/supported: no answer in time") {
		t.Errorf("the caller left: %v", err)
	}
}

// TestDirectTLS: the server's name is checked, and a second call resumes.
func TestDirectTLS(t *testing.T) {
	var resumed []bool
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.TLS.DidResume)
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Content-Type") != "application/json" || len(b) == 0 || r.ContentLength != int64(len(b)) {
			t.Errorf("body %d, %v", len(b), err)
		}
		io.WriteString(w, `{"success":true,"transaction":"0x1","network":"eip155:5"}`)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	call := func(c *Client) error {
		_, err := c.SettleReceiver(t.Context(), "eip155:5", channel.Address{1}, channel.Address{2})
		return err
	}
	c, err := NewDirect(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := call(c); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
	d := newDirect()
	d.tls.RootCAs = x509.NewCertPool()
	d.tls.RootCAs.AddCert(srv.Certificate())
	c.via = d
	for range 2 {
		if err := call(c); err != nil {
			t.Fatal(err)
		}
	}
	if len(resumed) != 2 || resumed[0] || !resumed[1] {
		t.Errorf("resumed: %v", resumed)
	}
	c.base = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	if err := call(c); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another name: %v", err)
	}
}

// FuzzDirect: no bytes of a server make the client panic or hang.
func FuzzDirect(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		client, server := net.Pipe()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
				server.Write(answer)
			}
			server.Close()
		})
		defer client.Close()
		a, err := exchange(client, requestText("GET", &url.URL{Host: "f.test", Path: "/"}, nil))
		if err == nil && (len(a.Body) > x402.MaxBody+1 || a.Status < 101 || a.Status > 999) {
			t.Errorf("status %d, %d bytes", a.Status, len(a.Body))
		}
	})
}
