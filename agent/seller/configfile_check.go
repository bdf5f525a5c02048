package seller

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// Results of a check.
const (
	CheckOK      = "ok"
	CheckWarning = "warning" // the agent sells all the same
	CheckFailed  = "failed"
)

// A Finding is what one check came to.
type Finding struct {
	Name   string   `json:"name"`
	Result string   `json:"result"`
	Text   string   `json:"text"`
	Do     string   `json:"do,omitempty"`    // what to do about it first
	Paste  []string `json:"paste,omitempty"` // lines for the config file
}

func ok(name, text string) Finding          { return Finding{Name: name, Result: CheckOK, Text: text} }
func warning(name, text, do string) Finding { return Finding{name, CheckWarning, text, do, nil} }
func failed(name, text, do string) Finding  { return Finding{name, CheckFailed, text, do, nil} }

// Bounds of a check.
const (
	checkTime      = 45 * time.Second // for everything
	checkShortTime = 5 * time.Second  // for what should be there at once
	leastFree      = 1 << 20          // bytes on the state directory's disk
	maxOffered     = 8                // networks of a facilitator that are listed
)

// Check looks at everything that can be looked at without selling, given what
// ReadConfigFile returned. It changes nothing: no key is made, no PIN is sent,
// and a running agent is asked rather than disturbed.
func Check(ctx context.Context, f ConfigFile, err error) []Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	found := CheckOffline(f, err)
	if err != nil {
		return append(found, checkUnread(ctx, err)...)
	}
	c, err := f.Config.withDefaults()
	if err != nil {
		return found
	}
	running := askRunning(ctx, c)
	if c.Plan != nil {
		found = append(found, checkPlan(c, running))
	}
	if running != nil {
		found = append(found, ok("agent", fmt.Sprintf("runs as process %d", running.PID)))
	} else {
		for _, l := range c.lines() {
			found = append(found, l.named(checkListenAddress(l))...)
		}
	}
	// The rest waits for others, so it is done at once.
	later := make([][]Finding, 3)
	var wg sync.WaitGroup
	wg.Go(func() { later[0] = checkModems(ctx, c, running) })
	wg.Go(func() { later[1] = []Finding{checkDNS(ctx, c)} })
	wg.Go(func() { later[2] = checkFacilitator(ctx, c) })
	wg.Wait()
	return append(found, slices.Concat(later...)...)
}

// CheckOffline is the part of Check that asks nobody: it looks at the file, the
// state directory, the keys and the clock.
func CheckOffline(f ConfigFile, err error) []Finding {
	if e, isContent := errors.AsType[*ConfigError](err); isContent {
		var found []Finding
		for _, p := range e.Problems {
			found = append(found, failed("config", p, ""))
		}
		return found
	}
	if err != nil {
		return []Finding{failed("config", err.Error(), "")}
	}
	c, err := f.Config.withDefaults()
	if err != nil {
		return []Finding{failed("config", f.Path+": "+err.Error(), "")}
	}
	found := []Finding{ok("config", f.Path)}
	for _, w := range f.Warnings {
		found = append(found, warning("config", w.What, w.Do))
	}
	if c.Price.Max() == 0 {
		found = append(found, warning("price", "is 0: traffic is given away", "set price.per_gb, in USD"))
	}
	return append(found, checkState(c), checkKeys(c), checkClock(c, time.Now()))
}

// checkUnread asks the facilitator of a file that lacks what its owner accepts
// what there is.
func checkUnread(ctx context.Context, err error) []Finding {
	e, isContent := errors.AsType[*ConfigError](err)
	if !isContent || e.Facilitator == "" {
		return nil
	}
	s, err := askSupported(ctx, e.Facilitator)
	if err != nil {
		return []Finding{failed("facilitator", err.Error(), "check payment.facilitator, and that this device is online")}
	}
	return offered(e.Facilitator, s)
}

func askRunning(ctx context.Context, c Config) *Status {
	ctx, cancel := context.WithTimeout(ctx, checkShortTime)
	defer cancel()
	var st Status
	if DialControl(c.ControlPath()).Get(ctx, "status", &st) != nil {
		return nil
	}
	return &st
}

// checkState looks whether the state directory, or the place where it will be
// made, can be written.
func checkState(c Config) Finding {
	dir, made := c.StateDir, true
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return failed("state", dir+" is not a directory", "set another state_dir")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir, made = parent, false
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return failed("state", fmt.Sprintf("%s cannot be written: %v", dir, err), "run this as the agent's user, who must be able to write there")
	}
	switch free, inMemory := disk(dir); {
	case inMemory:
		return warning("state", c.StateDir+" is in memory: keys and vouchers are lost at a reboot", "set state_dir to a directory on flash or disk")
	case free < leastFree:
		return failed("state", fmt.Sprintf("%s: only %d KiB free", dir, free>>10), "make room: vouchers must be stored before traffic flows")
	case !made:
		return ok("state", c.StateDir+" will be made")
	default:
		return ok("state", fmt.Sprintf("%s, %d MiB free", dir, free>>20))
	}
}

// checkKeys looks at the device key, which is the agent's identity.
func checkKeys(c Config) Finding {
	path := filepath.Join(c.StateDir, deviceKeyFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ok("key", "will be made at the first start")
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return failed("key", err.Error(), "run this as the agent's user")
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return failed("key", path+" is not a hexadecimal key", "restore it from a backup")
	}
	key, err := channel.ParseKey(raw)
	switch {
	case err != nil:
		return failed("key", path+": "+err.Error(), "restore it from a backup")
	case info.Mode().Perm()&0o077 != 0:
		return warning("key", path+" can be read by others", "chmod 600 "+path)
	}
	return ok("key", "agent "+key.Address().String())
}

// checkClock: nothing about money depends on the clock, but TLS does.
func checkClock(c Config, now time.Time) Finding {
	text := now.UTC().Format("2006-01-02 15:04 MST")
	switch {
	case now.Year() >= 2026:
		return ok("clock", text)
	case strings.HasPrefix(c.Payment.Facilitator, "https:"):
		return failed("clock", text+" is in the past: the facilitator's certificate is not valid yet", "set the clock, or have it set by NTP")
	}
	return warning("clock", text+" is in the past", "set the clock, or have it set by NTP")
}

func checkListenAddress(c Config) Finding {
	conn, err := net.ListenPacket("udp", cmp.Or(c.Listen, defaultListen))
	if err != nil {
		do := ""
		if errors.Is(err, syscall.EADDRINUSE) {
			do = "stop what uses the port, or set listen to another one"
		}
		return failed("listen", err.Error(), do)
	}
	at := conn.LocalAddr().String()
	if err := conn.Close(); err != nil {
		return failed("listen", err.Error(), "")
	}
	return ok("listen", "UDP "+at+" is free")
}

// inWords is an error for people, who set no deadline.
func inWords(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}

// checkDNS looks up a name that exists wherever there is DNS (RFC 7050).
func checkDNS(ctx context.Context, c Config) Finding {
	ctx, cancel := context.WithTimeout(ctx, checkShortTime)
	defer cancel()
	lookup := c.Policy.Lookup
	if lookup == nil {
		w, err := newWay(c.Policy.Interface)
		if err != nil {
			return failed("dns", err.Error(), "")
		}
		if w != nil && w.name() == "" { // the modem's, which is not looked for here
			w = nil
		}
		lookup = newOutlet(w).resolver().LookupNetIP
	}
	start := time.Now()
	if _, err := lookup(ctx, "ip", nat64Name); err != nil {
		return warning("dns", "names are not resolved: "+inWords(err), "check /etc/resolv.conf and the line; without DNS buyers reach addresses only")
	}
	return ok("dns", fmt.Sprintf("answers in %v", time.Since(start).Round(time.Millisecond)))
}

func askSupported(ctx context.Context, url string) (x402.Supported, error) {
	client, err := facilitator.NewDirect(url)
	if err != nil {
		return x402.Supported{}, err
	}
	return client.Supported(ctx)
}

// checkFacilitator compares what the owner accepts with what there is.
func checkFacilitator(ctx context.Context, c Config) []Finding {
	p := c.Payment
	client, err := facilitator.NewDirect(p.Facilitator)
	if err != nil {
		return []Finding{failed("facilitator", err.Error(), "")}
	}
	s, err := client.Supported(ctx)
	if err != nil {
		return []Finding{failed("facilitator", err.Error(), "check payment.facilitator, and that this device is online")}
	}
	found := []Finding{ok("facilitator", p.Facilitator+" answers")}
	token, err := s.Token(p.Network)
	want, _ := p.Token() // the network was checked with the file
	switch {
	case !slices.Contains(s.Networks(), p.Network):
		found = append(found, failed("asset", "the facilitator does not settle channels on "+p.Network, "list another network only if you trust it"))
		return append(found, offered(p.Facilitator, s)...)
	case err != nil:
		found = append(found, warning("asset", "the facilitator does not say in which asset it settles", "make sure that asset, asset_name and asset_version are right"))
	case token != want:
		found = append(found, failed("asset", fmt.Sprintf("%s (%q version %q) on %s, but the facilitator settles %s (%q version %q)",
			want.Address, want.Name, want.Version, p.Network, token.Address, token.Name, token.Version), "list another asset only if you trust it"))
		return append(found, offered(p.Facilitator, s)...)
	default:
		found = append(found, ok("asset", fmt.Sprintf("%q %s on %s%s", p.AssetName, p.Asset, p.Network, whose(p.Network))))
	}
	info, err := client.Balance(ctx, p.Network, p.PayTo)
	if err != nil {
		return append(found, warning("account", fmt.Sprintf("%s: %v", p.PayTo, err), "ask again later; the agent sells all the same"))
	}
	return append(found, ok("account", fmt.Sprintf("%s has %s USD", p.PayTo, info.Balance.USD())))
}

// whose says of a facilitator's own network what the asset there is.
func whose(network string) string {
	if id, err := channel.ParseNetwork(network); err != nil || id < channel.FirstPrivate {
		return ""
	}
	return ", the facilitator's own network: credit of its operator"
}

// offered lists what a facilitator settles channels in, for the config file.
func offered(url string, s x402.Supported) []Finding {
	var found []Finding
	for _, network := range s.Networks() {
		if _, err := channel.ParseNetwork(network); err != nil || len(found) == maxOffered {
			continue
		}
		f := Finding{Name: "offer", Result: CheckWarning, Text: url + " settles on " + network + whose(network), Do: "put this under [payment] if you trust it"}
		f.Paste = []string{"network = " + strconv.Quote(network)}
		if t, err := s.Token(network); err == nil {
			f.Paste = append(f.Paste, "asset = "+strconv.Quote(t.Address.String()),
				"asset_name = "+strconv.QuoteToASCII(t.Name), "asset_version = "+strconv.QuoteToASCII(t.Version))
		}
		found = append(found, f)
	}
	if found == nil {
		found = append(found, failed("offer", url+" settles no channels", "use another facilitator"))
	}
	return found
}
