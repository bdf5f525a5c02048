package buyer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel/relay"
)

// KnownRelays remembers where offers are looked for: a text file with one
// relay's name a line, and comments that begin with #.
type KnownRelays struct {
	Path string
}

// All returns the relays in the order in which they were added; none when there
// is no file.
func (k KnownRelays) All() ([]relay.Name, error) {
	text, err := readSmall(k.Path)
	if err != nil {
		return nil, err
	}
	var names []relay.Name
	for i, line := range strings.Split(text, "\n") {
		n, ok, err := parseRelay(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", k.Path, i+1, err)
		}
		if ok {
			names = append(names, n)
		}
	}
	return names, nil
}

// parseRelay reads a line; a comment and an empty one name none.
func parseRelay(line string) (n relay.Name, ok bool, err error) {
	if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
		return n, false, nil
	}
	n, err = relay.ParseName(line)
	return n, err == nil, err
}

// Add remembers a relay, instead of what was known at its address.
func (k KnownRelays) Add(n relay.Name) error {
	return k.edit(n, n.String())
}

// Remove forgets the relay at n's address, and says whether there was one.
func (k KnownRelays) Remove(n relay.Name) (bool, error) {
	names, err := k.All()
	if err != nil || !slices.ContainsFunc(names, func(o relay.Name) bool { return o.Address() == n.Address() }) {
		return false, err
	}
	return true, k.edit(n, "")
}

// edit takes out n's address and adds a line, if there is one.
func (k KnownRelays) edit(n relay.Name, line string) error {
	text, err := readSmall(k.Path)
	if err != nil {
		return err
	}
	var out strings.Builder
	for l := range strings.Lines(text) {
		if old, ok, err := parseRelay(l); err != nil || !ok || old.Address() != n.Address() {
			out.WriteString(strings.TrimRight(l, "\n") + "\n")
		}
	}
	if line != "" {
		out.WriteString(line + "\n")
	}
	if err := os.MkdirAll(filepath.Dir(k.Path), 0o700); err != nil {
		return err
	}
	return agent.ReplaceFile(k.Path, []byte(out.String()), 0o600)
}
