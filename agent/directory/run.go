package directory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// Config says how a relay runs. ReadConfigFile makes one.
type Config struct {
	// Listen is the address of UDP and TCP.
	Listen netip.AddrPort
	// Public are the addresses that others reach; see server.Config.
	Public []netip.Addr
	// Host is the host in the relay's name. Default: the first public address.
	Host string
	// KeyFile is the relay's own key, which is made if it is not there; or, with
	// CertFile, the key of that certificate.
	KeyFile, CertFile string
	Ports             server.Ports
	Limits            server.Limits
	Drain             time.Duration
	// Metrics is a listener for Prometheus; "" is none.
	Metrics string
	Logger  *slog.Logger
	// Ready is called when the relay serves, with its name and the address of
	// the metrics, if there are any.
	Ready func(name relay.Name, metrics net.Addr) error
}

// relayName is what agents and buyers call the relay.
func (c *Config) relayName(cert tls.Certificate, port uint16) (relay.Name, error) {
	host := c.Host
	switch {
	case host != "":
	case len(c.Public) > 0:
		host = c.Public[0].String()
	default:
		host = c.Listen.Addr().String()
	}
	n := relay.Name{Host: host, Port: port}
	if c.CertFile != "" {
		return n, nil // whose key changes; browsers accept it
	}
	var err error
	n.Pin, err = server.Pin(cert)
	n.Pinned = true
	return n, err
}

// certificate returns what the relay shows. make says whether a missing key is
// made.
func (c *Config) certificate(own func(string) (tls.Certificate, error)) (tls.Certificate, *renewal, error) {
	if c.CertFile == "" {
		cert, err := own(c.KeyFile)
		return cert, nil, err
	}
	r := &renewal{cert: c.CertFile, key: c.KeyFile}
	cert, err := r.current(nil)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return *cert, r, nil
}

// Name returns the relay's name without running it. It Is fs.ErrNotExist if the
// relay's key has not been made.
func (c Config) Name() (relay.Name, error) {
	cert, _, err := c.certificate(loadKey)
	if err != nil {
		return relay.Name{}, err
	}
	return c.relayName(cert, c.Listen.Port())
}

// Run runs a relay until ctx is cancelled.
func Run(ctx context.Context, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	cert, renewed, err := c.certificate(ownKey)
	if err != nil {
		return err
	}
	name, err := c.relayName(cert, c.Listen.Port())
	if err != nil {
		return err
	}
	sc := server.Config{
		Listen: c.Listen, Public: c.Public, Certificate: cert, Ports: c.Ports, Limits: c.Limits, Drain: c.Drain, Logger: c.Logger,
	}
	if renewed != nil {
		sc.Renewed = renewed.current
	}
	dir := New(name.Address())
	sc.Directory = dir
	s, err := server.Listen(ctx, sc)
	if err != nil {
		return err
	}
	name.Port = s.Port()
	dir.name = name.Address()
	g, gctx := errgroup.WithContext(ctx)
	metrics, err := c.serveMetrics(gctx, g, s)
	if err == nil && c.Ready != nil {
		err = c.Ready(name, metrics)
	}
	if err != nil {
		g.Go(func() error { return err })
	}
	c.Logger.Info("relay runs", "relay", name.String())
	g.Go(func() error { return s.Run(gctx) })
	return g.Wait()
}

// serveMetrics serves Prometheus, if that is wanted.
func (c *Config) serveMetrics(ctx context.Context, g *errgroup.Group, s *server.Server) (net.Addr, error) {
	if c.Metrics == "" {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.Metrics())
	web := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	g.Go(func() error {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return web.Close()
	})
	return l.Addr(), nil
}

// A Finding is one thing that Check looked at.
type Finding struct {
	Result string // ok, warning or failed
	Name   string
	Text   string
}

// Results of findings.
const (
	CheckOK      = "ok"
	CheckWarning = "warning"
	CheckFailed  = "failed"
)

// Check looks at what a configuration needs, without serving.
func Check(c Config) []Finding {
	var found []Finding
	add := func(result, name, format string, args ...any) {
		found = append(found, Finding{result, name, fmt.Sprintf(format, args...)})
	}
	switch name, err := c.Name(); {
	case errors.Is(err, fs.ErrNotExist) && c.CertFile == "":
		add(CheckWarning, "key", "%s does not exist: `x402-relay run` makes it", c.KeyFile)
	case err != nil:
		add(CheckFailed, "key", "%v", err)
	default:
		add(CheckOK, "name", "%s", name)
	}
	for _, a := range append([]netip.Addr{c.Listen.Addr()}, c.Public...) {
		if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() {
			add(CheckWarning, "address", "%s is not reached from the internet", a)
		}
	}
	if need, have := c.Limits.Files(), server.OpenFiles(); have > 0 && uint64(need) > have {
		add(CheckWarning, "files", "the limits allow %d open files, the system %d: raise LimitNOFILE or lower limits.sessions", need, have)
	} else {
		add(CheckOK, "files", "%d may be needed", need)
	}
	if n := int(c.Ports.Last) - int(c.Ports.First) + 1; c.Ports.First > 0 && n < 2*max(c.Limits.Sessions, 1) {
		add(CheckWarning, "ports", "%d ports are enough for %d sessions", n, n/2)
	}
	return found
}
