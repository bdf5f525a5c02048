package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

const (
	maxRequestHeader  = 64 << 10
	maxResponseHeader = 256 << 10

	// idleConn is how long a connection waits for its next request.
	idleConn = 2 * time.Minute
	// continueWait is how long a target may take to ask for a body that the
	// program holds back (RFC 9110 section 10.1.1).
	continueWait = 5 * time.Second
)

// ServeHTTP serves an HTTP proxy on ln, which it closes, until ctx is
// cancelled or the listener fails. It returns nil only when ctx was cancelled.
func ServeHTTP(ctx context.Context, ln net.Listener, cfg Config) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	g, err := newGate(inner, ln, cfg)
	if err != nil {
		return err
	}
	h := newHTTPProxy(inner, g)
	srv := &http.Server{
		Handler: h,

		DisableGeneralOptionsHandler: true, // OPTIONS * is for sites
		ReadHeaderTimeout:            g.cfg.HandshakeTimeout,
		IdleTimeout:                  idleConn,
		MaxHeaderBytes:               maxRequestHeader,
		BaseContext:                  func(net.Listener) context.Context { return inner },
		ConnState:                    h.count,
		ErrorLog:                     slog.NewLogLogger(g.cfg.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(inner, func() {
		srv.Close()
		g.closeAll()
	})
	defer stop()
	err = srv.Serve(g)
	cancel()
	srv.Close()
	g.closeAll()
	h.close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// An httpProxy answers the requests of all local connections.
type httpProxy struct {
	gate      *gate
	transport *http.Transport
	reverse   *httputil.ReverseProxy

	running sync.WaitGroup // connections, until hijacked, and requests

	mu    sync.Mutex
	flows map[*httpFlow]struct{} // the transport's
	shut  bool                   // no more flows
}

// newHTTPProxy returns a proxy whose flows end with ctx; close it after.
func newHTTPProxy(ctx context.Context, g *gate) *httpProxy {
	h := &httpProxy{gate: g, flows: make(map[*httpFlow]struct{})}
	h.transport = &http.Transport{
		// Not the request's context: the flow serves other requests later.
		DialContext: func(request context.Context, _, addr string) (net.Conn, error) {
			return h.dial(withTunnel(ctx, tunnelOf(request)), addr)
		},
		// A flow serves whom it was opened for.
		DisableKeepAlives:      g.cfg.Login != nil,
		DisableCompression:     true, // bodies pass as they are
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleConn,
		ExpectContinueTimeout:  continueWait,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	h.reverse = &httputil.ReverseProxy{
		Transport:     h.transport,
		Rewrite:       rewrite,
		ErrorHandler:  h.failed,
		FlushInterval: -1, // a target that sends slowly is heard at once
		BufferPool:    new(bufferPool),
		ErrorLog:      slog.NewLogLogger(g.cfg.Logger.Handler(), slog.LevelDebug),
	}
	return h
}

// count keeps running. The server calls it with StateNew before it serves the
// connection, so that nothing is added once the server has ended.
func (h *httpProxy) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		h.running.Add(1)
	case http.StateClosed, http.StateHijacked:
		h.running.Done()
	}
}

// close closes what the transport has open and waits for the requests. The
// server has ended and the local connections are closed.
func (h *httpProxy) close() {
	h.mu.Lock()
	h.shut = true
	flows := make([]*httpFlow, 0, len(h.flows))
	for f := range h.flows {
		flows = append(flows, f)
	}
	h.mu.Unlock()
	for _, f := range flows {
		f.Close()
	}
	h.running.Wait()
	h.transport.CloseIdleConnections()
}

func (h *httpProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.running.Add(1) // its connection is counted still
	defer h.running.Done()
	tunnel, ok := h.login(w, r)
	if !ok {
		return
	}
	t, bad := requestTarget(r)
	switch {
	case bad != nil:
		page(w, bad.status, bad.text)
	case r.Method == http.MethodConnect:
		h.connect(w, r.WithContext(withTunnel(r.Context(), tunnel)), t)
	default:
		// A nil value keeps net/http from inventing the field.
		w.Header()["Date"] = nil
		w.Header()["Content-Type"] = nil
		h.reverse.ServeHTTP(w, r.WithContext(withTunnel(r.Context(), tunnel)))
	}
}

// A badRequest is a request that no proxy could serve.
type badRequest struct {
	status int
	text   string
}

// requestTarget returns where r wants to go.
func requestTarget(r *http.Request) (target, *badRequest) {
	bad := func(format string, args ...any) (target, *badRequest) {
		return target{}, &badRequest{http.StatusBadRequest, fmt.Sprintf(format, args...)}
	}
	if r.Method == http.MethodConnect {
		t, err := parseTarget(r.URL.Host, 0)
		if err != nil {
			return bad("CONNECT needs host:port, such as example.com:443: %v.", err)
		}
		return t, nil
	}
	switch {
	case r.URL.Scheme == "" || r.URL.Host == "":
		return bad("This is an HTTP proxy, not a web site. Enter this address as the proxy in your program's settings, or set http_proxy and https_proxy to it.")
	case r.URL.Scheme == "https":
		return bad("This proxy takes https through CONNECT only, so that nothing between you and the site reads along. Set it as the proxy for https in your program's settings.")
	case r.URL.Scheme != "http":
		return target{}, &badRequest{http.StatusNotImplemented, fmt.Sprintf("This proxy serves http, and all else through CONNECT, not %q. Use CONNECT or the SOCKS5 port.", r.URL.Scheme)}
	}
	t, err := parseTarget(r.URL.Host, 80)
	if err != nil {
		return bad("The URL's host cannot be connected to: %v.", err)
	}
	return t, nil
}

// rewrite makes the request to the target. What ReverseProxy does for a server
// in front of its own site is undone: the target sees what the program sent,
// less the hop-by-hop fields (RFC 9110 section 7.6.1). There is no Via field
// (section 7.6.3), which would tell every site about the proxy.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = v
		}
	}
	r.Out.Trailer = r.In.Trailer // filled while the body is read
}

// failed answers a request that the target did not.
func (h *httpProxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the program has left, or the proxy ends
	}
	h.refuse(w, r.URL.Host, err)
}

// refuse says why there is no flow to host.
func (h *httpProxy) refuse(w http.ResponseWriter, host string, err error) {
	why := explain(err)
	h.gate.cfg.Logger.Debug("http", "kind", why.kind, "err", err)
	w.Header().Set("Proxy-Status", proxyStatus(why.kind, err.Error()))
	page(w, why.status, fmt.Sprintf("No connection to %s: %v.\n\n%s", host, err, why.advice))
}

// page answers in plain text, which no browser takes for the site's own.
func page(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%d %s\n\n%s\n", status, http.StatusText(status), text)
}

// connect serves CONNECT (RFC 9110 section 9.3.6).
func (h *httpProxy) connect(w http.ResponseWriter, r *http.Request, t target) {
	ctx := r.Context()
	flow, end, err := h.gate.dial(ctx, tunnelOf(ctx).DialTCP, t)
	if err != nil {
		h.refuse(w, t.String(), err)
		return
	}
	defer end()
	if h.gate.cfg.Strict {
		if err := h.gate.established(ctx, flow); err != nil {
			flow.Close()
			h.refuse(w, t.String(), err)
			return
		}
	}
	local, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		flow.Close()
		h.refuse(w, t.String(), err)
		return
	}
	// The program may have sent more than the request already.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	if _, err := io.WriteString(local, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		flow.Close()
		local.Close()
		return
	}
	if err := (relay{local, flow, bytes.NewReader(early)}).run(ctx); err != nil {
		h.gate.cfg.Logger.Debug("http connect", "err", err)
	}
}

// dial opens a flow for the transport.
func (h *httpProxy) dial(ctx context.Context, addr string) (net.Conn, error) {
	t, err := parseTarget(addr, 0)
	if err != nil {
		return nil, err
	}
	conn, end, err := h.gate.dial(ctx, tunnelOf(ctx).DialTCP, t)
	if err != nil {
		return nil, err
	}
	f := &httpFlow{Conn: conn, end: end, proxy: h}
	if h.gate.cfg.Strict {
		if err := h.gate.established(ctx, conn); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	h.mu.Lock()
	shut := h.shut
	if !shut {
		h.flows[f] = struct{}{}
	}
	h.mu.Unlock()
	if shut {
		f.Close()
		return nil, net.ErrClosed
	}
	return f, nil
}

// An httpFlow is a flow that the transport owns.
type httpFlow struct {
	net.Conn
	end   context.CancelFunc
	proxy *httpProxy
}

func (f *httpFlow) Close() error {
	f.proxy.mu.Lock()
	delete(f.proxy.flows, f)
	f.proxy.mu.Unlock()
	defer f.end()
	return f.Conn.Close()
}

func (f *httpFlow) CloseWrite() error { return closeWrite(f.Conn) }

// A bufferPool holds the buffers through which bodies are copied.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, maxBuffer)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }
