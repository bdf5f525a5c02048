package buyer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

func TestKnownAgents(t *testing.T) {
	k := KnownAgents{Path: filepath.Join(t.TempDir(), "known_agents")}
	one, two := channel.Address{1}, channel.Address{2}
	check := func(endpoint string, a channel.Address, want bool) {
		t.Helper()
		if known, err := k.Check(endpoint, a); known != want || err != nil {
			t.Errorf("%s %s: %t, %v", endpoint, a, known, err)
		}
	}
	check("a:1", one, false)
	if err := k.Pin("a:1", one); err != nil {
		t.Fatal(err)
	}
	if err := k.Pin("b:1", two); err != nil {
		t.Fatal(err)
	}
	check("a:1", one, true)
	check("b:1", two, true)
	check("c:1", two, false)
	_, err := k.Check("a:1", two)
	changed, ok := errors.AsType[*ChangedAgentError](err)
	if !ok || *changed != (ChangedAgentError{"a:1", one, two, k.Path}) {
		t.Errorf("got %v", err)
	}
	if err := k.Pin("a:1", two); err != nil {
		t.Fatal(err)
	}
	check("a:1", two, true)
	check("b:1", two, true)
	info, err := os.Stat(k.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestKnownAgentsByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_agents")
	one := channel.Address{1}
	k := KnownAgents{Path: path}
	for text, want := range map[string]string{
		"# mine\n\n  a:1   " + one.String() + "  \n": "",
		"\n":                            "",
		"a:1\n":                         ":1: want a host:port and an address",
		"#\na b":                        ":2: address",
		strings.Repeat("#", maxKnown+1): "longer than",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		known, err := k.Check("a:1", one)
		switch {
		case want == "" && (err != nil || known != strings.Contains(text, "a:1")):
			t.Errorf("%.20q: %t, %v", text, known, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
	// Comments stay when a pin is added.
	if err := os.WriteFile(path, []byte("# mine\nb:1 "+one.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.Pin("a:1", one); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if want := "# mine\nb:1 " + one.String() + "\na:1 " + one.String() + "\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v", b, err)
	}
}

func TestKnownFacilitators(t *testing.T) {
	k := KnownFacilitators{Path: filepath.Join(t.TempDir(), "new", "facilitators")}
	if urls, err := k.All(); len(urls) > 0 || err != nil {
		t.Errorf("%q, %v", urls, err)
	}
	for _, url := range []string{"http://a", "https://b:1/x", "http://a"} {
		if err := k.Add(url); err != nil {
			t.Fatal(err)
		}
	}
	urls, err := k.All()
	if diff := cmp.Diff([]string{"http://a", "https://b:1/x"}, urls); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for text, want := range map[string]string{
		"# mine\n\n http://c \n":        "",
		"http://c\nftp://d":             ":2: facilitator URL",
		strings.Repeat("#", maxKnown+1): "longer than",
	} {
		if err := os.WriteFile(k.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		urls, err := k.All()
		if want == "" && (err != nil || len(urls) != 1) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.20q: %q, %v", text, urls, err)
		}
	}
}

func FuzzParseKnown(f *testing.F) {
	f.Add("a:1 0x0100000000000000000000000000000000000000")
	f.Add("# comment")
	f.Fuzz(func(t *testing.T, line string) {
		endpoint, a, err := parseKnown(line)
		if err != nil || endpoint == "" {
			return
		}
		e, b, err := parseKnown(endpoint + " " + a.String())
		if e != endpoint || b != a || err != nil {
			t.Errorf("%q reads back as %q %s, %v", line, e, b, err)
		}
	})
}

func testOffer() agent.Offer {
	return agent.Offer{
		Version: agent.OfferVersion, Agent: channel.Address{7}, Seq: 3, Endpoints: []string{"agent.example:4402"},
		TunnelKey: channel.Hash{9}, Price: agent.Price{Up: 1, Down: 2},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "http://127.0.0.1:1", Asset: channel.Address{3},
			AssetName: "USDC", AssetVersion: "2", PayTo: channel.Address{4}, WithdrawDelay: 86400, MinDeposit: 5,
		},
		SIM: agent.SIM{MCC: "262", MNC: "01", Evidence: agent.EvidenceClaimed},
	}
}

func TestKnownOffers(t *testing.T) {
	k := KnownOffers{Dir: filepath.Join(t.TempDir(), "offers")}
	o, payer := testOffer(), channel.Address{5}
	d, err := o.Payment.Domain()
	if err != nil {
		t.Fatal(err)
	}
	s, err := channel.NewState(d, o.Channel(payer))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load(s); !errors.Is(err, ErrNoOffer) {
		t.Errorf("got %v, want ErrNoOffer", err)
	}
	for range 2 { // the second replaces the first
		id, err := k.Save(payer, o, channel.Hash{})
		if err != nil || id != s.ID {
			t.Fatalf("%s, %v", id, err)
		}
		got, err := k.Load(s)
		if diff := cmp.Diff(o, got); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
		before, _ := os.Stat(k.path(id))
		if _, err := k.Save(payer, o, channel.Hash{}); err != nil {
			t.Error(err)
		}
		if after, err := os.Stat(k.path(id)); err != nil || !os.SameFile(before, after) {
			t.Error("what was stored is written again", err)
		}
		o.Seq++
	}
	c := o.Channel(payer)
	c.Salt = channel.Hash{7}
	token, err := channel.NewState(d, c)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := k.Save(payer, o, c.Salt); err != nil || id != token.ID || id == s.ID {
		t.Errorf("a token's: %s, %v", id, err)
	}
	if got, err := k.Load(token); err != nil || got.Seq != o.Seq {
		t.Errorf("a token's: %+v, %v", got, err)
	}
	if got, err := k.Channels(payer); err != nil || len(got) != 2 || got[0].ID != s.ID && got[1].ID != s.ID || got[0].ID != token.ID && got[1].ID != token.ID {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := k.Channels(channel.Address{8}); err != nil || len(got) != 0 {
		t.Errorf("somebody else's: %+v, %v", got, err)
	}
	o.Payment.PayTo = channel.Address{6}
	other, err := k.Save(payer, o, channel.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(k.path(other), k.path(s.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load(s); err == nil || !strings.Contains(err.Error(), "is the offer of another channel") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(k.path(s.ID), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load(s); err == nil || !strings.Contains(err.Error(), k.path(s.ID)) {
		t.Errorf("got %v", err)
	}
}
