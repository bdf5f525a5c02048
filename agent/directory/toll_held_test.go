package directory

import (
	"testing"

	"github.com/depinsim/x402/agent"
)

// TestTollHeld refuses a payer whose channel has lost more than he can pay for in
// advance, and bills it to one whom a crash has cut off, up to the credit.
func TestTollHeld(t *testing.T) {
	b := newTollbooth(t, nil)
	p := b.payer(0, 200_000)
	note := must(agent.Tally{Session: 1, Price: b.tariff.PriceOf(), Lost: 260_000, Ended: true}.MarshalBinary())
	must(b.toll.payee.Open(p.domain, p.config))
	must(b.toll.payee.Note(p.id, note))
	if err := p.hello(func(h *agent.Hello) { h.Own.Session = 1 }); code(err) != agent.NoticeRefused {
		t.Errorf("%d bytes are held, and the answer is %v", 260_000, err)
	}
	if err := p.hello(func(h *agent.Hello) { h.Own = agent.Counts{Session: 1, Cut: true} }); err != nil {
		t.Fatal(err)
	}
	if p.terms.Session != 2 || p.terms.Base != 132 || p.terms.BaseDown != 132_000 { // 128 KiB, rounded up
		t.Errorf("terms %+v", p.terms)
	}
}
