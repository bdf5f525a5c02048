package agent_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
)

func (c *cheat) ask(bytes uint64) {
	c.t.Helper()
	c.send(agent.CapsuleRequest, []byte(`{"bytes":"`+strconv.FormatUint(bytes, 10)+`"}`))
}

// TestTokenRefused asks for tokens that are not paid for, or on channels that can
// have none.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	refused := func(c *cheat, bytes uint64, want string) {
		t.Helper()
		c.ask(bytes)
		if n := c.notice(); n.Code != agent.NoticeToken || !strings.Contains(n.Text, want) {
			t.Errorf("%+v, want %q", n, want)
		}
	}
	plain := newCheat(m, 200_000)
	plain.connect(nil)
	plain.terms()
	plain.pay(plain.domain.SignVoucher(plain.key, plain.id, 4_000))
	refused(plain, 1_000_000, "a channel of its own")

	used := newSaltedCheat(m, 200_000, channel.Hash{1})
	used.connect(nil)
	used.terms()
	n := used.download(site.URL, 1_000_000)
	used.reading(n)
	used.pay(used.domain.SignVoucher(used.key, used.id, 10_000))
	refused(used, 1_000_000, "used before")

	c := newSaltedCheat(m, 200_000, channel.Hash{2})
	c.connect(nil)
	c.terms()
	refused(c, 1_000_000, "paid are 0.00")
	c.pay(c.domain.SignVoucher(c.key, c.id, 3_999))
	refused(c, 1_000_000, "cost 0.004 USD, paid are 0.003999")
	refused(c, 99_999, "want 100000 to")
	refused(c, 1<<63, "want 100000 to")
	c.pay(c.domain.SignVoucher(c.key, c.id, 4_000))
	c.ask(1_000_000)
	g, err := agent.ParseTokenGrant(c.await(agent.CapsuleToken))
	if err != nil || g.Bytes != 1_000_000 || g.Amount != 4_000 {
		t.Fatal(g, err)
	}
	// What is granted stays: a second wish, and more money, change nothing.
	c.pay(c.domain.SignVoucher(c.key, c.id, 200_000))
	c.ask(50_000_000)
	if again, err := agent.ParseTokenGrant(c.await(agent.CapsuleToken)); err != nil || again != g {
		t.Errorf("%+v, %v, want %+v", again, err, g)
	}
	// And the session carries nothing beside it.
	if f, err := c.client.DialTCP(t.Context(), "127.0.0.1", 80); err == nil {
		if _, err := f.Read(make([]byte, 1)); err == nil {
			t.Error("a flow beside the token")
		}
	}
	// While the session is there the token waits, and then says why.
	s := m.outsider()
	if _, res := s.connect("example.com:80", agent.Credentials(g.Token)); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("beside the session: %s", res.Status)
	}
	c.send(agent.CapsuleRequest, []byte("{"))
	<-c.conn.Context().Done()
	fetch(t, s.through(g.Token), site.URL+"/1000", 1000)
}

// TestTokenPriceRises: a token is used, and closed, at the price that it was sold
// at.
func TestTokenPriceRises(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	token := m.token(10_000_000)
	s := m.outsider()
	fetch(t, s.through(token.Token.Token), site.URL+"/1000000", 1_000_000)
	was := m.cfg.Price
	for _, price := range []channel.Amount{400_000_000, 1_000} {
		m.agent.stop(t)
		m.cfg.Price = agent.Price{Up: price, Down: price}
		m.startAgent()
		m.offer()
		s2 := m.outsider()
		fetch(t, s2.through(token.Token.Token), site.URL+"/1000000", 1_000_000)
		s.up.Add(s2.up.Load())
		s.down.Add(s2.down.Load())
		token.counted(s.up.Load(), s.down.Load())
	}
	if _, err := token.close(); err != nil {
		t.Fatal(err)
	}
	m.cfg.Price = was // what ended reckons with
	token.ended(s.up.Load(), s.down.Load())
}

// TestTokenWithdrawn has the payer take the deposit back while the token is used:
// what came through is claimed, and no more comes.
func TestTokenWithdrawn(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	token := m.token(10_000_000)
	fetch(t, m.outsider().through(token.Token.Token), site.URL+"/1000000", 1_000_000)
	m.agent.stop(t) // so that its buyer cannot close
	token.withStore(func(c buyer.Config) {
		p, err := channel.NewPayer(c.Store)
		if err != nil {
			t.Fatal(err)
		}
		x := buyer.Holdings{Payer: p, Facilitator: m.fac, Key: c.Key}
		h, err := x.Look(t.Context(), token.Channel)
		if err != nil || h.Left() != token.Deposit-h.State.Claimed {
			t.Fatalf("%+v, %v", h, err)
		}
		if h, err = x.Begin(t.Context(), h); err != nil || h.Withdrawing != token.Deposit-h.State.Claimed {
			t.Errorf("%+v, %v", h, err)
		}
	})
	m.startAgent()
	m.offer()
	until(t, "for the agent to see the withdrawal", func() bool {
		f, res, err := m.outsider().open(t.Context(), "example.com:"+port(site.Listener.Addr()), agent.Credentials(token.Token.Token))
		if err != nil { // taken, and ended before the answer was read
			return false
		}
		if f != nil {
			f.Close()
			return false
		}
		return res.StatusCode == http.StatusPaymentRequired && strings.Contains(res.Header.Get("Proxy-Status"), "withdrawal")
	})
	if e := token.earned(); e.Claimed != e.Owed {
		t.Errorf("earned %+v", e)
	}
}

// TestTokenLimits: tokens in use count as sessions, and all of a token's flows
// together as those of one.
func TestTokenLimits(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { c.MaxSessions, c.MaxFlows = 1, 2 })
	site := "example.com:" + port(web(t).Listener.Addr())
	one, two := m.token(1_000_000), m.token(1_000_000)
	s, other := m.outsider(), m.outsider()
	var flows []*flowOf
	for _, from := range []*outsider{s, other} {
		f, res := from.connect(site, agent.Credentials(one.Token.Token))
		if f == nil {
			t.Fatal(res.Status)
		}
		flows = append(flows, f)
	}
	if _, res := s.connect(site, agent.Credentials(one.Token.Token)); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a flow too many: %s", res.Status)
	}
	if _, res := other.connect(site, agent.Credentials(two.Token.Token)); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("a token too many: %s", res.Status)
	}
	until(t, "for the token in the status", func() bool {
		x, ok := m.session(one.Channel)
		return ok && x.Token
	})
	for _, f := range flows {
		f.Close()
	}
}

// TestTokenCurl has curl use an agent as its HTTP/3 proxy, where there is such a
// curl.
func TestTokenCurl(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), tool(t, "curl"), "--help", "all").Output()
	if err != nil || !strings.Contains(string(help), "--proxy-http3") {
		reason := "this curl knows no --proxy-http3, which came with 8.21 and needs ngtcp2; TestTokenCONNECT does the same with quic-go"
		if os.Getenv("CI") == "true" { // no package of Debian's has it, so that CI cannot ask for it
			t.Log(reason)
			return
		}
		t.Skip(reason)
	}
	m := newMarket(t)
	site := web(t)
	token := m.token(10_000_000)
	text := string(must(io.ReadAll(io.LimitReader(page(), 700_000))))
	out, complaint, code := curl(t, "--proxy-http3", "--proxy", "https://"+m.cfg.Listen, "--proxy-insecure", "--proxytunnel",
		"--proxy-user", agent.TokenUser+":"+token.Token.Token, "http://example.com:"+port(site.Listener.Addr())+"/700000")
	if out != text || code != 0 {
		t.Errorf("got %d bytes, exit code %d: %s", len(out), code, complaint)
	}
}

// TestTokenOfCrook buys from agents that take the money and sell something else.
// Who cannot get it back from them begins to withdraw all of it.
func TestTokenOfCrook(t *testing.T) {
	t.Parallel()
	grant := func(id channel.ID, bytes uint64, amount channel.Amount) agent.TokenGrant {
		return agent.TokenGrant{Token: agent.NewToken([32]byte{}, id), Bytes: bytes, Amount: amount}
	}
	for name, sell := range map[string]func(channel.ID, agent.TokenRequest) agent.TokenGrant{
		"fewer bytes":       func(id channel.ID, _ agent.TokenRequest) agent.TokenGrant { return grant(id, 100_000, 4_000) },
		"another price":     func(id channel.ID, r agent.TokenRequest) agent.TokenGrant { return grant(id, r.Bytes, 4_001) },
		"another channel's": func(_ channel.ID, r agent.TokenRequest) agent.TokenGrant { return grant(channel.ID{}, r.Bytes, 4_000) },
		"no token":          func(channel.ID, agent.TokenRequest) agent.TokenGrant { return agent.TokenGrant{Token: "\x1b[2J"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t)
			c := &crook{terms: honest, lie: func(r *agent.Reading) { *r = agent.Reading{Paid: r.Paid} }, sell: sell}
			c.listen(t, m)
			p := &prepaid{m: m, offer: c.offer, salt: channel.Hash{1}}
			p.withStore(func(cfg buyer.Config) {
				token, err := buyer.BuyToken(t.Context(), cfg, 1_000_000)
				if !errors.Is(err, buyer.ErrKept) || !strings.Contains(err.Error(), "x402 wallet withdraw") || strings.ContainsRune(err.Error(), '\x1b') {
					t.Errorf("%+v, %v", token, err)
				}
				payer := must(channel.NewPayer(cfg.Store))
				for _, s := range payer.All() {
					if h, err := (buyer.Holdings{Payer: payer, Facilitator: m.fac}).Look(t.Context(), s.ID); err != nil || h.Withdrawing != 100_000 {
						t.Errorf("%+v, %v", h, err)
					}
				}
			})
		})
	}
}
