package buyer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// KnownResources is a folder with what each channel paid for that is used by
// HTTP, so that its deposit can be asked back later.
type KnownResources struct {
	Dir string
}

// A Resource is something that is paid for by HTTP.
type Resource struct {
	Method      string `json:"method"`
	URL         string `json:"url"`
	Facilitator string `json:"facilitator"` // holds the deposit
}

func (k KnownResources) path(id channel.ID) string {
	return filepath.Join(k.Dir, id.String()+".json")
}

// Save remembers the last resource that a channel paid for.
func (k KnownResources) Save(id channel.ID, r Resource) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return err
	}
	return agent.ReplaceFile(k.path(id), append(text, '\n'), 0o600)
}

// Load returns it. It fails with ErrNoOffer if there is none.
func (k KnownResources) Load(id channel.ID) (Resource, error) {
	var r Resource
	text, err := os.ReadFile(k.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("channel %.10s: %w", id, ErrNoOffer)
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", k.path(id), err)
	}
	return r, nil
}
