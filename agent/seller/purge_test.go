package seller

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
)

// paidLine makes the folder of a line to which a buyer has paid an amount, or
// with a note that nobody can read.
func paidLine(t *testing.T, dir string, paid channel.Amount, note []byte) {
	t.Helper()
	p := ledgertest.NewParty(t, ledger.Params{ChainID: 1<<41 + 7, Token: channel.Address{1}, Name: "USDC", Version: "2"}, 1)
	journal, err := channel.OpenJournal(filepath.Join(dir, channelsFolder))
	if err != nil {
		t.Fatal(err)
	}
	payee, err := channel.NewPayee(journal)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := payee.Open(p.Params.Domain(), p.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := payee.Observe(p.ID, 1_000_000, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := payee.Accept(p.Voucher(paid), note); err != nil {
		t.Fatal(err)
	}
	if err := journal.Close(); err != nil {
		t.Fatal(err)
	}
}

func soldNote(t *testing.T) []byte {
	t.Helper()
	note, err := agent.Tally{Session: 1, Price: agent.Price{Up: 4_000_000_000, Down: 4_000_000_000}, Up: 100_000, Ended: true}.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return note
}

// TestPurge sums up over all lines, those that the config has no more included.
func TestPurge(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	paidLine(t, state, 100_000, soldNote(t))
	paidLine(t, lineDir(state, "490154203237518"), 20_000, soldNote(t))
	paidLine(t, lineDir(state, "odd"), 3_000, []byte("no tally"))
	err := Purge(state, false)
	if e, ok := errors.AsType[*UnclaimedError](err); !ok || e.Channels != 3 || e.Amount != 123_000 {
		t.Errorf("%v, want 0.123 USD of 3 channels", err)
	}
	for _, folder := range []string{state, lineDir(state, "490154203237518"), lineDir(state, "odd")} {
		if _, err := os.Stat(filepath.Join(folder, channelsFolder, "journal")); err != nil {
			t.Errorf("a refused purge removed something: %v", err)
		}
	}

	held, err := channel.OpenJournal(filepath.Join(lineDir(state, "odd"), channelsFolder))
	if err != nil {
		t.Fatal(err)
	}
	if err := Purge(state, true); !errors.Is(err, channel.ErrInUse) {
		t.Errorf("with a line in use: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(filepath.Join(state, channelsFolder, "journal"), []byte(strings.Repeat("x", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Purge(state, false); !errors.Is(err, channel.ErrCorrupt) {
		t.Errorf("with a damaged journal: %v", err)
	}
	// A link in it is removed, and not what it leads to.
	other := filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(other, nil, 0o600), os.Symlink(dir, filepath.Join(state, linesFolder, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := Purge(state, true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	if err := Purge(state, false); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}
