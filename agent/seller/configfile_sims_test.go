package seller

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/agent"
)

// tables is the minimal file with tables [[sim]] behind it.
func tables(more string, edits ...string) []byte {
	return append(edited(edits...), []byte("\n"+more)...)
}

func TestConfigSIMs(t *testing.T) {
	f, err := parseConfig("/etc/agent.toml", tables(`
[limits]
mbits = 8
[[sim]]
name = "one"
modem.imei = "490154203237518"
modem.pin = "1234"
price.per_gb = "3.00"
[[sim]]
modem.imei = "356938035643809"
limits.mbits = 16
policy.interface = "wwan7"
listen = "192.0.2.1:7"
endpoints = ["a.example:7"]
bind_tunnel = false
[[sim]]
name = "stick"
modem.port = "none"
policy.interface = "eth1"
[sim.price]
up = "1"
down = "2"
`, `|listen = ":5000"`, `|endpoints = ["main.example:5000"]`, `port = "none"|port = "auto"`))
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Name, ID, Dir, Listen, IMEI, Port, Interface, Guard string
		Endpoints                                           []string
		Bind, PIN                                           bool
		Price                                               agent.Price
		Rate                                                uint64
	}
	var got []line
	for _, c := range f.Config.SIMs {
		l := line{c.Name, c.ID, c.StateDir, c.Listen, c.IMEI, "none", c.Policy.Interface, "", c.Endpoints, c.BindTunnel, false, c.Price, c.Rate}
		if c.Modem != nil {
			l.Port, l.Guard, l.PIN = c.Modem.Port, c.Modem.PINGuard, !c.Modem.PIN.IsZero()
		}
		got = append(got, l)
	}
	same := agent.Price{Up: 4_000_000, Down: 4_000_000}
	want := []line{
		{Name: "main", Dir: "/etc/state", Listen: ":5000", Endpoints: []string{"main.example:5000"}, Price: same, Rate: 1_000_000},
		{
			Name: "one", ID: imeiA, Dir: "/etc/state/sims/" + imeiA, Listen: ":5001", IMEI: imeiA, Interface: "auto",
			Guard: "/etc/state/sims/" + imeiA + "/pins", PIN: true, Bind: true, Price: agent.Price{Up: 3_000_000, Down: 3_000_000}, Rate: 1_000_000,
		},
		{
			Name: imeiB, ID: imeiB, Dir: "/etc/state/sims/" + imeiB, Listen: "192.0.2.1:7", IMEI: imeiB, Interface: "wwan7",
			Endpoints: []string{"a.example:7"}, Price: same, Rate: 2_000_000,
		},
		{
			Name: "stick", ID: "stick", Dir: "/etc/state/sims/stick", Listen: ":5003", Port: "none", Interface: "eth1", Bind: true,
			Price: agent.Price{Up: 1_000_000, Down: 2_000_000}, Rate: 1_000_000,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestConfigSIMsOnly: without [modem] there are the tables, and with
// modem.port = "all" every modem besides.
func TestConfigSIMsOnly(t *testing.T) {
	sim := "[[sim]]\nmodem.imei = \"" + imeiA + "\"\n"
	f, err := parseConfig("agent.toml", tables(sim, "[modem]\nport = \"none\"|"))
	if err != nil || len(f.Config.SIMs) != 1 || f.Config.EveryModem || f.Config.SIMs[0].Listen != ":4402" {
		t.Errorf("%v: %+v", err, f.Config)
	}
	for _, more := range []string{"", sim} {
		f, err = parseConfig("agent.toml", tables(more, `port = "none"|port = "all"`))
		if err != nil || len(f.Config.SIMs) != strings.Count(more, "[[") || !f.Config.EveryModem || !f.Config.findsModem() {
			t.Errorf("%v: %+v", err, f.Config)
		}
	}
	f, err = parseConfig("agent.toml", edited(`port = "none"|imei = "`+imeiA+`"`, `[price]|[policy]`+"\ninterface = \"auto\"\n[price]", `|bind_tunnel = true`))
	c := f.Config
	if err != nil || c.SIMs != nil || c.IMEI != imeiA || !c.findsModem() || c.Policy.Interface != InterfaceOfModem || !c.BindTunnel {
		t.Errorf("%v: %+v", err, c)
	}
}

func TestConfigSIMFaults(t *testing.T) {
	const named = "[[sim]]\nname = \"x\"\n"
	tests := map[string]struct{ more, edit, want string }{
		"unknown key":     {named + "modem.imeii = \"1\"", "", `unknown key "sim.modem.imeii": did you mean sim.modem.imei?`},
		"not a table":     {"", `|sim = 3`, `sim: want tables of their own, [[sim]], one for each SIM`},
		"one table":       {"", `|sim = {name = "x"}`, `sim: want tables of their own, [[sim]], one for each SIM`},
		"no modem":        {named, "", `sim "x": modem.port: missing: want the modem's AT port such as`},
		"no name":         {"[[sim]]\nmodem.port = \"/dev/x\"", "", `sim 1: name: missing: want a name of at most 32 letters`},
		"a path for name": {"[[sim]]\nname = \"../x\"", "", `sim 1: name: "../x"; want a name of at most 32 letters`},
		"main":            {"[[sim]]\nname = \"main\"", "", `sim 1: name: "main" has a meaning of its own; want a name`},
		"IMEI":            {named + "modem.imei = \"123\"", "", `sim "x": modem.imei: "123"; want the modem's 15 digits in quotes`},
		"IMEI and port":   {named + "modem.imei = \"" + imeiA + "\"\nmodem.port = \"/dev/x\"", "", `sim "x": modem.imei: remove it, or set modem.port to 'auto'`},
		"no interface":    {named + "modem.port = \"/dev/x\"", "", `sim "x": policy.interface: missing: want the name of a network interface`},
		"auto interface":  {named + "modem.port = \"/dev/x\"\npolicy.interface = \"auto\"", "", `x: policy.interface: 'auto' needs a modem that is looked for`},
		"all in a table":  {named + "modem.port = \"all\"", "", `sim "x": modem.port: 'all' stands in the table [modem] only`},
		"PIN for all":     {"", `port = "none"|port = "all"` + "\npin = \"1234\"", `modem.pin: modem.port is 'all', and each SIM has its own`},
		"price":           {named + "modem.port = \"auto\"\nprice.up = \"1\"", "", `sim "x": price.down: missing: want USD in quotes`},
		"PIN":             {named + "modem.port = \"auto\"\nmodem.pin = \"86420975abc\"", "", `sim "x": modem.pin: want 4 to 8 digits in quotes`},
		"same name":       {named + "modem.port = \"auto\"\n" + named + "modem.imei = \"" + imeiA + "\"", "", `sim: x and x have the same name`},
		"same IMEI":       {strings.Repeat("[[sim]]\nmodem.imei = \""+imeiA+"\"\n", 2), "", `sim: ` + imeiA + ` and ` + imeiA + ` have the same name`},
		"same port":       {named + "modem.port = \"/dev/x\"\npolicy.interface = \"eth1\"", `port = "none"|port = "/dev/x"`, `sim: main and x have the same modem.port; set modem.imei`},
		"any twice":       {named + "modem.port = \"auto\"", `port = "none"|port = "auto"`, `sim: main and x have the same modem.port; set modem.imei`},
		"any beside all":  {named + "modem.port = \"auto\"", `port = "none"|port = "all"`, `sim: modem.port: 'auto' is any modem, and [modem] has them all`},
		"same listen":     {named + "modem.port = \"auto\"\nlisten = \":4402\"", `|listen = ":4402"`, `sim: main and x have the same listen`},
		"default listen":  {named + "modem.port = \"auto\"\nlisten = \":4402\"", "", `sim: main and x have the same listen`},
		"no more ports":   {named + "modem.port = \"auto\"", `|listen = ":65535"`, `sim "x": listen: missing: there is no port so far above the file's`},
		"bound to any":    {"", `|bind_tunnel = true`, `bind_tunnel: there is no interface: set policy.interface`},
		"TCP is not":      {"[policy]\ninterface = \"lo\"", "|bind_tunnel = true\nlisten_tcp = \":1\"", `listen_tcp: only UDP is tied to an interface`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var edits []string
			if tt.edit != "" {
				edits = []string{tt.edit}
			}
			got := problemsOf(t, tables(tt.more, edits...))
			if len(got) == 0 || !strings.HasPrefix(got[0], tt.want) {
				t.Errorf("got %q, want %s…", got, tt.want)
			}
			if strings.Contains(strings.Join(got, ""), "86420975") {
				t.Error("the PIN is shown")
			}
		})
	}
}

// TestPINsOfSIMs: each table's PIN file is read for its own modem.
func TestPINsOfSIMs(t *testing.T) {
	f, err := parseConfig("agent.toml", tables("[[sim]]\nname = \"x\"\nmodem.port = \"auto\"\nmodem.pin_file = \"p\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.pinFiles) != 1 || f.pinFiles[0].path != "p" || f.pinFiles[0].modem != f.Config.SIMs[1].Modem || f.pinFiles[0].key != `sim "x": modem.pin_file` {
		t.Errorf("%+v", f.pinFiles)
	}
}
