package modem

import "testing"

// TestHide: a text that holds the number, or the part of it that tells
// subscribers apart, is emptied.
func TestHide(t *testing.T) {
	imsi, err := ParseIMSI("262019876543217", 2)
	if err != nil {
		t.Fatal(err)
	}
	short, err := ParseIMSI("246813579", 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		imsi IMSI
		text string
		want bool
	}{
		{imsi, "262019876543217", true}, {imsi, "MODEL 262019876543217 R1", true}, {imsi, "x9876543217", true}, {imsi, "Quectel 26201", false}, {imsi, "", false},
		{short, "246813579", true}, {short, "813579", false}, {IMSI{}, "262019876543217", false}, {IMSI{}, "", false},
	} {
		text, other := c.text, "EC25"
		if got := c.imsi.hide(&other, &text); got != c.want || (text == "") != (c.want || c.text == "") || other != "EC25" {
			t.Errorf("%q: %v, %q, %q", c.text, got, text, other)
		}
	}
}
