package directory

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// A ConfigFile is what a configuration file says; packaging/relay.toml explains
// every key. Config has zero fields where the file leaves the default.
type ConfigFile struct {
	Path   string
	Config Config
	Log    LogConfig
	// Warnings are for the operator to hear; the relay runs all the same.
	Warnings []string
}

// LogConfig says what is logged, and how.
type LogConfig struct {
	Level slog.Level
	JSON  bool // else text
}

// Logger returns a logger that writes to w.
func (l LogConfig) Logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.Level}
	if l.JSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// A ConfigError lists what is wrong with a configuration file.
type ConfigError struct {
	Path     string
	Problems []string // each names its key and what is expected; at least one
	// Facilitator is payment.facilitator, for a check to say what it offers.
	Facilitator string
}

func (e *ConfigError) Error() string {
	text := e.Path + ": " + e.Problems[0]
	if n := len(e.Problems) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more: `x402-relay check` lists them)", n)
	}
	return text
}

// ReadConfigFile reads a configuration file. Paths in it are relative to its
// own directory. What is wrong with its content is a *ConfigError.
func ReadConfigFile(path string) (ConfigFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return ConfigFile{}, err
	}
	return parseConfig(path, b)
}

// A key is one setting of the file: take reads its value, and returns errWant,
// or what else is wrong with it.
type key struct {
	name, want string
	take       func(value any) error
}

// errWant says that a value is not what its key wants.
var errWant = errors.New("not what is wanted")

// parseConfig reads the content of a configuration file. It touches no other
// file.
func parseConfig(path string, content []byte) (ConfigFile, error) {
	var tree map[string]any
	if _, err := toml.Decode(string(content), &tree); err != nil {
		return ConfigFile{}, &ConfigError{Path: path, Problems: []string{syntaxProblem(err)}}
	}
	f := ConfigFile{Path: path, Config: Config{Drain: defaultDrain}}
	raw := &rawFile{file: &f, listen: netip.AddrPortFrom(netip.IPv6Unspecified(), defaultPort), faulty: map[string]bool{}}
	keys, given, set := slices.Concat(raw.keys(), raw.tollKeys(), raw.gatewayKeys(), raw.watchKeys()), map[string]any{}, map[string]bool{}
	flatten(given, "", tree)
	for _, k := range keys {
		value, ok := given[k.name]
		delete(given, k.name)
		if ok {
			set[k.name] = true
			raw.fault(k, k.take(value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		raw.problems = append(raw.problems, unknownKey(name, keys))
	}
	raw.readPlace(keys)
	raw.readToll(set)
	raw.readGateway(set)
	raw.readWatch(set)
	if len(raw.problems) > 0 {
		return ConfigFile{}, &ConfigError{path, raw.problems, f.Config.Toll.Payment.Facilitator}
	}
	f.Warnings = slices.Concat(f.Config.advice(), f.Config.adviseToll(set), f.Config.adviseGateway(), f.Config.adviseWatch(set))
	return f, nil
}

// flatten lists the values of a tree by their keys with their tables.
func flatten(into map[string]any, prefix string, tree map[string]any) {
	for name, value := range tree {
		if strings.Contains(name, ".") {
			name = strconv.Quote(name) // written in quotes, and none of ours
		}
		if table, ok := value.(map[string]any); ok {
			flatten(into, prefix+name+".", table)
		} else {
			into[prefix+name] = value
		}
	}
}

// unknownKey names a key that means nothing, and those that its table has.
func unknownKey(name string, keys []key) string {
	table := name[:strings.LastIndexByte(name, '.')+1]
	var there []string
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k.name, table); ok && !strings.Contains(rest, ".") {
			there = append(there, rest)
		}
	}
	switch {
	case table == "":
		return fmt.Sprintf("unknown key %.60q: outside of tables there are %s", name, strings.Join(there, ", "))
	case there == nil:
		return fmt.Sprintf("unknown key %.60q: there is no table %.60q", name, strings.TrimSuffix(table, "."))
	}
	return fmt.Sprintf("unknown key %.60q: [%s] has %s", name, strings.TrimSuffix(table, "."), strings.Join(there, ", "))
}

// syntaxProblem puts an error of the TOML decoder into one line with its place.
func syntaxProblem(err error) string {
	place, text := "", err.Error()
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		place, text = fmt.Sprintf("line %d: ", parse.Position.Line), parse.Message
		if parse.LastKey != "" {
			text = parse.LastKey + ": " + text
		}
	}
	return place + strings.Join(strings.Fields(text), " ")
}

// beside is a path as a configuration file means it: relative to the file.
func (f *ConfigFile) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.Path), path)
}
