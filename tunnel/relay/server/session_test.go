package server

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/path"
	"github.com/depinsim/x402/tunnel/relay"
)

func testSession(t testing.TB) *session {
	t.Helper()
	s := &session{created: time.Now(), agent: testAgent(1), source: tunnel.SourceOf(netip.MustParseAddr("192.0.2.1"))}
	for _, b := range [][]byte{s.id[:], s.places[0].token[:], s.places[1].token[:]} {
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func testCookies() *cookies { return &cookies{secret: [32]byte{1}} }

// A side binds as path.Socket does.
type testSide struct {
	s       *session
	side    int
	from    netip.AddrPort
	counter uint64
	cookie  [path.CookieSize]byte
}

func (b *testSide) key() *path.Key { k := path.Key(b.s.places[b.side].token); return &k }

func (b *testSide) packet() []byte {
	b.counter++
	return path.Bind{Session: path.ID(b.s.id), Counter: b.counter, Cookie: b.cookie}.Append(nil, b.key())
}

// bind sends a Bind, and again with the cookie if it is challenged.
func (b *testSide) bind(t *testing.T, c *cookies, now time.Time) path.Bound {
	t.Helper()
	for range 2 {
		p := b.packet()
		answer, _ := b.s.bind(c, arrival{b.side, b.from, p, now})
		if len(answer) > len(p) {
			t.Fatalf("%d bytes answered %d", len(answer), len(p))
		}
		if ch, err := path.ParseChallenge(answer, b.key()); err == nil && ch.Counter == b.counter {
			b.cookie = ch.Cookie
			continue
		}
		bound, err := path.ParseBound(answer, b.key())
		if err != nil || bound.Counter != b.counter || bound.Self != b.from {
			t.Fatalf("answer %x: %+v, %v", answer, bound, err)
		}
		return bound
	}
	t.Fatal("challenged twice")
	return path.Bound{}
}

func TestBind(t *testing.T) {
	c, s, now := testCookies(), testSession(t), time.Unix(1_000_000, 0)
	s.direct = true
	agent := &testSide{s: s, side: agentSide, from: netip.MustParseAddrPort("198.51.100.1:1000")}
	buyer := &testSide{s: s, side: buyerSide, from: netip.MustParseAddrPort("[2001:db8::2]:2000")}
	if b := agent.bind(t, c, now); b.Peer.IsValid() {
		t.Errorf("the peer is known before it came: %s", b.Peer)
	}
	if b := buyer.bind(t, c, now); b.Peer != agent.from {
		t.Errorf("peer %s", b.Peer)
	}
	// The cookie lasts into the next epoch, and not into the one after.
	counter := buyer.counter
	buyer.bind(t, c, now.Add(cookieEpoch))
	if buyer.counter != counter+1 {
		t.Error("challenged within the next epoch")
	}
	buyer.bind(t, c, now.Add(3*cookieEpoch))
	if buyer.counter != counter+3 {
		t.Error("an old cookie was good")
	}
	// From another address it is challenged, and stays where it was until then.
	old := agent.from
	agent.from = netip.MustParseAddrPort("203.0.113.9:77")
	answer, moved := s.bind(c, arrival{agentSide, agent.from, agent.packet(), now})
	if _, err := path.ParseChallenge(answer, agent.key()); err != nil || moved || s.places[agentSide].addr != old {
		t.Errorf("moved without a challenge: %x, %v", answer, err)
	}
	if b := agent.bind(t, c, now); b.Self != agent.from || s.places[agentSide].addr != agent.from {
		t.Errorf("did not move: %+v", b)
	}
	s.direct = false
	if b := buyer.bind(t, c, now.Add(3*cookieEpoch)); b.Peer.IsValid() {
		t.Errorf("told where the peer is, and must not: %s", b.Peer)
	}
}

// TestForgedBinds: nothing but the owner's fresh packet changes anything, and
// most of the rest is not even answered.
func TestForgedBinds(t *testing.T) {
	c, s, now := testCookies(), testSession(t), time.Unix(1_000_000, 0)
	own := &testSide{s: s, side: agentSide, from: netip.MustParseAddrPort("198.51.100.1:1000")}
	own.bind(t, c, now)
	thief := netip.MustParseAddrPort("203.0.113.66:6")
	good := own.packet()
	cookie := own.cookie
	key := *own.key()
	other := path.Key{9}
	cases := map[string]arrival{
		"nothing":               {agentSide, thief, nil, now},
		"one byte":              {agentSide, thief, []byte{0}, now},
		"truncated":             {agentSide, own.from, good[:len(good)-1], now},
		"longer":                {agentSide, own.from, append(bytes.Clone(good), 0), now},
		"the other side's port": {buyerSide, own.from, good, now},
		"a wrong token":         {agentSide, own.from, path.Bind{Session: path.ID(s.id), Counter: 100, Cookie: cookie}.Append(nil, &other), now},
		"another session":       {agentSide, own.from, path.Bind{Session: path.ID{1}, Counter: 100, Cookie: cookie}.Append(nil, &key), now},
		"a counter from before": {agentSide, own.from, path.Bind{Session: path.ID(s.id), Counter: 1, Cookie: cookie}.Append(nil, &key), now},
		"the last counter":      {agentSide, own.from, path.Bind{Session: path.ID(s.id), Counter: s.places[agentSide].counter, Cookie: cookie}.Append(nil, &key), now},
		"a challenge":           {agentSide, own.from, path.Challenge{Session: path.ID(s.id), Counter: 100}.Append(nil, &key), now},
		"a bound":               {agentSide, own.from, path.Bound{Session: path.ID(s.id), Counter: 100}.Append(nil, &key), now},
		"a probe":               {agentSide, own.from, path.Probe{Path: path.ID(s.id), Counter: 100}.Append(nil, &key, 70), now},
	}
	for i := range path.BindSize - 20 { // flipped anywhere before the padding
		p := bytes.Clone(good)
		p[i] ^= 0x40
		cases["byte "+string(rune('0'+i))] = arrival{agentSide, own.from, p, now}
	}
	for name, a := range cases {
		if answer, moved := s.bind(c, a); answer != nil || moved {
			t.Errorf("%s: answered %x, moved %v", name, answer, moved)
		}
	}
	// A Bind that was overheard is challenged from elsewhere, which helps nobody
	// without the token, and takes nothing from the owner.
	answer, moved := s.bind(c, arrival{agentSide, thief, good, now})
	if _, err := path.ParseChallenge(answer, &key); err != nil || moved || s.places[agentSide].addr != own.from {
		t.Errorf("replayed from elsewhere: %x, %v", answer, moved)
	}
	if answer, _ := s.bind(c, arrival{agentSide, own.from, good, now}); len(answer) != path.BindSize {
		t.Errorf("the owner's own packet: %x", answer)
	}
	if answer, _ := s.bind(c, arrival{agentSide, own.from, good, now}); answer != nil {
		t.Errorf("replayed: %x", answer)
	}
	// Reordered: the older of two is stale.
	first, second := own.packet(), own.packet()
	if answer, _ := s.bind(c, arrival{agentSide, own.from, second, now}); answer == nil {
		t.Error("the second was not answered")
	}
	if answer, _ := s.bind(c, arrival{agentSide, own.from, first, now}); answer != nil {
		t.Error("the first came after the second, and was answered")
	}
}

func FuzzBind(f *testing.F) {
	s, c, now := testSession(f), testCookies(), time.Unix(1_000_000, 0)
	s.places[0].token = relay.Token{1}
	s.id = relay.SessionID{2}
	key := path.Key(s.places[0].token)
	f.Add(path.Bind{Session: path.ID(s.id), Counter: 5}.Append(nil, &key))
	f.Add([]byte{0, 1})
	from := netip.MustParseAddrPort("192.0.2.1:1")
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, moved := s.bind(c, arrival{agentSide, from, b, now})
		if len(answer) > len(b) || moved {
			t.Errorf("%x answered %x, moved %v", b, answer, moved)
		}
	})
}

// TestDeadlines lets simulated time pass.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(Limits{}.withDefaults())
		s := testSession(t)
		if err := tab.add(s); err != nil {
			t.Fatal(err)
		}
		over := func() bool { return len(tab.ended(time.Now())) == 1 }
		time.Sleep(unboundLife)
		s.alive(agentSide, time.Now()) // one side is not enough
		if over() {
			t.Error("over after 60 s exactly")
		}
		time.Sleep(time.Nanosecond)
		if !over() {
			t.Error("an allotment that only one side came to lasts for ever")
		}
		s.alive(buyerSide, time.Now())
		time.Sleep(idleLife - time.Second)
		if over() {
			t.Error("over before its time")
		}
		s.alive(agentSide, time.Now())
		time.Sleep(2 * time.Second)
		if !over() {
			t.Error("the buyer has gone, and it goes on")
		}
		if !tab.remove(s) || tab.remove(s) || tab.get(s.id) != nil || len(tab.perAgent)+len(tab.perSource) != 0 {
			t.Error("not gone")
		}
	})
}

func TestOpening(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	s := testSession(t)
	if s.opens(a, 0xc0, 1200) {
		t.Error("a session that is not open")
	}
	s.open = true
	if s.opens(a, 0x40, 1200) || s.opens(a, 0x80, 1200) || s.opens(a, 0xc0, 1199) || s.opens(a, 0, 1400) {
		t.Error("no QUIC client begins like that")
	}
	if !s.opens(a, 0xc3, 1200) || s.places[buyerSide].addr != a {
		t.Error("a QUIC client")
	}
	if s.opens(b, 0xc3, 1200) || s.places[buyerSide].addr != a {
		t.Error("a second came")
	}
	o := &s.opened
	if !o.allow(buyerSide, 1200, 1) || !o.allow(agentSide, 3600, 3) || o.allow(agentSide, 1, 1) {
		t.Error("three times what came, and no more")
	}
	if !o.allow(buyerSide, 50, 1) || !o.allow(agentSide, 150, 1) || o.allow(agentSide, 1, 1) || o.complete {
		t.Error("again three times")
	}
	if !o.allow(buyerSide, 50, 1) || !o.complete {
		t.Error("three packets are a client that hears")
	}
}

func TestTableLimits(t *testing.T) {
	l := Limits{Sessions: 6, AgentSessions: 3, SourceSessions: 4, AgentQuota: 1000, SourceQuota: 1500}.withDefaults()
	tab := newTable(l)
	put := func(agent byte, src string) (*session, error) {
		s := testSession(t)
		s.agent, s.source = testAgent(agent), tunnel.SourceOf(netip.MustParseAddr(src))
		return s, tab.add(s)
	}
	want := func(err error, text string) {
		t.Helper()
		if (err == nil) != (text == "") || err != nil && err.Error() != text {
			t.Errorf("%v, want %q", err, text)
		}
	}
	var first *session
	for i := range 3 {
		s, err := put(1, "192.0.2.1")
		want(err, "")
		if i == 0 {
			first = s
		}
	}
	_, err := put(1, "192.0.2.2")
	want(err, "the agent has too many sessions")
	second, err := put(2, "192.0.2.1")
	want(err, "")
	_, err = put(2, "192.0.2.1")
	want(err, "you have too many sessions")
	_, err = put(2, "2001:db8::1")
	want(err, "")
	_, err = put(3, "2001:db8::2") // of the same /64
	want(err, "")
	_, err = put(4, "192.0.2.9")
	want(err, "the relay has no room for more sessions")

	crowded := newTable(Limits{AgentSessions: 16, SourceSessions: 100}.withDefaults())
	for i := range 6 {
		s := testSession(t)
		if err := crowded.add(s); (err == nil) != (i < 4) {
			t.Errorf("session %d of one source with one agent: %v", i, err)
		}
	}
	for _, s := range crowded.all() {
		crowded.remove(s)
	}
	if len(crowded.perPair) != 0 {
		t.Error("pairs stay")
	}

	// Quotas: what is booked once counts once, also when the session ends.
	now := time.Now()
	first.bytes.Store(600)
	tab.ended(now)
	tab.ended(now)
	tab.remove(first)
	_, err = put(1, "192.0.2.8")
	want(err, "")
	second.bytes.Store(900)
	if n := len(tab.ended(now)); n != 3 { // 600 and 900: those of 192.0.2.1, and no agent
		t.Errorf("%d sessions end by the source's quota", n)
	}
	for _, s := range tab.all() {
		tab.remove(s)
	}
	_, err = put(5, "192.0.2.1")
	want(err, "you have used up your quota of the day")
	third, err := put(2, "192.0.2.50")
	want(err, "")
	third.bytes.Store(100)
	if n := len(tab.ended(now)); n != 1 {
		t.Errorf("%d sessions end by the agent's quota", n)
	}
	tab.remove(third)
	_, err = put(2, "192.0.2.51")
	want(err, "the agent has used up its quota of the day")
	tab.ended(now.Add(quotaDay))
	if len(tab.agents)+len(tab.sources) != 0 {
		t.Error("a day later quotas are still used up")
	}
	_, err = put(2, "192.0.2.1")
	want(err, "")
}

func TestLimiter(t *testing.T) {
	l := newLimiter(Rate{10, 10 * time.Second})
	now := time.Unix(1000, 0)
	src := tunnel.SourceOf(netip.MustParseAddr("::ffff:192.0.2.1"))
	if src.String() != "192.0.2.1/32" || tunnel.SourceOf(netip.MustParseAddr("2001:db8:1:2:3::4%eth0")).String() != "2001:db8:1:2::/64" {
		t.Errorf("source %s", src)
	}
	allowed := func(n int, at time.Time) (yes int) {
		for range n {
			if l.allow(src, at) {
				yes++
			}
		}
		return yes
	}
	if n := allowed(100, now); n != 10 {
		t.Errorf("%d at once", n)
	}
	if n := allowed(100, now.Add(3*time.Second)); n != 3 {
		t.Errorf("%d after 3 s", n)
	}
	if n := allowed(100, now.Add(time.Hour)); n != 10 {
		t.Errorf("%d after an hour", n)
	}
	if !l.allow(tunnel.SourceOf(netip.MustParseAddr("192.0.2.2")), now) {
		t.Error("another source")
	}
	// A flood from everywhere is remembered only so far, and shuts nobody out.
	for i := range 3 * maxSources {
		b := [4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}
		if !l.allow(tunnel.SourceOf(netip.AddrFrom4(b)), now.Add(time.Hour)) {
			t.Fatalf("newcomer %d is shut out", i)
		}
	}
	if len(l.full) > maxSources {
		t.Errorf("%d sources remembered", len(l.full))
	}
	c := newCrowd(2, 3)
	other := tunnel.SourceOf(netip.MustParseAddr("192.0.2.2"))
	for i, want := range []bool{true, true, false} {
		if c.enter(src) != want {
			t.Errorf("place %d of a source: not %v", i, want)
		}
	}
	if !c.enter(other) || c.count() != 3 {
		t.Error("another source has no place")
	}
	if c.enter(tunnel.SourceOf(netip.MustParseAddr("192.0.2.3"))) {
		t.Error("more than there is room for")
	}
	c.leave(src)
	if !c.enter(other) || len(c.by) != 2 {
		t.Error("a place was not given back")
	}
}
