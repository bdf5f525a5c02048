package directory

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// Defaults of the file.
const (
	defaultPort  = 4433
	defaultDrain = 10 * time.Second
	// defaultKeyFile is beside the config file.
	defaultKeyFile = "relay.key"
)

// rawFile holds what is read of a file until the whole is known.
type rawFile struct {
	file   *ConfigFile
	listen netip.AddrPort
	public struct {
		host string
		port uint16
	}
	problems []string
	faulty   map[string]bool
}

// fault says what is wrong with a key, and what is expected. An errWant has
// nothing to add to that.
func (r *rawFile) fault(k key, err error) {
	switch {
	case err == nil || r.faulty[k.name]:
		return
	case errors.Is(err, errWant):
		r.problems = append(r.problems, k.name+": want "+k.want)
	default:
		r.problems = append(r.problems, k.name+": "+err.Error()+"; want "+k.want)
	}
	r.faulty[k.name] = true
}

// keys are all that a file may say.
func (r *rawFile) keys() []key {
	c, log, l := &r.file.Config, &r.file.Log, &r.file.Config.Limits
	return []key{
		{"listen", "an address such as ':4433' or '192.0.2.1:443'", func(v any) (err error) {
			s, _ := v.(string)
			r.listen, err = parseListen(s)
			return err
		}},
		{"public", "HOST:PORT such as 'relay.example.org:4433'", func(v any) (err error) {
			s, _ := v.(string)
			r.public.host, r.public.port, err = splitPublic(s)
			return err
		}},
		{"addresses", "a list of at most two IP addresses, such as ['192.0.2.1', '2001:db8::1']", func(v any) error { return takeAddresses(&c.Public, v) }},
		{"key_file", "the path of a PEM file", r.path(&c.KeyFile)},
		{"cert_file", "the path of a PEM file", r.path(&c.CertFile)},
		{"networks", "a list of at most 8 paths of files", func(v any) error { return r.takeFiles(&c.Networks, v) }},
		{"session_ports", "a range of ports such as '20000-29999'", func(v any) error { return takePorts(&c.Ports, v) }},
		{"drain", "a time from '0s' to '10m'", func(v any) error { return takeDuration(&c.Drain, v, 10*time.Minute) }},

		{"limits.offers", "a number from 1 to 1000000", number(&c.Offers, 1_000_000)},
		{"limits.agents", "a number from 1 to 1000000", number(&l.Agents, 1_000_000)},
		{"limits.source_agents", "a number from 1 to 1000000", number(&l.SourceAgents, 1_000_000)},
		{"limits.connections", "a number from 1 to 1000000", number(&l.Connections, 1_000_000)},
		{"limits.source_connections", "a number from 1 to 1000000", number(&l.SourceConnections, 1_000_000)},
		{"limits.sessions", "a number from 1 to 100000", number(&l.Sessions, 100_000)},
		{"limits.agent_sessions", "a number from 1 to 100000", number(&l.AgentSessions, 100_000)},
		{"limits.source_sessions", "a number from 1 to 100000", number(&l.SourceSessions, 100_000)},
		{"limits.source_requests", "a number from 1 to 100000", rate(&l.Requests, 10*time.Second)},
		{"limits.source_session_requests", "a number from 1 to 100000", rate(&l.SessionRequests, 10*time.Second)},
		{"limits.source_hellos", "a number from 1 to 100000", rate(&l.Hellos, time.Minute)},
		{"limits.session_mbits", "a number from 1 to 100000", units(&l.SessionBytes, 1_000_000/8)},
		{"limits.agent_gb_per_day", "a number from 1 to 100000", units(&l.AgentQuota, 1_000_000_000)},
		{"limits.source_gb_per_day", "a number from 1 to 100000", units(&l.SourceQuota, 1_000_000_000)},

		{"metrics.listen", "an address such as '127.0.0.1:9403', or 'none'", func(v any) error { return takeMetrics(&c.Metrics, v) }},

		{"log.level", "'debug', 'info', 'warn' or 'error'", func(v any) error {
			level, ok := v.(string)
			if !ok || !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
				return errWant
			}
			return log.Level.UnmarshalText([]byte(level))
		}},
		{"log.format", "'text' or 'json'", func(v any) error {
			log.JSON = v == "json"
			if v != "json" && v != "text" {
				return errWant
			}
			return nil
		}},
	}
}

func takeText(into *string, v any) error {
	*into, _ = v.(string)
	if *into == "" {
		return errWant
	}
	return nil
}

func (r *rawFile) path(into *string) func(any) error {
	return func(v any) error {
		err := takeText(into, v)
		*into = r.file.beside(*into)
		return err
	}
}

// maxFiles is how many files a table of networks may have.
const maxFiles = 8

func (r *rawFile) takeFiles(into *[]string, v any) error {
	list, ok := v.([]any)
	if !ok || len(list) > maxFiles {
		return errWant
	}
	for _, v := range list {
		var path string
		if err := r.path(&path)(v); err != nil {
			return err
		}
		*into = append(*into, path)
	}
	return nil
}

func takeNumber(v any, most int64) (int64, error) {
	n, ok := v.(int64)
	if !ok {
		return 0, errWant
	}
	if n < 1 || n > most {
		return 0, fmt.Errorf("%d is out of range", n)
	}
	return n, nil
}

func number(into *int, most int64) func(any) error {
	return func(v any) error {
		n, err := takeNumber(v, most)
		*into = int(n)
		return err
	}
}

const maxUnits = 100_000

func rate(into *server.Rate, per time.Duration) func(any) error {
	return func(v any) error {
		n, err := takeNumber(v, maxUnits)
		*into = server.Rate{N: int(n), Per: per}
		return err
	}
}

func units(into *uint64, bytes uint64) func(any) error {
	return func(v any) error {
		n, err := takeNumber(v, maxUnits)
		*into = uint64(n) * bytes
		return err
	}
}

func takeDuration(into *time.Duration, v any, most time.Duration) (err error) {
	s, ok := v.(string)
	if !ok {
		return errWant
	}
	if *into, err = time.ParseDuration(s); err != nil || *into < 0 || *into > most {
		return fmt.Errorf("%.40q", s)
	}
	return nil
}

func takeAddresses(into *[]netip.Addr, v any) error {
	list, ok := v.([]any)
	if !ok || len(list) > 2 {
		return errWant
	}
	for _, v := range list {
		s, _ := v.(string)
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil || a.Zone() != "" || a.IsUnspecified():
			return fmt.Errorf("%.60q", s)
		case len(*into) == 1 && (*into)[0].Is4() == a.Unmap().Is4():
			return errors.New("two of one kind")
		}
		*into = append(*into, a.Unmap())
	}
	return nil
}

func takePorts(into *server.Ports, v any) error {
	s, _ := v.(string)
	first, last, ok := strings.Cut(s, "-")
	a, aerr := strconv.ParseUint(first, 10, 16)
	b, berr := strconv.ParseUint(last, 10, 16)
	if !ok || aerr != nil || berr != nil || a == 0 || b <= a {
		return fmt.Errorf("%.40q", s)
	}
	*into = server.Ports{First: uint16(a), Last: uint16(b)}
	return nil
}

// takeMetrics takes an address to listen on that is not a name: what a name
// means may change.
func takeMetrics(into *string, v any) error {
	s, _ := v.(string)
	if s == "none" {
		return nil
	}
	at, err := parseListen(s)
	*into = at.String()
	return err
}

// parseListen takes an address and a port, or only a port for all addresses.
func parseListen(s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%.60q", s)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %.40q", port)
	}
	a := netip.IPv6Unspecified()
	if host != "" {
		if a, err = netip.ParseAddr(host); err != nil || a.Zone() != "" {
			return netip.AddrPort{}, fmt.Errorf("%.60q is not an IP address", host)
		}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// readPlace finds what is missing, and what does not go together.
func (r *rawFile) readPlace(keys []key) {
	c := &r.file.Config
	named := func(name string) key { return keys[slices.IndexFunc(keys, func(k key) bool { return k.name == name })] }
	c.Listen, c.Host = r.listen, r.public.host
	port := c.Listen.Port()
	switch {
	case c.Host == "" && (r.faulty["listen"] || c.Listen.Addr().IsUnspecified()):
		r.fault(named("public"), errMissing)
	case c.Host == "": // it is listen's address
	case !r.faulty["listen"] && r.public.port != port:
		r.fault(named("public"), fmt.Errorf("port %d, and listen has port %d", r.public.port, port))
	}
	if c.KeyFile == "" {
		c.KeyFile = r.file.beside(defaultKeyFile)
	}
	if p := c.Ports; p.First != 0 && p.First <= port && port <= p.Last {
		r.fault(named("session_ports"), fmt.Errorf("listen's port %d is in it", port))
	}
}

// errMissing says that a key must be set.
var errMissing = errors.New("missing")

// splitPublic reads HOST:PORT by the rules of a relay's name. Port 0 means that
// listen's is not known yet.
func splitPublic(s string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%.60q", s)
	}
	if p == "0" {
		s = net.JoinHostPort(host, "1")
	}
	n, err := relay.ParseName(s)
	if err != nil || n.Pinned {
		return "", 0, fmt.Errorf("%.60q", s)
	}
	if a, err := netip.ParseAddr(n.Host); err == nil && a.IsUnspecified() {
		return "", 0, fmt.Errorf("%s is no address that can be reached", a)
	}
	if p == "0" {
		return n.Host, 0, nil
	}
	return n.Host, n.Port, nil
}

// defaultSessions is the server's, to give advice by.
const defaultSessions = 4_000

// advice are warnings about a file that is right as such.
func (c Config) advice() (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	sessions := cmp.Or(c.Limits.Sessions, defaultSessions)
	if n := int(c.Ports.Last) - int(c.Ports.First) + 1; c.Ports.First != 0 && n < 2*sessions {
		warn("session_ports: %d ports are enough for %d sessions, and limits.sessions is %d: each takes two", n, n/2, sessions)
	}
	if at, err := netip.ParseAddrPort(c.Metrics); err == nil && !at.Addr().IsLoopback() {
		warn("metrics.listen: who reaches %s sees the relay's figures", c.Metrics)
	}
	return warnings
}
