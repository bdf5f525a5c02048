package gateway_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/agent/gateway"
)

// TestProxies fetches and uploads by all proxies with a stock client, and finds
// the bytes on the account.
func TestProxies(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c := r.give(nil)
	const n = 300_000
	file := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(file, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(c.Proxies) != 3 || !strings.HasPrefix(c.Proxies[0], "https://"+c.User+":"+c.Password+"@127.0.0.1:") {
		t.Errorf("proxies %q", c.Proxies)
	}
	for _, proxy := range c.Proxies {
		for _, args := range [][]string{{r.page("300000")}, {"--proxytunnel", r.page("300000")}} {
			if out, complaint, code := r.curl(proxy, args...); len(out) != n || code != 0 {
				t.Fatalf("%s %v: %d bytes, exit code %d: %s", proxy, args, len(out), code, complaint)
			}
		}
		if out, complaint, code := r.curl(proxy, "-T", file, r.page("")); out != "300000 <nil>" && out != "300000<nil>" || code != 0 {
			t.Errorf("%s: %q, exit code %d: %s", proxy, out, code, complaint)
		}
	}
	got, status := r.api(http.MethodGet, c, "")
	if down := uint64(6 * n); status != 200 || got.Down < down || got.Down > down+down/10 || got.Up < 3*n {
		t.Errorf("status %d: %+v", status, got)
	}
	// What was spent is the agent's price and 10 percent, to the unit.
	if want := ((got.Up+got.Down)*agentPrice/10*11 + 999_999_999) / 1_000_000_000; uint64(got.Paid-got.Left) != want {
		t.Errorf("%d units are spent of %d bytes, want %d", got.Paid-got.Left, got.Up+got.Down, want)
	}
	if got.Password != "" || got.User != "" {
		t.Error("the password was told again")
	}
}

// TestTargeting chooses exits in the user name.
func TestTargeting(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("german", "de", agentPrice)
	r.sell("french", "fr", agentPrice+1)
	c := r.give(nil)
	for words, want := range map[string]string{
		"-country-de": "german", "-country-FR": "french", "-carrier-telekom-session-a": "german", "-session-x1-country-fr": "french",
		"-carrier-20801": "french",
	} {
		for range 2 {
			if out, complaint, code := r.curl(at("https", r.secure, c, words), r.page("who")); out != want || code != 0 {
				t.Errorf("%s: left by %q, want %q (%d): %s", words, out, want, code, complaint)
			}
		}
	}
	seen := map[string]bool{}
	for range 30 { // 1 in 10^9 that one is never chosen
		out, complaint, code := r.curl(at("socks5h", r.socks, c, ""), r.page("who"))
		if code != 0 {
			t.Fatal(complaint)
		}
		seen[out] = true
	}
	if !seen["german"] || !seen["french"] {
		t.Errorf("connections without a session left by %v", seen)
	}
	first, _, _ := r.curl(at("http", r.plain, c, "-session-s7"), r.page("who"))
	for range 10 {
		if out, complaint, _ := r.curl(at("socks5h", r.socks, c, "-session-s7"), r.page("who")); out != first || out == "" {
			t.Errorf("the session left by %q and then by %q: %s", first, out, complaint)
		}
	}
	for words, want := range map[string]string{
		"-country-us": "503", "-country": "400", "-shoe-42": "400", "-rotate-5": "400",
	} {
		out, _, _ := r.curl(at("https", r.secure, c, words), "-w", "%{http_code}", "-o", "/dev/null", r.page("who"))
		if out != want {
			t.Errorf("%s: status %s, want %s", words, out, want)
		}
	}
}

// TestCeiling refuses exits that are dearer than the credit's price.
func TestCeiling(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	for price, want := range map[uint64]string{agentPrice: "503", agentPrice*11/10 - 1: "503", agentPrice * 11 / 10: "200"} {
		c := r.give(func(g *gateway.Gift) { g.Price = gatewayAmount(price) })
		if out, _, _ := r.curl(at("https", r.secure, c, ""), "-w", "%{http_code}", "-o", "/dev/null", r.page("10")); out != want {
			t.Errorf("price %d: status %s, want %s", price, out, want)
		}
	}
}

// TestSpent carries no byte beyond the credit.
func TestSpent(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c := r.give(func(g *gateway.Gift) { g.Amount, g.Price = 4_400, agentPrice*11/10 }) // 1 MB
	if c.BytesLeft != 1_000_000 {
		t.Fatalf("%d bytes", c.BytesLeft)
	}
	if out, _, code := r.curl(at("https", r.secure, c, ""), r.page("5000000")); code == 0 || len(out) > 1_000_000 || len(out) < 800_000 {
		t.Errorf("%d bytes came, exit code %d", len(out), code)
	}
	got, _ := r.api(http.MethodGet, c, "")
	if got.Up+got.Down > 1_000_000 || got.Left > 4_400/5 {
		t.Errorf("%+v", got)
	}
	// Until nothing is left, pages come, or parts of them; then the reason.
	for _, size := range []string{"50000", "20000", "10000", "3000", "1000"} {
		for range 4 {
			r.curl(at("https", r.secure, c, ""), r.page(size))
		}
	}
	if out, complaint, _ := r.curl(at("https", r.secure, c, ""), "-w", "%{http_code}", r.page("1000")); !strings.HasSuffix(out, "402") || !strings.Contains(out, "used up") {
		t.Errorf("%q: %s", out, complaint)
	}
	if out, complaint, code := r.curl(at("socks5h", r.socks, c, ""), r.page("10")); code == 0 {
		t.Errorf("%q: %s", out, complaint)
	}
}

// TestAllow holds an account against where its user comes from.
func TestAllow(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c := r.give(func(g *gateway.Gift) { g.Allow = []string{"127.0.0.1", "2001:db8::/64"} })
	page := func() string {
		out, _, _ := r.curl(at("https", r.secure, c, ""), "-w", "%{http_code}", "-o", "/dev/null", r.page("10"))
		return out
	}
	if got := page(); got != "200" {
		t.Errorf("allowed: %s", got)
	}
	for body, want := range map[string]int{
		`{"allow":["192.0.2"]}`: 400, `{}`: 400, `{"allow":[],"bytes":1}`: 400, `{"allow":["127.0.0.1"],"x":1}`: 400, `{"allow":["127.0.0.1/32"]}`: 200,
	} {
		if _, got := r.api(http.MethodPut, c, body); got != want {
			t.Errorf("%s: %d, want %d", body, got, want)
		}
	}
	if got, status := r.api(http.MethodPut, c, `{"allow":["192.0.2.0/24"]}`); status != 200 || len(got.Allow) != 1 || got.Allow[0] != netip.MustParsePrefix("192.0.2.0/24") {
		t.Errorf("%d %+v", status, got)
	}
	if got := page(); got != "403" {
		t.Errorf("not allowed: %s", got)
	}
	if _, status := r.api(http.MethodGet, c, ""); status != 403 {
		t.Errorf("the account is told to another address: %d", status)
	}
}

// TestWrongPasswords bounds how often one may guess.
func TestWrongPasswords(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c := r.give(nil)
	wrong := c
	wrong.Password = "x"
	var last int
	for range 21 {
		_, last = r.api(http.MethodGet, wrong, "")
	}
	if last != 429 {
		t.Errorf("the 21st wrong password: %d", last)
	}
	if _, status := r.api(http.MethodGet, c, ""); status != 429 {
		t.Errorf("the right one after it: %d", status)
	}
}

// TestFailover ends an agent under a session, in order and by a silence; the next
// connection leaves by another within 10 s, and so do those after it.
func TestFailover(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*rig, string){
		"stopped":  func(r *rig, agent string) { r.agents[agent].stop(r.t) },
		"vanished": func(r *rig, agent string) { r.gone[agent].Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.sell("one", "de", agentPrice)
			r.sell("two", "de", agentPrice)
			c := r.give(nil)
			session := at("https", r.secure, c, "-session-a")
			first, complaint, code := r.curl(session, r.page("who"))
			if code != 0 {
				t.Fatal(complaint)
			}
			t.Cleanup(func() { r.gone[first].Store(false) }) // so that the gateway ends at once
			end(r, first)
			for range 3 {
				out, complaint, code := r.curl(session, "--max-time", "10", r.page("who"))
				if code != 0 || out == first {
					t.Fatalf("left by %q (%d): %s", out, code, complaint)
				}
			}
		})
	}
}

// TestUDP sends datagrams by SOCKS5, and finds them on the account with what a
// packet counts besides.
func TestUDP(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.sell("one", "", agentPrice)
	c := r.give(nil)
	echo := must(net.ListenPacket("udp", "127.0.0.1:0"))
	defer echo.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer echo.Close()
	wg.Go(func() {
		buf := make([]byte, 2_000)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(buf[:n], from)
		}
	})
	control := must(net.Dial("tcp", r.socks))
	defer control.Close()
	must(control.Write([]byte("\x05\x01\x02\x01" + string(rune(len(c.User))) + c.User + string(rune(len(c.Password))) + c.Password + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")))
	reply := make([]byte, 2+2+10)
	if _, err := io.ReadFull(control, reply); err != nil || reply[3] != 0 || reply[5] != 0 {
		t.Fatalf("% x, %v", reply, err)
	}
	local := must(net.Dial("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(binary.BigEndian.Uint16(reply[12:]))))))
	defer local.Close()
	to := echo.LocalAddr().(*net.UDPAddr).AddrPort()
	packet := binary.BigEndian.AppendUint16(append([]byte{0, 0, 0, 1}, to.Addr().AsSlice()...), to.Port())
	packet = append(packet, make([]byte, 1_000)...)
	if err := local.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	const packets = 20
	for range packets {
		must(local.Write(packet))
		if n, err := local.Read(make([]byte, 2_000)); n != len(packet) || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if got, _ := r.api(http.MethodGet, c, ""); got.Up != packets*1_028 || got.Down != packets*1_028 {
		t.Errorf("%+v", got)
	}
}
