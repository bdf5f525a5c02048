package carrier

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
)

// table writes a file of networks and reads it.
func table(t *testing.T, lines ...string) *Networks {
	t.Helper()
	path := filepath.Join(t.TempDir(), "networks.tsv")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestJudge(t *testing.T) {
	n := table(t,
		"192.0.2.0\t192.0.2.127\t64500\tDE\tDTAG Deutsche Telekom AG",
		"192.0.2.128\t192.0.2.255\t64501\tDE\tVodafone GmbH",
		"198.51.100.0\t198.51.100.127\t64502\tFR\tDeutsche Telekom AG",
		"198.51.100.128\t198.51.100.255\t64503\tNone\tDeutsche Telekom AG",
		"203.0.113.0\t203.0.113.255\t64504\tUS\tT-MOBILE-AS64504 - T-Mobile USA, Inc.",
		"2001:db8::\t2001:db8:ffff:ffff:ffff:ffff:ffff:ffff\t64500\tDE\tDeutsche Telekom AG",
	)
	telekom := agent.SIM{MCC: "262", MNC: "01", Operator: "Vodafone"} // what it calls itself is no evidence
	abroad := telekom
	abroad.Roaming = true
	for _, c := range []struct {
		name string
		sim  agent.SIM
		at   string
		want Reason
		as   uint32
	}{
		{"the carrier's", telekom, "192.0.2.1", "", 64500},
		{"by IPv6", telekom, "2001:db8:7::1", "", 64500},
		{"IPv4 in IPv6", telekom, "::ffff:192.0.2.127", "", 64500},
		{"another's", telekom, "192.0.2.128", OtherNetwork, 64501},
		{"another country's", telekom, "198.51.100.1", OtherCountry, 64502},
		{"no country's", telekom, "198.51.100.200", OtherCountry, 64503},
		{"roaming", abroad, "192.0.2.1", Roaming, 64500},
		{"nobody's address", telekom, "10.0.0.1", NoNetwork, 0},
		{"no address", telekom, "", NoNetwork, 0},
		{"no SIM", agent.SIM{}, "192.0.2.1", NoSIM, 64500},
		{"no such code", agent.SIM{MCC: "262", MNC: "001"}, "192.0.2.1", NoOperator, 64500},
		{"a virtual operator's", agent.SIM{MCC: "262", MNC: "43"}, "192.0.2.200", OtherNetwork, 64501}, // Lycamobile
		{"one code, three countries", agent.SIM{MCC: "310", MNC: "260"}, "203.0.113.9", "", 64504},
	} {
		at, _ := netip.ParseAddr(c.at)
		f := Judge(c.sim, at, n)
		evidence := agent.EvidenceClaimed
		if c.want == "" {
			evidence = agent.EvidenceCarrier
		}
		if f.Reason != c.want || f.Evidence != evidence || f.Network.AS != c.as {
			t.Errorf("%s: %+v", c.name, f)
		}
		if c.want != "" && (f.Reason.String() == string(f.Reason) || f.Reason.String() == "") {
			t.Errorf("%s: no words for %q", c.name, f.Reason)
		}
	}
	if f := Judge(telekom, netip.MustParseAddr("192.0.2.1"), nil); f.Reason != NoNetwork {
		t.Errorf("without a table: %+v", f)
	}
}

// TestRuns: names as they stand in tables of autonomous systems, with those of
// others that look alike.
func TestRuns(t *testing.T) {
	for _, c := range []struct {
		code, owner string
		want        bool
	}{
		{"262 01", "Deutsche Telekom AG", true},
		{"262 01", "DTAG Internet service provider operations", true},
		{"262 01", "KEVAG Telekom GmbH", false},
		{"262 02", "VODANET International IP-Backbone of Vodafone", true},
		{"262 03", "Telefonica Germany GmbH & Co.OHG", true},
		{"262 03", "1&1 Versatel GmbH", false},
		{"262 23", "1&1 Versatel Deutschland GmbH", true},
		{"208 01", "Orange S.A.", true},
		{"208 10", "Societe Francaise Du Radiotelephone - SFR SA", true},
		{"208 15", "Free Mobile SAS", true},
		{"208 15", "Free Software Hosting SAS", false},
		{"208 20", "Bouygues Telecom SA", true},
		{"310 260", "T-Mobile USA, Inc.", true},
		{"310 410", "AT&T Enterprises, LLC", true},
		{"310 004", "Verizon Business", true},
		{"310 004", "Horizon Business", false},
		{"310 540", "Phoenix Network", false},
		{"311 060", "Space-Communication ltd.", false},
		{"234 30", "EE Mobile Telecom Ltd", false},
		{"234 30", "EE Limited", true},
		{"234 20", "Hutchison 3G UK Limited", true},
		{"260 06", "P4 Sp. z o.o.", true},
		{"260 06", "Play Hosting Sp. z o.o.", false},
		{"260 01", "Polkomtel Sp. z o.o.", true},
		{"228 01", "Swisscom (Schweiz) AG", true},
		{"228 02", "Sunrise GmbH", true},
		{"460 00", "China Mobile Communications Corporation", true},
		{"460 00", "China Telecom (Group)", false},
		{"460 00", "Chinanet", false},
		{"722 010", "Cooperativa Telefonica Del Viso", false},
		{"722 010", "Telefonica de Argentina", true},
		{"724 06", "TELEFONICA BRASIL S.A", true},
		{"724 03", "TIM S/A", true},
		{"404 45", "Bharti Airtel Limited", true},
		{"405 854", "Reliance Jio Infocomm Limited", true},
		{"405 854", "Reliance Communications Limited", false},
		{"440 10", "NTT DOCOMO, INC.", true},
		{"450 05", "SK Telecom", true},
		{"250 01", "MTS PJSC", true},
		{"286 01", "TURKCELL ILETISIM HIZMETLERI A.S.", true},
		{"262 01", "", false},
		{"262 01", "AG", false},
	} {
		mcc, mnc, _ := strings.Cut(c.code, " ")
		country := Countries(agent.SIM{MCC: mcc, MNC: mnc})[0]
		got := false
		for _, o := range Operators(mcc, mnc) {
			got = got || runs(o, Network{Name: c.owner, Country: country})
		}
		if got != c.want {
			t.Errorf("%s, %s: %v; %v", c.code, c.owner, got, Operators(mcc, mnc))
		}
	}
}

// TestGroups: every line of the table is read, its words are as words makes
// them, and its countries are some.
func TestGroups(t *testing.T) {
	lines, pairs := 0, 0
	for line := range strings.Lines(groupLines) {
		if line = strings.TrimSpace(line); line != "" {
			lines++
			pairs += 1 + strings.Count(line, "|")
			where, _, _ := strings.Cut(line, " : ")
			for c := range strings.FieldsSeq(where) {
				if c != "*" && !agent.IsCountry(c) {
					t.Errorf("%s: %q is no country", line, c)
				}
			}
		}
	}
	all := groups()
	if len(all) != pairs || lines < 100 {
		t.Errorf("%d lines with %d pairs, %d were read", lines, pairs, len(all))
	}
	for _, g := range all {
		if len(g.sim) == 0 || len(g.owner) == 0 {
			t.Errorf("%+v", g)
		}
		if g.in == nil && len(strings.Join(g.owner, "")) < 2 {
			t.Errorf("%v is too short for all countries", g.owner)
		}
	}
}

func TestWords(t *testing.T) {
	for name, want := range map[string]string{
		"Telefónica Germany GmbH & Co. oHG": "telefonica germany gmbh and co ohg",
		"AT&T Mobility":                     "at&t mobility", "U.S. Cellular": "us cellular", "T-Mobile US": "t mobile us", "Société Française (SFR)": "societe francaise sfr",
		"Ålands Økonomi ß Łódź": "alands okonomi ss lodz", "+7Телеком": "7телеком", "": "", " -- ": "", "\xff\xfe": "",
	} {
		if got := strings.Join(words(name), " "); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
