package agent

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/channel"
)

// testKey returns a key that is the same at every call.
func testKey(t testing.TB, n byte) *channel.Key {
	t.Helper()
	k, err := channel.ParseKey(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func address(n byte) (a channel.Address) {
	a[19] = n
	return a
}

func testOffer() Offer {
	return Offer{
		Version: OfferVersion, Seq: 7,
		Endpoints: []string{"192.0.2.1:4433", "[2001:db8::1]:4433", "agent.example:4433"},
		Relays:    []string{"relay.example:443", "192.0.2.9:4433#" + strings.Repeat("0a", 32)},
		TunnelKey: channel.Hash{1, 2, 3},
		Price:     Price{Up: 500_000, Down: 800_000},
		Payment: Payment{
			Network: "eip155:84532", Facilitator: "https://facilitator.example", Asset: address(1),
			AssetName: "USDC", AssetVersion: "2", PayTo: address(2), WithdrawDelay: 86_400, MinDeposit: 1000,
		},
		SIM: SIM{MCC: "262", MNC: "01", Operator: "Telekom.de", Technology: "LTE", Evidence: EvidenceClaimed},
	}
}

func signed(t testing.TB, o Offer) []byte {
	t.Helper()
	b, err := SignOffer(testKey(t, 1), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOffer(t *testing.T) {
	b := signed(t, testOffer())
	got, err := ParseOffer(b)
	if err != nil {
		t.Fatal(err)
	}
	want := testOffer()
	want.Agent = testKey(t, 1).Address()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var pretty bytes.Buffer // as a person may format a file
	if err := json.Indent(&pretty, b, "", "\t"); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseOffer(pretty.Bytes()); err != nil {
		t.Errorf("formatted: %v", err)
	}
	c := got.Channel(address(9))
	if c.Payer != address(9) || c.PayerAuthorizer != address(9) || c.Receiver != address(2) ||
		c.ReceiverAuthorizer != got.Agent || c.Token != address(1) || c.WithdrawDelay != 86_400 || c.Salt != (channel.Hash{}) {
		t.Errorf("channel %+v", c)
	}
	d, err := got.Payment.Domain()
	if err != nil || d.ChainID != 84532 || d.Contract != channel.SettlementContract() {
		t.Errorf("domain %+v, %v", d, err)
	}
	token, err := got.Payment.Token()
	if err != nil || token != (channel.Token{ChainID: 84532, Address: address(1), Name: "USDC", Version: "2"}) {
		t.Errorf("token %+v, %v", token, err)
	}
}

// TestWaysToAnAgent: endpoints, relays or both.
func TestWaysToAnAgent(t *testing.T) {
	o := testOffer()
	o.Endpoints = nil
	got, err := ParseOffer(signed(t, o))
	if err != nil || len(got.Endpoints) != 0 || !reflect.DeepEqual(got.Relays, o.Relays) {
		t.Errorf("relays alone: %+v, %v", got, err)
	}
	o = testOffer()
	o.Relays = nil
	b := signed(t, o)
	if _, err := ParseOffer(b); err != nil || bytes.Contains(b, []byte("relays")) {
		t.Errorf("endpoints alone: %s, %v", b, err)
	}
}

// TestTamperedOffer changes every byte of an offer in turn: none passes as
// another offer.
func TestTamperedOffer(t *testing.T) {
	b := signed(t, testOffer())
	want, err := ParseOffer(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for _, x := range []byte{0x01, 0x20} { // another character, another case
			tampered := bytes.Clone(b)
			tampered[i] ^= x
			got, err := ParseOffer(tampered)
			if err == nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("byte %d (%q): %+v", i, b[max(0, i-10):i+1], got)
			}
		}
	}
}

func TestOfferOfAnother(t *testing.T) {
	o := testOffer()
	o.Agent = address(3) // SignOffer puts the key's own in
	got, err := ParseOffer(signed(t, o))
	if err != nil || got.Agent != testKey(t, 1).Address() {
		t.Errorf("%s, %v", got.Agent, err)
	}
	var s signedOffer
	if err := json.Unmarshal(signed(t, o), &s); err != nil {
		t.Fatal(err)
	}
	s.Signature = testKey(t, 2).Sign(offerDigest(s.Offer))
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseOffer(b); err == nil {
		t.Error("signed by another key")
	}
}

func TestBadOffers(t *testing.T) {
	for name, change := range map[string]func(*Offer){
		"no way to it":           func(o *Offer) { o.Endpoints, o.Relays = nil, nil },
		"too many relays":        func(o *Offer) { o.Relays = strings.Split(strings.Repeat("a:1 ", 9), " ")[:9] },
		"relay without port":     func(o *Offer) { o.Relays = []string{"relay.example"} },
		"relay's pin":            func(o *Offer) { o.Relays = []string{"relay.example:443#00"} },
		"relay with controls":    func(o *Offer) { o.Relays = []string{"a\x1b[2J:1"} },
		"too many endpoints":     func(o *Offer) { o.Endpoints = strings.Split(strings.Repeat("a:1 ", 9), " ")[:9] },
		"endpoint without port":  func(o *Offer) { o.Endpoints = []string{"host"} },
		"endpoint's port":        func(o *Offer) { o.Endpoints = []string{"host:0"} },
		"endpoint with controls": func(o *Offer) { o.Endpoints = []string{"a\x1b[2J:1"} },
		"endpoint's length":      func(o *Offer) { o.Endpoints = []string{strings.Repeat("a", 254) + ":1"} },
		"price":                  func(o *Offer) { o.Price.Down = MaxPrice + 1 },
		"network":                func(o *Offer) { o.Payment.Network = "solana:1" },
		"facilitator":            func(o *Offer) { o.Payment.Facilitator = "ftp://example.com" },
		"facilitator's host":     func(o *Offer) { o.Payment.Facilitator = "http:///x" },
		"payTo":                  func(o *Offer) { o.Payment.PayTo = channel.Address{} },
		"asset":                  func(o *Offer) { o.Payment.Asset = channel.Address{} },
		"long text":              func(o *Offer) { o.SIM.Operator = strings.Repeat("x", 65) },
		"terminal escape":        func(o *Offer) { o.SIM.Operator = "\x1b]0;x\a" },
		"bidirectional text":     func(o *Offer) { o.SIM.Operator = "a\u202eb" },
		"zero width":             func(o *Offer) { o.Payment.AssetName = "US\u200bDC" },
		"line separator":         func(o *Offer) { o.SIM.Technology = "a\u2028b" },
		"not UTF-8":              func(o *Offer) { o.SIM.MCC = "\xff" },
	} {
		o := testOffer()
		change(&o)
		if _, err := SignOffer(testKey(t, 1), o); err == nil {
			t.Errorf("%s: signed", name)
		}
		raw, err := json.Marshal(o) // and one who signs it all the same
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(signedOffer{raw, testKey(t, 1).Sign(offerDigest(raw))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseOffer(b); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	for _, operator := range []string{"Orange F", "中国移动", "O₂ – de", ""} {
		o := testOffer()
		o.SIM.Operator = operator
		if _, err := ParseOffer(signed(t, o)); err != nil {
			t.Errorf("%q: %v", operator, err)
		}
	}
}

func TestOfferVersions(t *testing.T) {
	o := testOffer()
	o.Version, o.Agent = 2, testKey(t, 1).Address()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(signedOffer{raw, testKey(t, 1).Sign(offerDigest(raw))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseOffer(b); err == nil || !strings.Contains(err.Error(), "version 2, this program knows 1") {
		t.Errorf("got %v", err)
	}
	// What a later program adds is signed and skipped.
	raw = append(bytes.TrimSuffix(signedBody(t), []byte("}")), `,"later":[1]}`...)
	if b, err = json.Marshal(signedOffer{raw, testKey(t, 1).Sign(offerDigest(raw))}); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseOffer(b); err != nil {
		t.Errorf("an unknown member: %v", err)
	}
}

func signedBody(t testing.TB) []byte {
	t.Helper()
	var s signedOffer
	if err := json.Unmarshal(signed(t, testOffer()), &s); err != nil {
		t.Fatal(err)
	}
	return s.Offer
}

func FuzzOffer(f *testing.F) {
	f.Add(signed(f, testOffer()))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"offer":null,"signature":"0x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOffer(b)
		if err != nil {
			return
		}
		if err := o.check(); err != nil || o.Version != OfferVersion || len(b) > MaxOffer {
			t.Errorf("%+v: %v", o, err)
		}
	})
}

// FuzzOfferBody signs what it is given, so that the checks behind the
// signature are reached.
func FuzzOfferBody(f *testing.F) {
	f.Add(signedBody(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var compact bytes.Buffer
		if json.Compact(&compact, raw) != nil {
			return
		}
		b, err := json.Marshal(signedOffer{raw, testKey(t, 1).Sign(offerDigest(compact.Bytes()))})
		if err != nil {
			return
		}
		o, err := ParseOffer(b)
		if err != nil {
			return
		}
		for _, s := range append(append(o.Endpoints, o.Relays...), o.SIM.Operator, o.SIM.MCC, o.Payment.AssetName) {
			if strings.ContainsFunc(s, steers) {
				t.Errorf("%q", s)
			}
		}
		if _, err := SignOffer(testKey(t, 1), o); err != nil && !strings.Contains(err.Error(), "at most") {
			t.Errorf("parsed but not signed: %v", err)
		}
	})
}
