package directory

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/depinsim/x402/agent/carrier"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// Results of a check.
const (
	CheckOK      = "ok"
	CheckWarning = "warning" // the relay runs all the same
	CheckFailed  = "failed"
)

// A Finding is what one check came to.
type Finding struct {
	Name, Result, Text string
	Do                 string   // what to do about it first
	Paste              []string // lines for the config file
}

func passed(name, text string) Finding      { return Finding{name, CheckOK, text, "", nil} }
func warning(name, text, do string) Finding { return Finding{name, CheckWarning, text, do, nil} }
func failed(name, text, do string) Finding  { return Finding{name, CheckFailed, text, do, nil} }

// Check looks at everything that can be looked at without running, given what
// ReadConfigFile returned. It changes nothing: no key is made.
func Check(ctx context.Context, f ConfigFile, err error) []Finding {
	if e, ok := errors.AsType[*ConfigError](err); ok {
		var found []Finding
		for _, p := range e.Problems {
			found = append(found, failed("config", p, ""))
		}
		return append(found, checkOffered(ctx, e.Facilitator)...)
	}
	if err != nil {
		return []Finding{failed("config", err.Error(), "")}
	}
	found := []Finding{passed("config", f.Path)}
	for _, w := range f.Warnings {
		found = append(found, warning("config", w, ""))
	}
	c := f.Config
	if c.CertFile != "" {
		found = append(found, c.checkCertificate(time.Now()))
	} else {
		found = append(found, c.checkKey())
	}
	found = append(found, c.checkAddresses(ctx), c.checkListen(ctx), c.checkFiles())
	if c.Toll.Price > 0 {
		found = append(append(found, c.checkState()), c.checkFacilitator(ctx)...)
	}
	if c.Gateway.Wallet != "" {
		found = append(found, c.checkGateway(ctx)...)
	}
	if len(c.Watch.Facilitators) > 0 {
		found = append(found, c.checkWatch(ctx)...)
	}
	if len(c.Networks) > 0 {
		found = append(found, c.checkNetworks(time.Now()))
	}
	return found
}

// writable says whether files in dir, or dir itself, could be made.
func writable(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		switch err := unix.Access(dir, unix.W_OK|unix.X_OK); {
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
}

// staleTime is the age at which a table of networks is warned of: blocks of
// addresses change hands.
const staleTime = 180 * 24 * time.Hour

func (c Config) checkNetworks(now time.Time) Finding {
	const get = "get it again: docs/decisions/0021-carrier.md says where"
	_, n, err := carrier.Open(c.Networks...)
	if err != nil {
		return failed("networks", err.Error(), get)
	}
	for _, path := range c.Networks {
		if info, err := os.Stat(path); err == nil && now.Sub(info.ModTime()) > staleTime {
			return warning("networks", fmt.Sprintf("%s is of %s", path, info.ModTime().UTC().Format(time.DateOnly)), get)
		}
	}
	return passed("networks", fmt.Sprintf("%d ranges of addresses", n.Len()))
}

func (c Config) checkKey() Finding {
	path := c.KeyFile
	_, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c.checkNoKey()
	}
	if err != nil {
		return failed("key", err.Error(), "")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return warning("key", path+" can be read by others, who could pose as this relay", "chmod 600 "+path)
	}
	if c.Listen.Port() == 0 {
		return passed("key", path)
	}
	name, err := c.Name()
	if err != nil {
		return failed("key", err.Error(), "")
	}
	return passed("key", "the relay's name is "+name.String())
}

// checkNoKey says whether the key could be made.
func (c Config) checkNoKey() Finding {
	if err := writable(filepath.Dir(c.KeyFile)); err != nil {
		return failed("key", fmt.Sprintf("key_file: %v", err), "let the relay's user write there, or set another")
	}
	return passed("key", c.KeyFile+" is made at the first start")
}

// renewTime is how long before its end a certificate is warned of.
const renewTime = 14 * 24 * time.Hour

func (c Config) checkCertificate(now time.Time) Finding {
	id, name, err := c.identity()
	if err != nil {
		return failed("certificate", err.Error(), "")
	}
	leaf, err := x509.ParseCertificate(id.Certificate.Certificate[0])
	if err != nil {
		return failed("certificate", err.Error(), "")
	}
	if err := leaf.VerifyHostname(c.host()); err != nil {
		return failed("certificate", err.Error(), "get one for the host in public")
	}
	until := leaf.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case now.After(leaf.NotAfter):
		return failed("certificate", "expired on "+until, "renew it; the relay takes the new one by itself")
	case now.Before(leaf.NotBefore):
		return failed("certificate", "not valid before "+leaf.NotBefore.UTC().Format(time.DateOnly), "is the clock right?")
	case leaf.NotAfter.Sub(now) < renewTime:
		return warning("certificate", "expires on "+until, "renew it; the relay takes the new one by itself")
	}
	return passed("certificate", "until "+until+"; the relay's name is "+name.String())
}

func (c Config) checkAddresses(ctx context.Context) Finding {
	found, err := c.addresses(ctx)
	if err != nil {
		return failed("public", err.Error(), "make the name resolve, or set addresses")
	}
	var told []string
	for _, a := range found {
		told = append(told, a.String())
		if a.IsPrivate() || a.IsLinkLocalUnicast() {
			return warning("public", a.String()+" is not reached from the internet", "set addresses to those that are")
		}
	}
	return passed("public", c.host()+" is at "+strings.Join(told, " and "))
}

// checkListen takes the ports for a moment. In a running relay's place it finds
// them taken.
func (c Config) checkListen(ctx context.Context) Finding {
	var lc net.ListenConfig
	l, terr := lc.Listen(ctx, "tcp", c.Listen.String())
	if terr == nil {
		terr = l.Close()
	}
	u, uerr := lc.ListenPacket(ctx, "udp", c.Listen.String())
	if uerr == nil {
		uerr = u.Close()
	}
	switch err := errors.Join(terr, uerr); {
	case err == nil:
		return passed("listen", c.Listen.String()+", TCP and UDP")
	case errors.Is(terr, syscall.EADDRINUSE) && errors.Is(uerr, syscall.EADDRINUSE):
		return warning("listen", c.Listen.String()+" is in use", "if not by this relay, stop the other program or set listen")
	default:
		return failed("listen", strings.ReplaceAll(err.Error(), "\n", "; "), "")
	}
}

// checkFiles compares what the relay may open with what its limits let others
// make it open.
func (c Config) checkFiles() Finding {
	need, have := uint64(c.Limits.Files()), server.OpenFiles()
	if c.Gateway.Wallet != "" {
		need += uint64(c.Gateway.Gateway.Files())
	}
	if have < need {
		return warning("files", fmt.Sprintf("%d may be open, and the limits need %d", have, need), "raise LimitNOFILE (systemd) or ulimit -n, or lower the limits")
	}
	return passed("files", fmt.Sprintf("%d may be open, and %d are needed at most", have, need))
}
