package directory

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// seenAt is where agents come from.
var seenAt = netip.MustParseAddr("192.0.2.7")

// testKey is the key of the n-th agent.
func testKey(t testing.TB, n int) *channel.Key {
	t.Helper()
	b := make([]byte, 32)
	binary.BigEndian.PutUint64(b[24:], uint64(n)+1)
	k, err := channel.ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testName() relay.Name {
	return relay.Name{Host: "relay.example", Port: 4403, Pin: [32]byte{1}, Pinned: true}
}

// testOffer is an offer of a German agent at 4 USD per GB.
func testOffer() agent.Offer {
	return agent.Offer{
		Seq: 1, Relays: []string{testName().String()}, Price: agent.Price{Up: 4_000_000, Down: 4_000_000},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "https://facilitator.example", Asset: channel.Address{1}, AssetName: "USDC",
			AssetVersion: "2", PayTo: channel.Address{2}, WithdrawDelay: 86400, MinDeposit: 100_000,
		},
		SIM: agent.SIM{MCC: "262", MNC: "01", Operator: "Telekom.de", Technology: "LTE", Evidence: agent.EvidenceClaimed},
	}
}

func sign(t testing.TB, k *channel.Key, o agent.Offer) []byte {
	t.Helper()
	b, err := agent.SignOffer(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list publishes an offer of each of the agents, changed as told.
func list(t testing.TB, d *Directory, agents int, change func(n int, o *agent.Offer)) {
	t.Helper()
	for n := range agents {
		k, o := testKey(t, n), testOffer()
		if change != nil {
			change(n, &o)
		}
		if err := d.Publish(k.Address(), seenAt, sign(t, k, o)); err != nil {
			t.Fatal(err)
		}
	}
}

// client is a buyer's of a relay that has only a directory.
func client(t testing.TB, d *Directory) *market.Client {
	t.Helper()
	s := httptest.NewUnstartedServer(d)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.StartTLS()
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	c := market.New(market.Config{Name: relay.Name{
		Host: at.Addr().String(), Port: at.Port(), Pinned: true, Pin: sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo),
	}})
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c
}

// get asks a directory without a network.
func get(d *Directory, target string) *httptest.ResponseRecorder {
	path, query, _ := strings.Cut(target, "?")
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.URL.RawQuery = query // as it is: NewRequest panics at some
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w
}

// page asks for a page and returns its agents.
func page(t testing.TB, d *Directory, query string) (agents []channel.Address, next string) {
	t.Helper()
	w := get(d, market.OffersPath+"?"+query)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	var p market.Page
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	for _, l := range p.Offers {
		var signed struct{ Offer agent.Offer } // not verified: that takes long
		if err := json.Unmarshal(l.Offer, &signed); err != nil {
			t.Fatal(err)
		}
		agents = append(agents, signed.Offer.Agent)
	}
	return agents, p.Next
}

func TestAuthenticate(t *testing.T) {
	d, k := New(Options{Name: testName()}), testKey(t, 0)
	exporter := [32]byte{7}
	signature := k.Sign(agent.RelayDigest(exporter))
	if err := d.Authenticate(k.Address(), exporter, signature); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another's":          d.Authenticate(testKey(t, 1).Address(), exporter, signature),
		"another connection": d.Authenticate(k.Address(), [32]byte{8}, signature),
		"no signature":       d.Authenticate(k.Address(), exporter, [65]byte{}),
	} {
		if err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

func TestPublish(t *testing.T) {
	me, other := testKey(t, 0), testKey(t, 1)
	offer := func(change func(*agent.Offer)) agent.Offer {
		o := testOffer()
		o.Seq = 5
		change(&o)
		return o
	}
	seq := func(n uint64) agent.Offer { return offer(func(o *agent.Offer) { o.Seq = n }) }
	relays := func(names ...string) agent.Offer { return offer(func(o *agent.Offer) { o.Seq, o.Relays = 6, names }) }
	wrong := testName()
	wrong.Pin[5]++
	for name, test := range map[string]struct {
		signed []byte
		want   string // of the error
	}{
		"newer":           {sign(t, me, seq(6)), ""},
		"the same":        {sign(t, me, seq(5)), ""},
		"older":           {sign(t, me, seq(4)), "its seq is 4, and that of the one before is 5"},
		"same seq":        {sign(t, me, offer(func(o *agent.Offer) { o.Price.Up++ })), "its seq is 5"},
		"another's":       {sign(t, other, seq(6)), "and you are 0x"},
		"of a second":     {sign(t, me, relays("other.example:1", testName().String())), ""},
		"without pin":     {sign(t, me, relays("relay.example:4403")), ""},
		"elsewhere":       {sign(t, me, relays("relay.example:4404")), "does not name this relay, relay.example:4403#01"},
		"another key":     {sign(t, me, relays(wrong.String())), "does not name this relay"},
		"not signed":      {[]byte(`{"offer":{"version":1}}`), "offer: "},
		"not JSON":        {[]byte("x"), "offer: "},
		"nothing":         {[]byte("{}"), "offer: "},
		"signature taken": {[]byte(strings.Replace(string(sign(t, me, seq(6))), `"seq":6`, `"seq":7`, 1)), "offer: "},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(Options{Name: testName()})
			if err := d.Publish(me.Address(), seenAt, sign(t, me, seq(5))); err != nil {
				t.Fatal(err)
			}
			err := d.Publish(me.Address(), seenAt, test.signed)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if d.Len() != 1 {
				t.Errorf("%d offers", d.Len())
			}
		})
	}
}

// TestWithdraw: an agent that sells nothing is not listed until it does again.
func TestWithdraw(t *testing.T) {
	me := testKey(t, 0)
	o := testOffer()
	o.Seq = 5
	d := New(Options{Name: testName()})
	for i, offer := range [][]byte{sign(t, me, o), nil, nil, sign(t, me, o)} {
		if err := d.Publish(me.Address(), seenAt, offer); err != nil {
			t.Fatal(err)
		}
		d.Seen(me.Address(), true)
		if want := min(len(offer), 1); d.Len() != want {
			t.Errorf("%d: %d offers, want %d", i, d.Len(), want)
		}
	}
}

// TestLinger follows an agent whose connection ends and who comes back.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Name: testName()})
		list(t, d, 2, nil)
		a, b := testKey(t, 0).Address(), testKey(t, 1).Address()
		d.Seen(a, true)
		d.Seen([20]byte{9}, true) // has published nothing
		d.Seen([20]byte{9}, false)
		time.Sleep(time.Hour)
		d.Seen(a, false)
		time.Sleep(linger - time.Second)
		if d.Len() != 2 {
			t.Errorf("%d offers, although the agent may come back", d.Len())
		}
		time.Sleep(time.Second)
		if got, _ := page(t, d, ""); len(got) != 1 || got[0] != b {
			t.Errorf("%v after the agent was gone for a minute", got)
		}
		d.Seen(a, true)
		if d.Len() != 2 {
			t.Error("not back at once")
		}
		d.Seen(a, false)
		time.Sleep(2 * linger)
		list(t, d, 2, nil)
		d.mu.RLock()
		e := d.entries[a]
		d.mu.RUnlock()
		if e == nil || e.published != time.Now() || d.Len() != 2 {
			t.Error("published anew, and not there as new")
		}
	})
}

// TestSeen checks the stamp of freshness: the last sign of life.
func TestSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Name: testName()})
		list(t, d, 1, nil)
		seen := func() int64 {
			var p market.Page
			if err := json.Unmarshal(get(d, market.OffersPath).Body.Bytes(), &p); err != nil || len(p.Offers) != 1 {
				t.Fatal(err, p)
			}
			return p.Offers[0].Seen
		}
		time.Sleep(90 * time.Second)
		if age := time.Now().Unix() - seen(); age != 90 {
			t.Errorf("%d s old", age)
		}
		d.Seen(testKey(t, 0).Address(), true)
		if age := time.Now().Unix() - seen(); age != 0 {
			t.Errorf("%d s old after a sign of life", age)
		}
		time.Sleep(70 * time.Second)
		d.Seen(testKey(t, 0).Address(), false)
		if age := time.Now().Unix() - seen(); age != 70 {
			t.Errorf("%d s old: that a connection was given up is no sign of life", age)
		}
	})
}

// TestFull fills a directory: who is gone makes room, and nobody else.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Name: testName(), Offers: 10})
		list(t, d, 10, nil)
		k := testKey(t, 10)
		signed := sign(t, k, testOffer())
		if err := d.Publish(k.Address(), seenAt, signed); err == nil || !strings.Contains(err.Error(), "room for 10") {
			t.Errorf("an eleventh: %v", err)
		}
		list(t, d, 10, func(_ int, o *agent.Offer) { o.Seq = 2 }) // no new ones
		d.Seen(testKey(t, 3).Address(), false)
		time.Sleep(linger)
		if err := d.Publish(k.Address(), seenAt, signed); err != nil {
			t.Error(err)
		}
		if len(d.entries) != 10 {
			t.Errorf("%d entries", len(d.entries))
		}
	})
}

// TestSwept lets agents come and go without end.
func TestSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(Options{Name: testName()})
		for n := range 50 {
			k := testKey(t, n)
			if err := d.Publish(k.Address(), seenAt, sign(t, k, testOffer())); err != nil {
				t.Fatal(err)
			}
			d.Seen(k.Address(), false)
			time.Sleep(linger / 2)
		}
		if len(d.entries) > 6 {
			t.Errorf("%d entries are kept", len(d.entries))
		}
	})
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	d := New(Options{Name: testName(), Offers: 6})
	var wg sync.WaitGroup
	for n := range 8 {
		k := testKey(t, n)
		wg.Go(func() {
			for seq := range uint64(20) {
				o := testOffer()
				o.Seq = seq
				b, err := agent.SignOffer(k, o)
				if err != nil {
					t.Error(err)
				}
				_ = d.Publish(k.Address(), seenAt, b) // two find no room
				d.Seen(k.Address(), seq%3 != 0)
				for _, url := range []string{market.OffersPath + "?country=de&limit=3", discoveryPath} {
					if w := get(d, url); w.Code != http.StatusOK {
						t.Error(w.Code, w.Body)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := d.Len(); n == 0 || n > 6 {
		t.Errorf("%d offers", n)
	}
}

func TestDraw(t *testing.T) {
	// Over salts every agent comes first as often as the others, however near
	// to each other their addresses are.
	const agents, salts = 8, 8000
	first := make([]int, agents)
	for salt := range uint64(salts) {
		best := 0
		for n := range agents {
			if a, b := (channel.Address{19: byte(n)}), (channel.Address{19: byte(best)}); draw(salt, a) < draw(salt, b) {
				best = n
			}
		}
		first[best]++
	}
	for n, times := range first {
		if times < salts/agents*8/10 || times > salts/agents*12/10 {
			t.Errorf("agent %d is first in %d of %d", n, times, salts)
		}
	}
	seen := map[uint64]string{}
	for i := range 20 {
		for v := range 256 {
			a := channel.Address{}
			a[i] = byte(v)
			x := draw(1, a)
			if before, ok := seen[x]; ok && before != fmt.Sprint(a) {
				t.Fatalf("%s and %s have one place", before, a)
			}
			seen[x] = fmt.Sprint(a)
		}
	}
}
