package seller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/modem"
)

// A hub runs the lines of one agent, one for each SIM: each has a key, a folder,
// a socket and an offer of its own, and what befalls one is nothing to the
// others. They share the control socket, and a finder of modems.
//
//	state_dir/device.key    the root of all keys
//	state_dir/…             the line without an ID
//	state_dir/sims/ID/…     the others
type hub struct {
	cfg     Config
	log     *slog.Logger
	finder  *finder // nil: no modem is looked for
	started time.Time
	serving chan struct{} // closed by serves
	serves  func()        // a line serves buyers
	plugged chan string   // IMEIs of modems without a line; received by run

	mu    sync.Mutex
	lines []*line // as in the config; then as their modems came
}

// A line is a Seller that is run again when it fails.
type line struct {
	*Seller

	mu  sync.Mutex
	err error // why it does not run
}

// failed sets why the line does not run, nil while it does.
func (l *line) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *line) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Back-off of a line that fails, as when its port is in use.
const (
	lineRetryMin = 5 * time.Second
	lineRetryMax = 10 * time.Minute
)

// Run sells until ctx is cancelled, then drains, claims and returns nil. With
// one line its failure ends Run.
func Run(ctx context.Context, c Config) error {
	h, err := openHub(c)
	if err != nil {
		return err
	}
	err = h.run(ctx)
	for _, l := range h.all() {
		err = errors.Join(err, l.close())
	}
	return err
}

func openHub(c Config) (*hub, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &hub{cfg: c, log: c.Logger, started: time.Now(), serving: make(chan struct{}), plugged: make(chan string)}
	h.serves = sync.OnceFunc(func() { close(h.serving) })
	lines := c.lines()
	if needsFinder(c) {
		h.finder = newFinder(c.FindModems)
		h.finder.named, h.finder.cfg.Logger = namedIMEIs(c), c.Logger
	}
	for _, lc := range slices.Concat(lines, h.former(lines)) {
		if err := h.add(lc); err != nil {
			for _, l := range h.lines {
				err = errors.Join(err, l.close())
			}
			return nil, err
		}
	}
	return h, nil
}

// add opens a line.
func (h *hub) add(c Config) error {
	if c.Name != "" {
		c.Logger = h.log.With("sim", c.Name)
		if c.Modem != nil {
			m := *c.Modem
			m.Logger = c.Logger
			c.Modem = &m
		}
	}
	s, err := open(c)
	if err != nil {
		if c.Name != "" {
			err = fmt.Errorf("%s: %w", c.Name, err)
		}
		return err
	}
	s.finder, s.serves = h.finder, h.serves
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, &line{Seller: s})
	return nil
}

// former are the lines that were here once and that the config does not have any
// more: they may have vouchers to claim. With EveryModem those of modems sell
// when their modem comes. The state directory's own comes last if it is one, and
// holds the lock of the whole.
func (h *hub) former(lines []Config) []Config {
	known := func(id string) bool {
		return slices.ContainsFunc(lines, func(c Config) bool { return c.ID == id })
	}
	var found []Config
	entries, err := os.ReadDir(filepath.Join(h.cfg.StateDir, linesFolder))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.log.Error("lines of before", "err", err)
	}
	for _, e := range entries {
		if id := e.Name(); !known(id) && e.IsDir() && CheckName(id) == nil {
			found = append(found, h.lineOf(id))
		}
	}
	if !known("") {
		c := h.cfg
		c.Name, c.Plan, c.Retired = formerName, nil, true
		found = append(found, c)
	}
	return found
}

// lineOf is the line of a modem by its IMEI, or one that has no modem any more.
func (h *hub) lineOf(id string) Config {
	c := h.cfg
	c.Name, c.ID, c.StateDir = id, id, lineDir(h.cfg.StateDir, id)
	c.SIMs, c.EveryModem, c.Endpoints, c.Listen, c.ListenTCP = nil, false, nil, ":0", ""
	if c.Retired = !h.cfg.EveryModem || checkIMEI(id) != nil; c.Retired {
		c.Modem, c.Plan, c.BindTunnel, c.Policy.Interface = nil, nil, false, ""
		return c
	}
	c.IMEI, c.BindTunnel, c.Policy.Interface = id, true, InterfaceOfModem
	return c
}

// all are the lines at present.
func (h *hub) all() []*line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

// shown are the lines that the owner knows of: one that is retired is shown
// while it has channels.
func (h *hub) shown() []*line {
	return slices.DeleteFunc(h.all(), func(l *line) bool { return l.cfg.Retired && len(l.payee.All()) == 0 })
}

// single says whether there is one line, and will not be another.
func (h *hub) single() bool { return len(h.cfg.SIMs) == 0 && !h.cfg.EveryModem }

// named is the line with a name, or all that are shown for "".
func (h *hub) named(name string) ([]*line, error) {
	shown := h.shown()
	if name == "" {
		return shown, nil
	}
	var names []string
	for _, l := range shown {
		if l.cfg.Name == name {
			return []*line{l}, nil
		}
		if l.cfg.Name != "" {
			names = append(names, l.cfg.Name)
		}
	}
	if names == nil {
		return nil, fmt.Errorf("no SIM %.40q: this agent has none with a name", name)
	}
	return nil, fmt.Errorf("no SIM %.40q: there is %s", name, strings.Join(names, ", "))
}

func (h *hub) run(ctx context.Context) error {
	control, err := agent.ListenPrivate(h.cfg.ControlPath())
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.serveControl(gctx, control) })
	g.Go(func() error { return h.sayReady(gctx) })
	if h.finder != nil {
		g.Go(func() error { return h.finder.run(gctx, func(found []modem.Found) { h.see(gctx, found) }) })
	}
	for _, l := range h.all() {
		g.Go(func() error { return h.runLine(gctx, l) })
	}
	if h.cfg.EveryModem {
		g.Go(func() error { return h.welcome(gctx, g) })
	}
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// see passes on modems that may have no line yet.
func (h *hub) see(ctx context.Context, found []modem.Found) {
	if !h.cfg.EveryModem {
		return
	}
	for _, m := range found {
		if checkIMEI(m.IMEI) != nil {
			h.log.Warn("a modem cannot be sold", "at", m.Path, "err", m.Err)
			continue
		}
		select {
		case h.plugged <- m.IMEI:
		case <-ctx.Done():
			return
		}
	}
}

// maxLines bounds the lines of an agent: IMEIs come from devices.
const maxLines = 64

// welcome makes a line of every modem that comes and has none.
func (h *hub) welcome(ctx context.Context, g *errgroup.Group) error {
	for {
		var imei string
		select {
		case <-ctx.Done():
			return nil
		case imei = <-h.plugged:
		}
		lines := h.all()
		if slices.ContainsFunc(lines, func(l *line) bool { return l.cfg.IMEI == imei || l.cfg.ID == imei }) {
			continue
		}
		if len(lines) >= maxLines {
			h.log.Warn("too many modems: one is not sold", "imei", imei, "lines", len(lines))
			continue
		}
		if err := h.add(h.lineOf(imei)); err != nil {
			h.log.Error("a modem cannot be sold", "imei", imei, "err", err)
			continue
		}
		lines = h.all()
		l := lines[len(lines)-1] // only this goroutine adds
		g.Go(func() error { return h.runLine(ctx, l) })
	}
}

// sayReady tells the owner of the config when a line serves buyers.
func (h *hub) sayReady(ctx context.Context) error {
	select {
	case <-h.serving:
	case <-ctx.Done():
		return nil
	}
	if h.cfg.Ready == nil {
		return nil
	}
	st, err := h.status("")
	if err != nil {
		return err
	}
	return h.cfg.Ready(st)
}

// runLine runs a line until ctx ends, again and again when it is one of several.
func (h *hub) runLine(ctx context.Context, l *line) error {
	for wait := lineRetryMin; ; wait = min(2*wait, lineRetryMax) {
		began := time.Now()
		l.failed(nil)
		err := l.run(ctx)
		if ctx.Err() != nil || h.single() {
			return err
		}
		l.failed(err)
		if time.Since(began) > lineRetryMax {
			wait = lineRetryMin
		}
		l.log.Error("the line failed; it will be tried again", "err", err, "after", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait + rand.N(wait/4)):
		}
	}
}

// CheckName says whether something may name a line, whose folder has the name.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 32 && name[0] != '.' && name[0] != '-'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		return fmt.Errorf("%.40q", name)
	}
	return nil
}

// checkIMEI wants 15 digits (3GPP TS 23.003 clause 6.2.1).
func checkIMEI(imei string) error {
	if len(imei) != 15 || strings.Trim(imei, "0123456789") != "" {
		return fmt.Errorf("%.40q", imei)
	}
	return nil
}
