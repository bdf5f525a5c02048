package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	stallTime  = 20 * time.Second // without a byte a request is given up
	giveUpTime = 90 * time.Second // without a byte the fetch is
	retryEvery = 100 * time.Millisecond
)

// A fetcher fetches one half of the file through one proxy. When that breaks
// it goes on where it was, by HTTP Range.
type fetcher struct {
	name  string // of the proxy
	proxy string // its URL
	url   string
	half  half
	count func(n int) // is told of every piece that has come

	have    int64
	resumed int // how often it went on after a break
	hash    hash.Hash
}

// errContent says that something else came than was asked for: no reason to
// try again.
var errContent = errors.New("not what was asked for")

// run fetches all of it and compares the hash.
func (f *fetcher) run(ctx context.Context) error {
	proxy, err := url.Parse(f.proxy)
	if err != nil {
		return err
	}
	want, err := f.half.sum()
	if err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), DisableCompression: true}
	defer transport.CloseIdleConnections()
	f.hash = sha256.New()
	for last := time.Now(); ; {
		before := f.have
		err := f.get(ctx, &http.Client{Transport: transport})
		if err == nil && f.have == f.half.size {
			break
		}
		if f.have > before {
			last = time.Now()
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errContent) || time.Since(last) > giveUpTime:
			return fmt.Errorf("fetch through %s: %d of %d bytes: %w", f.name, f.have, f.half.size, err)
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if [sha256.Size]byte(f.hash.Sum(nil)) != want {
		return fmt.Errorf("fetch through %s: the hash of %d bytes differs from that of the original", f.name, f.have)
	}
	return nil
}

// get makes one request for what is missing.
func (f *fetcher) get(ctx context.Context, c *http.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTime, func() { cancel(fmt.Errorf("nothing came for %v", stallTime)) })
	defer stalled.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if f.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.have))
		want = http.StatusPartialContent
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode >= http.StatusInternalServerError: // the proxy's, while there is no tunnel
		return errors.New(res.Status)
	case res.StatusCode != want || res.ContentLength != f.half.size-f.have:
		return fmt.Errorf("%w: %s with %d bytes", errContent, res.Status, res.ContentLength)
	}
	if f.have > 0 {
		f.resumed++
	}
	b := make([]byte, 64<<10)
	for {
		n, err := res.Body.Read(b)
		if n > 0 {
			stalled.Reset(stallTime)
			f.hash.Write(b[:n])
			f.have += int64(n)
			f.count(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
