package directory

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/channel/facilitator/nethttp"
)

// maxWatched is how many facilitators a relay may watch by.
const maxWatched = 8

// watchKeys are the keys of who keeps agents' claims.
func (r *rawFile) watchKeys() []key {
	c := &r.file.Config.Watch
	return []key{
		{"watch.facilitators", fmt.Sprintf("a list of at most %d URLs such as 'https://facilitator.example.org'", maxWatched), func(v any) error {
			return takeURLs(&c.Facilitators, v)
		}},
		{"watch.state_dir", "the path of a directory", r.path(&c.StateDir)},
		{"watch.every", "a time from '1s' to '1h'", func(v any) error { return takeTime(&c.Every, v, time.Second, time.Hour) }},
		{"watch.channels", "a number from 1 to 1000000", number(&c.Channels, 1_000_000)},
	}
}

func takeURLs(into *[]string, v any) error {
	list, ok := v.([]any)
	if !ok || len(list) > maxWatched {
		return errWant
	}
	for _, v := range list {
		s, _ := v.(string)
		if _, err := nethttp.New(nethttp.Config{URL: s}); err != nil {
			return err
		}
		if slices.Contains(*into, s) {
			return fmt.Errorf("%.80q is there twice", s)
		}
		*into = append(*into, s)
	}
	return nil
}

// readWatch fills in what [payment] and [gateway] say: a relay that has to do with
// money already watches by the same facilitator, unless the file says otherwise.
func (r *rawFile) readWatch(given map[string]bool) {
	c := &r.file.Config
	w := &c.Watch
	if money := c.Toll.Price > 0 || c.Gateway.Wallet != ""; money && !given["watch.facilitators"] && c.Toll.Payment.Facilitator != "" {
		w.Facilitators = []string{c.Toll.Payment.Facilitator}
	}
	w.StateDir = cmp.Or(w.StateDir, c.Toll.StateDir, c.Gateway.Gateway.StateDir)
	switch {
	case len(w.Facilitators) > 0 && w.StateDir == "":
		r.problems = append(r.problems, "watch.state_dir: missing: agents' claims are kept there")
	case len(w.Facilitators) == 0 && !given["watch.facilitators"] && (given["watch.state_dir"] || given["watch.every"] || given["watch.channels"]):
		r.problems = append(r.problems, "watch.facilitators: missing: without one no claims are kept, whatever [watch] says")
	}
}

// adviseWatch are warnings about what is right as such.
func (c Config) adviseWatch(given map[string]bool) (warnings []string) {
	for _, text := range c.Watch.Facilitators {
		if u, err := url.Parse(text); given["watch.facilitators"] && err == nil && u.Scheme == "http" && !here(u.Hostname()) {
			warnings = append(warnings, fmt.Sprintf("watch.facilitators: %s: whoever is on the way can hide a withdrawal; name its https URL", text))
		}
	}
	return warnings
}

// checkWatch looks at all that is needed to keep agents' claims.
func (c Config) checkWatch(ctx context.Context) []Finding {
	w := c.Watch
	found := []Finding{passed("watch", w.StateDir+" keeps agents' claims")}
	if err := writable(w.StateDir); err != nil {
		found[0] = failed("watch", fmt.Sprintf("watch.state_dir: %v", err), "let the relay's user write there, or set another")
	}
	for _, text := range w.Facilitators {
		_, s, f := askFacilitator(ctx, text)
		if f != nil {
			found = append(found, warning("watch", f.Text, "agents' claims on its networks are not watched until it answers"))
			continue
		}
		networks := s.Networks()
		found = append(found, passed("watch", strings.Join(networks[:min(len(networks), maxOffered)], ", ")+" by "+text))
	}
	return found
}
