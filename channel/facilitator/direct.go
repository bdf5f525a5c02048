package facilitator

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/depinsim/x402/channel/x402"
)

const (
	dialTime  = 10 * time.Second
	callTime  = 30 * time.Second // of a whole call
	maxHeader = 64 << 10
)

// direct is a Doer for HTTP/1.1 (RFC 9112): one connection a request.
type direct struct{ tls *tls.Config }

func newDirect() *direct {
	// A resumed handshake is 1 kB of the SIM's plan, a full one up to 5.
	return &direct{&tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1), NextProtos: []string{"http/1.1"}}}
}

// Do sends req and returns the answer. The connection ends with its body, with
// the request's context, or after callTime.
func (d *direct) Do(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	conn, err := d.dial(ctx, req)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	hangUp := func() {
		stop()
		_ = conn.Close() // the answer is there, or the error that counts
	}
	resp, err := exchange(conn, req)
	if err != nil {
		hangUp()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	resp.Body = &lastBody{resp.Body, hangUp}
	return resp, nil
}

// dial connects to where req goes.
func (d *direct) dial(ctx context.Context, req *http.Request) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	port := req.URL.Port()
	dialer := &net.Dialer{KeepAlive: -1}
	if req.URL.Scheme == "https" {
		if port == "" {
			port = "443"
		}
		return (&tls.Dialer{NetDialer: dialer, Config: d.tls}).DialContext(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port))
	}
	if port == "" {
		port = "80"
	}
	return dialer.DialContext(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port))
}

// exchange sends req and reads the answer up to its body.
func exchange(conn net.Conn, req *http.Request) (*http.Response, error) {
	if err := conn.SetDeadline(time.Now().Add(callTime)); err != nil {
		return nil, err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	// The bound holds for all that a server sends before the answer, too.
	r := bufio.NewReader(io.LimitReader(conn, maxHeader+x402.MaxBody+1))
	for {
		resp, err := http.ReadResponse(r, req)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errNoAnswer
		}
		if err != nil {
			return nil, err
		}
		// Interim answers precede the final one (RFC 9110 section 15.2).
		if resp.StatusCode >= http.StatusOK || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
}

var errNoAnswer = errors.New("the connection ended before the answer, or the answer is too long")

// A lastBody hangs up when it is closed. What is left of it is not read.
type lastBody struct {
	io.ReadCloser
	hangUp func()
}

func (b *lastBody) Close() error {
	b.hangUp()
	return b.ReadCloser.Close()
}
