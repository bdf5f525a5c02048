package seller

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/meter/plan"
)

func planned(lines string) []byte {
	return edited(`port = "none"|port = "none"
[plan]
` + strings.ReplaceAll(lines, "%", "%%")) // edited takes a format
}

func TestConfigPlan(t *testing.T) {
	f, err := parseConfig("agent.toml", planned(`size = "20 GB"
reset_day = 31
reset_hour = 6
timezone = "+01:00"
used = "3.1 GB"
used_on = "2026-11-28"
reserve = "5GB"
daily = "1 GiB"
hourly = "200 MB"
schedule = ["mon-fri 22:00-06:00", "sat 00:00-24:00"]
roaming = true
mbits = 8
price_steps = ["50% 125%", "20% 200%"]
margin_percent = 0
interface = "wwan0"`))
	if err != nil {
		t.Fatal(err)
	}
	zone := time.FixedZone("+01:00", 3600)
	want := &PlanConfig{
		Config: plan.Config{
			Size: 20e9, ResetDay: 31, ResetHour: 6, Zone: zone, Used: 3.1e9, UsedOn: time.Date(2026, 11, 28, 0, 0, 0, 0, zone),
			Reserve: 5e9, Daily: 1 << 30, Hourly: 200e6, Roaming: true, Steps: []plan.Step{{Left: 50, Price: 125}, {Left: 20, Price: 200}},
			Hours: []plan.Hours{{Days: 0b0111110, From: 22 * 60, To: 6 * 60}, {Days: 1 << 6, From: 0, To: 24 * 60}},
		},
		Interface: "wwan0", Rate: 1_000_000,
	}
	zones := cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })
	if diff := cmp.Diff(want, f.Config.Plan, zones); diff != "" {
		t.Error(diff)
	}
	// The interface is the policy's if it is not named, the margin 3%.
	f, err = parseConfig("agent.toml", planned("size = \"20 GB\"\nreset_day = 1\n[policy]\ninterface = \"lo\""))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := f.Config.withDefaults(); err != nil || c.Plan.Interface != "lo" || c.Plan.Margin != 3 {
		t.Errorf("%+v, %v", c.Plan, err)
	}
}

func TestConfigPlanFaults(t *testing.T) {
	good := "size = \"20 GB\"\nreset_day = 1\ninterface = \"wwan0\"\n"
	for lines, want := range map[string]string{
		`interface = "wwan0"`:                           "plan.size: missing",
		"size = \"20 GB\"\nreset_day = 1":               "plan.interface: missing",
		good + `reserve = "20 GB"`:                      "plan.reserve: all of the plan",
		good + `reserve = "lots"`:                       "plan.reserve: not a size",
		good + `used_on = "28.11.2026"`:                 `plan.used_on: "28.11.2026"`,
		good + `timezone = "Nowhere"`:                   "plan.timezone: time zone",
		good + `schedule = ["always"]`:                  "plan.schedule: hours",
		good + `price_steps = ["half double"]`:          `plan.price_steps: "half double"`,
		good + `price_steps = ["20% 150%", "50% 200%"]`: "plan.price_steps: want less and less left",
		good + `price_steps = ["50% 99%"]`:              "plan.price_steps: 50% left",
		good + `margin_percent = 101`:                   "plan.margin_percent: 101",
		good + `reset_hour = 24`:                        "plan.reset_hour: 24",
		good + `sise = "1 GB"`:                          `unknown key "plan.sise": did you mean plan.size?`,
		good + "[credit]\ncap = \"0.0002\"\n[foo]":      `unknown key "foo"`,
	} {
		got := problemsOf(t, planned(lines))
		if len(got) == 0 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: %q, want %s", lines, got, want)
		}
	}
	// The dearest step needs more credit than there is.
	got := problemsOf(t, planned(good+"price_steps = [\"50% 9000%\"]\n[credit]\ncap = \"0.01\""))
	if len(got) != 1 || !strings.HasPrefix(got[0], "plan.price_steps: at 9000%: credit cap") {
		t.Errorf("%q", got)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"20 GB": 20e9, "20GB": 20e9, "12.3 gb": 12.3e9, "500 MB": 500e6, "1 TB": 1e12, "1 GiB": 1 << 30, "1.5 kB": 1500, "7 B": 7,
		"0 B": 0, "0.0000000001 GB": 0, "1.0000000001 GB": 0, "0.1 B": 1,
	} {
		got, err := ParseSize(s)
		if strings.Contains(s, "0000000001") { // finer than is needed
			if err == nil {
				t.Errorf("%q is taken for %d", s, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "20", "GB", "-1 GB", "+1 GB", "1. GB", ".5 GB ", "1e3 GB", "99999999 TB", "99999999999999999999 B", "1 GBit", "1,5 GB", "1 XB"} {
		if n, err := ParseSize(s); err == nil && s != ".5 GB " {
			t.Errorf("%q is taken for %d", s, n)
		}
	}
}
