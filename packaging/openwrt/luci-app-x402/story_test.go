package luci_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// zeroTime tells browsers nothing of a file's age.
var zeroTime time.Time

// payTo is EIP-55's first example.
const payTo = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"

// hostile is the name of a network that would like to be HTML.
const hostile = "<img src=x onerror=alert(1)>"

// pictures is where pictures of the pages are kept, "" if they are not.
func pictures() string { return os.Getenv("X402_PICTURES") }

// operator is the name of the network; in pictures it is a usual one.
func operator() string {
	if pictures() != "" {
		return "Demo Mobile"
	}
	return hostile
}

// A screen is a page and what is done on it; the first error ends the test.
type screen struct {
	*page
	t    *testing.T
	host *host
}

func newScreen(t *testing.T, h *host, b *browser) *screen {
	t.Helper()
	p, err := b.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &screen{p, t, h}
}

func (s *screen) do(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err, "\n", s.b.complaints())
	}
}

func (s *screen) visit(view string) {
	s.t.Helper()
	s.do(s.page.visit(s.host.URL + "/cgi-bin/luci/admin/services/x402/" + view))
}

func (s *screen) until(condition string) {
	s.t.Helper()
	s.do(s.page.until(condition))
}

// says waits until an element's text contains some.
func (s *screen) says(selector, text string) {
	s.t.Helper()
	s.until(fmt.Sprintf("document.querySelector(%q).textContent.includes(%q)", selector, text))
}

func (s *screen) click(selector string) {
	s.t.Helper()
	s.until(fmt.Sprintf("document.querySelector(%[1]q) && !document.querySelector(%[1]q).disabled", selector))
	s.do(s.eval(fmt.Sprintf("document.querySelector(%q).click()", selector), nil))
}

func (s *screen) fill(selector, text string) {
	s.t.Helper()
	s.do(s.eval(fmt.Sprintf("{ const i = document.querySelector(%q); i.value = %q; for (const e of ['input', 'change']) i.dispatchEvent(new Event(e, { bubbles: true })); }", selector, text), nil))
}

// narrow looks at the page as a phone shows it, light and dark: nothing is wider
// than that, and texts can be read. With X402_PICTURES it keeps pictures.
func (s *screen) narrow(name string) {
	s.t.Helper()
	for _, dark := range []bool{false, true} {
		s.do(s.size(360, dark))
		s.until("document.documentElement.scrollWidth <= 360") // it may not be laid out anew yet
		var contrast float64
		s.do(s.eval(contrastScript, &contrast))
		if contrast < 4.5 {
			s.t.Errorf("%s, dark %v: a contrast of %.1f, want 4.5 (WCAG 2.2, 1.4.3)", name, dark, contrast)
		}
		kind := map[bool]string{false: "-light", true: "-dark"}
		s.keep(name + kind[dark])
	}
	s.do(s.size(1000, false))
	s.keep(name + "-wide")
}

// contrastScript is the least contrast of a text of the app's with what is
// behind it.
const contrastScript = `(() => {
	const rgb = (c) => c.match(/[\d.]+/g).map((v, i) => c.startsWith('color(srgb') && i < 3 ? 255 * v : +v);
	const lum = (c) => [0.2126, 0.7152, 0.0722].reduce((s, w, i) => { const v = c[i] / 255; return s + w * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
	const behind = (n) => { for (; n; n = n.parentElement) { const c = rgb(getComputedStyle(n).backgroundColor); if (c.length < 4 || c[3] > 0.5) return c; } return matchMedia('(prefers-color-scheme: dark)').matches ? [34, 34, 34] : [255, 255, 255]; };
	const all = Array.from(document.querySelectorAll('.x402 p, .x402 dt, .x402 dd, .x402 li, .x402 td, .x402 h4, .x402-state span, .x402-log div')).filter((n) => n.textContent.trim() && n.offsetParent);
	return Math.min(...all.map((n) => { const [a, b] = [lum(rgb(getComputedStyle(n).color)), lum(behind(n))].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); }), 21);
})()`

func (s *screen) keep(name string) {
	if pictures() == "" {
		return
	}
	b, err := s.picture()
	s.do(errors.Join(err, os.WriteFile(filepath.Join(pictures(), name+".png"), b, 0o600)))
}

// TestStory sets a router up, from the first page to the first sale, and then
// uses every page.
func TestStory(t *testing.T) {
	b := openBrowser(t)
	m := openMarket(t)
	h := newHost(t, m.newRouter())
	s := newScreen(t, h, b)
	s.do(s.size(1000, false))
	s.setUp(m)
	var st struct{ Agent string }
	if err := m.ask("status", &st); err != nil {
		t.Fatal(err)
	}
	who := m.buy(st.Agent)
	who.fetch(t, 2_000_000)
	s.says("#x402-progress", "First sale: you are paid ✓")
	s.narrow("sale")
	s.watch(who)
	s.steer(m, who)
	s.change(m)
	s.again(m)
	s.read()
	s.translated()
	if text := b.complaints(); text != "" {
		t.Errorf("the browser complains:\n%s", text)
	}
}

// setUp goes through the set-up, with every slip that it should notice.
func (s *screen) setUp(m *market) {
	s.visit("setup")
	s.narrow("consent")
	s.click("#x402-next")
	s.says("#x402-wizard", "Selling needs your consent")
	for i := range 3 {
		s.click(fmt.Sprintf("#x402-agree-%d", i))
	}
	s.click("#x402-next")

	for text, fault := range map[string]string{
		"0x12": "40 digits", strings.ToLower(payTo): payTo, "0x" + strings.Repeat("0", 40): "lost", strings.Replace(payTo, "aA", "aa", 1): "checksum is wrong",
	} {
		s.fill("#x402-payto", text)
		s.click("#x402-next")
		s.says("#x402-payto-fault", fault)
	}
	s.fill("#x402-payto", payTo)
	s.click("#x402-next")

	s.says("#x402-wizard", "Facilitator and relay")
	s.fill("#x402-relay", "relay")
	s.click("#x402-next")
	s.says("#x402-relay-fault", "relay.example.org")
	s.fill("#x402-relay", m.relay)
	s.fill("#x402-facilitator", "http://127.0.0.1:1")
	s.click("#x402-next")
	s.says("#x402-facilitator-fault", "no answer")
	s.fill("#x402-facilitator", m.facilitator)
	s.click("#x402-next")

	s.says("#x402-wizard", "Size of the plan")
	s.fill("#x402-size", "20")
	s.click("#x402-next")
	s.says("#x402-size-fault", "20 GB")
	s.fill("#x402-size", "20 GB")
	s.fill("#x402-day", "32")
	s.fill("#x402-used", "1.5 GB")
	s.fill("#x402-reserve", "21 GB")
	s.click("#x402-next")
	s.says("#x402-day-fault", "1 to 31")
	s.fill("#x402-day", "12")
	s.click("#x402-next")
	s.says("#x402-reserve-fault", "Nothing would be left")
	s.fill("#x402-reserve", "5 GB")
	s.narrow("plan")
	s.click("#x402-next")

	s.says("#x402-market", "3.00 USD") // the rival's
	s.fill("#x402-price", "0")
	s.click("#x402-next")
	s.says("#x402-price-fault", "given away")
	s.fill("#x402-price", "2.50")
	s.narrow("price")
	s.click("#x402-back")
	s.says("#x402-wizard", "Size of the plan")
	s.fill("#x402-used", "1.5 GB")
	s.click("#x402-next")
	s.fill("#x402-price", "2.50")
	s.click("#x402-next")

	s.says("#x402-wizard", "Turn on")
	s.says("#x402-wizard", "None is found now") // on USB; the one that is played is set
	s.until(fmt.Sprintf("document.querySelector('#x402-modem').value === %q", m.tty))
	s.fill("#x402-modem", "auto")
	s.until("!document.querySelector('#x402-interface').offsetParent")
	s.fill("#x402-modem", m.tty)
	s.click("#x402-next")
	s.says("#x402-interface-fault", "such as wwan0")
	s.fill("#x402-interface", "lo")
	s.narrow("summary")
	s.host.router.put("agent", "listen", "nonsense") // somebody's slip beside the pages
	s.click("#x402-next")
	s.says("#x402-note", "The agent does not run")
	s.says("#x402-note", "listen: ")
	s.host.router.put("agent", "listen", "127.0.0.1:0")
	s.host.router.uci("apply", nil)
	s.says("#x402-progress", "The agent sells ✓")
}

// watch looks at the status while a buyer is there.
func (s *screen) watch(who *buyer) {
	s.visit("status")
	s.says("#x402-state", "Selling")
	for _, text := range []string{operator(), "262-01", "-95 dBm", "20.0 GB used", "Left to sell", "Kept for the household", "2.50 USD/GB", "connected", "0x5aAeb6…eAed", "served"} {
		s.says("#x402-cards", text)
	}
	s.until("!document.querySelector('#view img')")
	who.fetch(s.t, 3_000_000)
	for n := 2; n < 8 && pictures() != ""; n++ { // so that there is a curve
		s.until(fmt.Sprintf("document.querySelector('.x402-curve').getAttribute('points').split(' ').length >= %d", n))
		who.fetch(s.t, int64(n%3)*1_500_000)
	}
	// What was sold is a part of the gauge, and the parts fill it.
	s.until("document.querySelector('rect.x402-sales') && document.querySelector('rect.x402-free') && document.querySelector('rect.x402-reserve')")
	var width float64
	s.do(s.eval("Array.from(document.querySelectorAll('.x402-gauge rect')).reduce((sum, r) => sum + r.width.baseVal.value, 0)", &width))
	if width < 99 || width > 101 {
		s.t.Errorf("the parts of the gauge fill %.1f%% of it", width)
	}
	s.until("document.querySelectorAll('.x402-plot .x402-dot').length === 2 && Array.from(document.querySelectorAll('.x402-curve')).every((c) => c.getAttribute('points').split(' ').length > 1)")
	s.narrow("status")
}

// An account is what an agent says of its money.
type account struct {
	Earnings struct{ Owed, Paid, Claimed string }
	Price    struct{ Up, Down string }
	Plan     struct{ Used, Entered uint64 }
	PayTo    string
}

// steer corrects the plan, settles, pauses and goes on.
func (s *screen) steer(m *market, who *buyer) {
	s.fill("[aria-label='Used of the plan']", "much")
	s.click("#x402-used")
	s.says("#maincontent", "A size such as 12.3 GB is wanted")
	s.fill("[aria-label='Used of the plan']", "2.5 GB")
	s.click("#x402-used")
	s.says("#maincontent", "2.5 GB of the plan are used: noted")

	s.click("#x402-settle")
	s.says("#maincontent", "USD are claimed")
	var a account
	if err := m.ask("status", &a); err != nil {
		s.t.Fatal(err)
	}
	if a.Earnings.Claimed == "0" || a.PayTo != payTo || a.Price.Down != "2500000" || a.Plan.Entered != 2_500_000_000 {
		s.t.Errorf("the agent says %+v", a)
	}

	for _, slow := range []bool{false, true} { // true: the router does not wait for the end
		s.host.router.hasty(slow)
		s.click("#x402-rotate")
		s.says("#modal_overlay", "is cut off when the address changes")
		s.click("#x402-yes")
		s.says("#maincontent", "The address did not change: the carrier gave the same address again")
		s.do(s.eval("document.querySelectorAll('.alert-message').forEach((n) => n.remove())", nil))
	}

	s.click("#x402-pause")
	s.says("#modal_overlay", "sessions of buyers end")
	s.click("#x402-yes")
	s.says("#x402-state", "Paused")
	if err := m.ask("status", &a); err == nil {
		s.t.Error("the agent runs on")
	}
	s.narrow("paused")
	who.stop(os.Interrupt)
	s.click("#x402-pause")
	s.says("#x402-state", "Selling")
}

// change changes the price and the limits.
func (s *screen) change(m *market) {
	s.visit("policy")
	s.field("price", "per_gb", "cheap")
	s.click(s.saves())
	s.until("document.body.textContent.includes('An amount of USD such as 4.00 is wanted')")
	if s.host.real != "" {
		s.click("#modal_overlay button")
		s.b.forgive("form.js") // LuCI throws what it has shown
	}
	s.field("price", "per_gb", "3.25")
	s.narrow("policy")
	s.apply()
	s.host.router.settled(s.t, func(settings map[string]section) bool { return settings["price"]["per_gb"] == "3.25" })
	s.visit("status")
	s.says("#x402-cards", "3.25 USD/GB")
}

// field enters a setting: LuCI names fields by its own rule.
func (s *screen) field(section, option, text string) {
	s.t.Helper()
	selector := fmt.Sprintf("[id='widget.cbid.x402.%s.%s']", section, option)
	if s.host.real == "" {
		selector = fmt.Sprintf("#cbi-x402-%s [data-name=%s] input", section, option)
	}
	s.until(fmt.Sprintf("document.querySelector(%q)", selector))
	s.fill(selector, text)
	s.do(s.eval(fmt.Sprintf("document.querySelector(%q).dispatchEvent(new Event('blur'))", selector), nil))
}

// again goes through the set-up a second time, with what is set.
func (s *screen) again(m *market) {
	s.visit("setup")
	for _, title := range []string{"Your address", "Facilitator and relay", "Size of the plan"} {
		s.click("#x402-next")
		s.says("#x402-wizard", title)
	}
	s.click("#x402-next")
	s.says("#x402-used-fault", "20 GB") // asked anew
	s.fill("#x402-used", "2.75 GB")
	s.click("#x402-next")
	s.says("#x402-market", "3.00 USD")
	s.click("#x402-next")
	s.says("#x402-wizard", "2.75 GB used")
	s.click("#x402-next")
	s.says("#x402-progress", "First sale: you are paid ✓")
	s.host.router.settled(s.t, func(settings map[string]section) bool { return settings["plan"]["used"] == "2.75 GB" })
}

// saves is the button that keeps a form, and in tests without LuCI applies it.
func (s *screen) saves() string {
	if s.host.real != "" {
		return ".cbi-button-save"
	}
	return ".cbi-button-apply"
}

// apply has what a form says take effect. LuCI's own button for it asks its
// server, which is not here.
func (s *screen) apply() {
	s.t.Helper()
	s.click(s.saves())
	if s.host.real != "" {
		s.until("!document.querySelector('.cbi-button-save').disabled")
		s.do(s.eval("L.require('uci').then((uci) => uci.apply())", nil))
	}
}

// read reads the log.
func (s *screen) read() {
	s.visit("log")
	s.says("#x402-log", "msg=selling")
	s.narrow("log")
	s.fill("[aria-label=Search]", "known at the relay")
	s.until("!document.querySelector('#x402-log').textContent.includes('msg=selling')")
	s.says("#x402-log", "known at the relay")
	s.fill("[aria-label=Search]", "")
	s.fill("[aria-label=Level]", "3")
	s.until("!document.querySelector('#x402-log').textContent.includes('level=INFO')")
}

// translated looks at the pages in each language.
func (s *screen) translated() {
	for _, language := range languages {
		s.host.lang = language
		for view, title := range map[string]string{"status": "X402: selling traffic", "setup": "Sell traffic: set-up", "log": "Log of the agent", "policy": "Policy"} {
			for _, m := range mustParse("po/" + language + "/x402.po") {
				if m.ID == title {
					title = m.Text
				}
			}
			s.visit(view)
			s.says("#view h2", title)
			s.narrow(language + "-" + view)
		}
	}
}
