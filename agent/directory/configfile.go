package directory

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// rawFile is a configuration file as it is written; packaging/relay.toml
// explains every key.
type rawFile struct {
	Listen   string   `toml:"listen"`
	Public   []string `toml:"public"`
	Host     string   `toml:"host"`
	KeyFile  string   `toml:"key_file"`
	CertFile string   `toml:"cert_file"`
	Ports    string   `toml:"session_ports"`
	Drain    string   `toml:"drain"`
	Metrics  string   `toml:"metrics"`

	Log struct {
		Level  string `toml:"level"`
		Format string `toml:"format"`
	} `toml:"log"`

	Limits struct {
		Agents            int64  `toml:"agents"`
		SourceAgents      int64  `toml:"source_agents"`
		Connections       int64  `toml:"connections"`
		SourceConnections int64  `toml:"source_connections"`
		Sessions          int64  `toml:"sessions"`
		AgentSessions     int64  `toml:"agent_sessions"`
		SourceSessions    int64  `toml:"source_sessions"`
		Requests          string `toml:"requests"`
		SessionRequests   string `toml:"session_requests"`
		Hellos            string `toml:"hellos"`
		SessionKBytes     int64  `toml:"session_kbytes_per_second"`
		AgentQuota        int64  `toml:"agent_gb_per_day"`
		SourceQuota       int64  `toml:"source_gb_per_day"`
	} `toml:"limits"`
}

// A ConfigFile is what a configuration file says. Config has zero fields where
// the file leaves the default.
type ConfigFile struct {
	Config Config
	Level  slog.Level
	JSON   bool // else text
}

// Handler returns a handler that logs to w as the file says.
func (f ConfigFile) Handler(w io.Writer) slog.Handler {
	opts := &slog.HandlerOptions{Level: f.Level}
	if f.JSON {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// A ConfigError lists what is wrong with a configuration file.
type ConfigError struct {
	Path     string
	Problems []string // at least one
}

func (e *ConfigError) Error() string {
	text := e.Path + ": " + e.Problems[0]
	if n := len(e.Problems) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more: `x402-relay check` lists them)", n)
	}
	return text
}

// Defaults of the file's keys.
const (
	defaultListen  = ":4433"
	defaultKeyFile = "relay.key"
	defaultDrain   = 10 * time.Second
)

// ReadConfigFile reads a configuration file. Paths in it are relative to its
// own directory. What is wrong with its content is a *ConfigError.
func ReadConfigFile(path string) (ConfigFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return ConfigFile{}, err
	}
	return parseConfig(path, string(b))
}

func parseConfig(path, content string) (ConfigFile, error) {
	raw := rawFile{Listen: defaultListen, KeyFile: defaultKeyFile, Drain: defaultDrain.String()}
	raw.Log.Level, raw.Log.Format = "info", "text"
	meta, err := toml.Decode(content, &raw)
	if err != nil {
		return ConfigFile{}, &ConfigError{path, []string{syntaxProblem(err)}}
	}
	r := &fileReader{path: path, raw: raw}
	for _, key := range meta.Undecoded() {
		r.fault("%s: there is no such key", key)
	}
	r.places()
	r.limits()
	if len(r.problems) > 0 {
		return ConfigFile{}, &ConfigError{path, r.problems}
	}
	return r.file, nil
}

// syntaxProblem puts an error of the TOML decoder into one line.
func syntaxProblem(err error) string {
	if e, ok := errors.AsType[toml.ParseError](err); ok {
		return fmt.Sprintf("line %d: %s", e.Position.Line, e.Message)
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// A fileReader turns a raw file into a ConfigFile and collects what is wrong.
type fileReader struct {
	path     string
	raw      rawFile
	file     ConfigFile
	problems []string
}

func (r *fileReader) fault(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// beside is a path as the file means it: relative to the file.
func (r *fileReader) beside(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(r.path), path)
}

func (r *fileReader) places() {
	c, raw := &r.file.Config, &r.raw
	var err error
	if c.Listen, err = listenAddress(raw.Listen); err != nil {
		r.fault("listen: %.60q; want an address and port such as ':4433' or '192.0.2.1:4433'", raw.Listen)
	}
	for _, s := range raw.Public {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.IsUnspecified() {
			r.fault("public: %.60q; want IP addresses such as ['203.0.113.7', '2001:db8::7']", s)
			continue
		}
		c.Public = append(c.Public, a.Unmap())
	}
	if len(c.Public) > 2 || len(c.Public) == 2 && c.Public[0].Is4() == c.Public[1].Is4() {
		r.fault("public: want at most one address of IPv4 and one of IPv6")
	}
	if len(c.Public) == 0 && err == nil && c.Listen.Addr().IsUnspecified() {
		r.fault("public: missing: want the IP addresses that agents and buyers reach, since listen is all addresses")
	}
	if c.Host = strings.ToLower(raw.Host); c.Host != "" {
		if n, err := relay.ParseName(relay.Name{Host: c.Host, Port: 1}.String()); err != nil || n.Host != c.Host {
			r.fault("host: %.60q; want a host name such as 'relay.example.org'", raw.Host)
		}
	}
	if c.KeyFile, c.CertFile = r.beside(raw.KeyFile), r.beside(raw.CertFile); c.KeyFile == "" {
		r.fault("key_file: want the path of a file")
	}
	if c.CertFile != "" && c.Host == "" {
		r.fault("host: missing: want the name that the certificate is for")
	}
	if c.Ports, err = portRange(raw.Ports); err != nil {
		r.fault("session_ports: %.40q; want a range such as '40000-49999', or '' for any", raw.Ports)
	}
	if c.Drain, err = time.ParseDuration(raw.Drain); err != nil || c.Drain < 0 || c.Drain > time.Hour {
		r.fault("drain: %.40q; want a time from '0s' to '1h'", raw.Drain)
	}
	c.Metrics = raw.Metrics
	if _, err := netip.ParseAddrPort(raw.Metrics); raw.Metrics != "" && err != nil {
		r.fault("metrics: %.60q; want an address and port such as '127.0.0.1:9402'", raw.Metrics)
	}
	if err := r.file.Level.UnmarshalText([]byte(raw.Log.Level)); err != nil {
		r.fault("log.level: %.20q; want 'debug', 'info', 'warn' or 'error'", raw.Log.Level)
	}
	if r.file.JSON = raw.Log.Format == "json"; !r.file.JSON && raw.Log.Format != "text" {
		r.fault("log.format: %.20q; want 'text' or 'json'", raw.Log.Format)
	}
}

// listenAddress reads [ADDRESS]:PORT; without an address it is all.
func listenAddress(s string) (netip.AddrPort, error) {
	if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	return netip.ParseAddrPort(s)
}

// portRange reads FIRST-LAST.
func portRange(s string) (p server.Ports, err error) {
	if s == "" {
		return p, nil
	}
	first, last, _ := strings.Cut(s, "-")
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err := errors.Join(err1, err2); err != nil {
		return p, err
	}
	if a == 0 || b <= a {
		return p, errors.New("want two ports, the first below the last")
	}
	return server.Ports{First: uint16(a), Last: uint16(b)}, nil
}

// Bounds of numbers in the file.
const (
	maxCount = 1_000_000
	maxGB    = 1_000_000
)

func (r *fileReader) limits() {
	l, raw := &r.file.Config.Limits, &r.raw.Limits
	for _, n := range [...]struct {
		key  string
		from int64
		into *int
	}{
		{"agents", raw.Agents, &l.Agents}, {"source_agents", raw.SourceAgents, &l.SourceAgents},
		{"connections", raw.Connections, &l.Connections}, {"source_connections", raw.SourceConnections, &l.SourceConnections},
		{"sessions", raw.Sessions, &l.Sessions}, {"agent_sessions", raw.AgentSessions, &l.AgentSessions},
		{"source_sessions", raw.SourceSessions, &l.SourceSessions},
	} {
		if n.from < 0 || n.from > maxCount {
			r.fault("limits.%s: %d; want a number up to %d, 0 for the default", n.key, n.from, maxCount)
		}
		*n.into = int(n.from)
	}
	for _, n := range [...]struct {
		key, from string
		into      *server.Rate
	}{
		{"requests", raw.Requests, &l.Requests}, {"session_requests", raw.SessionRequests, &l.SessionRequests},
		{"hellos", raw.Hellos, &l.Hellos},
	} {
		var err error
		if *n.into, err = rate(n.from); err != nil {
			r.fault("limits.%s: %.40q; want a number and a time such as '20/10s', or '' for the default", n.key, n.from)
		}
	}
	for _, n := range [...]struct {
		key  string
		from int64
		unit uint64
		into *uint64
	}{
		{"session_kbytes_per_second", raw.SessionKBytes, 1000, &l.SessionBytes},
		{"agent_gb_per_day", raw.AgentQuota, 1e9, &l.AgentQuota},
		{"source_gb_per_day", raw.SourceQuota, 1e9, &l.SourceQuota},
	} {
		if n.from < 0 || n.from > maxGB*1000 {
			r.fault("limits.%s: %d; want a number, 0 for no limit", n.key, n.from)
			continue
		}
		*n.into = uint64(n.from) * n.unit
	}
}

// rate reads N/TIME.
func rate(s string) (server.Rate, error) {
	if s == "" {
		return server.Rate{}, nil
	}
	n, per, _ := strings.Cut(s, "/")
	count, err := strconv.ParseUint(n, 10, 20)
	if err != nil || count == 0 {
		return server.Rate{}, errors.New("want a number")
	}
	d, err := time.ParseDuration(per)
	if err != nil || d < time.Second || d > time.Hour {
		return server.Rate{}, errors.New("want a time from 1s to 1h")
	}
	return server.Rate{N: int(count), Per: d}, nil
}
