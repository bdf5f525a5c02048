package agent_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// kept are the receipts of a market's buyer.
func (m *market) kept() *buyer.Receipts {
	return &buyer.Receipts{Path: filepath.Join(m.dir, "receipts")}
}

// receipted buys, and keeps receipts.
func (m *market) receipted(change func(*buyer.Config)) *purchase {
	m.t.Helper()
	return m.buy(func(c *buyer.Config) {
		c.Receipts = m.kept()
		if change != nil {
			change(c)
		}
	})
}

// receipts are both sides' receipts of a channel, all of which must be good: the
// buyer's, and the seller's when it has as many as it is to have.
func (m *market) receipts(id channel.ID, most int) (bought, sold []agent.KeptReceipt) {
	m.t.Helper()
	good := func(all []agent.KeptReceipt, broken int, err error) []agent.KeptReceipt {
		if err != nil || broken > 0 {
			m.t.Fatal(err, broken)
		}
		all = slices.DeleteFunc(all, func(r agent.KeptReceipt) bool { return r.Channel() != id })
		for _, r := range all {
			if err := r.Verify(); err != nil {
				m.t.Error(err)
			}
		}
		return all
	}
	until(m.t, "the seller has the receipts", func() bool {
		sold = good(seller.Receipts(m.cfg.StateDir, ""))
		return len(sold) >= most
	})
	return good(m.kept().All()), sold
}

// agreed holds both sides' receipts against each other, and the last against the
// purchase. There are n, of which nothing is unpaid.
func (m *market) agreed(p *purchase, n int) []agent.KeptReceipt {
	m.t.Helper()
	bought, sold := m.receipts(p.id, n)
	if len(bought) != n || len(sold) != n {
		m.t.Fatalf("the buyer has %d receipts, the seller %d, want %d", len(bought), len(sold), n)
	}
	sum := channel.Amount(0)
	for i, r := range bought {
		if !r.Same(sold[i].Receipt) {
			m.t.Errorf("%d: bought %+v\nsold %+v", i, r, sold[i])
		}
		if r.Note != "" {
			m.t.Errorf("note: %s", r.Note)
		}
		amount, unpaid := r.Amounts()
		if sum += amount; unpaid != 0 {
			m.t.Errorf("of session %d %d are unpaid", r.Total.Session, unpaid)
		}
	}
	last := bought[n-1].Total
	owed := must(last.Owed())
	if r := p.result; last.Up != r.Up || last.Down != r.Down || owed != r.Owed || sum != owed || bought[n-1].Max != r.Signed {
		m.t.Errorf("the receipts come to %+v, %d owed, %d in sum; the purchase to %+v", last, owed, sum, r)
	}
	return bought
}

// TestReceipts: of each session both sides have the same receipt when it has ended.
func TestReceipts(t *testing.T) {
	t.Parallel()
	m := newMarketOf(t, func(c *seller.Config) { c.Price = agent.Price{Up: 700_000_000, Down: 300_000_001} })
	site := web(t)
	for n, keep := range []bool{true, false} {
		p := m.receipted(func(c *buyer.Config) {
			c.MaxPrice, c.Budget, c.Deposit, c.Keep = 700_000_000, 5_000_000, 2_000_000, keep
		})
		fetch(t, p.through(), site.URL+"/100001", 100_001)
		upload(t, p.through(), site.URL+"/", 50_001)
		p.stop(t)
		m.agreed(p, n+1)
	}
	// A session that only ends the channel has none.
	p := m.receipted(func(c *buyer.Config) { c.CloseOnly = true })
	<-p.done
	if bought, sold := m.receipts(p.id, 2); len(bought) != 2 || len(sold) != 2 {
		t.Errorf("%d and %d receipts", len(bought), len(sold))
	}
}

// TestReceiptOfBrokenSession: that of a session whose connection was lost comes with
// a later one, also if another was between them in which nothing passed.
func TestReceiptOfBrokenSession(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	var n notices
	p := m.receipted(func(c *buyer.Config) { c.OnStatus = n.hear })
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	until(t, "the session is shown", func() bool { return n.status().State == "connected" })
	m.intrude(func() bool { return n.status().State != "connected" })
	until(t, "the buyer is back", func() bool { s := n.status(); return s.State == "connected" && s.Session > 2 })
	fetch(t, p.through(), site.URL+"/100000", 100_000)
	p.stop(t)
	bought, sold := m.receipts(p.id, 2)
	if len(bought) != 2 || len(sold) != 2 || bought[0].Total.Session != 1 || bought[1].Total.Session != 3 {
		t.Fatalf("bought %+v\nsold %+v", bought, sold)
	}
	m.agreed(p, 2)
}

// TestReceiptAfterPowerLoss: the agent's disk is put back to what it was in the
// middle of a session, as a power cut leaves it. At its next start it makes the
// receipt of what it knows, and when the buyer is back of what he has shown.
func TestReceiptAfterPowerLoss(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	var n notices
	p := m.receipted(func(c *buyer.Config) { c.OnStatus, c.Keep = n.hear, true })
	fetch(t, p.through(), site.URL+"/300000", 300_000)
	until(t, "some of it is paid", func() bool { return n.status().Accepted > 0 })
	snapshot := t.TempDir()
	copyFolder(t, m.cfg.StateDir, snapshot)
	p.stop(t)
	m.agent.stop(t)
	m.agreed(p, 1)
	if err := errors.Join(os.RemoveAll(m.cfg.StateDir), os.Rename(snapshot, m.cfg.StateDir)); err != nil {
		t.Fatal(err)
	}
	m.startAgent()
	m.offer()
	if _, sold := m.receipts(p.id, 1); len(sold) != 1 || sold[0].Total.Session != 1 || sold[0].Max == 0 {
		t.Fatalf("after the power cut: %+v", sold)
	}
	p = m.receipted(nil)
	fetch(t, p.through(), site.URL+"/1000", 1_000)
	p.stop(t)
	bought, sold := m.receipts(p.id, 2)
	if len(sold) != 2 || sold[0].Total.Down < 300_000 {
		t.Fatalf("when the buyer was back: %+v", sold)
	}
	if len(bought) != 2 || bought[1].Note != "" || bought[0].Total.Down != sold[0].Total.Down {
		t.Errorf("bought %+v", bought)
	}
}

// copyFolder copies the files of a folder and of those in it.
func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		a, b := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.IsDir():
			if err := os.MkdirAll(b, 0o700); err != nil {
				t.Fatal(err)
			}
			copyFolder(t, a, b)
		case e.Type().IsRegular():
			text, err := os.ReadFile(a)
			if err == nil {
				err = os.WriteFile(b, text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestReceiptOfCrashedBuyer: who lost his record of the session hears from the
// agent what it came to.
func TestReceiptOfCrashedBuyer(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	site := web(t)
	p := m.receipted(func(c *buyer.Config) { c.Keep = true })
	records := filepath.Join(m.dir, "channels.db")
	fetch(t, p.through(), site.URL+"/1000", 1_000)
	before := must(os.ReadFile(records)) // of a file that is being used: the copy of a power cut
	fetch(t, p.through(), site.URL+"/10000", 10_000)
	p.stop(t)
	_, sold := m.receipts(p.id, 1)
	if err := errors.Join(os.WriteFile(records, before, 0o600), os.Remove(filepath.Join(m.dir, "receipts"))); err != nil {
		t.Fatal(err)
	}
	p = m.receipted(func(c *buyer.Config) { c.CloseOnly = true })
	<-p.done
	bought, _ := m.receipts(p.id, 1)
	if len(bought) != 1 || len(sold) != 1 || !bought[0].Same(sold[0].Receipt) {
		t.Errorf("bought %+v\nsold %+v", bought, sold)
	}
}

// TestReceiptWhenAgentStops: an agent that stops gives the receipt before its buyer
// leaves.
func TestReceiptWhenAgentStops(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	var n notices
	p := m.receipted(func(c *buyer.Config) { c.OnStatus, c.Keep = n.hear, true })
	fetch(t, p.through(), web(t).URL+"/100000", 100_000)
	m.agent.stop(t)
	until(t, "the buyer has left", func() bool { return n.status().State == "reconnecting" })
	bought, sold := m.receipts(p.id, 1)
	if len(bought) != 1 || len(sold) != 1 || !bought[0].Same(sold[0].Receipt) || bought[0].Note != "" {
		t.Errorf("bought %+v\nsold %+v", bought, sold)
	}
	m.startAgent()
	until(t, "the buyer is back", func() bool { return n.status().State == "connected" })
	p.stop(t)
}

// TestReceiptOfToken: who closes a token's channel has the receipt of what it came
// to by the agent's count.
func TestReceiptOfToken(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	token := m.token(10_000_000)
	s := m.outsider()
	fetch(t, s.through(token.Token.Token), web(t).URL+"/300000", 300_000)
	up, down := s.up.Load(), s.down.Load()
	token.counted(up, down)
	if _, err := token.close(); err != nil {
		t.Fatal(err)
	}
	bought, sold := m.receipts(token.Channel, 1)
	if len(bought) != 1 || len(sold) != 1 || !bought[0].Same(sold[0].Receipt) || bought[0].Note != "" {
		t.Fatalf("bought %+v\nsold %+v", bought, sold)
	}
	amount, unpaid := bought[0].Amounts()
	if r := bought[0]; r.Total.Up != up || r.Total.Down != down || amount == 0 || amount > r.Max || unpaid != 0 {
		t.Errorf("%+v, %d up and %d down passed", r, up, down)
	}
}

// linesOf is a handler that keeps what is said.
type linesOf struct {
	slog.Handler
	mu   *sync.Mutex
	said *[]string
}

func (l linesOf) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.Value.String()
		return true
	})
	*l.said = append(*l.said, text)
	return l.Handler.Handle(ctx, r)
}

func (l linesOf) WithAttrs(a []slog.Attr) slog.Handler {
	return linesOf{l.Handler.WithAttrs(a), l.mu, l.said}
}

func (l linesOf) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(*l.said, func(s string) bool { return strings.Contains(s, text) })
}

// trade buys from the crook until something is paid, and ends in order.
func (c *crook) trade(t *testing.T, m *market, log *slog.Logger, kept *buyer.Receipts) error {
	t.Helper()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "channels.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	socks := listen(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		p := &purchase{socks: socks.Addr().String()}
		res, err := p.through().Post("http://sink.test/", "application/octet-stream", strings.NewReader(strings.Repeat("x", 100_000)))
		if err == nil {
			res.Body.Close()
		}
	})
	_, err = buyer.Run(ctx, buyer.Config{
		Key: m.wallet, Store: store, Offer: c.offer, Budget: 1_000_000, MaxPrice: 5_000_000, SOCKS: socks, Keep: true, Logger: log, Receipts: kept,
		OnStatus: func(s buyer.Status) {
			if s.Up >= 100_000 && s.Accepted > 0 {
				cancel()
			}
		},
	})
	return err
}

// TestReceiptsOfLiars: what a receipt says that was not counted is said at once and
// noted, and what proves nothing is not kept; the purchase goes on.
func TestReceiptsOfLiars(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	for name, tt := range map[string]struct {
		lie   func(*agent.Receipt)
		steal bool // another than the agent signs
		say   string
		kept  bool
	}{
		"more bytes":       {func(r *agent.Receipt) { r.Total.Down += 1_000_000 }, false, " bytes up and 1000000 down, counted were 100", true},
		"another price":    {func(r *agent.Receipt) { r.Total.Price.Down++ }, false, "the price or the beginning of session 1 is not that of its terms", true},
		"a base":           {func(r *agent.Receipt) { r.Total.Base++ }, false, "the price or the beginning of session 1", true},
		"an older voucher": {func(r *agent.Receipt) { r.Max, r.Voucher = 0, channel.Signature{} }, false, "it names a voucher for 0.00 USD", true},
		"another session":  {func(r *agent.Receipt) { r.Total.Session = 7 }, false, "it is of session 7, this is session 1", true},
		"another channel":  {func(r *agent.Receipt) { r.Config.Salt[0]++; r.Max, r.Voucher = 0, channel.Signature{} }, false, "worth nothing receipt: of another channel", false},
		"another's":        {func(r *agent.Receipt) {}, true, "worth nothing receipt: signed by", false},
		"a false voucher":  {func(r *agent.Receipt) { r.Max++ }, false, "worth nothing receipt: its voucher", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &crook{lie: func(*agent.Reading) {}, terms: func(h agent.Hello) agent.Terms {
				terms := honest(h)
				terms.Receipts = true
				return terms
			}}
			c.receipt = func(r agent.Receipt) agent.Receipt {
				tt.lie(&r)
				key := c.device
				if tt.steal {
					key = must(channel.GenerateKey())
				}
				return r.Sign(key)
			}
			c.net.HandleTCP("sink.test:80", func(far *tunneltest.Conn) { _, _ = io.Copy(io.Discard, far) })
			c.listen(t, m)
			said := linesOf{m.log.Handler(), new(sync.Mutex), new([]string)}
			kept := &buyer.Receipts{Path: filepath.Join(t.TempDir(), "receipts")}
			if err := c.trade(t, m, slog.New(said), kept); err != nil {
				t.Error(err)
			}
			all, _, err := kept.All()
			if err != nil || (len(all) == 1) != tt.kept || tt.kept && !strings.Contains(all[0].Note, tt.say) || !said.has(tt.say) {
				t.Errorf("kept %+v, %v; said %q", all, err, *said.said)
			}
		})
	}
}
