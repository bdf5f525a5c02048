package seller

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/tunnel"
)

func identity(t *testing.T, imsi, iccid string) modem.Identity {
	t.Helper()
	i, err := modem.ParseIMSI(imsi, 2)
	if err != nil {
		t.Fatal(err)
	}
	return modem.Identity{IMSI: i, ICCID: iccid}
}

const (
	firstIMSI  = "262011234567890"
	secondIMSI = "262021234567890"
)

// TestCards: what is sold is remembered by a MAC of the number, and only that.
func TestCards(t *testing.T) {
	path := filepath.Join(t.TempDir(), cardsFile)
	open := func(key byte, sellNew bool) *cards {
		t.Helper()
		c, err := openCards(path, [32]byte{key}, sellNew)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	see := func(c *cards, imsi string, sold, swapped bool) Card {
		t.Helper()
		card, other, err := c.see(identity(t, imsi, "89490000000000000"+imsi[3:5]))
		if err != nil || card.Sold != sold || other != swapped {
			t.Errorf("%s: %+v %v %v, want sold %v, swapped %v", imsi, card, other, err, sold, swapped)
		}
		return card
	}
	c := open(1, false)
	if _, err := c.accept(""); err == nil {
		t.Error("a SIM that was never read was accepted")
	}
	first := see(c, firstIMSI, true, false)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	see(c, firstIMSI, true, false)
	if again, err := os.Stat(path); err != nil || !again.ModTime().Equal(info.ModTime()) {
		t.Error("written again without a change")
	}
	second := see(c, secondIMSI, false, true)
	see(c, secondIMSI, false, false)
	c = open(1, false) // after a restart
	if c.last() != second {
		t.Errorf("%+v", c.last())
	}
	see(c, secondIMSI, false, false)
	see(c, firstIMSI, true, true)
	see(c, secondIMSI, false, true)
	if card, err := c.accept(second.Fingerprint); err != nil || !card.Sold {
		t.Errorf("%+v %v", card, err)
	}
	see(open(1, false), secondIMSI, true, false)
	if _, err := c.accept("another"); err == nil {
		t.Error("accepted a SIM that is not there")
	}
	if card := see(open(1, true), "262031234567890", true, true); card.Sold != true {
		t.Error("new SIMs are sold")
	}

	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(firstIMSI))
	for _, secret := range []string{hex.EncodeToString(sum[:4]), firstIMSI[5:]} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("%s has %s", raw, secret)
		}
	}
	if other := (&cards{key: [32]byte{2}}).fingerprint(identity(t, firstIMSI, "").IMSI); other == first.Fingerprint || len(other) != 32 {
		t.Errorf("fingerprint %s under another key", other)
	}
	for i := range maxCards + 5 {
		if _, _, err := c.see(identity(t, fmt.Sprintf("26203%010d", i), "")); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(open(1, false).known().Cards); n != maxCards {
		t.Errorf("%d SIMs are remembered", n)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openCards(path, [32]byte{1}, false); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("%v", err)
	}
}

// TestShownICCID: a card's number that was made of the IMSI is not shown.
func TestShownICCID(t *testing.T) {
	for iccid, want := range map[string]string{
		"8926201" + firstIMSI[5:] + "08": "8926201***********8", "89490200000000000018": "89490200000000000018", "": "",
	} {
		if got := shownICCID(identity(t, firstIMSI, iccid)); got != want {
			t.Errorf("%s: %s, want %s", iccid, got, want)
		}
	}
}

// TestCardsUnwritable: what cannot be remembered is not sold, but for the SIM
// that was sold before.
func TestCardsUnwritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := openCards(filepath.Join(dir, cardsFile), [32]byte{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.see(identity(t, firstIMSI, "")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if card, other, err := c.see(identity(t, secondIMSI, "")); err == nil || card.Sold || !other {
		t.Errorf("%+v %v %v", card, other, err)
	}
	if card, other, err := c.see(identity(t, firstIMSI, "")); err != nil || !card.Sold || other {
		t.Errorf("%+v %v %v", card, other, err)
	}
}

// TestSIMSwap: another SIM is not sold until its owner says so, the offer is
// withdrawn meanwhile, and a SIM that was sold before is sold when it is back.
func TestSIMSwap(t *testing.T) {
	card := func(imsi, iccid string) *modemtest.Card { return &modemtest.Card{IMSI: imsi, ICCID: iccid} }
	first, second := card(firstIMSI, "8949009999999990123"), card(secondIMSI, "8949009999999990124")
	watching(t, modemtest.Config{Card: *first}, "", func(s *Seller, m *modemtest.Modem) {
		offered := func(want bool) {
			t.Helper()
			_, err := os.Stat(s.cfg.OfferPath())
			status, _, _ := s.plain(tunnel.Header{Method: http.MethodGet, Path: agent.OfferPath})
			if n := s.sim.refuses(); (n == nil) != want || (s.signedOffer() != nil) != want || (err == nil) != want || (status == http.StatusOK) != want {
				t.Errorf("offered: %v; %+v, %v, %d", want, n, err, status)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
		swap := func(c *modemtest.Card) {
			t.Helper()
			if err := m.SwapSIM(c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(simEvery + 15*time.Second)
		}
		time.Sleep(15 * time.Second)
		offered(true)
		before := s.signedOffer()
		time.Sleep(time.Hour)
		if !slices.Equal(s.signedOffer(), before) {
			t.Error("a new offer for the same SIM")
		}

		swap(second)
		offered(false)
		st := s.sim.report(s.cfg.Modem)
		if n := s.sim.refuses(); n == nil || n.Code != agent.NoticeSIM || !st.Withheld || st.MNC != "02" {
			t.Errorf("%+v %+v", n, st)
		}
		problems := s.problems(Status{Modem: st})
		if len(problems) == 0 || !strings.Contains(problems[0].What, "another SIM is in the modem, of 262-02") || !strings.Contains(problems[0].Do, "x402-agent sim accept") {
			t.Errorf("the owner hears %+v", problems)
		}
		time.Sleep(time.Hour)
		offered(false)
		m.Unplug()
		time.Sleep(time.Minute)
		m.Replug()
		time.Sleep(2 * simRetryMax)
		offered(false)

		swap(first)
		offered(true)
		swap(second)
		offered(false)
		if got, err := s.acceptSIM(t.Context(), ""); err != nil || !got.Sold || got.ICCID != second.ICCID {
			t.Errorf("%+v %v", got, err)
		}
		offered(true)
		if o, err := agent.ParseOffer(s.signedOffer()); err != nil || o.SIM.MNC != "02" || o.Seq < 3 {
			t.Errorf("%+v %v", o, err)
		}
		swap(first)
		offered(true)
		swap(second)
		offered(true)
		if known := s.cards.known(); len(known.Cards) != 2 || known.Current != known.Cards[1].Fingerprint || known.Cards[1].MNC != "02" {
			t.Errorf("%+v", known)
		}
		swap(nil)
		if n := s.sim.refuses(); n != nil && n.Text != "the agent has lost its modem" {
			t.Errorf("without a SIM: %+v", n)
		}
	})
}

// TestWithheldAtStart: an agent that was stopped while its SIM was withheld
// offers nothing before it has read it.
func TestWithheldAtStart(t *testing.T) {
	watching(t, modemtest.Config{Card: modemtest.Card{IMSI: secondIMSI}}, "", func(s *Seller, _ *modemtest.Modem) {
		c, err := openCards(s.cards.path, s.cards.key, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, imsi := range []string{firstIMSI, secondIMSI} {
			if _, _, err := c.see(identity(t, imsi, "")); err != nil {
				t.Fatal(err)
			}
		}
		again := &Seller{cfg: s.cfg, log: s.log}
		if again.cards, err = openCards(s.cards.path, s.cards.key, false); err != nil {
			t.Fatal(err)
		}
		again.sim.wanted, again.sim.card = true, again.cards.last()
		if err := again.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := again.sim.refuses(); !again.sim.withheld() || again.signedOffer() != nil || n == nil {
			t.Errorf("%+v", n)
		}
		if _, err := again.acceptSIM(t.Context(), ""); err == nil {
			t.Error("a SIM was accepted that nobody has read")
		}
	})
}
