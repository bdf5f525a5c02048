package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/tunnel/proxy"
)

// A front is a proxy that customers come to.
type front struct {
	scheme string // of its URL
	ln     net.Listener
	secure *tls.Config // nil: in clear
	serve  func(context.Context, net.Listener, proxy.Config) error
}

type fronts []front

// dialTime bounds all attempts to reach a target.
const dialTime = 45 * time.Second

// listen opens the proxies' ports.
func (g *Gateway) listen() (all fronts, err error) {
	secure := g.cfg.TLS.Clone()
	if secure != nil {
		secure.NextProtos = []string{"http/1.1"} // what the proxy speaks
		secure.MinVersion = tls.VersionTLS12     // HTTP clients come as they are
	}
	for _, f := range []struct {
		at string
		front
	}{
		{g.cfg.Secure, front{scheme: "https", secure: secure, serve: proxy.ServeHTTP}},
		{g.cfg.HTTP, front{scheme: "http", serve: proxy.ServeHTTP}},
		{g.cfg.SOCKS, front{scheme: "socks5h", serve: proxy.ServeSOCKS5}},
	} {
		if f.at == "" {
			continue
		}
		if f.ln, err = net.Listen("tcp", f.at); err != nil {
			all.close()
			return nil, fmt.Errorf("%s proxy: %w", f.scheme, err)
		}
		all = append(all, f.front)
	}
	return all, nil
}

func (all fronts) close() {
	for _, f := range all {
		_ = f.ln.Close() // what was served is closed already
	}
}

// serve serves until ctx ends.
func (all fronts) serve(ctx context.Context, g *Gateway) error {
	eg, gctx := errgroup.WithContext(ctx)
	for _, f := range all {
		ln := net.Listener(newFairListener(f.ln, g.cfg.SourceConns))
		if f.secure != nil {
			ln = secureListener{ln, f.secure}
		}
		cfg := proxy.Config{Login: g.enter, Logger: g.log, MaxConns: g.cfg.Conns, UDPTargets: g.cfg.Flows, DialTimeout: dialTime}
		eg.Go(func() error {
			if err := f.serve(gctx, ln, cfg); err != nil {
				return fmt.Errorf("%s proxy: %w", f.scheme, err)
			}
			return nil
		})
	}
	return eg.Wait()
}

// urls are the proxies' with a user and a password, the first the best.
func (all fronts) urls(host string, l login) (urls []string) {
	for _, f := range all {
		urls = append(urls, f.scheme+"://"+l.user+":"+l.password+"@"+net.JoinHostPort(host, strconv.Itoa(f.port())))
	}
	return urls
}

func (f front) port() int {
	if a, ok := f.ln.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// A secureListener speaks TLS; the handshake is done by the first read.
type secureListener struct {
	net.Listener
	cfg *tls.Config
}

func (l secureListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return secureConn{tls.Server(c, l.cfg)}, nil
}

// A secureConn can be reset, so that what was cut does not look complete.
type secureConn struct{ *tls.Conn }

// SetLinger with 0 resets the connection, without TLS's farewell.
func (c secureConn) SetLinger(sec int) error {
	l, ok := c.NetConn().(interface{ SetLinger(int) error })
	if !ok {
		return nil
	}
	err := l.SetLinger(sec)
	if sec == 0 {
		err = errors.Join(err, c.NetConn().Close())
	}
	return err
}
