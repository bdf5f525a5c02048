package directory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/agent/watch"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// Config says how a relay runs.
type Config struct {
	// Listen is the address of the relay's port, UDP and TCP.
	Listen netip.AddrPort
	// Host is what agents and buyers know the relay by, in its name. Default:
	// the first of Public, or Listen's address.
	Host string
	// Public are the addresses that agents and buyers reach, at most one of IPv4
	// and one of IPv6. Default: what Host resolves to.
	Public []netip.Addr
	// KeyFile is the relay's own key, made on first use: the relay's name ends
	// in its hash. Or, with CertFile, a certificate for Host that browsers
	// accept, it is that certificate's. Both are read again when they have
	// changed.
	KeyFile, CertFile string

	// Networks are the files of a table of networks, by which the carriers that
	// agents claim are checked. They are read again when they have changed. None:
	// nothing is checked.
	Networks []string

	Ports   server.Ports  // of sessions; zero: the kernel's choice
	Limits  server.Limits // zero fields: the server's defaults
	Offers  int           // the most that are listed; 0: 20,000
	Drain   time.Duration // how long sessions go on after the end was asked for
	Metrics string        // address of the listener for Prometheus; "": none
	Toll    TollConfig    // what is charged; without a price: nothing
	Gateway GatewayConfig // what is sold on; without a wallet: nothing
	Watch   watch.Config  // whose claims are kept; without facilitators: nobody's
	Logger  *slog.Logger
	// Ready is called once agents and buyers can come, with the relay's name and
	// the address of the metrics, nil if there are none.
	Ready func(name relay.Name, metrics net.Addr) error
}

// Run runs a relay until ctx is cancelled, lets sessions go on for the time of
// Config.Drain, and returns nil.
func Run(ctx context.Context, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := c.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.run(ctx, r), r.close())
}

// open opens all that a relay runs on.
func (c Config) open(ctx context.Context) (r relayed, err error) {
	id, name, err := c.identity()
	if err != nil {
		return r, err
	}
	if r.addresses, err = c.addresses(ctx); err != nil {
		return r, fmt.Errorf("public: %w", err)
	}
	if r.metrics, err = c.listenMetrics(ctx); err != nil {
		return r, err
	}
	o, sc := Options{Name: name, Offers: c.Offers}, server.Config{
		Listen: c.Listen, Public: r.addresses, Certificate: id.Certificate, Renewed: id.renewed,
		Ports: c.Ports, Limits: c.Limits, Drain: c.Drain, Logger: c.Logger,
	}
	if c.Toll.Price > 0 {
		if r.toll, err = OpenToll(c.Toll, c.Logger); err != nil {
			return r, errors.Join(fmt.Errorf("payment: %w", err), r.metrics.Close())
		}
		o.Toll, sc.Toll = r.toll.Tariff(), r.toll
	}
	if c.Gateway.Wallet != "" {
		if r.gateway, err = c.openGateway(id, c.Logger); err != nil {
			return r, errors.Join(err, r.metrics.Close(), r.close())
		}
		sc.Gateway, o.Resources = r.gateway, r.gateway.Resources
	}
	if len(c.Watch.Facilitators) > 0 {
		wc := c.Watch
		wc.Logger = c.Logger.With("part", "watch")
		if r.watch, err = watch.Open(wc); err != nil {
			return r, errors.Join(fmt.Errorf("watch: %w", err), r.metrics.Close(), r.close())
		}
		sc.Watch = r.watch
	}
	r.Directory = New(o)
	if r.files, err = c.openNetworks(r.Directory); err != nil {
		return r, errors.Join(err, r.metrics.Close(), r.close())
	}
	sc.Directory = r.Directory
	if r.Server, err = server.Listen(ctx, sc); err != nil {
		return r, errors.Join(err, r.metrics.Close(), r.close())
	}
	r.Directory.rotate = r.Server.Rotate // nobody has come yet
	return r, nil
}

// relayed are the parts of a relay.
type relayed struct {
	*Directory
	*server.Server
	toll      *Toll            // nil: the relay is free
	gateway   *gateway.Gateway // nil: there is none
	watch     *watch.Watch     // likewise
	metrics   metricsListener
	addresses []netip.Addr
	files     *carrier.Files // of the table of networks; nil: none
}

// run runs it, until ctx is cancelled and the last session has ended.
func (c Config) run(ctx context.Context, r relayed) error {
	d, s, metrics := r.Directory, r.Server, r.metrics
	d.name.Port = s.Port() // nobody has come yet
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	g, gctx := errgroup.WithContext(life)
	asked, stop := context.WithCancel(ctx)
	sctx, drain := asked, stop
	if r.gateway != nil { // it pays its agents through the relay before that goes
		sctx, drain = context.WithCancel(context.WithoutCancel(ctx))
		g.Go(func() error {
			defer drain()
			return r.gateway.Run(asked, d.name)
		})
	}
	defer drain()
	var collectors []prometheus.Collector
	if r.gateway != nil {
		collectors = r.gateway.Collectors()
	}
	if r.toll != nil {
		collectors = append(collectors, r.toll.Collectors()...)
		g.Go(func() error { return r.toll.Run(gctx) }) // to the end of the last session
	}
	if r.watch != nil {
		collectors = append(collectors, r.watch.Collectors()...)
		g.Go(func() error { return r.watch.Run(gctx, s) })
	}
	g.Go(func() error {
		defer end()
		return s.Run(sctx)
	})
	g.Go(func() error {
		<-gctx.Done()
		stop() // an error elsewhere ends the relay
		return nil
	})
	g.Go(func() error { return metrics.serve(gctx, s.Metrics(collectors...)) })
	g.Go(func() error { return c.watchNetworks(gctx, d, r.files) })
	g.Go(func() error {
		c.Logger.Info("relay runs", "name", d.name, "listen", c.Listen.Addr(), "port", s.Port(), "addresses", r.addresses)
		if c.Ready == nil {
			return nil
		}
		return c.Ready(d.name, metrics.address())
	})
	err := g.Wait()
	c.Logger.Info("stopped", "offers", d.Len())
	return err
}

// Name returns the relay's name, and makes its key if there is none yet.
func (c Config) Name() (relay.Name, error) {
	_, name, err := c.identity()
	if err == nil && name.Port == 0 {
		err = errors.New("the port is chosen at the start, so the relay has no name yet: set listen")
	}
	return name, err
}

// host is what stands in the relay's name.
func (c Config) host() string {
	switch {
	case c.Host != "":
		return c.Host
	case len(c.Public) > 0:
		return c.Public[0].String()
	}
	return c.Listen.Addr().String()
}

// An identity is what a relay shows, and is known by.
type identity struct {
	tls.Certificate
	renewed func(*tls.ClientHelloInfo) (*tls.Certificate, error) // nil: never
}

// identity returns what the relay shows, and the name that follows from it.
func (c Config) identity() (identity, relay.Name, error) {
	name := relay.Name{Host: c.host(), Port: c.Listen.Port()}
	if c.CertFile != "" {
		r := &renewal{cert: c.CertFile, key: c.KeyFile}
		cert, err := r.current(nil)
		if err != nil {
			return identity{}, name, fmt.Errorf("certificate: %w", err)
		}
		return identity{*cert, r.current}, name, nil
	}
	cert, err := ownKey(c.KeyFile)
	if err != nil {
		return identity{}, name, fmt.Errorf("key: %w", err)
	}
	name.Pinned = true
	name.Pin, err = server.Pin(cert)
	return identity{cert, nil}, name, err
}

// lookupTime bounds the look-up of the relay's own name.
const lookupTime = 15 * time.Second

// addresses are those that buyers and agents are told: one of each family that
// the relay listens on.
func (c Config) addresses(ctx context.Context) ([]netip.Addr, error) {
	found := c.Public
	if a, err := netip.ParseAddr(c.host()); len(found) == 0 && err == nil {
		found = []netip.Addr{a}
	}
	if len(found) == 0 {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		var err error
		if found, err = net.DefaultResolver.LookupNetIP(ctx, "ip", c.host()); err != nil {
			return nil, err
		}
	}
	var four, six netip.Addr
	for _, a := range found {
		switch a = a.Unmap(); {
		case a.Is4() && !four.IsValid() && c.hears(a):
			four = a
		case a.Is6() && !six.IsValid() && c.hears(a):
			six = a
		}
	}
	var told []netip.Addr
	for _, a := range [...]netip.Addr{four, six} {
		if a.IsValid() {
			told = append(told, a)
		}
	}
	if told == nil {
		return nil, fmt.Errorf("%s is at %s, of another kind than listen's %s", c.host(), found, c.Listen.Addr())
	}
	return told, nil
}

// hears says whether the relay's sockets receive what is sent to an address of
// that family: [::] is of both.
func (c Config) hears(a netip.Addr) bool {
	l := c.Listen.Addr()
	return l == netip.IPv6Unspecified() || l.Unmap().Is4() == a.Is4()
}

// metricsListener is where Prometheus comes to; it may be none.
type metricsListener struct{ net.Listener }

func (c Config) listenMetrics(ctx context.Context) (metricsListener, error) {
	if c.Metrics == "" {
		return metricsListener{}, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", c.Metrics)
	if err != nil {
		return metricsListener{}, fmt.Errorf("metrics: %w", err)
	}
	return metricsListener{l}, nil
}

// Close closes the listener, if there is one.
func (m metricsListener) Close() error {
	if m.Listener == nil {
		return nil
	}
	return m.Listener.Close()
}

func (m metricsListener) address() net.Addr {
	if m.Listener == nil {
		return nil
	}
	return m.Addr()
}

// serve serves until ctx ends, and closes the listener.
func (m metricsListener) serve(ctx context.Context, h http.Handler) error {
	if m.Listener == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 20 * time.Second, MaxHeaderBytes: 8 << 10}
	var g errgroup.Group
	g.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	g.Go(func() error {
		if err := s.Serve(m.Listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("metrics: %w", err)
		}
		return nil
	})
	return g.Wait()
}
