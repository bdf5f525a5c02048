package seller

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/tunnel/relay"
)

// maxSocketPath is how long a unix socket's path may be, the shorter one while
// it is made included (unix(7): 108 bytes with a final zero; 104 on BSD).
const maxSocketPath = 103 - len(".new")

// parseConfig reads the content of a configuration file. It touches no other
// file.
func parseConfig(path string, content []byte) (ConfigFile, error) {
	r := &fileReader{path: path, file: ConfigFile{Path: path}}
	var err error
	if r.tree, err = parseTOML(content); err != nil {
		return ConfigFile{}, &ConfigError{Path: path, Problems: []string{err.Error()}}
	}
	if r.problems = shapeProblems(r.tree); len(r.problems) > 0 {
		return ConfigFile{}, &ConfigError{Path: path, Problems: r.problems}
	}
	fill(reflect.ValueOf(&r.raw).Elem(), r.tree)
	r.readPlaces()
	r.readLog()
	r.readModem()
	r.readPrice()
	missing := r.readPayment()
	r.readMoney()
	r.readPolicy()
	r.readPlan()
	r.readRotate()
	r.readRecovery()
	r.readSIMs()
	if len(r.problems) == 0 { // what only shows in the whole
		if _, err := r.file.Config.withDefaults(); err != nil {
			r.problems = append(r.problems, err.Error())
		}
	}
	if len(r.problems) > 0 {
		e := &ConfigError{Path: path, Problems: r.problems}
		if missing {
			e.Facilitator = r.file.Config.Payment.Facilitator
		}
		return ConfigFile{}, e
	}
	r.advise()
	return r.file, nil
}

// A fileReader turns a raw file into a ConfigFile and collects what is wrong.
type fileReader struct {
	path     string
	tree     map[string]any // the file, or a table [[sim]] of it
	sim      string         // what to call the table, "" for the file
	raw      rawFile
	file     ConfigFile
	problems []string
}

func (r *fileReader) defined(key string) bool {
	var at any = r.tree
	for name := range strings.SplitSeq(key, ".") {
		table, _ := at.(map[string]any)
		if at = table[name]; at == nil {
			return false
		}
	}
	return true
}

// complain adds a problem.
func (r *fileReader) complain(text string) { r.problems = append(r.problems, r.sim+text) }

// wanted is what the value of a key must be.
func (r *fileReader) wanted(key string) string {
	if r.sim != "" {
		key = "sim." + key
	}
	return wanted(key)
}

// take runs parse if the file sets key. An error of it is a problem with key.
func (r *fileReader) take(key string, parse func() error) {
	if !r.defined(key) {
		return
	}
	if err := parse(); err != nil {
		r.fault(key, err)
	}
}

// fault says what is wrong with a key, and what is expected. An errWant has
// nothing to add to that.
func (r *fileReader) fault(key string, err error) {
	text := key + ": "
	if !errors.Is(err, errWant) {
		text += err.Error() + "; "
	}
	r.complain(text + "want " + r.wanted(key))
}

// errWant says that a value is not what its key wants.
var errWant = errors.New("not what is wanted")

// require reports keys that must be set and are not.
func (r *fileReader) require(keys ...string) {
	for _, key := range keys {
		if !r.defined(key) {
			r.complain(key + ": missing: want " + r.wanted(key))
		}
	}
}

func (r *fileReader) usd(key, text string, into *channel.Amount, least channel.Amount) {
	r.take(key, func() (err error) {
		if *into, err = channel.ParseUSD(text); err == nil && *into < least {
			err = errWant
		}
		return err
	})
}

func (r *fileReader) number(key string, n, least, most int64, into func(int64)) {
	r.take(key, func() error {
		if n < least || n > most {
			return fmt.Errorf("%d is out of range", n)
		}
		into(n)
		return nil
	})
}

func (r *fileReader) duration(key, text string, least, most time.Duration, into func(time.Duration)) {
	r.take(key, func() error {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most || d%time.Second != 0 {
			return fmt.Errorf("%.40q", text)
		}
		into(d)
		return nil
	})
}

func (r *fileReader) readPlaces() {
	c, raw := &r.file.Config, &r.raw
	r.require("state_dir")
	r.take("state_dir", func() error {
		c.StateDir = beside(r.path, raw.StateDir)
		return notEmpty(raw.StateDir)
	})
	r.readListen()
	r.take("listen_tcp", func() error {
		if raw.ListenTCP == "none" {
			return nil
		}
		c.ListenTCP = raw.ListenTCP
		return checkListen(raw.ListenTCP)
	})
	c.KCP = raw.KCP
	r.take("relays", func() error {
		if len(raw.Relays) > agent.MaxRelays {
			return errWant
		}
		for _, text := range raw.Relays {
			name, err := relay.ParseName(text)
			if err != nil {
				return err
			}
			c.Relays = append(c.Relays, name)
		}
		return nil
	})
	r.take("control", func() error {
		c.Control = beside(r.path, raw.Control)
		return notEmpty(raw.Control)
	})
	if n := len(c.ControlPath()); n > maxSocketPath {
		r.problems = append(r.problems, fmt.Sprintf("control: the socket's path has %d bytes, at most %d are possible: set a shorter one", n, maxSocketPath))
	}
}

func notEmpty(s string) error {
	if s == "" {
		return errWant
	}
	return nil
}

// checkListen takes an address and a port, or only a port. Names are refused:
// what they mean may change.
func checkListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%.40q", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %.40q", port)
	}
	if host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("%.40q is not an IP address", host)
	}
	return nil
}

func (r *fileReader) readLog() {
	r.take("log.level", func() error {
		level := r.raw.Log.Level
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
			return fmt.Errorf("%.40q", level)
		}
		return r.file.Log.Level.UnmarshalText([]byte(level))
	})
	r.take("log.format", func() error {
		format := r.raw.Log.Format
		r.file.Log.JSON = format == "json"
		if format != "json" && format != "text" {
			return fmt.Errorf("%.40q", format)
		}
		return nil
	})
}

func (r *fileReader) readPrice() {
	p, raw := &r.file.Config.Price, &r.raw.Price
	split := r.defined("price.up") || r.defined("price.down")
	switch {
	case split && r.defined("price.per_gb"):
		r.complain("price.per_gb: remove it, or price.up and price.down: they say the same")
		return
	case split:
		r.require("price.up", "price.down")
	default:
		r.require("price.per_gb")
	}
	r.usd("price.per_gb", raw.PerGB, &p.Up, 0)
	p.Down = p.Up
	r.usd("price.up", raw.Up, &p.Up, 0)
	r.usd("price.down", raw.Down, &p.Down, 0)
	if err := p.Check(); err != nil {
		r.complain(err.Error())
	}
}

// readPayment reports whether the owner did not say what he accepts.
func (r *fileReader) readPayment() (missing bool) {
	p, raw := &r.file.Config.Payment, &r.raw.Payment
	r.require("payment.facilitator", "payment.pay_to")
	r.take("payment.facilitator", func() error {
		_, err := facilitator.NewDirect(raw.Facilitator)
		if err == nil {
			p.Facilitator = raw.Facilitator
		}
		return err
	})
	r.take("payment.pay_to", func() error { return takeAddress(raw.PayTo, &p.PayTo) })
	r.take("payment.network", func() error {
		p.Network = raw.Network
		_, err := channel.ParseNetwork(raw.Network)
		return err
	})
	r.take("payment.asset", func() error { return takeAddress(raw.Asset, &p.Asset) })
	r.take("payment.asset_name", func() error {
		p.AssetName = raw.AssetName
		return notEmpty(raw.AssetName)
	})
	r.take("payment.asset_version", func() error {
		p.AssetVersion = raw.AssetVersion
		return notEmpty(raw.AssetVersion)
	})
	const least, most = minWithdrawDelay * time.Second, maxWithdrawDelay * time.Second
	r.duration("payment.withdraw_delay", raw.WithdrawDelay, least, most, func(d time.Duration) { p.WithdrawDelay = uint64(d / time.Second) })
	r.usd("payment.min_deposit", raw.MinDeposit, &p.MinDeposit, 1)

	var absent []string
	for _, key := range []string{"payment.network", "payment.asset", "payment.asset_name", "payment.asset_version"} {
		if !r.defined(key) {
			absent = append(absent, key)
		}
	}
	if absent == nil {
		return false
	}
	r.problems = append(r.problems, strings.Join(absent, ", ")+
		": missing: you decide in what you are paid; `x402-agent check` shows what the facilitator offers, to copy from")
	return true
}

func takeAddress(s string, into *channel.Address) (err error) {
	if *into, err = channel.ParseAddress(s); err == nil && into.IsZero() {
		err = errors.New("nobody's address")
	}
	return err
}

// readMoney reads what bounds trust and load.
func (r *fileReader) readMoney() {
	c, raw := &r.file.Config, &r.raw
	r.usd("credit.cap", raw.Credit.Cap, &c.Credit.Cap, 1)
	r.usd("credit.total", raw.Credit.Total, &c.TotalCredit, 1)
	r.number("credit.loss_percent", raw.Credit.LossPercent, 1, 100, func(n int64) { c.Credit.LossPercent = uint64(n) })
	r.number("limits.sessions", raw.Limits.Sessions, 1, 10_000, func(n int64) { c.MaxSessions = int(n) })
	r.readRate()
	r.number("limits.flows", raw.Limits.Flows, 1, 10_000, func(n int64) { c.MaxFlows = int(n) })
	r.duration("settle.every", raw.Settle.Every, time.Minute, maxWithdrawDelay*time.Second, func(d time.Duration) { c.SettleEvery = d })
	r.usd("settle.at", raw.Settle.At, &c.SettleAt, 1)
}

func (r *fileReader) readPolicy() {
	p, raw := &r.file.Config.Policy, &r.raw.Policy
	r.take("policy.allow_networks", func() error { return takeNetworks(raw.AllowNetworks, &p.AllowNetworks) })
	r.take("policy.deny_networks", func() error { return takeNetworks(raw.DenyNetworks, &p.DenyNetworks) })
	r.take("policy.allow_tcp", func() error { return takePorts(raw.AllowTCP, &p.AllowTCP) })
	r.take("policy.deny_tcp", func() error { return takePorts(raw.DenyTCP, &p.DenyTCP) })
	r.take("policy.allow_udp", func() error { return takePorts(raw.AllowUDP, &p.AllowUDP) })
	r.take("policy.deny_udp", func() error { return takePorts(raw.DenyUDP, &p.DenyUDP) })
	r.readWay()
	if _, err := NewPolicy(*p); err != nil {
		r.problems = append(r.problems, err.Error())
	}
}

// takeNetworks reads prefixes. One with bits beside its length is refused: it
// may be a slip of the length.
func takeNetworks(list []string, into *[]netip.Prefix) error {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || p.Addr().Is4In6():
			return fmt.Errorf("%.60q", s)
		case p != p.Masked():
			return fmt.Errorf("%s: the network is %s", p, p.Masked())
		}
		*into = append(*into, p)
	}
	return nil
}

// takePorts reads port ranges. An empty list is not the default: it closes all
// ports.
func takePorts(list []string, into *[]PortRange) error {
	*into = []PortRange{}
	for _, s := range list {
		var p PortRange
		if p.UnmarshalText([]byte(s)) != nil {
			return fmt.Errorf("%.40q", s)
		}
		*into = append(*into, p)
	}
	return nil
}

// advise adds warnings about a file that is right as such.
func (r *fileReader) advise() {
	c := &r.file.Config
	warn := func(what, do string) { r.file.Warnings = append(r.file.Warnings, Problem{what, do}) }
	if len(c.Endpoints) == 0 && len(c.Relays) == 0 && wildcard(c.Listen) {
		warn("endpoints, relays: both missing: the offer does not say where buyers reach this agent",
			"set relays to a relay's name, or endpoints to this line's public address, such as [\"sim.example.org:4402\"], and forward the port there")
	}
	if u, err := url.Parse(c.Payment.Facilitator); err == nil && u.Scheme == "http" && !local(u.Hostname()) {
		warn("payment.facilitator: http: whoever is on the way can make up deposits", "name its https URL")
	}
}

// wildcard says whether an address to listen on is no address to reach.
func wildcard(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	addr, perr := netip.ParseAddr(host)
	return err != nil || perr != nil || addr.IsUnspecified()
}

// local says whether a host is this machine.
func local(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
