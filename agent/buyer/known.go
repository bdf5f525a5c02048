package buyer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// KnownAgents remembers which agent answered at which endpoint, as ssh's
// known_hosts does: a text file with one line "host:port 0xADDRESS" each, and
// comments that begin with #. Whoever has the state folder's channels open may
// change it.
type KnownAgents struct {
	Path string
}

// maxKnown bounds the file before it is read.
const maxKnown = 1 << 20

// A ChangedAgentError says that another agent answers than the one pinned:
// its owner replaced the device key, or somebody else answers in its place.
type ChangedAgentError struct {
	Endpoint    string
	Pinned, Now channel.Address
	Path        string // of the pins
}

func (e *ChangedAgentError) Error() string {
	return fmt.Sprintf("the agent at %s is now %s, it was %s before (%s): someone else may be answering", e.Endpoint, e.Now, e.Pinned, e.Path)
}

// Check compares the agent that answered at endpoint with the one pinned
// there. It reports false when none is, and fails with a *ChangedAgentError
// when it is another.
func (k KnownAgents) Check(endpoint string, a channel.Address) (known bool, err error) {
	lines, err := k.read()
	if err != nil {
		return false, err
	}
	for i, l := range lines {
		e, pinned, err := parseKnown(l)
		switch {
		case err != nil:
			return false, fmt.Errorf("%s:%d: %w", k.Path, i+1, err)
		case e != endpoint:
		case pinned != a:
			return false, &ChangedAgentError{Endpoint: endpoint, Pinned: pinned, Now: a, Path: k.Path}
		default:
			return true, nil
		}
	}
	return false, nil
}

// Pin remembers a as the agent at endpoint, instead of any other.
func (k KnownAgents) Pin(endpoint string, a channel.Address) error {
	lines, err := k.read()
	if err != nil {
		return err
	}
	entry := endpoint + " " + a.String()
	var out []string
	for _, l := range lines {
		if e, _, err := parseKnown(l); err != nil || e != endpoint {
			out = append(out, l)
		}
	}
	return agent.ReplaceFile(k.Path, []byte(strings.Join(append(out, entry), "\n")+"\n"), 0o600)
}

func (k KnownAgents) read() ([]string, error) {
	text, err := readSmall(k.Path)
	if err != nil || text == "" {
		return nil, err
	}
	return strings.Split(text, "\n"), nil
}

// parseKnown reads a line; a comment and an empty line name no endpoint.
func parseKnown(line string) (endpoint string, a channel.Address, err error) {
	f := strings.Fields(line)
	if len(f) == 0 || strings.HasPrefix(f[0], "#") {
		return "", a, nil
	}
	if len(f) != 2 {
		return "", a, errors.New("want a host:port and an address")
	}
	a, err = channel.ParseAddress(f[1])
	return f[0], a, err
}
