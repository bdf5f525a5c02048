package seller

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
)

const (
	shippedFile = "../../packaging/agent.toml"
	testPayTo   = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	testAsset   = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
)

// minimal is the shortest file that sells, with a place for more of each table.
const minimal = `state_dir = "state"
%s
[modem]
port = "none"
[price]
per_gb = "4.00"
[payment]
facilitator = "https://facilitator.example.org"
network = "eip155:84532"
asset = "` + testAsset + `"
asset_name = "USDC"
asset_version = "2"
pay_to = "` + testPayTo + `"
`

// edited is the minimal file with lines replaced: each edit is "old|new". An
// edit without "old" adds lines at the top.
func edited(edits ...string) []byte {
	top, text := "", minimal
	for _, e := range edits {
		from, to, _ := strings.Cut(e, "|")
		if from == "" {
			top += to + "\n"
		} else if !strings.Contains(text, from) {
			panic("no " + from + " to replace")
		} else {
			text = strings.Replace(text, from, to, 1)
		}
	}
	return fmt.Appendf(nil, text, top)
}

func problemsOf(t *testing.T, content []byte) []string {
	t.Helper()
	_, err := parseConfig("agent.toml", content)
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*ConfigError](err)
	if !ok {
		t.Fatalf("not a *ConfigError: %v", err)
	}
	if !strings.HasPrefix(err.Error(), "agent.toml: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("not one line with the file's name: %q", err)
	}
	return e.Problems
}

func TestConfigMinimal(t *testing.T) {
	f, err := parseConfig("/etc/x402/agent.toml", edited())
	if err != nil {
		t.Fatal(err)
	}
	payTo, _ := channel.ParseAddress(testPayTo)
	asset, _ := channel.ParseAddress(testAsset)
	want := ConfigFile{
		Path: "/etc/x402/agent.toml",
		Config: Config{
			StateDir: "/etc/x402/state", Price: agent.Price{Up: 4_000_000, Down: 4_000_000},
			Payment: agent.Payment{
				Network: "eip155:84532", Facilitator: "https://facilitator.example.org",
				Asset: asset, AssetName: "USDC", AssetVersion: "2", PayTo: payTo,
			},
		},
		Warnings: []Problem{{"endpoints, relays: both missing: the offer does not say where buyers reach this agent",
			`set relays to a relay's name, or endpoints to this line's public address, such as ["sim.example.org:4402"], and forward the port there`}},
	}
	if diff := cmp.Diff(want, f, cmpopts.IgnoreUnexported(ConfigFile{})); diff != "" {
		t.Error(diff)
	}
}

// TestConfigEverything sets every key to something that is not its default.
func TestConfigEverything(t *testing.T) {
	f, err := parseConfig("agent.toml", edited(
		`|listen = "192.0.2.1:4403"`, `|endpoints = ["a.example:1", "[2001:db8::1]:2"]`, `|control = "/run/c.sock"`,
		`port = "none"|port = "/dev/ttyUSB2"
baud = 9600
pin = "1234"
[log]
level = "warn"
format = "json"
[credit]
cap = "0.01"
total = "0.5"
loss_percent = 20
[limits]
sessions = 3
flows = 4
[policy]
allow_networks = ["192.168.7.0/24"]
deny_networks = ["198.51.100.0/24", "2001:db8::/32"]
allow_tcp = ["80", "443", "1000-2000"]
deny_tcp = ["1500"]
allow_udp = []
deny_udp = ["123"]
interface = "lo"
[settle]
every = "90m"
at = "0.000001"`,
		`per_gb = "4.00"|up = "0"
down = "2.5"`,
		`asset_version = "2"|asset_version = "2"
withdraw_delay = "48h"
min_deposit = "0.20"`,
	))
	if err != nil {
		t.Fatal(err)
	}
	c := f.Config
	if c.Modem == nil || c.Modem.PIN.IsZero() {
		t.Fatalf("modem: %+v", c.Modem)
	}
	c.Modem.PIN = modem.PIN{}
	payTo, _ := channel.ParseAddress(testPayTo)
	asset, _ := channel.ParseAddress(testAsset)
	want := Config{
		StateDir: "state", Listen: "192.0.2.1:4403", Endpoints: []string{"a.example:1", "[2001:db8::1]:2"}, Control: "/run/c.sock",
		Price: agent.Price{Up: 0, Down: 2_500_000},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "https://facilitator.example.org", Asset: asset, AssetName: "USDC",
			AssetVersion: "2", PayTo: payTo, WithdrawDelay: 172_800, MinDeposit: 200_000,
		},
		Credit: agent.CreditPolicy{Cap: 10_000, LossPercent: 20}, TotalCredit: 500_000, MaxSessions: 3, MaxFlows: 4,
		SettleEvery: 90 * time.Minute, SettleAt: 1,
		Modem: &modem.Config{Port: "/dev/ttyUSB2", Baud: 9600, PINGuard: "state/pins"},
		Policy: PolicyConfig{
			AllowNetworks: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")},
			DenyNetworks:  []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")},
			AllowTCP:      []PortRange{{80, 80}, {443, 443}, {1000, 2000}}, DenyTCP: []PortRange{{1500, 1500}},
			AllowUDP: []PortRange{}, DenyUDP: []PortRange{{123, 123}}, Interface: "lo",
		},
	}
	prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, c, prefixes, cmp.Comparer(func(a, b modem.PIN) bool { return a.IsZero() && b.IsZero() })); diff != "" {
		t.Error(diff)
	}
	if f.Log != (LogConfig{Level: slog.LevelWarn, JSON: true}) {
		t.Errorf("log: %+v", f.Log)
	}
	if len(f.Warnings) > 0 {
		t.Errorf("warnings: %q", f.Warnings)
	}
}

func TestConfigFaults(t *testing.T) {
	tests := map[string]struct {
		edits []string
		want  string
	}{
		"unknown":              {[]string{`|listne = ":1"`}, `unknown key "listne": did you mean listen?`},
		"unknown in a table":   {[]string{`per_gb = "4.00"|per_bg = "4.00"`}, `unknown key "price.per_bg": did you mean price.per_gb?`},
		"in the wrong table":   {[]string{`|pay_to = "0x"`}, `unknown key "pay_to": did you mean payment.pay_to?`},
		"unknown table":        {[]string{`[price]|[prices]`}, `unknown key "prices": did you mean price?`},
		"nothing near":         {[]string{`|colour_of_the_case = "red"`}, `unknown key "colour_of_the_case"`},
		"another case":         {[]string{`|Listen = ":1"`}, `unknown key "Listen": did you mean listen?`},
		"not TOML":             {[]string{`|listen = `}, `line 2: listen: a value is missing: a number, true, false, or text in quotes`},
		"twice":                {[]string{`|listen = ":1"`, `|listen = ":1"`}, `line 3: listen: it is there twice, or stands for two things`},
		"no state_dir":         {[]string{`state_dir = "state"|`}, `state_dir: missing: want a directory that survives reboots`},
		"empty state_dir":      {[]string{`"state"|""`}, `state_dir: want a directory that survives reboots`},
		"long socket path":     {[]string{`|control = "/` + strings.Repeat("x", 100) + `"`}, `control: the socket's path has 101 bytes, at most 99 are possible: set a shorter one`},
		"listen on a name":     {[]string{`|listen = "localhost:4402"`}, `listen: "localhost" is not an IP address; want a UDP address such as ':4402' or '192.0.2.1:4402'`},
		"listen without port":  {[]string{`|listen = "4402"`}, `listen: "4402"; want a UDP address such as ':4402' or '192.0.2.1:4402'`},
		"listen on port 65536": {[]string{`|listen = ":65536"`}, `listen: port "65536"; want a UDP address such as ':4402' or '192.0.2.1:4402'`},
		"endpoint":             {[]string{`|endpoints = ["a.example"]`}, `endpoints: endpoint "a.example", want host:port; want a list of HOST:PORT, such as ['agent.example.org:4402']`},
		"list of numbers":      {[]string{`|endpoints = [1]`}, `endpoints: want a list of HOST:PORT, such as ['agent.example.org:4402']`},
		"level":                {[]string{`[price]|[log]` + "\n" + `level = "INFO"` + "\n[price]"}, `log.level: "INFO"; want 'debug', 'info', 'warn' or 'error'`},
		"format":               {[]string{`[price]|[log]` + "\n" + `format = "xml"` + "\n[price]"}, `log.format: "xml"; want 'text' or 'json'`},
		"no modem":             {[]string{`port = "none"|`}, `modem.port: missing: want the modem's AT port such as '/dev/ttyUSB2', 'auto' to look for it, 'all' to sell every modem, or 'none' to sell without naming a SIM`},
		"PIN without a modem":  {[]string{`port = "none"|port = "none"` + "\n" + `pin = "1234"`}, `modem.pin: there is no modem: modem.port is 'none'`},
		"two PINs":             {[]string{`port = "none"|port = "/dev/x"` + "\n" + `pin = "1234"` + "\n" + `pin_file = "p"`}, `modem.pin: remove it, or modem.pin_file: there is one PIN`},
		"short PIN":            {[]string{`port = "none"|port = "/dev/x"` + "\n" + `pin = "123"`}, `modem.pin: want 4 to 8 digits in quotes`},
		"PIN as a number":      {[]string{`port = "none"|port = "/dev/x"` + "\n" + `pin = 1234`}, `modem.pin: want 4 to 8 digits in quotes`},
		"PIN not in quotes":    {[]string{`port = "none"|port = "/dev/x"` + "\n" + `pin = 12.34.5`}, `line 5: modem.pin: not a value: text stands in quotes`},
		"PIN with zeros":       {[]string{`port = "none"|port = "/dev/x"` + "\n" + `pin = 0123`}, `line 5: modem.pin: a number has no zeros before it; text, also of digits, stands in quotes`},
		"baud":                 {[]string{`port = "none"|port = "/dev/x"` + "\n" + `baud = 0`}, `modem.baud: 0 is out of range; want a number from 300 to 4000000`},
		"price as a number":    {[]string{`per_gb = "4.00"|per_gb = 4.00`}, `price.per_gb: want USD in quotes, such as '4.00'`},
		"price with a comma":   {[]string{`"4.00"|"4,00"`}, `price.per_gb: amount "4,00" in USD: not a decimal number; want USD in quotes, such as '4.00'`},
		"negative price":       {[]string{`"4.00"|"-4.00"`}, `price.per_gb: amount "-4.00" in USD: not a decimal number; want USD in quotes, such as '4.00'`},
		"no price":             {[]string{`per_gb = "4.00"|`}, `price.per_gb: missing: want USD in quotes, such as '4.00'`},
		"half a price":         {[]string{`per_gb = "4.00"|up = "1"`}, `price.down: missing: want USD in quotes, such as '4.00'`},
		"two prices":           {[]string{`per_gb = "4.00"|per_gb = "4.00"` + "\n" + `up = "1"`}, `price.per_gb: remove it, or price.up and price.down: they say the same`},
		"fortune":              {[]string{`"4.00"|"1000001"`}, `price 1000001000000/1000001000000 per GB is over 1000000000000`},
		"facilitator":          {[]string{`https://fac|ftp://fac`}, `payment.facilitator: facilitator URL "ftp://facilitator.example.org": want http://HOST[:PORT][/PATH] or https; want a URL such as 'https://facilitator.example.org'`},
		"network":              {[]string{`eip155:84532|base`}, `payment.network: network "base": not an eip155 name; want a network's CAIP-2 name, such as 'eip155:84532'`},
		"checksum":             {[]string{`79C8|79c8`}, `payment.pay_to: address "0x70997970C51812dc3A010C7d01b50e0d17dc79c8": wrong checksum (EIP-55); want the address that is paid, '0x' and 40 hexadecimal digits`},
		"nobody":               {[]string{testPayTo + `|0x0000000000000000000000000000000000000000`}, `payment.pay_to: nobody's address; want the address that is paid, '0x' and 40 hexadecimal digits`},
		"empty asset name":     {[]string{`"USDC"|""`}, `payment.asset_name: want the name in the asset's EIP-712 domain, such as 'USDC'`},
		"withdraw delay":       {[]string{`pay_to|withdraw_delay = "23h59m"` + "\npay_to"}, `payment.withdraw_delay: "23h59m"; want a time from '24h' to '720h'`},
		"fraction of a second": {[]string{`pay_to|withdraw_delay = "24h0.5s"` + "\npay_to"}, `payment.withdraw_delay: "24h0.5s"; want a time from '24h' to '720h'`},
		"no deposit":           {[]string{`pay_to|min_deposit = "0"` + "\npay_to"}, `payment.min_deposit: want USD in quotes and more than 0, such as '0.10'`},
		"cap":                  {[]string{`[price]|[credit]` + "\n" + `cap = "0.0000001"` + "\n[price]"}, `credit.cap: amount "0.0000001" in USD: want one to six decimals; want USD in quotes and more than 0, such as '0.05'`},
		"loss":                 {[]string{`[price]|[credit]` + "\n" + `loss_percent = 101` + "\n[price]"}, `credit.loss_percent: 101 is out of range; want a number from 1 to 100`},
		"no sessions":          {[]string{`[price]|[limits]` + "\n" + `sessions = 0` + "\n[price]"}, `limits.sessions: 0 is out of range; want a number from 1 to 10000`},
		"bits":                 {[]string{`[price]|[policy]` + "\n" + `allow_networks = ["192.168.7.1/24"]` + "\n[price]"}, `policy.allow_networks: 192.168.7.1/24: the network is 192.168.7.0/24; want a list of networks such as ['192.168.7.0/24', 'fd00:7::/64']`},
		"mapped":               {[]string{`[price]|[policy]` + "\n" + `deny_networks = ["::ffff:192.0.2.0/120"]` + "\n[price]"}, `policy.deny_networks: "::ffff:192.0.2.0/120"; want a list of networks such as ['198.51.100.0/24']`},
		"ports":                {[]string{`[price]|[policy]` + "\n" + `allow_tcp = ["http"]` + "\n[price]"}, `policy.allow_tcp: "http"; want a list of ports such as ['80', '443', '1000-2000']`},
		"port as a number":     {[]string{`[price]|[policy]` + "\n" + `allow_tcp = [80]` + "\n[price]"}, `policy.allow_tcp: want a list of ports such as ['80', '443', '1000-2000']`},
		"interface":            {[]string{`[price]|[policy]` + "\n" + `interface = "a-name-that-is-too-long"` + "\n[price]"}, `policy: interface: the name is too long`},
		"every":                {[]string{`[price]|[settle]` + "\n" + `every = "1d"` + "\n[price]"}, `settle.every: "1d"; want a time from '1m' to '720h'`},
		"a table for a key":    {[]string{`|listen = {}`}, `listen: want a UDP address such as ':4402' or '192.0.2.1:4402'`},
		"a key for a table":    {[]string{`|log = 1`}, `log: want a table`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff([]string{test.want}, problemsOf(t, edited(test.edits...))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestConfigMissing: what the owner must decide is one problem, and the error
// carries whom to ask.
func TestConfigMissing(t *testing.T) {
	_, err := parseConfig("agent.toml", edited(`network = "eip155:84532"|`, `asset_name = "USDC"|`))
	e, ok := errors.AsType[*ConfigError](err)
	if !ok {
		t.Fatal(err)
	}
	want := &ConfigError{Path: "agent.toml", Facilitator: "https://facilitator.example.org", Problems: []string{
		"payment.network, payment.asset_name: missing: you decide in what you are paid; `x402-agent check` shows what the facilitator offers, to copy from",
	}}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}

	got := problemsOf(t, nil)
	for i, key := range []string{"state_dir", "modem.port", "price.per_gb", "payment.facilitator", "payment.pay_to", "payment.network, payment.asset, "} {
		if i >= len(got) || !strings.HasPrefix(got[i], key) {
			t.Errorf("problem %d of an empty file: %q does not begin with %s", i, got, key)
		}
	}
	if _, err := parseConfig("agent.toml", nil); !strings.HasSuffix(err.Error(), " (and 5 more: `x402-agent check` lists them)") {
		t.Error(err)
	}
}

func TestConfigWarnings(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.toml")
	write := func(path string, content []byte, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(want ...string) ConfigFile {
		t.Helper()
		f, err := ReadConfigFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range f.Warnings {
			got = append(got, w.What+": "+w.Do)
		}
		if !slices.Equal(got, want) {
			t.Errorf("warnings %q, want %q", got, want)
		}
		return f
	}
	endpoints := `|endpoints = ["a.example:1"]`
	withPIN := edited(endpoints, `port = "none"|port = "/dev/x"`+"\n"+`pin = "1234"`)
	write(path, withPIN, 0o644)
	open := func(p string) string {
		return p + " holds the SIM's PIN and every user may read it: chmod 640 " + p
	}
	read(open(path))
	write(path, withPIN, 0o640)
	read()

	pinFile := filepath.Join(dir, "pin")
	write(path, edited(endpoints, `port = "none"|port = "/dev/x"`+"\n"+`pin_file = "pin"`), 0o644)
	write(pinFile, []byte("1234\n"), 0o644)
	f := read(open(pinFile))
	if f.Config.Modem.PIN.IsZero() || f.Config.Modem.PINGuard != filepath.Join(dir, "state", "pins") {
		t.Errorf("%+v", f.Config.Modem)
	}
	write(pinFile, []byte("secret\n"), 0o600)
	if _, err := ReadConfigFile(path); err == nil || !strings.HasSuffix(err.Error(), "modem.pin_file: "+pinFile+": want 4 to 8 digits") {
		t.Error(err)
	}
	if err := os.Remove(pinFile); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfigFile(path); !strings.Contains(fmt.Sprint(err), "modem.pin_file: ") {
		t.Error(err)
	}

	write(path, edited(endpoints, `https://|http://`), 0o644)
	read("payment.facilitator: http: whoever is on the way can make up deposits: name its https URL")
	write(path, edited(endpoints, `https://facilitator.example.org|http://127.0.0.1:8402`), 0o644)
	read()
	write(path, edited(`|listen = "192.0.2.1:4402"`), 0o644)
	read()
}

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.toml")
	if _, err := LoadConfig(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(path, edited(`|endpoints = ["a.example:1"]`, `port = "none"|port = "/dev/x"`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Logger == nil || c.Modem.Logger != c.Logger {
		t.Error("no logger")
	}
}

func TestControlPathOf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.toml")
	for content, want := range map[string]string{
		`state_dir = "state"` + "\nlisten = 7\n[nonsense]": filepath.Join(dir, "state/control.sock"),
		`state_dir = "/s"`:                       "/s/control.sock",
		`control = "/run/c"`:                     "/run/c",
		`state_dir = "/s"` + "\ncontrol = \"c\"": filepath.Join(dir, "c"),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ControlPathOf(path); got != want || err != nil {
			t.Errorf("%q: %s, %v; want %s", content, got, err, want)
		}
	}
	for _, content := range []string{"", "state_dir = 1", "state_dir ="} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ControlPathOf(path); err == nil || !strings.Contains(err.Error(), "state_dir") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// setting matches a setting that the shipped file leaves at its default.
var setting = regexp.MustCompile(`(?m)^#([a-z_]+ = )`)

// TestShippedFile: packaging/agent.toml lacks exactly what its owner must
// decide, and says the truth about everything else.
func TestShippedFile(t *testing.T) {
	shipped, err := os.ReadFile(shippedFile)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"payment.facilitator: missing", "payment.pay_to: missing", "payment.network, payment.asset, payment.asset_name, payment.asset_version: missing"} {
		if got := problemsOf(t, shipped); len(got) != 3 || !strings.HasPrefix(got[i], want) {
			t.Fatalf("problems: %q, want %s", got, want)
		}
	}
	for line := range strings.SplitSeq(string(shipped), "\n") {
		if len(line) > 80 {
			t.Errorf("over 80 columns: %s", line)
		}
	}

	// Settings whose value in the file is an example.
	examples := regexp.MustCompile(`(?m)^(pin|pin_file|imei|up|down|allow_tcp|allow_udp|interface|flows|mbits|hold|tries|echo|price|between|power_command|power_file|gpio_chip|gpio_line|power_off) = .*\n`)
	all := setting.ReplaceAll(shipped, []byte("$1"))
	all = bytes.Replace(all, []byte("every = \"1h\"\n"), nil, 1)
	named := map[string]bool{"rotate.every": true}
	all = bytes.Replace(all, []byte(`"0x…"`), []byte(`"`+testPayTo+`"`), 1)
	all = bytes.Replace(all, []byte("#[plan]"), []byte("[plan]"), 1)
	before, rest, _ := bytes.Cut(all, []byte("[plan]"))
	_, after, _ := bytes.Cut(rest, []byte("[settle]"))
	f, err := parseConfig("/etc/x402/agent.toml", examples.ReplaceAll(slices.Concat(before, []byte("[settle]"), after), nil))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Config.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	bare := Config{StateDir: got.StateDir, Price: got.Price, Payment: got.Payment, Modem: &modem.Config{Port: "/dev/ttyUSB2", Baud: 115200}}
	bare.Payment.WithdrawDelay, bare.Payment.MinDeposit = 0, 0
	bare.Control = bare.ControlPath()
	want, err := bare.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Config{}, "Logger"), cmpopts.IgnoreUnexported(modem.PIN{})); diff != "" {
		t.Error("not the default:", diff)
	}
	if f.Log != (LogConfig{}) {
		t.Errorf("log: %+v", f.Log)
	}
	if f, err := parseConfig("agent.toml", examples.ReplaceAll(all, nil)); err == nil || !strings.Contains(err.Error(), "plan.interface: missing") {
		t.Errorf("the plan's section: %+v, %v", f.Config.Plan, err)
	}

	table := ""
	for line := range strings.SplitSeq(string(all), "\n") {
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[]")
			named[table] = true
			table += "."
		}
		if key, _, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(key, "#") {
			named[table+key] = true
		}
	}
	for key, f := range fields() {
		if of, ok := strings.CutPrefix(key, "sim."); ok { // an example, all of it
			named[key] = tableOf(f.Type) != nil || strings.HasPrefix(of, "plan.") || strings.Contains(string(shipped), "\n# "+of+" = ")
		}
		if !named[key] && key != "sim" {
			t.Errorf("the file does not explain %s", key)
		}
		delete(named, key)
	}
	if len(named) > 0 {
		t.Errorf("unknown keys in the file: %v", named)
	}
}

// FuzzConfig: whatever is in a file, reading it ends in a usable config or in
// one line that does not hold the PIN.
func FuzzConfig(f *testing.F) {
	shipped, err := os.ReadFile(shippedFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	f.Add(setting.ReplaceAll(shipped, []byte("$1")))
	f.Add(edited())
	f.Add(edited(`port = "none"|port = "/dev/x"` + "\n" + `pin = "86420975"`))
	f.Add([]byte("[modem]\npin = 86420975.1.1\n"))
	f.Add([]byte("\"\n\" = 1\n'' = 2\n[[a]]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := parseConfig("agent.toml", content)
		if err == nil {
			if _, err := file.Config.withDefaults(); err != nil {
				t.Errorf("taken, but %v", err)
			}
			return
		}
		e, ok := errors.AsType[*ConfigError](err)
		if !ok || len(e.Problems) == 0 {
			t.Fatalf("%v is no *ConfigError", err)
		}
		for _, p := range append(e.Problems, err.Error()) {
			if strings.ContainsAny(p, "\n\r\x1b") {
				t.Errorf("not one line: %q", p)
			}
			about := strings.HasPrefix(p, "line ") || strings.HasPrefix(p, "modem.pin: ")
			if about && strings.Contains(p, "86420975") {
				t.Errorf("the PIN in %q", p)
			}
		}
	})
}
