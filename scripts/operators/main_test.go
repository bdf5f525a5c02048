package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMadeAlike: the two tables of the repository were made together.
func TestMadeAlike(t *testing.T) {
	names, err := os.ReadFile("../../agent/carrier/operators.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for line := range strings.Lines(string(names)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if !strings.HasPrefix(line, "#") {
			rows = append(rows, row{f[0][:3], f[0][3:], f[1], f[2], f[3], f[4]})
		}
	}
	lengths, err := os.ReadFile("../../modem/mnc_table.go")
	if err != nil {
		t.Fatal(err)
	}
	made, err := lengthsFile(origin{Name: "mcc-mnc-list", Version: "1.1.11", License: "MIT", date: "2024-12-13"}, rows)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(lengths), string(made)); diff != "" {
		t.Error(diff)
	}
}

const manifest = `{"name":"mcc-mnc-list","version":"9.9.9","license":"MIT"}`

const list = `[
{"countryCode":"GE-AB","mcc":"289","mnc":"67","brand":"A","operator":"A  JSC","status":"Operational"},
{"countryCode":"FR","mcc":"208","mnc":"50144","brand":null,"operator":"Private","status":"Unknown"},
{"countryCode":"GF/MQ","mcc":"208","mnc":"01","brand":"B\tC","operator":null,"status":"Not operational"},
{"countryCode":"US","mcc":"314","mnc":"100 - 190","brand":null,"operator":"Many","status":"Unknown"},
{"countryCode":"GT","mcc":"704","mnc":"?","brand":null,"operator":"None","status":"Reserved"}]`

func TestRun(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("package/package.json", manifest)
	write("package/LICENSE", "A licence\n\nof two parts\n")
	write("package/mcc-mnc-list.json", list)
	write("agent/carrier/.keep", "")
	write("modem/.keep", "")
	debian := `<serviceproviders><country code="fr"><provider><name>B</name><gsm><network-id mcc="208" mnc="01"/><network-id mcc="208" mnc="99"/></gsm></provider></country>` +
		`<country code="ge"><provider><name>A</name><gsm><network-id mcc="289" mnc="67"/></gsm></provider></country></serviceproviders>`
	write("debian.xml", debian)
	if err := run(filepath.Join(dir, "package"), "yesterday", "", dir); err == nil {
		t.Error("a wrong date was taken")
	}
	if err := run(filepath.Join(dir, "package"), "2026-01-02", filepath.Join(dir, "debian.xml"), dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "agent/carrier/operators.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	want := "# Made by scripts/operators: do not edit.\n# Source: npm mcc-mnc-list 9.9.9 of 2026-01-02, licence MIT:\n#\n# A licence\n#\n# of two parts\n" +
		"#\n# MCC and MNC, countries, status (+ operates, - does not, ? not known), brand, operator.\n" +
		"20801\tGF MQ\t-\tB C\t\n208501\tFR\t?\t\tPrivate\n28967\tGE\t+\tA\tA JSC\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	var said bytes.Buffer
	rows, _ := rowsOf([]listing{{"GF", "208", "01", "B", "", "Operational"}, {"GE", "289", "67", "A", "", ""}})
	if err := compare(&said, rows, filepath.Join(dir, "debian.xml")); err != nil {
		t.Fatal(err)
	}
	if said.String() != "another country: 20801 is FR there and GF here, B\nonly there: 20899 FR, B\n1 codes are in both, of the same country\n" {
		t.Errorf("%q", said.String())
	}
}

func TestPlans(t *testing.T) {
	rows := []row{
		{mcc: "200", mnc: "01", status: "+"}, {mcc: "200", mnc: "020", status: "+"}, // apart
		{mcc: "201", mnc: "01", status: "+"}, {mcc: "201", mnc: "010", status: "-"}, // the shorter operates
		{mcc: "202", mnc: "01", status: "-"}, {mcc: "202", mnc: "010", status: "+"}, // the longer does
		{mcc: "203", mnc: "01", status: "+"}, {mcc: "203", mnc: "010", status: "?"}, // perhaps both
		{mcc: "204", mnc: "500", status: "+"}, {mcc: "205", mnc: "50", status: "+"},
	}
	plans := plansOf(rows)
	for code, want := range map[string]byte{
		"200010": 2, "200019": 2, "200020": 3, "200021": 3, "200999": 3, "200000": 2,
		"201010": 2, "201011": 2, "202010": 3, "202011": 3, "203010": 3, "203011": 2, "204000": 3, "204999": 3, "205000": 2, "205999": 2,
	} {
		n := int(code[3]-'0')*100 + int(code[4]-'0')*10 + int(code[5]-'0')
		if got := plans[code[:3]][n]; got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
	if got := strings.Join(ranges(plans), " "); got != "200020999 202000999 203000010 204000999" {
		t.Errorf("%s", got)
	}
}
