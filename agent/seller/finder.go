package seller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/depinsim/x402/modem"
)

// A finder knows the modems of this machine and gives each to one line.
type finder struct {
	cfg   modem.FindConfig
	named []string // IMEIs that lines ask for: for no other line

	mu      sync.Mutex
	looked  bool
	found   []modem.Found
	taken   []modem.Found
	changed chan struct{} // closed, and replaced, when found has changed
}

func newFinder(cfg modem.FindConfig) *finder {
	f := &finder{cfg: cfg, changed: make(chan struct{})}
	f.cfg.Known = func() []modem.Found {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(f.taken)
	}
	return f
}

// needsFinder says whether a line looks for its modem.
func needsFinder(c Config) bool {
	return c.EveryModem || slices.ContainsFunc(c.lines(), Config.findsModem)
}

func namedIMEIs(c Config) []string {
	var named []string
	for _, l := range c.lines() {
		if l.IMEI != "" {
			named = append(named, l.IMEI)
		}
	}
	return named
}

// run looks until ctx ends and tells see of what it finds.
func (f *finder) run(ctx context.Context, see func([]modem.Found)) error {
	return modem.Watch(ctx, f.cfg, func(found []modem.Found) {
		f.see(found)
		see(found)
	})
}

func (f *finder) see(found []modem.Found) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found, f.looked = found, true
	close(f.changed)
	f.changed = make(chan struct{})
}

// news is closed when there are other modems than now. A nil finder has none.
func (f *finder) news() <-chan struct{} {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// take gives the modem with an IMEI to one line, until it is given back; ""
// is any that no line asks for.
func (f *finder) take(imei string) (m modem.Found, giveBack func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err = modem.ErrNoModem
	if !f.looked {
		err = errLooking
	}
	for _, m := range f.found {
		if imei != "" && m.IMEI != imei || imei == "" && slices.Contains(f.named, m.IMEI) || !m.There(f.cfg.Root) {
			continue
		}
		isThis := func(t modem.Found) bool { return t.Path == m.Path }
		switch {
		case m.Port == "":
			err = fmt.Errorf("modem %s: %w", m.Name(), m.Err)
			continue
		case slices.ContainsFunc(f.taken, isThis):
			continue
		}
		f.taken = append(f.taken, m)
		return m, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.taken = slices.DeleteFunc(f.taken, isThis)
		}, nil
	}
	if imei != "" {
		err = fmt.Errorf("IMEI %s: %w", imei, err)
	}
	return modem.Found{}, nil, err
}

var errLooking = errors.New("still looking for modems")
