package directory

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigWatch(t *testing.T) {
	for name, tt := range map[string]struct {
		file string
		by   []string
		dir  string
	}{
		"plain":        {minimal, nil, ""},
		"asked for":    {minimal + "[watch]\nfacilitators = ['https://a.example', 'https://b.example/x']\nstate_dir = 'w'\n", []string{"https://a.example", "https://b.example/x"}, "/etc/w"},
		"with a price": {charging, []string{"https://facilitator.example"}, "/etc/state"},
		"other ones":   {charging + "[watch]\nfacilitators = ['https://a.example']\n", []string{"https://a.example"}, "/etc/state"},
		"not wanted":   {charging + "[watch]\nfacilitators = []\n", nil, "/etc/state"},
		"gateway":      {gatewayFile, []string{"https://facilitator.example"}, "/etc/gateway"},
	} {
		f, err := parseConfig("/etc/relay.toml", []byte(tt.file))
		if w := f.Config.Watch; err != nil || !slices.Equal(w.Facilitators, tt.by) || w.StateDir != tt.dir || f.Warnings != nil {
			t.Errorf("%s: %+v, %v, %q", name, w, err, f.Warnings)
		}
	}
	f, err := parseConfig("/etc/relay.toml", []byte(charging+"[watch]\nevery = '1m'\nchannels = 7\nfacilitators = ['http://far.example']"))
	if w := f.Config.Watch; err != nil || w.Every != time.Minute || w.Channels != 7 || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], "watch.facilitators: http://far.example: whoever is on the way") {
		t.Errorf("%+v, %v, %q", w, err, f.Warnings)
	}
	for name, tt := range map[string]struct{ watch, want string }{
		"no directory":    {"facilitators = ['https://a.example']", "watch.state_dir: missing"},
		"no facilitators": {"channels = 7", "watch.facilitators: missing"},
		"no list":         {"facilitators = 'https://a.example'", "watch.facilitators: want a list"},
		"no URL":          {"facilitators = ['a.example']\nstate_dir = 'w'", "watch.facilitators:"},
		"twice":           {"facilitators = ['https://a.example', 'https://a.example']\nstate_dir = 'w'", "is there twice"},
		"too often":       {"every = '1ms'\nfacilitators = ['https://a.example']\nstate_dir = 'w'", "watch.every:"},
		"none":            {"channels = 0\nfacilitators = ['https://a.example']\nstate_dir = 'w'", "watch.channels:"},
	} {
		if _, err := parseConfig("relay.toml", []byte(minimal+"[watch]\n"+tt.watch)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
