package toll

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
)

func testTariff() Tariff {
	return Tariff{Price: 200_000, Authorizer: channel.Address{7}, Payment: agent.Payment{
		Network: "eip155:84532", Facilitator: "https://f.example", Asset: channel.Address{3},
		AssetName: "USDC", AssetVersion: "2", PayTo: channel.Address{4}, WithdrawDelay: 86400, MinDeposit: 5,
	}}
}

func TestParse(t *testing.T) {
	for _, free := range []string{"", "null", "{}", `{"price":"0"}`} {
		if got, err := Parse([]byte(free)); err != nil || !got.Free() {
			t.Errorf("%q: %+v, %v", free, got, err)
		}
	}
	b, err := json.Marshal(testTariff())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(b); err != nil || got != testTariff() {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string][2]string{
		"dear":           {`"200000"`, `"1000000000001"`},
		"negative":       {`"200000"`, `"-1"`},
		"no authorizer":  {`"authorizer":"0x07`, `"other":"0x07`},
		"no network":     {"eip155", "base"},
		"no facilitator": {"https", "ftp"},
		"steers":         {"USDC", `\u202e`},
		"long":           {"USDC", strings.Repeat("x", 65)},
		"twice":          {`"price":`, `"Price":"1","price":`},
		"endless":        {"USDC", strings.Repeat("x", agent.MaxOffer)},
	} {
		if got, err := Parse([]byte(strings.Replace(string(b), change[0], change[1], 1))); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestOffer: the channel that a tariff leads to is the relay's, and what x402
// asks for in the standard's form.
func TestOffer(t *testing.T) {
	x, name := testTariff(), relay.Name{Host: "r.example", Port: 1}
	c := x.Offer(name).Channel(channel.Address{9})
	if c.ReceiverAuthorizer != x.Authorizer || c.Receiver != x.Payment.PayTo || c.Payer != (channel.Address{9}) || c.WithdrawDelay != 86400 {
		t.Errorf("%+v", c)
	}
	r := x.Requirements()
	if r.Amount != 5 || r.PayTo != c.Receiver || *r.Extra.ReceiverAuthorizer != c.ReceiverAuthorizer || r.Extra.Name != "USDC" {
		t.Errorf("%+v", r)
	}
}

// TestHello counts for the channel that it names, and by its payer alone.
func TestHello(t *testing.T) {
	k, err := channel.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	x := testTariff()
	d, err := x.Payment.Domain()
	if err != nil {
		t.Fatal(err)
	}
	h := agent.Hello{Versions: []int{agent.ProtocolVersion}, Network: x.Payment.Network, Config: x.Offer(relay.Name{}).Channel(k.Address()), Price: x.PriceOf()}
	b, err := Seal(k, d, h)
	if err != nil {
		t.Fatal(err)
	}
	got, id, err := Unseal(d, b)
	if err != nil || got.Config != h.Config || id != d.ID(h.Config) {
		t.Errorf("%+v, %s, %v", got, id, err)
	}
	if _, _, err := Unseal(channel.Domain{ChainID: 1, Contract: d.Contract}, b); err == nil {
		t.Error("it counts on another network")
	}
	if _, err := agent.OpenHello([32]byte{}, b); err == nil {
		t.Error("it counts at an agent")
	}
	other := h
	other.Config.ReceiverAuthorizer[0]++
	moved, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Unseal(d, append(b[:65:65], moved...)); err == nil {
		t.Error("it counts at another relay")
	}
}

func FuzzParse(f *testing.F) {
	b, _ := json.Marshal(testTariff())
	f.Add(b)
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Parse(b)
		if err != nil || x.Free() {
			return
		}
		again, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		if y, err := Parse(again); err != nil || y != x {
			t.Errorf("%+v reads back as %+v, %v", x, y, err)
		}
	})
}

func FuzzUnseal(f *testing.F) {
	k, _ := channel.GenerateKey()
	x := testTariff()
	d, _ := x.Payment.Domain()
	b, _ := Seal(k, d, agent.Hello{Versions: []int{1}, Network: x.Payment.Network, Config: x.Offer(relay.Name{}).Channel(k.Address()), Price: x.PriceOf()})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, id, err := Unseal(d, b); err == nil && id != d.ID(h.Config) {
			t.Errorf("%s for %+v", id, h)
		}
	})
}
