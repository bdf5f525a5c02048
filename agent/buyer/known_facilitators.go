package buyer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
)

// KnownFacilitators remembers who keeps a wallet's money, so that it can be
// looked at: a text file with one URL a line, and comments that begin with #.
type KnownFacilitators struct {
	Path string
}

// All returns the facilitators in the order in which they were added; none when
// there is no file. A line that is no URL is an error.
func (k KnownFacilitators) All() ([]string, error) {
	text, err := readSmall(k.Path)
	if err != nil {
		return nil, err
	}
	var urls []string
	for i, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		if _, err := nethttp.New(nethttp.Config{URL: l}); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", k.Path, i+1, err)
		}
		urls = append(urls, l)
	}
	return urls, nil
}

// Add remembers url, which has been used.
func (k KnownFacilitators) Add(url string) error {
	text, err := readSmall(k.Path)
	if err != nil || slices.Contains(strings.Split(text, "\n"), url) {
		return err
	}
	if text != "" {
		text += "\n"
	}
	if err := os.MkdirAll(filepath.Dir(k.Path), 0o700); err != nil {
		return err
	}
	return agent.ReplaceFile(k.Path, []byte(text+url+"\n"), 0o600)
}

// readSmall reads a text file of up to maxKnown bytes, without the last line's
// end; one that is missing is empty.
func readSmall(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if info.Size() > maxKnown {
		return "", fmt.Errorf("%s: longer than %d bytes", path, maxKnown)
	}
	b, err := os.ReadFile(path)
	return strings.TrimRight(string(b), "\n"), err
}
