// Package nethttp is the facilitator's client on net/http, for programs that have
// room for it: it goes by the environment's proxy and follows redirects.
package nethttp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// Config configures a client.
type Config struct {
	URL string // http or https, with an optional path
	// HTTP is nil for one with 30 s for a call, of which 10 s to connect.
	HTTP *http.Client
}

// New returns a client.
func New(c Config) (*facilitator.Client, error) {
	if c.HTTP == nil {
		c.HTTP = defaultHTTP()
	}
	return facilitator.New(c.URL, exchanger{c.HTTP})
}

func defaultHTTP() *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 20 * time.Second,
			MaxIdleConnsPerHost:   1,
			// A kept connection costs the SIM keep-alive packets.
			IdleConnTimeout: 15 * time.Second,
		},
	}
}

type exchanger struct{ http *http.Client }

// Exchange sends a request and reads the answer.
func (e exchanger) Exchange(ctx context.Context, method, to string, body []byte) (facilitator.Answer, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, to, r)
	if err != nil {
		return facilitator.Answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the caller says the method and URL
		}
		return facilitator.Answer{}, err
	}
	defer resp.Body.Close() // nothing of it is needed any more
	b, err := io.ReadAll(io.LimitReader(resp.Body, x402.MaxBody+1))
	return facilitator.Answer{Status: resp.StatusCode, Location: resp.Header.Get("Location"), Body: b}, err
}
