package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/masque-go"
	"github.com/yosida95/uritemplate/v3"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/relay"
)

// TestTokenCONNECT has an HTTP/3 client that knows no payment fetch and send by a
// token, at prices that differ.
func TestTokenCONNECT(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { c.Price = agent.Price{Up: 4_000_000, Down: 9_000_001} })
	site := web(t)
	token := m.token(10_000_000)
	if want := channel.Amount(90_001); token.Amount != want || token.Deposit != 100_000 || token.Bytes != 10_000_000 {
		t.Errorf("bought %+v", token.Token)
	}
	s := m.outsider()
	fetch(t, s.through(token.Token.Token), site.URL+"/3000000", 3_000_000)
	upload(t, s.through(token.Token.Token), site.URL+"/", 1_000_000)
	up, down := s.up.Load(), s.down.Load()
	if up < 1_000_000 || down < 3_000_000 {
		t.Errorf("%d up, %d down", up, down)
	}
	token.counted(up, down)
	r, err := token.close()
	if err != nil || r.Refunded == 0 || r.Up != 0 && r.Up != up {
		t.Errorf("%+v, %v", r, err)
	}
	token.ended(up, down)
	if _, res := s.connect("example.com:80", agent.Credentials(token.Token.Token)); res.StatusCode != http.StatusPaymentRequired || !strings.Contains(res.Header.Get("Proxy-Status"), "closed") {
		t.Errorf("after the end: %s %v", res.Status, res.Header)
	}
}

// TestTokenMASQUE has the client of masque-go send packets by a token.
func TestTokenMASQUE(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	e := newEcho(t)
	token := m.token(1_000_000)
	template := uritemplate.MustNew("https://" + m.cfg.Listen + "/.well-known/masque/udp/{target_host}/{target_port}/")
	request := func(credentials string) *masque.Request {
		r := must(masque.NewRequest(t.Context(), template, "example.com:"+port(e.socket.LocalAddr())))
		r.Header().Set("Proxy-Authorization", credentials)
		return r
	}
	transport := &masque.Transport{TLSClientConfig: m.pinned()}
	conn, _, err := transport.Dial(request(agent.Credentials(token.Token.Token)))
	if err != nil {
		t.Fatal(err)
	}
	var sent, got uint64
	buf := make([]byte, 2000)
	for i := range 300 {
		packet := bytes.Repeat([]byte{byte(i)}, i*4)
		if _, err := conn.WriteTo(packet, nil); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, _, err := conn.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], packet) {
			t.Fatalf("packet %d came back with %d bytes: %v", i, n, err)
		}
		sent, got = sent+uint64(len(packet))+28, got+uint64(n)+28
	}
	conn.Close()
	if e.got.Load() != sent {
		t.Errorf("%d of %d bytes reached the target", e.got.Load(), sent)
	}
	token.counted(sent, got)
	other := "x"
	if strings.HasPrefix(token.Token.Token, other) {
		other = "y"
	}
	if _, res, err := transport.Dial(request(agent.Credentials(other + token.Token.Token[1:]))); err == nil || res.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("with a forged token: %v, %v", res, err)
	}
	if _, err := token.close(); err != nil {
		t.Error(err)
	}
	token.ended(sent, got)
}

// TestTokenUsedUp takes more than there is, by several connections at once: what
// comes through is what was sold, to the byte, and the rest of the deposit comes
// back by itself.
func TestTokenUsedUp(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d connections", n), func(t *testing.T) {
			t.Parallel()
			const size = 1_234_567
			m := newMarketOf(t, func(c *seller.Config) { c.Price = agent.Price{Up: 10_000_000, Down: 10_000_000} })
			site := web(t)
			token := m.token(size)
			var all []*outsider
			var wg sync.WaitGroup
			for range n {
				s := m.outsider()
				all = append(all, s)
				wg.Go(func() {
					res, err := s.through(token.Token.Token).Get(site.URL + "/1300000")
					if err == nil {
						_, err = io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
					if err == nil {
						t.Error("all came through")
					}
				})
			}
			wg.Wait()
			var up, down uint64
			for _, s := range all {
				up, down = up+s.up.Load(), down+s.down.Load()
			}
			up = min(up, size-down) // a request may have been sent and not taken
			token.counted(up, size-up)
			if up+down != size {
				t.Errorf("%d up and %d down came through, %d were sold", up, down, size)
			}
			_, res := all[0].connect("example.com:80", agent.Credentials(token.Token.Token))
			if res.StatusCode != http.StatusPaymentRequired || res.Header.Get("Payment-Required") == "" || !strings.Contains(res.Header.Get("Proxy-Status"), "used up") {
				t.Errorf("used up: %s %v", res.Status, res.Header)
			}
			token.ended(up, down)
			if e := token.earned(); e.Claimed == 0 || e.Claimed > token.Amount {
				t.Errorf("claimed %d of %d", e.Claimed, token.Amount)
			}
		})
	}
}

// TestTokenCredentials shows what is a token and what is none, in all the ways.
func TestTokenCredentials(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	other := newMarket(t)
	site := "example.com:" + port(web(t).Listener.Addr())
	token := m.token(1_000_000).Token.Token
	id, _ := agent.TokenChannel(token)
	flipped := []byte(token)
	flipped[60] ^= 1
	for name, tt := range map[string]struct {
		credentials []string
		want        int
	}{
		"Basic":             {[]string{agent.Credentials(token)}, 200},
		"Basic, any user":   {[]string{"bASIC " + basic("me", token)}, 200},
		"Bearer":            {[]string{"Bearer " + token}, 200},
		"forged":            {[]string{"Bearer " + string(flipped)}, 407},
		"another secret's":  {[]string{"Bearer " + agent.NewToken([32]byte{1}, id)}, 407},
		"another agent's":   {[]string{"Bearer " + other.token(100_000).Token.Token}, 407},
		"truncated":         {[]string{"Bearer " + token[:63]}, 407},
		"longer":            {[]string{"Bearer " + token + "A"}, 407},
		"the user":          {[]string{"Basic " + basic(token, "")}, 407},
		"twice":             {[]string{"Bearer " + token, "Bearer " + token}, 407},
		"another scheme":    {[]string{"Digest " + token}, 407},
		"no Base64":         {[]string{"Basic " + token + "!"}, 407},
		"nothing":           {[]string{""}, 407},
		"too much":          {[]string{"Bearer " + strings.Repeat("A", 4000)}, 407},
		"no such channel's": {[]string{"Bearer " + agent.NewToken([32]byte{}, channel.ID{})}, 407},
	} {
		f, res := m.outsider().connect(site, tt.credentials...)
		if res.StatusCode != tt.want {
			t.Errorf("%s: %s", name, res.Status)
		}
		if f != nil {
			f.Close()
		} else if a := res.Header.Get("Proxy-Authenticate"); !strings.HasPrefix(a, "Basic ") {
			t.Errorf("%s: asks for %q", name, a)
		}
	}
	s := m.outsider()
	if f, _ := s.connect(site, agent.Credentials(token)); f == nil {
		t.Error("refused")
	}
	for target, want := range map[string]int{"10.0.0.1:80": 403, "nowhere.test:80": 502} {
		if _, res := s.connect(target, agent.Credentials(token)); res.StatusCode != want {
			t.Errorf("%s: %s, want %d", target, res.Status, want)
		}
	}
}

func basic(user, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
}

// TestTokenCloseInUse ends a token under a download: what came is paid, the rest
// is back, and the token is of no more use.
func TestTokenCloseInUse(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	token := m.token(100_000_000)
	s := m.outsider()
	res, err := s.through(token.Token.Token).Get(site.URL + "/90000000")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	expect(t, res.Body, 1_000_000)
	if _, err := token.close(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("%d bytes more came through", n)
	}
	e := token.earned()
	if e.Up != s.up.Load() || e.Down < s.down.Load() || e.Down > s.down.Load()+8_000_000 {
		t.Errorf("%d up and %d down were counted, %d and %d came", e.Up, e.Down, s.up.Load(), s.down.Load())
	}
	token.ended(e.Up, e.Down)
}

// TestTokenPowerLoss has the agent start again with the journal of a moment in
// the middle of a download: it has lost no more of its count than the credit, and
// the token is good for the rest.
func TestTokenPowerLoss(t *testing.T) {
	t.Parallel()
	const lost = 1_000_000 // what the credit is worth
	var dead atomic.Bool
	m := newMarketOf(t, func(c *seller.Config) {
		c.Credit.Cap = 4_000
		c.Facilitator = mortal{must(nethttp.New(nethttp.Config{URL: c.Payment.Facilitator})), &dead}
	})
	site := web(t)
	token := m.token(50_000_000)
	s := m.outsider()
	res, err := s.through(token.Token.Token).Get(site.URL + "/20000000")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, res.Body, 5_000_000)
	came := s.up.Load() + s.down.Load()
	dead.Store(true) // nothing is claimed by one that has no power
	kept := journal(t, m.cfg.StateDir)
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	all := s.up.Load() + s.down.Load()
	token.counted(s.up.Load(), s.down.Load())

	m.agent.stop(t)
	dead.Store(false)
	for name, b := range kept {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.startAgent()
	m.offer()
	before := token.earned()
	if n := before.Up + before.Down; n+lost < came || n > all {
		t.Errorf("%d bytes are counted after a power loss at %d", n, came)
	}
	s = m.outsider()
	fetch(t, s.through(token.Token.Token), site.URL+"/1000000", 1_000_000)
	up, down := before.Up+s.up.Load(), before.Down+s.down.Load()
	token.counted(up, down)
	if _, err := token.close(); err != nil {
		t.Fatal(err)
	}
	token.ended(up, down)
}

// A mortal agent's facilitator takes no claims while the agent is dead.
type mortal struct {
	seller.Facilitator
	dead *atomic.Bool
}

func (f mortal) Claim(ctx context.Context, network string, c x402.Claim) (x402.SettlementResponse, error) {
	if f.dead.Load() {
		return x402.SettlementResponse{}, facilitator.ErrUnavailable
	}
	return f.Facilitator.Claim(ctx, network, c)
}

// journal returns the files of an agent's journal as they are now.
func journal(t *testing.T, state string) map[string][]byte {
	t.Helper()
	kept := make(map[string][]byte)
	for _, name := range must(filepath.Glob(filepath.Join(state, "channels", "journal*"))) {
		kept[name] = must(os.ReadFile(name))
	}
	if len(kept) == 0 {
		t.Fatal("no journal")
	}
	return kept
}

// TestTokenFlash has many short flows, which must not wear the flash.
func TestTokenFlash(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	token := m.token(100_000_000)
	s := m.outsider()
	syncs := func() uint64 {
		var st seller.Status
		if err := seller.DialControl(m.cfg.ControlPath()).Get(t.Context(), "status", &st); err != nil {
			t.Fatal(err)
		}
		return st.FlashWrites.Syncs
	}
	before, began := syncs(), time.Now()
	for range 50 {
		fetch(t, s.through(token.Token.Token), site.URL+"/10000", 10_000)
	}
	token.counted(s.up.Load(), s.down.Load())
	if n, most := syncs()-before, uint64(time.Since(began).Seconds())+2; n > most {
		t.Errorf("%d writes to flash, want %d at most", n, most)
	}
}

// TestTokenByRelay has a client that knows neither payment nor relays reach an
// agent without an address of its own.
func TestTokenByRelay(t *testing.T) {
	t.Parallel()
	r := startRelay(t)
	m := newMarketOf(t, func(c *seller.Config) { c.Relays = []relay.Name{r.name} })
	site := web(t)
	token := m.tokenOf(r.listed(m), 10_000_000)
	port, within, err := buyer.OpenPort(t.Context(), token.offer)
	if err != nil || within < 10*time.Second {
		t.Fatal(port, within, err)
	}
	s := m.outsiderAt(port.String())
	fetch(t, s.through(token.Token.Token), site.URL+"/3000000", 3_000_000)
	upload(t, s.through(token.Token.Token), site.URL+"/", 1_000_000)
	token.counted(s.up.Load(), s.down.Load())
	if _, err := token.close(); err != nil {
		t.Error(err)
	}
	token.ended(s.up.Load(), s.down.Load())
}
