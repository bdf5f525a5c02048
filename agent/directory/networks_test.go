package directory

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// A row of a table is a block of addresses and whose it is.
func writeTable(t *testing.T, path string, rows ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(rows, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	telekoms  = "192.0.2.0\t192.0.2.255\t64500\tDE\tDeutsche Telekom & Co \"AG\""
	vodafones = "198.51.100.0\t198.51.100.255\t64501\tDE\tVodafone GmbH"
)

func listings(t *testing.T, d *Directory, query string) []market.Listing {
	t.Helper()
	w := get(d, market.OffersPath+"?"+query)
	var p market.Page
	if err := json.Unmarshal(w.Body.Bytes(), &p); w.Code != http.StatusOK || err != nil {
		t.Fatalf("%s: %d %s %v", query, w.Code, w.Body, err)
	}
	return p.Offers
}

// TestEvidence: an agent's SIM counts as its carrier's only where it is seen in
// that carrier's network, whatever the offer says.
func TestEvidence(t *testing.T) {
	d := New(Options{Name: testName()})
	boast := func(n int, o *agent.Offer) {
		o.SIM.Evidence = agent.EvidenceCarrier
		o.SIM.Roaming = n == 2
	}
	publish := func(n int, from string) {
		k, o := testKey(t, n), testOffer()
		boast(n, &o)
		if err := d.Publish(k.Address(), netip.MustParseAddr(from), sign(t, k, o)); err != nil {
			t.Fatal(err)
		}
	}
	publish(0, "192.0.2.1")
	publish(1, "198.51.100.1")
	publish(2, "192.0.2.2") // roaming
	publish(3, "203.0.113.1")

	for _, l := range listings(t, d, "") {
		if l.Evidence != "" || l.Reason != "" || l.Network.AS != 0 {
			t.Errorf("without a table: %+v", l)
		}
	}
	if w := get(d, market.OffersPath+"?evidence=carrier"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "no table of networks") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if n := len(listings(t, d, "evidence=claimed")); n != 4 {
		t.Errorf("%d are claimed", n)
	}
	if w := get(d, market.OffersPath+"?evidence=sim"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "want carrier or claimed") {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	path := filepath.Join(t.TempDir(), "networks.tsv")
	writeTable(t, path, telekoms, vodafones)
	n, err := carrier.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	d.SetNetworks(n)
	all := listings(t, d, "")
	for i, want := range []market.Listing{
		{Evidence: "carrier", Network: market.Network{AS: 64500, Name: `Deutsche Telekom & Co "AG"`, Country: "DE"}},
		{Evidence: "claimed", Network: market.Network{AS: 64501, Name: "Vodafone GmbH", Country: "DE"}, Reason: "other-network"},
		{Evidence: "claimed", Network: market.Network{AS: 64500, Name: `Deutsche Telekom & Co "AG"`, Country: "DE"}, Reason: "roaming"},
		{Evidence: "claimed", Reason: "unknown-address"},
	} {
		j := slices.IndexFunc(all, func(l market.Listing) bool {
			o, err := agent.ParseOffer(l.Offer) // what is beside it breaks no signature
			return err == nil && o.Agent == testKey(t, i).Address()
		})
		if j < 0 || all[j].Evidence != want.Evidence || all[j].Network != want.Network || all[j].Reason != want.Reason {
			t.Errorf("agent %d: %+v, want %+v", i, all[max(j, 0)], want)
		}
	}
	if agents, _ := page(t, d, "evidence=carrier"); len(agents) != 1 || agents[0] != testKey(t, 0).Address() {
		t.Errorf("%v", agents)
	}
	publish(1, "192.0.2.9") // the same offer, from elsewhere
	if agents, _ := page(t, d, "evidence=carrier"); len(agents) != 2 {
		t.Errorf("%v", agents)
	}
	d.SetNetworks(nil)
	if l := listings(t, d, ""); l[0].Evidence != "" {
		t.Errorf("%+v", l[0])
	}
}

// TestByCarrier: a carrier is found by its name also where the agent calls it
// otherwise, and a country by the network where several share an MCC.
func TestByCarrier(t *testing.T) {
	d := New(Options{Name: testName()})
	list(t, d, 2, func(n int, o *agent.Offer) {
		if n == 1 {
			o.SIM.MCC, o.SIM.MNC, o.SIM.Operator = "310", "370", "" // Docomo Pacific, Guam
		}
	})
	for query, want := range map[string]int{
		"carrier=telekom+deutschland": 1, "carrier=telekom.de": 1, "carrier=docomo": 1, "country=GU": 1, "country=US": 1, "country=PR": 0, "country=DE": 1, "carrier=nobody": 0,
	} {
		if agents, _ := page(t, d, query); len(agents) != want {
			t.Errorf("%s: %d offers, want %d", query, len(agents), want)
		}
	}
}

// TestNetworksChange: a table that was replaced is taken within a minute, and
// one that cannot be read leaves the former in place and is told of once.
func TestNetworksChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "networks.tsv")
	writeTable(t, path, vodafones)
	d := New(Options{Name: testName()})
	list(t, d, 1, nil)
	synctest.Test(t, func(t *testing.T) {
		var told strings.Builder
		c := Config{Networks: []string{path}, Logger: slog.New(slog.NewTextHandler(&told, nil))}
		files, n, err := carrier.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		d.SetNetworks(n)
		evidence := func(want string) {
			t.Helper()
			time.Sleep(lookEvery + time.Second)
			synctest.Wait()
			if l := listings(t, d, ""); l[0].Evidence != want {
				t.Errorf("%+v, want %s", l[0], want)
			}
		}
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := c.watchNetworks(ctx, d, files); err != nil {
				t.Error(err)
			}
		})
		evidence("claimed")
		writeTable(t, path, vodafones, telekoms)
		evidence("carrier")
		writeTable(t, path, "rubbish")
		evidence("carrier")
		evidence("carrier")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		evidence("carrier")
		evidence("carrier")
		cancel()
		wg.Wait()
		if n := strings.Count(told.String(), "stays as it was"); n != 2 {
			t.Errorf("told %d times: %s", n, &told)
		}
	})
}

// TestCheckNetworks: `x402-relay check` looks at the table.
func TestCheckNetworks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "networks.tsv")
	writeTable(t, path, telekoms)
	c, now := Config{Networks: []string{path}}, time.Now()
	if f := c.checkNetworks(now); f.Result != CheckOK || f.Text != "1 ranges of addresses" {
		t.Errorf("%+v", f)
	}
	if f := c.checkNetworks(now.Add(2 * staleTime)); f.Result != CheckWarning {
		t.Errorf("%+v", f)
	}
	writeTable(t, path, "rubbish")
	if f := c.checkNetworks(now); f.Result != CheckFailed || !strings.Contains(f.Text, "line 1") {
		t.Errorf("%+v", f)
	}
}
