package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/directory"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem/modemtest"
	"github.com/depinsim/x402/tunnel/relay"
)

// runRelay runs a relay as its program does, and returns its name.
func runRelay(t *testing.T) relay.Name {
	t.Helper()
	names := make(chan relay.Name, 1)
	here := netip.MustParseAddr("127.0.0.1")
	r := start(func(ctx context.Context) error {
		return directory.Run(ctx, directory.Config{
			Listen: netip.AddrPortFrom(here, 0), Public: []netip.Addr{here}, KeyFile: filepath.Join(t.TempDir(), "relay.key"),
			Ready: func(name relay.Name, _ net.Addr) error { names <- name; return nil },
		})
	})
	t.Cleanup(func() { r.stop(t) })
	select {
	case name := <-names:
		return name
	case <-r.done:
		t.Fatal(r.err)
	}
	return relay.Name{}
}

// TestLinkForm: a link says what was signed, and any other bit names another
// agent or none.
func TestLinkForm(t *testing.T) {
	key := must(channel.GenerateKey())
	l := agent.Link{ID: [8]byte{1, 2, 3}, Expires: 1_800_000_000, Uses: 7, Between: 600}
	text := agent.SignLink(key, l)
	got, by, err := agent.ParseLink(text)
	if err != nil || got != l || by != key.Address() {
		t.Fatalf("%+v %s %v", got, by, err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(raw) {
		forged := bytes.Clone(raw)
		forged[i/8] ^= 1 << (i % 8)
		if _, by, err := agent.ParseLink(base64.RawURLEncoding.EncodeToString(forged)); err == nil && by == key.Address() {
			t.Errorf("bit %d does not matter", i)
		}
	}
	for _, bad := range []string{"", "x", text + "A", text[1:], strings.Repeat("A", len(text)), text + "=", "é" + text} {
		if _, by, err := agent.ParseLink(bad); err == nil && by == key.Address() {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestRotationLink: who has a link changes the address through a relay that he and
// the agent know, as often as the link says, until it is revoked. To look at it
// changes nothing, and the relay passes on what the agent has signed only.
func TestRotationLink(t *testing.T) {
	t.Parallel()
	var address, leases atomic.Int64
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "203.0.113.%d", address.Load())
	}))
	t.Cleanup(echo.Close)
	name := runRelay(t)
	m, sim := withModem(t, modemtest.Config{Leased: func() { address.Add(1); leases.Add(1) }}, func(c *seller.Config) {
		c.Relays = []relay.Name{name}
		c.Rotate = seller.RotatePolicy{Echo: echo.URL, Tries: 1, Hold: time.Millisecond, Between: 3 * time.Second}
	})
	control := seller.DialControl(m.cfg.ControlPath())
	until(t, "for the SIM and the relay", func() bool {
		st, err := tell[seller.Status](t, control, "status")
		return err == nil && st.Refusing == "" && len(st.Relays) == 1 && st.Relays[0].Connected
	})
	issue := func(expires, uses string) seller.LinkStatus {
		t.Helper()
		st, err := tell[seller.LinkStatus](t, control, "link-make", "expires", expires, "uses", uses)
		if err != nil || len(st.URLs) != 1 {
			t.Fatalf("%+v %v", st, err)
		}
		return st
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}, Timeout: time.Minute}
	t.Cleanup(web.CloseIdleConnections)
	do := func(method, url, accept string) (int, string, http.Header) {
		t.Helper()
		req := must(http.NewRequest(method, url, nil))
		req.Header.Set("Accept", accept)
		res, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode, string(must(io.ReadAll(res.Body))), res.Header
	}
	post := func(url string) (int, string) {
		t.Helper()
		status, body, _ := do("POST", url, "*/*")
		return status, body
	}

	link := issue("3600", "2")
	if want := "https://" + name.Address() + "/v1/rotate/"; !strings.HasPrefix(link.URLs[0], want) {
		t.Errorf("%s, want %s…", link.URLs[0], want)
	}
	for _, method := range []string{"GET", "HEAD"} {
		status, body, h := do(method, link.URLs[0], "*/*")
		if status != 200 || method == "GET" && !strings.Contains(body, `<form method="post"><button>`) || h.Get("Referrer-Policy") != "no-referrer" ||
			!strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v %s", method, status, h, body)
		}
	}
	if leases.Load() != 0 {
		t.Fatal("to look at the link has changed the address")
	}
	status, body := post(link.URLs[0])
	if status != 200 || body != `{"changed":true,"old":"203.0.113.0","new":"203.0.113.1"}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if status, body = post(link.URLs[0]); status != http.StatusConflict || !strings.Contains(body, " a moment ago: again in ") || leases.Load() != 1 {
		t.Errorf("at once again: %d %s", status, body)
	}
	until(t, "for the next use", func() bool {
		status, body, _ = do("POST", link.URLs[0], "text/html")
		return status != http.StatusConflict && status != http.StatusTooManyRequests
	})
	if status != 200 || !strings.Contains(body, "203.0.113.1 is <b>203.0.113.2</b> now") {
		t.Errorf("a browser: %d %s", status, body)
	}
	if r, err := tell[seller.Status](t, control, "status"); err != nil || r.Rotation.Last == nil || r.Rotation.Last.By != "link" || r.Rotation.Changed != 2 {
		t.Errorf("%+v %v", r.Rotation, err)
	}

	// Used up; another agent's, and one that is made up; one that has expired.
	until(t, "for the relay to be asked again", func() bool { status, body = post(link.URLs[0]); return status != http.StatusTooManyRequests })
	if status != http.StatusConflict || !strings.Contains(body, "the link is used up") {
		t.Errorf("used up: %d %s", status, body)
	}
	base := "https://" + name.Address() + agent.LinkPath
	stranger := agent.SignLink(must(channel.GenerateKey()), agent.Link{Expires: time.Now().Unix() + 3600, Uses: 1})
	if status, body = post(base + stranger); status != http.StatusNotFound || !strings.Contains(body, "the agent is not connected here") {
		t.Errorf("a stranger's: %d %s", status, body)
	}
	if status, body = post(base + "x"); status != http.StatusNotFound || !strings.Contains(body, "this is no rotation link") {
		t.Errorf("none: %d %s", status, body)
	}
	old := agent.SignLink(must(channel.GenerateKey()), agent.Link{Expires: time.Now().Unix(), Uses: 1})
	if status, _, _ := do("GET", base+old, "*/*"); status != http.StatusGone {
		t.Errorf("expired: %d", status)
	}

	// Two are good; they are listed, revoked, and not in the file as links.
	one, two := issue("60", "1"), issue("60", "1")
	all, err := tell[[]seller.LinkStatus](t, control, "links")
	if err != nil || len(all) != 2 || all[0].ID != one.ID || all[0].URLs != nil {
		t.Errorf("%+v %v", all, err)
	}
	if _, err := tell[json.RawMessage](t, control, "link-revoke", "id", "abc"); err == nil || !strings.Contains(err.Error(), `no rotation link "abc"`) {
		t.Error(err)
	}
	if all, err = tell[[]seller.LinkStatus](t, control, "link-revoke", "id", one.ID); err != nil || len(all) != 1 || all[0].ID != two.ID {
		t.Errorf("%+v %v", all, err)
	}
	until(t, "for the relay to be asked again", func() bool { status, body = post(one.URLs[0]); return status != http.StatusTooManyRequests })
	if status != http.StatusConflict || !strings.Contains(body, "the link was revoked") {
		t.Errorf("revoked: %d %s", status, body)
	}
	at := leases.Load()
	sim.Unplug()
	until(t, "for the modem to be missed", func() bool {
		st, err := tell[seller.Status](t, control, "status")
		return err == nil && st.Modem.Error != ""
	})
	until(t, "for the relay to be asked again", func() bool { status, body = post(two.URLs[0]); return status != http.StatusTooManyRequests })
	if status != http.StatusConflict || !strings.Contains(body, "there is no modem") || leases.Load() != at {
		t.Errorf("without a modem: %d %s", status, body)
	}
	if all, err = tell[[]seller.LinkStatus](t, control, "links"); err != nil || len(all) != 1 || all[0].Left != 1 {
		t.Errorf("in vain it was used up: %+v %v", all, err)
	}
	for _, bad := range [][2]string{{"0", "1"}, {"x", "1"}, {"99999999", "1"}, {"60", "0"}, {"60", "1000001"}} {
		if _, err := tell[seller.LinkStatus](t, control, "link-make", "expires", bad[0], "uses", bad[1]); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

// FuzzLink: whatever is in a URL, it is a link of somebody or none, and one that
// is taken is written like that.
func FuzzLink(f *testing.F) {
	key := must(channel.GenerateKey())
	f.Add(agent.SignLink(key, agent.Link{ID: [8]byte{1}, Expires: 1, Uses: 2, Between: 3}))
	f.Add("")
	f.Add(strings.Repeat("A", 120))
	f.Fuzz(func(t *testing.T, text string) {
		l, by, err := agent.ParseLink(text)
		if err != nil {
			return
		}
		if by == key.Address() && agent.SignLink(key, l) != text {
			t.Errorf("%s: %+v", text, l)
		}
	})
}
