package quic_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/http3"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/quic"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// A bareBuyer is a QUIC connection to an agent that serves sessions, for
// writing onto it what no client of HTTP/3 would.
type bareBuyer struct {
	*quicgo.Conn
}

// withBare calls f with a connection in simulated time.
func withBare(t *testing.T, c quic.ListenConfig, f func(t *testing.T, b bareBuyer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, tunneltest.Path{Delay: 5 * time.Millisecond})
		c.Conn = l.server
		c.Key, _ = newKey(t)
		ln, err := quic.Listen(c)
		if err != nil {
			t.Fatal(err)
		}
		var targets tunneltest.Net
		targets.HandleTCP("echo.test:7", func(c *tunneltest.Conn) { io.Copy(c, c); c.CloseWrite() })
		targets.HandleUDP("echo.test:7", func(c net.Conn) {
			b := make([]byte, 1500)
			for n, err := c.Read(b); err == nil; n, err = c.Read(b) {
				c.Write(b[:n])
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, _, err := ln.Accept(context.Background())
				if err != nil {
					return
				}
				wg.Go(func() {
					s := tunnel.NewSession(conn, tunnel.Config{
						Dialer: &targets, UDPIdle: time.Minute,
						Plain: func(h tunnel.Header) (int, string, []byte) { return 200, "text/plain", []byte(h.Path) },
					})
					s.Admit(tunneltest.NewCounter(tunneltest.Plenty).Lanes())
					_ = s.Run()
				})
			}
		})
		tr := &quicgo.Transport{Conn: l.client}
		conn, err := tr.Dial(t.Context(), l.server.LocalAddr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, &quicgo.Config{EnableDatagrams: true})
		if err != nil {
			t.Fatal(err)
		}
		f(t, bareBuyer{Conn: conn})
		conn.CloseWithError(0x100, "")
		ln.Close()
		tr.Close()
		wg.Wait()
		targets.Wait()
		l.close(t)
	})
}

// ended says by which code the agent ended the connection, 0 if it did not.
func (b bareBuyer) ended() uint64 {
	if e, ok := errors.AsType[*quicgo.ApplicationError](context.Cause(b.Context())); ok && e.Remote {
		return uint64(e.ErrorCode)
	}
	return 0
}

// request sends bytes on a stream of their own.
func (b bareBuyer) request(t *testing.T, sent string, fin bool) *quicgo.Stream {
	t.Helper()
	str, err := b.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := str.Write([]byte(sent)); err != nil {
		t.Fatal(err)
	}
	if fin {
		str.Close()
	}
	return str
}

// heads in QPACK: the static table has :method CONNECT 15, GET 17, :scheme
// https 23, :path / 1, and :authority 0.
const (
	connectHead = "\x01\x10\x00\x00\xcf\x50\x0becho.test:7"
	getHead     = "\x01\x0a\x00\x00\xd1\xd7\xc1\x50\x03abc"
	headHead    = "\x01\x0a\x00\x00\xd2\xd7\xc1\x50\x03abc" // of a HEAD: 18
)

// TestHostileRequests sends what are no requests. Each is one of the stream or
// of the connection, and the next request of a connection that lives is served.
func TestHostileRequests(t *testing.T) {
	for name, row := range map[string]struct {
		sent   string
		fin    bool
		conn   uint64 // how the connection ends
		stream uint64 // how the stream ends
		answer string // what it begins with, where it ends in order
	}{
		"header of a gigabyte":  {"\x01\xbf\xff\xff\xff", false, 0, 0, "\x01\x09\x00\x00\x5f\x09"}, // 431
		"header of many fields": {"\x01\x43\xeb\x00\x00\xd1" + strings.Repeat("\xe9", 1000), false, 0, 0, "\x01"},
		"data before a header":  {"\x00\x01x", false, 0x105, 0, ""},
		"undecodable header":    {"\x01\x03\xff\xff\xff", false, 0x200, 0, ""},
		"half of a header":      {"\x01\x10\x00", true, 0x106, 0, ""},
		"nothing":               {"", true, 0, 0x10d, ""},
		"settings":              {"\x04\x00", false, 0x105, 0, ""},
		"a push":                {"\x05\x02\x00\x00", false, 0x105, 0, ""},
		"malformed":             {"\x01\x03\x00\x00\xd1", false, 0, 0x10e, ""},
		"header that stays out": {"\x01\x10", false, 0, 0x10b, ""},
		"unknown for ever":      {"\x21\xff\xff\xff\xff\xff\xff\xff\xff", false, 0, 0x10b, ""},
		"trailers of a CONNECT": {connectHead + "\x00\x01x\x01\x02\x00\x00", false, 0x105, 0, ""},
		"cut content":           {connectHead + "\x00\x02x", true, 0x106, 0, ""},
		"GET":                   {getHead, false, 0, 0, "\x01"},
		"HEAD":                  {headHead, true, 0, 0, "\x01"},
	} {
		t.Run(name, func(t *testing.T) {
			withBare(t, quic.ListenConfig{MaxStreams: 2}, func(t *testing.T, b bareBuyer) {
				for range 3 { // more than streams may be open
					str := b.request(t, row.sent, row.fin)
					str.SetReadDeadline(time.Now().Add(20 * time.Second))
					got, err := io.ReadAll(str)
					if row.conn != 0 {
						break
					}
					if s, _ := errors.AsType[*quicgo.StreamError](err); row.stream != 0 && (s == nil || uint64(s.ErrorCode) != row.stream || !s.Remote) {
						t.Errorf("the stream ended with %v, want %#x", err, row.stream)
					}
					if row.stream == 0 && (err != nil || !strings.HasPrefix(string(got), row.answer)) {
						t.Errorf("answered with %x, %v", got, err)
					}
					if name == "HEAD" && strings.Contains(string(got), "/") {
						t.Errorf("a HEAD got content: %x", got)
					}
					if !row.fin {
						str.SetWriteDeadline(time.Now().Add(time.Second))
						for err = nil; err == nil; _, err = str.Write(make([]byte, 1000)) {
						}
						if s, ok := errors.AsType[*quicgo.StreamError](err); !ok || !s.Remote {
							t.Errorf("the stream goes on: %v", err)
						}
					}
				}
				tunneltest.Pass(time.Second)
				if code := b.ended(); code != row.conn {
					t.Errorf("the connection ended with %#x, want %#x", code, row.conn)
				}
			})
		})
	}
}

// TestSlowHeads drips heads, byte by byte: no stream is held by one, and others
// are served meanwhile.
func TestSlowHeads(t *testing.T) {
	withBare(t, quic.ListenConfig{MaxStreams: 8}, func(t *testing.T, b bareBuyer) {
		start := time.Now()
		var slow [7]*quicgo.Stream
		for i := range slow {
			slow[i] = b.request(t, "\x21", false)
		}
		var took time.Duration
		for _, c := range []byte("\x14" + strings.Repeat("x", 20)) {
			tunneltest.Pass(time.Second)
			for _, str := range slow {
				if _, err := str.Write([]byte{c}); err != nil && took == 0 {
					took = time.Since(start)
				}
			}
			if got, err := io.ReadAll(b.request(t, getHead, true)); err != nil || !strings.HasSuffix(string(got), "\x00\x01/") {
				t.Fatalf("meanwhile: %q, %v", got, err)
			}
		}
		if took < 9*time.Second || took > 12*time.Second {
			t.Errorf("a slow head was given up after %v", took)
		}
		for range slow { // there is room again
			if got, err := io.ReadAll(b.request(t, connectHead+"\x00\x02hi", true)); err != nil || !strings.HasSuffix(string(got), "\x00\x02hi") {
				t.Fatalf("afterwards: %q, %v", got, err)
			}
		}
		if code := b.ended(); code != 0 {
			t.Errorf("the connection ended with %#x", code)
		}
	})
}

// TestHostileClientStreams opens streams in one direction as no client may (RFC
// 9114 §6.2, RFC 9204 §4.2), and some as clients do.
func TestHostileClientStreams(t *testing.T) {
	const settings = "\x00\x04\x00"
	for name, row := range map[string]struct {
		streams []string
		open    bool // streams stay open
		code    uint64
	}{
		"a push":              {[]string{settings, "\x01\x00"}, true, 0x103},
		"control twice":       {[]string{settings, settings}, true, 0x103},
		"control ends":        {[]string{settings}, false, 0x104},
		"no settings":         {[]string{"\x00\x07\x01\x00"}, true, 0x10a},
		"settings twice":      {[]string{settings + "\x04\x00"}, true, 0x105},
		"settings of HTTP/2":  {[]string{"\x00\x04\x02\x04\x00"}, true, 0x109},
		"settings in half":    {[]string{"\x00\x04\x01\x33"}, true, 0x106},
		"endless settings":    {[]string{"\x00\x04\xbf\xff\xff\xff"}, true, 0x107},
		"a request's frame":   {[]string{settings + "\x01\x00"}, true, 0x105},
		"encoder twice":       {[]string{settings, "\x02", "\x02"}, true, 0x103},
		"encoder with tables": {[]string{settings, "\x02\x3f\xe1\x1f"}, true, 0x201},
		"decoder ends":        {[]string{"\x03"}, false, 0x104},
		"an unknown type":     {[]string{settings, "\x40\x21abc"}, true, 0},
		"QPACK stays":         {[]string{settings, "\x02\x20", "\x03\x40"}, true, 0},
		"pushes are limited":  {[]string{settings + "\x0d\x01\x00\x07\x01\x00\x21\x01x"}, true, 0},
		"no type at all":      {[]string{""}, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			withBare(t, quic.ListenConfig{}, func(t *testing.T, b bareBuyer) {
				for _, sent := range row.streams {
					str, err := b.OpenUniStream()
					if err != nil {
						t.Fatal(err)
					}
					str.Write([]byte(sent))
					if !row.open {
						str.Close()
					}
				}
				tunneltest.Pass(time.Second)
				if code := b.ended(); code != row.code {
					t.Errorf("ended with %#x, want %#x", code, row.code)
				}
				if row.code != 0 {
					return
				}
				if got, err := io.ReadAll(b.request(t, getHead, true)); err != nil || len(got) == 0 {
					t.Errorf("then: %q, %v", got, err)
				}
			})
		})
	}
}

// TestLibraryClient has the library's client use what agents have.
func TestLibraryClient(t *testing.T) {
	withBare(t, quic.ListenConfig{}, func(t *testing.T, b bareBuyer) {
		client := (&http3.Transport{EnableDatagrams: true, MaxResponseHeaderBytes: 8 << 10}).NewClientConn(b.Conn)
		<-client.ReceivedSettings()
		if s := client.Settings(); !s.EnableDatagrams || !s.EnableExtendedConnect || len(s.Other) != 0 {
			t.Errorf("settings %+v", s)
		}
		for method, want := range map[string]string{http.MethodGet: "/a", http.MethodPost: "/a", http.MethodHead: ""} {
			res, err := client.RoundTrip(&http.Request{
				Method: method, URL: &url.URL{Scheme: "https", Host: "agent", Path: "/a", RawQuery: "b"}, Header: http.Header{},
				Body: io.NopCloser(strings.NewReader("body")), ContentLength: 4,
			})
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != want || err != nil || res.ContentLength != 2 {
				t.Errorf("%s: %q of %d, %v", method, body, res.ContentLength, err)
			}
		}
		str, err := client.OpenRequestStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := str.SendRequestHeader(&http.Request{
			Method: http.MethodConnect, Proto: "connect-udp", Host: "agent", Header: http.Header{"Capsule-Protocol": {"?1"}},
			URL: &url.URL{Scheme: "https", Host: "agent", Path: "/.well-known/masque/udp/echo.test/7/"},
		}); err != nil {
			t.Fatal(err)
		}
		res, err := str.ReadResponse()
		if err != nil || res.StatusCode != 200 || res.Header.Get("Capsule-Protocol") != "?1" {
			t.Fatal(res, err)
		}
		if err := str.SendDatagram([]byte("\x00packet")); err != nil {
			t.Fatal(err)
		}
		if got, err := str.ReceiveDatagram(t.Context()); string(got) != "\x00packet" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		str.Close()
		if got, err := io.ReadAll(str); len(got) != 0 || err != nil {
			t.Errorf("at the end: %q, %v", got, err)
		}
	})
}
