package directory

import (
	"context"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/carrier"
)

// checked is what this relay found of an agent's SIM by the address that the
// agent's connection comes from.
type checked struct {
	carrier.Finding
	members []byte // of the listing's JSON, with a comma before each
}

// check compares the offer with the network that it came from.
func (e *entry) check(n *carrier.Networks) {
	if n == nil {
		e.checked.Store(nil)
		return
	}
	f := carrier.Judge(e.offer.SIM, e.from, n)
	object := marshal(f)
	e.checked.Store(&checked{f, append([]byte{','}, object[1:len(object)-1]...)})
}

// SetNetworks has all offers, and those to come, checked by a table; nil
// is none.
func (d *Directory) SetNetworks(n *carrier.Networks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.networks = n
	for _, e := range d.entries {
		e.check(n)
	}
}

// checks says whether carriers are checked here.
func (d *Directory) checks() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.networks != nil
}

// evidence is what a buyer may take the SIM's claims for.
func (e *entry) evidence() string {
	if c := e.checked.Load(); c != nil {
		return c.Evidence
	}
	return agent.EvidenceClaimed
}

// openNetworks reads the table, if there is one.
func (c Config) openNetworks(d *Directory) (*carrier.Files, error) {
	if len(c.Networks) == 0 {
		return nil, nil
	}
	files, n, err := carrier.Open(c.Networks...)
	if err == nil {
		d.SetNetworks(n)
		c.Logger.Info("networks", "ranges", n.Len())
	}
	return files, err
}

// watchNetworks reads the table again when its files have changed, until ctx
// ends. One that cannot be read leaves the former in place.
func (c Config) watchNetworks(ctx context.Context, d *Directory, files *carrier.Files) error {
	if len(c.Networks) == 0 {
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch n, err := files.Changed(); {
		case err != nil:
			c.Logger.Warn("the table of networks stays as it was", "err", err)
		case n != nil:
			d.SetNetworks(n)
			c.Logger.Info("networks", "ranges", n.Len())
		}
	}
}
