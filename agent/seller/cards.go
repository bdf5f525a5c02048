package seller

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/modem"
)

// cardsFile is the file of the state directory that lists the SIMs that the
// agent has seen.
const cardsFile = "sims.json"

// maxCards bounds the list; the SIM that was in the modem least lately goes.
const maxCards = 64

// A Card is a SIM that the agent has seen. Its IMSI is not part of it.
type Card struct {
	// Fingerprint tells SIMs apart: a MAC of the IMSI under a key of this
	// device's. Who has the device's key can try all IMSIs, so it stays here.
	Fingerprint string `json:"fingerprint"`
	ICCID       string `json:"iccid,omitempty"` // as last read
	MCC         string `json:"mcc"`
	MNC         string `json:"mnc"`
	Sold        bool   `json:"sold"` // its owner sells it, or did not say
}

// Cards are the SIMs that an agent knows.
type Cards struct {
	Current string `json:"current,omitempty"` // fingerprint of the one in the modem, or that was last
	Cards   []Card `json:"cards"`             // the one that was in the modem last comes last
}

// cards decide which SIMs are sold. The first one is. Another one is when its
// owner has said so once, or Config.SellNewSIM says so for all:
//
//	first ───────────→ sold ←──────── accept ────┐
//	another, seen before and sold ─→ sold        │
//	another ───────────────────────→ withheld ───┘
//
// It may be paid by the byte. What they say is on disk before it counts.
type cards struct {
	path    string
	key     [32]byte // of fingerprints
	sellNew bool

	mu   sync.Mutex
	list Cards
}

// openCards reads the list; there may be none yet.
func openCards(path string, key [32]byte, sellNew bool) (*cards, error) {
	c := &cards{path: path, key: key, sellNew: sellNew}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	const most = maxCards << 10
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err = errors.Join(err, f.Close()); err == nil {
		err = json.Unmarshal(b, &c.list)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove it, and the SIM that is read next is sold", path, err)
	}
	return c, nil
}

// fingerprint is the IMSI's only use.
func (c *cards) fingerprint(i modem.IMSI) string {
	mac := hmac.New(sha256.New, c.key[:])
	_, _ = io.WriteString(mac, i.Digits()) // never fails
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// see notes which SIM is in the modem. It reports whether that is another than
// before: not so for the first.
func (c *cards) see(id modem.Identity) (card Card, swapped bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	card = Card{Fingerprint: c.fingerprint(id.IMSI), Sold: c.sellNew || len(c.list.Cards) == 0}
	next := Cards{Current: card.Fingerprint, Cards: slices.Clone(c.list.Cards)}
	if i := next.index(card.Fingerprint); i >= 0 {
		card = next.Cards[i]
		card.Sold = card.Sold || c.sellNew
		next.Cards = slices.Delete(next.Cards, i, i+1)
	}
	card.MCC, card.MNC = id.IMSI.MCC(), id.IMSI.MNC()
	if id.ICCID != "" {
		card.ICCID = shownICCID(id) // a carrier may replace the card and keep the number
	}
	next.Cards = append(next.Cards, card)
	if n := len(next.Cards); n > maxCards {
		next.Cards = next.Cards[n-maxCards:]
	}
	swapped = c.list.Current != "" && c.list.Current != card.Fingerprint
	if err := c.store(next); err != nil {
		card.Sold = card.Sold && !swapped // what cannot be remembered is not sold on
		return card, swapped, err
	}
	return card, swapped, nil
}

// shownICCID is the card's number as it may be shown and stored: some carriers
// have made it of the IMSI, and then only its ends are.
func shownICCID(id modem.Identity) string {
	const head, tail = 7, 1 // issuer and check digit, ITU-T E.118
	if n := len(id.ICCID); id.IMSI.In(id.ICCID) && n > head+tail {
		return id.ICCID[:head] + strings.Repeat("*", n-head-tail) + id.ICCID[n-tail:]
	}
	return id.ICCID
}

func (l Cards) index(fingerprint string) int {
	return slices.IndexFunc(l.Cards, func(c Card) bool { return c.Fingerprint == fingerprint })
}

// store puts a list on disk and then in place of the one before.
func (c *cards) store(next Cards) error {
	if next.Current == c.list.Current && slices.Equal(next.Cards, c.list.Cards) {
		return nil
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := agent.ReplaceFile(c.path, append(b, '\n'), 0o600); err != nil {
		return err
	}
	c.list = next
	return nil
}

// accept has the SIM sold that is in the modem now.
func (c *cards) accept(fingerprint string) (Card, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := Cards{Current: c.list.Current, Cards: slices.Clone(c.list.Cards)}
	i := next.index(fingerprint)
	if i < 0 {
		return Card{}, errors.New("no SIM was read yet")
	}
	next.Cards[i].Sold = true
	return next.Cards[i], c.store(next)
}

// last is the card that was in the modem last, zero if there was none.
func (c *cards) last() Card {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.list.index(c.list.Current); i >= 0 {
		card := c.list.Cards[i]
		card.Sold = card.Sold || c.sellNew
		return card
	}
	return Card{}
}

// known is a copy of the list.
func (c *cards) known() Cards {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Cards{c.list.Current, slices.Clone(c.list.Cards)}
}
