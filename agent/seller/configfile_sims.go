package seller

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
)

// What is read here is of one SIM: from the file, or from a table [[sim]] of it.

// pinGuardFile is the file of the line's folder that records which PINs were sent
// to which cards.
const pinGuardFile = "pins"

// mainName is the name of the line that [modem] is beside tables [[sim]];
// formerName that of one that is no more.
const (
	mainName   = "main"
	formerName = "former"
)

// Values of modem.port that are no port.
const (
	portNone = "none"
	portAuto = "auto"
	portAll  = "all"
)

func (r *fileReader) readListen() {
	c, raw := &r.file.Config, &r.raw
	r.take("listen", func() error {
		c.Listen = raw.Listen
		return checkListen(raw.Listen)
	})
	r.take("endpoints", func() error {
		c.Endpoints = raw.Endpoints
		for _, e := range raw.Endpoints {
			if err := agent.CheckEndpoint(e); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *fileReader) readRate() {
	r.number("limits.mbits", r.raw.Limits.Mbits, 1, 100_000, func(n int64) { r.file.Config.Rate = uint64(n) * 1_000_000 / 8 })
}

func (r *fileReader) readRotate() {
	p, raw := &r.file.Config.Rotate, &r.raw.Rotate
	r.duration("rotate.every", raw.Every, time.Minute, 720*time.Hour, func(d time.Duration) { p.Every = d })
	r.duration("rotate.hold", raw.Hold, time.Second, maxHold, func(d time.Duration) { p.Hold = d })
	r.duration("rotate.between", raw.Between, 10*time.Second, 720*time.Hour, func(d time.Duration) { p.Between = d })
	r.take("rotate.echo", func() error {
		u, err := url.Parse(raw.Echo)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
			return fmt.Errorf("%.60q", raw.Echo)
		}
		p.Echo = raw.Echo
		return nil
	})
	if r.defined("rotate.price") {
		p.Price = new(channel.Amount)
		r.usd("rotate.price", raw.Price, p.Price, 0)
	}
	r.number("rotate.tries", raw.Tries, 1, 10, func(n int64) { p.Tries = int(n) })
	if c := &r.file.Config; p.Every > 0 && (c.Modem == nil || len(c.Relays) == 0 && p.Echo == "") && len(r.raw.SIM) == 0 {
		r.complain("rotate.every: it needs a modem, and somebody who sees the address: set modem.port, and relays or rotate.echo")
	}
}

func (r *fileReader) readRecovery() {
	p, raw := &r.file.Config.Recovery, &r.raw.Recovery
	if r.defined("recovery.enabled") {
		p.Off = !raw.Enabled
	}
	if r.file.Config.EveryModem {
		r.forbid("it would cut the power of one modem for another: use a table [[sim]] for each", "recovery.power_command", "recovery.power_file", "recovery.gpio_chip")
	}
	p.Power.Command, p.Power.File, p.Power.Chip = raw.Command, raw.File, raw.Chip
	r.number("recovery.gpio_line", raw.Line, 0, 1023, func(n int64) { p.Power.Line = int(n) })
	p.Power.ActiveLow = raw.ActiveLow
	r.duration("recovery.power_off", raw.Off, time.Second, time.Minute, func(d time.Duration) { p.Power.OffTime = d })
	if _, err := modem.NewRecovery(modem.RecoveryConfig{Power: p.Power}); err != nil {
		r.complain("recovery: " + err.Error())
	}
}

func (r *fileReader) readWay() {
	c := &r.file.Config
	r.take("policy.interface", func() error {
		c.Policy.Interface = r.raw.Policy.Interface
		return notEmpty(c.Policy.Interface)
	})
	r.take("bind_tunnel", func() error {
		c.BindTunnel = r.raw.BindTunnel
		return nil
	})
}

// readModem reads where the SIM is.
func (r *fileReader) readModem() {
	raw, c := &r.raw.Modem, &r.file.Config
	c.Modem, c.IMEI = nil, ""
	if r.sim == "" && len(r.raw.SIM) > 0 && !r.defined("modem") {
		return // each table has its own
	}
	port := raw.Port
	if r.defined("modem.imei") && !r.defined("modem.port") {
		port = portAuto
	} else {
		r.require("modem.port")
	}
	r.take("modem.port", func() error { return notEmpty(port) })
	r.take("modem.imei", func() error {
		c.IMEI = raw.IMEI
		return checkIMEI(raw.IMEI)
	})
	switch {
	case r.defined("modem.imei") && port != portAuto:
		r.complain("modem.imei: remove it, or set modem.port to 'auto': a port is one modem")
	case port == portNone:
		r.forbid("there is no modem: modem.port is 'none'", "modem.baud", "modem.pin", "modem.pin_file", "modem.new_sim")
		return
	case port == portAll && r.sim != "":
		r.complain("modem.port: 'all' stands in the table [modem] only")
	case port == portAll:
		c.EveryModem = true
		r.forbid("modem.port is 'all', and each SIM has its own: use a table [[sim]] for each", "modem.pin", "modem.pin_file")
	}
	m := &modem.Config{}
	if port != portAuto && port != portAll {
		m.Port = beside(r.path, port)
	}
	c.Modem = m
	r.take("modem.new_sim", func() error {
		c.SellNewSIM = raw.NewSIM == "sell"
		if raw.NewSIM != "sell" && raw.NewSIM != "ask" {
			return errWant
		}
		return nil
	})
	r.number("modem.baud", raw.Baud, 300, 4_000_000, func(n int64) { m.Baud = int(n) })
	r.readPIN(m)
}

// forbid complains of keys that are set in vain.
func (r *fileReader) forbid(why string, keys ...string) {
	for _, key := range keys {
		if r.defined(key) {
			r.complain(key + ": " + why)
		}
	}
}

func (r *fileReader) readPIN(m *modem.Config) {
	raw := &r.raw.Modem
	if r.defined("modem.pin") && r.defined("modem.pin_file") {
		r.complain("modem.pin: remove it, or modem.pin_file: there is one PIN")
		return
	}
	if r.defined("modem.pin") || r.defined("modem.pin_file") {
		m.PINGuard = filepath.Join(r.file.Config.StateDir, pinGuardFile)
	}
	r.take("modem.pin", func() (err error) {
		if m.PIN, err = modem.ParsePIN(raw.PIN); err != nil {
			return errWant
		}
		return nil
	})
	r.take("modem.pin_file", func() error {
		r.file.pinFiles = append(r.file.pinFiles, pinFile{beside(r.path, raw.PINFile), m, r.sim + "modem.pin_file"})
		return notEmpty(raw.PINFile)
	})
}

// readSIMs makes a line of each table [[sim]]. What a table does not set is as in
// the file, but for what only one line can have.
func (r *fileReader) readSIMs() {
	c := &r.file.Config
	tables, _ := r.tree["sim"].([]map[string]any)
	several := len(tables) > 0 || c.EveryModem
	if !several {
		return
	}
	base := *c
	base.Control, base.EveryModem, base.FindModems = "", false, modem.FindConfig{}
	if r.defined("modem") && !c.EveryModem {
		main := base
		main.Name = mainName
		if !r.defined("bind_tunnel") {
			main.BindTunnel = main.Policy.Interface != ""
		}
		c.SIMs = append(c.SIMs, main)
	}
	for i, table := range tables {
		sub := &fileReader{path: r.path, tree: table, sim: fmt.Sprintf("sim %d: ", i+1), file: ConfigFile{Config: base}}
		sub.readSIM(r.raw.SIM[i], len(c.SIMs))
		if !sub.defined("bind_tunnel") && r.defined("bind_tunnel") {
			sub.file.Config.BindTunnel = r.raw.BindTunnel
		}
		c.SIMs = append(c.SIMs, sub.file.Config)
		r.problems = append(r.problems, sub.problems...)
		r.file.pinFiles = append(r.file.pinFiles, sub.file.pinFiles...)
	}
	r.checkSIMs()
	// What follows from the lines is theirs.
	c.BindTunnel, c.Policy.Interface, c.ListenTCP = false, "", ""
	if !c.EveryModem {
		c.Modem, c.IMEI, c.Plan = nil, "", nil
	} else if c.Plan != nil {
		c.Plan.Interface = InterfaceOfModem
	}
}

// readSIM reads one table; index is the line's.
func (r *fileReader) readSIM(raw rawSIM, index int) {
	c := &r.file.Config
	root := c.StateDir
	r.take("name", func() error {
		c.Name = raw.Name
		if raw.Name == mainName || raw.Name == formerName {
			return fmt.Errorf("%q has a meaning of its own", raw.Name)
		}
		return CheckName(raw.Name)
	})
	if c.Name != "" {
		r.sim = fmt.Sprintf("sim %q: ", c.Name)
	}
	r.raw.Modem, r.raw.Price, r.raw.Listen, r.raw.Endpoints, r.raw.BindTunnel = raw.Modem, raw.Price, raw.Listen, raw.Endpoints, raw.BindTunnel
	r.raw.Limits.Mbits, r.raw.Policy.Interface = raw.Limits.Mbits, raw.Policy.Interface
	if c.ID = raw.Modem.IMEI; c.ID == "" {
		c.ID = c.Name
	}
	if c.ID == "" {
		r.complain("name: missing: want " + r.wanted("name"))
		return
	}
	if c.Name == "" {
		c.Name = c.ID
	}
	c.StateDir = lineDir(root, c.ID)
	c.Endpoints, c.ListenTCP, c.Policy.Interface = nil, "", ""
	if !r.defined("listen") {
		c.Listen = r.nextPort(c.Listen, index)
	}
	r.readListen()
	r.readModem()
	if r.defined("price") {
		r.readPrice()
	}
	r.readRate()
	r.raw.Plan = raw.Plan
	if r.defined("plan") {
		r.readPlan()
	} else if c.Plan != nil { // as the file's, but what is used of that
		p := *c.Plan
		p.Used, p.UsedOn, p.Interface = 0, time.Time{}, ""
		c.Plan = &p
	}
	r.raw.Rotate, r.raw.Recovery = raw.Rotate, raw.Recovery
	r.readRotate()
	r.readRecovery() // the power is each modem's own
	if c.findsModem() {
		c.Policy.Interface = InterfaceOfModem
	} else {
		r.require("policy.interface")
	}
	c.BindTunnel = true
	r.readWay()
}

// nextPort is a listening address whose port is some further.
func (r *fileReader) nextPort(listen string, further int) string {
	if listen == "" {
		listen = defaultListen
	}
	host, text, err := net.SplitHostPort(listen)
	port, perr := strconv.Atoi(text)
	switch {
	case errors.Join(err, perr) != nil || port == 0: // or a problem already
		return listen
	case port+further > 65535:
		r.complain("listen: missing: there is no port so far above the file's: want " + r.wanted("listen"))
	}
	return net.JoinHostPort(host, strconv.Itoa(port+further))
}

// checkSIMs looks for what two lines cannot both have.
func (r *fileReader) checkSIMs() {
	lines := r.file.Config.SIMs
	for i, c := range lines {
		for _, before := range lines[:i] {
			twice := func(same bool, what string) {
				if same {
					r.complain(fmt.Sprintf("sim: %s and %s have the same %s", before.Name, c.Name, what))
				}
			}
			samePort := c.Modem != nil && before.Modem != nil && c.Modem.Port == before.Modem.Port
			twice(c.Name == before.Name, "name")
			twice(c.ID == before.ID, "modem.imei")
			twice(samePort && c.IMEI == before.IMEI && c.ID != before.ID, "modem.port; set modem.imei")
			listen := cmp.Or(c.Listen, defaultListen)
			twice(listen == cmp.Or(before.Listen, defaultListen) && !strings.HasSuffix(listen, ":0"), "listen")
		}
	}
	if r.file.Config.EveryModem && slices.ContainsFunc(lines, func(c Config) bool { return c.findsModem() && c.IMEI == "" }) {
		r.complain("sim: modem.port: 'auto' is any modem, and [modem] has them all: set modem.imei")
	}
	for _, c := range lines {
		if len(r.problems) > 0 {
			return
		}
		if _, err := c.withDefaults(); err != nil {
			r.complain(c.Name + ": " + err.Error())
		}
	}
}
