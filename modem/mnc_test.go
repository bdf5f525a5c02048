package modem

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// A network is a row of the table that the lengths are made from.
type network struct {
	code string // MCC and MNC
	gone bool
}

func networks(t *testing.T) []network {
	t.Helper()
	b, err := os.ReadFile("../agent/carrier/operators.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var all []network
	for line := range strings.Lines(string(b)) {
		f := strings.Split(line, "\t")
		if !strings.HasPrefix(line, "#") {
			all = append(all, network{f[0], f[2] == "-"})
		}
	}
	return all
}

// TestLengthOfEveryCode: an IMSI of every network there is gets its code's
// length from the digits alone, but for those that begin like another; the
// card's EF_AD decides for all, and so does the home network where the card
// does not say.
func TestLengthOfEveryCode(t *testing.T) {
	all := networks(t)
	operates := map[string]bool{}
	mixed := map[string]map[int]bool{}
	for _, n := range all {
		operates[n.code] = operates[n.code] || !n.gone
		if mixed[n.code[:3]] == nil {
			mixed[n.code[:3]] = map[int]bool{}
		}
		mixed[n.code[:3]][len(n.code)-3] = true
	}
	shadowed, wrong := 0, []string(nil)
	for code := range operates {
		length := len(code) - 3
		_, shadow := operates[code[:5]]
		if shadow = shadow && length == 3; shadow {
			shadowed++
		}
		for last := range 10 {
			imsi := (code + string(rune('0'+last)) + "123456789")[:15]
			if got := mncLength(imsi, length, ""); got != length {
				t.Errorf("%s: EF_AD says %d, and %d is taken", imsi[:6], length, got)
			}
			if got := mncLength(imsi, 0, code); got != length {
				t.Errorf("%s: the home network has %d digits, and %d are taken", imsi[:6], length, got)
			}
			byTable := tableMNCLength(imsi)
			if got := mncLength(imsi, 5-length, code); got != length && byTable == length {
				t.Errorf("%s: EF_AD counts for more than table and home network together", imsi[:6])
			}
			_, longer := operates[imsi[:6]]
			if byTable != length && !shadow && !(length == 2 && longer) {
				wrong = append(wrong, imsi[:6])
			}
		}
	}
	if shadowed != 36 {
		t.Errorf("%d codes begin like a shorter one", shadowed)
	}
	// 374 13 is not used any more, and 374 130 has taken its place.
	slices.Sort(wrong)
	if len(wrong) != 9 || wrong[0] != "374131" || wrong[8] != "374139" {
		t.Errorf("by their digits alone these are of the wrong length: %v", wrong)
	}
	two := 0
	for _, lengths := range mixed {
		if len(lengths) == 2 {
			two++
		}
	}
	if two != 17 {
		t.Errorf("%d countries have codes of both lengths", two)
	}
}

// TestShadowed: of a code and its beginning the longer one counts if it
// operates, and otherwise the one that does.
func TestShadowed(t *testing.T) {
	operates, listed := map[string]bool{}, map[string]bool{}
	for _, n := range networks(t) {
		listed[n.code] = true
		operates[n.code] = operates[n.code] || !n.gone
	}
	for code := range listed {
		if len(code) != 6 || !listed[code[:5]] {
			continue
		}
		want := 3
		if operates[code[:5]] && !operates[code] {
			want = 2
		}
		if got := tableMNCLength(code + "123456789"); got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
	for imsi, want := range map[string]int{
		"405041123456789": 2, "714020123456789": 3, "714021123456789": 2, "738002123456789": 3, "738001123456789": 2, "310591123456789": 3, "999999123456789": 3,
	} {
		if got := tableMNCLength(imsi); got != want {
			t.Errorf("%s: %d, want %d", imsi, got, want)
		}
	}
	if len(threeDigits)%9 != 0 || !isDigits(threeDigits) {
		t.Errorf("table of %d digits", len(threeDigits))
	}
}
