package buyer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/toll"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

// KnownOffers is a folder with the offer that each channel was opened for, so
// that its deposit can be asked back later: where the agent is, and which
// facilitator holds the money.
type KnownOffers struct {
	Dir string
}

// ErrNoOffer says that no offer is stored for a channel.
var ErrNoOffer = errors.New("its offer is not stored")

func (k KnownOffers) path(id channel.ID) string {
	return filepath.Join(k.Dir, id.String()+".json")
}

// A knownOffer is the form of the files.
type knownOffer struct {
	agent.Offer
	Salt channel.Hash `json:"salt,omitzero"` // of a token's channel
	// Relay is the address of the relay that the channel is with; empty for an
	// agent's. The offer is its tariff's.
	Relay string `json:"relay,omitempty"`
}

func (k knownOffer) channel(payer channel.Address) channel.Config {
	c := k.Channel(payer)
	c.Salt = k.Salt
	return c
}

// Save stores the offer of payer's channel with a salt, which is zero but for a
// token's, and returns the channel's id.
func (k KnownOffers) Save(payer channel.Address, offer agent.Offer, salt channel.Hash) (channel.ID, error) {
	return k.save(payer, knownOffer{Offer: offer, Salt: salt})
}

// SaveRelay stores the tariff of a relay for payer's channel with it.
func (k KnownOffers) SaveRelay(payer channel.Address, name relay.Name, t toll.Tariff) (channel.ID, error) {
	return k.save(payer, knownOffer{Offer: t.Offer(name), Relay: name.Address()})
}

// Relay is the address of the relay that a channel is with; empty if it is with
// an agent, as far as is known.
func (k KnownOffers) Relay(id channel.ID) string {
	var o knownOffer
	text, err := os.ReadFile(k.path(id))
	if err != nil || json.Unmarshal(text, &o) != nil {
		return ""
	}
	return o.Relay
}

func (k KnownOffers) save(payer channel.Address, o knownOffer) (channel.ID, error) {
	d, err := o.Payment.Domain()
	if err != nil {
		return channel.ID{}, err
	}
	id := d.ID(o.channel(payer))
	text, err := json.MarshalIndent(o, "", "\t")
	if err != nil {
		return id, err
	}
	text = append(text, '\n')
	if old, err := os.ReadFile(k.path(id)); err == nil && bytes.Equal(old, text) {
		return id, nil // a write is synced, and a buyer who comes back is in a hurry
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return id, err
	}
	return id, agent.ReplaceFile(k.path(id), text, 0o600)
}

// Load returns the offer of a channel. It fails with ErrNoOffer if there is
// none, and if the file is of another channel.
func (k KnownOffers) Load(s channel.State) (agent.Offer, error) {
	var o knownOffer
	text, err := os.ReadFile(k.path(s.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return o.Offer, fmt.Errorf("channel %.10s: %w", s.ID, ErrNoOffer)
	}
	if err != nil {
		return o.Offer, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o.Offer, fmt.Errorf("%s: %w", k.path(s.ID), err)
	}
	d, err := o.Payment.Domain()
	if err != nil {
		return o.Offer, fmt.Errorf("%s: %w", k.path(s.ID), err)
	}
	if d != s.Domain || d.ID(o.channel(s.Config.Payer)) != s.ID {
		return o.Offer, fmt.Errorf("%s: is the offer of another channel", k.path(s.ID))
	}
	return o.Offer, nil
}

// Channels returns payer's channels as their offers describe them: without what
// is in them, which the ledger says, and what was signed, which only their
// record does.
func (k KnownOffers) Channels(payer channel.Address) ([]channel.State, error) {
	files, err := os.ReadDir(k.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var states []channel.State
	for _, f := range files {
		var o knownOffer
		text, rerr := os.ReadFile(filepath.Join(k.Dir, f.Name()))
		if rerr != nil || json.Unmarshal(text, &o) != nil {
			continue // not one of ours; Load says what is wrong with one that is
		}
		d, derr := o.Payment.Domain()
		if derr != nil {
			continue
		}
		s, serr := channel.NewState(d, o.channel(payer))
		if serr == nil && k.path(s.ID) == filepath.Join(k.Dir, f.Name()) {
			states = append(states, s)
		}
	}
	return states, err
}
