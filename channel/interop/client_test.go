package interop

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/interop/peertest"
	"github.com/depinsim/x402/channel/x402"
)

// An answer is what their client got.
type answer struct {
	Status   int
	Body     string
	Settled  *x402.SettlementResponse
	Required *x402.PaymentRequired
}

// theirs makes a client of theirs, who may pay in our ledger's asset.
func (m *market) theirs(t *testing.T, p *peertest.Peer, name string, more peertest.Object) {
	t.Helper()
	args := peertest.Object{"name": name, "key": peertest.Key(m.payer), "network": m.network()}
	if !m.known {
		args["spendControls"] = peertest.Object{"allowedAssets": []peertest.Object{{"network": m.network(), "asset": m.asset()}}}
	}
	maps.Copy(args, more)
	p.Must(t, "client", args, nil)
}

func get(t *testing.T, p *peertest.Peer, name, url string, count int) []answer {
	t.Helper()
	var out []answer
	p.Must(t, "get", peertest.Object{"name": name, "url": url, "count": count}, &out)
	for _, a := range out {
		if a.Status != 200 || a.Settled == nil || !a.Settled.Success {
			t.Fatalf("%s: status %d, %s, %+v", url, a.Status, a.Body, a.Required)
		}
	}
	return out
}

// theirClient: many metered requests on one channel and one deposit, without
// any look at a chain; then the claim, the refund, and every unit is where it
// should be.
func theirClient(t *testing.T, p *peertest.Peer, m *market) {
	s, _ := m.open(t, filepath.Join(t.TempDir(), "channels.db"))
	m.theirs(t, p, "buyer", nil)
	all := get(t, p, "buyer", s.url+"/metered", m.many)
	deposits, sum := 0, channel.Amount(m.many/2*(100+70))
	for i, a := range all {
		want := channel.Amount(100)
		if i%2 == 1 {
			want = 70
		}
		if got := *a.Settled.Extra.ChargedAmount; got != want {
			t.Fatalf("request %d was charged %d, want %d", i, got, want)
		}
		if a.Settled.Transaction != "" {
			deposits++
		}
	}
	last := all[len(all)-1].Settled.Extra.ChannelState
	if deposits != 1 || *last.Charged != sum || last.Balance != 50_000 {
		t.Errorf("%d deposits, state %+v, charged %d", deposits, last, *last.Charged)
	}
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if payer, seller := m.balances(t); payer != wealth-50_000 || seller != sum {
		t.Errorf("payer has %d, seller %d", payer, seller)
	}
	// A dear request that costs one unit; then one that allows less than that did.
	get(t, p, "buyer", s.url+"/dear", 2)
	get(t, p, "buyer", s.url+"/fixed", 2)
	var back x402.SettlementResponse
	p.Must(t, "refund", peertest.Object{"name": "buyer", "url": s.url + "/metered", "amount": "1000"}, &back)
	if !back.Success || *back.Amount != 1_000 {
		t.Errorf("refund of a part: %+v", back)
	}
	p.Must(t, "refund", peertest.Object{"name": "buyer", "url": s.url + "/metered"}, &back)
	if !back.Success || *back.Amount != 50_000-sum-202-1_000 {
		t.Errorf("refund: %+v", back)
	}
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if payer, seller := m.balances(t); payer != wealth-sum-202 || seller != sum+202 {
		t.Errorf("in the end the payer has %d, the seller %d", payer, seller)
	}
	if s.served["/metered"] != m.many {
		t.Errorf("served %d", s.served["/metered"])
	}
	if err := p.Ask(t, "refund", peertest.Object{"name": "buyer", "url": s.url + "/metered"}, nil); err == nil {
		t.Error("there was something to refund after the refund")
	}
	m.audit(t)
}

// theirClientExact: one transfer a request; a payment is good for one.
func theirClientExact(t *testing.T, p *peertest.Peer, m *market) {
	s, _ := m.open(t, filepath.Join(t.TempDir(), "channels.db"))
	m.theirs(t, p, "buyer", peertest.Object{"scheme": "exact"})
	a := get(t, p, "buyer", s.url+"/once", 1)[0]
	if a.Settled.Transaction == "" || a.Body != "answer 1" {
		t.Errorf("%+v", a)
	}
	if payer, seller := m.balances(t); payer != wealth-100 || seller != 100 {
		t.Errorf("payer has %d, seller %d", payer, seller)
	}
	var again answer
	p.Must(t, "again", peertest.Object{"name": "buyer", "url": s.url + "/once"}, &again)
	if again.Status != 402 || again.Required.Error != x402.ErrExactNonceUsed || s.served["/once"] != 1 {
		t.Errorf("the same payment again: %+v, served %d", again, s.served["/once"])
	}
	m.audit(t)
}

// theirClientForgets: a client that lost its record reads the chain, or what is one
// for it at our facilitator's /rpc, and the corrective 402 tells the rest. Without a
// chain it cannot know.
func theirClientForgets(t *testing.T, p *peertest.Peer, m *market) {
	s, _ := m.open(t, filepath.Join(t.TempDir(), "channels.db"))
	m.theirs(t, p, "buyer", nil)
	get(t, p, "buyer", s.url+"/fixed", 5)
	m.theirs(t, p, "forgetful", peertest.Object{"rpc": m.rpc})
	a := get(t, p, "forgetful", s.url+"/fixed", 2)
	if got := *a[1].Settled.Extra.ChannelState.Charged; got != 700 {
		t.Errorf("charged %d, want 700", got)
	}
	if payer, _ := m.balances(t); payer != wealth-50_000 {
		t.Errorf("payer has %d: it deposited again", payer)
	}
	m.theirs(t, p, "blind", nil)
	var blind []answer
	p.Must(t, "get", peertest.Object{"name": "blind", "url": s.url + "/fixed"}, &blind)
	if blind[0].Status != 402 || blind[0].Required.Error != x402.ErrCumulativeMismatch {
		t.Errorf("without a chain: %+v", blind[0])
	}
	if payer, _ := m.balances(t); payer != wealth-50_000 {
		t.Errorf("payer has %d: a deposit was taken with a wrong count", payer)
	}
}

// ourServerForgets: a server that lost all goes on from what the client's
// voucher says; one with an older record corrects the client downwards.
func ourServerForgets(t *testing.T, p *peertest.Peer, m *market) {
	dir := t.TempDir()
	s, end := m.open(t, filepath.Join(dir, "channels.db"))
	m.theirs(t, p, "buyer", peertest.Object{"rpc": m.rpc})
	get(t, p, "buyer", s.url+"/fixed", 2)
	end()
	backup, err := os.ReadFile(filepath.Join(dir, "channels.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, end = m.open(t, filepath.Join(dir, "channels.db"))
	get(t, p, "buyer", s.url+"/fixed", 3)
	end()

	if err := os.WriteFile(filepath.Join(dir, "older.db"), backup, 0o600); err != nil {
		t.Fatal(err)
	}
	s, end = m.open(t, filepath.Join(dir, "older.db"))
	a := get(t, p, "buyer", s.url+"/fixed", 1)
	if got := *a[0].Settled.Extra.ChannelState.Charged; got != 300 {
		t.Errorf("with the older record charged is %d, want 300", got)
	}
	end()

	s, _ = m.open(t, filepath.Join(dir, "empty.db"))
	a = get(t, p, "buyer", s.url+"/fixed", 2)
	if got := *a[1].Settled.Extra.ChannelState.Charged; got != 500 {
		t.Errorf("without a record charged is %d, want 500", got)
	}
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if payer, seller := m.balances(t); payer != wealth-50_000 || seller != 500 {
		t.Errorf("payer has %d, seller %d", payer, seller)
	}
}

// theirClientLimits: the client's own spend controls, and one channel used
// twice at once.
func theirClientLimits(t *testing.T, p *peertest.Peer, m *market) {
	s, _ := m.open(t, filepath.Join(t.TempDir(), "channels.db"))
	m.theirs(t, p, "strict", peertest.Object{"spendControls": nil})
	url, why := s.url+"/fixed", "allowedAssets" // an asset that it does not know
	if m.known {
		url, why = s.url+"/costly", "maxAmountPerPayment" // above the 1 USD that nobody has raised
	}
	if err := p.Ask(t, "get", peertest.Object{"name": "strict", "url": url}, nil); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("against its own limits: %v, want one about %s", err, why)
	}
	m.theirs(t, p, "poor", peertest.Object{"spendControls": peertest.Object{"allowedAssets": []peertest.Object{{"network": m.network(), "asset": m.asset(), "maxAmountPerPayment": "99"}}}})
	if err := p.Ask(t, "get", peertest.Object{"name": "poor", "url": s.url + "/fixed"}, nil); err == nil || !strings.Contains(err.Error(), "maxAmountPerPayment") {
		t.Errorf("over its highest price: %v", err)
	}
	m.theirs(t, p, "buyer", nil)
	get(t, p, "buyer", s.url+"/fixed", 1)
	var both []answer
	p.Must(t, "both", peertest.Object{"name": "buyer", "url": s.url + "/fixed"}, &both)
	// They sign the same voucher for both: one is served, and the other is told
	// to wait or to count again, as it comes.
	good, bad := both[0], both[1]
	if good.Status != 200 {
		good, bad = bad, good
	}
	if good.Status != 200 || bad.Status != 402 || bad.Required.Error != x402.ErrChannelBusy && bad.Required.Error != x402.ErrCumulativeMismatch {
		t.Errorf("two at once: %+v and %+v", good, bad)
	}
	if s.served["/fixed"] != 2 {
		t.Errorf("served %d times", s.served["/fixed"])
	}
}

// theirExtensions: what we announce is right by their own rules, and a named
// payment is answered twice and charged once.
func theirExtensions(t *testing.T, p *peertest.Peer, m *market) {
	s, _ := m.open(t, filepath.Join(t.TempDir(), "channels.db"))
	type validity struct {
		Valid  bool
		Errors []string
	}
	var got struct {
		Identifier   bool
		Schema, Spec validity
	}
	p.Must(t, "extensions", peertest.Object{"url": s.url + "/once?city=Bern"}, &got)
	if !got.Identifier || !got.Schema.Valid || !got.Spec.Valid {
		t.Errorf("extensions: %+v", got)
	}
	m.theirs(t, p, "buyer", peertest.Object{"identifier": "pay_0123456789abcdef"})
	first := get(t, p, "buyer", s.url+"/fixed", 1)[0]
	var again answer
	p.Must(t, "again", peertest.Object{"name": "buyer", "url": s.url + "/fixed"}, &again)
	if again.Status != 200 || again.Body != first.Body || *again.Settled.Extra.ChannelState.Charged != 100 || s.served["/fixed"] != 1 {
		t.Errorf("again: %+v, served %d", again, s.served["/fixed"])
	}
	p.Must(t, "again", peertest.Object{"name": "buyer", "url": s.url + "/metered"}, &again)
	if again.Status != 409 {
		t.Errorf("the same name elsewhere: %+v", again)
	}
	var other []answer
	p.Must(t, "get", peertest.Object{"name": "buyer", "url": s.url + "/fixed"}, &other)
	if other[0].Status != 409 || s.served["/fixed"] != 1 {
		t.Errorf("the same name for another payment: %+v", other[0])
	}
}
