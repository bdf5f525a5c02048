// Package directory is the relay's composition root: it keeps the offers of
// the agents that are connected to a relay, answers who looks for one, and runs
// the relay of tunnel/relay/server with its configuration.
//
// An offer is taken only from the agent that signed it, on a connection that
// the same key has opened; it is listed while that connection lasts, and a
// minute longer. Nothing is kept on disk.
package directory

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// away is how long an offer is listed without its agent's connection: agents
// come back within seconds from a restart or a new address.
const away = time.Minute

// maxEntries bounds the agents that are remembered, those that are away
// included; the relay bounds those that are connected.
const maxEntries = 1 << 16

// A Directory is an index of offers. It is safe for concurrent use. It belongs
// to one relay, whose name it tells.
type Directory struct {
	name      string
	countries map[string][]string

	mu      sync.Mutex
	entries map[channel.Address]*entry
	listed  []*entry // by price; replaced when stale, never changed
	stale   bool
	swept   time.Time
}

// An entry is an agent, with its offer if it has published one. All but the
// times is fixed once the entry is listed.
type entry struct {
	agent     channel.Address
	offer     agent.Offer
	raw       json.RawMessage
	countries []string
	carrier   string // lower case
	network   string // MCC and MNC

	seen atomic.Int64 // Unix nanoseconds
	left atomic.Int64 // likewise; 0 while connected
}

// New returns an empty directory of the relay with this name.
func New(name string) *Directory {
	return &Directory{name: name, countries: countries(), entries: map[channel.Address]*entry{}}
}

// Authenticate says whether the signature is the agent's, for a hello on the
// TLS connection with this exporter.
func (d *Directory) Authenticate(a [20]byte, exporter [32]byte, signature [65]byte) error {
	signer, err := channel.Recover(agent.RelayDigest(exporter), signature)
	if err != nil {
		return err
	}
	if signer != a {
		return fmt.Errorf("signed by %s, not by %s", signer, channel.Address(a))
	}
	return nil
}

// Publish takes an offer from the agent a, whose connection it came by. An
// offer with a lower sequence number than the one before is refused, and so is
// another with the same.
func (d *Directory) Publish(a [20]byte, offer []byte) error {
	o, err := agent.ParseOffer(offer)
	if err != nil {
		return err
	}
	if o.Agent != a {
		return errors.New("offer: of another agent")
	}
	var raw bytes.Buffer
	if err := json.Compact(&raw, offer); err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	e := &entry{
		agent: a, offer: o, raw: raw.Bytes(), countries: d.countries[o.SIM.MCC],
		carrier: strings.ToLower(o.SIM.Operator), network: o.SIM.MCC + o.SIM.MNC,
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.entries[a]
	if old == nil || old.left.Load() != 0 {
		return errors.New("offer: the agent is not connected")
	}
	switch {
	case old.raw == nil || o.Seq > old.offer.Seq:
	case o.Seq == old.offer.Seq && bytes.Equal(e.raw, old.raw):
		return nil
	default:
		return fmt.Errorf("offer: sequence number %d, %d was published before", o.Seq, old.offer.Seq)
	}
	e.seen.Store(old.seen.Load())
	d.entries[a] = e
	d.stale = true
	return nil
}

// Seen says that an agent gave a sign of life, or that its connection ended.
func (d *Directory) Seen(a [20]byte, connected bool) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweep(now)
	e := d.entries[a]
	if e == nil && connected && len(d.entries) < maxEntries {
		e = &entry{agent: a}
		d.entries[a] = e
	}
	switch {
	case e == nil:
	case connected:
		e.seen.Store(now.UnixNano())
		e.left.Store(0)
	default:
		e.left.Store(now.UnixNano())
	}
}

// gone says whether an entry's agent has been away for too long.
func (e *entry) gone(now time.Time) bool {
	left := e.left.Load()
	return left != 0 && now.UnixNano()-left > int64(away)
}

// sweepEvery is how often what is gone is taken out. It is not listed before.
const sweepEvery = 10 * time.Second

// sweep forgets agents that are gone. The caller holds mu.
func (d *Directory) sweep(now time.Time) {
	if now.Sub(d.swept) < sweepEvery {
		return
	}
	d.swept = now
	for a, e := range d.entries {
		if e.gone(now) {
			delete(d.entries, a)
			d.stale = true
		}
	}
}

// list returns the entries with offers, cheapest first.
func (d *Directory) list(now time.Time) []*entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweep(now)
	if d.stale {
		d.stale = false
		fresh := make([]*entry, 0, len(d.entries))
		for _, e := range d.entries {
			if e.raw != nil {
				fresh = append(fresh, e)
			}
		}
		slices.SortFunc(fresh, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.offer.Price.Max(), b.offer.Price.Max()), bytes.Compare(a.agent[:], b.agent[:]))
		})
		d.listed = fresh
	}
	return d.listed
}
