package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// webSocket answers an upgrade and then behaves as echo. What is in the frames
// is no proxy's business.
func webSocket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	io.Copy(c, buffered.Reader)
	c.(*net.TCPConn).CloseWrite()
}

const upgradeFields = "Host: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

func TestHTTPWebSocket(t *testing.T) {
	tunnel := site(t, webSocket)
	addr := start(t, ServeHTTP, Config{Tunnel: tunnel})
	for name, request := range map[string]string{
		"absolute-form": "GET http://shop.test/chat HTTP/1.1\r\n" + upgradeFields,
		"CONNECT":       "CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test:80\r\n\r\n",
	} {
		c := dial(t, addr)
		send(t, c, []byte(request))
		r := bufio.NewReader(c)
		if name == "CONNECT" {
			expect(t, r, []byte("HTTP/1.1 200 OK\r\n\r\n"))
			send(t, c, []byte("GET /chat HTTP/1.1\r\n"+upgradeFields))
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") == "" {
			t.Fatalf("%s: got %s, %v", name, resp.Status, resp.Header)
		}
		for _, frame := range []string{"\x81\x05hello", "\x82\x7e\x01\x00" + strings.Repeat("b", 256)} {
			send(t, c, []byte(frame))
			expect(t, r, []byte(frame))
		}
		c.CloseWrite()
		if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
			t.Errorf("%s: got %q, %v at the end", name, rest, err)
		}
	}
}

func TestHTTPCurl(t *testing.T) {
	curl := lookPath(t, "curl")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			io.Copy(w, r.Body)
			return
		}
		w.Write(big)
	}
	tunnel := site(t, handler)
	secure := httptest.NewTLSServer(http.HandlerFunc(handler))
	defer secure.Close()
	tunnel.names["shop.test:443"] = secure.Listener.Addr().String()
	addr := start(t, ServeHTTP, Config{Tunnel: tunnel})
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"http://shop.test/"}, string(big)},
		{[]string{"--proxytunnel", "http://shop.test/"}, string(big)},
		{[]string{"-k", "https://shop.test/"}, string(big)},
		{[]string{"-X", "PUT", "-H", "Expect: 100-continue", "--data-binary", "hello", "http://shop.test/"}, "hello"},
		{[]string{"-w", " %{http_code}", "-o", "/dev/null", "http://shop.test/", "-o", "/dev/null", "http://shop.test/"}, " 200 200"},
	} {
		args := append([]string{"-sS", "--max-time", "20", "-x", "http://" + addr}, tt.args...)
		got, err := exec.CommandContext(t.Context(), curl, args...).Output()
		if string(got) != tt.want || err != nil {
			t.Errorf("curl %v: got %d bytes %.80q, %v", tt.args, len(got), got, err)
		}
	}
}
