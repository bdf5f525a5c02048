package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseUser(t *testing.T) {
	for user, want := range map[string]choice{
		"abc":                                    {},
		"abc-country-de":                         {Country: "DE"},
		"abc-Country-DE-session-A1":              {Country: "DE", Session: "A1"},
		"abc-carrier-deutsche_telekom-tech-5g":   {Carrier: "deutsche telekom", Tech: "5g"},
		"abc-carrier-26201":                      {Carrier: "26201"},
		"abc-session-a-rotate-10-country-fr":     {Session: "a", Rotate: 10 * time.Minute, Country: "FR"},
		"-session-a":                             {Session: "a"},
		"abc-session-" + strings.Repeat("x", 32): {Session: strings.Repeat("x", 32)},
	} {
		token, got, err := parseUser(user)
		if diff := cmp.Diff(want, got); diff != "" || err != nil || token != strings.Split(user, "-")[0] {
			t.Errorf("%q: token %q, %v, %s", user, token, err, diff)
		}
	}
	for user, want := range map[string]string{
		"abc-country":                            `ends with "country" and no value`,
		"abc-country-":                           "country is empty",
		"abc-country-deu":                        `country: "DEU", want two letters`,
		"abc-country-d1":                         "want two letters",
		"abc-shoe-42":                            `"shoe" means nothing`,
		"abc--":                                  `"" means nothing`,
		"abc-country-de-country-fr":              `has "country" twice`,
		"abc-rotate-10":                          "rotate is for a session",
		"abc-session-a-rotate-0":                 "minutes from 1 to 1440",
		"abc-session-a-rotate-1441":              "minutes from 1 to 1440",
		"abc-session-a-rotate-x":                 "minutes from 1 to 1440",
		"abc-session-ä":                          "letters and digits",
		"abc-session-" + strings.Repeat("x", 33): "at most 32",
		"abc-carrier-\x00":                       "printable",
		"abc-tech-" + strings.Repeat("x", 41):    "at most 40",
		strings.Repeat("x", 256):                 "too long",
	} {
		if _, _, err := parseUser(user); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %s", user, err, want)
		}
	}
}

func TestChoiceOr(t *testing.T) {
	usual := choice{Country: "DE", Carrier: "telekom", Tech: "5g"}
	for _, tt := range []struct{ said, want choice }{
		{choice{}, usual},
		{choice{Session: "a"}, choice{Country: "DE", Carrier: "telekom", Tech: "5g", Session: "a"}},
		{choice{Country: "FR"}, choice{Country: "FR", Tech: "5g"}}, // another country has other carriers
		{choice{Country: "DE"}, usual},
		{choice{Carrier: "sfr"}, choice{Carrier: "sfr", Tech: "5g"}},
		{choice{Tech: "lte"}, choice{Country: "DE", Carrier: "telekom", Tech: "lte"}},
	} {
		if got := tt.said.or(usual); got != tt.want {
			t.Errorf("%+v: %+v", tt.said, got)
		}
	}
}

// FuzzParseUser: what is taken is bounded, and means the same in any order.
func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"abc", "abc-country-de-session-a1", "abc-session-a-rotate-10", "a-carrier-b_c-tech-5g", "--", "abc-", "abc-country-de-country-de", "\xff-session-\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, user string) {
		token, c, err := parseUser(user)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Fatalf("%d bytes of error", len(err.Error()))
			}
			return
		}
		if strings.Contains(token, "-") || len(user) > maxUser || len(c.Country) > 2 || len(c.Session) > maxSession || len(c.Carrier) > maxWord || len(c.Tech) > maxWord || c.Rotate > 24*time.Hour {
			t.Fatalf("%q: %q %+v", user, token, c)
		}
		words := strings.Split(user, "-")
		var turned strings.Builder
		turned.WriteString(words[0])
		for i := len(words) - 2; i > 0; i -= 2 {
			turned.WriteString("-" + words[i] + "-" + words[i+1])
		}
		if again, d, err := parseUser(turned.String()); err != nil || again != token || d != c {
			t.Fatalf("%q is %+v, %q is %+v, %v", user, c, turned.String(), d, err)
		}
	})
}
