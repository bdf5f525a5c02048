package facilitator

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/channel/x402"
)

const (
	dialTime  = 10 * time.Second
	callTime  = 30 * time.Second // of a whole call
	maxHeader = 64 << 10
)

// direct is an Exchanger of HTTP/1.1 (RFC 9112): one connection a request.
type direct struct {
	tls    *tls.Config
	dialer net.Dialer
	family string // "4", "6" or ""
}

func newDirect() *direct {
	// A resumed handshake is 1 kB of the SIM's plan, a full one up to 5.
	return &direct{
		tls:    &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1), NextProtos: []string{"http/1.1"}},
		dialer: net.Dialer{KeepAlive: -1},
	}
}

// Fetch gets what is at an http or https URL by a connection of its own: that of
// dialer, over IPv4 or IPv6 as family, "4" or "6", says. A status that is not 200
// is an error.
func Fetch(ctx context.Context, dialer net.Dialer, family, url string) ([]byte, error) {
	d := newDirect()
	d.dialer, d.family = dialer, family
	a, err := d.Exchange(ctx, "GET", url, nil)
	if err == nil && a.Status != 200 {
		err = fmt.Errorf("status %d", a.Status)
	}
	return a.Body, err
}

// Exchange sends a request and reads the answer. It takes as long as ctx lasts,
// or callTime.
func (d *direct) Exchange(ctx context.Context, method, to string, body []byte) (Answer, error) {
	u, err := url.Parse(to)
	if err != nil {
		return Answer{}, err
	}
	conn, err := d.dial(ctx, u)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close() // the answer is there, or the error that counts
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	a, err := exchange(conn, requestText(method, u, body))
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return a, err
}

// dial connects to where u is.
func (d *direct) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	port := u.Port()
	if u.Scheme == "https" {
		if port == "" {
			port = "443"
		}
		return (&tls.Dialer{NetDialer: &d.dialer, Config: d.tls}).DialContext(ctx, "tcp"+d.family, net.JoinHostPort(u.Hostname(), port))
	}
	if port == "" {
		port = "80"
	}
	return d.dialer.DialContext(ctx, "tcp"+d.family, net.JoinHostPort(u.Hostname(), port))
}

// requestText is a request as it is sent (RFC 9112 §3). A URL that was parsed
// has no byte that could end a line.
func requestText(method string, u *url.URL, body []byte) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: x402-agent\r\nConnection: close\r\n", method, u.RequestURI(), u.Host)
	if body != nil {
		b = fmt.Appendf(b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return append(append(b, "\r\n"...), body...)
}

// exchange sends a request and reads the answer.
func exchange(conn net.Conn, request []byte) (Answer, error) {
	if err := conn.SetDeadline(time.Now().Add(callTime)); err != nil {
		return Answer{}, err
	}
	if _, err := conn.Write(request); err != nil {
		return Answer{}, err
	}
	// The bound holds for all that a server sends before the answer, too.
	r := bufio.NewReader(io.LimitReader(conn, maxHeader+x402.MaxBody+1))
	for {
		h, err := readHead(r)
		if err != nil {
			return Answer{}, err
		}
		// Interim answers precede the final one (RFC 9110 §15.2).
		if h.status < 200 && h.status != 101 {
			continue
		}
		body, err := h.readBody(r)
		return Answer{Status: h.status, Location: h.location, Body: body}, err
	}
}

// A head is what matters of an answer's head.
type head struct {
	status   int
	location string
	length   int64 // of the body; negative: unknown
	chunked  bool
}

var errNoAnswer = errors.New("the connection ended before the answer, or the answer is too long")

// readHead reads the head of an answer (RFC 9112 §4 and §5).
func readHead(r *bufio.Reader) (head, error) {
	line, err := readLine(r)
	if err != nil {
		return head{}, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != 3 || status < 100 || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return head{}, fmt.Errorf("malformed HTTP answer %.40q", line)
	}
	h := head{status: int(status), length: -1}
	for {
		line, err := readLine(r)
		if line == "" || err != nil {
			return h, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") { // §5.1; folded lines (§5.2) are of the past
			return h, fmt.Errorf("malformed HTTP field %.40q", line)
		}
		if err := h.field(strings.ToLower(name), strings.Trim(value, " \t"), version); err != nil {
			return h, err
		}
	}
}

// field takes a field if it matters.
func (h *head) field(name, value, version string) error {
	switch name {
	case "location":
		h.location = value
	case "content-length": // §6.3: it may be repeated, not contradicted
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || h.length >= 0 && h.length != int64(n) {
			return fmt.Errorf("malformed HTTP length %.40q", value)
		}
		h.length = int64(n)
	case "transfer-encoding": // §6.1
		if h.chunked || !strings.EqualFold(value, "chunked") || version != "HTTP/1.1" {
			return fmt.Errorf("HTTP transfer encoding %.40q is not supported", value)
		}
		h.chunked = true
	}
	return nil
}

// readLine reads a line without its end.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if errors.Is(err, io.EOF) {
		return "", errNoAnswer
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}

// readBody reads the body behind a head (RFC 9112 §6.3), or what is too much of
// it.
func (h *head) readBody(r *bufio.Reader) ([]byte, error) {
	switch {
	case h.status == 101 || h.status == 204 || h.status == 304:
		return nil, nil
	case h.chunked:
		return readChunked(r)
	case h.length < 0:
		return io.ReadAll(io.LimitReader(r, x402.MaxBody+1))
	}
	b, err := io.ReadAll(io.LimitReader(r, min(h.length, x402.MaxBody+1)))
	if err == nil && int64(len(b)) < min(h.length, x402.MaxBody+1) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// readChunked reads a chunked body (RFC 9112 §7.1) without its trailers.
func readChunked(r *bufio.Reader) ([]byte, error) {
	var b bytes.Buffer
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimRight(size, " \t"), 16, 63)
		switch {
		case err != nil:
			return nil, fmt.Errorf("malformed HTTP chunk %.40q", line)
		case n == 0:
			return b.Bytes(), nil
		}
		_, err = io.CopyN(&b, r, int64(min(n, uint64(x402.MaxBody+1-b.Len()))))
		switch {
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case b.Len() > x402.MaxBody:
			return b.Bytes(), nil
		}
		if end, err := readLine(r); err != nil {
			return nil, err
		} else if end != "" {
			return nil, errors.New("malformed HTTP chunk: it does not end where it says")
		}
	}
}
