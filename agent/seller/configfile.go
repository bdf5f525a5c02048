package seller

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/depinsim/x402/modem"
)

// rawFile is a configuration file as it is written; packaging/agent.toml
// explains every key. The tag "want" is what its value must be.
type rawFile struct {
	StateDir  string   `toml:"state_dir" want:"a directory that survives reboots"`
	Listen    string   `toml:"listen" want:"a UDP address such as ':4402' or '192.0.2.1:4402'"`
	Endpoints []string `toml:"endpoints" want:"a list of HOST:PORT, such as ['agent.example.org:4402']"`
	ListenTCP string   `toml:"listen_tcp" want:"a TCP address such as ':4402', or 'none'"`
	KCP       bool     `toml:"kcp" want:"true or false"`
	Relays    []string `toml:"relays" want:"a list of at most 4 relays, each HOST:PORT#PIN as its operator names it"`
	Control   string   `toml:"control" want:"the path of a socket"`
	// BindTunnel has no default of its own.
	BindTunnel bool `toml:"bind_tunnel" want:"true or false"`

	Log struct {
		Level  string `toml:"level" want:"'debug', 'info', 'warn' or 'error'"`
		Format string `toml:"format" want:"'text' or 'json'"`
	} `toml:"log" want:"a table"`

	Modem rawModem `toml:"modem" want:"a table"`
	Price rawPrice `toml:"price" want:"a table"`
	SIM   []rawSIM `toml:"sim" want:"tables of their own, [[sim]], one for each SIM"`

	Payment struct {
		Facilitator   string `toml:"facilitator" want:"a URL such as 'https://facilitator.example.org'"`
		Network       string `toml:"network" want:"a network's CAIP-2 name, such as 'eip155:84532'"`
		Asset         string `toml:"asset" want:"the asset's address, '0x' and 40 hexadecimal digits"`
		AssetName     string `toml:"asset_name" want:"the name in the asset's EIP-712 domain, such as 'USDC'"`
		AssetVersion  string `toml:"asset_version" want:"the version in the asset's EIP-712 domain, such as '2'"`
		PayTo         string `toml:"pay_to" want:"the address that is paid, '0x' and 40 hexadecimal digits"`
		WithdrawDelay string `toml:"withdraw_delay" want:"a time from '24h' to '720h'"`
		MinDeposit    string `toml:"min_deposit" want:"USD in quotes and more than 0, such as '0.10'"`
	} `toml:"payment" want:"a table"`

	Credit struct {
		Cap         string `toml:"cap" want:"USD in quotes and more than 0, such as '0.05'"`
		Total       string `toml:"total" want:"USD in quotes and more than 0, such as '1.00'"`
		LossPercent int64  `toml:"loss_percent" want:"a number from 1 to 100"`
	} `toml:"credit" want:"a table"`

	Limits struct {
		Sessions int64 `toml:"sessions" want:"a number from 1 to 10000"`
		Flows    int64 `toml:"flows" want:"a number from 1 to 10000"`
		Mbits    int64 `toml:"mbits" want:"Mbit/s, a number from 1 to 100000"`
	} `toml:"limits" want:"a table"`

	Policy struct {
		AllowNetworks []string `toml:"allow_networks" want:"a list of networks such as ['192.168.7.0/24', 'fd00:7::/64']"`
		DenyNetworks  []string `toml:"deny_networks" want:"a list of networks such as ['198.51.100.0/24']"`
		AllowTCP      []string `toml:"allow_tcp" want:"a list of ports such as ['80', '443', '1000-2000']"`
		DenyTCP       []string `toml:"deny_tcp" want:"a list of ports such as ['22', '6660-6669']"`
		AllowUDP      []string `toml:"allow_udp" want:"a list of ports such as ['53', '443', '1000-2000']"`
		DenyUDP       []string `toml:"deny_udp" want:"a list of ports such as ['123', '6660-6669']"`
		Interface     string   `toml:"interface" want:"the name of a network interface, such as 'wwan0', or 'auto' for the modem's own"`
	} `toml:"policy" want:"a table"`

	Plan     rawPlan     `toml:"plan" want:"a table"`
	Rotate   rawRotate   `toml:"rotate" want:"a table"`
	Recovery rawRecovery `toml:"recovery" want:"a table"`

	Settle struct {
		Every string `toml:"every" want:"a time from '1m' to '720h'"`
		At    string `toml:"at" want:"USD in quotes and more than 0, such as '1.00'"`
	} `toml:"settle" want:"a table"`
}

type rawModem struct {
	Port    string `toml:"port" want:"the modem's AT port such as '/dev/ttyUSB2', 'auto' to look for it, 'all' to sell every modem, or 'none' to sell without naming a SIM"`
	IMEI    string `toml:"imei" want:"the modem's 15 digits in quotes"`
	Baud    int64  `toml:"baud" want:"a number from 300 to 4000000"`
	PIN     string `toml:"pin" want:"4 to 8 digits in quotes"`
	PINFile string `toml:"pin_file" want:"the path of a file that holds 4 to 8 digits"`
	NewSIM  string `toml:"new_sim" want:"'ask' or 'sell'"`
}

type rawPrice struct {
	PerGB string `toml:"per_gb" want:"USD in quotes, such as '4.00'"`
	Up    string `toml:"up" want:"USD in quotes, such as '2.00'"`
	Down  string `toml:"down" want:"USD in quotes, such as '4.00'"`
}

type rawPlan struct {
	Size          string   `toml:"size" want:"a size such as '20 GB'"`
	ResetDay      int64    `toml:"reset_day" want:"a day of the month, from 1 to 31"`
	ResetHour     int64    `toml:"reset_hour" want:"an hour from 0 to 23"`
	Timezone      string   `toml:"timezone" want:"a time zone such as '+02:00' or 'CET-1CEST,M3.5.0,M10.5.0/3'"`
	Used          string   `toml:"used" want:"a size such as '3.1 GB'"`
	UsedOn        string   `toml:"used_on" want:"a day such as '2026-11-28'"`
	Reserve       string   `toml:"reserve" want:"a size such as '5 GB'"`
	Daily         string   `toml:"daily" want:"a size such as '1 GB'"`
	Hourly        string   `toml:"hourly" want:"a size such as '200 MB'"`
	Schedule      []string `toml:"schedule" want:"a list of hours such as ['mon-fri 22:00-06:00', 'sat 00:00-24:00']"`
	Roaming       bool     `toml:"roaming" want:"true or false"`
	Mbits         int64    `toml:"mbits" want:"Mbit/s, a number from 1 to 100000"`
	PriceSteps    []string `toml:"price_steps" want:"a list such as ['50% 125%', '20% 200%']: what is left, and the price then"`
	MarginPercent int64    `toml:"margin_percent" want:"a number from 0 to 100"`
	Interface     string   `toml:"interface" want:"the name of a network interface, such as 'wwan0'"`
}

type rawRecovery struct {
	Enabled   bool     `toml:"enabled" want:"true or false"`
	Command   []string `toml:"power_command" want:"a program by its whole path, and its arguments"`
	File      string   `toml:"power_file" want:"the path of a file, such as '/sys/class/gpio/modem_power/value'"`
	Chip      string   `toml:"gpio_chip" want:"the path of a GPIO chip, such as '/dev/gpiochip0'"`
	Line      int64    `toml:"gpio_line" want:"the number of a line of the chip, from 0 to 1023"`
	ActiveLow bool     `toml:"gpio_active_low" want:"true or false"`
	Off       string   `toml:"power_off" want:"a time from '1s' to '60s'"`
}

type rawRotate struct {
	Every string `toml:"every" want:"a time from '1m' to '720h'"`
	Hold  string `toml:"hold" want:"a time from '1s' to '10m'"`
	Tries int64  `toml:"tries" want:"a number from 1 to 10"`
	Echo  string `toml:"echo" want:"a URL that answers with the address it is asked from"`

	Price   string `toml:"price" want:"USD in quotes, such as '0.02'"`
	Between string `toml:"between" want:"a time from '10s' to '720h'"`
}

// rawSIM is what one of several SIMs has of its own, spelled as in rawFile.
type rawSIM struct {
	Name       string   `toml:"name" want:"a name of at most 32 letters, digits, '-', '_' and '.'"`
	Listen     string   `toml:"listen" want:"a UDP address such as ':4403' or '192.0.2.1:4403'"`
	Endpoints  []string `toml:"endpoints" want:"a list of HOST:PORT, such as ['agent.example.org:4403']"`
	BindTunnel bool     `toml:"bind_tunnel" want:"true or false"`
	Modem      rawModem `toml:"modem" want:"a table"`
	Price      rawPrice `toml:"price" want:"a table"`
	Limits     struct {
		Mbits int64 `toml:"mbits" want:"Mbit/s, a number from 1 to 100000"`
	} `toml:"limits" want:"a table"`
	Policy struct {
		Interface string `toml:"interface" want:"the name of a network interface, such as 'wwan1', or 'auto' for the modem's own"`
	} `toml:"policy" want:"a table"`
	Plan     rawPlan     `toml:"plan" want:"a table"`
	Rotate   rawRotate   `toml:"rotate" want:"a table"`
	Recovery rawRecovery `toml:"recovery" want:"a table"`
}

// A ConfigFile is what a configuration file says. Config has zero fields where
// the file leaves the default.
type ConfigFile struct {
	Path   string
	Config Config
	Log    LogConfig
	// Warnings are for the owner to hear; the agent sells all the same.
	Warnings []Problem

	pinFiles []pinFile // not read yet
}

// A pinFile holds the PIN for a modem.
type pinFile struct {
	path  string
	modem *modem.Config
	key   string // as in a problem
}

// LogConfig says what is logged, and how.
type LogConfig struct {
	Level slog.Level
	JSON  bool // else text
}

// Handler returns a handler that writes to w.
func (l LogConfig) Handler(w io.Writer) slog.Handler {
	opts := &slog.HandlerOptions{Level: l.Level}
	if l.JSON {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// A ConfigError lists what is wrong with a configuration file.
type ConfigError struct {
	Path     string
	Problems []string // each names its key and what is expected; at least one
	// Facilitator is payment.facilitator if the file does not say which asset
	// on which network its owner accepts. PayTo is payment.pay_to then.
	Facilitator string
}

func (e *ConfigError) Error() string {
	text := e.Path + ": " + e.Problems[0]
	if n := len(e.Problems) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more: `x402-agent check` lists them)", n)
	}
	return text
}

// LoadConfig reads a configuration file. The Config's Logger writes to the
// standard error as the file says, and has been told the warnings. What is
// wrong with the file's content is a *ConfigError.
func LoadConfig(path string) (Config, error) {
	f, err := ReadConfigFile(path)
	if err != nil {
		return Config{}, err
	}
	c := f.Config
	c.Logger = slog.New(f.Log.Handler(os.Stderr))
	if c.Modem != nil {
		c.Modem.Logger = c.Logger
	}
	for _, w := range f.Warnings {
		c.Logger.Warn("config", "file", path, "warning", w.What, "do", w.Do)
	}
	return c, nil
}

// ReadConfigFile reads a configuration file. Paths in it are relative to its
// own directory. What is wrong with its content is a *ConfigError.
func ReadConfigFile(path string) (ConfigFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return ConfigFile{}, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return ConfigFile{}, err
	}
	f, err := parseConfig(path, b)
	if err != nil {
		return ConfigFile{}, err
	}
	if slices.ContainsFunc(f.Config.lines(), func(c Config) bool { return c.Modem != nil && !c.Modem.PIN.IsZero() }) {
		f.warnIfOpen(path, info.Mode())
	}
	for _, p := range f.pinFiles {
		if err := f.readPIN(p); err != nil {
			return ConfigFile{}, &ConfigError{Path: path, Problems: []string{p.key + ": " + err.Error()}}
		}
	}
	return f, nil
}

// readPIN takes a PIN from the file that the configuration names.
func (f *ConfigFile) readPIN(p pinFile) error {
	info, err := os.Stat(p.path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(p.path)
	if err != nil {
		return err
	}
	if p.modem.PIN, err = modem.ParsePIN(strings.TrimSpace(string(b))); err != nil {
		return fmt.Errorf("%s: want 4 to 8 digits", p.path)
	}
	f.warnIfOpen(p.path, info.Mode())
	return nil
}

func (f *ConfigFile) warnIfOpen(path string, mode fs.FileMode) {
	if mode.Perm()&0o004 != 0 {
		f.Warnings = append(f.Warnings, Problem{path + " holds the SIM's PIN and every user may read it", "chmod 640 " + path})
	}
}

// ControlPathOf returns the path of the control socket that a configuration
// file names. It reads nothing else of the file, so that the owner can talk to
// his agent while the file is half edited.
func ControlPathOf(path string) (string, error) {
	c, err := placesOf(path)
	if err == nil && c.StateDir == "" && c.Control == "" {
		err = errNoStateDir(path)
	}
	return c.ControlPath(), err
}

// StateDirOf returns the state directory that a configuration file names, in the
// same way.
func StateDirOf(path string) (string, error) {
	c, err := placesOf(path)
	if err == nil && c.StateDir == "" {
		err = errNoStateDir(path)
	}
	return c.StateDir, err
}

func errNoStateDir(path string) error {
	return &ConfigError{Path: path, Problems: []string{"state_dir: missing"}}
}

// placesOf reads the paths of a configuration file.
func placesOf(path string) (c Config, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	tree, err := parseTOML(b)
	if err != nil {
		return c, &ConfigError{Path: path, Problems: []string{err.Error()}}
	}
	for key, into := range map[string]*string{"state_dir": &c.StateDir, "control": &c.Control} {
		text, ok := tree[key].(string)
		if !ok && tree[key] != nil {
			return c, &ConfigError{Path: path, Problems: []string{key + ": want " + wanted(key)}}
		}
		*into = beside(path, text)
	}
	return c, nil
}

// beside is a path as a configuration file means it: relative to the file.
func beside(file, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}
