package seller

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
)

// TestLinks: a link is used as often as it says, also over restarts and with a
// clock that goes back, and no use that was not let counts.
func TestLinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), linksFile)
	synctest.Test(t, func(t *testing.T) {
		open := func() *links {
			l, err := openLinks(path)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		free := func() error { return nil }
		use := func(x agent.Link, claim func() error) string {
			if err := open().use(x, claim); err != nil { // as after a restart
				return err.Error()
			}
			return ""
		}
		x := agent.Link{ID: [8]byte{1}, Expires: time.Now().Unix() + 3600, Uses: 2, Between: 60}
		if got := use(x, free); got != "the link was revoked, or is used up" {
			t.Errorf("unknown: %q", got)
		}
		if _, err := open().add(x); err != nil {
			t.Fatal(err)
		}
		if got := use(x, func() error { return errors.New("not now") }); got != "not now" {
			t.Errorf("not let: %q", got)
		}
		if got := use(x, free); got != "" {
			t.Errorf("first: %q", got)
		}
		time.Sleep(59 * time.Second)
		if got := use(x, free); got != "the link was used a moment ago: again in 1 s" {
			t.Errorf("too soon: %q", got)
		}
		time.Sleep(time.Second)
		if got := use(x, free); got != "" {
			t.Errorf("second: %q", got)
		}
		time.Sleep(time.Minute)
		if got := use(x, free); got != "the link is used up" {
			t.Errorf("third: %q", got)
		}
		y := agent.Link{ID: [8]byte{2}, Expires: time.Now().Unix() + 60, Uses: 9}
		l := open()
		if _, err := l.add(y); err != nil || len(l.all) != 1 {
			t.Errorf("%+v %v", l.all, err)
		}
		l.all[0].Last = y.Expires // by a clock that was ahead, or is behind now
		if err := l.store(l.all); err != nil {
			t.Fatal(err)
		}
		if got := use(y, free); got != "the link has expired" {
			t.Errorf("expired: %q", got)
		}
		for i := range maxLinks + 1 {
			z := agent.Link{ID: [8]byte{3, byte(i)}, Expires: time.Now().Unix() + 3600, Uses: 1}
			if _, err := open().add(z); (err != nil) != (i == maxLinks) {
				t.Errorf("link %d: %v", i, err)
			}
		}
		if left, err := open().revoke("all"); err != nil || len(left) != 0 {
			t.Errorf("%+v %v", left, err)
		}
	})
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLinks(path); err == nil || !strings.Contains(err.Error(), "remove it, and all rotation links with it") {
		t.Error(err)
	}
}
