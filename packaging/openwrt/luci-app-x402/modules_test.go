package luci_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/sha3"
)

// TestModules has a page compute what the app computes by itself: addresses with
// their checksums, beside another implementation of Keccak, amounts and sizes.
func TestModules(t *testing.T) {
	b := openBrowser(t)
	h := newHost(t, &router{dir: t.TempDir(), rights: rights(t), bin: "nowhere", staged: map[string]section{}})
	s := newScreen(t, h, b)
	s.visit("status")
	s.says("#x402-state", "Paused")
	s.do(s.eval("(window.L && L.require ? L.require : load)('view.x402.status').then((view) => view.show("+twoSIMs+"))", nil))
	for _, text := range []string{"one", "two", "the SIM is abroad", "Another modem", "0.02 USD"} {
		s.says("#view", text)
	}
	s.until("Array.from(document.querySelectorAll('.x402-card button')).map((b) => b.textContent).join() === 'Sell this SIM'")
	s.until("Array.from(document.querySelectorAll('.x402-head option'), (o) => o.value).join() === 'one,two' && document.querySelector('.x402-head select').offsetParent")
	s.do(s.eval("L.hasViewPermission = () => false", nil))
	s.do(s.eval("(window.L && L.require ? L.require : load)('view.x402.status').then((view) => view.show("+twoSIMs+"))", nil))
	s.until("Array.from(document.querySelectorAll('.x402-head button')).every((b) => b.disabled)")
	s.visit("policy")
	s.do(s.eval("(async () => { const get = (n) => (window.L && L.require ? L.require(n) : load(n)); window.address = await get('x402.address'); window.words = await get('x402.words'); window.market = await get('x402.market'); })()", nil))
	for range 20 {
		var a [20]byte
		if _, err := rand.Read(a[:]); err != nil {
			t.Fatal(err)
		}
		want := checksummed(hex.EncodeToString(a[:]))
		var got string
		s.do(s.eval(fmt.Sprintf("address.checksummed('0x%x')", a), &got))
		if got != want {
			t.Errorf("0x%x: %s, want %s", a, got, want)
		}
	}
	for script, want := range map[string]string{
		"address.fault('" + payTo + "')":                                 "null",
		"address.fault('" + strings.ToLower(payTo) + "')":                "bare",
		"address.fault('0x" + strings.ToUpper(payTo[2:]) + "')":          "bare",
		"address.fault('" + strings.Replace(payTo, "aA", "aa", 1) + "')": "checksum",
		"address.fault('" + payTo[:41] + "')":                            "form",
		"address.fault('0x" + strings.Repeat("0", 40) + "')":             "zero",
		"words.usd('0')":                    "0.00",
		"words.usd('1')":                    "0.000001",
		"words.usd('2500000')":              "2.50",
		"words.usd('18446744073709551615')": "18446744073709.551615",
		"words.atomic('4.00')":              "4000000",
		"words.atomic('0.0000001')":         "null",
		"words.atomic('-1')":                "null",
		"words.size(999)":                   "999 B",
		"words.size(1999999)":               "1.9 MB",
		"words.bytes('12.5 GB')":            "12500000000",
		"words.bytes('12,5 GB')":            "null",
		"words.bytes('1e3 GB')":             "null",
		"words.rate(125000)":                "1.0 Mbit/s",
		"market.isRelay('[2001:db8::1]:4433#" + strings.Repeat("0f", 32) + "')": "true",
		"market.isRelay('relay.example:4433#x')":                                "false",
		"market.isRelay('a b:1')":                                               "false",
		"market.kinds(null).length":                                             "0",
		"market.kinds({ kinds: [null, 1, {}, { x402Version: 2, scheme: 'batch-settlement', network: 'eip155:1', extra: { asset: 'x', name: 'n', version: '1' } }] }).length": "0",
		"market.summary({ offers: [null, {}, { offer: { offer: { price: { up: '1e9', down: '1' } } } }] }, { network: 'n' })[0].textContent":                                 "Not known: nobody else sells at this relay for this asset. You are the first.",
	} {
		var got string
		s.do(s.eval("String("+script+")", &got))
		if got != want {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
	}
	if text := b.complaints(); text != "" {
		t.Errorf("the browser complains:\n%s", text)
	}
}

// twoSIMs is the status of an agent with two.
const twoSIMs = `{"sims":[
	{"name":"one","problems":[],"sessions":[],"modem":{"port":"/dev/ttyUSB2","sim":"ready","signal":{"RSSI":-71,"RSCP":0,"RSRP":0},"maker":"One","age":1,"roaming":false},"rotation":{"changed":0,"failed":0}},
	{"name":"two","refusing":"the SIM is abroad","problems":[],"sessions":[],"modem":{"port":"/dev/ttyUSB6","sim":"ready","signal":{"RSSI":0,"RSCP":0,"RSRP":0},"maker":"Another","model":"modem","age":1,"roaming":true,"withheld":true},"rotation":{"changed":0,"failed":0}}],
	"problems":[{"what":"two: the SIM is abroad: nothing is sold","do":"set plan.roaming"}],"payTo":"` + payTo + `","sessions":[],"earnings":{"channels":[],"up":1,"down":2,"owed":"20000","paid":"20000","claimed":"0","lost":0}}`

// checksummed writes an address of 40 digits with its checksum (EIP-55).
func checksummed(digits string) string {
	h := sha3.NewLegacyKeccak256()
	_, _ = io.WriteString(h, digits) // a hash takes all
	sum := hex.EncodeToString(h.Sum(nil))
	out := []byte(digits)
	for i, c := range out {
		if c >= 'a' && sum[i] >= '8' {
			out[i] = c - 'a' + 'A'
		}
	}
	return "0x" + string(out)
}
