package ipk

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func feed(t testing.TB) ([]Entry, []byte) {
	other := sample()
	other.Name, other.Arch, other.Depends = "luci-app-sample", "all", nil
	a, b := EntryOf(sample(), write(t, sample())), EntryOf(other, write(t, other))
	return []Entry{b, a}, Index([]Entry{a, b})
}

func TestIndex(t *testing.T) {
	entries, b := feed(t)
	got, err := ReadIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	ignore := cmpopts.IgnoreFields(Package{}, "Time")
	if diff := cmp.Diff(entries, got, cmpopts.EquateEmpty(), ignore); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{
		"\nInstalled-Size: 36014\nFilename: sample-agent_1.0.0~rc1-r1_mipsel_24kc.ipk\nSize: ", "\nDescription: sells air\n\nPackage: ",
	} {
		if !strings.Contains(string(b), want) && !strings.HasPrefix(string(b), want[1:]) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	if empty, err := ReadIndex(Index(nil)); err != nil || empty != nil {
		t.Errorf("%v, %v", empty, err)
	}
}

func TestReadIndexRefuses(t *testing.T) {
	_, b := feed(t)
	for _, change := range [][2]string{
		{"Size: ", "Size: x"}, {"SHA256sum: ", "SHA256sum: 0"}, {"\n\n", "\n"}, {"Filename: ", "Filename: ../"},
		{"Installed-Size: ", "Installed-Size: -"}, {"Package: ", "Package: ../"}, {"Section: net", "Section: net\nSection: net"},
	} {
		changed := bytes.ReplaceAll(b, []byte(change[0]), []byte(change[1]))
		if entries, err := ReadIndex(changed); err == nil {
			t.Errorf("%q passed: %v", change[1], entries)
		}
	}
}

func FuzzReadIndex(f *testing.F) {
	_, b := feed(f)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := ReadIndex(b)
		if err != nil {
			return
		}
		if _, err := ReadIndex(Index(entries)); err != nil {
			t.Error(err)
		}
	})
}
