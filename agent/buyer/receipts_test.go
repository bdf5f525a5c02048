package buyer

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

func aReceipt(t testing.TB, session, down uint64) agent.Receipt {
	t.Helper()
	key := func(b byte) *channel.Key {
		k, err := channel.ParseKey(bytes.Repeat([]byte{b}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	s, err := channel.NewState(channel.Domain{ChainID: 7, Contract: channel.SettlementContract()}, channel.Config{
		Payer: key(1).Address(), PayerAuthorizer: key(1).Address(), Receiver: channel.Address{2}, ReceiverAuthorizer: key(2).Address(),
		Token: channel.Address{4}, WithdrawDelay: 86400,
	})
	if err != nil {
		t.Fatal(err)
	}
	return agent.NewReceipt(s, agent.Tally{Session: session, Price: agent.Price{Up: 4_000_000, Down: 4_000_000}, Down: down}, 1).Sign(key(2))
}

func downs(t *testing.T, k *Receipts) (down []uint64, broken int) {
	t.Helper()
	all, broken, err := k.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if err := r.Verify(); err != nil {
			t.Error(err)
		}
		down = append(down, r.Total.Down)
	}
	return down, broken
}

// TestReceipts keeps one of each session, by whichever run it came, also behind a
// line that a crash has cut.
func TestReceipts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	for range 2 {
		k := &Receipts{Path: path}
		for _, r := range []agent.Receipt{aReceipt(t, 1, 100), aReceipt(t, 1, 100), aReceipt(t, 2, 300), aReceipt(t, 1, 200), aReceipt(t, 2, 250)} {
			if err := k.Put(r, "a note"); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n != 3 || len(text)/n >= maxReceiptLine/4 {
		t.Errorf("%d lines of %d bytes", n, len(text))
	}
	if down, broken := downs(t, &Receipts{Path: path}); len(down) != 2 || down[0] != 200 || down[1] != 300 || broken != 0 {
		t.Errorf("%d, %d broken", down, broken)
	}
	if err := os.WriteFile(path, text[:len(text)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	k := &Receipts{Path: path}
	if err := k.Put(aReceipt(t, 3, 700), ""); err != nil {
		t.Fatal(err)
	}
	if down, broken := downs(t, k); len(down) != 3 || down[0] != 100 || down[2] != 700 || broken != 1 {
		t.Errorf("behind a cut line: %d, %d broken", down, broken)
	}
}

// TestReadReceipts: what is no receipt is said to be none, and where.
func TestReadReceipts(t *testing.T) {
	kept := []agent.KeptReceipt{{Receipt: aReceipt(t, 1, 100)}, {Receipt: aReceipt(t, 2, 200), Note: "a, \"b\""}}
	asJSON, asCSV := string(agent.AppendReceipts(nil, kept, false)), string(agent.AppendReceipts(nil, kept, true))
	names, _, _ := strings.Cut(asCSV, "\r\n")
	first, _, _ := strings.Cut(asJSON, "\n")
	for name, tt := range map[string]struct {
		text      string
		good, bad int
		fails     string
	}{
		"JSON":             {asJSON, 2, 0, ""},
		"CSV":              {asCSV, 2, 0, ""},
		"of a spreadsheet": {"\ufeff" + strings.ReplaceAll(asCSV, "\r\n", "\n") + "\n\n", 2, 0, ""},
		"empty lines":      {"\n" + strings.ReplaceAll(asJSON, "\n", "\n\n"), 2, 0, ""},
		"more columns":     {strings.ReplaceAll(strings.Replace(asCSV, names, "mine,"+names, 1), "\r\n1970", "\r\nx,1970"), 2, 0, ""},
		"nothing":          {"", 0, 0, ""},
		"not a receipt":    {asJSON + "{}\n", 2, 1, ""},
		"a number":         {strings.Replace(first, `"session":"1"`, `"session":1`, 1), 0, 1, ""},
		"twice":            {strings.Replace(first, `{`, `{"session":"1",`, 1), 0, 1, ""},
		"more behind":      {first + first, 0, 1, ""},
		"cut":              {first[:len(first)-1], 0, 1, ""},
		"columns missing":  {names + "\r\n1,2\r\n", 0, 1, ""},
		"a column twice":   {names + ",signature\r\n", 0, 0, `two columns "signature"`},
		"another file":     {"hello\nthere\n", 0, 0, "no column signature"},
		"endless":          {strings.Repeat("x", 1<<20), 0, 0, "too long"},
	} {
		good, bad := 0, 0
		err := ReadReceipts(strings.NewReader(tt.text), func(_ int, _ agent.KeptReceipt, err error) error {
			if err == nil {
				good++
			} else {
				bad++
			}
			return nil
		})
		if good != tt.good || bad != tt.bad || (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("%s: %d good, %d bad, %v", name, good, bad, err)
		}
	}
}

func FuzzReadReceipts(f *testing.F) {
	kept := []agent.KeptReceipt{{Receipt: aReceipt(f, 1, 100), Kept: 5, Note: "=1,\"2\""}}
	f.Add(agent.AppendReceipts(nil, kept, false))
	f.Add(agent.AppendReceipts(nil, kept, true))
	f.Fuzz(func(t *testing.T, text []byte) {
		ReadReceipts(bytes.NewReader(text), func(_ int, r agent.KeptReceipt, err error) error {
			if err != nil {
				return nil
			}
			again := agent.AppendReceipts(nil, []agent.KeptReceipt{r}, false)
			return ReadReceipts(bytes.NewReader(again), func(_ int, back agent.KeptReceipt, err error) error {
				if err != nil || back.Receipt != r.Receipt || back.Kept != r.Kept {
					t.Errorf("%+v is not %+v: %v", back, r, err)
				}
				return nil
			})
		})
	})
}
