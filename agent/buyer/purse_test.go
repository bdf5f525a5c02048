package buyer

import (
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/meter"
)

// TestBaseCheck is about what an agent may say is owed from before.
func TestBaseCheck(t *testing.T) {
	cheap, dear := agent.Price{Up: 1000, Down: 1000}, agent.Price{Up: 5000, Down: 5000}
	ended := memory{tally: agent.Tally{Session: 3, Price: cheap, Base: 500, Down: agent.GB, Ended: true}} // owes 1500
	crashed := ended
	crashed.tally.Ended = false
	helloed, first := ended.begun(dear), memory{}.begun(dear) // and then a crash
	if helloed.tally.Session != 3 || helloed.tally.Price != cheap || helloed.ceiling != ended.ceiling {
		t.Errorf("a hello changes %+v to %+v", ended, helloed)
	}
	if note, err := first.marshal(); err != nil {
		t.Error(err)
	} else if stored := (memory{}); stored.unmarshal(note) != nil || !stored.cut() {
		t.Errorf("stored as %+v", stored)
	}
	termless, err := ended.remember(meter.Reading{UpTCP: agent.GB, DownTCP: agent.GB}, dear) // 10,000 more
	if err != nil {
		t.Fatal(err)
	}
	more, err := termless.remember(meter.Reading{DownTCP: agent.GB}, cheap) // at most 5,000 more
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name                 string
		mem                  memory
		base, signed, proven channel.Amount
		baseDown             uint64
		refused              bool
	}{
		{name: "own count", mem: ended, base: 1500, signed: 1500, proven: 1500},
		{name: "over it", mem: ended, base: 1501, signed: 1500, proven: 1500, refused: true},
		{name: "the new price for old bytes", mem: ended, base: 5500, signed: 1500, proven: 1500, refused: true},
		{name: "a payment in advance", mem: ended, base: 50_000, signed: 50_000, proven: 50_000, refused: true},
		{name: "after a crash", mem: crashed, base: 3000, signed: 1500, proven: 1500},
		{name: "far over it after a crash", mem: crashed, base: 60_000, signed: 1500, proven: 1500, refused: true},
		{name: "after a crash behind the hello", mem: helloed, base: 3000, signed: 1500, proven: 1500},
		{name: "far over it then", mem: helloed, base: 60_000, signed: 1500, proven: 1500, refused: true},
		{name: "after a crash behind the first hello", mem: first, base: 100},
		{name: "far over it then too", mem: first, base: 60_000, refused: true},
		{name: "nothing known", base: 1, refused: true},
		{name: "records lost", base: 9000, proven: 9000},
		{name: "records lost, over the voucher", base: 9001, proven: 9000, refused: true},
		{name: "an old copy of the records", mem: ended, base: 9000, signed: 1500, proven: 9000},
		{name: "a session without terms", mem: termless, base: 11_500, signed: 1500},
		{name: "over it too", mem: termless, base: 11_501, signed: 1500, refused: true},
		{name: "two sessions without terms", mem: more, base: 16_500, signed: 1500},
		{name: "totals that overflow", mem: ended, base: 1500, signed: 1500, baseDown: 1 << 63, refused: true},
	} {
		terms := agent.Terms{Version: agent.ProtocolVersion, Session: 4, Price: dear, Base: test.base, BaseDown: test.baseDown}
		if err := test.mem.check(terms, dear, test.signed, test.proven); (err != nil) != test.refused {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
