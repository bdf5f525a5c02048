// Package directory is a relay's index of offers, and the relay's composition
// root: [Run] starts a tunnel/relay/server with a [Directory].
//
// A Directory lists what agents publish over their control connections, and
// nothing else: an offer is signed by its agent, comes from that agent itself,
// names this relay, and leaves a minute after the agent has gone. So it vouches
// for who offers and that he is there, not for what he says of himself: only
// for whether he comes from a network of the carrier that he names, where its
// operator supplied a table of networks.
//
//	GET /v1/offers            what a buyer may choose from, cheapest first
//	GET /discovery/resources  the same in the x402 standard's discovery format
//
// It is in memory only and bounded; after a restart agents publish again within
// seconds.
package directory

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

const (
	// maxOffers is how many offers are listed unless told otherwise: at most
	// 8 KiB each, and about 1 in practice.
	maxOffers = 20_000
	// linger is how long an offer outlives its agent's connection: agents
	// return from an outage within seconds.
	linger = time.Minute
)

// Options say what a Directory lists.
type Options struct {
	// Name is the relay's, which offers have to name.
	Name relay.Name
	// Offers is the most that are listed; 0: 20,000.
	Offers int
	// Toll is what the relay asks for passing packets on (toll.Tariff); empty:
	// nothing.
	Toll json.RawMessage
	// Resources are the relay's own that are listed before the offers, as
	// /discovery/resources has them; nil: it has none. at is the relay's URL.
	Resources func(ctx context.Context, at string) []json.RawMessage
}

// A Directory is an index of offers. It is safe for concurrent use. It
// implements the relay server's Directory.
type Directory struct {
	name relay.Name
	most int
	toll json.RawMessage
	own  func(ctx context.Context, at string) []json.RawMessage
	salt uint64 // of the order in which /discovery/resources lists
	// rotate passes a rotation link on to its agent; nil: nobody does.
	rotate func(ctx context.Context, agent relay.Address, link string) ([]byte, error)

	mu       sync.RWMutex
	entries  map[channel.Address]*entry
	swept    time.Time
	networks *carrier.Networks // nil: nothing is checked
}

// An entry is an agent's offer. All but the atomics is fixed.
type entry struct {
	offer     agent.Offer
	signed    []byte // compact JSON
	price     uint64 // of the dearer direction
	both      uint64 // of both directions' prices, their sum
	country   string // ISO 3166-1 alpha-2, more than one where a code is shared
	carrier   string // names, lower case
	tech      string // lower case
	from      netip.Addr
	published time.Time

	checked atomic.Pointer[checked] // nil: not

	seen atomic.Int64 // the agent's last sign of life, Unix nanoseconds
	gone atomic.Int64 // when its connection ended; 0: it lasts
}

// New returns an empty Directory.
func New(o Options) *Directory {
	if o.Offers == 0 {
		o.Offers = maxOffers
	}
	return &Directory{name: o.Name, most: o.Offers, toll: o.Toll, own: o.Resources, salt: rand.Uint64(), entries: map[channel.Address]*entry{}}
}

// Authenticate says whether the signature, over the TLS connection with this
// exporter, is the agent's.
func (d *Directory) Authenticate(who [20]byte, exporter [32]byte, signature [65]byte) error {
	signer, err := channel.Recover(agent.RelayDigest(exporter), channel.Signature(signature))
	if err != nil {
		return err
	}
	if signer != channel.Address(who) {
		return fmt.Errorf("signed by %s", signer)
	}
	return nil
}

// Publish lists an offer that came from the agent itself, in place of an older
// one; an empty one withdraws that. What is wrong with the offer is for the
// agent to hear.
func (d *Directory) Publish(who [20]byte, from netip.Addr, signed []byte) error {
	if len(signed) == 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.entries, channel.Address(who))
		return nil
	}
	e, err := d.newEntry(channel.Address(who), signed)
	if err != nil {
		return err
	}
	e.from = from
	d.mu.Lock()
	defer d.mu.Unlock()
	e.check(d.networks)
	if e.published.Sub(d.swept) >= linger || len(d.entries) >= d.most {
		d.sweep(e.published)
	}
	old := d.entries[e.offer.Agent]
	switch {
	case old == nil && len(d.entries) >= d.most:
		return fmt.Errorf("offer: this relay has room for %d and no more", d.most)
	case old == nil:
	case bytes.Equal(e.signed, old.signed): // the agent came back
		e.published = old.published
	case e.offer.Seq <= old.offer.Seq:
		return fmt.Errorf("offer: its seq is %d, and that of the one before is %d", e.offer.Seq, old.offer.Seq)
	}
	d.entries[e.offer.Agent] = e
	return nil
}

func (d *Directory) newEntry(who channel.Address, signed []byte) (*entry, error) {
	o, err := agent.ParseOffer(signed)
	if err != nil {
		return nil, err
	}
	if o.Agent != who {
		return nil, fmt.Errorf("offer: it is %s's, and you are %s", o.Agent, who)
	}
	if !d.namedBy(o) {
		return nil, fmt.Errorf("offer: it does not name this relay, %s", d.name)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, signed); err != nil {
		return nil, fmt.Errorf("offer: %w", err)
	}
	e := &entry{
		offer: o, signed: compact.Bytes(), published: time.Now(),
		price: uint64(o.Price.Max()), both: uint64(o.Price.Up) + uint64(o.Price.Down), // each at most agent.MaxPrice
		country: strings.Join(carrier.Countries(o.SIM), " "), carrier: strings.ToLower(strings.Join(carrier.Names(o.SIM), "\n")),
		tech: strings.ToLower(o.SIM.Technology),
	}
	e.seen.Store(e.published.UnixNano())
	return e, nil
}

// namedBy says whether buyers who read the offer come to this relay. Who named
// it without its pin has its certificate verified.
func (d *Directory) namedBy(o agent.Offer) bool {
	for _, text := range o.Relays {
		n, err := relay.ParseName(text)
		if err == nil && n.Address() == d.name.Address() && (n == d.name || !n.Pinned) {
			return true
		}
	}
	return false
}

// Seen notes an agent's sign of life, or that its connection has ended.
func (d *Directory) Seen(who [20]byte, connected bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.entries[channel.Address(who)]
	switch now := time.Now().UnixNano(); {
	case e == nil: // it has published nothing yet
	case connected:
		e.seen.Store(now)
		e.gone.Store(0)
	default:
		e.gone.Store(now)
	}
}

// expired says whether the agent has been gone for too long.
func (e *entry) expired(now time.Time) bool {
	gone := e.gone.Load()
	return gone != 0 && now.UnixNano()-gone >= int64(linger)
}

// sweep forgets whom queries do not find any more. The caller holds the lock.
func (d *Directory) sweep(now time.Time) {
	d.swept = now
	for who, e := range d.entries {
		if e.expired(now) {
			delete(d.entries, who)
		}
	}
}

// Len is how many offers are listed.
func (d *Directory) Len() int { return len(d.matching(func(*entry) bool { return true })) }

// matching returns the listed entries that match says, in no order.
func (d *Directory) matching(match func(*entry) bool) []*entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var found []*entry
	now := time.Now()
	for _, e := range d.entries {
		if !e.expired(now) && match(e) {
			found = append(found, e)
		}
	}
	return found
}

// draw is an agent's place in the order that a salt makes. Every step permutes
// the 64-bit numbers (the mixing is SplitMix64's), so that under a random salt
// each address has each place with the same chance, however its owner chose it.
func draw(salt uint64, who channel.Address) uint64 {
	x := mix(salt ^ binary.BigEndian.Uint64(who[:8]))
	x = mix(x ^ binary.BigEndian.Uint64(who[8:16]))
	return mix(x ^ uint64(binary.BigEndian.Uint32(who[16:])))
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
